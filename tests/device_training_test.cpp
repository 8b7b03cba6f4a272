// The same training on the cpu and on the CUDA kernels: emulated always, on a GPU where there is one.
#include <string>
#include <vector>

#include "autograd/cross_entropy.h"
#include "autograd/factories.h"
#include "data/loader.h"
#include "data/tensor_dataset.h"
#include "nn/activation.h"
#include "nn/batch_norm.h"
#include "nn/init.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "optim/adamw.h"
#include "optim/sgd.h"
#include "support/gpu.h"
#include "tensor/gpu.h"
#include "tensor/status.h"

namespace weft {
namespace {

class DeviceTrainingGpu : public test::GpuTest {};
WEFT_GPU_SUITE(DeviceTrainingGpu);

constexpr std::int64_t kSamples = 160, kFeatures = 20, kClasses = 7;

nn::Sequential mlp(const std::string& norm) {
  nn::manual_seed(3);
  nn::Sequential model{nn::Linear{kFeatures, 36}};
  if (norm == "batch") model.push(nn::BatchNorm1d{36});
  if (norm == "layer") model.push(nn::LayerNorm{36});
  model.push(nn::ReLU{});
  model.push(nn::Linear{36, 17});
  if (norm == "batch") model.push(nn::BatchNorm1d{17});
  if (norm == "layer") model.push(nn::LayerNorm{17});
  model.push(nn::ReLU{});
  model.push(nn::Linear{17, kClasses});
  return model;
}

data::TensorDataset dataset() {
  const Tensor targets = Tensor::empty({kSamples}, Dtype::i64);
  for (std::int64_t i = 0; i < kSamples; ++i) targets.data<std::int64_t>()[i] = i % 7 == 0 ? -100 : i * 31 % kClasses;
  return {randn({kSamples, kFeatures}, 4), targets};
}

struct Training {
  std::vector<double> losses;
  std::vector<Tensor> tensors;  // parameters, buffers and the optimizer's state, on the cpu
};

Training train(const std::string& norm, Device device, std::int64_t updates) {
  nn::Sequential model = mlp(norm);
  model.to(device);
  optim::SGD sgd{model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 1e-3, .max_norm = 1.0}};
  const data::Loader loader{dataset(), {.batch = data::MiniBatch{32}, .seed = 5, .device = device}};
  Training run;
  for (std::int64_t epoch = 0; static_cast<std::int64_t>(run.losses.size()) < updates; ++epoch)
    for (data::Update& update : loader.epoch(epoch)) {
      for (const data::MicroBatch& micro : update) {
        const auto scope = micro.scope();
        update.backward(cross_entropy(model(micro.input), micro.target));
      }
      sgd.step(update.window());
      run.losses.push_back(update.window().mean_loss());
      if (static_cast<std::int64_t>(run.losses.size()) == updates) break;
    }
  for (const auto& [name, tensor] : model.state_dict()) run.tensors.push_back(test::back(tensor.alias()));
  for (const auto& [name, tensor] : sgd.state()) run.tensors.push_back(test::back(tensor));
  return run;
}

// Both add the same numbers in another order: an ulp here and there, which training carries on. Measured: losses differ by
// less than 1e-6 over the first 5 updates and by less than 2e-5 after 50.
TEST_P(DeviceTrainingGpu, FollowsTheCpu) {
  for (const std::string norm : {"none", "batch", "layer"}) {
    const Training want = train(norm, Device{}, 50), got = train(norm, device(), 50);
    double worst = 0;
    for (std::size_t i = 0; i < want.losses.size(); ++i) {
      const double error = std::fabs(got.losses[i] - want.losses[i]) / want.losses[i];
      worst = std::fmax(worst, error);
      EXPECT_LE(error, i < 5 ? 1e-5 : 1e-3) << norm << ", update " << i + 1;
    }
    RecordProperty("worst_loss_error_" + norm, fmt::format("{:.1e}", worst));
    EXPECT_LT(want.losses.back(), 0.8 * want.losses.front()) << "it does not learn: the comparison would mean nothing";
    ASSERT_EQ(want.tensors.size(), got.tensors.size());
  }
}

TEST_P(DeviceTrainingGpu, RepeatsBitwiseInEveryThreadOrder) {
  for (const std::string norm : {"none", "batch", "layer"})
    test::in_every_order(device(), [&] { return train(norm, device(), 6).tensors; });
  const Training first = train("batch", device(), 3), second = train("batch", device(), 3);
  for (std::size_t i = 0; i < first.tensors.size(); ++i)
    EXPECT_TRUE(test::bitwise_equal(first.tensors[i], second.tensors[i]));
}

// Deferred streams run the kernels long after the calls that started them: nothing may lean on when that is.
TEST_P(DeviceTrainingGpu, DoesNotDependOnWhenTheDeviceRuns) {
  if (!emulated()) GTEST_SKIP() << "a GPU is always deferred";
  const Training want = train("batch", device(), 3);
  simt::set_stream_mode(simt::StreamMode::deferred);
  const Training got = train("batch", device(), 3);
  synchronize(device());
  simt::set_stream_mode(simt::StreamMode::immediate);
  for (std::size_t i = 0; i < want.tensors.size(); ++i)
    EXPECT_TRUE(test::bitwise_equal(want.tensors[i], got.tensors[i])) << i;
}

TEST_P(DeviceTrainingGpu, GivesAllMemoryBack) {
  train("layer", device(), 2);  // what is kept for good: status word, default stream
  synchronize(device());
  const std::int64_t before = gpu::memory_stats(device()).current_bytes;
  train("layer", device(), 2);
  synchronize(device());
  EXPECT_EQ(gpu::memory_stats(device()).current_bytes, before);
}

// A label that only the device can see is wrong: nothing is changed by the update, the error names it, and the run goes on.
TEST_P(DeviceTrainingGpu, ABadLabelChangesNothing) {
  nn::Sequential model = mlp("none");
  model.to(device());
  optim::SGD sgd{model.parameters(), {.lr = 0.1}};
  const Tensor x = test::on(device(), randn({4, kFeatures}, 1));
  const std::vector<float> before = model.parameters()[0].to_vector<float>();
  const auto update = [&](std::int64_t label) {
    Window window;
    window.backward(
        cross_entropy(model(x), test::on(device(), Tensor::from_vector<std::int64_t>({0, label, 2, 3}, {4}))));
    sgd.step(window);
    sgd.check();
  };
  const std::string message = test::message_of<Error>([&] { update(kClasses); });
  EXPECT_NE(message.find("[cross_entropy] target 7 at row 1 is outside [0, 7)"), std::string::npos) << message;
  sgd.zero_grad();
  EXPECT_EQ(model.parameters()[0].to_vector<float>(), before);
  EXPECT_EQ(sgd.applied(), 0);
  update(1);
  EXPECT_NE(model.parameters()[0].to_vector<float>(), before);
  EXPECT_EQ(sgd.applied(), 1);
}

TEST_P(DeviceTrainingGpu, OptimizerFollowsItsModelToAnotherDevice) {
  const auto run = [&](bool move) {
    nn::Sequential model = mlp("none");
    optim::AdamW adamw{model.parameters(), {.lr = 1e-2}};
    const Tensor x = randn({8, kFeatures}, 1), y = Tensor::from_vector<std::int64_t>({0, 1, 2, 3, 4, 5, 6, 0}, {8});
    const auto update = [&](Device on) {
      Window window;
      window.backward(cross_entropy(model(to(x, on)), to(y, on)));
      adamw.step(window);
      return window.mean_loss();
    };
    update({});
    update({});
    if (move) model.to(device());
    update(move ? device() : Device{});
    EXPECT_EQ(adamw.applied(), 3);
    return update(move ? device() : Device{});
  };
  EXPECT_NEAR(run(true), run(false), 1e-5);
}

// A failed allocation is an exception with the numbers, and leaves everything usable.
TEST_P(DeviceTrainingGpu, OutOfMemoryIsAnError) {
  if (!emulated()) GTEST_SKIP() << "the failpoint is the emulator's";
  const Tensor x = test::on(device(), randn({8, kFeatures}, 1));
  nn::Sequential model = mlp("layer");
  model.to(device());
  for (std::int64_t n = 1; n < 200; ++n) {
    simt::fail_malloc_at(n);
    bool failed = false;
    try {
      model(x);
    } catch (const OutOfMemory& error) {
      failed = true;
      EXPECT_GT(error.requested_bytes, 0);
    }
    simt::fail_malloc_at(0);
    if (!failed) {
      EXPECT_GT(n, 3);
      break;
    }
  }
  EXPECT_TRUE(std::isfinite(test::values(test::back(model(x)))[0]));
}

TEST_P(DeviceTrainingGpu, AFailedLaunchIsAnError) {
  if (!emulated()) GTEST_SKIP() << "the failpoint is the emulator's";
  const Tensor x = test::on(device(), randn({8, kFeatures}, 1));
  simt::fail_launch_at(1);
  const std::string message = test::message_of<DeviceError>([&] { cast(x, Dtype::f64); });
  EXPECT_NE(message.find("the launch failed: injected failure"), std::string::npos) << message;
  simt::fail_launch_at(0);
  EXPECT_TRUE(std::isfinite(test::values(test::back(x))[0]));
}

}  // namespace
}  // namespace weft
