#!/usr/bin/env bash
# Dependencies between rooms point one way only (see DESIGN: simt <- tensor <- kernels <- autograd <- { nn, optim, data }
# <- train <- examples): every #include of another room must go downwards.
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

# Room -> the rooms that it may include besides itself. A new room is added here.
declare -A allowed=(
  [simt]=""
  [tensor]="simt"
  [kernels]="simt tensor"
  [autograd]="simt tensor kernels"
  [nn]="simt tensor kernels autograd"
  [optim]="simt tensor kernels autograd"
  [data]="simt tensor kernels autograd"
  [train]="simt tensor kernels autograd nn optim data"
  [examples]="simt tensor kernels autograd nn optim data train"
  [tests]="simt tensor kernels autograd nn optim data train examples bench"
  [bench]="simt tensor kernels autograd nn optim data train tests"
)
# Places outside the rooms where C++ may lie, unchecked but for the umbrella header.
other_places=" cmake docs "
# The umbrella header is for users of the library; inside it would hide every dependency.
umbrella_places=" examples tests docs "

self_test() {
  put tensor/tensor.h '#pragma once'
  put tensor/shape.h '#pragma once' '#include "tensor.h"' '#include <vector>'
  put kernels/relu.h '#include "tensor/tensor.h"' '// #include "nn/linear.h"'
  put nn/linear.h '#include "kernels/relu.h"'
  put train/loop.cpp '#include "nn/linear.h"' '#include <weft/tensor/tensor.h>'
  put examples/mlp.cpp '#include <weft/weft.h>'
  put tests/relu_test.cpp '#include "train/loop.h"' '#include <weft/weft.h>'
  put docs/hello.cpp '#include <weft/weft.h>'
  expect 0 passed
  local file line
  while IFS='|' read -r file line; do
    put "$file" '#pragma once' "$line"
    expect 1 "$file:2: "
    rm "$file"
  done <<'END'
tensor/bad.h|#include "nn/linear.h"
kernels/deep/bad.cu|  #  include "autograd/relu.h"
kernels/common/bad.h|#include "../../nn/linear.h"
kernels/bad.h|#include <weft/nn/linear.h>
simt/bad.cpp|#include "tensor/tensor.h"
nn/bad.h|#include "data/plan.h"
nn/bad.cpp|#include "optim/adamw.h"
optim/bad.cpp|#include "nn/linear.h"
data/bad.cpp|#include "nn/linear.h"
data/bad.h|#include "optim/sgd.h"
train/bad.cpp|#include "examples/mlp.h"
autograd/bad.cpp|#include "tests/support/cases.h"
train/bad.h|#include <weft/weft.h>
bench/bad.cpp|#include "weft/weft.h"
END
  put cellar/new.cpp '#include <vector>'
  expect 1 "cellar/new.cpp: "
}

start_check "$@"

# normalise PATH: resolves "." and ".." textually.
normalise() {
  local part result=()
  local -a parts
  IFS=/ read -r -a parts <<<"$1"
  for part in "${parts[@]}"; do
    case $part in
      '' | .) ;;
      ..) if ((${#result[@]})); then unset 'result[-1]'; fi ;;
      *) result+=("$part") ;;
    esac
  done
  local IFS=/
  printf '%s\n' "${result[*]}"
}

mapfile -t sources < <(tree_files | grep -E '\.(h|hpp|cuh|cpp|cc|cu)$' | grep /)
for file in "${sources[@]}"; do
  room=${file%%/*}
  [[ -n ${allowed[$room]+x} || $other_places == *" $room "* ]] ||
    finding "$file: the folder $room/ is no room that this check knows (add it to the table in $check_name.sh)"
done

while IFS= read -r match; do
  file=${match%%:*}
  line=${match#*:}
  text=${line#*:}
  line=${line%%:*}
  room=${file%%/*}
  [[ $text =~ [\"\<]([^\">]+)[\"\>] ]] || continue
  included=${BASH_REMATCH[1]}
  if [[ $included == weft/weft.h ]]; then
    [[ $umbrella_places == *" $room "* ]] || finding "$file:$line: $room/ includes the umbrella header <weft/weft.h>"
    continue
  fi
  # Like the compiler: beside the file first, then from the root; <weft/...> is the root under its public name.
  if [[ $text == *\"* ]] && beside=$(normalise "$(dirname "$file")/$included") && [[ $included == ../* || -f $beside ]]; then
    included=$beside
  fi
  included=${included#weft/}
  [[ $included == */* ]] || continue
  other=${included%%/*}
  [[ -n ${allowed[$other]+x} && -n ${allowed[$room]+x} && $other != "$room" ]] || continue
  [[ " ${allowed[$room]} " == *" $other "* ]] || finding "$file:$line: $room/ must not depend on $other/ ($included)"
done < <(((${#sources[@]} == 0)) || grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<]' "${sources[@]}")

conclude "Dependencies go simt <- tensor <- kernels <- autograd <- { nn, optim, data } <- train <- examples; <weft/weft.h> is for examples, tests and docs."
