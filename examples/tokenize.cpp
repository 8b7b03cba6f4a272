// tokenize: writes text files as a shard of byte tokens, in the format of llm.c or nanoGPT
//
//   ./run tokenize notes.txt more.txt --out notes.bin
//   ./run tokenize --documents fortune --out fortunes.bin       the texts of the Debian package fortunes
//   ./run tokenize data/ --documents fortune --out data.bin     those of another folder
//
// A token is a byte, 0 to 255; behind every document stands 256, the end of a text. data::TokenShards reads the file with
// {.vocabulary = 257, .ends_with = 256}.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/core.h>

#include <weft/weft.h>

using namespace weft;

namespace {

constexpr const char* kHelp =
    "tokenize: writes text files as a shard of byte tokens\n"
    "\n"
    "usage: ./run tokenize IN... --out FILE [options]\n"
    "\n"
    "  IN                    text files; with --documents fortune also a folder of them, or nothing for the Debian "
    "package's\n"
    "  --out FILE            the shard; it appears whole or not at all\n"
    "  --format FORMAT       llmc | nanogpt: with llm.c's header or without any (default llmc)\n"
    "  --documents WHAT      file | line | paragraph | fortune: what one document is (default file)\n"
    "  --no-end              no token 256 behind every document: where they end is lost then\n"
    "  --keep-invalid-utf8   take bytes that are no UTF-8 as they are\n"
    "  --help                this text\n";

struct Options {
  std::vector<std::filesystem::path> inputs;
  std::string out;
  data::ShardFormat format = data::ShardFormat::llmc;
  data::TextOptions text{.end_of_text = true};
};

template <class T>
T choice(std::string_view option, const std::string& text, const std::vector<std::pair<std::string, T>>& choices) {
  std::string names;
  for (const auto& [name, value] : choices) {
    if (name == text) return value;
    names += (names.empty() ? "" : ", ") + name;
  }
  throw OptionError(fmt::format("{} must be one of {} but is '{}'", option, names, text));
}

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string name = arguments[i], value;
    if (!name.starts_with("--")) {
      options.inputs.emplace_back(name);
      continue;
    }
    const auto take = [&] {
      if (i + 1 == arguments.size()) throw OptionError(fmt::format("{} needs a value", name));
      return arguments[++i];
    };
    if (name == "--help")
      throw train::HelpRequested(kHelp);
    else if (name == "--out")
      options.out = take();
    else if (name == "--format")
      options.format = choice<data::ShardFormat>(
          name, take(), {{"llmc", data::ShardFormat::llmc}, {"nanogpt", data::ShardFormat::nanogpt}});
    else if (name == "--documents")
      options.text.split = choice<data::DocumentSplit>(name, take(),
                                                       {{"file", data::DocumentSplit::file},
                                                        {"line", data::DocumentSplit::line},
                                                        {"paragraph", data::DocumentSplit::paragraph},
                                                        {"fortune", data::DocumentSplit::fortune}});
    else if (name == "--no-end")
      options.text.end_of_text = false;
    else if (name == "--keep-invalid-utf8")
      options.text.invalid_utf8 = data::InvalidUtf8::keep;
    else {
      const std::string near =
          train::nearest(name, {"--help", "--out", "--format", "--documents", "--no-end", "--keep-invalid-utf8"});
      throw OptionError(fmt::format("unknown option '{}'{}", name, near.empty() ? "" : "; did you mean " + near + "?"));
    }
  }
  if (options.out.empty()) throw OptionError("--out FILE is needed: the shard to write");
  if (options.inputs.empty() && options.text.split != data::DocumentSplit::fortune)
    throw OptionError("a text file is needed (none only with --documents fortune, for those of the Debian package)");
  return options;
}

int run(const Options& options) {
  data::TokenShardWriter shard(options.out, options.format);
  std::int64_t documents = 0, longest = 0, bytes = 0;
  constexpr std::int64_t kPiece = 1 << 20;  // a text can be as large as a file, its tokens eight times that
  std::vector<std::int64_t> tokens;
  const auto add = [&](const data::TextDocuments& texts) {
    for (std::int64_t id = 0; id < texts.size(); ++id) {
      for (std::int64_t at = 0, all = texts.length(id); at < all; at += static_cast<std::int64_t>(tokens.size())) {
        tokens.resize(static_cast<std::size_t>(std::min(kPiece, all - at)));
        texts.read(id, at, tokens);
        shard.append(tokens);
      }
      longest = std::max(longest, texts.length(id));
      bytes += static_cast<std::int64_t>(texts.text(id).size());
    }
    documents += texts.size();
  };
  const bool fortune = options.text.split == data::DocumentSplit::fortune;
  if (options.inputs.empty()) add(data::TextDocuments::fortunes({}, options.text.end_of_text));
  for (const std::filesystem::path& input : options.inputs)  // one after the other: only one is in memory
    if (fortune && std::filesystem::is_directory(input))
      add(data::TextDocuments::fortunes(input, options.text.end_of_text));
    else
      add(data::TextDocuments::from_file(input, options.text));
  shard.commit();
  fmt::print("{}: {} documents, {} tokens ({} bytes of text), longest {}, file {} bytes\n", options.out, documents,
             shard.tokens(), bytes, longest, std::filesystem::file_size(options.out));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return train::run_example([&] { return run(parse({argv + 1, argv + argc})); });
}
