# shellcheck shell=bash
# ./run debug: stops gdb in one thread of one block of a kernel, in the emulator. Sourced by ../../run.
# shellcheck disable=SC2154 # the variables of run

debug_usage() {
  cat <<'END'
usage: ./run debug OP [--block X[,Y[,Z]]] [--thread X[,Y[,Z]]] [--shape N[,N...]] [-- GDB OPTION...]

Builds the kernels without optimisation, runs OP (./run traffic --list names them) on a small problem in the emulator, and opens gdb
where the chosen thread of the chosen block (default: 0 and 0) enters the kernel. From there on gdb steps through that one
CUDA thread: a barrier or a shuffle comes back when the other threads have arrived.

In gdb:  p threadIdx      p args      p *(float*)args.x@8    eight elements of device memory
END
}

run_debug() {
  local op='' block=0,0,0 thread=0,0,0 shape=() gdb_options=() pad
  while (($#)); do
    case $1 in
      --block) (($# >= 2)) || die 2 "--block needs an index"; block=$2; shift 2 ;;
      --thread) (($# >= 2)) || die 2 "--thread needs an index"; thread=$2; shift 2 ;;
      --shape) (($# >= 2)) || die 2 "--shape needs numbers"; shape=(--shape "$2"); shift 2 ;;
      --) shift; gdb_options=("$@"); break ;;
      --help) debug_usage; return 0 ;;
      -*) die 2 "debug does not know '$1' (./run debug --help)" ;;
      *) [[ -z $op ]] || die 2 "debug takes one op but got '$op' and '$1'"; op=$1; shift ;;
    esac
  done
  [[ -n $op ]] || { debug_usage >&2; exit 2; }
  for pad in block thread; do
    [[ ${!pad} =~ ^[0-9]+(,[0-9]+){0,2}$ ]] || die 2 "--$pad must be up to three numbers such as 3 or 3,0,0 but is '${!pad}'"
  done
  while [[ $block != *,*,* ]]; do block+=,0; done
  while [[ $thread != *,*,* ]]; do thread+=,0; done
  require_commands gdb
  ensure_packages always bench
  prepare "${preset:-debug}" weft_traffic
  local program=$root/build/${preset:-debug}/bin/weft_traffic
  "$program" --list | grep -qxF "$op" || die 2 "no op is called '$op' (./run traffic --list)"
  exec gdb -q -x "$root/cmake/run/debug.gdb" -ex 'break weft_simt_break' -ex run \
    -ex 'disable 1' -ex into_kernel "${gdb_options[@]}" --args "$program" --run "$op" --break "$block:$thread" "${shape[@]}"
}
