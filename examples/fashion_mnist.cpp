// fashion_mnist: trains an MLP on Fashion-MNIST and writes a report
//
//   ./run fashion_mnist                                     mini-batches of 128, three epochs
//   ./run fashion_mnist --batch-size 1 --lr 1e-4            pure SGD: one sample per update
//   ./run fashion_mnist --batch-size full --accumulate 20 --epochs 100    the full batch, in 20 micro-batches
//   ./run verify_partition fashion_mnist --norm layer       does one update's gradient depend on how it is cut?
//   ./run fashion_mnist --resume --epochs 5                 goes on with the run in runs/fashion_mnist
//   ./run fashion_mnist --eval runs/fashion_mnist           its accuracy; --predict FILE: the classes of other images
//
// 60 000 grey images of 28 x 28 pixels show ten kinds of clothes. A multi-layer perceptron learns to tell them apart; 10 000
// other images measure how well. This file holds what belongs to this problem: the model and the data. The loop, which
// walks over updates and their micro-batches, is train::Trainer; data/loader.h shows it in eight lines.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <weft/weft.h>

using namespace weft;

namespace {

/// Adds a normalisation of `features` numbers per sample. BatchNorm uses the mean and variance of each feature over the
/// batch, LayerNorm those of each sample over its features, GroupNorm those of each sample over each of 16 groups of
/// features: only the first cares how a batch was cut.
void push_norm(nn::Sequential& model, const std::string& norm, std::int64_t features) {
  if (norm == "batch") model.push(nn::BatchNorm1d{features});
  if (norm == "layer") model.push(nn::LayerNorm{features});
  if (norm == "group") model.push(nn::GroupNorm{16, features});
}

/// 784 pixels -> 512 -> 256 -> 10 classes.
nn::Sequential make_model(const std::string& norm) {
  nn::Sequential model{nn::Flatten{}};  // [B, 28, 28] -> [B, 784]
  std::int64_t width = data::FashionMnist::kSide * data::FashionMnist::kSide;
  for (const std::int64_t hidden : {512, 256}) {
    model.push(nn::Linear{width, hidden});
    push_norm(model, norm, hidden);
    model.push(nn::ReLU{});
    width = hidden;
  }
  model.push(nn::Linear{width, data::FashionMnist::kClasses});  // the logits
  return model;
}

int run(int argc, char** argv) {
  // 1. What was asked for. The common options (--batch-size, --epochs, --lr, ...) come with the command line.
  std::string norm = "auto";
  bool verify = false;
  train::CommandLine line("fashion_mnist", "trains an MLP on Fashion-MNIST and writes a report");
  line.choice("--norm", norm, {"auto", "batch", "layer", "group", "none"}, "normalisation of the hidden layers");
  line.flag("--verify-partition", verify,
            "cut one update in several ways and compare the gradients, instead of training");
  train::Options options = line.parse(argc, argv);

  const auto loss = [](const Tensor& logits, const Tensor& labels) { return cross_entropy(logits, labels); };
  const std::vector<std::string> names(data::FashionMnist::kClassNames.begin(), data::FashionMnist::kClassNames.end());
  if (train::uses_trained_model(options)) {  // --eval, --predict: with the normalisation that the run chose
    nn::Sequential model = make_model(norm);
    model.to(options.device);
    const auto trained = train::Model::of(model);
    if (options.eval_run.empty())
      return train::predict_rows(trained, data::FashionMnist::read_images(options.predict_file), names, options);
    return train::evaluate_trained(trained, loss, data::FashionMnist::test(options.data_dir), options);
  }

  // 2. The data, and the plan: which samples each update sees.
  auto training = data::FashionMnist::train(options.data_dir);
  auto test = data::FashionMnist::test(options.data_dir);
  const data::Plan plan(training.size(), train::loader_options(options).plan());

  // 3. The model. The seed decides its initial parameters, on every device the same.
  nn::manual_seed(options.seed);
  nn::Sequential model = make_model(train::choose_norm(norm, plan, options));
  model.to(options.device);
  if (verify) {
    const data::SampleBatches source(std::make_shared<const data::FashionMnist>(training),
                                     train::loader_options(options).plan());
    const auto run = [&](const data::MicroBatch& micro) { return loss(model(micro.input), micro.target); };
    return train::print_partition(train::verify_partition(model, run, source, {.device = options.device}), options);
  }

  // 4. Training: metrics.jsonl, summary.json and checkpoint.safetensors appear in the folder of --out.
  train::Trainer trainer(model, loss, training, test, options);
  const train::Summary summary = trainer.run();

  // 5. The report, with the predictions for the test images.
  trainer.write_report({.title = "Fashion-MNIST",
                        .description = "A multi-layer perceptron, 784-512-256-10, tells ten kinds of clothes apart.",
                        .classes = names,
                        .images = test.images()});
  return train::exit_status(summary);
}

}  // namespace

int main(int argc, char** argv) {
  return train::run_example([&] { return run(argc, argv); });
}
