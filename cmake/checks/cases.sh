#!/usr/bin/env bash
# Every public operation has a declarative case: each function in autograd/*.h that returns tensors or a loss is named in
# the `functions` of a case in tests/cases/*_cases.cpp (or below, with the reason), and a file of cases has a kernel or an
# autograd file of its stem.
# shellcheck source=common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

# Functions that are no operation of their own: name -> the reason.
declare -A not_an_op=(
  [operator+]="add" [operator-]="sub" [operator*]="mul" [operator/]="div"
  [zeros]="makes values" [ones]="makes values" [full]="makes values" [zeros_like]="makes values" [scalar]="makes values"
  [arange]="makes values" [rand]="makes values" [randn]="makes values"
  [to]="moves bytes between devices: every case on simt and cuda goes through it"
  [set_requires_grad]="the engine" [grad]="the engine" [detach]="the engine"
  [sum_to]="the backward of a broadcast: every broadcasting case goes through it"
)

self_test() {
  put autograd/relu.h '#pragma once' 'Tensor relu(const Tensor& x);' 'Tensor relu_composite(const Tensor& x);' \
    '  Tensor hidden(int);' 'void fill_(const Tensor& x);' 'Tensor zeros(int);'
  put autograd/relu.cpp 'x'
  put tests/cases/relu_cases.cpp 'OpCase c{.op = "relu", .functions = {"relu"}};'
  expect 0 passed
  put autograd/loss.h '#pragma once' 'Loss mse_loss(const Tensor& x,' '              const Tensor& y);'
  expect 1 "autograd/loss.h:2: mse_loss has no case"
  put tests/cases/loss_cases.cpp 'OpCase c{.op = "mse", .functions = {"mae_loss", "mse_loss"}};'
  expect 1 "tests/cases/loss_cases.cpp: there is no kernels/loss.h or autograd/loss.cpp"
  put autograd/loss.cpp 'x'
  expect 0 passed
  put autograd/loss.h '#pragma once' 'std::vector<Tensor> split(const Tensor& x);'
  expect 1 "autograd/loss.h:2: split has no case"
}

start_check "$@"

proven=" $(cat tests/cases/*_cases.cpp | tr '\n' ' ' | grep -oE '\.?functions *= *\{[^}]*\}' | grep -oE '"[a-z0-9_]+"' | tr -d '"' | tr '\n' ' ')"
while IFS=: read -r file line text; do
  name=$(sed -E 's/^(inline )?(Tensor|Loss|std::vector<Tensor>|std::pair<Tensor, Tensor>) ([A-Za-z0-9_]+|operator[^ (]+)\(.*/\3/' <<<"$text")
  [[ $name != *_composite && -z ${not_an_op[$name]-} ]] || continue
  [[ $proven == *" $name "* ]] || finding "$file:$line: $name has no case"
done < <(grep -nE '^(inline )?(Tensor|Loss|std::vector<Tensor>|std::pair<Tensor, Tensor>) ([a-z0-9_]+|operator[^ (]+)\(' autograd/*.h /dev/null)
for file in tests/cases/*_cases.cpp; do
  stem=$(basename "$file" _cases.cpp)
  [[ -f kernels/$stem.h || -f autograd/$stem.cpp ]] || finding "$file: there is no kernels/$stem.h or autograd/$stem.cpp"
done

conclude "Name the function in a case's .functions, or list it with its reason in cmake/checks/cases.sh."
