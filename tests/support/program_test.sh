# shellcheck shell=bash
# What the tests of programs share; sourced once the program's path is known: a folder to work in that goes when the test ends,
# and a count of what failed.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
failures=0

# fail WHAT: shows what the program said.
fail() {
  printf 'FAILED: %s\n' "$1"
  sed 's/^/    /' stdout stderr
  failures=$((failures + 1))
}
