#include "data/npy.h"

#include <csignal>
#include <thread>

#include <sys/resource.h>
#include <sys/stat.h>

#include <gtest/gtest.h>

#include "autograd/engine.h"
#include "autograd/factories.h"
#include "autograd/layout.h"
#include "data/file.h"
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
constexpr Dtype kDtypes[] = {Dtype::f16, Dtype::f32, Dtype::f64, Dtype::i32, Dtype::i64, Dtype::u8, Dtype::boolean};
const std::string kVector = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";

class NpyTest : public testing::Test {
 protected:
  /// The error that reading these bytes gives, with the file's path replaced by FILE.
  std::string error_of(const std::string& bytes) {
    const std::filesystem::path path = folder_.write("file.npy", bytes);
    std::string message = message_of<IoError>([&] { load_npy(path); });
    const std::size_t at = message.find(path.string());
    if (at != std::string::npos) message.replace(at, path.string().size(), "FILE");
    return message;
  }
  std::string header_error(const std::string& header) { return error_of(npy_bytes(header, "12345678")); }
  Tensor read(const std::string& bytes) { return load_npy(folder_.write("file.npy", bytes)); }
  std::filesystem::path path(const std::string& name = "file.npy") const { return folder_.path() / name; }
  /// How many files lie in the folder: no temporary one may be left behind.
  std::ptrdiff_t files() const {
    return std::distance(std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator());
  }

  test::TemporaryFolder folder_;
};

TEST_F(NpyTest, ReadsWhatNumpyWrote) {
  const std::pair<const char*, Tensor> files[] = {
      {"f2", numpy_values({2, 3}, Dtype::f16)},
      {"f4", numpy_values({2, 3}, Dtype::f32)},
      {"f8", numpy_values({2, 3}, Dtype::f64)},
      {"i4", numpy_values({2, 3}, Dtype::i32)},
      {"i8", numpy_values({2, 3}, Dtype::i64)},
      {"u1", numpy_values({2, 3}, Dtype::u8)},
      {"b1", numpy_values({2, 3}, Dtype::boolean)},
      {"scalar", numpy_values({}, Dtype::f32)},
      {"empty", numpy_values({0}, Dtype::f32)},
      {"vector", numpy_values({3}, Dtype::f64)},
      {"empty_matrix", numpy_values({3, 0, 2}, Dtype::i64)},
      {"odd", numpy_values({3, 5, 7}, Dtype::f32)},
      {"version2", numpy_values({2, 3}, Dtype::f32)},
      {"version3", numpy_values({2, 3}, Dtype::f32)},
  };
  for (const auto& [name, want] : files) {
    const Tensor got = load_npy(kGolden / (std::string(name) + ".npy"));
    EXPECT_TRUE(bitwise_equal(got, want)) << name << ": " << got.str();
  }
}

TEST_F(NpyTest, ReadsFortranOrderAsATransposedView) {
  const Tensor got = load_npy(kGolden / "fortran.npy");
  EXPECT_EQ(got.shape(), Shape({2, 3, 4}));
  EXPECT_EQ(got.strides(), Strides({1, 2, 6}));
  EXPECT_TRUE(bitwise_equal(contiguous(got), numpy_values({2, 3, 4}, Dtype::i32)));
  // And writes it in C order again.
  save_npy(path(), got);
  EXPECT_TRUE(bitwise_equal(load_npy(path()), numpy_values({2, 3, 4}, Dtype::i32)));
}

// Byte for byte what NumPy writes.
TEST_F(NpyTest, WritesAsNumpyDoes) {
  const std::pair<const char*, Dtype> files[] = {{"f2", Dtype::f16},    {"f4", Dtype::f32}, {"f8", Dtype::f64},
                                                 {"i4", Dtype::i32},    {"i8", Dtype::i64}, {"u1", Dtype::u8},
                                                 {"b1", Dtype::boolean}};
  for (const auto& [name, dtype] : files) {
    save_npy(path(), numpy_values({2, 3}, dtype));
    EXPECT_EQ(file_bytes(path()), file_bytes(kGolden / (std::string(name) + ".npy"))) << name;
  }
  for (const auto& [name, shape] : {std::pair{"scalar", Shape{}}, {"empty", Shape{0}}, {"odd", Shape{3, 5, 7}}}) {
    save_npy(path(), numpy_values(shape, Dtype::f32));
    EXPECT_EQ(file_bytes(path()), file_bytes(kGolden / (std::string(name) + ".npy"))) << name;
  }
}

TEST_F(NpyTest, RoundTripsEveryDtypeAndShape) {
  const Shape shapes[] = {{}, {0}, {1}, {7}, {3, 0}, {5, 3}, {1, 2, 3, 4, 5, 6, 7, 1}};
  for (const Dtype dtype : kDtypes)
    for (const Shape& shape : shapes) {
      const Tensor x = numpy_values(shape, dtype);
      save_npy(path(), x);
      EXPECT_TRUE(bitwise_equal(load_npy(path()), x)) << to_string(dtype) << " " << shape.str();
      EXPECT_EQ((file_bytes(path()).size() - static_cast<std::size_t>(x.nbytes())) % 64, 0u);
    }
  EXPECT_EQ(files(), 1);
}

TEST_F(NpyTest, WritesTheValuesOfAnyTensor) {
  const Tensor x = numpy_values({6, 8}, Dtype::f32);
  const Tensor view = x.slice(0, 1, 6, 2).t();
  save_npy(path(), view);
  EXPECT_TRUE(bitwise_equal(load_npy(path()), contiguous(view)));
  save_npy(path(), to(x, Device{DeviceKind::simt}));
  EXPECT_TRUE(bitwise_equal(load_npy(path()), x));
  const Tensor parameter = set_requires_grad(clone(x));
  save_npy(path(), parameter);
  EXPECT_TRUE(bitwise_equal(load_npy(path()), x));
}

TEST_F(NpyTest, NumpyReadsWhatWasWritten) {
  const std::string python = test::python_with_numpy();
  if (python.empty()) GTEST_SKIP() << "no python3 with numpy: install python3-numpy";
  for (const Dtype dtype : kDtypes) save_npy(path(std::string(to_string(dtype)) + ".npy"), numpy_values({3, 5}, dtype));
  std::ofstream(path("check.py")) << R"(
import sys, numpy as np
i = np.arange(15).reshape(3, 5)
for name, want in dict(f16=((i - 3) / 4).astype("f2"), f32=((i - 3) / 4).astype("f4"), f64=(i - 3) / 4,
                       i32=(3 * i - 4).astype("i4"), i64=3 * i - 4, u8=(37 * i % 256).astype("u1"), bool=i % 3 == 0).items():
    got = np.load(sys.argv[1] + "/" + name + ".npy", allow_pickle=False)
    assert got.dtype == want.dtype and np.array_equal(got, want), (name, got)
)";
  EXPECT_EQ(std::system((python + " '" + path("check.py").string() + "' '" + folder_.path().string() + "'").c_str()),
            0);
}

TEST_F(NpyTest, RefusesPathsThatAreNoFile) {
  EXPECT_EQ(message_of<IoError>([&] { load_npy(path("absent")); }),
            "[load_npy] there is no file " + path("absent").string() + ": check the path");
  EXPECT_EQ(message_of<IoError>([&] { load_npy(folder_.path()); }),
            "[load_npy] " + folder_.path().string() + " is not a regular file: give the path of one");
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(message_of<IoError>([&] { load_npy(path("pipe")); }),
            "[load_npy] " + path("pipe").string() + " is not a regular file: give the path of one");
}

TEST_F(NpyTest, RefusesWrongMagicAndVersions) {
  EXPECT_EQ(error_of(""), "[load_npy] FILE is empty; get the file anew");
  EXPECT_EQ(error_of("\x89PNG\r\n\x1a\n 123456"),
            "[load_npy] FILE is not an npy file: it must start with \\x93NUMPY but starts with '\\x89PNG\\x0d\\x0a'");
  std::string file = npy_bytes(kVector, "12345678");
  file[6] = 9;
  file[7] = 9;
  EXPECT_EQ(error_of(file),
            "[load_npy] FILE has the npy version 9.9 but must have 1.0, 2.0 or 3.0: save it again with numpy.save");
  file[6] = 1;
  EXPECT_NE(error_of(file).find("version 1.9"), std::string::npos);
  file[6] = file[7] = 0;
  EXPECT_NE(error_of(file).find("version 0.0"), std::string::npos);
}

TEST_F(NpyTest, RefusesHeaderLengthsThatLieBeforeAllocating) {
  std::string file = npy_bytes(kVector, "12345678");
  file[9] = '\x10';
  EXPECT_EQ(error_of(file),
            "[load_npy] FILE is truncated: its header needs 4154 bytes but 66 follow; get the file anew");
  for (const char* length : {"\xff\xff\xff\xff", "\x01\x00\x01\x00"}) {
    file = npy_bytes(kVector, "12345678", 2);
    file.replace(8, 4, length, 4);
    EXPECT_NE(error_of(file).find("bytes but at most 65536 are read"), std::string::npos) << error_of(file);
  }
  // A long header that is there is refused just the same.
  EXPECT_EQ(error_of(npy_bytes(kVector + std::string(70'000, ' '), "12345678", 2)),
            "[load_npy] FILE has a header of 70058 bytes but at most 65536 are read");
  EXPECT_EQ(read(npy_bytes(kVector + std::string(60'000, ' '), "12345678", 2)).shape(), Shape({2}));
}

TEST_F(NpyTest, RefusesOtherDtypes) {
  const auto with = [&](const std::string& descr) {
    return header_error("{'descr': " + descr + ", 'fortran_order': False, 'shape': (2,), }");
  };
  EXPECT_EQ(with("'|O'"),
            "[load_npy] FILE holds Python objects (descr '|O'), which can carry code: save numbers instead");
  EXPECT_EQ(with("'>f4'"),
            "[load_npy] FILE holds big-endian numbers (descr '>f4'): save a.astype(a.dtype.newbyteorder('<'))");
  EXPECT_EQ(
      with("[('a', '<f4'), ('b', '<i4')]"),
      "[load_npy] FILE holds records (descr '[('a', '<f4'), ('b', '<i4')], 'fortran_o...'): save each field as an "
      "array of its own");
  for (const char* descr : {"'<f16'", "'<U2'", "'<c8'", "'<M8[ns]'", "'|i1'", "'<f4x'", "'f4'", "'<'"})
    EXPECT_NE(with(descr).find("but must have one of <f2 <f4 <f8 <i4 <i8 |u1 |b1"), std::string::npos) << with(descr);
  EXPECT_NE(with("''").find("where a dtype without escapes should be"), std::string::npos) << with("''");
  EXPECT_NE(with("('<f4', (2,))").find("where a dtype in quotes should be"), std::string::npos);
  EXPECT_NE(message_of<IoError>([&] { load_npy(kGolden / "big_endian.npy"); }).find("big-endian"), std::string::npos);
  EXPECT_NE(message_of<IoError>([&] { load_npy(kGolden / "records.npy"); }).find("records"), std::string::npos);
  EXPECT_NE(message_of<IoError>([&] { load_npy(kGolden / "text.npy"); }).find("'<U2'"), std::string::npos);
}

TEST_F(NpyTest, RefusesWrongShapes) {
  const auto with = [&](const std::string& shape) {
    return header_error("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }");
  };
  EXPECT_EQ(with("(-1,)"), "[load_npy] FILE has a negative extent in its shape -1,), }\\x0a");
  EXPECT_EQ(with("(9223372036854775808,)"),
            "[load_npy] FILE has an extent of more than 2^63 - 1 in its shape: '9223372036854775808,), }'");
  EXPECT_EQ(with("(2)"),
            "[load_npy] FILE has the shape '(2)', which is a number in Python: a tuple of one extent needs a comma");
  EXPECT_NE(with("(2**63,)").find("'**63,), }\\x0a' at 52 where ')' should be"), std::string::npos) << with("(2**63,)");
  EXPECT_NE(with("(1,1,1,1,1,1,1,1,1)").find("has more than 8 dimensions"), std::string::npos);
  for (const char* shape :
       {"2", "[2]", "(2 2)", "(,)", "(2,,)", "(02,)", "(2.0,)", "(True,)", "(2L,)", "('2',)", "(+2,)", "(1_0,)",
        "((2,),)", "(2,", "()()", "__import__('os').system('false')", "(lambda: 2)()", "2,"})
    EXPECT_EQ(with(shape).rfind("[load_npy] FILE has a", 0), 0u) << shape << ": " << with(shape);
  EXPECT_EQ(read(npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2,)}", "12345678")).shape(),
            Shape({1, 2}));
}

TEST_F(NpyTest, RefusesHeadersThatAreNotTheThreeKeys) {
  const std::string tail = "'fortran_order': False, 'shape': (2,), }";
  EXPECT_EQ(
      header_error("{'descr': '<f4', " + tail + "; import os"),
      "[load_npy] FILE has a header that must end in blanks and one line feed after its '}' but goes on with '; import "
      "os\\x0a'");
  EXPECT_EQ(header_error("{'descr': '<f4', 'code': 1, " + tail),
            "[load_npy] FILE has the key 'code' in its header but may have only descr, fortran_order and shape");
  EXPECT_EQ(header_error("{'descr': '<f4', 'descr': '<i4', " + tail),
            "[load_npy] FILE has 'descr' twice in its header; get the file anew");
  EXPECT_EQ(header_error("{" + tail), "[load_npy] FILE has no 'descr' in its header; get the file anew");
  EXPECT_EQ(header_error("{'descr': '<f4', 'shape': (2,)}"),
            "[load_npy] FILE has no 'fortran_order' in its header; get the file anew");
  EXPECT_EQ(header_error("{'descr': '<f4', 'fortran_order': False}"),
            "[load_npy] FILE has no 'shape' in its header; get the file anew");
  EXPECT_EQ(header_error("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}"),
            "[load_npy] FILE has a header with '0, 'shape': ' at 34 where True or False should be");
  for (const std::string header : {"", "{", "}", "{}", "[]", "{'descr", "{'descr'", "{'descr':", "{'descr': '<f4'",
                                   "{'descr': '<f4' 'shape': (2,)}", "{\"descr': '<f4'}", "{'de\\x73cr': '<f4'}",
                                   "dict(descr='<f4')", "{,}", "{'descr': '<f4',, }"})
    EXPECT_EQ(header_error(header).rfind("[load_npy] FILE has ", 0), 0u) << header << ": " << header_error(header);
  // Any order, either quote, no blanks: still one meaning.
  EXPECT_EQ(read(npy_bytes("{\"shape\":(2,),'fortran_order':False,'descr':'<f4'}", "12345678")).shape(), Shape({2}));
}

TEST_F(NpyTest, RefusesSizesThatOverflowOrLieBeforeAllocating) {
  const auto with = [&](const std::string& shape) {
    return header_error("{'descr': '<f8', 'fortran_order': False, 'shape': " + shape + ", }");
  };
  const std::int64_t allocations = cpu_memory_stats().allocations;
  EXPECT_EQ(with("(4294967296, 4294967296)"),
            "[load_npy] FILE declares [4294967296, 4294967296] in its header: more values than any memory holds; get "
            "the file "
            "anew");
  // A zero does not hide the others, and 2^60 eight-byte values are 2^63 bytes.
  EXPECT_NE(with("(0, 4294967296, 4294967296)").find("more values than any memory holds"), std::string::npos);
  EXPECT_NE(with("(1152921504606846976,)").find("more values than any memory holds"), std::string::npos);
  EXPECT_EQ(
      with("(65536, 65536)"),
      "[load_npy] FILE is truncated: its header [65536, 65536] <f8 declares 34359738368 bytes of values but 8 follow; "
      "get the file anew");
  EXPECT_EQ(cpu_memory_stats().allocations, allocations);
}

TEST_F(NpyTest, RefusesTooFewAndTooManyBytes) {
  EXPECT_EQ(
      error_of(npy_bytes(kVector, "1234567")),
      "[load_npy] FILE is truncated: its header [2] <f4 declares 8 bytes of values but 7 follow; get the file anew");
  EXPECT_EQ(error_of(npy_bytes(kVector, "123456789")),
            "[load_npy] FILE has trailing bytes: its header [2] <f4 declares 8 bytes of values but 9 follow; get the "
            "file anew");
  const std::string bools = "{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }";
  EXPECT_EQ(error_of(npy_bytes(bools, std::string("\1\0\2", 3))),
            "[load_npy] FILE has the byte 0x02 as bool number 2: must be 0 or 1");
}

TEST_F(NpyTest, RefusesEveryTruncation) {
  for (const char* name : {"odd", "version2", "b1", "scalar"}) {
    const std::string whole = file_bytes(kGolden / (std::string(name) + ".npy"));
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const std::string message = error_of(whole.substr(0, length));
      EXPECT_EQ(message.rfind("[load_npy] FILE is ", 0), 0u) << name << " " << length << ": " << message;
    }
  }
}

// Whatever one byte becomes: refused, or read as an array that fits the file.
TEST_F(NpyTest, SurvivesEveryDamagedByte) {
  const std::string whole = file_bytes(kGolden / "f4.npy");
  int refused = 0;
  for (std::size_t at = 0; at < 128; ++at)
    for (const int byte :
         std::initializer_list<int>{0, 1, 9, '\n', ' ', '\'', '(', '-', '0', '9', ':', '\\', '{', 127, 128, 255}) {
      std::string wrong = whole;
      wrong[at] = static_cast<char>(byte);
      try {
        const Tensor x = read(wrong);
        EXPECT_EQ(x.nbytes(), 24) << "byte " << at;
      } catch (const IoError&) { ++refused; }
    }
  EXPECT_GT(refused, 1000);
}

TEST_F(NpyTest, RefusesTensorsThatNumpyHasNoTypeFor) {
  EXPECT_EQ(message_of<DtypeError>([&] { save_npy(path(), Tensor::empty({2}, Dtype::bf16)); }),
            "[save_npy] NumPy has no bf16: save cast(tensor, Dtype::f32), which holds every bf16 exactly");
  EXPECT_EQ(message_of<Error>([&] { save_npy(path(), Tensor{}); }),
            "[save_npy] needs a tensor but got an undefined one");
  EXPECT_EQ(files(), 0);
}

TEST_F(NpyTest, ReplacesAFileWholeOrNotAtAll) {
  const Tensor before = numpy_values({2, 3}, Dtype::f32);
  save_npy(path(), before);
  std::filesystem::permissions(path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_THROW(save_npy(path(), Tensor::empty({2}, Dtype::bf16)), DtypeError);
  {
    AtomicFile unfinished("test", path());
    unfinished.write("half", 4);
    EXPECT_EQ(files(), 2);
  }
  EXPECT_TRUE(bitwise_equal(load_npy(path()), before));
  const Tensor after = numpy_values({5}, Dtype::i32);
  save_npy(path(), after);
  EXPECT_TRUE(bitwise_equal(load_npy(path()), after));
  EXPECT_EQ(std::filesystem::status(path()).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_EQ(files(), 1);
  EXPECT_EQ(message_of<IoError>([&] { save_npy(folder_.path(), after); }),
            "[save_npy] " + folder_.path().string() + " is a folder: give the path of a file");
  EXPECT_EQ(message_of<IoError>([&] { save_npy(path("no/such/folder"), after); }),
            "[save_npy] " + path("no/such/folder").string() +
                " cannot be written: No such file or directory; what was there before is unchanged");
}

TEST_F(NpyTest, AFullDiskLeavesTheOldFile) {
  const Tensor before = numpy_values({2, 3}, Dtype::f32);
  save_npy(path(), before);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{4096, old.rlim_max};  // writing more fails, as on a full disk
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = message_of<IoError>([&] { save_npy(path(), zeros({4000})); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(message,
            "[save_npy] " + path().string() + " cannot be written: File too large; what was there before is unchanged");
  EXPECT_TRUE(bitwise_equal(load_npy(path()), before));
  EXPECT_EQ(files(), 1);
}

// Two threads that save to one path: the file is one of the two, never a mixture.
TEST_F(NpyTest, ConcurrentSavesDoNotMix) {
  const Tensor a = zeros({4000}), b = ones({4000});
  std::thread other([&] {
    for (int i = 0; i < 20; ++i) save_npy(path(), b);
  });
  for (int i = 0; i < 20; ++i) {
    save_npy(path(), a);
    const Tensor got = load_npy(path());
    EXPECT_TRUE(bitwise_equal(got, a) || bitwise_equal(got, b));
  }
  other.join();
  EXPECT_EQ(files(), 1);
}

}  // namespace
}  // namespace weft::data
