#!/usr/bin/env bash
# No file names a folder of somebody's own machine: it would be wrong on every other one.
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

# The brackets keep this file from finding itself. A word or a dot before the slash makes it part of another path.
readonly pattern='(^|[^[:alnum:]_.$}~-])/(root/[[:alnum:]._]|home/[[:alnum:]]|wor[k]/|tmp/bash_job[s])'

self_test() {
  # shellcheck disable=SC2016 # $HOME stays as it is
  put README.md 'See https://example.com/home/a and framework/tensor/ and $HOME/data, ~/data, lib/roo''t/x.'
  put data.bin "$(printf 'a\001\002')"
  expect 0 passed
  local bad
  for bad in /ro''ot/x /ho''me/ann/weft /wo''rk/main '/tm''p/bash_jobs.0'; do
    put docs/bad.md one "data lies in ${bad//\'/} today"
    expect 1 "docs/bad.md:2:"
  done
}

start_check "$@"

while IFS= read -r line; do finding "${line:0:200}"; done < <(
  tree_files | tr '\n' '\0' | xargs -0 -r grep -IHnE "$pattern" || true
)
conclude "Say it with a path relative to the repository, or an option."
