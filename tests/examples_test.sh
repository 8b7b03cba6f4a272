#!/usr/bin/env bash
# The example as a user meets it: what it writes, and what it says to wrong input.
# usage: examples_test.sh FOLDER_OF_THE_EXAMPLES'_PROGRAMS
set -euo pipefail
export LC_ALL=C

if (($# != 1)) || [[ ! -x $1/fashion_mnist || ! -x $1/regimes ]]; then
  printf 'usage: examples_test.sh FOLDER (which holds the programs fashion_mnist and regimes)\n' >&2
  exit 2
fi
program=$(readlink -f -- "$1")/fashion_mnist
# shellcheck source=support/program_test.sh
source "$(dirname "$(readlink -f "$0")")/support/program_test.sh"

# u32 NUMBER: four bytes, big-endian.
u32() { printf '%b' "$(printf '\\x%02x' $(($1 >> 24 & 255)) $(($1 >> 16 & 255)) $(($1 >> 8 & 255)) $(($1 & 255)))"; }
# labels NUMBER: 0 1 ... 9 0 1 ... as bytes.
labels() {
  local i
  for ((i = 0; i < $1; ++i)); do printf '%b' "\\x0$((i % 10))"; done
}
# images NUMBER: 28 x 28 bytes each; any values will do.
images() { seq 1 1000000 | head -c $(($1 * 784)) || true; }
# dataset FOLDER: 203 training and 50 test samples.
dataset() {
  mkdir "$1"
  { printf '\0\0\x08\x03'; u32 203; u32 28; u32 28; images 203; } >"$1/train-images-idx3-ubyte"
  { printf '\0\0\x08\x01'; u32 203; labels 203; } >"$1/train-labels-idx1-ubyte"
  { printf '\0\0\x08\x03'; u32 50; u32 28; u32 28; images 50; } >"$1/t10k-images-idx3-ubyte"
  { printf '\0\0\x08\x01'; u32 50; labels 50; } >"$1/t10k-labels-idx1-ubyte"
}
dataset data

# refuses STATUS TEXT OPTION...: the program ends with STATUS, one line "error: ... TEXT ..." on stderr and nothing else.
refuses() {
  local status=0 want=$1 text=$2
  shift 2
  "$program" --data-dir data --out runs/refused "$@" >stdout 2>stderr || status=$?
  [[ $status == "$want" ]] || fail "status $status instead of $want: $*"
  [[ $(wc -l <stderr) == 1 && $(<stderr) == "error: "*"$text"* ]] || fail "no single line 'error: ... $text ...': $*"
  [[ ! -s stdout ]] || fail "output in spite of an error: $*"
  [[ ! -e runs ]] || { fail "something was written: $*"; rm -rf runs; }
}

# trains OPTION...: the program succeeds.
trains() { "$program" --data-dir data "$@" >stdout 2>stderr || fail "status $?: $*"; }

# ---- wrong options ---------------------------------------------------------------------------------------------------
refuses 2 "unknown option '--epoch'; did you mean --epochs?" --epoch 3
refuses 2 "but is '0'" --batch-size 0
refuses 2 "but is '-1'" --batch-size -1
refuses 2 "but is 'many'" --batch-size many
refuses 2 "batch size 204 is larger than the data set (203 samples)" --batch-size 204
refuses 2 "but is 'nan'" --lr nan
refuses 2 "but is '-0.1'" --lr -0.1
refuses 2 "but is 'inf'" --weight-decay inf
refuses 2 "but is '0'" --epochs 0
refuses 2 "but is '0'" --threads 0
refuses 2 "accumulate 4 is larger than the batch size 3" --batch-size 3 --accumulate 4
refuses 2 "--warmup must be 0 with --schedule constant but is 3" --warmup 3
refuses 2 "but is 100" --schedule cosine --warmup 100
refuses 2 "--resume needs a run but there is no 'runs/refused'" --resume
refuses 2 "--eval needs a run but there is no 'runs/a'" --eval runs/a
refuses 2 "--predict needs a run but there is no 'runs/refused'" --predict data/t10k-images-idx3-ubyte
refuses 2 "give one of them" --resume --eval runs/a
refuses 2 "but is '0'" --save-every 0
refuses 2 "but is '-1'" --workers -1
refuses 2 "--norm must be auto, batch, layer, group or none but is 'instance'" --norm instance
refuses 2 "--bn-accumulation micro" --norm batch --accumulate 2
refuses 2 "at least 2 samples" --norm batch --batch-size 1
refuses 2 "--drop-last" --norm batch --batch-size 101
if [[ ! -e /dev/nvidia0 ]]; then refuses 2 "cuda was asked for but cannot be used" --device cuda; fi

# ---- wrong data ------------------------------------------------------------------------------------------------------
# damaged TEXT COMMAND: with the data set changed by COMMAND, which works in its folder.
damaged() {
  rm -rf damaged
  cp -r data damaged
  (cd damaged && eval "$2")
  local status=0
  "$program" --data-dir damaged --out runs/refused >stdout 2>stderr || status=$?
  [[ $status == 1 ]] || fail "status $status instead of 1: $2"
  [[ $(wc -l <stderr) == 1 && $(<stderr) == "error: "*"$1"* ]] || fail "no single line 'error: ... $1 ...': $2"
  [[ ! -e runs ]] || { fail "something was written: $2"; rm -rf runs; }
}
damaged "train-images-idx3-ubyte" 'rm train-images-idx3-ubyte'
damaged "is truncated" 'truncate -s -1000 train-images-idx3-ubyte'
damaged "train-labels-idx1-ubyte" 'printf "\0\0\x08" >train-labels-idx1-ubyte'
damaged "t10k-labels-idx1-ubyte" ': >t10k-labels-idx1-ubyte'
damaged "t10k-images-idx3-ubyte" 'seq 1 9999 >t10k-images-idx3-ubyte'
damaged "magic" 'printf "\x01" | dd of=train-images-idx3-ubyte conv=notrunc status=none'
damaged "labels must be in [0, 10) but row 0" 'printf "\x0b" | dd of=t10k-labels-idx1-ubyte bs=1 seek=8 conv=notrunc status=none'
damaged "train-images-idx3-ubyte.gz" 'gzip train-images-idx3-ubyte; truncate -s -100 train-images-idx3-ubyte.gz'
damaged "package" 'rm -r ../damaged'

# ---- unusable output folders -----------------------------------------------------------------------------------------
unusable() {
  local status=0
  "$program" --data-dir data --out "$1" >stdout 2>stderr || status=$?
  [[ $status == 1 ]] || fail "status $status instead of 1: --out $1"
  [[ $(wc -l <stderr) == 1 && $(<stderr) == "error: --out"*"$2"* ]] || fail "no single line 'error: --out ... $2 ...'"
}
printf 'mine\n' >file
mkdir full
printf 'mine\n' >full/thesis
unusable file "is a file"
unusable file/run "is a file"
unusable full "holds other files"
if [[ -e /proc/self ]]; then unusable /proc/run "cannot be"; fi
[[ $(<file) == mine && $(<full/thesis) == mine && $(ls full) == thesis ]] || fail "a file of the user's was touched"

# ---- runs ------------------------------------------------------------------------------------------------------------
# hash RUN: the hash of its final parameters.
hash() { sed -n 's/.*"parameters_hash": "\(.*\)".*/\1/p' "$1/summary.json"; }
same() {
  cmp -s "$1/metrics.jsonl" "$2/metrics.jsonl" || fail "the metrics of $1 and $2 differ"
  [[ -n $(hash "$1") && $(hash "$1") == "$(hash "$2")" ]] || fail "the parameters of $1 and $2 differ"
}
trains --out runs/a --batch-size 20 --epochs 2 --threads 1
[[ $(ls runs/a) == $'checkpoint.safetensors\nmetrics.jsonl\nreport.html\nsummary.json' ]] || fail "files of a run"
[[ $(wc -l <runs/a/metrics.jsonl) == 24 ]] || fail "22 updates and 2 evaluations make 24 lines"
[[ $(wc -l <stdout) -ge 3 && ! -s stderr ]] || fail "a line per epoch on stdout, nothing on stderr"
trains --out runs/b --batch-size 20 --epochs 2 --threads 2
same runs/a runs/b
trains --out runs/b --batch-size 20 --epochs 2 --threads 7 --log-every 5 --profile
[[ $(hash runs/a) == "$(hash runs/b)" && $(hash runs/a) == "$(hash runs/b.1)" ]] || fail "runs differ by threads or logging"
[[ -e runs/b.1/report.html ]] || fail "the earlier run moved aside whole"
DNNL_MAX_CPU_ISA=AVX2 trains --out runs/c --batch-size 20 --epochs 2 --threads 1
DNNL_MAX_CPU_ISA=AVX2 trains --out runs/d --batch-size 20 --epochs 2 --threads 7
same runs/c runs/d

trains --out runs/json --json --max-updates 3
[[ $(head -c 2 stdout) == '{'* && $(<stdout) == "$(<runs/json/summary.json)" ]] || fail "stdout is the summary"
[[ -s stderr ]] || fail "the rest goes to stderr"
trains --out runs/sgd --batch-size 1 --optimizer sgd --max-updates 30
trains --out runs/full --batch-size full --accumulate 20 --epochs 2
grep -q "full batch: an epoch is 1 update" stdout || fail "says how many updates an epoch has"
trains --out runs/micro --norm batch --accumulate 2 --bn-accumulation micro --batch-size 20 --drop-last
trains --out 'runs/a folder with ü' --max-updates 1
[[ -e 'runs/a folder with ü/report.html' ]] || fail "a folder with an unusual name"

# The CUDA kernels, emulated, train like the cpu: the same first five losses. SGD, because AdamW divides noise by noise where
# a gradient is zero in exact arithmetic (a bias in front of BatchNorm).
losses() { sed -n 's/.*"event":"update".*"loss":\([-0-9.e+]*\),.*/\1/p' "$1/metrics.jsonl" | head -n 5; }
norms=(none batch layer group)
[[ -z ${WEFT_SHORT:-} || -n ${WEFT_FULL:-} ]] || norms=(none)
for norm in "${norms[@]}"; do
  for device in cpu simt; do
    trains --out "runs/$device-$norm" --device "$device" --norm "$norm" --optimizer sgd --lr 0.1 --batch-size 16 --max-updates 5 \
      --eval-samples 20
  done
  paste <(losses "runs/cpu-$norm") <(losses "runs/simt-$norm") >compared
  awk 'NF == 2 { d = $1 - $2; if (d < 0) d = -d; if (d <= 1e-5 * $1) ++good } END { exit good != 5 }' compared ||
    fail "simt and cpu differ with --norm $norm: $(tr '\n' ';' <compared)"
done
grep -q '"device": "simt"' runs/simt-none/summary.json || fail "the summary names the device"
grep -q '"eval_samples": 20' runs/simt-none/summary.json || fail "evaluation takes as many samples as asked for"

# ---- checkpoints -----------------------------------------------------------------------------------------------------
# A run that was stopped goes on bit by bit, with whatever threads and workers; its options need not be given again.
trains --out runs/e --batch-size 20 --epochs 2 --max-updates 7 --workers 2
trains --out runs/e --resume --max-updates 11 --threads 1
trains --out runs/e --resume --workers 3 --prefetch 1
grep -q "resumed after update 11: epoch 1, sample 0" stdout || fail "says where it goes on"
same runs/a runs/e
trains --out runs/f --batch-size 20 --epochs 1 --save-every 5
trains --out runs/f --resume --epochs 2 --batch-size 20
same runs/a runs/f
# not_used STATUS TEXT OPTION...: refused in one line, and the runs are what they were.
not_used() {
  local status=0 want=$1 text=$2 before
  shift 2
  before=$(find runs -type f -exec cksum {} + | sort)
  "$program" --data-dir "${files:-data}" "$@" >stdout 2>stderr || status=$?
  [[ $status == "$want" ]] || fail "status $status instead of $want: $*"
  [[ $(wc -l <stderr) == 1 && $(<stderr) == "error: "*"$text"* && ! -s stdout ]] || fail "no single line 'error: ... $text ...': $*"
  [[ $(find runs -type f -exec cksum {} + | sort) == "$before" ]] || fail "a refusal changed a run: $*"
}
not_used 2 "--batch-size is 10 but was 20, --seed is 2 but was 1" --out runs/e --resume --batch-size 10 --seed 2
not_used 2 "--norm is 'group' but was 'batch'" --out runs/e --resume --norm group
not_used 2 "--norm is 'group' but was 'batch'" --eval runs/e --norm group
cp -r data other && printf '\x07' | dd of=other/train-images-idx3-ubyte bs=1 seek=500 conv=notrunc status=none
files=other not_used 2 "the content of the training data fashion_mnist/train" --out runs/e --resume
cp -r runs/e runs/damaged && truncate -s -1 runs/damaged/checkpoint.safetensors
not_used 1 "checkpoint.safetensors: it is truncated" --out runs/damaged --resume
not_used 1 "checkpoint.safetensors: it is truncated" --eval runs/damaged
not_used 1 "is not an IDX file" --out runs/e --predict runs/e/metrics.jsonl
not_used 1 "there is no file nowhere.npy" --out runs/e --predict nowhere.npy
# --eval says what the run's summary says, --predict what it predicted; neither writes anything.
before=$(find runs -type f -exec cksum {} + | sort)
trains --eval runs/e --json
[[ $(sed -n 's/.*"test_loss": \(.*\),/\1/p' stdout) == "$(sed -n 's/^  "test_loss": \(.*\),/\1/p' runs/e/summary.json)" ]] ||
  fail "--eval finds the loss that training found"
trains --eval runs/e
grep -q "^runs/e after update 22: test loss [0-9.]*  accuracy [0-9.]* on 50 samples of fashion_mnist/test$" stdout ||
  fail "--eval in one line"
trains --out runs/e --predict data/t10k-images-idx3-ubyte
[[ $(wc -l <stdout) == 51 && $(head -n 1 stdout) == row,class,confidence,name ]] || fail "a line for each image"
accuracy=$(awk -F, 'NR > 1 && $2 == (NR - 2) % 10 { ++n } END { print n / 50 }' stdout)
[[ $(sed -n 's/^  "test_accuracy": \(.*\),/\1/p' runs/e/summary.json) == "$accuracy" ]] || fail "the predictions are those of training"
{ printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "{'descr': '|u1', 'fortran_order': False, 'shape': (28, 28), }"; images 1; } >one.npy
trains --out runs/e --predict one.npy --json
[[ $(head -c 2 stdout) == '{'* && $(grep -c '"class"' stdout) == 1 ]] || fail "predictions as JSON, of an npy file"
[[ $(find runs -type f -exec cksum {} + | sort) == "$before" ]] || fail "--eval or --predict changed a run"
# On the emulator a run of the cpu goes on.
trains --out runs/e --resume --device simt --epochs 3 --max-updates 23 --eval-samples 20

# Without gnuplot the report has its tables.
env PATH=/nowhere "$program" --data-dir data --out runs/plain --max-updates 2 >stdout 2>stderr || fail "a run without gnuplot"
grep -q "gnuplot was not found" runs/plain/report.html || fail "the report says why it has no curves"

# ---- regimes ---------------------------------------------------------------------------------------------------------
fashion_mnist=$program
program=$(dirname "$program")/regimes
compares() { "$program" "$@" >stdout 2>stderr || fail "status $?: $*"; }
# column NAME: its values in the summary, one line a regime.
column() { sed -n "s/^ *\"$1\": \([-0-9.e+]*\),\{0,1\}$/\1/p" "$2"; }
compares --out runs/r1 --epochs 5 --threads 1
compares --out runs/r2 --epochs 5 --threads 2
[[ -n $(hash runs/r1) && $(hash runs/r1) == "$(hash runs/r2)" ]] || fail "the weights depend on the threads"
[[ $(column excess_loss runs/r1/summary.json | wc -l) == 4 ]] || fail "a result for each of four batch sizes"
column excess_loss runs/r1/summary.json | awk '{ e[NR] = $1 } END { exit !(e[4] < e[1] && e[4] < 1e-3) }' ||
  fail "the full batch reaches the floor, single samples at a constant rate do not"
paste <(column gradient_noise runs/r1/summary.json) <(column predicted_noise runs/r1/summary.json) |
  awk 'NR <= 3 && !($1 > $2 / 2 && $1 < 2 * $2) { exit 1 } NR == 4 && !($1 < 1e-9) { exit 1 }' ||
  fail "the noise of the gradient is (sigma^2 / B)(N - B)/(N - 1), and none for the full batch"
[[ -s runs/r1/regimes.svg && -s runs/r1/report.html ]] || fail "a picture and a report"
compares --out runs/r3 --json --batches 100,full --epochs 2
[[ $(head -c 2 stdout) == '{'* && $(<stdout) == "$(<runs/r3/summary.json)" ]] || fail "stdout is the summary"
compares --out runs/r4 --device simt --batches 32,full
grep -q '"updates": 20' runs/r4/summary.json || fail "20 updates of each regime on simt"
# What diverges is a result beside the others, and no error.
compares --out runs/r5 --max-lr 10 --batches 1,256,full --epochs 5
grep -q "note: batch 256 diverged" stdout || fail "says which batch size diverged"
[[ $(column gradient_noise runs/r5/summary.json | wc -l) == 3 && ! -s stderr ]] || fail "the others are compared all the same"
grep -q 'xmlns="http://www.w3.org/2000/svg"' runs/r1/regimes.svg || fail "a picture that can stand alone"
"$program" --out runs/r6 --batches 1,full --epochs 1000000 --log-every 1000000000 >stdout 2>stderr &
pid=$!
for ((i = 0; i < 300; ++i)); do
  [[ ! -s runs/r6/metrics.jsonl ]] || break
  sleep 0.1
done
kill -TERM "$pid" || true
status=0
wait "$pid" || status=$?
[[ $status == 143 ]] || fail "status $status instead of 143 after SIGTERM"
grep -q '"stopped_by": "SIGTERM"' runs/r6/summary.json || fail "the summary says what stopped the comparison"
for wrong in "--batches 0" "--batches 1,,2" "--batches 1001" "--batches many" "--max-lr 0" "--batch-size 3"; do
  status=0
  # shellcheck disable=SC2086 # two words
  "$program" --out runs/refused $wrong >stdout 2>stderr || status=$?
  [[ $status == 2 && $(wc -l <stderr) == 1 && ! -e runs/refused ]] || fail "refuses $wrong"
done
program=$fashion_mnist

# ---- data_inspect ----------------------------------------------------------------------------------------------------
program=$(dirname "$fashion_mnist")/data_inspect
inspects() { "$program" "$@" >stdout 2>stderr || fail "status $?: $*"; }
# inspected NAME: its value in the summary on stdout.
inspected() { sed -n "s/^ *\"$1\": \([^,]*\),\{0,1\}$/\1/p" stdout; }
printf 'aaaa\n\nbb\n\ncccccc\n' >notes.txt # paragraphs of 5, 3 and 7 bytes
inspects notes.txt --length 8 --batch-size 2 --json --out runs/i1
[[ $(inspected sequences) == 3 && $(inspected tokens) == 15 && $(inspected rows) == 2 && $(inspected padding) == 1 &&
  $(inspected utilisation) == 0.9375 && $(inspected samples_per_update_factor) == 1.5 ]] || fail "15 bytes in 2 rows of 8"
[[ $(<stdout) == "$(<runs/i1/summary.json)" ]] || fail "stdout is the summary"
[[ $(head -c 4 runs/i1/plan.png | tail -c 3) == PNG ]] || fail "a picture"
inspects notes.txt --length 4 --batch-size 1 --overlong truncate --json --out runs/i2
[[ $(inspected truncated) == 2 && $(inspected dropped_tokens) == 4 && $(inspected tokens) == 11 ]] || fail "what is cut off"
inspects synthetic --threads 1 --json --out runs/i3
grep -v -e seconds -e picture stdout >one_thread
inspects synthetic --threads 2 --json --out runs/i4
grep -v -e seconds -e picture stdout >two_threads
cmp -s one_thread two_threads || fail "the plan depends on the threads"
inspects synthetic --sequences 2000 --table
[[ $(wc -l <stdout) == 5 ]] || fail "a line for each of four lengths"
for wrong in "--length -1" "--batching fast" "--batch-tokens 8" "--window 0" "--boundaries 8,4" "--micro-tokens 3"; do
  status=0
  # shellcheck disable=SC2086 # two words
  "$program" synthetic --batching bucket --out runs/refused $wrong >stdout 2>stderr || status=$?
  [[ $status == 2 && $(wc -l <stderr) == 1 && ! -e runs/refused ]] || fail "refuses $wrong"
done
program=$fashion_mnist

# A stopped run ends in good order.
"$program" --data-dir data --out runs/stopped --epochs 100000 >stdout 2>stderr &
pid=$!
for ((i = 0; i < 300; ++i)); do
  [[ ! -s runs/stopped/metrics.jsonl ]] || break
  sleep 0.1
done
kill -TERM "$pid" || true
status=0
wait "$pid" || status=$?
[[ $status == 143 ]] || fail "status $status instead of 143 after SIGTERM"
grep -q '"stopped_by": "SIGTERM"' runs/stopped/summary.json || fail "the summary says what stopped the run"
updates=$(grep -c '"event":"update"' runs/stopped/metrics.jsonl)
trains --out runs/stopped --resume --max-updates $((updates + 3))
[[ $(grep -c '"event":"update"' runs/stopped/metrics.jsonl) == $((updates + 3)) ]] || fail "a run that was told to stop goes on"

((failures == 0)) || { printf '%d failed\n' "$failures"; exit 1; }
printf 'all passed\n'
