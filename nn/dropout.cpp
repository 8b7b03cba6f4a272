#include "nn/dropout.h"

#include "autograd/dropout.h"
#include "nn/init.h"

namespace weft::nn {

Dropout::Dropout(double p) : p(p), stream(next_dropout_stream()) {
  require<OptionError>(p >= 0 && p < 1, "dropout", "p must be in [0, 1) but is {}", p);
}

Tensor Dropout::operator()(const Tensor& x) { return mode == Mode::train ? weft::dropout(x, p, stream) : x; }

}  // namespace weft::nn
