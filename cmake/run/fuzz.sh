# shellcheck shell=bash
# ./run fuzz: the readers of files under libFuzzer. Sourced by ../../run.
# shellcheck disable=SC2154 # the variables of run

fuzz_formats() {
  local file
  for file in "$root"/tests/fuzz/*_fuzz.cpp; do
    file=${file##*/}
    printf '%s\n' "${file%_fuzz.cpp}"
  done
}

fuzz_usage() {
  cat <<END
usage: ./run fuzz [FORMAT] [SECONDS] [-- OPTION...]

Feeds the reader of FORMAT (default: each in turn) for SECONDS (default 60) with what libFuzzer makes up from
tests/fuzz/corpus/FORMAT, under AddressSanitizer and UBSan. Needs clang++. What it finds on the way is kept in
build/fuzz/corpus/FORMAT, so that the next run goes on from there; an input that breaks the reader lies in build/fuzz.
What follows -- goes to libFuzzer. Everywhere else the same targets run as tests: ./run test fuzz

formats: $(fuzz_formats | tr '\n' ' ')
END
}

run_fuzz() {
  local formats=() seconds='' options=() format status=0
  while (($#)); do
    case $1 in
      --help) fuzz_usage; return 0 ;;
      --) shift; options=("$@"); break ;;
      -*) die 2 "fuzz does not know '$1' (./run fuzz --help)" ;;
      *[!0-9]*) formats+=("$1"); shift ;;
      *) [[ -z $seconds ]] || die 2 "fuzz takes one number of seconds but got '$seconds' and '$1'"; seconds=$1; shift ;;
    esac
  done
  for format in "${formats[@]}"; do
    fuzz_formats | grep -qxF "$format" || die 2 "no fuzz target is called '$format' (there are: $(fuzz_formats | paste -sd' '))"
  done
  ((${#formats[@]})) || mapfile -t formats < <(fuzz_formats)
  require_commands clang++
  ensure_packages always
  prepare "${preset:-fuzz}" "${formats[@]/#/libfuzzer_}"
  local folder=$root/build/${preset:-fuzz}
  for format in "${formats[@]}"; do
    mkdir -p "$folder/corpus/$format"
    say "fuzzing $format for ${seconds:-60} s ..."
    "$folder/bin/libfuzzer_$format" -max_total_time="${seconds:-60}" -print_final_stats=1 -max_len=65536 -timeout=10 \
      -malloc_limit_mb=512 -artifact_prefix="$folder/$format-" "${options[@]}" "$folder/corpus/$format" \
      "$root/tests/fuzz/corpus/$format" || status=1
  done
  return "$status"
}
