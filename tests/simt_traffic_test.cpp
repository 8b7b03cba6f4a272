#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "simt/runtime.h"
#include "simt/traffic.h"

namespace weft::simt {
namespace {

struct alignas(16) Float4 {
  float v[4];
};

template <class T>
T load(const T* address, Site site = Site::current()) {
  return *static_cast<const T*>(global_access(address, sizeof(T), alignof(T), Access::read, site));
}

template <class T>
void store(T* address, T value, Site site = Site::current()) {
  *static_cast<T*>(global_access(address, sizeof(T), alignof(T), Access::write, site)) = value;
}

// Device memory of `count` zeros.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count) : count_(count), data_(static_cast<T*>(device_malloc(bytes()))) {
    fill_bytes(data_, 0, bytes());
  }
  ~Buffer() { device_free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }
  std::int64_t bytes() const { return count_ * static_cast<std::int64_t>(sizeof(T)); }
  Operand operand(const char* name, OperandKind kind = OperandKind::streamed) const {
    return {name, data_, bytes(), kind};
  }

 private:
  std::int64_t count_;
  T* data_;
};

struct Shape {
  unsigned blocks = 1;
  unsigned threads = 32;
};

template <class F>
KernelTraffic count(Shape shape, const std::vector<Operand>& operands, F&& kernel) {
  const TrafficScope scope;
  run({.kernel = "counted",
       .grid = {shape.blocks},
       .block = {shape.threads},
       .operands = operands.data(),
       .operand_count = operands.size()},
      kernel);
  EXPECT_EQ(scope.launches().size(), 1u);
  EXPECT_EQ(scope.sector_bytes(), scope.launches().front().sector_bytes());
  return scope.launches().front();
}

unsigned global_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

OperandTraffic one(const KernelTraffic& traffic, const char* name) {
  const OperandTraffic* found = traffic.find(name);
  EXPECT_NE(found, nullptr) << name;
  return found == nullptr ? OperandTraffic{} : *found;
}

// --- global memory ---------------------------------------------------------------------------------------------------

TEST(SimtTraffic, DenseVectorCopy) {
  const Buffer<Float4> x(128), y(128);
  const KernelTraffic traffic = count({2, 64}, {x.operand("x"), y.operand("y")},
                                      [&] { store(y.get() + global_index(), load(x.get() + global_index())); });
  ASSERT_EQ(traffic.operands.size(), 2u);
  EXPECT_EQ(traffic.kernel, "counted");
  const OperandTraffic in = one(traffic, "x"), out = one(traffic, "y");
  EXPECT_EQ(in.declared_bytes, 2048);
  EXPECT_EQ(in.read_bytes, 2048);
  EXPECT_EQ(in.read_sectors, 64);
  EXPECT_EQ(in.written_bytes, 0);
  EXPECT_EQ(in.written_sectors, 0);
  EXPECT_EQ(in.requests, 4);
  EXPECT_EQ(in.ideal_sectors, 64);
  EXPECT_EQ(in.widest_access_bytes, 16);
  EXPECT_EQ(out.read_bytes, 0);
  EXPECT_EQ(out.written_bytes, 2048);
  EXPECT_EQ(out.written_sectors, 64);
  EXPECT_EQ(traffic.sector_bytes(), 4096);
  EXPECT_EQ(traffic.coalescing(), 1.0);
  EXPECT_EQ(traffic.shared_requests, 0);
}

TEST(SimtTraffic, StrideTwoFetchesTwiceTheSectors) {
  const Buffer<float> x(64);
  const KernelTraffic traffic = count({}, {x.operand("x")}, [&] { load(x.get() + 2 * threadIdx.x); });
  EXPECT_EQ(one(traffic, "x").read_bytes, 128);
  EXPECT_EQ(one(traffic, "x").read_sectors, 8);
  EXPECT_EQ(one(traffic, "x").ideal_sectors, 4);
  EXPECT_EQ(traffic.coalescing(), 0.5);
}

TEST(SimtTraffic, MisalignedByOneElementTouchesOneSectorMore) {
  const Buffer<float> x(33);
  const KernelTraffic traffic = count({}, {x.operand("x")}, [&] { load(x.get() + 1 + threadIdx.x); });
  EXPECT_EQ(one(traffic, "x").read_sectors, 5);
  EXPECT_EQ(one(traffic, "x").ideal_sectors, 4);
  EXPECT_EQ(one(traffic, "x").requests, 1);
  EXPECT_DOUBLE_EQ(traffic.coalescing(), 0.8);
}

TEST(SimtTraffic, AnAccessAcrossASectorBoundaryTouchesBoth) {
  struct Pair {  // 8 bytes, aligned to 4
    float a, b;
  };
  const Buffer<float> x(16);
  const KernelTraffic traffic =
      count({1, 1}, {x.operand("x")}, [&] { load(reinterpret_cast<const Pair*>(x.get() + 7)); });
  EXPECT_EQ(one(traffic, "x").read_sectors, 2);
  EXPECT_EQ(one(traffic, "x").ideal_sectors, 1);
}

TEST(SimtTraffic, LanesAtOneAddressShareOneSectorButWarpsDoNot) {
  const Buffer<float> x(1);
  const KernelTraffic traffic = count({1, 64}, {x.operand("x")}, [&] { load(x.get()); });
  EXPECT_EQ(one(traffic, "x").read_bytes, 256);
  EXPECT_EQ(one(traffic, "x").requests, 2);
  EXPECT_EQ(one(traffic, "x").read_sectors, 2);
  EXPECT_EQ(traffic.coalescing(), 1.0);
}

TEST(SimtTraffic, GuardedTail) {
  const Buffer<float> x(100);
  const KernelTraffic traffic = count({}, {x.operand("x")}, [&] {
    for (unsigned i = threadIdx.x; i < 100; i += blockDim.x) load(x.get() + i);
  });
  EXPECT_EQ(one(traffic, "x").read_bytes, 400);
  EXPECT_EQ(one(traffic, "x").requests, 4);
  EXPECT_EQ(one(traffic, "x").read_sectors, 13);
  EXPECT_EQ(one(traffic, "x").ideal_sectors, 13);
}

TEST(SimtTraffic, DivergentLanesAreTwoInstructions) {
  const Buffer<float> x(32);
  const KernelTraffic traffic = count({}, {x.operand("x")}, [&] {
    if (threadIdx.x % 2 == 0) load(x.get() + threadIdx.x);
    if (threadIdx.x % 2 == 1) load(x.get() + threadIdx.x);
  });
  EXPECT_EQ(one(traffic, "x").requests, 2);
  EXPECT_EQ(one(traffic, "x").read_sectors, 8);
  EXPECT_EQ(one(traffic, "x").ideal_sectors, 4);  // 64 bytes in each instruction
}

// One warp walks over rows of 36 floats: the first four lanes come by twice per row. Rows start in the middle of a
// sector every other time, so that lanes matched across rows would show.
TEST(SimtTraffic, LanesAreMatchedAfreshWhereTheWarpMeets) {
  const Buffer<float> x(3 * 36);
  const auto walk = [&](auto&& meet) {
    return count({}, {x.operand("x")}, [&] {
      for (unsigned r = 0; r < 3; ++r) {
        for (unsigned c = threadIdx.x; c < 36; c += 32) load(x.get() + r * 36 + c);
        meet();
      }
    });
  };
  for (const KernelTraffic& traffic : {walk([] { __syncwarp(); }), walk([] { __syncthreads(); }),
                                       walk([] { __shfl_xor_sync(0xffffffffu, 1.0f, 16); })}) {
    EXPECT_EQ(one(traffic, "x").requests, 6);
    EXPECT_EQ(one(traffic, "x").read_sectors, 4 + 1 + 5 + 1 + 4 + 1);
    EXPECT_EQ(one(traffic, "x").ideal_sectors, 3 * (4 + 1));
  }
}

TEST(SimtTraffic, TheOrderOfThreadsDoesNotMatter) {
  const Buffer<float> x(300), y(600);
  const auto kernel = [&] {
    float* mine = y.get() + 300 * blockIdx.x;
    for (unsigned i = threadIdx.x; i < 300; i += blockDim.x) {
      store(mine + i, load(x.get() + (i * 7) % 300));
      if (i % 3 == 0) load(mine + i);
    }
  };
  const std::vector<Operand> operands{x.operand("x"), y.operand("y")};
  const KernelTraffic forward = count({2, 80}, operands, kernel);
  for (const ThreadOrder order : {ThreadOrder::reverse, ThreadOrder::seeded}) {
    const OrderScope scope(order, 5);
    const KernelTraffic other = count({2, 80}, operands, kernel);
    for (const char* name : {"x", "y"}) {
      EXPECT_EQ(one(other, name).read_sectors, one(forward, name).read_sectors);
      EXPECT_EQ(one(other, name).written_sectors, one(forward, name).written_sectors);
      EXPECT_EQ(one(other, name).requests, one(forward, name).requests);
      EXPECT_EQ(one(other, name).ideal_sectors, one(forward, name).ideal_sectors);
    }
  }
}

TEST(SimtTraffic, AnAtomicIsAReadAndAWrite) {
  const Buffer<int> x(32);
  const KernelTraffic traffic =
      count({}, {x.operand("x")}, [&] { global_access(x.get() + threadIdx.x, 4, 4, Access::atomic, Site::current()); });
  EXPECT_EQ(one(traffic, "x").read_bytes, 128);
  EXPECT_EQ(one(traffic, "x").written_bytes, 128);
  EXPECT_EQ(one(traffic, "x").read_sectors, 4);
  EXPECT_EQ(one(traffic, "x").written_sectors, 4);
  EXPECT_EQ(one(traffic, "x").requests, 1);
  EXPECT_EQ(traffic.coalescing(), 1.0);
}

// --- operands --------------------------------------------------------------------------------------------------------

TEST(SimtTraffic, BroadcastOperandsCountOncePerLaunch) {
  const Buffer<float> gamma(32), x(320);
  const auto kernel = [&] {
    load(gamma.get() + threadIdx.x);
    load(x.get() + global_index());
  };
  const KernelTraffic traffic =
      count({10, 32}, {gamma.operand("gamma", OperandKind::broadcast), x.operand("x")}, kernel);
  EXPECT_EQ(one(traffic, "gamma").read_bytes, 1280);
  EXPECT_EQ(one(traffic, "gamma").read_sectors, 4);
  EXPECT_EQ(one(traffic, "gamma").request_sectors, 40);
  EXPECT_EQ(one(traffic, "gamma").requests, 10);
  EXPECT_EQ(one(traffic, "x").read_sectors, 40);
  EXPECT_EQ(traffic.sector_bytes(), 32 * 44);
  EXPECT_EQ(traffic.coalescing(), 1.0);
  // Streamed, and workspace alike, each access counts.
  for (const OperandKind kind : {OperandKind::streamed, OperandKind::workspace}) {
    EXPECT_EQ(one(count({10, 32}, {gamma.operand("gamma", kind)}, kernel), "gamma").read_sectors, 40);
  }
}

TEST(SimtTraffic, BroadcastReadsAndWritesAreCountedApart) {
  const Buffer<float> table(64);
  const KernelTraffic traffic = count({4, 32}, {table.operand("table", OperandKind::broadcast)}, [&] {
    load(table.get() + threadIdx.x);
    if (threadIdx.x < 8) {
      float* mine = table.get() + 32 + 8 * blockIdx.x + threadIdx.x;
      store(mine, load(mine) + 1.0f);
    }
  });
  EXPECT_EQ(one(traffic, "table").read_sectors, 8);
  EXPECT_EQ(one(traffic, "table").written_sectors, 4);
}

TEST(SimtTraffic, BroadcastOperandThatStartsWithinASector) {
  const Buffer<float> storage(64);
  const Operand table{"table", storage.get() + 4, 16 * 4, OperandKind::broadcast};
  const KernelTraffic traffic = count({3, 16}, {table}, [&] { load(storage.get() + 4 + threadIdx.x); });
  EXPECT_EQ(one(traffic, "table").read_sectors, 3);
  EXPECT_EQ(traffic.operands.size(), 1u);
}

TEST(SimtTraffic, UndeclaredBuffersAndOperandsThatAreNotGiven) {
  const Buffer<float> x(32), secret(32);
  const KernelTraffic traffic = count({}, {x.operand("x"), Operand{"beta", nullptr, 128, OperandKind::broadcast}}, [&] {
    load(x.get() + threadIdx.x);
    load(secret.get() + threadIdx.x);
  });
  ASSERT_EQ(traffic.operands.size(), 3u);
  EXPECT_EQ(one(traffic, "beta").declared_bytes, 0);
  EXPECT_EQ(one(traffic, "beta").requests, 0);
  EXPECT_EQ(traffic.operands.back().name, "(other)");
  EXPECT_EQ(one(traffic, "(other)").read_sectors, 4);
  EXPECT_EQ(one(traffic, "(other)").declared_bytes, 0);
  EXPECT_EQ(traffic.find("nobody"), nullptr);
}

TEST(SimtTraffic, InPlaceReadsGoToTheFirstAndWritesToTheLast) {
  const Buffer<float> x(32);
  const KernelTraffic traffic = count({}, {x.operand("x"), x.operand("y")},
                                      [&] { store(x.get() + threadIdx.x, load(x.get() + threadIdx.x) + 1); });
  EXPECT_EQ(one(traffic, "x").read_sectors, 4);
  EXPECT_EQ(one(traffic, "x").written_sectors, 0);
  EXPECT_EQ(one(traffic, "y").read_sectors, 0);
  EXPECT_EQ(one(traffic, "y").written_sectors, 4);
}

TEST(SimtTraffic, OverlappingOperandsBelongToTheFirstThatHoldsTheAccess) {
  const Buffer<float> all(64);
  const std::vector<Operand> operands{{"low", all.get(), 128, OperandKind::streamed}, all.operand("all")};
  const KernelTraffic traffic = count({1, 64}, operands, [&] {
    load(all.get() + threadIdx.x);
    store(all.get() + threadIdx.x, 1.0f);
  });
  EXPECT_EQ(one(traffic, "low").read_sectors, 4);
  EXPECT_EQ(one(traffic, "low").written_sectors, 4);
  EXPECT_EQ(one(traffic, "all").read_sectors, 4);
  EXPECT_EQ(one(traffic, "all").written_sectors, 4);
}

TEST(SimtTraffic, OneInstructionMayReachSeveralOperands) {
  const Buffer<float> a(32), b(32);
  const KernelTraffic traffic =
      count({}, {a.operand("a"), b.operand("b")}, [&] { load((threadIdx.x < 8 ? a.get() : b.get()) + threadIdx.x); });
  EXPECT_EQ(one(traffic, "a").read_sectors, 1);
  EXPECT_EQ(one(traffic, "a").requests, 1);
  EXPECT_EQ(one(traffic, "b").read_sectors, 3);
  EXPECT_EQ(one(traffic, "b").requests, 1);
}

// --- shared memory ---------------------------------------------------------------------------------------------------

// A tile that 32 lanes fill row by row and read column by column.
KernelTraffic transpose(unsigned pitch) {
  static const char declaration = 0;
  return count({}, {}, [pitch] {
    const Shared<float> tile(detail::shared_array(&declaration, "tile", sizeof(float), 32 * 33, Site::current()), 0);
    for (unsigned r = 0; r < 32; ++r) tile[r * pitch + threadIdx.x] = static_cast<float>(r);
    __syncthreads();
    for (unsigned r = 0; r < 32; ++r) static_cast<void>(static_cast<float>(tile[threadIdx.x * pitch + r]));
  });
}

TEST(SimtTraffic, TransposedTileWithAndWithoutPadding) {
  const KernelTraffic plain = transpose(32);
  EXPECT_EQ(plain.shared_requests, 64);
  EXPECT_EQ(plain.shared_wavefronts, 32 + 32 * 32);
  EXPECT_EQ(plain.shared_ideal_wavefronts, 64);
  EXPECT_EQ(plain.bank_conflicts(), 32 * 31);
  const KernelTraffic padded = transpose(33);
  EXPECT_EQ(padded.shared_requests, 64);
  EXPECT_EQ(padded.shared_wavefronts, 64);
  EXPECT_EQ(padded.bank_conflicts(), 0);
  EXPECT_EQ(padded.sector_bytes(), 0);
}

// Every lane writes `bytes` bytes at stride_bytes * lane.
KernelTraffic write_shared(std::size_t bytes, unsigned stride_bytes, unsigned lanes = 32) {
  static const char declaration = 0;
  return count({1, lanes}, {}, [=] {
    SharedArray* array = detail::shared_array(&declaration, "words", 1, 4096, Site::current());
    detail::shared_access(array, threadIdx.x * stride_bytes, static_cast<int>(bytes), Access::write, Site::current());
  });
}

TEST(SimtTraffic, SharedWavefrontsPerWidth) {
  struct Case {
    std::size_t bytes;
    unsigned stride_bytes, lanes;
    std::int64_t wavefronts, ideal;
  };
  const Case cases[] = {
      {1, 1, 32, 1, 1},     // 8 words
      {2, 2, 32, 1, 1},     // 16 words
      {2, 64, 32, 16, 1},   // 32 words in two banks
      {4, 4, 32, 1, 1},     // a word in each bank
      {4, 8, 32, 2, 1},     // every second bank, twice
      {4, 128, 32, 32, 1},  // one bank
      {4, 132, 31, 1, 1},   // padded: all banks differ
      {4, 128, 5, 5, 1},    // few lanes
      {8, 8, 32, 2, 2},     // two half-warps
      {8, 16, 32, 4, 2},    // each half in two turns
      {8, 8, 16, 1, 1},     // one half only
      {16, 16, 32, 4, 4},   // four quarter-warps
      {16, 32, 32, 8, 4},   // each quarter in two turns
      {16, 16, 9, 2, 2},    // one quarter and a lane
      {12, 12, 32, 4, 4},   // as three words of a 16-byte access
  };
  for (const Case& c : cases) {
    const KernelTraffic traffic = write_shared(c.bytes, c.stride_bytes, c.lanes);
    EXPECT_EQ(traffic.shared_requests, 1);
    EXPECT_EQ(traffic.shared_wavefronts, c.wavefronts) << c.bytes << " bytes, stride " << c.stride_bytes;
    EXPECT_EQ(traffic.shared_ideal_wavefronts, c.ideal) << c.bytes << " bytes, stride " << c.stride_bytes;
  }
}

TEST(SimtTraffic, LanesThatReadOneWordDoNotConflict) {
  static const char declaration = 0;
  const KernelTraffic traffic = count({}, {}, [] {
    const Shared<float> values(detail::shared_array(&declaration, "values", sizeof(float), 64, Site::current()), 0);
    values[threadIdx.x] = 1.0f;
    values[threadIdx.x + 32] = 2.0f;
    __syncthreads();
    static_cast<void>(static_cast<float>(values[5]));                          // all one word
    static_cast<void>(static_cast<float>(values[threadIdx.x < 16 ? 3 : 35]));  // two words of one bank
  });
  EXPECT_EQ(traffic.shared_requests, 4);
  EXPECT_EQ(traffic.shared_wavefronts, 1 + 1 + 1 + 2);
  EXPECT_EQ(traffic.bank_conflicts(), 1);
}

// --- scopes ----------------------------------------------------------------------------------------------------------

TEST(SimtTraffic, LaunchesAreKeptInOrderAndOnlyWhileAScopeIsOpen) {
  const Buffer<float> x(32);
  const auto launch = [&](const char* name, unsigned threads) {
    run({.kernel = name, .grid = {1}, .block = {threads}}, [&] { load(x.get() + threadIdx.x); });
  };
  launch("before", 32);
  EXPECT_FALSE(detail::traffic_on());
  {
    const TrafficScope scope;
    EXPECT_TRUE(detail::traffic_on());
    launch("first", 32);
    launch("second", 8);
    std::thread([&] {
      EXPECT_FALSE(detail::traffic_on());
      launch("elsewhere", 32);
    }).join();
    ASSERT_EQ(scope.launches().size(), 2u);
    EXPECT_EQ(scope.launches()[0].kernel, "first");
    EXPECT_EQ(scope.launches()[0].sector_bytes(), 128);
    EXPECT_EQ(scope.launches()[1].kernel, "second");
    EXPECT_EQ(scope.launches()[1].sector_bytes(), 32);
    EXPECT_EQ(scope.sector_bytes(), 160);
    EXPECT_THROW(TrafficScope{}, std::logic_error);
    launch("third", 1);
    EXPECT_EQ(scope.launches().size(), 3u);
  }
  EXPECT_FALSE(detail::traffic_on());
  const TrafficScope fresh;
  EXPECT_TRUE(fresh.launches().empty());
}

TEST(SimtTraffic, ALaunchThatEndsWithAFaultIsLeftOut) {
  const Buffer<float> x(32);
  const Operand operand = x.operand("x");
  const TrafficScope scope;
  const auto launch = [&](unsigned threads) {
    run({.kernel = "reader", .grid = {2}, .block = {threads}, .operands = &operand, .operand_count = 1},
        [&] { load(x.get() + threadIdx.x); });
  };
  EXPECT_THROW(launch(33), KernelError);
  EXPECT_TRUE(scope.launches().empty());
  launch(32);
  ASSERT_EQ(scope.launches().size(), 1u);
  EXPECT_EQ(one(scope.launches().front(), "x").requests, 2);
  EXPECT_EQ(one(scope.launches().front(), "x").read_sectors, 8);
}

TEST(SimtTraffic, Table) {
  const Buffer<float> x(64), gamma(32);
  const TrafficScope scope;
  const Operand operands[] = {
      x.operand("x"), gamma.operand("gamma", OperandKind::broadcast), {"beta", nullptr, 0, OperandKind::broadcast}};
  static const char declaration = 0;
  run({.kernel = "scale", .grid = {1}, .block = {32}, .operands = operands, .operand_count = 3}, [&] {
    const Shared<float> values(detail::shared_array(&declaration, "values", sizeof(float), 64, Site::current()), 0);
    values[2 * threadIdx.x] = load(x.get() + 2 * threadIdx.x) * load(gamma.get() + threadIdx.x);
  });
  run({.kernel = "idle", .grid = {1}, .block = {1}}, [] {});
  EXPECT_EQ(traffic_table(scope.launches()),
            "kernel  operand   kind       declared B  read B  written B  moved B  moved/declared  coalesced %  widest B"
            "     bank conflicts\n"
            "scale   x         streamed          256     128          0      256            1.00         50.0         4"
            "                  -\n"
            "        gamma     broadcast         128     128          0      128            1.00        100.0         4"
            "                  -\n"
            "        beta      broadcast           0       0          0        0               -            -         -"
            "                  -\n"
            "        (shared)  shared              -       -          -        -               -            -         -"
            "  1 in 2 wavefronts\n"
            "idle\n");
}

}  // namespace
}  // namespace weft::simt
