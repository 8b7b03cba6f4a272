#include "data/npz.h"

#include <functional>

#include <gtest/gtest.h>

#include "autograd/factories.h"
#include "autograd/layout.h"
#include "data/npy.h"
#include "data/zip.h"
#include "support/npy_files.h"
#include "tensor/allocator.h"

namespace weft::data {
namespace {

using test::bitwise_equal;
using test::file_bytes;
using test::message_of;
using test::npy_bytes;
using test::numpy_values;

const std::filesystem::path kGolden = WEFT_SOURCE_DIR "/tests/golden/numpy";

void put(std::string& bytes, std::size_t at, std::uint64_t value, int count) {
  for (int i = 0; i < count; ++i) bytes[at + static_cast<std::size_t>(i)] = static_cast<char>(value >> (8 * i) & 0xff);
}
std::uint32_t get32(const std::string& bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

class NpzTest : public testing::Test {
 protected:
  /// The error that reading these bytes gives, with the file's path replaced by FILE.
  std::string error_of(const std::string& bytes) {
    const std::filesystem::path path = folder_.write("file.npz", bytes);
    std::string message = message_of<IoError>([&] { load_npz(path); });
    const std::size_t at = message.find(path.string());
    if (at != std::string::npos) message.replace(at, path.string().size(), "FILE");
    return message;
  }
  std::filesystem::path path() const { return folder_.path() / "file.npz"; }

  /// An archive of any entries, by the writer alone: none of save_npz's checks.
  struct Raw {
    std::string name, content;
    ZipMethod method = ZipMethod::stored;
  };
  std::string zip(const std::vector<Raw>& entries, std::int64_t zip64_from = 0xffffffff) {
    ZipWriter writer("test", path(), zip64_from);
    for (const Raw& raw : entries) writer.add(raw.name, raw.method, raw.content, "");
    writer.commit();
    return file_bytes(path());
  }
  /// One deflated array "a" of a thousand f4 zeros. Its local header starts at 0, its directory entry at directory().
  std::string one(ZipMethod method = ZipMethod::deflate) { return zip({{"a.npy", array(), method}}); }
  static std::string array() {
    return npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1000,), }", std::string(4000, '\0'));
  }
  static std::size_t directory(const std::string& bytes) { return get32(bytes, bytes.size() - 6); }
  /// With the same number in the local header and in the directory, `central` bytes further in.
  static std::string with(std::string bytes, std::size_t local, std::size_t central, std::uint64_t value, int count) {
    const std::size_t at = directory(bytes);
    put(bytes, local, value, count);
    put(bytes, at + central, value, count);
    return bytes;
  }

  test::TemporaryFolder folder_;
};

// Offsets of fields: in the local header, in the directory entry.
constexpr std::size_t kFlags[] = {6, 8}, kMethod[] = {8, 10}, kCrc[] = {14, 16}, kPacked[] = {18, 20},
                      kUnpacked[] = {22, 24}, kName[] = {30, 46};

TEST_F(NpzTest, ReadsWhatNumpyWrote) {
  for (const char* name : {"stored.npz", "deflated.npz"}) {
    NamedTensors tensors = load_npz(kGolden / name);
    if (name[0] == 'd') {
      EXPECT_EQ(tensors[0].first, "zeros");
      EXPECT_TRUE(bitwise_equal(tensors[0].second, zeros({5000})));
      tensors.erase(tensors.begin());
    }
    const std::pair<const char*, Tensor> want[] = {
        {"weight", numpy_values({4, 3}, Dtype::f32)},  {"block/bias", numpy_values({5}, Dtype::f64)},
        {"count", numpy_values({}, Dtype::i64)},       {"mask", numpy_values({2, 3}, Dtype::boolean)},
        {"fortran", numpy_values({2, 3}, Dtype::f16)}, {"none", numpy_values({0, 2}, Dtype::i32)},
    };
    ASSERT_EQ(tensors.size(), std::size(want));
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(tensors[i].first, want[i].first);
      EXPECT_TRUE(bitwise_equal(contiguous(tensors[i].second), want[i].second)) << name << " " << want[i].first;
    }
  }
}

TEST_F(NpzTest, RoundTrips) {
  const NamedTensors tensors{{"a", numpy_values({3, 5}, Dtype::f32)},
                             {"block.0/weight", numpy_values({7}, Dtype::f16)},
                             {"größe", numpy_values({}, Dtype::i64)},
                             {"large", numpy_values({300, 1001}, Dtype::f64)},  // more than the buffers of 64 KiB
                             {"none", numpy_values({0}, Dtype::boolean)}};
  for (const NpzCompression compression : {NpzCompression::none, NpzCompression::deflate}) {
    save_npz(path(), tensors, compression);
    const NamedTensors got = load_npz(path());
    ASSERT_EQ(got.size(), tensors.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].first, tensors[i].first);
      EXPECT_TRUE(bitwise_equal(got[i].second, tensors[i].second)) << got[i].first;
    }
    const std::string bytes = file_bytes(path());
    save_npz(path(), tensors, compression);
    EXPECT_EQ(file_bytes(path()), bytes) << "the same tensors give the same bytes";
  }
  EXPECT_LT(file_bytes(path()).size(), 300u * 1001 * 8 / 2) << "deflate packs";
  save_npz(path(), {});
  EXPECT_TRUE(load_npz(path()).empty());
}

TEST_F(NpzTest, NumpyReadsWhatWasWritten) {
  const std::string python = test::python_with_numpy();
  if (python.empty()) GTEST_SKIP() << "no python3 with numpy: install python3-numpy";
  const NamedTensors tensors{{"a", numpy_values({3, 5}, Dtype::f32)}, {"größe/x", numpy_values({4}, Dtype::i64)}};
  save_npz(folder_.path() / "stored.npz", tensors);
  save_npz(folder_.path() / "deflated.npz", tensors, NpzCompression::deflate);
  zip({{"a.npy", file_bytes(kGolden / "f4.npy")}}, /*zip64_from=*/1);
  std::ofstream(folder_.path() / "check.py") << R"(
import sys, zipfile, numpy as np
for name in ("stored", "deflated"):
    with np.load(f"{sys.argv[1]}/{name}.npz", allow_pickle=False) as got:
        assert got.files == ["a", "größe/x"], got.files
        assert np.array_equal(got["a"], ((np.arange(15) - 3) / 4).astype("f4").reshape(3, 5))
        assert np.array_equal(got["größe/x"], 3 * np.arange(4) - 4)
    assert zipfile.ZipFile(f"{sys.argv[1]}/{name}.npz").testzip() is None
assert np.array_equal(np.load(sys.argv[1] + "/file.npz")["a"], ((np.arange(6) - 3) / 4).reshape(2, 3))
)";
  EXPECT_EQ(
      std::system(
          (python + " '" + (folder_.path() / "check.py").string() + "' '" + folder_.path().string() + "'").c_str()),
      0);
}

// Archives with zip64 sizes in some or all places, as those of more than 4 GiB have them.
TEST_F(NpzTest, ReadsZip64) {
  for (const std::int64_t from : {1, 100, 300, 5000}) {
    zip({{"a.npy", array(), ZipMethod::deflate}, {"b.npy", array()}}, from);
    const NamedTensors got = load_npz(path());
    ASSERT_EQ(got.size(), 2u);
    for (const auto& [name, tensor] : got) EXPECT_TRUE(bitwise_equal(tensor, zeros({1000}))) << name << from;
  }
}

TEST_F(NpzTest, RefusesZip64ThatLies) {
  const std::string good = zip({{"a.npy", array()}}, 1);
  const std::size_t end = good.size() - 22, locator = end - 20, end64 = locator - 56;
  const std::size_t central = end64 - (46 + 5 + 4 + 16);  // unpacked and packed size; the offset is 0
  ASSERT_EQ(get32(good, central), 0x02014b50u);
  const auto changed = [&](std::size_t at, std::uint64_t value, int count) {
    std::string bytes = good;
    put(bytes, at, value, count);
    return error_of(bytes);
  };
  const std::string lies =
      "[load_npz] FILE points to a zip64 end record that is missing or says otherwise; get the file anew";
  EXPECT_EQ(changed(locator, 0, 4), lies);
  EXPECT_EQ(changed(locator + 8, end64 - 1, 8), lies);
  EXPECT_EQ(changed(locator + 16, 2, 4), lies);
  EXPECT_EQ(changed(end64, 0, 4), lies);
  EXPECT_EQ(changed(end64 + 4, 45, 8), lies);
  EXPECT_EQ(changed(end64 + 16, 1, 4), lies);
  EXPECT_EQ(changed(end64 + 24, 2, 8), lies);  // entries on this disk
  EXPECT_EQ(changed(end + 12, 77, 4), lies);   // the directory's size, in both records
  EXPECT_NE(changed(end64 + 40, ~0ull, 8).find("which does not end at"), std::string::npos);
  EXPECT_NE(changed(end64 + 48, ~0ull, 8).find("which does not end at"), std::string::npos);
  EXPECT_NE(changed(central + 51 + 4, ~0ull, 8).find("is stored but declares"), std::string::npos);
  EXPECT_NE(changed(central + 51 + 12, ~0ull, 8).find("packed bytes from 0 on but the directory starts"),
            std::string::npos);
  EXPECT_NE(changed(30 + 5 + 4, 1, 8).find("damaged or differs from the directory"), std::string::npos);
  EXPECT_NE(changed(central + 51, 2, 2).find("lacks the zip64 sizes that it points to"), std::string::npos);
  EXPECT_NE(changed(central + 20, 9, 4).find("has zip64 sizes that nothing points to"), std::string::npos);
  EXPECT_NE(changed(central + 53, 15, 2).find("has damaged extra fields"), std::string::npos);
}

TEST_F(NpzTest, RefusesEncryption) {
  for (const int flag : {1, 1 << 6, 1 << 13})
    EXPECT_EQ(error_of(with(one(), kFlags[0], kFlags[1], static_cast<std::uint64_t>(flag), 2)),
              "[load_npz] FILE: entry 'a.npy' is encrypted: save it again without");
}

TEST_F(NpzTest, RefusesWhatItDoesNotRead) {
  EXPECT_EQ(error_of(with(one(), kFlags[0], kFlags[1], 1 << 3, 2)),
            "[load_npz] FILE: entry 'a.npy' was written to a stream (its sizes come behind its data): save it again to "
            "a file");
  EXPECT_EQ(error_of(with(one(), kMethod[0], kMethod[1], 12, 2)),
            "[load_npz] FILE: entry 'a.npy' is packed by method 12 but must be stored (0) or deflated (8): save it "
            "again with "
            "numpy.savez");
  EXPECT_EQ(error_of(zip({{"readme.txt", "hello"}})),
            "[load_npz] FILE: entry 'readme.txt' is no array: names must end in .npy");
  EXPECT_EQ(error_of(zip({{".npy", array()}})), "[load_npz] FILE: entry '.npy' is no array: names must end in .npy");
  EXPECT_EQ(
      error_of(zip({{"a.npy", "hello, there"}})),
      "[load_npz] FILE: entry 'a.npy' is not an npy file: it must start with \\x93NUMPY but starts with 'hello,'");
  EXPECT_EQ(error_of(array()), "[load_npz] FILE is not an npz file: it must start with 'PK' but starts with '?NUM'");
  EXPECT_EQ(error_of(one() + "x"),
            "[load_npz] FILE does not end in a zip directory: it is truncated, or has a comment or other bytes behind "
            "it; get "
            "the file anew");
}

TEST_F(NpzTest, RefusesDangerousNames) {
  const std::pair<std::string, std::string> names[] = {
      {"../a.npy", "has an empty part, \".\" or \"..\" in its path"},
      {"a/../../b.npy", "has an empty part, \".\" or \"..\" in its path"},
      {"a//b.npy", "has an empty part, \".\" or \"..\" in its path"},
      {"/etc/a.npy", "is an absolute path"},
      {"C:a.npy", "is an absolute path"},
      {"..\\a.npy", "has a backslash or a control character"},
      {"a\n.npy", "has a backslash or a control character"},
      {std::string("a\0.npy", 6), "has a backslash or a control character"},
      {"a\xff.npy", "is not UTF-8"},
      {"\xc0\xae\xc0\xae/a.npy", "is not UTF-8"},
      {"", "is empty"},
  };
  for (const auto& [name, problem] : names) {
    const std::string message = error_of(zip({{name, array()}}));
    EXPECT_NE(message.find("has a name that " + problem + "; get the file from someone you trust"), std::string::npos)
        << message;
  }
  EXPECT_EQ(error_of(zip({{"a.npy", array()}, {"b.npy", array()}, {"a.npy", array()}})),
            "[load_npz] FILE: entry 'a.npy' appears twice; get the file anew");
  EXPECT_NE(
      error_of(with(zip({{"ä.npy", array()}}), kFlags[0], kFlags[1], 0, 2)).find("neither ASCII nor marked as UTF-8"),
      std::string::npos);
  for (const char* name : {"../a", "/a", "", "a\\b", "\xff"})
    EXPECT_EQ(message_of<OptionError>([&] {
                save_npz(path(), {{name, zeros({1})}});
              }).rfind("[save_npz] the name '", 0),
              0u);
  EXPECT_EQ(message_of<OptionError>([&] {
              save_npz(path(), {{"a", zeros({1})}, {"a", zeros({1})}});
            }),
            "[save_npz] the name 'a' appears twice: give each tensor its own");
}

TEST_F(NpzTest, RefusesWrongChecksums) {
  for (const ZipMethod method : {ZipMethod::stored, ZipMethod::deflate}) {
    EXPECT_NE(error_of(with(one(method), kCrc[0], kCrc[1], 1, 4)).find("its CRC-32 is "), std::string::npos);
    std::string bytes = one(ZipMethod::stored);
    bytes[2000] ^= 1;
    EXPECT_NE(error_of(bytes).find("but should be"), std::string::npos);
  }
}

TEST_F(NpzTest, RefusesSizesAndCountsThatLie) {
  const std::string good = one();
  const std::size_t end = good.size() - 22;
  const auto changed = [&](std::size_t at, std::uint64_t value, int count) {
    std::string bytes = good;
    put(bytes, at, value, count);
    return error_of(bytes);
  };
  const auto counts = [&](std::uint64_t count) {
    std::string bytes = good;
    put(bytes, end + 8, count, 2);
    put(bytes, end + 10, count, 2);
    return error_of(bytes);
  };
  EXPECT_EQ(counts(0), "[load_npz] FILE declares 0 entries but its directory has 51 more bytes; get the file anew");
  EXPECT_EQ(counts(2),
            "[load_npz] FILE declares 2 entries but its directory of 51 bytes cannot hold them; get the file anew");
  EXPECT_EQ(counts(0xfffe).find("[load_npz] FILE declares 65534 entries but its directory of 51 bytes"), 0u);
  EXPECT_NE(counts(0xffff).find("points to a zip64 end record"), std::string::npos);
  EXPECT_NE(changed(end + 8, 2, 2).find("damaged end record"), std::string::npos);
  EXPECT_NE(changed(end + 4, 1, 2).find("one part of several"), std::string::npos);
  EXPECT_NE(changed(end + 20, 1, 2).find("damaged end record"), std::string::npos);
  EXPECT_NE(changed(end + 12, 50, 4).find("which does not end at"), std::string::npos);
  EXPECT_NE(changed(end + 16, 0x7fffffff, 4).find("which does not end at"), std::string::npos);
  // The directory says another offset, size or name than the entry's own header.
  const std::size_t central = directory(good);
  EXPECT_NE(changed(central + 42, 1, 4).find("starts at 1 but the one before it ends at 0"), std::string::npos);
  EXPECT_NE(changed(central + 42, 0xfffffff0, 4).find("packed bytes from 4294967280 on but the directory starts"),
            std::string::npos);
  EXPECT_NE(changed(central + kPacked[1], 1, 4).find("packed bytes cannot hold more than 1032"), std::string::npos);
  for (const auto& field : {kFlags, kMethod, kCrc, kUnpacked, kName})
    EXPECT_NE(changed(field[0], 4, 1).find("differs from the directory"), std::string::npos) << field[0];
  EXPECT_NE(changed(26, 200, 2).find("differs from the directory"), std::string::npos);
  EXPECT_NE(changed(28, 0xfff0, 2).find("differs from the directory"), std::string::npos);
}

TEST_F(NpzTest, RefusesOverlapsGapsAndHiddenEntries) {
  const std::string two = zip({{"a.npy", array(), ZipMethod::stored}, {"b.npy", array(), ZipMethod::stored}});
  const std::size_t at = directory(two);
  std::string overlap = two;  // both directory entries share one entry's bytes, as in a bomb of overlapping files
  put(overlap, at + 51 + 42, 0, 4);
  EXPECT_NE(error_of(overlap).find("starts at 0 but the one before it ends at"), std::string::npos);
  // An entry that the directory leaves out.
  std::string hidden = two.substr(0, at) + two.substr(at + 51);
  put(hidden, hidden.size() - 22 + 8, 1, 2);
  put(hidden, hidden.size() - 22 + 10, 1, 2);
  put(hidden, hidden.size() - 22 + 12, 51, 4);
  EXPECT_NE(error_of(hidden).find("starts at 4"), std::string::npos) << error_of(hidden);
  // Bytes between the last entry and the directory.
  std::string gap = two.substr(0, at) + "gap!" + two.substr(at);
  put(gap, gap.size() - 6, at + 4, 4);
  EXPECT_NE(error_of(gap).find("but its last entry ends at"), std::string::npos) << error_of(gap);
  EXPECT_NE(error_of("PK\x03\x04" + two).find("which does not end at"), std::string::npos) << "something in front";
}

TEST_F(NpzTest, RefusesBombsBeforeAllocating) {
  const std::int64_t allocations = cpu_memory_stats().allocations;
  // More than deflate can pack.
  EXPECT_NE(error_of(with(one(), kUnpacked[0], kUnpacked[1], 0x7fffffff, 4)).find("packed bytes cannot hold more than"),
            std::string::npos);
  // The entry's size and its npy header disagree: the header is believed by nobody.
  const std::string large =
      npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,), }", std::string(4000, '\0'));
  EXPECT_EQ(error_of(zip({{"a.npy", large, ZipMethod::deflate}})),
            "[load_npz] FILE: entry 'a.npy' is truncated: its header [1000000000] <f4 declares 4000000000 bytes of "
            "values but "
            "4000 follow; get the file anew");
  // A real one, of 2000 zeros in a few dozen bytes, against a limit.
  EXPECT_EQ(message_of<IoError>([&] { load_npz(folder_.write("file.npz", one()), 3000); }),
            "[load_npz] " + path().string() + " unpacks to more than the 3000 bytes allowed: give a higher most_bytes");
  EXPECT_EQ(cpu_memory_stats().allocations, allocations);
  EXPECT_EQ(load_npz(folder_.write("file.npz", one()), 4071).size(), 1u);
}

TEST_F(NpzTest, RefusesStreamsThatDoNotFitTheirSizes) {
  // Fewer and more unpacked bytes than both headers declare, with an npy header that agrees with them.
  const std::string shorter =
      npy_bytes("{'descr': '|u1', 'fortran_order': False, 'shape': (400,), }", std::string(300, 'x'));
  const std::string longer =
      npy_bytes("{'descr': '|u1', 'fortran_order': False, 'shape': (200,), }", std::string(300, 'x'));
  const std::uint64_t header = shorter.size() - 300;
  EXPECT_NE(error_of(with(zip({{"a.npy", shorter, ZipMethod::deflate}}), kUnpacked[0], kUnpacked[1], header + 400, 4))
                .find("declares 400 bytes of values but 300 follow"),
            std::string::npos);
  EXPECT_NE(error_of(with(zip({{"a.npy", longer, ZipMethod::deflate}}), kUnpacked[0], kUnpacked[1], header + 200, 4))
                .find("packed ones but holds others"),
            std::string::npos);
}

TEST_F(NpzTest, RefusesEveryTruncation) {
  for (const std::string& whole :
       {zip({{"a.npy", file_bytes(kGolden / "f4.npy")}, {"b.npy", file_bytes(kGolden / "u1.npy")}}),
        zip({{"a.npy", file_bytes(kGolden / "f4.npy"), ZipMethod::deflate}}, 1), file_bytes(kGolden / "deflated.npz")})
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const std::string message = error_of(whole.substr(0, length));
      EXPECT_EQ(message.rfind("[load_npz] FILE ", 0), 0u) << length << ": " << message;
    }
}

// Whatever bit is flipped: refused, or (a version, a time, an attribute) read as before.
TEST_F(NpzTest, NeverAcceptsDamagedValues) {
  const std::string array = file_bytes(kGolden / "f4.npy");
  const std::string stored = zip({{"a.npy", array}}), zip64 = zip({{"a.npy", array, ZipMethod::deflate}}, 1);
  const Tensor want = numpy_values({2, 3}, Dtype::f32);
  for (const std::string& whole : {stored, zip64}) {
    int refused = 0;
    for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
      std::string wrong = whole;
      wrong[bit / 8] = static_cast<char>(wrong[bit / 8] ^ (1 << (bit % 8)));
      try {
        const NamedTensors got = load_npz(folder_.write("file.npz", wrong));
        EXPECT_TRUE(got.size() == 1 && got[0].first == "a" && bitwise_equal(got[0].second, want)) << "bit " << bit;
      } catch (const IoError&) { ++refused; }
    }
    EXPECT_GT(refused, static_cast<int>(whole.size() - 50) * 8);
  }
}

TEST_F(NpzTest, ReplacesAFileWholeOrNotAtAll) {
  save_npz(path(), {{"a", ones({3})}});
  EXPECT_THROW(save_npz(path(), {{"a", zeros({3})}, {"b", Tensor::empty({1}, Dtype::bf16)}}), DtypeError);
  EXPECT_TRUE(bitwise_equal(load_npz(path())[0].second, ones({3})));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator()),
            1);
}

}  // namespace
}  // namespace weft::data
