#!/usr/bin/env bash
# The shell scripts parse, and shellcheck finds nothing in them.
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

# shellcheck disable=SC2016 # the scripts in the tree are text here
self_test() {
  put good.sh '#!/usr/bin/env bash' 'echo "$1"'
  command -v shellcheck >/dev/null || skip "shellcheck was not found"
  expect 0 passed
  put bad.sh '#!/usr/bin/env bash' 'if true; then'
  expect 1 "bad.sh: does not parse"
  put bad.sh '#!/usr/bin/env bash' 'rm $1'
  expect 1 "bad.sh:2:"
}

start_check "$@"

mapfile -t scripts < <(tree_files | while IFS= read -r file; do
  case $file in
    *.sh) printf '%s\n' "$file" ;;
    *) # a script without an ending says so in its first line
      [[ ${file##*/} != *.* ]] || continue
      IFS= read -r -n 64 first <"$file" 2>/dev/null || true
      [[ ${first-} != '#!'*bash ]] || printf '%s\n' "$file"
      ;;
  esac
done)
for script in "${scripts[@]}"; do
  bash -n "$script" 2>/dev/null || finding "$script: does not parse"
done
if ((${#check_findings[@]} == 0)); then
  command -v shellcheck >/dev/null || skip "shellcheck was not found (every script parses)"
  while IFS= read -r line; do finding "$line"; done < <(((${#scripts[@]} == 0)) || shellcheck -x -f gcc "${scripts[@]}")
fi
conclude "shellcheck explains each code; where it is wrong: # shellcheck disable=CODE # the reason"
