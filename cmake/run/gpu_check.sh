# shellcheck shell=bash
# ./run gpu-check: everything that only a GPU can answer, in steps of at most ten minutes. Sourced by ../../run.
# shellcheck disable=SC2154 # the variables of run

gpu_check_usage() {
  cat <<'END'
usage: ./run gpu-check [--binaries FOLDER] [--out FOLDER] [--steps NAME,...]

Runs on the visible GPU: the machine's description, every test of the CUDA kernels, compute-sanitizer (where it is
installed), the benchmarks, and an example trained on cuda and on the cpu. Builds the preset gpu-portable first, unless
--binaries names a folder with its binaries (weft_tests, weft_bench, fashion_mnist): nothing is compiled then, so that a
machine without a toolkit can run them.

  --out FOLDER    results, at most 8 files (default: build/gpu-check)
  --steps LIST    of: machine,tests,sanitizer,bench,example (default: all)

Exit status: 0 all passed, 1 something failed, 77 no GPU can be used.
END
}

# gpu_step NAME COMMAND...: runs one step with its limit; its output goes to the terminal and the log.
gpu_step() {
  local name=$1 status=0 start=$SECONDS
  shift
  printf '\n==== %s: %s\n' "$name" "$*" | tee -a "$out/log.txt"
  timeout -k 10 600 "$@" 2>&1 | tee -a "$out/log.txt" || status=${PIPESTATUS[0]}
  printf '==== %s: exit status %d after %d s\n' "$name" "$status" "$((SECONDS - start))" | tee -a "$out/log.txt"
  results+=("| $name | $([[ $status == 0 ]] && echo passed || echo "failed ($status)") | $((SECONDS - start)) s |")
  ((status == 0)) || failed=1
}

describe_machine() {
  nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm,clocks.max.mem,power.limit --format=csv
  uname -srm
  grep -m 1 'model name' /proc/cpuinfo || true
  git -C "$root" describe --always --dirty --abbrev=12 2>/dev/null || true
  date -u +%Y-%m-%d
}

run_gpu_check() {
  local binaries='' out=$root/build/gpu-check steps=machine,tests,sanitizer,bench,example failed=0 results=() tool
  while (($#)); do
    case $1 in
      --binaries) (($# >= 2)) || die 2 "--binaries needs a folder"; binaries=$2; shift 2 ;;
      --out) (($# >= 2)) || die 2 "--out needs a folder"; out=$2; shift 2 ;;
      --steps) (($# >= 2)) || die 2 "--steps needs names"; steps=$2; shift 2 ;;
      --help) gpu_check_usage; return 0 ;;
      *) die 2 "gpu-check does not know '$1' (./run gpu-check --help)" ;;
    esac
  done
  for tool in ${steps//,/ }; do
    [[ " machine tests sanitizer bench example " == *" $tool "* ]] || die 2 "gpu-check has no step '$tool'"
  done
  if [[ -z $binaries ]]; then
    ensure_packages always test bench
    prepare gpu-portable all
    binaries=$root/build/gpu-portable/bin
  fi
  for tool in weft_tests weft_bench fashion_mnist; do
    [[ -x $binaries/$tool ]] || die 1 "$binaries has no $tool: build the preset gpu-portable"
  done
  if ! cuda_device_visible; then
    say "no NVIDIA device is visible: the binaries are in $binaries; run this command on a machine with a GPU"
    return 77
  fi
  mkdir -p "$out"
  rm -f "$out"/{log.txt,machine.txt,tests.xml,bench.json,gpu_check.md}
  export WEFT_REQUIRE_CUDA=1 # tests of cuda fail rather than skip

  [[ ,$steps, != *,machine,* ]] || describe_machine >"$out/machine.txt" 2>&1 || true
  [[ ,$steps, != *,tests,* ]] ||
    gpu_step tests "$binaries/weft_tests" --gtest_filter='*cuda*:*Cuda*' --gtest_brief=1 --gtest_output="xml:$out/tests.xml"
  if [[ ,$steps, == *,sanitizer,* ]]; then
    tool=$(command -v compute-sanitizer || true)
    [[ -n $tool || ! -x /usr/local/cuda/bin/compute-sanitizer ]] || tool=/usr/local/cuda/bin/compute-sanitizer
    if [[ -n $tool ]]; then
      local check
      for check in memcheck racecheck synccheck initcheck; do
        gpu_step "compute-sanitizer $check" "$tool" --tool "$check" --error-exitcode 9 \
          "$binaries/weft_tests" --gtest_filter='*Gpu*cuda' --gtest_brief=1
      done
    else
      results+=("| compute-sanitizer | skipped: not installed on this machine | |")
    fi
  fi
  [[ ,$steps, != *,bench,* ]] ||
    gpu_step bench "$binaries/weft_bench" --benchmark_filter=cuda --benchmark_out="$out/bench.json" \
      --benchmark_out_format=json
  if [[ ,$steps, == *,example,* ]]; then
    local device
    for device in cuda cpu; do
      gpu_step "fashion_mnist $device" "$binaries/fashion_mnist" --device "$device" --optimizer sgd --lr 0.1 --max-updates 200 \
        --out "$out/runs/$device"
    done
    for device in cuda cpu; do
      head -n 5 "$out/runs/$device/metrics.jsonl" 2>/dev/null | sed "s/^/$device /" | tee -a "$out/log.txt" || true
    done
    rm -rf "$out/runs"
  fi
  {
    printf '# GPU check\n\n```\n'
    cat "$out/machine.txt" 2>/dev/null || true
    printf '```\n\n| step | result | time |\n|---|---|---|\n'
    printf '%s\n' "${results[@]}"
  } >"$out/gpu_check.md"
  cat "$out/gpu_check.md"
  return "$failed"
}
