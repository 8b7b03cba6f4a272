#!/usr/bin/env bash
# Tests ./run on a small made-up project, with made-up package tools: nothing is installed, nothing leaves the folder.
#   run_test.sh             runs all
#   run_test.sh --self-test proves that a wrong ./run is noticed
# shellcheck disable=SC2016 # the made-up tools are text here
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
unset "${!WEFT_@}" CMAKE_PREFIX_PATH CUDACXX CUDA_HOME CUDA_PATH CUDAARCHS CXX CXXFLAGS OMP_NUM_THREADS
sandbox=$(mktemp -d)
trap 'rm -rf "$sandbox"' EXIT
chmod 755 "$sandbox"
repo="$sandbox/a project" # with a blank: paths must be quoted everywhere
tools=$sandbox/tools
state=$sandbox/state # one file per package that the made-up dpkg-query calls installed
out=$sandbox/out err=$sandbox/err
group=start groups=0

fail() {
  printf 'run_test: %s: %s\n' "$group" "$1" >&2
  printf -- '--- stdout\n%s\n--- stderr\n%s\n' "$(cat "$out" 2>/dev/null)" "$(cat "$err" 2>/dev/null)" >&2
  exit 1
}

# expect STATUS COMMAND...: runs it with the made-up tools only; keeps what it prints.
expect() {
  local want=$1 status=0
  shift
  PATH=$tools "$@" >"$out" 2>"$err" </dev/null || status=$?
  [[ $status == "$want" ]] || fail "expected status $want, got $status from: $*"
}
out_is() { [[ $(cat "$out") == "$1" ]] || fail "stdout is not '$1'"; }
out_has() { grep -qF -- "$1" "$out" || fail "stdout lacks '$1'"; }
err_has() { grep -qF -- "$1" "$err" || fail "stderr lacks '$1'"; }
err_lacks() { ! grep -qF -- "$1" "$err" || fail "stderr has '$1'"; }
err_empty() { [[ ! -s $err ]] || fail "stderr is not empty"; }
# log_is FILE TEXT: what a made-up tool was called with.
log_is() { [[ $(cat "$sandbox/$1.log" 2>/dev/null) == "$2" ]] || fail "$1 was called with '$(cat "$sandbox/$1.log" 2>/dev/null)', not '$2'"; }
forget() { rm -f "$sandbox"/*.log; }
begin() {
  group=$1
  groups=$((groups + 1))
}

# tool NAME LINE...: a made-up program.
tool() {
  local name=$1
  shift
  rm -f "$tools/$name"
  printf '%s\n' "#!$BASH" "$@" >"$tools/$name"
  chmod +x "$tools/$name"
}

make_tools() {
  local name
  mkdir -p "$tools" "$state" "$sandbox/dev"
  ln -s /usr/bin/* /bin/* "$tools/" 2>/dev/null || true
  for name in apt-get apt sudo nvcc nvidia-smi dpkg-query ccache ctest-log; do rm -f "$tools/$name"; done
  export WEFT_DEV=$sandbox/dev WEFT_RND_BITS=$sandbox/rnd_bits WEFT_CUDA_FOLDER=$sandbox/cuda FAKE=$sandbox
  tool dpkg-query 'for name; do [[ ! -e $FAKE/state/$name ]] || echo "installed $name"; done'
  # The made-up apt-get knows every package but "unknown", and refuses all of them for one that it does not know.
  tool apt-get 'all="$*"; [[ " $all " == *" -s "* ]] || echo "${all##*Use-Pty=0 }" >>"$FAKE/apt-get.log"' \
    '[[ ! -e $FAKE/offline ]] || { echo "E: offline" >&2; exit 100; }' \
    '[[ " $* " != *" unknown"* ]] || { echo "E: Unable to locate package unknown" >&2; exit 100; }' \
    '[[ " $* " == *" install "* && " $* " != *" -s "* ]] || exit 0' \
    'for name; do [[ $name != weft-* ]] || : >"$FAKE/state/$name"; done'
  # cmake is the real one, but its calls for configuring are noted.
  local cmake
  cmake=$(readlink -f "$(command -v cmake)")
  tool cmake '[[ $1 != --preset ]] || echo "${*:2} CUDACXX=${CUDACXX:-}" >>"$FAKE/cmake.log"' "exec '$cmake' \"\$@\""
}

make_project() {
  mkdir -p "$repo/examples/deep" "$repo/cmake"
  cp "$here/run" "$here/CMakePresets.json" "$repo/"
  cp -r "$here/cmake/run" "$repo/cmake/"
  cat >"$repo/packages.txt" <<'END'
# a comment
weft-base  | always | command weft-base-command   | base reason
weft-test  | test   | header weft_test_header.h   | test reason
weft-bench | bench  | file /nowhere/weft-bench    | bench reason
weft-data  | data   | file /nowhere/weft-data     | data reason
END
  touch "$state"/weft-{base,test,bench,data}
  cat >"$repo/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.22)
project(small LANGUAGES CXX)
if(EXISTS ${CMAKE_SOURCE_DIR}/broken.cmake)
  include(${CMAKE_SOURCE_DIR}/broken.cmake)
endif()
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
file(WRITE ${CMAKE_BINARY_DIR}/summary.txt "cuda: ${WEFT_CUDA} because\n")
set(used ${WEFT_BENCH} ${WEFT_EXAMPLES} ${WEFT_TESTS} ${WEFT_WERROR} ${WEFT_SANITIZE} ${A} ${B} ${MINE}
    ${WEFT_CUDA_ARCHITECTURES} ${WEFT_CUDA_ALL_ARCHITECTURES})
add_custom_target(always COMMAND ${CMAKE_COMMAND} -E true)
add_executable(example_hello examples/hello.cpp)
add_dependencies(example_hello always)
set_target_properties(example_hello PROPERTIES OUTPUT_NAME hello)
add_executable(weft_bench examples/hello.cpp)
add_executable(weft_op_tests examples/hello.cpp)
enable_testing()
add_test(NAME LayerNorm.Forward COMMAND ${CMAKE_COMMAND} -E true)
add_test(NAME Linear.Forward COMMAND ${CMAKE_COMMAND} -E true)
END
  cat >"$repo/examples/hello.cpp" <<'END'
// hello: prints its arguments.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
int main(int argc, char** argv) {
  char folder[4096];
  std::printf("%s", getcwd(folder, sizeof folder));
  for (int i = 1; i < argc; ++i) std::printf("|%s", argv[i]);
  std::printf("\n");
  return argc > 1 ? std::atoi(argv[1]) : 0;
}
END
  printf '// deep: lies in a folder.\nint main() {}\n' >"$repo/examples/deep/main.cpp"
  printf 'int main() {}\n' >"$repo/examples/silent.cpp"
}

test_words() {
  begin "command line"
  expect 2 "$repo/run"
  err_has "usage: ./run"
  expect 0 "$repo/run" help
  out_has "usage: ./run"
  expect 0 "$repo/run" list
  out_is $'deep    lies in a folder.\nhello   prints its arguments.\nsilent  (no description: the first line of its main file should be "// silent: ...")'
  expect 2 "$repo/run" helo
  err_has "did you mean: hello"
  expect 2 "$repo/run" tests
  err_has "did you mean: test"
  expect 2 "$repo/run" ../hello
  err_has "no example or command is called '../hello'"
  expect 2 "$repo/run" 'a\q["'
  expect 2 "$repo/run" zzzzzzzzzz
  err_lacks "did you mean"
  expect 2 "$repo/run" --json
  err_has "unknown option '--json'"
  expect 2 "$repo/run" --preset nonsense hello
  err_has "no preset is called 'nonsense' (there are: dev, release, asan, tsan, fuzz, cuda, debug, gpu-portable, release-all)"
  expect 2 "$repo/run" --preset base hello
  expect 2 "$repo/run" --preset
  expect 2 "$repo/run" test -V
  err_has "options for ctest go behind --"
  expect 2 "$repo/run" test a b
  mkdir -p "$repo/tests/fuzz"
  : >"$repo/tests/fuzz/idx_fuzz.cpp"
  expect 2 "$repo/run" fuzz ixd
  err_has "no fuzz target is called 'ixd' (there are: idx)"
  expect 2 "$repo/run" fuzz 10 20
  expect 2 "$repo/run" list --json
  expect 2 "$repo/run" packages nonsense
  expect 2 env WEFT_CUDA=maybe "$repo/run" hello
  err_has "WEFT_CUDA must be AUTO, ON or OFF but is 'maybe'"
  expect 2 env WEFT_JOBS=0 "$repo/run" hello
  err_has "WEFT_JOBS must be a number"
  [[ ! -e $sandbox/apt-get.log ]] || fail "apt-get was called"
}

test_docs() {
  begin "docs"
  expect 2 "$repo/run" docs all
  err_has "docs takes no options but got 'all'"
  rm -f "$tools/doxygen"
  expect 1 "$repo/run" docs
  err_has "doxygen was not found: install the package doxygen"
  mkdir -p "$repo/docs"
  echo 'PROJECT_NAME = small' >"$repo/docs/Doxyfile"
  tool doxygen '{ pwd; cat; } >"$FAKE/doxygen.log"' 'echo noise'
  expect 0 "$repo/run" docs
  out_is ""
  err_has "build/docs/html/index.html"
  log_is doxygen "$repo"$'\nPROJECT_NAME = small\nWARN_IF_UNDOCUMENTED = NO'
  tool doxygen 'exit 3'
  expect 3 "$repo/run" docs
}

test_matrix() {
  begin "matrix"
  forget
  expect 2 "$repo/run" matrix all
  err_has "matrix takes no options but got 'all'"
  expect 0 "$repo/run" matrix
  out_is "$PWD|--matrix"
  log_is cmake "dev -DWEFT_CUDA=OFF CUDACXX="
}

test_verify_partition() {
  begin "verify_partition"
  expect 2 "$repo/run" verify_partition
  err_has "verify_partition needs the name of an example"
  expect 2 "$repo/run" verify_partition --json
  expect 2 "$repo/run" verify_partition helo
  err_has "did you mean: hello"
  expect 2 "$repo/run" verify_partition hello
  err_has "the example 'hello' has no --verify-partition"
  cp "$repo/examples/hello.cpp" "$sandbox/keep"
  echo '// takes "--verify-partition"' >>"$repo/examples/hello.cpp"
  expect 0 "$repo/run" verify_partition hello --json
  out_is "$PWD|--verify-partition|--json"
  cp "$sandbox/keep" "$repo/examples/hello.cpp"
}

# The steps of release-check, with a made-up tidy.sh.
test_release_check() {
  begin "release check"
  forget
  expect 0 "$repo/run" release-check --help
  out_has "usage: ./run release-check"
  expect 2 "$repo/run" release-check --steps tidy,nonsense
  err_has "release-check has no step 'nonsense'"
  expect 2 "$repo/run" release-check all
  err_has "release-check does not know 'all'"
  mkdir -p "$repo/cmake/checks"
  printf '%s\n' "#!$BASH" 'echo "limit ${TIDY_SECONDS-none}"; exit "$(cat "$FAKE/tidy.status")"' >"$repo/cmake/checks/tidy.sh"
  chmod +x "$repo/cmake/checks/tidy.sh"
  echo 77 >"$sandbox/tidy.status"
  expect 0 env TIDY_SECONDS=5 "$repo/run" release-check --steps tidy,bench --out "$sandbox/release"
  out_has "limit none"
  out_has "| tidy | skipped |"
  out_has "| bench | passed |"
  out_has "--benchmark_out=$sandbox/release/bench.json"
  echo 1 >"$sandbox/tidy.status"
  expect 1 "$repo/run" release-check --steps dev,tidy --out "$sandbox/release"
  out_has "| tidy | failed (1) |"
  out_has "| dev | passed |"
  [[ -s $sandbox/release/release_check.md ]] || fail "no table was written"
}

test_example() {
  begin "example"
  forget
  rm -rf "$repo/build"
  mkdir -p "$sandbox/else where"
  ln -sf "$repo/run" "$sandbox/link"
  cd "$sandbox/else where"
  expect 0 "$sandbox/link" hello 0 'a b' '' --json '*'
  out_is "$sandbox/else where|0|a b||--json|*"
  err_has "cuda: OFF because"
  log_is cmake "release -DWEFT_CUDA=OFF CUDACXX="
  expect 7 "$repo/run" hello 7
  err_empty # nothing to configure, nothing to build, nothing missing
  out_is "$sandbox/else where|7"
  log_is cmake "release -DWEFT_CUDA=OFF CUDACXX="
  log_is apt-get ""
  expect 0 "$repo/run" bench norm --shape 8,1
  out_is "$sandbox/else where|--benchmark_filter=norm|--shape|8,1"
  expect 0 "$repo/run" bench --benchmark_list_tests
  out_is "$sandbox/else where|--benchmark_list_tests"
  cd "$sandbox"

  begin "failing build"
  cp "$repo/examples/hello.cpp" "$sandbox/keep"
  echo 'int wrong = "text";' >>"$repo/examples/hello.cpp"
  expect 1 "$repo/run" hello
  out_is ""
  err_has "hello.cpp:13"
  err_has "building example_hello failed (preset release)"
  cp "$sandbox/keep" "$repo/examples/hello.cpp"
  expect 0 "$repo/run" hello
  expect 1 "$repo/run" deep # CMake knows no such target here
  err_has "unknown target 'example_deep'"

  begin "failing configuration"
  echo 'message(FATAL_ERROR "cellar is flooded")' >"$repo/broken.cmake"
  expect 1 env WEFT_CMAKE_ARGS="-DA=1 -DB=2" "$repo/run" hello
  err_has "cellar is flooded"
  expect 1 "$repo/run" hello # must not pass because an older build.ninja lies there
  rm "$repo/broken.cmake"
  echo 'set(probe NOTFOUND CACHE STRING "")' >"$repo/broken.cmake"
  expect 0 "$repo/run" hello
  rm "$repo/broken.cmake"
  forget
  expect 0 env WEFT_CMAKE_ARGS="-DA=1 -DB=2" "$repo/run" hello
  log_is cmake "release -DWEFT_CUDA=OFF -DA=1 -DB=2 CUDACXX="
  ! grep -q '^probe' "$repo/build/release/CMakeCache.txt" || fail "a failed probe is remembered"

  begin "configured by hand"
  rm -rf "$repo/build"
  (cd "$repo" && cmake --preset release -DMINE=1 >/dev/null)
  forget
  expect 0 "$repo/run" hello
  log_is cmake ""
  grep -q '^MINE' "$repo/build/release/CMakeCache.txt" || fail "an option set by hand was lost"
}

test_tests() {
  begin "test"
  forget
  rm -rf "$repo/build"
  expect 0 "$repo/run" test
  log_is cmake "dev -DWEFT_CUDA=OFF CUDACXX="
  out_has "100% tests passed, 0 tests failed out of 2"
  tail -n 3 "$out" | grep -q 'Total Test time' || fail "ctest's closing lines are not the last"
  expect 0 "$repo/run" test layer_norm
  out_has "0 tests failed out of 1"
  expect 0 "$repo/run" test --preset=dev 'L.*Forward' -- -N
  out_has "Total Tests: 2"
  expect 8 "$repo/run" test nothing_like_it
  forget
  expect 0 "$repo/run" test --preset asan
  log_is cmake "asan CUDACXX=" # the preset says WEFT_CUDA=OFF itself
  err_has "cuda: OFF because"
  expect 0 "$repo/run" --preset asan test linear
  out_has "0 tests failed out of 1"

  begin "address randomisation"
  echo 32 >"$WEFT_RND_BITS"
  tool setarch 'shift; [[ $1 == true ]] || echo called >>"$FAKE/setarch.log"; exec "$@"'
  expect 0 "$repo/run" test linear
  log_is setarch ""
  expect 0 "$repo/run" test --preset asan linear -- -N
  out_has "Total Tests: 1"
  log_is setarch called
  tool setarch 'exit 1' # a container that forbids it
  expect 0 "$repo/run" test --preset asan linear
  rm "$WEFT_RND_BITS"
}

test_packages() {
  local reach=(env) # how a test runs as a user who is not root
  begin "packages: installing as root"
  rm -rf "$repo/build"
  if ((EUID == 0)); then
    forget
    rm "$state"/weft-{base,data,bench,test}
    expect 0 "$repo/run" hello
    err_has "weft-base  base reason"
    err_lacks "weft-bench"
    log_is apt-get $'update\ninstall --no-install-recommends weft-base weft-data'
    expect 0 "$repo/run" hello
    err_empty
    expect 0 "$repo/run" bench
    log_is apt-get $'update\ninstall --no-install-recommends weft-base weft-data\nupdate\ninstall --no-install-recommends weft-bench'
    forget
    expect 0 "$repo/run" hello
    err_empty # what bench installed has no header or compiler cache in it: nothing to configure again

    begin "packages: a new library configures again"
    touch "$state/weft-test"
    expect 0 "$repo/run" test # weft-test has a header
    rm "$state/weft-test"
    forget
    expect 0 "$repo/run" test
    log_is apt-get $'update\ninstall --no-install-recommends weft-test'
    expect 0 "$repo/run" test
    err_empty

    begin "packages: apt-get fails"
    rm "$state/weft-data"
    touch "$sandbox/offline"
    forget
    expect 0 "$repo/run" hello
    err_has "apt-get update failed"
    err_has "E: offline"
    err_has "going on without weft-data"
    forget
    expect 0 "$repo/run" hello
    err_has "installing failed before"
    log_is apt-get ""
    touch -d '2 days ago' "$repo/build/packages_failed"
    rm "$sandbox/offline"
    expect 0 "$repo/run" hello
    [[ -e $state/weft-data ]] || fail "not tried again after a day"

    begin "packages: one unknown name"
    cp "$repo/packages.txt" "$sandbox/list"
    echo 'unknown | always | command weft-unknown | never there' >>"$repo/packages.txt"
    rm "$state/weft-data"
    expect 0 "$repo/run" hello
    err_has "E: Unable to locate package unknown"
    err_has "going on without unknown"
    [[ -e $state/weft-data ]] || fail "the known package was not installed"
    expect 1 "$repo/run" packages always
    mv "$sandbox/list" "$repo/packages.txt"
    reach=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  fi

  begin "packages: without root"
  chmod -R a+rwX "$sandbox"
  forget
  rm "$state/weft-data"
  rm -f "$repo/build/packages_failed"
  expect 0 "${reach[@]}" "$repo/run" hello
  err_has "needs root"
  err_has "As root: apt-get install --no-install-recommends weft-data"
  log_is apt-get ""
  tool sudo 'exit 1' # asks for a password, which nobody can type
  expect 0 "${reach[@]}" "$repo/run" hello
  err_has "needs root"
  tool sudo '[[ $1 == -n ]] || exit 9' 'shift' 'echo "$1" >>"$FAKE/sudo.log"' 'exec "$@"'
  expect 0 "${reach[@]}" "$repo/run" hello
  log_is apt-get $'update\ninstall --no-install-recommends weft-data'
  log_is sudo $'true\nenv\nenv'
  rm "$tools/sudo"

  begin "packages: not installing"
  forget
  rm "$state/weft-data"
  expect 0 env WEFT_NO_INSTALL=1 "$repo/run" hello
  err_has "WEFT_NO_INSTALL is set"
  err_has "weft-data  data reason"
  log_is apt-get ""
  mv "$tools/apt-get" "$sandbox/apt-get"
  expect 0 "$repo/run" hello
  err_has "has no apt-get"
  mv "$tools/dpkg-query" "$sandbox/dpkg-query"
  tool weft-base-command true
  expect 0 "$repo/run" packages
  out_has "present  weft-base"
  out_has "missing  weft-test"
  mkdir -p "$sandbox/prefix/include"
  touch "$sandbox/prefix/include/weft_test_header.h"
  expect 0 env CMAKE_PREFIX_PATH="/nowhere:$sandbox/prefix" "$repo/run" packages
  out_has "present  weft-test"
  mv "$sandbox/dpkg-query" "$sandbox/apt-get" "$tools/"
  rm "$tools/weft-base-command" "$tools/ninja"
  expect 1 "$repo/run" hello
  err_has "'ninja' is needed and was not found"
  ln -s "$(command -v ninja)" "$tools/ninja"
  touch "$state/weft-data"
}

test_cuda() {
  begin "CUDA"
  rm -rf "$repo/build"
  forget
  touch "$WEFT_DEV/nvidia3" # a device but no nvcc
  expect 0 "$repo/run" hello
  err_has "nvcc was not found"
  log_is cmake "release -DWEFT_CUDA=OFF CUDACXX="
  expect 0 "$repo/run" hello
  err_empty
  tool nvcc '[[ $1 != --list-gpu-arch ]] || printf "compute_%s\n" 75 80 90'
  tool nvidia-smi '[[ $1 != --query-gpu=compute_cap ]] || printf "%s\n" 9.0 7.0 12.0 9.0'
  forget
  expect 0 "$repo/run" hello
  log_is cmake "release -DWEFT_CUDA=AUTO -DWEFT_CUDA_ARCHITECTURES=90 CUDACXX=$tools/nvcc"
  err_has "(compute capability 7.0) is too old"
  expect 0 "$repo/run" hello
  err_empty
  forget
  expect 0 env WEFT_CUDA=OFF "$repo/run" hello
  log_is cmake "release -DWEFT_CUDA=OFF CUDACXX="
  forget
  expect 0 env WEFT_CUDA=ON CUDAARCHS=80 "$repo/run" hello
  log_is cmake "release -DWEFT_CUDA=ON CUDACXX=$tools/nvcc"
  forget
  expect 0 "$repo/run" --preset cuda hello
  log_is cmake "cuda -DWEFT_CUDA_ARCHITECTURES=90 CUDACXX=$tools/nvcc"
  err_has "cuda: ON because"
  forget
  expect 0 "$repo/run" --preset release-all hello
  log_is cmake "release-all CUDACXX=$tools/nvcc"
  rm "$WEFT_DEV/nvidia3"
  forget
  expect 0 "$repo/run" hello # nvcc without a device
  log_is cmake "release -DWEFT_CUDA=OFF CUDACXX="
  tool nvidia-smi '[[ $1 != -L ]] || echo "GPU 0: made up"' # WSL: no device node
  forget
  expect 0 "$repo/run" hello
  log_is cmake "release -DWEFT_CUDA=AUTO CUDACXX=$tools/nvcc"
  rm "$tools/nvcc" "$tools/nvidia-smi"
}

test_lock() {
  begin "two builds at once"
  expect 0 "$repo/run" hello
  echo "// touched" >>"$repo/examples/hello.cpp"
  flock "$repo/build/release/.run_lock" sleep 1 &
  sleep 0.3
  expect 0 "$repo/run" hello
  err_has "waiting for another build"
  wait
}

test_doctor() {
  begin "doctor"
  rm -rf "$repo/build"
  expect 0 "$repo/run" doctor
  out_has "compiler"
  out_has "nothing is configured yet"
  err_empty
  rm "$state/weft-data"
  expect 0 env WEFT_CUDA=ON "$repo/run" doctor
  out_has "package weft-data (for data) is missing: data reason"
  out_has "WEFT_CUDA=ON (from the environment)"
  expect 1 env WEFT_CUDA=maybe "$repo/run" doctor
  out_has "error: WEFT_CUDA is 'maybe'"
  expect 2 "$repo/run" doctor --xml
  rm "$tools/g++" "$tools/cmake" "$tools/ninja"
  expect 1 "$repo/run" doctor
  out_has "g++ was not found"
  out_has "ninja was not found"
  make_tools
  touch "$state/weft-data"
  sed -i 's/base reason/a "quoted" \\ reason/' "$repo/packages.txt"
  rm "$state/weft-base"
  expect 0 env WEFT_NO_INSTALL=1 "$repo/run" hello
  expect 0 "$repo/run" doctor --json
  [[ $(wc -l <"$out") == 1 ]] || fail "not one line of JSON"
  out_has 'a \"quoted\" \\ reason'
  out_has '"release summary":"cuda: OFF because"'
  if command -v python3 >/dev/null; then
    python3 -c 'import json, sys; json.load(open(sys.argv[1]))["machine"]["CPU"]' "$out" || fail "not valid JSON"
  fi
  [[ ! -e $sandbox/apt-get.log ]] || fail "doctor installs"
}

# .ci/run on a made-up ./run, which prints what ctest would print for the part.
test_ci() {
  begin "CI"
  local ci=$sandbox/ci
  mkdir -p "$ci/.ci" "$ci/cmake/checks"
  cp "$here/.ci/run" "$ci/.ci/"
  printf '%s\n' "#!$BASH" 'case $* in packages*) exit ;; test) part=dev ;; *) part=${*: -1} ;; esac' \
    '[[ ${CI-} == true ]] || exit 9' 'cat "$FAKE/$part.ctest"; exit "$(cat "$FAKE/$part.status")"' >"$ci/run"
  printf '%s\n' "#!$BASH" 'echo "tidy: looked at it"; exit "$(cat "$FAKE/tidy.status")"' >"$ci/cmake/checks/tidy.sh"
  chmod +x "$ci/run" "$ci/cmake/checks/tidy.sh"
  part_gives() { # PART STATUS LINE...
    echo "$2" >"$sandbox/$1.status"
    printf '%s\n' "${@:3}" >"$sandbox/$1.ctest"
  }
  all_well() {
    part_gives dev 0 'gibberish' '100% tests passed, 0 tests failed out of 10' '' 'Total Test time (real) =   0.01 sec' \
      '' 'The following tests did not run:' $'\t  2 - b (Skipped)' $'\t  3 - c (Disabled)'
    part_gives asan 0 '100% tests passed, 0 tests failed out of 5'
    part_gives tsan 0 '100% tests passed, 0 tests failed out of 1'
    part_gives tidy 0
  }
  all_well
  expect 0 bash "$ci/.ci/run"
  tail -n 2 "$out" >"$sandbox/tail"
  [[ $(cat "$sandbox/tail") == $'100% tests passed, 0 tests failed out of 1\n16 passed, 0 failed, 1 skipped' ]] || fail "the last lines are wrong"
  out_has "part dev: 0 s of 1500 s budget: 100% tests passed"
  part_gives tidy 77
  expect 0 bash "$ci/.ci/run"
  out_has "15 passed, 0 failed, 2 skipped"
  part_gives tidy 1
  expect 1 bash "$ci/.ci/run"
  out_has "failed: tidy"
  all_well
  part_gives asan 8 '60% tests passed, 2 tests failed out of 5'
  expect 1 bash "$ci/.ci/run"
  out_has "failed: asan"
  out_has "14 passed, 2 failed, 1 skipped"
  [[ $(tail -n 2 "$out" | head -n 1) == "60%"* ]] || fail "the closing line hides the failure"
  part_gives asan 0 '60% tests passed, 2 tests failed out of 5' # whatever its exit status says
  expect 1 bash "$ci/.ci/run"
  all_well
  part_gives tsan 1 'the compiler is unhappy'
  expect 1 bash "$ci/.ci/run"
  out_has "part tsan: 0 s of 360 s budget: no closing line of ctest"
  out_has "15 passed, 1 failed, 1 skipped"
  part_gives tsan 0 'nothing at all'
  expect 1 bash "$ci/.ci/run"
  part_gives tsan 0 'No tests were found!!!' '100% tests passed, 0 tests failed out of 0'
  expect 1 bash "$ci/.ci/run"
  all_well
  sed -i '2i [[ $* != *tsan ]] || sleep 60' "$ci/run" # a part that hangs is stopped
  sed -i 's/3 \* budget/1/' "$ci/.ci/run"
  expect 1 bash "$ci/.ci/run"
  out_has "STOPPED: took too long"
}

make_tools
make_project
case ${1-} in
  --self-test)
    for mutant in 's/exec "\$root\/build\/\$preset\/bin\/\$name" "\$@"/exec "$root\/build\/$preset\/bin\/$name" $*/' \
      's/^prepare() {/prepare() { echo noise;/' 's/cd "\$root" \&\& cmake/cd "$root" \&\& cmake --fresh/'; do
      cp "$here/run" "$repo/"
      cp "$here"/cmake/run/*.sh "$repo/cmake/run/"
      sed -i "$mutant" "$repo/run" "$repo"/cmake/run/*.sh
      if (test_example) >/dev/null 2>&1; then
        echo "run_test: self-test failed: not noticed: $mutant" >&2
        exit 1
      fi
    done
    echo "run_test: self-test passed"
    ;;
  '')
    test_words
    test_docs
    test_matrix
    test_verify_partition
    test_release_check
    test_example
    test_tests
    test_packages
    test_cuda
    test_lock
    test_ci
    forget
    test_doctor
    printf 'run_test: passed (%d groups)\n' "$groups"
    ;;
  *)
    echo "usage: run_test.sh [--self-test]" >&2
    exit 2
    ;;
esac
