# shellcheck shell=bash
# Configures a preset when that is needed and builds targets. Sourced by ../../run.
# shellcheck disable=SC2154 # the variables of run and packages.sh

# The presets of CMakePresets.json that are not hidden, one per line.
preset_names() {
  awk -F'"' '
    /"configurePresets"/ { inside = 1 }
    /"(build|test)Presets"/ { inside = 0 }
    inside && $2 == "name" { name = $4 }
    inside && $2 == "hidden" { name = "" }
    inside && /^    }/ { if (name != "") print name; name = "" }' "$root/CMakePresets.json"
}

check_preset() {
  local names
  names=$(preset_names)
  [[ $'\n'$names$'\n' == *$'\n'"$1"$'\n'* ]] || die 2 "no preset is called '$1' (there are: ${names//$'\n'/, })"
}

# nproc obeys OMP_NUM_THREADS, which is about running a program, not about building it.
core_count() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }

# Compiling one file can take 1.5 GiB: fewer jobs on a machine or in a container with little memory.
job_count() {
  if [[ -n ${WEFT_JOBS:-} ]]; then
    [[ $WEFT_JOBS =~ ^[1-9][0-9]*$ ]] || die 2 "WEFT_JOBS must be a number from 1 up but is '$WEFT_JOBS'"
    printf '%s\n' "$WEFT_JOBS"
    return
  fi
  local jobs available_kib limit used key value
  jobs=$(core_count)
  available_kib=$((jobs * 1536 * 1024))
  while read -r key value _; do
    if [[ $key == MemAvailable: ]]; then
      available_kib=$value
      break
    fi
  done </proc/meminfo
  if [[ -r /sys/fs/cgroup/memory.max && -r /sys/fs/cgroup/memory.current ]]; then
    limit=$(</sys/fs/cgroup/memory.max)
    used=$(</sys/fs/cgroup/memory.current)
    if [[ $limit != max ]] && (((limit - used) / 1024 < available_kib)); then
      available_kib=$(((limit - used) / 1024))
    fi
  fi
  local by_memory=$((available_kib / (1536 * 1024)))
  ((by_memory >= jobs)) || jobs=$by_memory
  ((jobs >= 1)) || jobs=1
  printf '%s\n' "$jobs"
}

# ---- CUDA: which value WEFT_CUDA gets --------------------------------------------------------------------------------

# WEFT_CUDA_FOLDER, WEFT_DEV and WEFT_RND_BITS below: so that cmake/checks/run_test.sh can make up a machine.
find_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" \
    "${CUDA_PATH:+$CUDA_PATH/bin/nvcc}" "${WEFT_CUDA_FOLDER:-/usr/local/cuda}/bin/nvcc"; do
    if [[ -n $candidate && -x $candidate ]]; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  return 1
}

# A device node answers at once; nvidia-smi can take a second and is asked only where there is none (WSL).
cuda_device_visible() {
  local node
  for node in "${WEFT_DEV:-/dev}"/nvidia[0-9]*; do
    [[ ! -e $node ]] || return 0
  done
  command -v nvidia-smi >/dev/null && [[ $(nvidia-smi -L 2>/dev/null) == *GPU* ]]
}

cuda_choice=      # AUTO | ON | OFF, or empty: what the preset says
cuda_compiler=    # nvcc, or empty
cuda_device=no    # yes | no
cuda_note=        # worth one line when configuring, or empty

# choose_cuda PRESET: sets the variables above.
choose_cuda() {
  case ${WEFT_CUDA:-} in
    '' | AUTO | ON | OFF) ;;
    *) die 2 "WEFT_CUDA must be AUTO, ON or OFF but is '$WEFT_CUDA'" ;;
  esac
  cuda_note=
  cuda_compiler=$(find_nvcc) || cuda_compiler=
  cuda_device=no
  ! cuda_device_visible || cuda_device=yes
  cuda_choice=${WEFT_CUDA:-}
  if [[ -z $cuda_choice && ($1 == dev || $1 == release) ]]; then # the other presets say it themselves
    cuda_choice=OFF
    if [[ $cuda_device == yes && -n $cuda_compiler ]]; then
      cuda_choice=AUTO
    elif [[ $cuda_device == yes ]]; then
      cuda_note="an NVIDIA device is visible, but nvcc was not found: building for the CPU only.
      Install the CUDA toolkit, or point CUDACXX to its nvcc, and start again."
    fi
  fi
}

# The architectures of the visible devices ("90;100"), or nothing where that is unknown.
# What the toolkit cannot compile for is left out; a device newer than the toolkit gets the toolkit's newest PTX.
visible_architectures() {
  local known architecture newest result=
  known=$("$cuda_compiler" --list-gpu-arch 2>/dev/null | sed 's/compute_//' | sort -n) || return 0
  [[ -n $known ]] || return 0
  newest=${known##*$'\n'}
  while IFS= read -r architecture; do
    [[ $architecture =~ ^[0-9]+$ ]] || continue
    if [[ $'\n'$known$'\n' == *$'\n'$architecture$'\n'* ]]; then
      result+="${result:+;}$architecture"
    elif ((architecture > newest)); then
      [[ ";$result;" == *";$newest;"* ]] || result+="${result:+;}$newest" # its PTX
    else
      say "a visible device (compute capability ${architecture%?}.${architecture: -1}) is too old for $cuda_compiler"
    fi
  done < <(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d '. ' | sort -nu)
  printf '%s\n' "$result"
}

# ---- Configuring -----------------------------------------------------------------------------------------------------

# What the configuration depends on, as text: when it differs from what was written at the last one, configure again.
configuration_key() {
  local model models='' name libraries=''
  for model in /proc/driver/nvidia/gpus/*/information; do
    [[ ! -r $model ]] || models+=$(grep -m1 '^Model' "$model" || true)
  done
  for name in "${missing_packages[@]}"; do # those that configuring looks for
    case ${package_detect[$name]} in header* | *ccache) libraries+=" $name" ;; esac
  done
  printf '%s\n' "cuda $cuda_choice, nvcc $cuda_compiler, device $cuda_device $models" \
    "CXX ${CXX:-}, CXXFLAGS ${CXXFLAGS:-}, CUDAARCHS ${CUDAARCHS:-}, CMAKE_PREFIX_PATH ${CMAKE_PREFIX_PATH:-}" \
    "more options ${WEFT_CMAKE_ARGS:-}" \
    "missing$libraries" \
    "presets $(cksum <"$root/CMakePresets.json")"
}

configure() {
  local preset=$1 folder=$root/build/$1 key arguments=() more=() architectures log
  choose_cuda "$preset"
  key=$(configuration_key)
  if [[ -f $folder/build.ninja && -f $folder/.run_configuration ]]; then
    [[ $(<"$folder/.run_configuration") != "$key" ]] || return 0
  elif [[ -f $folder/build.ninja && -z ${WEFT_CUDA:-} && -z ${WEFT_CMAKE_ARGS:-} ]] && ((!packages_installed_now)); then
    return 0 # somebody configured it by hand: their options stay
  fi

  [[ -z $cuda_note ]] || say "$cuda_note"
  [[ -z $cuda_choice ]] || arguments+=("-DWEFT_CUDA=$cuda_choice")
  if [[ $cuda_choice != OFF && -n $cuda_compiler ]]; then
    export CUDACXX=$cuda_compiler # CMake itself looks in PATH only
    if [[ $cuda_device == yes && $preset != release-all && -z ${CUDAARCHS:-} ]]; then
      architectures=$(visible_architectures)
      [[ -z $architectures ]] || arguments+=("-DWEFT_CUDA_ARCHITECTURES=$architectures")
    fi
  fi
  read -r -a more <<<"${WEFT_CMAKE_ARGS:-}"
  arguments+=("${more[@]}")

  # A failed probe must not be remembered (a compiler or library that was missing yesterday): start from an empty cache.
  # The object files stay.
  if [[ -f $folder/.run_configuration || ! -f $folder/build.ninja ]]; then
    rm -rf "$folder/CMakeCache.txt" "$folder"/CMakeFiles/[0-9]*
  fi
  rm -f "$folder/.run_configuration"
  say "configuring $preset ..."
  log=$folder/configure.log
  if ! (cd "$root" && cmake --preset "$preset" "${arguments[@]}") >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$folder/build.ninja"
    die 1 "configuring failed (the text above is in $log)"
  fi
  if [[ -f $folder/summary.txt ]]; then
    cat "$folder/summary.txt" >&2
  fi
  if grep -q '^CMake Warning' "$log"; then
    sed -n '/^CMake Warning/,/^--/{/^--/!p}' "$log" >&2
  fi
  printf '%s\n' "$key" >"$folder/.run_configuration"
}

# ---- Building --------------------------------------------------------------------------------------------------------

# Reads ninja's output: one line that changes in place on a terminal, a few lines elsewhere, the compiler's words always.
show_progress() {
  local line step='^\[([0-9]+)/([0-9]+)\] (.*)' quarter=-1 width=${COLUMNS:-0} text clear='' open=0 finished all
  if [[ -t 2 ]]; then
    clear=$'\r\033[K'
    ((width > 20)) || width=$(tput cols 2>/dev/null || echo 80)
  fi
  while IFS= read -r line; do
    case $line in
      'ninja: no work to do.' | *'Re-checking globbed directories...' | '-- '*) continue ;;
    esac
    if [[ $line =~ $step ]]; then
      if [[ -n $clear ]]; then
        text="[${BASH_REMATCH[1]}/${BASH_REMATCH[2]}] ${BASH_REMATCH[3]}"
        printf '%s%s' "$clear" "${text:0:width-1}" >&2
        open=1
      elif [[ ${BASH_REMATCH[3]} == Building* || ${BASH_REMATCH[3]} == Linking* ]]; then # not the steps of every build
        finished=${BASH_REMATCH[1]} all=${BASH_REMATCH[2]}
        if ((finished * 4 / all > quarter)); then
          quarter=$((finished * 4 / all))
          printf 'weft: built %s of %s\n' "$finished" "$all" >&2
        fi
      fi
    else
      ((!open)) || printf '%s' "$clear" >&2
      open=0
      printf '%s\n' "$line" >&2
    fi
  done
  ((!open)) || printf '%s' "$clear" >&2
}

# prepare PRESET TARGET...: configures and builds; returns only when that worked.
prepare() {
  local preset=$1 folder=$root/build/$1 lock='' jobs status=0
  shift
  jobs=$(job_count)
  require_commands cmake ninja "${CXX:-g++}"
  mkdir -p "$folder" 2>/dev/null || die 1 "cannot create $folder (is the folder read-only?)"
  if command -v flock >/dev/null; then # two builds in one folder would destroy each other's files
    exec {lock}>"$folder/.run_lock"
    if ! flock -n "$lock"; then
      say "waiting for another build in $folder ..."
      flock "$lock"
    fi
  fi
  configure "$preset"
  cmake --build "$folder" --parallel "$jobs" --target "$@" 2>&1 | show_progress || status=${PIPESTATUS[0]}
  [[ -z $lock ]] || exec {lock}>&-
  ((status == 0)) || die 1 "building $* failed (preset $preset)"
}

# Old ASan and TSan runtimes cannot place their shadow memory when addresses are randomised with more than 28 bits (the
# default of newer kernels): start again without randomisation, where the system allows that.
without_address_randomisation() {
  local preset=$1 bits=0
  shift
  [[ $preset == asan || $preset == tsan ]] || return 0
  [[ -z ${WEFT_FIXED_ADDRESSES:-} && -r ${WEFT_RND_BITS:-/proc/sys/vm/mmap_rnd_bits} ]] || return 0
  bits=$(<"${WEFT_RND_BITS:-/proc/sys/vm/mmap_rnd_bits}")
  if ((bits > 28)) && command -v setarch >/dev/null && setarch -R true 2>/dev/null; then
    WEFT_FIXED_ADDRESSES=1 exec setarch -R "$root/run" "$@"
  fi
}
