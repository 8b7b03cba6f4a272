#include "data/sequence_batches.h"

#include <algorithm>
#include <new>
#include <span>

#include "data/fingerprint.h"

namespace weft::data {
namespace {

constexpr const char* kName = "sequence_batches";
constexpr std::int64_t kNoLabel = -100;

std::shared_ptr<const SequenceDataset> checked(std::shared_ptr<const SequenceDataset> dataset,
                                               const SequencePlanOptions& options) {
  require<OptionError>(dataset != nullptr, kName, "needs a data set but has a null pointer");
  if (options.separator)
    require<OptionError>(options.separator->id >= 0 && options.separator->id < dataset->vocabulary(), kName,
                         "the separator {} of {} must be in [0, {})", options.separator->id, dataset->name(),
                         dataset->vocabulary());
  return dataset;
}

/// An i64 or f32 tensor [B, T] and its elements, set to one value.
template <class T>
std::span<T> filled(Tensor& tensor, const Shape& shape, Dtype dtype, T value) {
  tensor = Tensor::empty(shape, dtype);
  const std::span elements(tensor.data<T>(), static_cast<std::size_t>(shape.numel()));
  std::fill(elements.begin(), elements.end(), value);
  return elements;
}

}  // namespace

std::vector<std::int64_t> lengths_of(const SequenceDataset& dataset) {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(dataset.size()));
  for (std::size_t i = 0; i < lengths.size(); ++i) lengths[i] = dataset.length(static_cast<std::int64_t>(i));
  return lengths;
}

SequenceBatches::SequenceBatches(std::shared_ptr<const SequenceDataset> dataset, const SequencePlanOptions& options,
                                 LossMean mean)
    : dataset_(checked(std::move(dataset), options)), plan_(lengths_of(*dataset_), options), mean_(mean) {}

MicroBatch SequenceBatches::collate(const PlannedUpdate& update, std::int64_t k) const {
  return make(update, k, nullptr);
}

MicroBatch SequenceBatches::collate_skipping(const PlannedUpdate& update, std::int64_t k,
                                             std::vector<SkippedSample>& skipped) const {
  return make(update, k, &skipped);
}

MicroBatch SequenceBatches::make(const PlannedUpdate& update, std::int64_t k,
                                 std::vector<SkippedSample>* skipped) const {
  require<ShapeError>(k >= 0 && k < update.parts, kName, "the micro-batch must be in [0, {}) but is {}", update.parts,
                      k);
  const SequenceLayout& layout = *update.layout;
  const SequenceLayout::Part part = layout.parts[static_cast<std::size_t>(k)];
  const Shape shape{part.rows, part.width};
  MicroBatch micro;
  const auto input = filled<std::int64_t>(micro.input, shape, Dtype::i64, 0);
  const auto target = filled<std::int64_t>(micro.target, shape, Dtype::i64, kNoLabel);
  const auto ids = filled<std::int64_t>(micro.sample_ids, shape, Dtype::i64, -1);
  const auto positions = filled<std::int64_t>(micro.positions, shape, Dtype::i64, 0);
  std::span<float> weight;
  if (mean_ == LossMean::sequence) weight = filled<float>(micro.weight, shape, Dtype::f32, 0);
  const std::int64_t separator = plan_.options().separator.value_or(Separator{}).id;

  std::vector<std::int32_t> segments{0};
  for (std::int64_t r = 0; r < part.rows; ++r) {
    std::int64_t place = r * part.width;
    for (const Piece& piece : layout.row(part.first + r)) {
      const auto begin = static_cast<std::size_t>(place), count = static_cast<std::size_t>(piece.length);
      place += piece.length;
      segments.push_back(static_cast<std::int32_t>(place));

      const std::int64_t length = dataset_->length(piece.sample), end = plan_.kept(length);
      const std::int64_t tokens = std::min(piece.length, end - piece.offset);  // without the separator
      std::int64_t next = kNoLabel;                                            // the label of the last of them
      try {
        dataset_->read(piece.sample, piece.offset, input.subspan(begin, static_cast<std::size_t>(tokens)));
        if (piece.offset + tokens < end)
          dataset_->read(piece.sample, piece.offset + tokens, {&next, 1});
        else if (plan_.predicts_separator(length))
          next = separator;
      } catch (const OutOfMemory&) { throw; } catch (const std::bad_alloc&) {
        throw;
      } catch (const std::exception& error) {
        if (skipped == nullptr)
          throw SampleError(fmt::format("[loader] sample {} of {} (update {}, micro-batch {}): {}", piece.sample,
                                        dataset_->name(), update.number, k, error.what()),
                            piece.sample, std::current_exception());
        skipped->push_back({.sample = piece.sample, .update = update.number, .reason = error.what()});
        std::fill_n(input.begin() + static_cast<std::ptrdiff_t>(begin), count, 0);
        continue;
      }
      const std::size_t last = begin + static_cast<std::size_t>(tokens) - 1;
      std::copy(input.begin() + static_cast<std::ptrdiff_t>(begin) + 1,
                input.begin() + static_cast<std::ptrdiff_t>(last) + 1,
                target.begin() + static_cast<std::ptrdiff_t>(begin));
      target[last] = next;
      if (tokens < piece.length) input[last + 1] = separator;
      for (std::size_t i = 0; i < count; ++i) {
        ids[begin + i] = piece.sample;
        positions[begin + i] = piece.offset + static_cast<std::int64_t>(i);
      }
      if (mean_ == LossMean::sequence) {
        const auto each =
            static_cast<float>(1.0 / static_cast<double>(std::max<std::int64_t>(1, plan_.labels(length))));
        for (std::size_t i = 0; i < count; ++i) weight[begin + i] = target[begin + i] == kNoLabel ? 0.0f : each;
      }
    }
    if (place < (r + 1) * part.width) segments.push_back(static_cast<std::int32_t>((r + 1) * part.width));
  }
  micro.segments = Segments(std::move(segments));
  micro.index = k;
  micro.update = Tensor::from_vector<std::int64_t>({update.number}, {});
  micro.seed = seed();
  return micro;
}

std::uint64_t SequenceBatches::hash() const {
  return hash_combine(hash_combine(dataset_->fingerprint(), plan_.hash()), static_cast<std::uint64_t>(mean_));
}

}  // namespace weft::data
