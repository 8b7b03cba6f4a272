// A training with a module of its own, against an installed weft: fails unless the loss falls to a fifth.
#include <cstdio>

#include <weft/nn/layer_norm.h>
#include <weft/weft.h>

using namespace weft;

struct Residual {
  nn::LayerNorm norm{32};
  nn::Linear up{32, 64}, down{64, 32};
  Tensor operator()(const Tensor& x) { return x + down(relu(up(norm(x)))); }
  template <class V>
  void visit(V& v) {
    v("norm", norm);
    v("up", up);
    v("down", down);
  }
};

int main() {
  const Tensor points = randn({1000, 2}, /*seed=*/1);
  const Tensor labels = Tensor::empty({1000}, Dtype::i64);
  for (std::int64_t i = 0; i < 1000; ++i)
    labels.data<std::int64_t>()[i] = points.data<float>()[2 * i] > points.data<float>()[2 * i + 1] ? 1 : 0;

  nn::manual_seed(1);
  nn::Sequential model{nn::Linear{2, 32}, Residual{}, nn::ReLU{}, nn::Linear{32, 2}};
  optim::AdamW adamw{model.parameters(), {.lr = 1e-2}};
  data::Loader loader{data::TensorDataset{points, labels}, {.batch = data::MiniBatch{100}, .accumulate = 2, .seed = 1}};
  double first = 0, last = 0;
  for (int epoch = 0; epoch < 10; ++epoch) {
    for (auto& update : loader.epoch(epoch)) {
      for (auto& micro : update) {
        auto scope = micro.scope();
        update.backward(cross_entropy(model(micro.input), micro.target));
      }
      adamw.step(update.window());
      last = update.window().mean_loss();
      if (first == 0) first = last;
    }
  }
  std::printf("loss %.4f -> %.4f\n", first, last);
  return last < first / 5 ? 0 : 1;
}
