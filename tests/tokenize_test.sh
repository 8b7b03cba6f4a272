#!/usr/bin/env bash
# The tool tokenize as a user meets it: what it writes, and what it says to wrong input.
# usage: tokenize_test.sh PROGRAM
set -euo pipefail
export LC_ALL=C

if (($# != 1)) || [[ ! -x $1 ]]; then
  printf 'usage: tokenize_test.sh PROGRAM\n' >&2
  exit 2
fi
program=$(readlink -f -- "$1")
# shellcheck source=support/program_test.sh
source "$(dirname "$(readlink -f "$0")")/support/program_test.sh"
# writes TEXT OPTION...: succeeds, says TEXT.
writes() {
  local text=$1
  shift
  "$program" "$@" >stdout 2>stderr || fail "status $?: $*"
  [[ $(<stdout) == "$text" && ! -s stderr ]] || fail "does not say '$text': $*"
}
# refuses STATUS TEXT OPTION...: one line "error: ... TEXT ...", and no shard, nor a part of one.
refuses() {
  local status=0 want=$1 text=$2
  shift 2
  "$program" "$@" >stdout 2>stderr || status=$?
  [[ $status == "$want" ]] || fail "status $status instead of $want: $*"
  [[ $(wc -l <stderr) == 1 && $(<stderr) == "error: "*"$text"* ]] || fail "no single line 'error: ... $text ...': $*"
  [[ ! -s stdout && ! -e refused.bin && -z $(compgen -G '.*.part') ]] || fail "something was written: $*"
}
# tokens FILE [SKIP]: the 16-bit tokens behind the first SKIP bytes.
tokens() { od -A n -v -t u2 -j "${2:-0}" "$1" | xargs; }

printf 'ab\n\nc' >one.txt
printf 'x\r\n%%\ny\n' >two.txt
writes "a.bin: 2 documents, 13 tokens (11 bytes of text), longest 7, file 1050 bytes" one.txt two.txt --out a.bin
[[ $(tokens a.bin 1024) == "97 98 10 10 99 256 120 10 37 10 121 10 256"* ]] || fail "wrong tokens: $(tokens a.bin 1024)"
[[ $(od -A n -t d4 -N 16 a.bin | xargs) == "20240520 1 13 0" ]] || fail "wrong header"
writes "b.bin: 2 documents, 5 tokens (3 bytes of text), longest 3, file 10 bytes" --format nanogpt --documents line one.txt --out b.bin
[[ $(tokens b.bin) == "97 98 256 99 256" ]] || fail "wrong tokens: $(tokens b.bin)"
writes "c.bin: 2 documents, 4 tokens (4 bytes of text), longest 2, file 8 bytes" --no-end --format nanogpt --documents fortune two.txt --out c.bin
mkdir folder && cp two.txt folder/two && cp two.txt folder/two.dat
writes "d.bin: 2 documents, 6 tokens (4 bytes of text), longest 3, file 1036 bytes" --documents fortune folder --out d.bin
printf 'caf\351' >latin1
writes "e.bin: 1 documents, 5 tokens (4 bytes of text), longest 5, file 10 bytes" --keep-invalid-utf8 --format nanogpt latin1 --out e.bin

refuses 1 "line 1, byte 4 (0xe9)" latin1 --out refused.bin
refuses 1 "there is no file absent" one.txt absent --out refused.bin
refuses 1 "folder is not a regular file" folder --out refused.bin
refuses 1 "cannot be written: No such file or directory" one.txt --out nowhere/refused.bin
refuses 1 "folder is a folder: give the path of a file" one.txt --out folder
refuses 1 "/dev/null is not a regular file" /dev/null --out refused.bin
refuses 2 "--out FILE is needed" one.txt
refuses 2 "--out needs a value" one.txt --out
refuses 2 "a text file is needed" --out refused.bin
refuses 2 "--format must be one of llmc, nanogpt but is 'npy'" one.txt --format npy --out refused.bin
refuses 2 "--documents must be one of file, line, paragraph, fortune but is 'word'" one.txt --documents word --out refused.bin
refuses 2 "unknown option '--fromat'; did you mean --format?" one.txt --fromat npy --out refused.bin
# What was there before stays when something goes wrong.
cp a.bin before
refuses 1 "there is no file absent" absent --out a.bin
cmp -s a.bin before || fail "a file was damaged"

((failures == 0)) || { printf '%d failed\n' "$failures"; exit 1; }
printf 'tokenize: all passed\n'
