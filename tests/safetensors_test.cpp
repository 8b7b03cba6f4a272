#include "data/safetensors.h"

#include <chrono>
#include <csignal>
#include <fstream>

#include <sys/resource.h>

#include <gtest/gtest.h>

#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "support/npy_files.h"

namespace weft::data {
namespace {

using test::bitwise_equal;
using test::file_bytes;
using test::message_of;
using test::numpy_values;

const std::filesystem::path kGolden = WEFT_SOURCE_DIR "/tests/golden/safetensors/python.safetensors";
constexpr Dtype kDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16,
                             Dtype::i64, Dtype::i32, Dtype::u8,  Dtype::boolean};

std::string length(std::uint64_t bytes) {
  std::string text(8, '\0');
  for (int i = 0; i < 8; ++i) text[static_cast<std::size_t>(i)] = static_cast<char>(bytes >> (8 * i) & 0xff);
  return text;
}
/// A file with this header, as it is, and these values.
std::string file_of(const std::string& header, const std::string& values = "") {
  return length(header.size()) + header + values;
}
/// The header of a file with one tensor 'a' of these fields.
std::string entry(const std::string& fields) { return "{\"a\":{" + fields + "}}"; }
std::string fields(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets;
}
std::string error_of(const std::string& bytes) {
  return message_of<IoError>([&] { parse_safetensors("FILE", bytes); });
}
std::string error_of_entry(const std::string& text, const std::string& values = std::string(4, '\0')) {
  return error_of(file_of(entry(text), values));
}
#define EXPECT_REFUSED(message, text) EXPECT_NE((message).find(text), std::string::npos) << (message)

bool same(const SafeTensors& a, const SafeTensors& b) {
  if (a.metadata != b.metadata || a.tensors.size() != b.tensors.size()) return false;
  for (std::size_t i = 0; i < a.tensors.size(); ++i)
    if (a.tensors[i].first != b.tensors[i].first || !bitwise_equal(a.tensors[i].second, b.tensors[i].second))
      return false;
  return true;
}

/// What make_safetensors.py writes.
NamedTensors python_tensors() {
  return {{"z.f64", numpy_values({2}, Dtype::f64)},    {"b.weight", numpy_values({3, 4}, Dtype::f32)},
          {"half", numpy_values({5}, Dtype::f16)},     {"ids", numpy_values({2, 3}, Dtype::i64)},
          {"places", numpy_values({3}, Dtype::i32)},   {"bytes", numpy_values({4}, Dtype::u8)},
          {"mask", numpy_values({7}, Dtype::boolean)}, {"scalar", numpy_values({}, Dtype::f32)},
          {"empty", numpy_values({0, 3}, Dtype::f32)}, {"größe", numpy_values({1}, Dtype::f32)}};
}

class SafetensorsFileTest : public testing::Test {
 protected:
  std::filesystem::path path(const std::string& name = "w.safetensors") const { return folder_.path() / name; }
  std::ptrdiff_t files() const {
    return std::distance(std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator());
  }
  test::TemporaryFolder folder_;
};

TEST_F(SafetensorsFileTest, ReadsWhatPythonWrote) {
  const SafeTensors file = load_safetensors(kGolden);
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"format", "np"}}));
  const NamedTensors want = python_tensors();
  ASSERT_EQ(file.tensors.size(), want.size());
  for (const auto& [name, tensor] : want) {
    const auto found = std::find_if(file.tensors.begin(), file.tensors.end(),
                                    [&, &name = name](const auto& named) { return named.first == name; });
    ASSERT_NE(found, file.tensors.end()) << name;
    EXPECT_TRUE(bitwise_equal(found->second, tensor)) << name << ": " << found->second.str();
  }
  EXPECT_EQ(load_safetensors_metadata(kGolden), file.metadata);
}

// Byte for byte what Python's writer writes, in whatever order the tensors come.
TEST_F(SafetensorsFileTest, WritesAsPythonDoes) {
  NamedTensors tensors = python_tensors();
  for (int turn = 0; turn < 3; ++turn) {
    save_safetensors(path(), tensors, {{"format", "np"}});
    EXPECT_EQ(file_bytes(path()), file_bytes(kGolden));
    std::rotate(tensors.begin(), tensors.begin() + 3, tensors.end());
  }
  EXPECT_EQ(files(), 1);
}

TEST_F(SafetensorsFileTest, RoundTripsEveryDtypeAndShape) {
  const Shape shapes[] = {{}, {0}, {1}, {7}, {3, 0}, {5, 3}, {1, 2, 3, 4, 5, 6, 7, 1}};
  for (const Dtype dtype : kDtypes)
    for (const Shape& shape : shapes) {
      const Tensor x = numpy_values(shape, dtype);
      save_safetensors(path(), {{"x", x}, {"also x", x}}, {{"a \"quoted\" key", "line\nfeed, ü"}, {"", ""}});
      const SafeTensors file = load_safetensors(path());
      ASSERT_EQ(file.tensors.size(), 2u);
      for (const auto& named : file.tensors)
        EXPECT_TRUE(bitwise_equal(named.second, x)) << to_string(dtype) << shape.str();
      EXPECT_EQ(file.metadata.at("a \"quoted\" key"), "line\nfeed, ü");
    }
}

TEST_F(SafetensorsFileTest, WritesTheValuesOfAnyTensor) {
  const Tensor x = numpy_values({6, 8}, Dtype::f32);
  const Tensor view = x.slice(0, 1, 6, 2).t();
  const Tensor parameter = set_requires_grad(clone(x));
  save_safetensors(path(), {{"view", view}, {"simt", to(x, Device{DeviceKind::simt})}, {"parameter", parameter}});
  const SafeTensors file = load_safetensors(path());
  EXPECT_TRUE(bitwise_equal(file.tensors[0].second, x));
  EXPECT_TRUE(bitwise_equal(file.tensors[1].second, x));
  EXPECT_TRUE(bitwise_equal(file.tensors[2].second, contiguous(view)));
  EXPECT_FALSE(requires_grad(file.tensors[0].second));
}

TEST_F(SafetensorsFileTest, RefusesNamesThatItCouldNotReadBack) {
  const Tensor x = numpy_values({2}, Dtype::f32);
  const auto error = [&](const NamedTensors& tensors) {
    return message_of<OptionError>([&] { save_safetensors(path(), tensors); });
  };
  EXPECT_EQ(error({{"x", x}, {"x", x}}), "[save_safetensors] the name 'x' appears twice: give each tensor its own");
  EXPECT_REFUSED(error({{"x", x}, {"x", numpy_values({1}, Dtype::i64)}}), "appears twice");
  EXPECT_REFUSED(error({{"__metadata__", x}}), "not be __metadata__");
  EXPECT_REFUSED(error({{std::string(4097, 'n'), x}}), "at most 4096 bytes");
  EXPECT_REFUSED(error({{"\xff", x}}), "no valid UTF-8");
  EXPECT_REFUSED(message_of<OptionError>([&] {
                   save_safetensors(path(), {{"x", x}}, {{"k", "\xc3"}});
                 }),
                 "no valid UTF-8");
  EXPECT_EQ(files(), 0);
  save_safetensors(path(), {{std::string(4096, 'n'), x}, {"", x}});
  EXPECT_EQ(load_safetensors(path()).tensors.size(), 2u);
}

TEST_F(SafetensorsFileTest, AFailedWriteLeavesTheOldFile) {
  save_safetensors(path(), {{"x", numpy_values({2}, Dtype::f32)}});
  const std::string before = file_bytes(path());
  struct rlimit limit {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = limit;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = message_of<IoError>([&] {
    save_safetensors(path(), {{"x", numpy_values({5000}, Dtype::f32)}});
  });
  ::setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  EXPECT_REFUSED(message, "cannot be written: File too large; what was there before is unchanged");
  EXPECT_EQ(file_bytes(path()), before);
  EXPECT_EQ(files(), 1);
}

TEST_F(SafetensorsFileTest, NamesTheFileThatCannotBeRead) {
  EXPECT_REFUSED(message_of<IoError>([&] { load_safetensors(path("none")); }), "there is no file");
  EXPECT_REFUSED(message_of<IoError>([&] { load_safetensors(folder_.path()); }), "not a regular file");
  std::ofstream(path()) << file_of("{}") << "x";
  EXPECT_REFUSED(message_of<IoError>([&] { load_safetensors(path()); }), path().string());
}

// ---- bad input -------------------------------------------------------------------------------------------------------

TEST(SafetensorsTest, FilesOfAFewBytes) {
  for (const std::size_t bytes : {0u, 1u, 7u})
    EXPECT_EQ(
        error_of(std::string(bytes, '\0')),
        fmt::format("[load_safetensors] FILE: it has {} bytes but needs 8 for the header's length; get the file anew",
                    bytes));
  EXPECT_REFUSED(error_of(length(0)), "must start with '{'");  // N = 0
}

TEST(SafetensorsTest, HeaderLengthsThatCannotBe) {
  EXPECT_REFUSED(error_of(length(~std::uint64_t{0}) + "{}"),
                 "header has 18446744073709551615 bytes but at most 100000000");
  EXPECT_REFUSED(error_of(length(~std::uint64_t{0} - 7) + "{}"), "at most 100000000");  // 8 + N overflows
  EXPECT_REFUSED(error_of(length(std::uint64_t{1} << 63) + "{}"), "at most 100000000");
  EXPECT_REFUSED(error_of(length(100'000'001) + "{}"), "at most 100000000");
  EXPECT_REFUSED(error_of(length(100'000'000) + "{}"), "header needs 100000000 bytes but 2 follow");
  EXPECT_REFUSED(error_of(length(3) + "{}"), "header needs 3 bytes but 2 follow");  // file + 1
  EXPECT_REFUSED(error_of(length(1) + "{}"), "must end with '}'");
}

TEST(SafetensorsTest, NoTensorsAtAll) {
  EXPECT_TRUE(parse_safetensors("FILE", file_of("{}")).tensors.empty());
  EXPECT_TRUE(parse_safetensors("FILE", file_of("{}      ")).tensors.empty());
  EXPECT_TRUE(parse_safetensors("FILE", file_of("{\"__metadata__\":{}}")).tensors.empty());
}

TEST(SafetensorsTest, HeadersThatAreNoObject) {
  EXPECT_REFUSED(error_of(file_of("[]")), "must start with '{' but starts with '['");
  EXPECT_REFUSED(error_of(file_of("null")), "must start with '{'");
  EXPECT_REFUSED(error_of(file_of("{\"a\":1}")), "'a' must be an object in its header but is the number 1");
  EXPECT_REFUSED(error_of(file_of("{\"a\":null}")), "but is null");
  EXPECT_REFUSED(error_of(file_of("{\"a\":true}")), "but is true");
  EXPECT_REFUSED(error_of(file_of("{\"a\":\"b\"}")), "but is the text 'b'");
  EXPECT_REFUSED(error_of(file_of("{\"a\":[]}")), "but is a list");
  EXPECT_REFUSED(error_of(file_of("{\"a\":{}}")), "the tensor 'a' has no 'dtype'");
}

TEST(SafetensorsTest, HeadersThatAreNoJson) {
  for (const char* header : {"{\"a\"}", "{,}", "{\"a\":}", "{\"__metadata__\":{}", "{\"__metadata__\":{},}", "{{}}",
                             "{a:1}", "{} {}", "{}{}", "{/**/}"})
    EXPECT_REFUSED(error_of(file_of(header)), "no valid JSON");
  EXPECT_REFUSED(error_of(file_of(std::string("{}\0}", 4))), "a zero byte");
  EXPECT_REFUSED(error_of(file_of(std::string("{\0}", 3))), "a zero byte");
}

TEST(SafetensorsTest, OnlyBlanksBehindTheHeader) {
  EXPECT_REFUSED(error_of(file_of("{}\n")), "must end with '}' and blanks but ends with '\\x0a'");
  EXPECT_REFUSED(error_of(file_of("{}\t ")), "ends with '\\x09'");
  EXPECT_REFUSED(error_of(file_of("{} x")), "ends with 'x'");
  // The reference reader takes these two; the format's text does not.
  EXPECT_REFUSED(error_of(file_of(" {}")), "must start with '{' but starts with ' '");
  EXPECT_REFUSED(error_of(file_of("\t\n{}")), "must start with '{'");
  EXPECT_REFUSED(error_of(file_of("\xef\xbb\xbf{}")), "must start with '{'");
}

TEST(SafetensorsTest, HeadersThatAreNoUtf8) {
  for (const char* text : {"\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80"})
    EXPECT_REFUSED(error_of(file_of(std::string("{\"") + text + "\":{}}")), "no valid JSON");
  EXPECT_REFUSED(error_of(file_of("{\"\\ud800\":{}}")), "no valid JSON");
}

TEST(SafetensorsTest, KeysThatAppearTwice) {
  const std::string a = "\"a\":{" + fields("F32", "[1]", "[0,4]") + "}",
                    b = "\"a\":{" + fields("F32", "[1]", "[4,8]") + "}";
  EXPECT_REFUSED(error_of(file_of("{" + a + "," + b + "}", "12345678")), "the name 'a' appears twice in its header");
  const std::string escaped = "\"\\u0061\":{" + fields("F32", "[1]", "[4,8]") + "}";
  EXPECT_REFUSED(error_of(file_of("{" + a + "," + escaped + "}", "12345678")), "the name 'a' appears twice");
  EXPECT_REFUSED(error_of(file_of("{\"__metadata__\":{},\"__metadata__\":{}}")), "'__metadata__' appears twice");
  EXPECT_REFUSED(error_of(file_of("{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}")),
                 "'k' appears twice in its metadata");
  EXPECT_REFUSED(error_of_entry(fields("F32", "[1]", "[0,4]") + ",\"dtype\":\"F32\""),
                 "the tensor 'a' has 'dtype' twice");
  EXPECT_REFUSED(error_of_entry(fields("F32", "[1]", "[0,4]") + ",\"shape\":[1]"), "'shape' twice");
  EXPECT_REFUSED(error_of_entry(fields("F32", "[1]", "[0,4]") + ",\"data_offsets\":[0,4]"), "'data_offsets' twice");
}

TEST(SafetensorsTest, EntriesWithMissingOrOtherKeys) {
  EXPECT_REFUSED(error_of_entry("\"shape\":[1],\"data_offsets\":[0,4]"), "has no 'dtype'");
  EXPECT_REFUSED(error_of_entry("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), "has no 'shape'");
  EXPECT_REFUSED(error_of_entry("\"dtype\":\"F32\",\"shape\":[1]"), "has no 'data_offsets'");
  EXPECT_REFUSED(error_of_entry(fields("F32", "[1]", "[0,4]") + ",\"strides\":[1]"), "has the key 'strides'");
}

TEST(SafetensorsTest, DtypesThatAreNone) {
  for (const char* dtype : {"F33", "f32", "", "float32", "U16", "I8", "F8_E4M3", "C64"})
    EXPECT_REFUSED(error_of_entry(fields(dtype, "[1]", "[0,4]")),
                   fmt::format("has the dtype '{}' but must have one of", dtype));
  EXPECT_REFUSED(error_of_entry("\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]"), "must have a word as its dtype");
  EXPECT_REFUSED(error_of_entry("\"dtype\":[\"F32\"],\"shape\":[1],\"data_offsets\":[0,4]"),
                 "must have a word as its dtype");
}

TEST(SafetensorsTest, OffsetsThatCannotBe) {
  const auto offsets = [](const std::string& text) { return error_of_entry(fields("F32", "[1]", text)); };
  EXPECT_REFUSED(offsets("[0]"), "has 1 data_offsets but must have 2");
  EXPECT_REFUSED(offsets("[]"), "has 0 data_offsets");
  EXPECT_REFUSED(offsets("[0,4,8]"), "more than 2 data_offsets");
  EXPECT_REFUSED(offsets("[4,0]"), "[4, 0] that run backwards");
  EXPECT_REFUSED(offsets("[-1,3]"), "whole numbers from 0 up in its data_offsets but has the number -1");
  EXPECT_REFUSED(offsets("[-0,4]"), "whole numbers");
  EXPECT_REFUSED(offsets("[0,1e3]"), "the number 1e3");
  EXPECT_REFUSED(offsets("[0,4.0]"), "the number 4.0");
  EXPECT_REFUSED(offsets("[0,true]"), "has true");
  EXPECT_REFUSED(offsets("[0,\"4\"]"), "has the text '4'");
  EXPECT_REFUSED(offsets("[0,[4]]"), "has a list");
  EXPECT_REFUSED(offsets("[0,18446744073709551615]"), "at most 2^63 - 1");
  EXPECT_REFUSED(offsets("[0,18446744073709551620]"), "whole numbers");  // a float for the parser
  EXPECT_REFUSED(offsets("{}"), "must have a list as its data_offsets but has an object");
  EXPECT_REFUSED(offsets("4"), "must have a list");
  EXPECT_REFUSED(offsets("[1,5]"), "begins at 1 but the values before it end at 0: there is a gap");
  EXPECT_REFUSED(offsets("[0,8]"), "needs 4 bytes but its data_offsets [0, 8] give 8");
}

TEST(SafetensorsTest, ValuesThatOverlapOrLeaveAGap) {
  const auto two = [](const std::string& a, const std::string& b, std::size_t bytes) {
    return error_of(file_of("{\"a\":{" + fields("F32", "[1]", a) + "},\"b\":{" + fields("F32", "[1]", b) + "}}",
                            std::string(bytes, '\0')));
  };
  EXPECT_EQ(two("[0,4]", "[4,8]", 8), "no exception");
  EXPECT_EQ(two("[4,8]", "[0,4]", 8), "no exception") << "in any order";
  EXPECT_REFUSED(two("[0,4]", "[0,4]", 4), "they overlap");
  EXPECT_REFUSED(two("[0,4]", "[2,6]", 6),
                 "the tensor 'b' begins at 2 but the values before it end at 4: they overlap");
  EXPECT_REFUSED(two("[0,4]", "[5,9]", 9), "there is a gap");
  EXPECT_REFUSED(two("[0,4]", "[4,8]", 7), "declares 8 bytes of values but 7 follow");  // beyond the end
  EXPECT_REFUSED(two("[0,4]", "[4,8]", 9), "it has trailing bytes");
  EXPECT_REFUSED(two("[0,4]", "[9223372036854775803,9223372036854775807]", 8), "there is a gap");
}

TEST(SafetensorsTest, ShapesThatCannotBe) {
  const auto shape = [](const std::string& text, const std::string& offsets = "[0,4]") {
    return error_of_entry(fields("F32", text, offsets));
  };
  EXPECT_REFUSED(shape("[4294967296,4294967296]"), "more values than any memory holds");
  // Wraps around to 4 bytes in 64 bits.
  EXPECT_REFUSED(shape("[4194305,4194305,211106198978564]"), "more values than any memory holds");
  EXPECT_REFUSED(shape("[4611686018427387905]"),
                 "more values than any memory holds");  // overflows when multiplied by 4
  EXPECT_REFUSED(shape("[0,4294967296,4294967296]", "[0,0]"), "more values than any memory holds");
  EXPECT_REFUSED(shape("[1000000]"),
                 "the tensor 'a' F32 [1000000] needs 4000000 bytes but its data_offsets [0, 4] give 4");
  EXPECT_REFUSED(shape("[-1]"), "whole numbers from 0 up in its shape but has the number -1");
  EXPECT_REFUSED(shape("[1.0]"), "the number 1.0");
  EXPECT_REFUSED(shape("[true]"), "has true");
  EXPECT_REFUSED(shape("[null]"), "has null");
  EXPECT_REFUSED(shape("[9223372036854775808]"), "at most 2^63 - 1");
  EXPECT_REFUSED(shape("[1,1,1,1,1,1,1,1,1]"), "more than 8 dimensions");
  EXPECT_REFUSED(shape("1"), "must have a list as its shape");
  EXPECT_REFUSED(error_of_entry(fields("F64", "[4]", "[0,16]"), std::string(16, '\0')), "needs 32 bytes but");
  EXPECT_REFUSED(error_of_entry(fields("F32", "[0]", "[0,4]")), "needs 0 bytes but");
}

TEST(SafetensorsTest, EmptyTensorsAndScalars) {
  const std::string header = "{\"a\":{" + fields("F32", "[0]", "[0,0]") + "},\"b\":{" + fields("F32", "[]", "[0,4]") +
                             "},\"c\":{" + fields("I64", "[2,0,3]", "[4,4]") + "},\"d\":{" +
                             fields("U8", "[0]", "[4,4]") + "}}";
  const SafeTensors file = parse_safetensors("FILE", file_of(header, std::string(4, '\0')));
  ASSERT_EQ(file.tensors.size(), 4u);
  EXPECT_EQ(file.tensors[2].second.shape(), Shape({2, 0, 3}));
  // An empty tensor has a place too: it may not lie inside another's values.
  EXPECT_REFUSED(
      error_of(file_of("{\"a\":{" + fields("F32", "[0]", "[2,2]") + "},\"b\":{" + fields("F32", "[1]", "[0,4]") + "}}",
                       std::string(4, '\0'))),
      "they overlap");
}

TEST(SafetensorsTest, MetadataThatAreNoStrings) {
  EXPECT_REFUSED(error_of(file_of("{\"__metadata__\":{\"k\":1}}")),
                 "the metadata 'k' must be a string but is the number 1");
  EXPECT_REFUSED(error_of(file_of("{\"__metadata__\":{\"k\":null}}")), "but is null");
  EXPECT_REFUSED(error_of(file_of("{\"__metadata__\":{\"k\":{}}}")), "but is an object");
  EXPECT_REFUSED(error_of(file_of("{\"__metadata__\":{\"k\":[]}}")), "but is a list");
  EXPECT_REFUSED(error_of(file_of("{\"__metadata__\":null}")), "'__metadata__' must be an object");
  EXPECT_REFUSED(error_of(file_of("{\"__metadata__\":[]}")), "'__metadata__' must be an object");
}

TEST(SafetensorsTest, BoolsAreZeroOrOne) {
  EXPECT_EQ(error_of_entry(fields("BOOL", "[4]", "[0,4]"), std::string("\0\1\1\0", 4)), "no exception");
  EXPECT_REFUSED(error_of_entry(fields("BOOL", "[4]", "[0,4]"), std::string("\0\1\2\0", 4)),
                 "the byte 0x02 as bool number 2");
}

TEST(SafetensorsTest, NanIsAValue) {
  const SafeTensors file = parse_safetensors("FILE", file_of(entry(fields("F32", "[1]", "[0,4]")), "\xff\xff\xff\xff"));
  EXPECT_EQ(static_cast<unsigned char>(file.tensors[0].second.raw_data()[3]), 0xff);
}

TEST(SafetensorsTest, DeepNestingIsRefusedAtItsStart) {
  std::string deep;
  for (int i = 0; i < 10000; ++i) deep += "{\"a\":";
  EXPECT_REFUSED(error_of(file_of(deep + "1" + std::string(10000, '}'))), "the tensor 'a' has the key 'a'");
  EXPECT_REFUSED(error_of(file_of("{\"a\":" + std::string(10000, '[') + std::string(10000, ']') + "}")),
                 "but is a list");
  EXPECT_REFUSED(error_of_entry(fields("F32", std::string(10000, '[') + std::string(10000, ']'), "[0,4]")),
                 "but has a list");
  EXPECT_REFUSED(error_of_entry("\"dtype\":{\"a\":{}}"), "must have a word as its dtype but has an object");
}

TEST(SafetensorsTest, LongNamesAndMany) {
  const std::string one = ":{" + fields("F32", "[0]", "[0,0]") + "}";
  EXPECT_EQ(error_of(file_of("{\"" + std::string(4096, 'n') + "\"" + one + "}")), "no exception");
  EXPECT_REFUSED(error_of(file_of("{\"" + std::string(4097, 'n') + "\"" + one + "}")),
                 "has 4097 bytes but at most 4096");

  std::string header = "{";
  for (int i = 0; i < 100'000; ++i)
    header += fmt::format("{}\"layer.{}.weight\":{{{}}}", i == 0 ? "" : ",", i,
                          fields("F32", "[1]", fmt::format("[{},{}]", 4 * i, 4 * i + 4)));
  const std::string bytes = file_of(header + "}", std::string(400'000, '\0'));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(parse_safetensors("FILE", bytes).tensors.size(), 100'000u);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  RecordProperty("seconds", std::to_string(seconds));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(seconds, 1.0);
#endif
}

/// A file with all that a header can have.
std::string sample() {
  const std::string header = "{\"__metadata__\":{\"k\":\"v\"},\"w\":{" + fields("F32", "[2,3]", "[0,24]") +
                             "},\"b\":{" + fields("BOOL", "[2]", "[24,26]") + "},\"e\":{" +
                             fields("I64", "[0]", "[26,26]") + "}}  ";
  std::string values(26, '\0');
  for (std::size_t i = 0; i < 24; ++i) values[i] = static_cast<char>(17 * i);
  return file_of(header, values);
}

TEST(SafetensorsTest, EveryPrefixIsRefused) {
  const std::string bytes = sample();
  ASSERT_EQ(error_of(bytes), "no exception");
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_REFUSED(error_of(bytes.substr(0, size)), "[load_safetensors] FILE: ") << size;
  for (const char c : {'\0', ' ', '}'}) EXPECT_REFUSED(error_of(bytes + c), "trailing bytes");
}

/// Every tensor of `a` is in `b` under some name with the same dtype, shape and bits, and none is more.
bool same_but_for_words(const SafeTensors& a, const SafeTensors& b) {
  if (a.tensors.size() != b.tensors.size()) return false;
  for (std::size_t i = 0; i < a.tensors.size(); ++i)
    if (a.tensors[i].second.nbytes() != b.tensors[i].second.nbytes()) return false;
  return true;
}

// A flipped bit of the header is refused, or changes nothing but a word that nothing can check: a tensor's name, a text of
// the metadata, or one type for another of the same width.
TEST(SafetensorsTest, AFlippedBitOfTheHeader) {
  const std::string bytes = sample();
  const SafeTensors whole = parse_safetensors("FILE", bytes);
  std::size_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  int refused = 0, read = 0, other = 0;
  for (std::size_t bit = 0; bit < 8 * (8 + header); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    try {
      const SafeTensors file = parse_safetensors("FILE", flipped);
      EXPECT_TRUE(same_but_for_words(file, whole)) << "bit " << bit << ": " << flipped.substr(8, header);
      ++(same(file, whole) ? read : other);
    } catch (const IoError&) { ++refused; }
  }
  EXPECT_GT(refused, 8 * 64);
  RecordProperty("refused", refused);
  RecordProperty("same", read);
  RecordProperty("other_words", other);
}

}  // namespace
}  // namespace weft::data
