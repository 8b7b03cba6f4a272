# shellcheck shell=bash
# Which distribution packages are missing, and how to get them. Sourced by ../../run; the list is ../../packages.txt.
# shellcheck disable=SC2154,SC2034 # the variables of run; those for build.sh

package_names=()             # in the order of the list
declare -A package_groups=() # name -> "test,data"
declare -A package_detect=() # name -> "command cmake"
declare -A package_why=()
missing_packages=()          # of the whole list, whatever the command
packages_read=0
packages_installed_now=0     # 1 after something was installed: what is configured is then out of date

# trim VARIABLE: strips blanks at both ends, without starting a process.
trim() {
  local -n trimmed=$1
  trimmed=${trimmed#"${trimmed%%[![:space:]]*}"}
  trimmed=${trimmed%"${trimmed##*[![:space:]]}"}
}

read_packages() {
  ((!packages_read)) || return 0
  local name groups detect why
  while IFS='|' read -r name groups detect why; do
    trim name
    [[ -n $name && $name != '#'* ]] || continue
    trim groups
    trim detect
    trim why
    [[ -n $why ]] || die 1 "packages.txt: the line of '$name' needs four fields: package | needed for | detect | why"
    package_names+=("$name")
    package_groups[$name]=${groups// /}
    package_detect[$name]=$detect
    package_why[$name]=$why
  done <"$root/packages.txt"
  packages_read=1
}

# detect_package NAME: true when what the package gives is there in some other way, such as built by hand.
detect_package() {
  local kind what folder
  read -r kind what <<<"${package_detect[$1]}"
  case $kind in
    command) command -v "$what" >/dev/null ;;
    file) [[ -e $what ]] ;;
    header)
      local -a prefixes
      IFS=: read -r -a prefixes <<<"/usr:/usr/local:${CMAKE_PREFIX_PATH:-}"
      for folder in "${prefixes[@]}"; do
        [[ -z $folder || ! -e $folder/include/$what ]] || return 0
      done
      return 1
      ;;
    *) die 1 "packages.txt: the line of '$1' says '${package_detect[$1]}' but knows command, header and file only" ;;
  esac
}

find_missing_packages() {
  local name state
  local -A installed=()
  read_packages
  missing_packages=()
  if command -v dpkg-query >/dev/null; then # one call for all: 6 ms
    while read -r state name; do
      [[ $state != installed ]] || installed[$name]=1
    done < <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${package_names[@]}" 2>/dev/null)
  fi
  for name in "${package_names[@]}"; do
    [[ -n ${installed[$name]-} ]] || detect_package "$name" || missing_packages+=("$name")
  done
}

# missing_of GROUP...: prints the missing packages that any of the groups needs, one per line.
missing_of() {
  local name group
  for name in "${missing_packages[@]}"; do
    for group in "$@"; do
      if [[ ,${package_groups[$name]}, == *,$group,* ]]; then
        printf '%s\n' "$name"
        break
      fi
    done
  done
}

# ensure_packages GROUP...: installs what is missing where that is possible, else says what is missing and goes on;
# the configure step then says what is off.
ensure_packages() {
  local wanted name width=0
  find_missing_packages
  ((${#missing_packages[@]})) || return 0
  mapfile -t wanted < <(missing_of "$@")
  ((${#wanted[@]})) || return 0

  # What failed less than a day ago is not tried at every call: that would wait for the network each time.
  local failed_list=$root/build/packages_failed failed='' fresh=()
  [[ -z $(find "$failed_list" -mmin -1440 2>/dev/null) ]] || failed=$(<"$failed_list")
  for name in "${wanted[@]}"; do
    [[ $'\n'$failed$'\n' == *$'\n'$name$'\n'* ]] || fresh+=("$name")
  done
  if ((${#fresh[@]} == 0)); then
    say "going on without ${wanted[*]} (installing failed before; delete build/packages_failed to try again)"
    return 0
  fi

  say "missing packages:"
  for name in "${wanted[@]}"; do ((${#name} <= width)) || width=${#name}; done
  for name in "${wanted[@]}"; do printf '  %-*s  %s\n' "$width" "$name" "${package_why[$name]}" >&2; done

  local by_hand="apt-get install --no-install-recommends ${wanted[*]}"
  if [[ ${WEFT_NO_INSTALL:-0} != 0 ]]; then
    say "not installed, because WEFT_NO_INSTALL is set; going on without them. By hand: $by_hand"
  elif ! command -v apt-get >/dev/null; then
    say "this system has no apt-get: install them with its own package manager (the names above are Debian's); going on without them"
  elif ! become_root; then
    say "not installed, because that needs root; going on without them. As root: $by_hand"
  elif apt_install "${fresh[@]}"; then
    packages_installed_now=1
    find_missing_packages
  else
    find_missing_packages
    mapfile -t wanted < <(missing_of "$@")
    if mkdir -p "$root/build" 2>/dev/null; then printf '%s\n' "${wanted[@]}" >"$failed_list"; fi
    packages_installed_now=1 # some may be there now
    say "going on without ${wanted[*]}"
  fi
}

as_root=() # the prefix that makes a command run as root

become_root() {
  as_root=()
  ((EUID != 0)) || return 0
  command -v sudo >/dev/null || return 1
  if [[ -t 0 ]]; then
    as_root=(sudo) # may ask for the password
  else
    sudo -n true 2>/dev/null || return 1 # nobody is there to type one
    as_root=(sudo -n)
  fi
}

# apt_install NAME...: quiet when it works; shows apt's words when it does not.
apt_install() {
  local log status=0 name known=()
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0)
  log=$(mktemp)
  say "installing $# package$( (($# == 1)) || printf s) with ${as_root[*]:+${as_root[*]} }apt-get ..."
  "${apt[@]}" update >"$log" 2>&1 || {
    say "apt-get update failed; trying with the package lists that are here:"
    tail -n 5 "$log" >&2
  }
  if ! "${apt[@]}" install --no-install-recommends "$@" >"$log" 2>&1 </dev/null; then
    status=1
    # One unknown name makes apt-get refuse all: try again with those that it knows.
    for name in "$@"; do
      if apt-get -s -q install --no-install-recommends "$name" >/dev/null 2>&1; then known+=("$name"); fi
    done
    if ((${#known[@]} && ${#known[@]} < $#)); then
      "${apt[@]}" install --no-install-recommends "${known[@]}" >>"$log" 2>&1 </dev/null || true
    fi
    say "apt-get install failed:"
    grep -E '^(E|W|dpkg): ' "$log" >&2 || tail -n 15 "$log" >&2
  fi
  rm -f "$log"
  return "$status"
}

# require_commands NAME...: stops with a sentence instead of "command not found" somewhere later.
require_commands() {
  local name
  for name in "$@"; do
    command -v "$name" >/dev/null || die 1 "'$name' is needed and was not found (./run doctor shows what is missing and why)"
  done
}

# run_packages [GROUP...]: without groups the whole list and its state; with groups installs those.
run_packages() {
  local name group groups=' always test bench data report ci ' state
  for group in "$@"; do
    [[ $groups == *" $group "* ]] || die 2 "no package group is called '$group' (there are:${groups% })"
  done
  if (($#)); then
    ensure_packages "$@"
    [[ -z $(missing_of "$@") ]] || exit 1
    return 0
  fi
  find_missing_packages
  for name in "${package_names[@]}"; do
    state=present
    [[ " ${missing_packages[*]} " != *" $name "* ]] || state=missing
    printf '%-8s %-22s %-10s %s\n' "$state" "$name" "${package_groups[$name]}" "${package_why[$name]}"
  done
}
