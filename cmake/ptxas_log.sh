#!/bin/sh
# Runs the CUDA compiler (behind ccache or not) and keeps what ptxas reported of each kernel beside the object, in
# OBJECT.ptxas, for cmake/checks/ptxas.sh; the report would drown warnings, which are passed on.
output=
previous=
for word in "$@"; do
  [ "$previous" != -o ] || output=$word
  previous=$word
done
[ -n "$output" ] || exec "$@"
status=0
"$@" 2>"$output.ptxas" || status=$?
grep -vE '^ptxas info|^ +[0-9]+ bytes stack frame' "$output.ptxas" >&2
exit $status
