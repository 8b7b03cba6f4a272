// The certificate, and what it certifies of packed sequences: gradients do not depend on how an update is cut, and no segment
// reaches another. (P6, P7, P8, P10, A1, A2, A4, A9, A10, A12.)
#include "train/partition.h"

#include <cmath>
#include <memory>
#include <random>

#include <gtest/gtest.h>

#include "autograd/cast.h"
#include "autograd/cross_entropy.h"
#include "autograd/elementwise.h"
#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "autograd/reduce.h"
#include "data/sample_batches.h"
#include "data/tensor_dataset.h"
#include "nn/activation.h"
#include "nn/batch_norm.h"
#include "nn/group_norm.h"
#include "nn/init.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/sequential.h"
#include "support/byte_mlp.h"
#include "support/compare.h"
#include "support/devices.h"

namespace weft {
namespace {

using data::MicroBatch;
using test::back;
using test::bitwise_equal;
using test::message_of;
using test::relative_error;
using test::values;

constexpr std::int64_t kVocabulary = 40, kWidth = 4;

using Mlp = test::ByteMlp;
Mlp make_mlp(Dtype dtype, Device device = {}, double p = 0) {
  nn::manual_seed(5);
  Mlp model({.vocabulary = kVocabulary, .window = kWidth, .dtype = dtype, .dropout = p});
  nn::to(model, device);
  return model;
}

// Token ids of documents of these lengths; the same for the same place of the same document.
using Document = std::vector<std::int64_t>;
std::vector<Document> documents(const std::vector<std::int64_t>& lengths, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::vector<Document> all;
  for (const std::int64_t length : lengths) {
    Document& document = all.emplace_back();
    for (std::int64_t i = 0; i < length; ++i) document.push_back(static_cast<std::int64_t>(random() % kVocabulary));
  }
  return all;
}

// Rows of documents (by number) side by side, with next-token labels and padding behind them: what a collation of packed or
// padded sequences must make. Written out here so that it does not follow the data layer's own.
MicroBatch batch_of(const std::vector<Document>& all, const std::vector<std::vector<std::size_t>>& rows,
                    std::int64_t width, bool sequence_mean = false) {
  const auto count = static_cast<std::int64_t>(rows.size());
  MicroBatch micro;
  micro.input = zeros({count, width}, Dtype::i64);
  micro.target = full({count, width}, -100, Dtype::i64);
  micro.sample_ids = zeros({count, width}, Dtype::i64);
  micro.positions = zeros({count, width}, Dtype::i64);
  if (sequence_mean) micro.weight = zeros({count, width});
  std::vector<std::int32_t> offsets{0};
  for (std::int64_t r = 0; r < count; ++r) {
    std::int64_t at = r * width;
    for (const std::size_t d : rows[static_cast<std::size_t>(r)]) {
      const Document& document = all[d];
      for (std::size_t i = 0; i < document.size(); ++i, ++at) {
        micro.input.data<std::int64_t>()[at] = document[i];
        micro.sample_ids.data<std::int64_t>()[at] = static_cast<std::int64_t>(d);
        micro.positions.data<std::int64_t>()[at] = static_cast<std::int64_t>(i);
        if (i + 1 == document.size()) continue;
        micro.target.data<std::int64_t>()[at] = document[i + 1];
        if (sequence_mean) micro.weight.data<float>()[at] = 1.0f / static_cast<float>(document.size() - 1);
      }
      offsets.push_back(static_cast<std::int32_t>(at));
    }
    if (at < (r + 1) * width) offsets.push_back(static_cast<std::int32_t>((r + 1) * width));
  }
  micro.segments = Segments(offsets);
  micro.update = Tensor::from_vector<std::int64_t>({3}, {});
  micro.seed = 11;
  return micro;
}

MicroBatch moved(MicroBatch micro, Device device) {
  for (Tensor* field : {&micro.input, &micro.target, &micro.weight, &micro.sample_ids, &micro.positions, &micro.update})
    if (field->defined()) *field = to(*field, device);
  micro.segments = micro.segments.to(device);
  return micro;
}

Loss loss_of(Mlp& model, const MicroBatch& micro) {
  return cross_entropy(model(micro.input, micro.segments), micro.target, {.token_weights = micro.weight});
}

struct Result {
  std::vector<double> gradient = {};  // of the update, all parameters
  double loss = 0, denominator = 0;
};

Result run(Mlp& model, const std::vector<MicroBatch>& micros, Device device = {}) {
  for (const Tensor& parameter : nn::parameters(model)) zero_grad(parameter);
  Window window;
  for (const MicroBatch& on_cpu : micros) {
    const MicroBatch micro = moved(on_cpu, device);
    const auto scope = micro.scope();
    window.backward(loss_of(model, micro));
  }
  Result result{.loss = window.mean_loss(), .denominator = window.denominator().item<double>()};
  for (const Tensor& parameter : nn::parameters(model))
    for (const double value : values(back(grad(parameter)))) result.gradient.push_back(value / result.denominator);
  return result;
}

const std::vector<std::int64_t> kLengths = {9, 1, 4, 17, 2, 6, 12, 3, 5, 1, 8, 13};

// The same documents in every shape that a data layer hands out.
std::vector<std::pair<std::string, std::vector<MicroBatch>>> every_cut(const std::vector<Document>& all,
                                                                       bool sequence_mean = false) {
  const auto make = [&](const std::vector<std::vector<std::size_t>>& rows, std::int64_t width) {
    return batch_of(all, rows, width, sequence_mean);
  };
  std::vector<std::vector<std::size_t>> single;
  std::vector<MicroBatch> alone, ragged;
  for (std::size_t d = 0; d < all.size(); ++d) {
    single.push_back({d});
    alone.push_back(make({{d}}, static_cast<std::int64_t>(all[d].size())));
  }
  for (std::size_t d = 0, size = 1; d < all.size(); d += size, ++size) {
    std::vector<std::vector<std::size_t>> rows;
    for (std::size_t i = d; i < std::min(d + size, all.size()); ++i) rows.push_back({i});
    ragged.push_back(make(rows, 18));
  }
  const std::vector<std::vector<std::size_t>> packed = {{3}, {11, 2, 1}, {6, 8, 9}, {0, 10}, {5, 7, 4}};
  std::vector<MicroBatch> row_by_row;
  row_by_row.reserve(packed.size());
  for (const auto& row : packed) row_by_row.push_back(make({row}, 18));
  return {{"padded to the longest", {make(single, 17)}},
          {"padded further", {make(single, 64)}},
          {"each alone", alone},
          {"ragged", ragged},
          {"packed", {make(packed, 18)}},
          {"packed, row by row", row_by_row},
          {"packed, long rows", {make({{3, 11, 2, 1, 6, 8}, {9, 0, 10, 5, 7, 4}}, 60)}},
          {"one row", {make({{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}, 81)}}};
}

class PartitionOn : public test::DeviceTest {};
WEFT_DEVICE_SUITE(PartitionOn);

// A1, A9, P10 (token mean): the whole gradient, whatever the cut.
TEST_P(PartitionOn, EveryCutGivesTheSameGradient) {
  const std::vector<Document> all = documents(kLengths);
  for (const Dtype dtype : {Dtype::f32, Dtype::f64})
    for (const double p : {0.0, 0.3}) {  // A10: dropout keyed by sample and position
      Mlp model = make_mlp(dtype, device(), p);
      const auto cuts = every_cut(all);
      const Result first = run(model, cuts[0].second, device());
      EXPECT_EQ(first.denominator, 69);  // 81 tokens, 12 of which are the last ones
      for (const auto& [name, micros] : cuts) {
        const Result result = run(model, micros, device());
        EXPECT_EQ(result.denominator, first.denominator) << name;
        EXPECT_NEAR(result.loss, first.loss, dtype == Dtype::f32 ? 1e-6 : 1e-14) << name;
        EXPECT_LE(relative_error(result.gradient, first.gradient), dtype == Dtype::f32 ? 1e-6 : 1e-12)
            << name << ", " << to_string(dtype) << ", dropout " << p;
      }
    }
}

// P10: the mean over sequences of each one's mean, by weights 1/labels, does not depend on the cut either.
TEST_P(PartitionOn, TheMeanOverSequencesTooByWeights) {
  const std::vector<Document> all = documents(kLengths);
  Mlp model = make_mlp(Dtype::f64, device());
  const auto cuts = every_cut(all, true);
  double sum = 0, sequences = 0;  // by definition, one document at a time
  for (std::size_t d = 0; d < all.size(); ++d) {
    if (all[d].size() < 2) continue;
    const MicroBatch alone = moved(batch_of(all, {{d}}, static_cast<std::int64_t>(all[d].size())), device());
    sum += loss_of(model, alone).mean().item<double>();
    ++sequences;
  }
  const Result first = run(model, cuts[0].second, device());
  for (const auto& [name, micros] : cuts) {
    const Result result = run(model, micros, device());
    EXPECT_NEAR(result.denominator, sequences, 1e-6) << name;  // the weights are f32
    EXPECT_NEAR(result.loss, sum / sequences, 1e-7) << name;
    EXPECT_LE(relative_error(result.gradient, first.gradient), 1e-12) << name;
  }
}

// P6: the logits of a segment are those of the document alone. (Not to the bit: a matrix product may cut its sums otherwise
// for another number of rows.)
TEST_P(PartitionOn, LogitsInAPackAreThoseOfTheDocumentAlone) {
  const std::vector<Document> all = documents(kLengths);
  Mlp model = make_mlp(Dtype::f32, device());
  const NoGrad guard;
  const MicroBatch packed = moved(batch_of(all, {{3, 11, 2, 1, 6, 8}, {9, 0, 10, 5, 7, 4}}, 60), device());
  const Tensor logits = reshape(back(model(packed.input, packed.segments)), {120, kVocabulary});
  const Tensor ids = reshape(back(packed.sample_ids), {120});
  for (std::int64_t s = 0; s < packed.segments.count(); ++s) {
    const std::int64_t begin = packed.segments.offsets()[static_cast<std::size_t>(s)],
                       end = packed.segments.offsets()[static_cast<std::size_t>(s) + 1];
    const auto d = static_cast<std::size_t>(ids.data<std::int64_t>()[begin]);
    if (static_cast<std::size_t>(end - begin) != all[d].size()) continue;  // padding
    const MicroBatch alone = moved(batch_of(all, {{d}}, end - begin), device());
    const Tensor want = reshape(back(model(alone.input, alone.segments)), {end - begin, kVocabulary});
    EXPECT_LE(test::max_error(values(clone(logits.slice(0, begin, end))), values(want)), 1e-5) << "document " << d;
  }
}

// P7: the derivative of one document's loss in another's embeddings is exactly 0, and a pack's gradient of the weights is the
// sum over its documents.
TEST_P(PartitionOn, ALossHasNoDerivativeInAnotherDocument) {
  const std::vector<Document> all = documents({5, 7, 3, 6});
  const std::vector<std::vector<std::size_t>> rows = {{0, 1}, {2, 3}};
  for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
    Mlp model = make_mlp(dtype, device());
    std::vector<double> summed;
    for (std::size_t d = 0; d < all.size(); ++d) {
      MicroBatch micro = batch_of(all, rows, 14);
      for (std::int64_t at = 0; at < 28; ++at)  // the labels of document d alone
        if (micro.sample_ids.data<std::int64_t>()[at] != static_cast<std::int64_t>(d))
          micro.target.data<std::int64_t>()[at] = -100;
      const Tensor ids = micro.sample_ids, positions = micro.positions;
      micro = moved(micro, device());
      const Tensor leaf = set_requires_grad(clone(detach(model.embedding(micro.input))));  // an output for each place
      for (const Tensor& parameter : nn::parameters(model)) zero_grad(parameter);
      backward(cross_entropy(model.after_embedding(leaf, micro.segments), micro.target).sum);
      const std::vector<double> dx = values(back(grad(leaf)));
      const std::size_t channels = dx.size() / 28;
      for (std::size_t place = 0; place < 28; ++place) {
        const bool own =
            ids.data<std::int64_t>()[place] == static_cast<std::int64_t>(d) && (place < 14 ? place < 12 : place < 23);
        // The last token of a document predicts nothing, and no later one of it sees it.
        const bool last = own && positions.data<std::int64_t>()[place] + 1 == static_cast<std::int64_t>(all[d].size());
        double norm = 0;
        for (std::size_t c = 0; c < channels; ++c) norm += std::fabs(dx[place * channels + c]);
        if (own && !last) {
          EXPECT_GT(norm, 0) << "document " << d << " place " << place;
        } else {
          EXPECT_EQ(norm, 0) << "document " << d << " place " << place;
        }
      }
      std::vector<double> weights = values(back(grad(model.hidden.weight)));
      summed.resize(weights.size(), 0.0);
      for (std::size_t i = 0; i < weights.size(); ++i) summed[i] += weights[i];
    }
    for (const Tensor& parameter : nn::parameters(model)) zero_grad(parameter);
    backward(loss_of(model, moved(batch_of(all, rows, 14), device())).sum);
    EXPECT_LE(relative_error(values(back(grad(model.hidden.weight))), summed), dtype == Dtype::f32 ? 1e-6 : 1e-12);
  }
}

// P8, A12: whatever stands in another document or under padding (other tokens, huge or infinite embeddings), the losses of a
// document keep their bits.
TEST_P(PartitionOn, APoisonedDocumentDoesNotReachTheOthers) {
  const std::vector<Document> all = documents({5, 7, 3, 6});
  Mlp model = make_mlp(Dtype::f32, device());
  const NoGrad guard;
  const MicroBatch micro = moved(batch_of(all, {{0, 1}, {2, 3}}, 14), device());
  const Tensor embedded = back(model.embedding(micro.input)).alias();
  const auto logits_of = [&](const Tensor& x) {
    return reshape(back(model.after_embedding(test::on(device(), x), micro.segments)), {28, kVocabulary});
  };
  const Tensor clean = logits_of(embedded);
  for (const double poison : {1e30, HUGE_VAL, std::nan("")})
    for (std::int64_t s = 0; s < micro.segments.count(); ++s) {
      const std::int64_t begin = micro.segments.offsets()[static_cast<std::size_t>(s)],
                         end = micro.segments.offsets()[static_cast<std::size_t>(s) + 1];
      const Tensor poisoned = clone(embedded);
      fill_(reshape(poisoned, {28, 8}).slice(0, begin, end), poison);
      const Tensor logits = logits_of(poisoned);
      for (const auto& [from, to] : {std::pair{std::int64_t{0}, begin}, std::pair{end, std::int64_t{28}}})
        EXPECT_TRUE(bitwise_equal(clone(logits.slice(0, from, to)), clone(clean.slice(0, from, to))))
            << "segment " << s << " filled with " << poison;
    }
}

// A4: micro-batches without a label add nothing, to the bit.
TEST_P(PartitionOn, MicroBatchesWithoutALabelAddNothing) {
  const std::vector<Document> all = documents(kLengths);
  Mlp model = make_mlp(Dtype::f32, device());
  const MicroBatch first = batch_of(all, {{0}, {3}}, 18), second = batch_of(all, {{6, 7}}, 18),
                   single_tokens = batch_of(all, {{1}, {9}}, 18), padding = batch_of(all, {{}, {}}, 18);
  const Result without = run(model, {first, second}, device());
  const Result with = run(model, {padding, first, single_tokens, second, padding}, device());
  EXPECT_EQ(with.denominator, without.denominator);
  EXPECT_EQ(with.loss, without.loss);
  EXPECT_EQ(with.gradient, without.gradient);
}

// A12: the options of the loss, whose denominator is a sum of weights, in any cut.
TEST(Partition, ClassWeightsSmoothingAndZLossInEveryCut) {
  const std::vector<Document> all = documents(kLengths);
  std::vector<double> class_weights;
  for (std::int64_t v = 0; v < kVocabulary; ++v) class_weights.push_back(0.25 + static_cast<double>(v % 5));
  const Tensor weight = Tensor::from_vector(class_weights, {kVocabulary});
  Mlp model = make_mlp(Dtype::f64);
  std::vector<double> first;
  double first_loss = 0;
  for (const auto& [name, micros] : every_cut(all)) {
    for (const Tensor& parameter : nn::parameters(model)) zero_grad(parameter);
    Window window;
    for (const MicroBatch& micro : micros)
      window.backward(cross_entropy(model(micro.input, micro.segments), micro.target,
                                    {.weight = weight, .label_smoothing = 0.1, .z_loss = 1e-3}));
    std::vector<double> gradient;
    for (const Tensor& parameter : nn::parameters(model))
      for (const double value : values(grad(parameter)))
        gradient.push_back(value / window.denominator().item<double>());
    if (first.empty()) {
      first = gradient;
      first_loss = window.mean_loss();
    }
    EXPECT_LE(relative_error(gradient, first), 1e-12) << name;
    EXPECT_NEAR(window.mean_loss(), first_loss, 1e-13) << name;
  }
}

// --- verify_partition -------------------------------------------------------------------------------------------------

// A source of one update: these micro-batches.
class Fixed final : public data::BatchSource {
 public:
  explicit Fixed(std::vector<MicroBatch> micros) : micros_(std::move(micros)) {}
  std::string name() const override { return "fixed"; }
  std::int64_t samples() const override { return 12; }
  std::int64_t updates_per_epoch(std::int64_t) const override { return 1; }
  std::int64_t updates_before(std::int64_t epoch) const override { return epoch; }
  data::PlannedUpdate update(std::int64_t epoch, std::int64_t index) const override {
    data::PlannedUpdate update;
    update.number = epoch + 1;
    update.epoch = epoch;
    update.index = index;
    update.samples = 12;
    update.parts = static_cast<std::int64_t>(micros_.size());
    return update;
  }
  MicroBatch collate(const data::PlannedUpdate&, std::int64_t k) const override {
    return micros_[static_cast<std::size_t>(k)];
  }
  std::uint64_t seed() const override { return 11; }
  std::uint64_t hash() const override { return 0; }

 private:
  std::vector<MicroBatch> micros_;
};

std::vector<std::string> names(const train::PartitionReport& report) {
  std::vector<std::string> all;
  for (const train::PartitionRow& row : report.rows) all.push_back(row.name);
  return all;
}

TEST_P(PartitionOn, TheCertificateHoldsForSequencesOfAnyLayout) {
  const std::vector<Document> all = documents(kLengths);
  for (const auto& [name, micros] : every_cut(all)) {
    if (emulated() && name != "ragged" && name != "packed") continue;  // seconds
    SCOPED_TRACE(name);
    Mlp model = make_mlp(Dtype::f64, device(), 0.2);
    const std::vector<double> before = values(back(model.hidden.weight.alias()));
    const auto report = train::verify_partition(model, [&](const MicroBatch& micro) { return loss_of(model, micro); },
                                                Fixed(micros), {.device = device()});
    EXPECT_TRUE(report.passed()) << report.text();
    EXPECT_EQ(report.tolerance, 1e-12);
    EXPECT_EQ(report.batch, "update 1 of fixed: 10 sequences");  // two of the twelve have no label
    EXPECT_EQ(names(report), (std::vector<std::string>{"1xB", "Bx1", "ragged", "padded", "packed", "packed, row by row",
                                                       "as planned"}));
    for (const train::PartitionRow& row : report.rows) EXPECT_EQ(row.denominator, 69) << row.name;
    EXPECT_EQ(report.rows[1].micro_batches, 10);
    EXPECT_EQ(report.rows[1].places, 79);
    EXPECT_EQ(values(back(model.hidden.weight.alias())), before);
    EXPECT_FALSE(grad(model.hidden.weight).defined());
  }
}

// What the certificate is for: mistakes that users of other libraries met.
TEST(Partition, FindsALossThatIsAMeanOfMeans) {
  const auto cuts = every_cut(documents(kLengths));
  Mlp model = make_mlp(Dtype::f32);
  const auto mean = [&](const MicroBatch& micro) { return Loss{loss_of(model, micro).mean(), scalar(1, Dtype::f64)}; };
  const auto report = train::verify_partition(model, mean, Fixed(cuts[0].second));
  EXPECT_FALSE(report.passed()) << report.text();
  EXPECT_GT(report.rows[1].distance, 0.01);
  EXPECT_NE(report.verdict().find("or the loss is not a sum and a denominator"), std::string::npos);
}

TEST(Partition, FindsAModelThatLooksIntoOtherDocuments) {
  const auto cuts = every_cut(documents(kLengths));
  Mlp model = make_mlp(Dtype::f32);
  const auto leaking = [&](const MicroBatch& micro) {  // one segment per row: the documents of a pack see each other
    const std::int64_t rows = micro.input.size(0), width = micro.input.size(1);
    std::vector<std::int32_t> offsets;
    for (std::int64_t r = 0; r <= rows; ++r) offsets.push_back(static_cast<std::int32_t>(r * width));
    return cross_entropy(model(micro.input, Segments(offsets)), micro.target);
  };
  const auto report = train::verify_partition(model, leaking, Fixed(cuts[0].second));
  EXPECT_FALSE(report.passed()) << report.text();
  for (const train::PartitionRow& row : report.rows) {
    const bool packed = row.name.substr(0, 6) == "packed";
    EXPECT_EQ(row.distance > 0.01, packed) << report.text();
  }
}

TEST(Partition, FindsALabelUnderPadding) {
  const std::vector<Document> all = documents(kLengths);
  Mlp model = make_mlp(Dtype::f32);
  const auto counts_padding = [&](const MicroBatch& micro) {  // padding id 0 told by its value, and as a label
    MicroBatch wrong = micro;
    wrong.target = clone(micro.target);
    for (std::int64_t i = 0; i < wrong.target.numel(); ++i)
      if (wrong.target.data<std::int64_t>()[i] < 0) wrong.target.data<std::int64_t>()[i] = 0;
    return loss_of(model, wrong);
  };
  const auto report = train::verify_partition(model, counts_padding, Fixed(every_cut(all)[0].second));
  EXPECT_FALSE(report.passed()) << report.text();
  EXPECT_GT(report.rows[1].distance, 0.01);
}

data::SampleBatches samples(std::int64_t count, const data::PlanOptions& options) {
  const Tensor targets = Tensor::empty({count}, Dtype::i64);
  for (std::int64_t i = 0; i < count; ++i) targets.data<std::int64_t>()[i] = i % 7 == 0 ? -100 : i * 31 % 10;
  return data::SampleBatches(std::make_shared<const data::TensorDataset>(randn({count, 6, 4}, 4), targets), options);
}

template <class Norm>
nn::Sequential classifier(Norm norm, double p = 0) {
  nn::manual_seed(3);
  nn::Sequential model{nn::Flatten{}, nn::Linear{24, 32}};
  model.push(std::move(norm));
  model.push(nn::ReLU{});
  if (p > 0) model.push(nn::Dropout{p});
  model.push(nn::Linear{32, 10});
  return model;
}

// A1, A2, A9, A10 of samples of one size: cut in K parts, the last update of an epoch, with dropout.
TEST(Partition, TheCertificateHoldsForSamples) {
  for (const std::int64_t accumulate : {1, 5}) {
    const auto source = samples(100, {.batch = data::MiniBatch{64}, .accumulate = accumulate, .seed = 2});
    for (const std::int64_t index : {0, 1}) {
      nn::Sequential layer = classifier(nn::LayerNorm{32}, 0.25), group = classifier(nn::GroupNorm{4, 32});
      for (nn::Sequential* model : {&layer, &group}) {
        const auto loss = [&](const MicroBatch& micro) { return cross_entropy((*model)(micro.input), micro.target); };
        const auto report = train::verify_partition(*model, loss, source, {.index = index});
        EXPECT_TRUE(report.passed()) << report.text();
        EXPECT_EQ(names(report),
                  (accumulate == 1 ? std::vector<std::string>{"1xB", "Bx1", "ragged", "padded"}
                                   : std::vector<std::string>{"1xB", "Bx1", "ragged", "padded", "as planned"}));
      }
    }
  }
}

TEST(Partition, SaysWhyBatchNormDiffers) {
  nn::Sequential model = classifier(nn::BatchNorm1d{32});
  const nn::NamedTensors buffers = nn::named_buffers(model);
  std::vector<std::vector<double>> before;
  for (const auto& [name, tensor] : buffers) before.push_back(values(tensor));
  const auto loss = [&](const MicroBatch& micro) { return cross_entropy(model(micro.input), micro.target); };
  const auto report =
      train::verify_partition(model, loss, samples(100, {.batch = data::MiniBatch{64}, .accumulate = 4}));
  EXPECT_FALSE(report.passed());
  EXPECT_NE(report.rows[1].refused.find("[batch_norm]"), std::string::npos) << report.text();  // a sample alone
  EXPECT_GT(report.rows.back().distance, 0.01);
  EXPECT_NE(report.verdict().find(
                "BatchNorm normalises every micro-batch with the mean and the variance of that micro-batch"),
            std::string::npos);
  EXPECT_NE(report.text().find("refused: "), std::string::npos);
  for (std::size_t i = 0; i < buffers.size(); ++i) EXPECT_EQ(values(buffers[i].second), before[i]) << buffers[i].first;
}

TEST(Partition, ABatchWithoutALabelIsRefused) {
  const std::vector<Document> all = documents(kLengths);
  Mlp model = make_mlp(Dtype::f32);
  EXPECT_EQ(message_of<OptionError>([&] {
              train::verify_partition(
                  model, [&](const MicroBatch& micro) { return loss_of(model, micro); },
                  Fixed({batch_of(all, {{1}, {9}}, 4)}));
            }),
            "[verify_partition] update 1 of fixed holds no label");
}

TEST(Partition, TheReportAsJson) {
  Mlp model = make_mlp(Dtype::f32);
  const auto report = train::verify_partition(
      model, [&](const MicroBatch& micro) { return loss_of(model, micro); },
      Fixed(every_cut(documents(kLengths))[0].second));
  const std::string json = report.json();
  EXPECT_NE(json.find("\"passed\": true"), std::string::npos) << json;
  EXPECT_NE(json.find("\"cut\": \"packed, row by row\""), std::string::npos) << json;
  EXPECT_NE(report.text().find("the same gradient to 1e-06"), std::string::npos) << report.text();
}

}  // namespace
}  // namespace weft
