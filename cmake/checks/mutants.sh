#!/usr/bin/env bash
# Seeded bugs: each patch in tests/mutants/<stem>/ breaks one kernel on purpose, and on the emulator the op's GPU test
# (tests/<stem>_gpu_test.cpp, where there is one) or the checks of its declarative case must fail. Every kernels/*.cu has
# such patches. docs/mutants.md holds the list with what caught each.
#   mutants.sh BUILD [STEM...]            compiles and runs every mutant of a build of the preset dev; 1 when one survives
#   mutants.sh --update BUILD             also writes docs/mutants.md
#   mutants.sh --test BUILD               as one of the tests: all where WEFT_MUTANTS is 1; where it is "changed", those of the ops
#                                         whose files changed since docs/mutants.md was written, which stands for a whole
#                                         run, and of one more op, another each day; else skipped (77)
# A patch starts with a line or more that say what is broken; then a diff with paths a/kernels/... as git makes it.
set -euo pipefail
export LC_ALL=C

update=no
if [[ ${1-} == --update ]]; then
  update=yes
  shift
fi
if [[ ${1-} == --test ]]; then # as one of the tests
  shift
  if [[ -z ${WEFT_MUTANTS:-} ]]; then
    printf 'skipped: takes minutes; set WEFT_MUTANTS=1 to run it\n'
    exit 77
  fi
  if [[ $WEFT_MUTANTS == changed ]]; then
    mapfile -t stems < <(
      cd "$(dirname "$(readlink -f "$0")")/../.."
      since=$(git log -1 --format=%H -- docs/mutants.md 2>/dev/null) || since=
      for folder in tests/mutants/*/; do
        stem=$(basename "$folder")
        [[ -n $since ]] && git diff --quiet "$since" -- "kernels/$stem.h" "kernels/$stem*.cu" "tests/mutants/$stem" \
          "tests/${stem}_gpu_test.cpp" "tests/cases/${stem}_cases.cpp" || printf '%s\n' "$stem"
      done
      folders=(tests/mutants/*/)
      basename "${folders[$((10#$(date +%j) % ${#folders[@]}))]}"
    )
    set -- "$1" "${stems[@]}"
  fi
fi
if (($# == 0)) || [[ ! -f $1/compile_commands.json ]]; then
  printf 'usage: mutants.sh [--update] BUILD [STEM...]\n' >&2
  exit 2
fi
build=$(readlink -f -- "$1")
shift
cd "$(dirname "$(readlink -f "$0")")/../.."
root=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
library=$(find "$build" -maxdepth 2 -name libweft.a | head -n 1)
cases=$build/tests/cases/libweft_cases.a
op_tests=$build/tests/CMakeFiles/weft_op_tests.dir
[[ -n $library ]] || { printf 'mutants: %s has no libweft.a\n' "$build" >&2; exit 2; }

# compile_command FILE: how the build compiles the generated simt_<stem>.cpp, without input and output.
compile_command() {
  awk -v wanted="$1" '
    /"command":/ { command = $0; sub(/^[^:]*: "/, "", command); sub(/",?[ \t]*$/, "", command); gsub(/\\"/, "\"", command) }
    /"file":/ && index($0, wanted "\"") { sub(/ -o [^ ]+/, "", command); sub(/ -c [^ ]+$/, "", command); print command; exit }' \
    "$build/compile_commands.json"
}

# libraries: what the test program links besides the library.
libraries=(-lgtest -lfmt -lz -pthread)
grep -q 'DWEFT_ONEDNN' "$build/compile_commands.json" && libraries+=(-ldnnl -fopenmp)
if grep -q 'DWEFT_CUDA ' "$build/compile_commands.json"; then
  runtime=$(sed -n 's/^CUDA_cudart_static_LIBRARY:[^=]*=//p' "$build/CMakeCache.txt")
  libraries+=("${runtime:-/usr/local/cuda/lib64/libcudart_static.a}" -ldl -lrt)
fi

# first_failure own|case LOG: one line: the name of the first test that failed; for a case, which check of which sample.
first_failure() {
  awk -v test="$1" '
    test == "case" && check == "" && /op_checks\.cpp:[0-9]+: .* on simt: / { check = $0; sub(/^.*op_checks\.cpp:[0-9]+: /, "", check) }
    name == "" && /^\[  FAILED  \] / { name = $0; sub(/^\[  FAILED  \] (Devices\/|Operations\/)?/, "", name); sub(/[^A-Za-z0-9_.\/].*/, "", name) }
    END { print check != "" ? check : name }' "$2"
}

# try_mutant PATCH RESULT: writes "caught|how" or "survived|..." or "broken|why" to RESULT.
try_mutant() {
  local patch=$1 result=$2 stem name folder command log file status=0
  stem=$(basename "$(dirname "$patch")")
  name=$(basename "$patch" .patch)
  folder=$scratch/$stem.$name
  mkdir -p "$folder"
  while IFS= read -r file; do
    mkdir -p "$folder/$(dirname "$file")"
    cp "$root/$file" "$folder/$file"
  done < <(sed -n 's|^+++ b/||p' "$patch")
  if ! (cd "$folder" && GIT_DIR=/nonexistent git apply --unidiff-zero --recount "$root/$patch") 2>"$folder/log"; then
    printf 'broken|the patch does not apply: %s\n' "$(head -n 1 "$folder/log")" >"$result"
    return
  fi
  log=$folder/log
  # The kernels that are patched; where a header is, all of the op.
  local source sources=("$folder"/kernels/*.cu) objects=()
  [[ -f ${sources[0]} ]] || sources=("$root/kernels/$stem"*.cu)
  for source in "${sources[@]}"; do
    file=simt_$(basename "$source" .cu)
    command=$(compile_command "$file.cpp")
    printf '#include "%s"\n' "$source" >"$folder/$file.cpp"
    if ! (cd "$build" && eval "${command/ -I/ -I$folder -I}" -w -c "$folder/$file.cpp" -o "$folder/$file.o") >"$log" 2>&1; then
      printf 'broken|it does not compile: %s\n' "$(grep -m 1 error "$log")" >"$result"
      return
    fi
    objects+=("$folder/$file.o")
  done
  # The op's own test first, which tells more; then the checks that every case goes through.
  local first='' how=survived test filter
  local own=$build/tests/CMakeFiles/weft_tests.dir/${stem}_gpu_test.cpp.o
  for test in own case; do
    if [[ $test == own ]]; then
      [[ -f $own ]] || continue
      filter='*simt*'
      g++ "${objects[@]}" "$own" "$library" "${libraries[@]}" -lgtest_main -o "$folder/test" >"$log" 2>&1 || how=broken
    else
      filter=$("$build/bin/weft_op_tests" --stem "$stem")
      [[ -n $filter ]] || continue
      g++ "${objects[@]}" "$op_tests/ops_test.cpp.o" "$op_tests/support/op_checks.cpp.o" "$cases" "$library" \
        "${libraries[@]}" -o "$folder/test" >"$log" 2>&1 || how=broken
    fi
    if [[ $how == broken ]]; then
      printf 'broken|it does not link: %s\n' "$(grep -m 1 -E 'error|undefined|multiple' "$log")" >"$result"
      rm -rf "$folder"
      return
    fi
    status=0
    (cd "$root" && timeout 300 "$folder/test" --gtest_filter="$filter" --gtest_brief=1 --gtest_fail_fast) >"$log" 2>&1 || status=$?
    ((status)) || continue
    how=caught
    first=$(first_failure "$test" "$log")
    ((status != 124)) || first='it does not end'
    break
  done
  if [[ $how == survived ]]; then
    printf 'survived|\n' >"$result"
  else
    printf 'caught|%s\n' "${first:-crash, status $status}" >"$result"
  fi
  rm -rf "$folder"
}

mapfile -t patches < <(find tests/mutants -name '*.patch' | sort)
if (($#)); then
  wanted=" $* "
  kept=()
  for patch in "${patches[@]}"; do
    [[ $wanted != *" $(basename "$(dirname "$patch")") "* ]] || kept+=("$patch")
  done
  patches=("${kept[@]}")
fi
# A kernel without a seeded bug: nobody knows whether its tests can fail.
if (($# == 0)); then
  for source in kernels/*.cu; do
    stem=$(basename "$source" .cu)
    [[ -f kernels/$stem.h ]] || continue # a second file of an op
    compgen -G "tests/mutants/$stem/*.patch" >/dev/null || { printf 'mutants: %s has no seeded bug in tests/mutants/%s\n' "$source" "$stem" >&2; exit 1; }
  done
fi
((${#patches[@]})) || { printf 'mutants: no patches in tests/mutants\n' >&2; exit 1; }

jobs=0
for i in "${!patches[@]}"; do
  try_mutant "${patches[$i]}" "$scratch/result.$i" &
  if ((++jobs >= $(nproc))); then
    wait -n
    ((jobs -= 1))
  fi
done
wait

bad=0
{
  cat <<'END'
# Seeded bugs, and what catches them

Each patch in `tests/mutants/` breaks a kernel on purpose. `cmake/checks/mutants.sh`, one of the tests, compiles every
broken kernel for the emulator and demands that the op's own test, or the checks of its case ([ops.md](ops.md)), fail. Written by `cmake/checks/mutants.sh --update build/dev`.

| op | mutant | what is broken | caught by |
|---|---|---|---|
END
  for i in "${!patches[@]}"; do
    IFS='|' read -r verdict how <"$scratch/result.$i" || true
    what=$(awk '/^(diff|---) / { exit } NF { line = line (line == "" ? "" : " ") $0 } END { print line }' "${patches[$i]}")
    [[ $verdict == caught ]] || how="**$verdict** $how"
    printf '| %s | %s | %s | %s |\n' "$(basename "$(dirname "${patches[$i]}")")" "$(basename "${patches[$i]}" .patch)" "$what" "$how"
  done
} >"$scratch/mutants.md"
for i in "${!patches[@]}"; do
  IFS='|' read -r verdict how <"$scratch/result.$i" || true
  [[ $verdict == caught ]] && continue
  printf '%s: %s %s\n' "${patches[$i]}" "$verdict" "$how"
  bad=$((bad + 1))
done
[[ $update == no ]] || cp "$scratch/mutants.md" docs/mutants.md
if (($# == 0)) && [[ $bad == 0 ]] && ! diff -u docs/mutants.md "$scratch/mutants.md"; then
  printf 'mutants: docs/mutants.md is not up to date; run cmake/checks/mutants.sh --update %s\n' "$build"
  exit 1
fi
printf 'mutants: %d of %d caught\n' "$((${#patches[@]} - bad))" "${#patches[@]}"
((bad == 0))
