# shellcheck shell=bash
# What the checks share. A check is called as: CHECK.sh [--self-test] [FOLDER]
#   FOLDER       the tree to look at (default: this repository)
#   --self-test  proves on made-up trees that the check passes a good one and fails a bad one
# Exit status: 0 passed, 1 something was found (a list says what), 2 wrong use, 77 skipped with a reason.
set -euo pipefail
export LC_ALL=C

check_script=$(readlink -f -- "$0")
check_name=$(basename "$check_script" .sh)
check_findings=()

# tree_files: the files of the current folder that belong to the project (git's view; without git all but the outputs).
tree_files() {
  if [[ $(git rev-parse --show-toplevel 2>/dev/null) == "$(pwd -P)" ]]; then
    # A file deleted but not yet committed is still in the index.
    git ls-files -co --exclude-standard | while IFS= read -r file; do [[ ! -f $file ]] || printf '%s\n' "$file"; done
  else
    find . -type d \( -name build -o -name runs -o -name .git \) -prune -o -type f -print | sed 's|^\./||'
  fi | sort -u
}

# finding TEXT: one line of the list.
finding() { check_findings+=("$1"); }

# conclude ADVICE: prints the list and ends the check.
conclude() {
  if ((${#check_findings[@]} == 0)); then
    printf '%s: passed\n' "$check_name"
    exit 0
  fi
  printf '%s: %d found\n' "$check_name" "${#check_findings[@]}"
  printf '  %s\n' "${check_findings[@]}"
  printf '%s\n' "$1"
  exit 1
}

skip() {
  printf 'skipped: %s\n' "$1"
  exit 77
}

# ---- Self-tests ------------------------------------------------------------------------------------------------------

# put FILE LINE...: writes a file of the made-up tree.
put() {
  local file=$1
  shift
  mkdir -p "$(dirname "$file")"
  printf '%s\n' "$@" >"$file"
}

# expect STATUS TEXT [NAME=VALUE...]: runs the check on the current folder; its status, and TEXT somewhere in its output.
expect() {
  local want=$1 text=$2 status=0 output
  shift 2
  output=$(env "$@" bash "$check_script" "$PWD" 2>&1) || status=$?
  if [[ $status != "$want" || $output != *"$text"* ]]; then
    printf '%s: self-test failed: expected status %s and "%s", got status %s and:\n%s\n' \
      "$check_name" "$want" "$text" "$status" "$output" >&2
    exit 1
  fi
}

# start_check "$@": goes to the tree, or runs self_test (which the check defines) in an empty folder.
start_check() {
  local folder
  if [[ ${1-} == --self-test ]]; then
    self_test_folder=$(mktemp -d)
    trap 'rm -rf "$self_test_folder"' EXIT
    cd "$self_test_folder"
    self_test
    printf '%s: self-test passed\n' "$check_name"
    exit 0
  fi
  if (($# > 1)) || [[ ${1-} == -* ]]; then
    printf 'usage: %s.sh [--self-test] [FOLDER]\n' "$check_name" >&2
    exit 2
  fi
  folder=${1:-$(dirname "$check_script")/../..}
  cd "$folder" || exit 2
}
