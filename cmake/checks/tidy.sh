#!/usr/bin/env bash
# clang-tidy finds nothing (.clang-tidy lists the checks). Looks at the files that the last commit changed or that are not
# committed yet, then at the others, and starts no new file once TIDY_SECONDS (default: no limit) are over.
# Needs the compile commands of a configured build/dev.
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

self_test() {
  command -v clang-tidy >/dev/null || skip "clang-tidy was not found"
  expect 77 "skipped: build/dev is not configured"
  put .clang-tidy 'Checks: "-*,modernize-use-nullptr"' "WarningsAsErrors: '*'"
  put good.cpp 'int* f() { return nullptr; }'
  put build/dev/compile_commands.json '[{' "\"directory\": \"$PWD\"," '"command": "c++ -c good.cpp",' "\"file\": \"$PWD/good.cpp\"" '}]'
  expect 0 "looked at 1 of 1 files"
  put good.cpp 'int* f() { return 0; }'
  expect 1 "good.cpp:1:"
  expect 0 "looked at 0 of 1 files" TIDY_SECONDS=0
}

start_check "$@"
command -v clang-tidy >/dev/null || skip "clang-tidy was not found"
[[ -f build/dev/compile_commands.json ]] || skip "build/dev is not configured (./run build --preset dev does it)"

tree=$(pwd -P)
mapfile -t compiled < <(sed -n 's/^ *"file": "\(.*\)",\{0,1\}$/\1/p' build/dev/compile_commands.json |
  grep -E '\.(cpp|cc)$' | grep -vF "$tree/build/" | sed "s|^$tree/||" | sort -u)
changed=$(git diff --name-only HEAD~1 2>/dev/null || git ls-files -o --exclude-standard 2>/dev/null) || changed=
mapfile -t ordered < <(
  for file in "${compiled[@]}"; do
    if [[ $'\n'$changed$'\n' == *$'\n'$file$'\n'* ]]; then printf '1 %s\n' "$file"; else printf '2 %s\n' "$file"; fi
  done | sort -s -k1,1 | cut -d' ' -f2-
)

logs=$(mktemp -d) # one log per process: their lines must not mix
trap 'rm -rf "$logs"' EXIT
deadline=$(($(date +%s) + ${TIDY_SECONDS:-1000000}))
# The compile commands are g++'s: flags that clang does not know are no finding.
# shellcheck disable=SC2016 # the inner shell expands them
printf '%s\0' "${ordered[@]}" | xargs -0 -r -n 1 -P "$(nproc)" bash -c '
  (($(date +%s) < $1)) || exit 0
  clang-tidy -quiet -p build/dev --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-optimization-argument \
    "$2" >"$0/$$.log" 2>&1
  touch "$0/$$.done"' "$logs" "$deadline" || true

while IFS= read -r line; do finding "$line"; done < <(
  cat "$logs"/*.log 2>/dev/null | grep -E '^[^ ].*: (error|warning): ' | sed "s|^$tree/||" | sort -u
)
looked=$(find "$logs" -name '*.done' | wc -l)
printf '%s: looked at %d of %d files\n' "$check_name" "$looked" "${#ordered[@]}"
conclude "clang-tidy names the check in brackets; where it is wrong: // NOLINT(check): the reason"
