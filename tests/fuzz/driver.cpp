// Runs a fuzz target where there is no libFuzzer: over the files of its corpus and over seeded mutations of them.
//   idx_fuzz CORPUS_FOLDER [--mutations N] [--seed S]
// When the target ends the program, the input lies in <target>-crash, in the folder where the program runs.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>
#include <vector>

#include <fcntl.h>

#include "fuzz.h"
#include "tensor/philox.h"

namespace {

using namespace std::literals;

using Bytes = std::vector<std::uint8_t>;

// For the signal handler: the input at hand, and where it goes.
const std::uint8_t* current_data = nullptr;
std::size_t current_size = 0;
long long current_mutation = -1;
std::string crash_file;

extern "C" void save_input(int signal) {
  const int file = open(crash_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  std::size_t saved = 0;
  if (file >= 0 && write(file, current_data, current_size) == static_cast<ssize_t>(current_size)) saved = current_size;
  std::fprintf(stderr, "mutation %lld ended with signal %d: its %zu bytes (%zu saved) are in %s\n", current_mutation,
               signal, current_size, saved, crash_file.c_str());
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const Bytes& input, long long mutation) {
  const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[input.size()]);  // an access beyond it shows under ASan
  std::copy(input.begin(), input.end(), exact.get());
  current_data = exact.get();
  current_size = input.size();
  current_mutation = mutation;
  LLVMFuzzerTestOneInput(exact.get(), input.size());
}

class Mutator {
 public:
  Mutator(const std::vector<Bytes>& corpus, std::uint64_t seed) : corpus_(corpus), random_(seed) {}

  Bytes next() {
    Bytes bytes = any();
    for (std::size_t steps = 1 + draw(4); steps > 0; --steps) mutate(bytes);
    if (bytes.size() > kMostBytes) bytes.resize(kMostBytes);
    return bytes;
  }

 private:
  static constexpr std::size_t kMostBytes = 1 << 16;

  static constexpr std::string_view kText = "0123456789-+.eE,:;\"'[](){}\n\r \t\0%"sv;

  std::size_t draw(std::size_t below) { return random_.next_u64() % below; }
  const Bytes& any() { return corpus_[draw(corpus_.size())]; }

  void mutate(Bytes& bytes) {
    const std::size_t at = draw(bytes.size() + 1), rest = bytes.size() - at, length = std::min(rest, 1 + draw(64));
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at),
               end = place + static_cast<std::ptrdiff_t>(length);
    switch (draw(9)) {
      case 0:
        if (rest > 0) bytes[at] ^= static_cast<std::uint8_t>(1u << draw(8));
        break;
      case 1:
        if (rest > 0) bytes[at] = static_cast<std::uint8_t>(draw(256));
        break;
      case 2: bytes.resize(at); break;
      case 3: bytes.erase(place, end); break;
      case 4: {  // duplicated
        const Bytes part(place, end);
        bytes.insert(end, part.begin(), part.end());
        break;
      }
      case 5: {  // from another file
        const Bytes& other = any();
        const std::size_t from = draw(other.size() + 1), count = std::min(other.size() - from, 1 + draw(64));
        bytes.insert(place, other.begin() + static_cast<std::ptrdiff_t>(from),
                     other.begin() + static_cast<std::ptrdiff_t>(from + count));
        break;
      }
      case 6: bytes.insert(place, 1 + draw(40), static_cast<std::uint8_t>(draw(256))); break;
      case 7: integer(bytes, at); break;
      default:  // what text formats are made of
        if (rest > 0) bytes[at] = static_cast<std::uint8_t>(kText[draw(kText.size())]);
        break;
    }
  }
  /// Writes an interesting integer of 1, 2, 4 or 8 bytes, in either order, or changes the one that is there a little.
  void integer(Bytes& bytes, std::size_t at) {
    const std::size_t width = std::size_t{1} << draw(4);
    if (bytes.size() - at < width) return;
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, width);
    constexpr std::uint64_t kInteresting[] = {0,
                                              1,
                                              0x7f,
                                              0x80,
                                              0xff,
                                              0x7fff,
                                              0x8000,
                                              0xffff,
                                              0x7fffffff,
                                              0x80000000,
                                              0xffffffff,
                                              0x7fffffffffffffff,
                                              0x8000000000000000,
                                              0xffffffffffffffff};
    if (draw(2) == 0)
      value += draw(16) - 8;
    else
      value = kInteresting[draw(std::size(kInteresting))];
    std::uint8_t raw[8];
    std::memcpy(raw, &value, 8);
    if (draw(2) == 0) std::reverse(raw, raw + width);
    std::memcpy(bytes.data() + at, raw, width);
  }

  const std::vector<Bytes>& corpus_;
  weft::Philox random_;
};

}  // namespace

int main(int argc, char** argv) {
  long long mutations = 20'000;
  std::uint64_t seed = 1;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--mutations") == 0)
      mutations = std::atoll(argv[i + 1]);
    else if (std::strcmp(argv[i], "--seed") == 0)
      seed = static_cast<std::uint64_t>(std::atoll(argv[i + 1]));
    else
      argc = 0;
  }
  if (argc < 2 || argc % 2 != 0) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER [--mutations N] [--seed S]\n", argv[0]);
    return 2;
  }
  crash_file = std::filesystem::path(argv[0]).filename().string() + "-crash";
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, save_input);

  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fprintf(stderr, "there is no corpus in %s\n", argv[1]);
    return 1;
  }
  std::vector<Bytes> corpus;
  for (const std::filesystem::path& file : files) {
    std::ifstream in(file, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    run(corpus.back(), -1);
  }
  const auto start = std::chrono::steady_clock::now();
  Mutator mutator(corpus, seed);
  for (long long i = 0; i < mutations; ++i) run(mutator.next(), i);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%zu files, %lld mutations with seed %llu in %.2f s: %.0f inputs/s\n", files.size(), mutations,
              static_cast<unsigned long long>(seed), seconds, static_cast<double>(mutations) / std::max(seconds, 1e-9));
  return 0;
}
