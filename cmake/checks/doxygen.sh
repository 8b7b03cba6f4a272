#!/usr/bin/env bash
# The API reference builds without a warning, and every public function, type and constant outside a class is documented.
# Members of classes are counted, not demanded: name(), size() and operator= say what they are.
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

self_test() {
  command -v doxygen >/dev/null || skip "doxygen was not found"
  local own
  own=$(dirname "$(dirname "$(dirname "$check_script")")")
  mkdir -p docs/guides tensor autograd nn optim data train
  cp "$own/docs/Doxyfile" "$own/docs/doxygen_filter.awk" docs/
  put README.md '# small'
  put CONTRIBUTING.md '# how'
  put docs/api.dox '/// \namespace small' '/// A name.'
  put tensor/a.h '#pragma once' 'namespace small {' '/// Adds.' 'int add(int a, int b);' 'int add(int a, int b, int c);' \
    '/// A pair.' 'struct Pair {' '  int a;  // the first' '  int b;' '};' '}  // namespace small'
  expect 0 "note: 1 member"
  put nn/bad.h '#pragma once' 'namespace small {' 'int bare(int a);' '}  // namespace small'
  expect 1 "nn/bad.h:3: Member bare(int a) (function) of namespace small is not documented."
  put nn/bad.h '#pragma once' 'namespace small {' 'struct Bare {' '  int a;' '};' '}  // namespace small'
  expect 1 "nn/bad.h:3: Compound small::Bare is not documented."
  put nn/bad.h '#pragma once' 'namespace small {' '/// As \ref nothing_there.' 'int bad(int a);' '}  // namespace small'
  expect 1 "nn/bad.h:3: unable to resolve reference to 'nothing_there'"
}

start_check "$@"

command -v doxygen >/dev/null || skip "doxygen was not found"
output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
status=0
{ cat docs/Doxyfile && echo "OUTPUT_DIRECTORY = $output"; } | doxygen - >"$output/log" 2>&1 || status=$?
((status == 0)) || finding "doxygen ended with status $status: $(tail -n 1 "$output/log")"
members=0
while IFS= read -r line; do
  if [[ $line =~ Member\ .*\ of\ (class|struct)\ .*\ is\ not\ documented ]]; then
    members=$((members + 1))
  elif [[ -n ${line//[[:space:]]/} ]]; then
    line=${line#"$PWD/"}
    finding "${line/: warning: /: }"
  fi
done <"$output/log"
((members == 0)) || printf 'note: %d member(s) of classes without a comment\n' "$members"

conclude "Write a /// comment above it (a comment covers the declarations below it up to a blank line); docs/api.dox documents namespaces."
