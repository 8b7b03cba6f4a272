// Text files. The first byte chooses the options, the rest is the text.
#include "data/text_documents.h"
#include "fuzz.h"

using namespace weft;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  data::TextOptions options;
  options.split = static_cast<data::DocumentSplit>(data[0] & 3);
  options.end_of_text = (data[0] & 4) != 0;
  if ((data[0] & 8) != 0) options.invalid_utf8 = data::InvalidUtf8::keep;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  fuzz::accepted([&] {
    const data::TextDocuments texts = data::TextDocuments::from_text("input", text, options);
    fuzz::demand(texts.size() > 0, "there is a text");
    std::vector<std::int64_t> tokens;
    std::size_t bytes = 0;
    for (std::int64_t id = 0; id < texts.size(); ++id) {
      tokens.assign(static_cast<std::size_t>(texts.length(id)), -1);
      texts.read(id, 0, tokens);
      fuzz::demand(data::ByteTokenizer::decode(tokens) == texts.text(id), "the tokens are the text's bytes");
      fuzz::demand(texts.place(id).starts_with("input:"), "a text has a place");
      bytes += texts.text(id).size();
    }
    fuzz::demand(bytes <= text.size(), "no byte was invented");
  });
  return 0;
}
