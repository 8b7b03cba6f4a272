// Token shards. The first byte chooses format and cut, the rest is the file.
#include "data/token_shards.h"
#include "fuzz.h"

using namespace weft;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static const fuzz::MemoryFile file;
  data::ShardOptions options;
  options.format = (data[0] & 1) != 0 ? data::ShardFormat::nanogpt : data::ShardFormat::llmc;
  if ((data[0] & 2) != 0) options.vocabulary = 300;
  switch (data[0] >> 2 & 3) {
    case 1: options.ends_with = 7; break;
    case 2: options.starts_with = 7; break;
    case 3: options.chunk = 5; break;
    default: break;
  }
  fuzz::accepted([&] {
    const data::TokenShards shards(file.holding(data + 1, size - 1), options);
    fuzz::demand(static_cast<std::size_t>(shards.tokens()) * 2 <= size, "no more tokens than the file holds");
    std::int64_t tokens = 0;
    std::vector<std::int64_t> sequence;
    for (std::int64_t id = 0; id < shards.size(); ++id) {
      fuzz::demand(shards.length(id) > 0, "no sequence is empty");
      tokens += shards.length(id);
      sequence.assign(static_cast<std::size_t>(shards.length(id)), -1);
      shards.read(id, 0, sequence);
      for (const std::int64_t token : sequence)
        fuzz::demand(token >= 0 && token < shards.vocabulary(), "ids are in the vocabulary");
    }
    fuzz::demand(tokens == shards.tokens(), "the sequences are the tokens");
  });
  return 0;
}
