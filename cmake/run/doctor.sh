# shellcheck shell=bash
# ./run doctor: what this machine has, what is on, what is off and why. Sourced by ../../run.
# Needs nothing but bash and the base system: it must work before anything is installed or built.
# shellcheck disable=SC2154 # the variables of run, packages.sh and build.sh

fact_sections=()
fact_names=()
fact_values=()
problem_levels=() # error: nothing can be built | note: something is off
problem_texts=()
problem_advice=()

fact() {
  fact_sections+=("$1")
  fact_names+=("$2")
  fact_values+=("$3")
}

problem() {
  problem_levels+=("$1")
  problem_texts+=("$2")
  problem_advice+=("$3")
}

# json_string TEXT: prints it as a JSON string.
json_string() {
  local text=$1 code letter
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\t'/\\t}
  if [[ $text == *[[:cntrl:]]* ]]; then
    for ((code = 1; code < 32; ++code)); do
      printf -v letter '%b' "\\x$(printf %x "$code")"
      text=${text//"$letter"/$(printf '\\u%04x' "$code")}
    done
  fi
  printf '"%s"' "$text"
}

# version_below HAVE WANT: compares dotted numbers.
version_below() {
  [[ $1 != "$2" && $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]
}

gib() { awk -v kib="$1" 'BEGIN { printf "%.1f GiB", kib / 1048576 }'; }

examine_tools() {
  local compiler=${CXX:-g++} version path
  if path=$(command -v "$compiler"); then
    version=$("$compiler" -dumpfullversion -dumpversion 2>/dev/null) || version=unknown
    fact tools compiler "$compiler $version ($path)"
    if [[ $("$compiler" --version 2>/dev/null) != *clang* ]] && version_below "$version" 11; then
      problem error "$compiler $version is too old: weft needs 11 or newer" "install a newer g++ and name it: CXX=g++-12 ./run ..."
    fi
    version=$(printf '#include <omp.h>\n' | "$compiler" -fopenmp -E -dM -x c++ - 2>/dev/null | awk '$2 == "_OPENMP" { print $3 }') || version=
    if [[ -n $version ]]; then
      fact tools OpenMP "yes ($version)"
    else
      fact tools OpenMP no
      problem note "$compiler cannot compile OpenMP, which oneDNN needs: matrix products will use the slower own kernel" "install the compiler's OpenMP library (for clang: libomp-dev)"
    fi
  else
    fact tools compiler "none ($compiler was not found)"
    problem error "the C++ compiler $compiler was not found" "install g++, or name another one with CXX"
  fi
  if path=$(command -v cmake); then
    version=$(cmake --version | awk 'NR == 1 { print $3 }')
    fact tools cmake "$version ($path)"
    ! version_below "$version" 3.22 || problem error "cmake $version is too old: weft needs 3.22 or newer" "install a newer cmake"
  else
    fact tools cmake none
    problem error "cmake was not found" "install cmake"
  fi
  if path=$(command -v ninja); then
    fact tools ninja "$(ninja --version) ($path)"
  else
    fact tools ninja none
    problem error "ninja was not found" "install ninja-build"
  fi
  if path=$(command -v ccache); then
    fact tools ccache "$(ccache --version | awk 'NR == 1 { print $3 }') ($path)"
  else
    fact tools ccache none
  fi
}

examine_onednn() {
  local prefix header version runtime
  local -a prefixes
  IFS=: read -r -a prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}" /usr/local /usr; do
    for header in "$prefix/include/oneapi/dnnl/dnnl_version.h" "$prefix/include/dnnl_version.h"; do
      [[ -n $prefix && -r $header ]] || continue
      version=$(awk '$2 ~ /^DNNL_VERSION_(MAJOR|MINOR|PATCH)$/ { v = v (v == "" ? "" : ".") $3 } END { print v }' "$header")
      [[ -n $version ]] || continue # a header that only includes the real one
      runtime=$(awk '$2 == "DNNL_CPU_THREADING_RUNTIME" { sub("DNNL_RUNTIME_", "", $3); print $3 }' "${header%version.h}config.h" 2>/dev/null) || runtime=
      fact libraries oneDNN "$version (${runtime:+threads: $runtime, }$prefix)"
      return
    done
  done
  fact libraries oneDNN none
  problem note "oneDNN is off: matrix products and convolutions on the CPU run several times slower" "install libdnnl-dev"
}

examine_cuda() {
  local version='' driver='' line count=0 newest_gcc supported='' gcc host
  choose_cuda dev
  if [[ -n $cuda_compiler ]]; then
    version=$("$cuda_compiler" --version 2>/dev/null | sed -n 's/.*, V\([0-9.]*\).*/\1/p') || version=
    fact CUDA nvcc "${version:-unknown version} ($cuda_compiler)"
    host=$(dirname "$(dirname "$(readlink -f "$cuda_compiler")")")
    for host in "$host"/include/crt/host_config.h "$host"/targets/*/include/crt/host_config.h; do
      [[ -r $host ]] || continue
      newest_gcc=$(sed -n 's/^#if __GNUC__ > \([0-9]*\).*/\1/p' "$host" | head -n 1)
      gcc=$("${CXX:-g++}" -dumpversion 2>/dev/null) || gcc=
      if [[ -n $newest_gcc && -n $gcc && $("${CXX:-g++}" --version) != *clang* ]]; then
        fact CUDA "host compiler" "gcc $gcc; this toolkit accepts up to gcc $newest_gcc"
        ((${gcc%%.*} <= newest_gcc)) ||
          problem note "gcc $gcc is newer than this CUDA toolkit accepts (gcc $newest_gcc)" "install g++-$newest_gcc and name it: CUDAHOSTCXX=g++-$newest_gcc"
      fi
      break
    done
  else
    fact CUDA nvcc none
  fi
  if [[ -r /proc/driver/nvidia/version ]]; then
    driver=$(sed -n '1s/.*  \([0-9][0-9.]*\)  .*/\1/p' /proc/driver/nvidia/version)
  fi
  if command -v nvidia-smi >/dev/null && supported=$(nvidia-smi 2>/dev/null); then
    [[ -n $driver ]] || driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
    supported=$(sed -n 's/.*CUDA Version: *\([0-9.]*\).*/\1/p' <<<"$supported")
    while IFS= read -r line; do
      fact CUDA "device $count" "$line"
      count=$((count + 1))
    done < <(nvidia-smi --query-gpu=name,compute_cap,memory.total --format=csv,noheader |
      awk -F', ' '{ print $1 ", compute capability " $2 ", " $3 }')
    if [[ -n $version && -n $supported ]] && ((${supported%%.*} < ${version%%.*})); then
      problem note "the driver supports CUDA $supported, the toolkit is $version: programs will not see the device" \
        "update the driver, or install a CUDA ${supported%%.*} toolkit"
    fi
  fi
  fact CUDA driver "${driver:-none}${supported:+ (CUDA $supported)}"
  if ((count == 0)); then
    if [[ $cuda_device == yes ]]; then
      fact CUDA devices "a device node is there, but nvidia-smi does not answer"
      problem note "an NVIDIA device node is visible but the driver does not answer" "check the driver with nvidia-smi"
    else
      fact CUDA devices "none visible"
    fi
  fi

  local default
  case ${cuda_choice} in
    OFF) default="off" ;;
    *) default="WEFT_CUDA=$cuda_choice" ;;
  esac
  if [[ -n ${WEFT_CUDA:-} ]]; then
    default+=" (from the environment)"
  elif [[ $cuda_choice == OFF && $cuda_device == yes ]]; then
    default+=" (a device is visible, but nvcc was not found)"
    problem note "CUDA is off: a device is visible, but nvcc was not found" "install the CUDA toolkit, or point CUDACXX to its nvcc"
  elif [[ $cuda_choice == OFF && -n $cuda_compiler ]]; then
    default+=" (nvcc is there, but no device is visible)"
    problem note "CUDA is off, because no device is visible; nvcc is there" "to compile the CUDA kernels all the same: WEFT_CUDA=ON ./run ..."
  elif [[ $cuda_choice == OFF ]]; then
    default+=" (neither a device nor nvcc was found)"
  fi
  fact CUDA "./run builds it" "$default"
}

examine_machine() {
  local model flags extensions='' level='' name cores quota period total available limit disk
  model=$(awk -F': *' '/^(model name|Model|Hardware)/ { print $2; exit }' /proc/cpuinfo)
  flags=" $(awk -F': *' '/^(flags|Features)/ { print $2; exit }' /proc/cpuinfo) "
  has() {
    local flag
    for flag in "$@"; do [[ $flags == *" $flag "* ]] || return 1; done
  }
  for name in sse4_2 avx avx2 fma f16c avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 asimd asimdhp sve bf16; do
    ! has "$name" || extensions+="${extensions:+ }$name"
  done
  if has avx512f avx512bw avx512cd avx512dq avx512vl; then
    level=x86-64-v4
  elif has avx2 bmi1 bmi2 fma f16c movbe abm; then
    level=x86-64-v3
  elif has sse4_2 popcnt ssse3; then
    level=x86-64-v2
  fi
  unset -f has
  cores=$(core_count)
  fact machine CPU "${model:-$(uname -m)}"
  fact machine "vector extensions" "${level:+$level: }${extensions:-none known}"
  fact machine cores "$cores"
  if [[ -r /sys/fs/cgroup/cpu.max ]]; then
    read -r quota period </sys/fs/cgroup/cpu.max
    if [[ $quota != max ]] && ((quota < cores * period)); then
      fact machine "core limit" "$(awk -v q="$quota" -v p="$period" 'BEGIN { printf "%.1f", q / p }')"
      problem note "this container may use only $((quota * 10 / period))/10 cores of the $cores that it sees" "give --threads $(((quota + period - 1) / period)) to programs"
    fi
  fi
  total=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
  available=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
  fact machine memory "$(gib "$total"), $(gib "$available") available; $(job_count) compile jobs at once"
  if [[ -r /sys/fs/cgroup/memory.max ]]; then
    limit=$(</sys/fs/cgroup/memory.max)
    [[ $limit == max ]] || fact machine "memory limit" "$(gib $((limit / 1024)))"
  fi
  ((available > 1536 * 1024)) || problem note "less than 1.5 GiB of memory is available: compiling may be killed" "close other programs, or add swap"
  disk=$(df -Pk "$root" | awk 'NR == 2 { print $4 }')
  fact machine "free disk" "$(gib "$disk") in $root"
  ((disk > 3 * 1048576)) || problem note "less than 3 GiB of disk are free in $root" "make room: the build folders of all presets take about that much"
  name=$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/os-release 2>/dev/null) || name=
  fact machine system "${name:-unknown}, kernel $(uname -r), $(uname -m)"
}

examine_data() {
  local folder found=0
  for folder in /usr/share/datasets/*/; do
    [[ -d $folder ]] || continue
    fact "data sets" "$(basename "$folder")" "${folder%/} ($(du -sh "$folder" 2>/dev/null | cut -f1))"
    found=1
  done
  ((found)) || fact "data sets" none "no folder in /usr/share/datasets; programs take --data-dir"
}

examine_packages() {
  local name level list
  find_missing_packages
  fact packages present "$((${#package_names[@]} - ${#missing_packages[@]})) of ${#package_names[@]}"
  printf -v list '%s, ' "${missing_packages[@]}"
  ((${#missing_packages[@]} == 0)) || fact packages missing "${list%, } (./run installs what a command needs)"
  for name in "${missing_packages[@]}"; do
    level=note
    [[ ${package_groups[$name]} != always || ${package_why[$name]} != *required ]] || level=error
    [[ $name != libdnnl-dev ]] || continue # examine_onednn says it
    case ${package_detect[$name]} in 'command g++' | 'command cmake' | 'command ninja') continue ;; esac # said above
    problem "$level" "package $name (for ${package_groups[$name]}) is missing: ${package_why[$name]}" "apt-get install $name (as root)"
  done
}

# cache_value FILE NAME: a variable of a CMake cache.
cache_value() { sed -n "s/^$2:[A-Z]*=//p" "$1" | head -n 1; }

examine_presets() {
  local preset folder cache name value text found=0
  while IFS= read -r preset; do
    folder=$root/build/$preset
    cache=$folder/CMakeCache.txt
    [[ -f $cache ]] || continue
    found=1
    text=$(cache_value "$cache" CMAKE_BUILD_TYPE)
    for name in WEFT_CUDA WEFT_ONEDNN WEFT_SANITIZE WEFT_CPU_ISA; do
      value=$(cache_value "$cache" "$name")
      [[ -z $value ]] || text+=" $name=$value"
    done
    value=$(cache_value "$cache" WEFT_CUDA_ARCHITECTURES)
    [[ -z $value ]] || text+=" CUDA architectures=$value"
    [[ -f $folder/build.ninja ]] || text+=" (configuring failed)"
    fact presets "$preset" "$text"
    if [[ -f $folder/summary.txt ]]; then
      fact presets "$preset summary" "$(sed 's/^ *//' "$folder/summary.txt")"
    fi
    if [[ -d $folder/bin ]]; then
      fact presets "$preset programs" "$(find "$folder/bin" -maxdepth 1 -type f -perm -u+x -printf '%f\n' | LC_ALL=C sort | paste -sd' ')"
    fi
  done < <(preset_names)
  ((found)) || fact presets none "nothing is configured yet; ./run EXAMPLE does it"
}

print_text() {
  local i section='' width=0 value
  for ((i = 0; i < ${#fact_names[@]}; ++i)); do ((${#fact_names[i]} <= width)) || width=${#fact_names[i]}; done
  for ((i = 0; i < ${#fact_names[@]}; ++i)); do
    if [[ ${fact_sections[i]} != "$section" ]]; then
      [[ -z $section ]] || printf '\n'
      section=${fact_sections[i]}
      printf '%s\n' "$section"
    fi
    value=${fact_values[i]}
    value=${value//$'\n'/$'\n'$(printf '%*s' $((width + 4)) '')}
    printf '  %-*s  %s\n' "$width" "${fact_names[i]}" "$value"
  done
  if ((${#problem_texts[@]} == 0)); then
    printf '\nno problems found\n'
    return
  fi
  printf '\nwhat is off, and what to do\n'
  for ((i = 0; i < ${#problem_texts[@]}; ++i)); do
    printf '  %s %s\n         %s\n' "$([[ ${problem_levels[i]} == error ]] && echo 'error:' || echo 'note: ')" "${problem_texts[i]}" "${problem_advice[i]}"
  done
}

print_json() {
  local i section='' separator=''
  printf '{'
  for ((i = 0; i < ${#fact_names[@]}; ++i)); do
    if [[ ${fact_sections[i]} != "$section" ]]; then
      [[ -z $section ]] || printf '},'
      section=${fact_sections[i]}
      json_string "$section"
      printf ':{'
      separator=
    fi
    printf '%s' "$separator"
    json_string "${fact_names[i]}"
    printf ':'
    json_string "${fact_values[i]}"
    separator=,
  done
  printf '},"problems":['
  separator=
  for ((i = 0; i < ${#problem_texts[@]}; ++i)); do
    printf '%s{"level":"%s","what":' "$separator" "${problem_levels[i]}"
    json_string "${problem_texts[i]}"
    printf ',"do":'
    json_string "${problem_advice[i]}"
    printf '}'
    separator=,
  done
  printf ']}\n'
}

run_doctor() {
  local format=text level
  while (($#)); do
    case $1 in
      --json) format=json; shift ;;
      *) die 2 "doctor does not know '$1' (it takes --json only)" ;;
    esac
  done
  case ${WEFT_CUDA:-} in
    '' | AUTO | ON | OFF) ;;
    *)
      problem error "WEFT_CUDA is '$WEFT_CUDA', but must be AUTO, ON or OFF" "unset WEFT_CUDA, or set it to one of these"
      unset WEFT_CUDA
      ;;
  esac
  if [[ -n ${WEFT_JOBS:-} && ! ${WEFT_JOBS:-} =~ ^[1-9][0-9]*$ ]]; then
    problem error "WEFT_JOBS is '$WEFT_JOBS', but must be a number from 1 up" "unset WEFT_JOBS, or set it to a number"
    unset WEFT_JOBS
  fi
  examine_machine
  examine_tools
  examine_onednn
  examine_cuda
  examine_data
  examine_packages
  examine_presets
  "print_$format"
  for level in "${problem_levels[@]}"; do
    [[ $level != error ]] || return 1
  done
}
