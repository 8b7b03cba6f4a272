#include "train/partition.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <span>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "autograd/cast.h"
#include "autograd/engine.h"
#include "autograd/layout.h"
#include "data/packing.h"

namespace weft::train {
namespace {

using data::MicroBatch;

constexpr std::int64_t kIgnored = -100;

// A sample (a row of a micro-batch), or a sequence (a segment of one). Places are rows, or tokens.
struct Unit {
  std::size_t part = 0;
  std::int64_t first = 0, length = 1;  // places within the part
};
using Row = std::vector<Unit>;  // units side by side, padding behind them

// The update's micro-batches as the source makes them, on the cpu, and the units they are made of.
class Batch {
 public:
  Batch(const data::BatchSource& source, const data::PlannedUpdate& update) : seed_(source.seed()) {
    for (std::int64_t k = 0; k < update.parts; ++k) parts_.push_back(source.collate(update, k));
    number_ = Tensor::from_vector<std::int64_t>({update.number}, {});
    for (MicroBatch& part : parts_) {
      part.update = number_;
      part.seed = seed_;
      sequences_ = sequences_ || part.segments.defined();
    }
    for (std::size_t p = 0; p < parts_.size(); ++p) collect(p);
  }

  bool sequences() const { return sequences_; }
  bool labels() const { return parts_[0].target.dtype() == Dtype::i64; }
  const std::vector<MicroBatch>& parts() const { return parts_; }
  const std::vector<Unit>& units() const { return units_; }
  std::int64_t width() const { return width_; }      // of the source's rows
  std::int64_t longest() const { return longest_; }  // unit

  // A micro-batch of these rows, each of `width` places (1 for samples of one size).
  MicroBatch made_of(std::span<const Row> rows, std::int64_t width, std::int64_t index) const {
    MicroBatch micro;
    micro.index = index;
    micro.update = number_;
    micro.seed = seed_;
    micro.input = gathered(&MicroBatch::input, rows, width, 0);
    micro.target = gathered(&MicroBatch::target, rows, width, labels() ? kIgnored : 0);
    micro.weight = gathered(&MicroBatch::weight, rows, width, 0);
    if (!sequences_) {
      micro.sample_ids = gathered(&MicroBatch::sample_ids, rows, width, 0);
      return micro;
    }
    const auto count = static_cast<std::int64_t>(rows.size());
    micro.sample_ids = Tensor::empty({count, width}, Dtype::i64);
    micro.positions = Tensor::empty({count, width}, Dtype::i64);
    std::vector<std::int32_t> offsets{0};
    for (std::int64_t r = 0; r < count; ++r) {
      std::int64_t at = r * width;
      for (const Unit& unit : rows[static_cast<std::size_t>(r)]) {
        const MicroBatch& part = parts_[unit.part];
        const std::int64_t row_width = part.input.size(1);
        for (std::int64_t i = 0; i < unit.length; ++i, ++at) {
          const std::int64_t place = unit.first + i;
          if (part.sample_ids.defined())
            micro.sample_ids.data<std::int64_t>()[at] =
                part.sample_ids.data<std::int64_t>()[part.sample_ids.rank() == 1 ? place / row_width : place];
          micro.positions.data<std::int64_t>()[at] =
              part.positions.defined() ? part.positions.data<std::int64_t>()[place] : place % row_width;
        }
        offsets.push_back(static_cast<std::int32_t>(at));
      }
      const std::int64_t end = (r + 1) * width;
      std::fill(micro.sample_ids.data<std::int64_t>() + at, micro.sample_ids.data<std::int64_t>() + end, -1);
      std::fill(micro.positions.data<std::int64_t>() + at, micro.positions.data<std::int64_t>() + end, 0);
      if (at < end) offsets.push_back(static_cast<std::int32_t>(end));
    }
    micro.segments = Segments(std::move(offsets));
    return micro;
  }

 private:
  void collect(std::size_t p) {
    MicroBatch& part = parts_[p];
    for (Tensor* field : {&part.input, &part.target, &part.weight, &part.sample_ids, &part.positions})
      if (field->defined()) *field = contiguous(*field);
    if (!sequences_) {
      for (std::int64_t row = 0; row < part.input.size(0); ++row)
        if (labelled(part, row, row + 1)) units_.push_back({p, row, 1});
      width_ = longest_ = 1;
      return;
    }
    require<OptionError>(part.segments.defined() && part.target.rank() == 2 && labels(), "verify_partition",
                         "sequences must have a segment table and labels i64 [B, T] in every micro-batch");
    width_ = std::max(width_, part.input.size(1));
    const std::vector<std::int32_t>& offsets = part.segments.offsets();
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      if (!labelled(part, offsets[s], offsets[s + 1])) continue;
      units_.push_back({p, offsets[s], offsets[s + 1] - offsets[s]});
      longest_ = std::max(longest_, units_.back().length);
    }
  }

  // Whether any of these places has a label that counts.
  static bool labelled(const MicroBatch& part, std::int64_t first, std::int64_t last) {
    if (part.target.dtype() != Dtype::i64) return true;
    const std::int64_t places = part.segments.defined() ? part.segments.places() : part.target.size(0);
    const std::int64_t each = part.target.numel() / std::max<std::int64_t>(places, 1);
    const std::int64_t* const target = part.target.data<std::int64_t>();
    return std::any_of(target + first * each, target + last * each,
                       [](std::int64_t label) { return label != kIgnored; });
  }

  // One field of the rows' units; undefined where the source leaves it so.
  Tensor gathered(Tensor MicroBatch::*field, std::span<const Row> rows, std::int64_t width,
                  std::int64_t padding) const {
    const Tensor& like = parts_[0].*field;
    if (!like.defined()) return {};
    Shape shape = like.shape();
    shape[0] = static_cast<std::int64_t>(rows.size());
    if (sequences_) shape[1] = width;
    Tensor result = Tensor::empty(shape, like.dtype());
    fill_(result, static_cast<double>(padding));
    const std::int64_t places = static_cast<std::int64_t>(rows.size()) * width;
    const auto bytes = static_cast<std::size_t>(result.nbytes() / std::max<std::int64_t>(places, 1));  // of a place
    std::byte* to = result.raw_data();
    for (const Row& row : rows) {
      std::byte* at = to;
      for (const Unit& unit : row) {
        const std::size_t length = static_cast<std::size_t>(unit.length) * bytes;
        std::memcpy(at, (parts_[unit.part].*field).raw_data() + static_cast<std::size_t>(unit.first) * bytes, length);
        at += length;
      }
      to += static_cast<std::size_t>(width) * bytes;
    }
    return result;
  }

  std::uint64_t seed_;
  bool sequences_ = false;
  Tensor number_;  // i64 []
  std::vector<MicroBatch> parts_;
  std::vector<Unit> units_;
  std::int64_t width_ = 0, longest_ = 0;
};

// One way to cut the batch.
struct Cut {
  std::string name, what;
  std::int64_t micro_batches = 0;
  std::function<MicroBatch(std::int64_t k)> make;
};

// Rows of one unit each.
std::vector<Row> one_each(std::span<const Unit> units) {
  std::vector<Row> rows;
  for (const Unit& unit : units) rows.push_back({unit});
  return rows;
}

std::int64_t longest(std::span<const Row> rows) {
  std::int64_t most = 1;
  for (const Row& row : rows) {
    std::int64_t length = 0;
    for (const Unit& unit : row) length += unit.length;
    most = std::max(most, length);
  }
  return most;
}

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Units [boundaries[k], boundaries[k + 1]) make micro-batch k, each padded to its longest.
Cut by_count(std::string name, std::string what, const Batch& batch, std::vector<std::int64_t> boundaries) {
  const auto count = static_cast<std::int64_t>(boundaries.size()) - 1;
  return {std::move(name), std::move(what), count, [&batch, boundaries = std::move(boundaries)](std::int64_t k) {
            const auto first = static_cast<std::size_t>(boundaries[static_cast<std::size_t>(k)]),
                       last = static_cast<std::size_t>(boundaries[static_cast<std::size_t>(k) + 1]);
            const std::vector<Row> rows = one_each(std::span(batch.units()).subspan(first, last - first));
            return batch.made_of(rows, longest(rows), k);
          }};
}

std::vector<Cut> cuts_of(const Batch& batch, const data::PlannedUpdate& update) {
  const auto count = static_cast<std::int64_t>(batch.units().size());
  const char* const kind = batch.sequences() ? "sequences" : "samples";
  std::vector<Cut> cuts;
  cuts.push_back(by_count("1xB",
                          fmt::format("all {} {}{}", count, kind, batch.sequences() ? ", padded to the longest" : ""),
                          batch, {0, count}));
  std::vector<std::int64_t> single{0}, ragged{0};
  for (std::int64_t i = 1; i <= count; ++i) single.push_back(i);
  for (std::int64_t size = 1; ragged.back() < count; ++size) ragged.push_back(std::min(ragged.back() + size, count));
  cuts.push_back(
      by_count("Bx1", batch.sequences() ? "each alone, no padding" : "one by one", batch, std::move(single)));
  cuts.push_back(by_count("ragged", fmt::format("1, 2, 3, ... {}", kind), batch, std::move(ragged)));

  if (batch.labels()) {  // elsewhere nothing says that a row does not count
    const std::int64_t parts = std::min<std::int64_t>(4, count);
    const std::int64_t width = batch.sequences() ? rounded_up(std::max(batch.width(), batch.longest()), 64) : 1;
    cuts.push_back({"padded",
                    batch.sequences() ? fmt::format("rows of {} places", width) : "rows without a label behind them",
                    parts, [&batch, count, parts, width](std::int64_t k) {
                      const auto first = static_cast<std::size_t>(count * k / parts),
                                 last = static_cast<std::size_t>(count * (k + 1) / parts);
                      std::vector<Row> rows = one_each(std::span(batch.units()).subspan(first, last - first));
                      if (batch.sequences()) return batch.made_of(rows, width, k);
                      rows.resize(static_cast<std::size_t>(rounded_up(static_cast<std::int64_t>(rows.size()) + 1, 16)));
                      return batch.made_of(rows, width, k);
                    }});
  }

  if (batch.sequences()) {
    const std::int64_t width = std::max(batch.width(), 2 * batch.longest());  // so that rows hold more than one
    std::vector<std::int32_t> lengths;
    for (const Unit& unit : batch.units()) lengths.push_back(static_cast<std::int32_t>(unit.length));
    const data::Packing packing = data::pack(lengths, static_cast<std::int32_t>(width));
    std::vector<Row> rows;
    for (std::int64_t r = 0; r < packing.rows(); ++r) {
      Row& row = rows.emplace_back();
      for (const std::int32_t item : packing.row(r)) row.push_back(batch.units()[static_cast<std::size_t>(item)]);
    }
    cuts.push_back({"packed", fmt::format("{} rows of {} places", rows.size(), width), 1,
                    [&batch, rows, width](std::int64_t k) { return batch.made_of(rows, width, k); }});
    cuts.push_back({"packed, row by row", "the same", packing.rows(), [&batch, rows, width](std::int64_t k) {
                      return batch.made_of(std::span(rows).subspan(static_cast<std::size_t>(k), 1), width, k);
                    }});
  }
  if (update.parts > 1 || batch.sequences())
    cuts.push_back({"as planned", "the source's own micro-batches", update.parts,
                    [&batch](std::int64_t k) { return batch.parts()[static_cast<std::size_t>(k)]; }});
  return cuts;
}

MicroBatch moved(MicroBatch micro, Device device) {
  for (Tensor* field : {&micro.input, &micro.target, &micro.weight, &micro.sample_ids, &micro.positions, &micro.update})
    if (field->defined()) *field = to(*field, device);
  micro.segments = micro.segments.to(device);
  return micro;
}

// Puts buffers back when it goes.
class Kept {
 public:
  explicit Kept(const nn::NamedTensors& tensors) : tensors_(tensors) {
    for (const auto& [name, tensor] : tensors) copies_.push_back(to(tensor.alias(), Device{}));
    for (Tensor& copy : copies_) copy = clone(copy);
  }
  ~Kept() {
    for (std::size_t i = 0; i < tensors_.size(); ++i) tensors_[i].second.copy_bytes_from(copies_[i]);
  }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;

 private:
  nn::NamedTensors tensors_;
  std::vector<Tensor> copies_;
};

void forget_gradients(const nn::NamedTensors& parameters) {
  for (const auto& [name, parameter] : parameters) zero_grad(parameter);
}

// The gradient of a cut, all parameters in a row; fills in what else there is to say about it.
std::vector<double> gradient_of(const Cut& cut, const nn::NamedTensors& parameters, const nn::NamedTensors& buffers,
                                const MicroBatchLoss& loss, Device device, PartitionRow& row) {
  const Kept kept(buffers);
  forget_gradients(parameters);
  Window window;
  for (std::int64_t k = 0; k < cut.micro_batches; ++k) {
    const MicroBatch on_cpu = cut.make(k);
    row.places += on_cpu.segments.defined() ? on_cpu.segments.places() : on_cpu.input.size(0);
    const MicroBatch micro = moved(on_cpu, device);
    const auto scope = micro.scope();
    window.backward(loss(micro));
  }
  row.micro_batches = cut.micro_batches;
  row.denominator = window.denominator().item<double>();
  row.loss = window.mean_loss();
  std::vector<double> gradient;
  for (const auto& [name, parameter] : parameters) {
    const Tensor own = grad(parameter);
    const std::vector<double> values = own.defined()
                                           ? cast(to(own, Device{}), Dtype::f64).to_vector<double>()
                                           : std::vector<double>(static_cast<std::size_t>(parameter.numel()), 0.0);
    for (const double value : values) gradient.push_back(value / row.denominator);
  }
  forget_gradients(parameters);
  return gradient;
}

double relative_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

}  // namespace

PartitionReport verify_partition(const nn::NamedTensors& parameters, const nn::NamedTensors& buffers,
                                 bool batch_statistics, const MicroBatchLoss& loss, const data::BatchSource& source,
                                 const PartitionOptions& options) {
  const data::PlannedUpdate update = source.update(options.epoch, options.index);
  const Batch batch(source, update);
  require<OptionError>(!batch.units().empty(), "verify_partition", "update {} of {} holds no label", update.number,
                       source.name());
  PartitionReport report;
  report.batch = fmt::format("update {} of {}: {} {}", update.number, source.name(), batch.units().size(),
                             batch.sequences() ? "sequences" : "samples");
  report.batch_statistics = batch_statistics;
  report.tolerance = options.tolerance;
  if (options.tolerance == 0) {
    const bool all_f64 = std::all_of(parameters.begin(), parameters.end(),
                                     [](const auto& named) { return named.second.dtype() == Dtype::f64; });
    report.tolerance = all_f64 ? 1e-12 : 1e-6;
  }
  std::int64_t useful = 0;
  for (const Unit& unit : batch.units()) useful += unit.length;

  std::vector<double> first;
  for (const Cut& cut : cuts_of(batch, update)) {
    PartitionRow row{.name = cut.name, .what = cut.what, .useful = useful};
    try {
      const std::vector<double> gradient = gradient_of(cut, parameters, buffers, loss, options.device, row);
      if (report.rows.empty()) first = gradient;
      row.distance = relative_distance(gradient, first);
    } catch (const Error& error) {
      forget_gradients(parameters);
      if (report.rows.empty()) throw;
      row.refused = error.what();
    }
    report.rows.push_back(std::move(row));
  }
  return report;
}

bool PartitionReport::passed() const {
  return std::all_of(rows.begin(), rows.end(), [&](const PartitionRow& row) {
    return row.refused.empty() && row.distance <= tolerance;  // not so when it is NaN
  });
}

std::string PartitionReport::verdict() const {
  if (passed())
    return fmt::format("the same gradient to {:g}: however this batch is cut, the update is the same", tolerance);
  if (batch_statistics)
    return "not the same gradient, and it cannot be: BatchNorm normalises every micro-batch with the mean and the "
           "variance of "
           "that micro-batch, so what the model computes for a sample depends on the samples beside it, and a sample "
           "alone has no "
           "variance. Take LayerNorm or GroupNorm, which look at one sample only, or keep updates whole (--accumulate "
           "1)";
  double most = 0;
  for (const PartitionRow& row : rows) most = row.distance <= most ? most : row.distance;  // NaN stays
  if (tolerance >= 1e-9 && most < 1e-4)
    return fmt::format(
        "not the same gradient to {:g}, but nearly: in f32 that much may come from rounding, as where a large batch "
        "has an "
        "activation at the kink of a ReLU. Verify a smaller update (--batch-size 128) to be sure",
        tolerance);
  return fmt::format(
      "not the same gradient (more than {:g} apart): some operation looks from one sample into another (a mixture "
      "along time "
      "without the segment table), or the loss is not a sum and a denominator over the samples that count",
      tolerance);
}

std::string PartitionReport::text() const {
  std::string text = batch + "\n";
  text += fmt::format("{:<20}{:>14}{:>10}{:>9}{:>14}{:>12}  {}\n", "cut", "micro-batches", "places", "useful", "loss",
                      "distance", "");
  for (const PartitionRow& row : rows) {
    if (!row.refused.empty()) {
      text += fmt::format("{:<20}{}\n", row.name, "refused: " + row.refused);
      continue;
    }
    text +=
        fmt::format("{:<20}{:>14}{:>10}{:>8.1f}%{:>14.8f}{:>12.2e}  {}\n", row.name, row.micro_batches, row.places,
                    100 * static_cast<double>(row.useful) / static_cast<double>(std::max<std::int64_t>(row.places, 1)),
                    row.loss, row.distance, row.what);
  }
  return text + verdict() + "\n";
}

std::string PartitionReport::json() const {
  using Json = nlohmann::ordered_json;
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
  Json all = Json::array();
  for (const PartitionRow& row : rows)
    all.push_back({{"cut", row.name},
                   {"what", row.what},
                   {"micro_batches", row.micro_batches},
                   {"places", row.places},
                   {"useful", row.useful},
                   {"denominator", number(row.denominator)},
                   {"loss", number(row.loss)},
                   {"distance", number(row.distance)},
                   {"refused", row.refused.empty() ? Json(nullptr) : Json(row.refused)}});
  return Json{{"batch", batch}, {"tolerance", tolerance}, {"passed", passed()}, {"rows", all}, {"verdict", verdict()}}
             .dump(2) +
         "\n";
}

int print_partition(const PartitionReport& report, const Options& options) {
  const std::string text = report.text(), json = report.json();
  std::fputs(text.c_str(), options.json ? stderr : stdout);
  if (options.json) std::fputs(json.c_str(), stdout);
  return report.passed() ? 0 : 1;
}

}  // namespace weft::train
