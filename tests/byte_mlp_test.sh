#!/usr/bin/env bash
# The example byte_mlp as a user meets it, on a small folder of texts.
# usage: byte_mlp_test.sh FOLDER_OF_THE_EXAMPLES'_PROGRAMS
set -euo pipefail
export LC_ALL=C

if (($# != 1)) || [[ ! -x $1/byte_mlp ]]; then
  printf 'usage: byte_mlp_test.sh FOLDER (which holds the program byte_mlp)\n' >&2
  exit 2
fi
program=$(readlink -f -- "$1")/byte_mlp
# shellcheck source=support/program_test.sh
source "$(dirname "$(readlink -f "$0")")/support/program_test.sh"
# 200 texts of 8 to 200 bytes.
mkdir data
awk 'BEGIN { for (i = 0; i < 200; ++i) { n = 1 + i * 37 % 20
  for (k = 0; k < n; ++k) printf "word%d %s", (i * k) % 13, k % 5 == 4 ? "\n" : ""
  print "end"; print "%" } }' >data/texts

small=(--data-dir data --hidden 16 --length 64 --epochs 1 --sample-bytes 40)
trains() { "$program" "${small[@]}" "$@" >stdout 2>stderr || fail "status $?: $*"; }
refuses() {
  local status=0 want=$1 text=$2
  shift 2
  "$program" --out runs/refused "$@" >stdout 2>stderr || status=$?
  [[ $status == "$want" ]] || fail "status $status instead of $want: $*"
  [[ $(wc -l <stderr) == 1 && $(<stderr) == "error: "*"$text"* ]] || fail "no single line 'error: ... $text ...': $*"
  [[ ! -e runs/refused ]] || fail "something was written: $*"
}
hash() { sed -n 's/.*"parameters_hash": "\(.*\)".*/\1/p' "$1/summary.json"; }
# value NAME RUN: a number in its summary.
value() { sed -n "s/^  \"$1\": \([-0-9.e+]*\),\{0,1\}$/\1/p" "$2/summary.json"; }

# ---- wrong options ---------------------------------------------------------------------------------------------------
refuses 2 "--batching must be pad, bucket, tokens or pack but is 'sort'" --batching sort
refuses 2 "--length must be a whole number from 2 to 65536 but is '1'" --length 1
refuses 2 "--temperature must be a number from 0 to 100 but is '-1'" --temperature -1
refuses 2 "unknown option '--pack'" --pack
refuses 1 "nowhere" --data-dir nowhere

# ---- runs ------------------------------------------------------------------------------------------------------------
for batching in pad bucket tokens pack; do
  trains --out "runs/$batching" --batching "$batching"
  [[ $(ls "runs/$batching") == $'checkpoint.safetensors\nmetrics.jsonl\nreport.html\nsummary.json' ]] || fail "files of a run"
  grep -q "bits per byte on texts that it was not trained on" stdout || fail "says how well it does"
  # Every byte of an epoch is seen, in any shape.
  [[ $(value tokens "runs/$batching") == $(value tokens runs/pad) ]] || fail "$batching sees other tokens than pad"
  awk -v rate="$(value tokens_per_s "runs/$batching")" 'BEGIN { exit !(rate > 0) }' || fail "tokens_per_s of $batching"
done
trains --out runs/full --batch-size full --accumulate 3
grep -q "full batch: an epoch is 1 update" stdout || fail "says how many updates an epoch has"
grep -q "<h2>A text of its own</h2>" runs/pack/report.html || fail "the report holds a text"

trains --out runs/threads --threads 1
[[ $(hash runs/threads) == "$(hash runs/pack)" ]] || fail "the run depends on the threads"
trains --out runs/workers --workers 3
[[ $(hash runs/workers) == "$(hash runs/pack)" ]] || fail "the run depends on the workers"
sample() { sed -n '/bits per byte/,/results in/p' | sed '$d'; }
first=$(sample <stdout)
trains --out runs/again
[[ -n $first && $first == "$(sample <stdout)" ]] || fail "the text depends on more than the seed"

trains --out runs/resumed --max-updates 5
trains --out runs/resumed --resume
[[ $(hash runs/resumed) == "$(hash runs/pack)" ]] || fail "a resumed run is another"

trains --out runs/json --json
[[ $(head -c 2 stdout) == '{'* && $(<stdout) == "$(<runs/json/summary.json)" ]] || fail "stdout is the summary"

# ---- using the model ---------------------------------------------------------------------------------------------------
"$program" --data-dir data --eval runs/pack --json >stdout 2>stderr || fail "--eval"
[[ $(sed -n 's/.*"test_loss": \([0-9.]*\).*/\1/p' stdout) == $(value test_loss runs/pack) ]] || fail "--eval finds the run's loss"
printf 'word' >start
"$program" --data-dir data --out runs/pack --predict start >stdout 2>stderr || fail "--predict"
[[ $(head -n 1 stdout) == word* ]] || fail "--predict goes on with the text"
"$program" --data-dir data --out runs/pack --predict start --temperature 0 --sample-bytes 7 >stdout 2>stderr || fail "--temperature"
[[ $(wc -c <stdout) -le 12 ]] || fail "the length of a text is no option of the model"

# ---- the certificate and the comparison -----------------------------------------------------------------------------------
for batching in pad pack; do
  "$program" "${small[@]}" --verify-partition --batching "$batching" --accumulate 2 >stdout 2>stderr || fail "--verify-partition"
  grep -q "^packed, row by row" stdout || fail "one of the cuts"
done
"$program" "${small[@]}" --verify-partition --json >stdout 2>stderr || fail "--verify-partition --json"
grep -q '"passed": true' stdout || fail "the certificate as JSON"
trains --out runs/compared --compare-batching
[[ $(grep -c '"batching": "' runs/compared/summary.json) -ge 5 ]] || fail "five results"
[[ $(sed -n 's/^ *"test_loss": \([0-9.]*\).*/\1/p' runs/compared/summary.json | wc -l) -ge 5 ]] || fail "a loss for each"

trains --out runs/simt --device simt --max-updates 3 --eval-samples 4
grep -q '"device": "simt"' runs/simt/summary.json || fail "the emulator trains it too"

((failures == 0)) || { printf '%d checks failed\n' "$failures"; exit 1; }
printf 'byte_mlp: all checks passed\n'
