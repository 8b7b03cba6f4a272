#include "nn/softmax.h"

#include "autograd/softmax.h"

namespace weft::nn {

Tensor Softmax::operator()(const Tensor& x) { return weft::softmax(x, dim); }
Tensor LogSoftmax::operator()(const Tensor& x) { return weft::log_softmax(x, dim); }

}  // namespace weft::nn
