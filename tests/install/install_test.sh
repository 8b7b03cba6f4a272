#!/usr/bin/env bash
# Installs a build, moves what was installed, and builds and runs a project outside against it.
#   install_test.sh BUILD_FOLDER SOURCE_FOLDER COMPILER
set -euo pipefail
export LC_ALL=C

build=$1 source=$2 compiler=$3
project=$(dirname "$(readlink -f "$0")")/project
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
  printf 'install: %s\n' "$1" >&2
  exit 1
}
# quiet COMMAND...: its output only when it fails.
quiet() { "$@" >"$folder/log" 2>&1 || { cat "$folder/log" >&2; fail "failed: $*"; }; }

quiet cmake --install "$build" --prefix "$folder/first" --strip
mkdir "$folder/else where"
mv "$folder/first" "$folder/else where/weft"
installed="$folder/else where/weft"

# Nothing in it knows where it was made, or where it was first installed.
for path in "$source" "$build" "$folder/first"; do
  if grep -rIlF -- "$path" "$installed" >"$folder/found"; then
    fail "these installed files name $path: $(tr '\n' ' ' <"$folder/found")"
  fi
done
[[ -n $(find "$installed" -name weftTargets.cmake) ]] || fail "there is no weftTargets.cmake"
for file in include/weft/weft.h include/weft/tensor/tensor.h share/doc/weft/README.md share/doc/weft/LICENSE; do
  [[ -f $installed/$file ]] || fail "there is no $file"
done
! grep -rlE 'nlohmann|CLI11' "$installed"/lib*/ --include=*.cmake || fail "the package asks for what only weft's own sources need"

quiet cmake -S "$project" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DCMAKE_PREFIX_PATH=$installed" \
  -DCMAKE_CXX_COMPILER="$compiler" "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"
grep -qF "weft_DIR:PATH=$installed/" "$folder/build/CMakeCache.txt" || fail "another weft was found: $(grep ^weft_DIR "$folder/build/CMakeCache.txt")"
quiet cmake --build "$folder/build"
"$folder/build/outside"
