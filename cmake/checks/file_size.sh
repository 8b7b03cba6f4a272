#!/usr/bin/env bash
# A source file stays near 400 lines; more than 800 is an error, because nobody reads it from end to end any more.
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

readonly near=400 most=800

self_test() {
  seq 800 >fits.cpp
  seq 401 >note.sh
  seq 2000 >data.txt
  expect 0 "note: note.sh has 401 lines"
  seq 801 >'too long.cu'
  expect 1 "too long.cu has 801 lines"
  rm 'too long.cu'
  mkdir .ci
  { echo '#!/usr/bin/env bash' && seq 900; } >.ci/run
  expect 1 ".ci/run has 901 lines"
}

start_check "$@"

while IFS= read -r file; do
  lines=$(wc -l <"$file")
  if ((lines > most)); then
    finding "$file has $lines lines"
  elif ((lines > near)); then
    printf 'note: %s has %d lines (aim for %d)\n' "$file" "$lines" "$near"
  fi
done < <(tree_files | grep -E '\.(h|hpp|cuh|cpp|cc|cu|sh|py|cmake)$|(^|/)(run|CMakeLists\.txt)$')

conclude "At most $most lines: split the file along what it does."
