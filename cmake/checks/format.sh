#!/usr/bin/env bash
# The C++ and CUDA sources are laid out as .clang-format says. To mend: clang-format -i FILE.
# One major version only: each lays out some things differently. 14 is there in Debian 12, Ubuntu 22.04 and 24.04
# (in the last as clang-format-14).
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

readonly version=14

self_test() {
  put .clang-format 'BasedOnStyle: Google'
  put good.cpp 'int main() { return 0; }'
  find_tool || skip "$reason"
  expect 0 passed
  put kernels/bad.cu 'int  f( ){return 0;}'
  expect 1 "kernels/bad.cu: "
  put .clang-format 'BasedOnStyle: Nonsense'
  expect 1 ".clang-format"
  put .clang-format 'BasedOnStyle: Google'
  rm kernels/bad.cu
  mkdir tools # every tool but clang-format
  ln -s /usr/bin/* tools
  rm tools/clang-format*
  expect 77 "skipped: clang-format $version was not found" PATH="$PWD/tools"
  printf '%s\n' '#!/bin/sh' 'echo clang-format version 99.0.0' >tools/clang-format
  chmod +x tools/clang-format
  expect 77 "only version 99" PATH="$PWD/tools"
}

# Sets tool, or reason.
find_tool() {
  local candidate found=
  for candidate in "clang-format-$version" clang-format; do
    command -v "$candidate" >/dev/null || continue
    found=$("$candidate" --version | sed -n 's/.*version \([0-9]*\).*/\1/p')
    if [[ $found == "$version" ]]; then
      tool=$candidate
      return 0
    fi
  done
  reason="clang-format $version was not found${found:+ (only version $found)}"
  return 1
}

start_check "$@"
find_tool || skip "$reason"

logs=$(mktemp -d) # one log per process: their lines must not mix
trap 'rm -rf "$logs"' EXIT
# shellcheck disable=SC2016 # the inner shell expands them
tree_files | grep -E '\.(h|hpp|cuh|cpp|cc|cu)$' | tr '\n' '\0' |
  xargs -0 -r -n 16 -P "$(nproc)" bash -c '"$0" --dry-run -Werror --style=file "${@:2}" >"$1/$$" 2>&1' "$tool" "$logs" || true
while IFS= read -r line; do finding "$line"; done < <(
  cat "$logs"/* 2>/dev/null | sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: error: .*/\1/p' | sort | uniq -c |
    awk '{ count = $1; sub(/^ *[0-9]+ /, ""); print $0 ": " count " place" (count == 1 ? "" : "s") }'
)
# Any other word of clang-format, such as a wrong .clang-format, must not pass either.
if ((${#check_findings[@]} == 0)) && [[ -n $(cat "$logs"/* 2>/dev/null) ]]; then
  finding "$(cat "$logs"/* | head -n 5)"
fi
conclude "To mend them: $tool -i FILE..."
