# shellcheck shell=bash
# ./run release-check: everything that .ci/run leaves out for time. Sourced by ../../run.
# shellcheck disable=SC2154 # the variables of run

release_check_usage() {
  cat <<'END'
usage: ./run release-check [--out FOLDER] [--steps NAME,...]

Before a release, on a machine with a few hours to spare: what continuous integration does not wait for. No step has a limit but those of
its tests.

  tidy     clang-tidy over every file
  dev      the test suite, with every seeded bug of tests/mutants (and nvcc, where there is one)
  asan     the whole test suite under AddressSanitizer and UBSan, the examples in full
  tsan     the same under ThreadSanitizer
  fuzz     libFuzzer at every reader of files, ten minutes each (needs clang++)
  bench    every benchmark, once

  --out FOLDER    results (default: build/release-check)
  --steps LIST    some of the above (default: all)

Exit status: 0 all passed, 1 something failed. A step whose tool is missing is skipped, and the table says so.
END
}

# release_step NAME COMMAND...: runs one step; its output goes to the terminal and the log.
release_step() {
  local name=$1 status=0 start=$SECONDS verdict
  shift
  printf '\n==== %s: %s\n' "$name" "$*" | tee -a "$out/log.txt"
  "$@" 2>&1 | tee -a "$out/log.txt" || status=${PIPESTATUS[0]}
  case $status in
    0) verdict=passed ;;
    77) verdict=skipped ;;
    *) verdict="failed ($status)" failed=1 ;;
  esac
  printf '==== %s: %s after %d s\n' "$name" "$verdict" "$((SECONDS - start))" | tee -a "$out/log.txt"
  results+=("| $name | $verdict | $((SECONDS - start)) s |")
}

run_release_check() {
  local out=$root/build/release-check steps=tidy,dev,asan,tsan,fuzz,bench failed=0 results=() step cuda=()
  while (($#)); do
    case $1 in
      --out) (($# >= 2)) || die 2 "--out needs a folder"; out=$2; shift 2 ;;
      --steps) (($# >= 2)) || die 2 "--steps needs names"; steps=$2; shift 2 ;;
      --help) release_check_usage; return 0 ;;
      *) die 2 "release-check does not know '$1' (./run release-check --help)" ;;
    esac
  done
  for step in ${steps//,/ }; do
    [[ " tidy dev asan tsan fuzz bench " == *" $step "* ]] || die 2 "release-check has no step '$step'"
  done
  mkdir -p "$out"
  out=$(cd -- "$out" && pwd)
  rm -f "$out"/{log.txt,bench.json,release_check.md}
  # As continuous integration does: where there is a toolkit every kernel must compile, device or not.
  if command -v nvcc >/dev/null || [[ -x /usr/local/cuda/bin/nvcc ]]; then cuda=(WEFT_CUDA=ON); fi

  for step in ${steps//,/ }; do
    case $step in
      tidy)
        env "${cuda[@]}" "$root/run" --preset dev build >&2 || die 1 "the preset dev does not build"
        release_step tidy env -u TIDY_SECONDS "$root/cmake/checks/tidy.sh"
        ;;
      dev) release_step dev env "${cuda[@]}" WEFT_MUTANTS=1 "$root/run" test ;;
      asan | tsan) release_step "$step" env WEFT_FULL=1 WEFT_CMAKE_ARGS="-DWEFT_SCOPE=all -DWEFT_EXAMPLES=ON" "$root/run" test --preset "$step" ;;
      fuzz)
        if command -v clang++ >/dev/null; then
          release_step fuzz "$root/run" fuzz 600
        else
          release_step fuzz bash -c 'echo "skipped: clang++ was not found"; exit 77'
        fi
        ;;
      bench)
        release_step bench "$root/run" bench --benchmark_min_time=0.01 --benchmark_out="$out/bench.json" \
          --benchmark_out_format=json
        ;;
    esac
  done
  {
    # shellcheck disable=SC2016 # Markdown's
    printf '# Release check\n\n`%s`, %s, %s\n\n| step | result | time |\n|---|---|---|\n' \
      "$(git -C "$root" describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)" "$(uname -srm)" "$(date -u +%Y-%m-%d)"
    printf '%s\n' "${results[@]}"
  } >"$out/release_check.md"
  cat "$out/release_check.md"
  return "$failed"
}
