// The readers and the windows by themselves.
//   shard_read: sequences at random places of a 200 MB shard that lies in the kernel's cache: by pread (as TokenShards does),
//   mapped, and mapped with the file's size asked for before each. items_per_second is tokens per second.
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <benchmark/benchmark.h>

#include "autograd/factories.h"
#include "data/csv.h"
#include "data/splits.h"
#include "data/text_documents.h"
#include "data/token_shards.h"
#include "data/windows.h"

namespace weft::data {
namespace {

/// A shard of 100 M tokens, removed at the end.
class Shard {
 public:
  static constexpr std::int64_t kTokens = 100 << 20;
  Shard() : path_(std::filesystem::temp_directory_path() / ("weft_bench_" + std::to_string(getpid()) + ".bin")) {
    TokenShardWriter writer(path_);
    std::vector<std::int64_t> tokens(1 << 20);
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int64_t>(i % 50'257);
    for (std::int64_t written = 0; written < kTokens; written += 1 << 20) writer.append(tokens);
    writer.commit();
  }
  ~Shard() { std::filesystem::remove(path_); }
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;
  static const std::filesystem::path& path() {
    static const Shard shard;
    return shard.path_;
  }

 private:
  std::filesystem::path path_;
};

void tokens_done(benchmark::State& state) { state.SetItemsProcessed(state.iterations() * state.range(0)); }

void shard_read_pread(benchmark::State& state) {
  const std::int64_t length = state.range(0);
  const TokenShards shards(Shard::path(), {.vocabulary = 50'257, .chunk = length});
  std::vector<std::int64_t> out(static_cast<std::size_t>(length));
  std::int64_t id = 0;
  for (auto _ : state) {
    shards.read(id = (id + 7'919'993) % (Shard::kTokens / length), 0, out);
    benchmark::DoNotOptimize(out.data());
  }
  tokens_done(state);
}
BENCHMARK(shard_read_pread)->ArgName("tokens")->Arg(64)->Arg(512)->Arg(2048);

void shard_read_mapped(benchmark::State& state, bool asked) {
  const std::int64_t length = state.range(0);
  const std::size_t bytes = 1024 + 2 * static_cast<std::size_t>(Shard::kTokens);
  const int file = open(Shard::path().c_str(), O_RDONLY | O_CLOEXEC);
  void* const mapping = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
  if (file < 0 || mapping == MAP_FAILED) return state.SkipWithError("cannot map the shard");
  const auto* tokens = static_cast<const std::uint16_t*>(mapping) + 512;
  std::vector<std::int64_t> out(static_cast<std::size_t>(length));
  std::int64_t id = 0;
  for (auto _ : state) {
    struct stat status {};
    if (asked && (fstat(file, &status) != 0 || status.st_size < static_cast<off_t>(bytes))) break;
    id = (id + 7'919'993) % (Shard::kTokens / length);
    std::copy_n(tokens + id * length, length, out.begin());
    benchmark::DoNotOptimize(out.data());
  }
  munmap(mapping, bytes);
  close(file);
  tokens_done(state);
}
BENCHMARK_CAPTURE(shard_read_mapped, unchecked, false)->ArgName("tokens")->Arg(64)->Arg(512)->Arg(2048);
BENCHMARK_CAPTURE(shard_read_mapped, size_asked, true)->ArgName("tokens")->Arg(64)->Arg(512)->Arg(2048);

void fortunes(benchmark::State& state) {
  for (auto _ : state) try {
      benchmark::DoNotOptimize(TextDocuments::fortunes().size());
    } catch (const std::exception& error) { return state.SkipWithError(error.what()); }
}
BENCHMARK(fortunes)->Unit(benchmark::kMillisecond);

void csv(benchmark::State& state) {
  std::string text = "a,b,c,d\n";
  for (int i = 0; i < 100'000; ++i) text += fmt::format("{},{:.3f},{},{}\n", i, i * 0.37, -i * 1.5e-3, 1e5 / (i + 1));
  for (auto _ : state) benchmark::DoNotOptimize(parse_csv("text", text).values.raw_data());
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
  state.SetItemsProcessed(state.iterations() * 400'000);  // numbers
}
BENCHMARK(csv)->Unit(benchmark::kMillisecond);

void window_batch(benchmark::State& state) {
  const RollingWindows windows(1'000'000, {.lookback = 64, .horizon = 8});
  const WindowDataset data(randn({1'000'000, 4}, 1), windows);
  std::vector<std::int64_t> ids(256);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i) * 1'037'389 % data.size();
  for (auto _ : state) benchmark::DoNotOptimize(data.collate(ids).input.raw_data());
  state.SetItemsProcessed(state.iterations() * 256);  // windows
}
BENCHMARK(window_batch)->UseRealTime();

void window_order(benchmark::State& state) {
  const RollingWindows windows(1'000'000, {.lookback = 64, .horizon = 8});
  std::vector<std::int64_t> ids(static_cast<std::size_t>(windows.count()));
  std::iota(ids.begin(), ids.end(), 0);
  std::int64_t epoch = 0;
  for (auto _ : state) benchmark::DoNotOptimize(overlap_free_order(windows, ids, 256, 1, epoch++).data());
  state.SetItemsProcessed(state.iterations() * windows.count());
}
BENCHMARK(window_order)->Unit(benchmark::kMillisecond);

void window_folds(benchmark::State& state) {
  const RollingWindows windows(1'000'000, {.lookback = 64, .horizon = 8});
  for (auto _ : state) benchmark::DoNotOptimize(purged_kfold(windows, {.folds = 5, .embargo = 100}).size());
  state.SetItemsProcessed(state.iterations() * windows.count());
}
BENCHMARK(window_folds)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace weft::data
