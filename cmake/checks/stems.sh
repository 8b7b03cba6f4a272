#!/usr/bin/env bash
# One stem per op: whoever looks for an op finds its kernel, its gradient and its test under the same name.
# For every kernels/X.h there are autograd/X.cpp (or optim/X.cpp, for the update of an optimizer) and tests/X_test.cpp.
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

# Headers of kernels/ that are no op of autograd or optim: stem -> the reason. Each still needs its test.
declare -A not_an_op=(
  [copy]="copies, fills and converts for factories, cast and layout, which differ in what they mean, not in what they move"
  [grad_norm]="the first half of every optimizer's update, called by optim/optimizer.cpp"
)
# Headers of kernels/ whose test has another name: stem -> that test.
declare -A tested_in=(
)

self_test() {
  put kernels/common/launch.h '#pragma once'
  put kernels/relu.h '#pragma once'
  put autograd/relu.cpp 'x'
  put tests/relu_test.cpp 'x'
  put kernels/adamw.h '#pragma once'
  put optim/adamw.cpp 'x'
  put tests/adamw_test.cpp 'x'
  expect 0 passed
  rm autograd/relu.cpp
  expect 1 "kernels/relu.h has no autograd/relu.cpp"
  put autograd/relu.cpp 'x'
  rm tests/adamw_test.cpp
  expect 1 "kernels/adamw.h has no tests/adamw_test.cpp"
  put tests/adamw_test.cpp 'x'
  put kernels/relu_nchw_backward.cu 'x'
  put kernels/relu_nchw.cpp 'x'
  expect 0 passed
  put kernels/tanh_nchw.cpp 'x'
  expect 1 "kernels/tanh_nchw.cpp has no kernels/tanh.h"
  rm kernels/tanh_nchw.cpp kernels/relu_nchw.cpp kernels/relu_nchw_backward.cu
  rm kernels/relu.h
  put kernels/relu.cu 'x'
  expect 1 "kernels/relu.cu has no kernels/relu.h"
}

start_check "$@"

for header in kernels/*.h; do
  [[ -f $header ]] || continue
  stem=$(basename "$header" .h)
  [[ -f autograd/$stem.cpp || -f optim/$stem.cpp || -n ${not_an_op[$stem]-} ]] ||
    finding "$header has no autograd/$stem.cpp (nor optim/$stem.cpp)"
  test=${tested_in[$stem]:-tests/${stem}_test.cpp}
  [[ -f $test ]] || finding "$header has no $test"
done
for source in kernels/*.cpp kernels/*.cu; do
  [[ -f $source ]] || continue
  stem=$(basename "$source")
  stem=${stem%.*}
  stem=${stem%_ladder}
  [[ -f kernels/$stem.h ]] || stem=${stem%_backward}
  [[ -f kernels/$stem.h ]] || stem=${stem%_nchw} # the same op on planes that lie side by side
  [[ -f kernels/$stem.h ]] || finding "$source has no kernels/$stem.h"
done
for stem in "${!not_an_op[@]}" "${!tested_in[@]}"; do
  [[ -f kernels/$stem.h || $PWD != "$(dirname "$(dirname "$(dirname "$check_script")")")" ]] ||
    finding "kernels/$stem.h is gone, but stems.sh still lists it"
done

conclude "Add the missing file, or list the stem with its reason in cmake/checks/stems.sh."
