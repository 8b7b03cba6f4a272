#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "simt/address_ranges.h"
#include "simt/memory.h"
#include "simt/runtime.h"
#include "simt/stream.h"

namespace weft::simt {
namespace {

constexpr Site kSite = Site::current();

template <class T>
T load(const T* address, Site site = Site::current()) {
  return *static_cast<const T*>(global_access(address, sizeof(T), alignof(T), Access::read, site));
}

template <class T>
void store(T* address, T value, Site site = Site::current()) {
  *static_cast<T*>(global_access(address, sizeof(T), alignof(T), Access::write, site)) = value;
}

// Device memory that goes back at the end of the test, however that ends.
struct Block {
  explicit Block(std::size_t bytes) : address(static_cast<char*>(device_malloc(bytes))) {}
  ~Block() {
    if (address != nullptr) device_free(address);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  template <class T>
  T* as(std::size_t offset_bytes = 0) const {
    return reinterpret_cast<T*>(address + offset_bytes);
  }
  char* address;
};

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const std::exception& error) { return error.what(); }
  return "nothing was thrown";
}

// The one fault that a kernel of a single thread ends with.
template <class F>
Fault fault_of(F&& f) {
  try {
    run({.kernel = "accused"}, f);
  } catch (const KernelError& error) {
    EXPECT_EQ(error.faults().size(), 1u);
    return error.faults().front();
  }
  ADD_FAILURE() << "no fault";
  return {};
}

testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << part << "' is not in: " << text;
}

std::string allocation_name(const Block& block) {
  const Allocation allocation = find_allocation(block.address);
  return "allocation " + std::to_string(allocation.number) + " (" + std::to_string(allocation.bytes) + " bytes";
}

// --- blocks ----------------------------------------------------------------------------------------------------------

TEST(SimtMemory, BlocksAreAlignedAndFilledWithNaN) {
  for (std::size_t bytes : {1, 4, 255, 256, 257, 4096, 100'000, 5 << 20}) {
    const Block block(bytes);
    ASSERT_NE(block.address, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.address) % 256, 0u);
    std::vector<unsigned char> host(bytes, 0);
    copy_to_host(host.data(), block.address, bytes);
    EXPECT_EQ(std::count(host.begin(), host.end(), 0xFF), static_cast<std::ptrdiff_t>(bytes));
  }
  EXPECT_EQ(device_malloc(0), nullptr);
  device_free(nullptr);
}

// The system takes back whole pages only: never one that a neighbour still uses.
TEST(SimtMemory, FreeingABlockLeavesItsNeighboursAlone) {
  std::vector<char*> blocks;
  constexpr std::size_t kBytes = 5000;
  for (int i = 0; i < 40; ++i) {
    blocks.push_back(static_cast<char*>(device_malloc(kBytes)));
    fill_bytes(blocks.back(), static_cast<unsigned char>(i), kBytes);
  }
  for (int i = 0; i < 40; i += 2) device_free(blocks[i]);
  for (int i = 1; i < 40; i += 2) {
    std::vector<unsigned char> host(kBytes);
    copy_to_host(host.data(), blocks[i], kBytes);
    EXPECT_EQ(std::count(host.begin(), host.end(), i), static_cast<std::ptrdiff_t>(kBytes));
    device_free(blocks[i]);
  }
}

TEST(SimtMemory, AtLeast256BytesLieBetweenBlocks) {
  std::vector<Allocation> blocks;
  for (std::size_t bytes : {1, 256, 300, 512, 4096}) blocks.push_back(find_allocation(device_malloc(bytes)));
  std::sort(blocks.begin(), blocks.end(), [](const auto& a, const auto& b) { return a.address < b.address; });
  for (std::size_t i = 1; i < blocks.size(); ++i) {
    const auto* end = static_cast<const char*>(blocks[i - 1].address) + blocks[i - 1].bytes;
    EXPECT_GE(static_cast<const char*>(blocks[i].address) - end, 256) << i;
  }
  for (const Allocation& block : blocks) device_free(const_cast<void*>(block.address));
}

TEST(SimtMemory, FreedAddressesAreNotUsedAgainAtOnce) {
  void* first = device_malloc(1000);
  device_free(first);
  for (int i = 0; i < 1000; ++i) {
    void* next = device_malloc(1000);
    EXPECT_NE(next, first);
    device_free(next);
  }
  const Allocation allocation = find_allocation(first);
  EXPECT_EQ(allocation.address, first);
  EXPECT_FALSE(allocation.live);
}

TEST(SimtMemory, StatsAndTheListOfLiveAllocations) {
  const MemoryStats before = memory_stats();
  const std::size_t listed_before = live_allocations().size();
  reset_peak_bytes();
  void* a = device_malloc(1000);
  void* b = device_malloc(24);
  device_free(a);
  const MemoryStats now = memory_stats();
  EXPECT_EQ(now.current_bytes - before.current_bytes, 24);
  EXPECT_EQ(now.peak_bytes - before.current_bytes, 1024);
  EXPECT_EQ(now.allocations - before.allocations, 1);
  const std::vector<Allocation> live = live_allocations();
  ASSERT_EQ(live.size(), listed_before + 1);
  EXPECT_EQ(live.back().address, b);
  EXPECT_EQ(live.back().bytes, 24u);
  EXPECT_TRUE(live.back().live);
  reset_peak_bytes();
  EXPECT_EQ(memory_stats().peak_bytes, now.current_bytes);
  device_free(b);
}

TEST(SimtMemory, FindAllocationKnowsEachByteAndNoOther) {
  const Block block(300);
  EXPECT_EQ(find_allocation(block.address + 299).address, block.address);
  EXPECT_EQ(find_allocation(block.address + 299).bytes, 300u);
  EXPECT_EQ(find_allocation(block.address + 300).address, nullptr);
  EXPECT_EQ(find_allocation(block.address + 511).address, nullptr);
  EXPECT_NE(find_allocation(block.address - 1).address, block.address);
  int host = 0;
  EXPECT_EQ(find_allocation(&host).address, nullptr);
  EXPECT_TRUE(is_device_address(block.address));
  EXPECT_FALSE(is_device_address(&host));
  EXPECT_FALSE(is_device_address(nullptr));
  EXPECT_EQ(host_view(&host), nullptr);
}

TEST(SimtMemory, WrongFreesAreRefusedAndChangeNothing) {
  const MemoryStats before = memory_stats();
  void* block = device_malloc(400);
  const std::string number = std::to_string(find_allocation(block).number);
  int host = 0;
  EXPECT_THROW(device_free(&host), std::invalid_argument);
  EXPECT_TRUE(contains(message_of([&] { device_free(&host); }), "it is no device memory"));
  EXPECT_TRUE(contains(message_of([&] { device_free(static_cast<char*>(block) + 4); }),
                       "is not the start of an allocation: byte 4 of allocation " + number + " (400 bytes)"));
  EXPECT_THROW(device_free(static_cast<char*>(block) + 256), std::invalid_argument);
  EXPECT_EQ(memory_stats().allocations, before.allocations + 1);
  device_free(block);
  EXPECT_THROW(device_free(block), std::invalid_argument);
  EXPECT_TRUE(contains(message_of([&] { device_free(block); }),
                       "is free already: byte 0 of allocation " + number + " (400 bytes, freed)"));
  EXPECT_EQ(memory_stats().current_bytes, before.current_bytes);
}

TEST(SimtMemory, FullDevice) {
  EXPECT_EQ(device_malloc(std::size_t{1} << 60), nullptr);
  EXPECT_EQ(device_malloc(~std::size_t{0}), nullptr);
  const std::int64_t current = memory_stats().current_bytes;
  set_memory_limit(current + 1000);
  const Block fits(600);
  EXPECT_NE(fits.address, nullptr);
  EXPECT_EQ(device_malloc(401), nullptr);
  EXPECT_EQ(memory_stats().current_bytes, current + 600);
  void* rest = device_malloc(400);
  EXPECT_NE(rest, nullptr);
  device_free(rest);
  set_memory_limit(0);
  void* more = device_malloc(10'000);
  EXPECT_NE(more, nullptr);
  device_free(more);
  EXPECT_THROW(set_memory_limit(-1), std::invalid_argument);
}

TEST(SimtMemory, FailpointHitsTheNthAllocation) {
  fail_malloc_at(3);
  std::vector<void*> blocks;
  blocks.reserve(4);
  for (int i = 0; i < 4; ++i) blocks.push_back(device_malloc(8));
  EXPECT_NE(blocks[0], nullptr);
  EXPECT_NE(blocks[1], nullptr);
  EXPECT_EQ(blocks[2], nullptr);
  EXPECT_NE(blocks[3], nullptr);
  for (void* block : blocks) device_free(block);
}

// --- copies ----------------------------------------------------------------------------------------------------------

TEST(SimtMemory, CopiesBothWaysAndOnTheDevice) {
  std::vector<int> host(1000), back(1000, -1);
  std::iota(host.begin(), host.end(), 0);
  const Block a(4000), b(4000);
  copy_to_device(a.address, host.data(), 4000);
  copy_on_device(b.address, a.address, 4000);
  fill_bytes(a.address + 400, 0, 400);
  copy_to_host(back.data(), b.address, 4000);
  EXPECT_EQ(back, host);
  copy_to_host(back.data(), a.address, 4000);
  EXPECT_EQ(back[99], 99);
  EXPECT_EQ(back[100], 0);
  EXPECT_EQ(back[199], 0);
  EXPECT_EQ(back[200], 200);
  copy_on_device(b.address + 4, b.address, 3996);  // overlapping
  copy_to_host(back.data(), b.address, 4000);
  EXPECT_EQ(back[1], 0);
  EXPECT_EQ(back[999], 998);
  EXPECT_EQ(static_cast<int*>(host_view(b.address))[999], 998);
}

TEST(SimtMemory, CopiesCheckTheirRanges) {
  std::vector<char> host(1000);
  const Block block(400), other(400);
  const std::string name = allocation_name(block);
  EXPECT_THROW(copy_to_device(block.address, host.data(), 401), std::out_of_range);
  EXPECT_THROW(copy_to_device(block.address + 1, host.data(), 400), std::out_of_range);
  EXPECT_THROW(copy_to_device(block.address + 1, host.data(), ~std::size_t{0}), std::out_of_range);
  EXPECT_THROW(copy_to_host(host.data(), block.address + 400, 1), std::out_of_range);
  EXPECT_THROW(copy_on_device(block.address, other.address, 401), std::out_of_range);
  EXPECT_THROW(copy_on_device(other.address + 300, block.address, 101), std::out_of_range);
  EXPECT_THROW(fill_bytes(block.address + 399, 0, 2), std::out_of_range);
  const std::string message = message_of([&] { copy_to_host(host.data(), block.address + 12, 400); });
  EXPECT_TRUE(contains(message, "[copy_to_host] 400 bytes from"));
  EXPECT_TRUE(contains(message, "byte 12 of " + name + "), 12 bytes past its end"));

  EXPECT_THROW(copy_to_device(host.data(), host.data(), 4), std::invalid_argument);
  EXPECT_THROW(copy_to_device(block.address, other.address, 4), std::invalid_argument);
  EXPECT_THROW(copy_to_device(block.address, nullptr, 4), std::invalid_argument);
  EXPECT_THROW(copy_to_host(block.address, other.address, 4), std::invalid_argument);
  EXPECT_THROW(copy_to_host(host.data(), host.data(), 4), std::invalid_argument);
  EXPECT_THROW(copy_on_device(host.data(), block.address, 4), std::invalid_argument);
  EXPECT_THROW(copy_on_device(block.address, host.data(), 4), std::invalid_argument);
  EXPECT_THROW(fill_bytes(nullptr, 0, 4), std::invalid_argument);
  EXPECT_TRUE(contains(message_of([&] { copy_to_device(block.address, other.address, 4); }), "is device memory"));

  copy_to_device(nullptr, nullptr, 0);
  copy_to_host(nullptr, nullptr, 0);
  copy_on_device(nullptr, nullptr, 0);
  fill_bytes(nullptr, 0, 0);

  void* freed = device_malloc(8);
  device_free(freed);
  EXPECT_THROW(fill_bytes(freed, 0, 8), std::out_of_range);
  EXPECT_TRUE(contains(message_of([&] { fill_bytes(freed, 0, 8); }), "freed"));
}

// --- accesses of kernels ---------------------------------------------------------------------------------------------

TEST(SimtMemory, KernelsLoadAndStore) {
  const Block block(64 * sizeof(int));
  int* data = block.as<int>();
  run({.kernel = "squares", .grid = {2}, .block = {32}}, [=] {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    store(data + i, static_cast<int>(i * i));
  });
  std::vector<int> back(64);
  copy_to_host(back.data(), data, 64 * sizeof(int));
  for (int i = 0; i < 64; ++i) EXPECT_EQ(back[i], i * i);
}

struct Pair {  // 8 bytes, aligned to 4
  float a, b;
};

TEST(SimtMemory, AccessesOutsideNameTheNearestAllocation) {
  const Block block(400), next(8);
  const std::string name = allocation_name(block);
  Fault fault = fault_of([&] { load(block.as<float>(400)); });
  EXPECT_EQ(fault.kind, FaultKind::global_bounds);
  EXPECT_TRUE(contains(fault.what, "read of 4 bytes at 0x"));
  EXPECT_TRUE(contains(fault.what, "0 bytes past the end of " + name + ")"));
  EXPECT_TRUE(contains(fault.file, "simt_memory_test.cpp"));
  EXPECT_GT(fault.line, 0u);

  fault = fault_of([&] { store(block.as<Pair>(396), Pair{}); });
  EXPECT_EQ(fault.kind, FaultKind::global_bounds);
  EXPECT_TRUE(contains(fault.what, "write of 8 bytes"));
  EXPECT_TRUE(contains(fault.what, "byte 396 of " + name + "), 4 bytes past its end"));

  fault = fault_of([&] { load(next.as<float>() - 1); });
  EXPECT_EQ(fault.kind, FaultKind::global_bounds);
  EXPECT_TRUE(contains(fault.what, "4 bytes before " + allocation_name(next)));

  // An index gone astray: still device memory, but nothing is there.
  fault = fault_of([&] { load(next.as<float>(1 << 20)); });
  EXPECT_EQ(fault.kind, FaultKind::global_bounds);
  EXPECT_TRUE(contains(fault.what, "1048568 bytes past the end of " + allocation_name(next)));
}

TEST(SimtMemory, AccessAfterFree) {
  char* block = static_cast<char*>(device_malloc(400));
  const std::string number = std::to_string(find_allocation(block).number);
  device_free(block);
  const Fault fault = fault_of([=] { load(reinterpret_cast<float*>(block + 12)); });
  EXPECT_EQ(fault.kind, FaultKind::global_freed);
  EXPECT_TRUE(contains(fault.what, "byte 12 of allocation " + number + " (400 bytes, freed)"));
}

TEST(SimtMemory, AccessByHostPointer) {
  float host = 1;
  Fault fault = fault_of([&] { load(&host); });
  EXPECT_EQ(fault.kind, FaultKind::global_host_pointer);
  EXPECT_TRUE(contains(fault.what, "not device memory"));
  fault = fault_of([] { load(static_cast<const float*>(nullptr)); });
  EXPECT_EQ(fault.kind, FaultKind::global_host_pointer);
  EXPECT_TRUE(contains(fault.what, "a null pointer"));
}

TEST(SimtMemory, MisalignedAccess) {
  const Block block(64);
  for (std::size_t size : {2, 4, 8, 16}) {
    for (std::size_t offset = 0; offset < 17; ++offset) {
      const auto access = [&] { global_access(block.address + offset, size, size, Access::read, kSite); };
      if (offset % size == 0) {
        EXPECT_NO_THROW(run({.kernel = "aligned"}, access));
      } else {
        const Fault fault = fault_of(access);
        EXPECT_EQ(fault.kind, FaultKind::global_misaligned);
        EXPECT_TRUE(contains(fault.what, "not a multiple of " + std::to_string(size) + " bytes"));
      }
    }
  }
}

TEST(SimtMemory, AccessOutsideAKernelIsAnException) {
  const Block block(4);
  EXPECT_NO_THROW(load(block.as<int>()));
  EXPECT_THROW(load(block.as<int>(4)), std::out_of_range);
  EXPECT_TRUE(contains(message_of([&] { load(block.as<int>(4)); }), "outside a kernel: read of 4 bytes"));
}

// --- touching device memory without load() and store() ---------------------------------------------------------------

// Through a volatile pointer, so that the compiler does not reason about where it points.
void touch(const void* address) {
  const volatile char* const volatile where = static_cast<const char*>(address);
  (void)*where;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

// Sanitizers end the process their own way once the line is out.
bool died(int status) {
  if (kSanitized) return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

class SimtMemoryDeathTest : public testing::Test {
 protected:
  // Not a fork of a process whose other threads are gone.
  void SetUp() override { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(SimtMemoryDeathTest, HostCodeIsToldWhatItTouched) {
  const Block block(400);
  EXPECT_EXIT(touch(block.address + 12), died,
              "\\[simt\\] host code touched device memory at 0x[0-9a-f]+: byte 12 of allocation [0-9]+ \\(400 "
              "bytes\\); copy it with to\\(cpu\\) first");
  EXPECT_EXIT(*const_cast<volatile char*>(block.address) = 1, died, "\\[simt\\] host code touched device memory at");
  EXPECT_EXIT(touch(block.address + (1 << 20)), died, "no allocation is there");
  const void* freed = device_malloc(8);
  device_free(const_cast<void*>(freed));
  EXPECT_EXIT(touch(freed), died, "\\(8 bytes, freed\\)");
}

TEST_F(SimtMemoryDeathTest, SoIsASecondThread) {
  const Block block(8);
  EXPECT_EXIT(std::thread([&] { touch(block.address); }).join(), died, "\\[simt\\] host code touched device memory");
}

TEST_F(SimtMemoryDeathTest, AKernelIsToldToUseLoadAndStore) {
  const Block block(400);
  EXPECT_EXIT(run({.kernel = "careless", .grid = {1}, .block = {4}},
                  [&] {
                    if (threadIdx.x == 2) touch(block.address + 7);
                  }),
              died,
              "\\[simt\\] kernel careless, block 0,0,0, thread 2,0,0: device memory was accessed without "
              "load\\(\\)/store\\(\\) at 0x[0-9a-f]+: byte 7 of allocation");
}

int eat_stack(int depth) {
  volatile char frame[512];
  frame[0] = static_cast<char>(depth);
  return depth <= 0 ? frame[0] : eat_stack(depth - 1) + frame[0];
}

TEST_F(SimtMemoryDeathTest, AStackOverflowNamesTheThread) {
  const Block block(1);  // the handler comes with the first device memory
  EXPECT_EXIT(run({.kernel = "deep", .block = {2}}, [] { eat_stack(1 << 20); }), died,
              "\\[simt\\] kernel deep, block 0,0,0, thread 0,0,0: stack overflow");
}

TEST_F(SimtMemoryDeathTest, OtherFaultsAreNotOurs) {
  const Block block(1);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that nobody has
  const auto other_fault = [] { touch(reinterpret_cast<const void*>(std::uintptr_t{64})); };
  EXPECT_EXIT(other_fault(), died, testing::Not(testing::HasSubstr("[simt]")));
}

// A handler that was there before ours still gets its faults, and may go on after them.
TEST_F(SimtMemoryDeathTest, TheHandlerBeforeOursIsCalled) {
  EXPECT_EXIT(
      {
        struct sigaction action {};
        action.sa_handler = [](int) { _exit(77); };
        sigaction(SIGSEGV, &action, nullptr);
        touch(device_malloc(4));
      },
      testing::ExitedWithCode(77), "\\[simt\\] host code touched device memory");
}

// --- little room -----------------------------------------------------------------------------------------------------

// Lets the process grow by so much more address space only.
void limit_address_space(std::uint64_t more_bytes) {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t limit = pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) + more_bytes;
  const rlimit limits{.rlim_cur = limit, .rlim_max = limit};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &limits), 0);
}

// Blocks of changing sizes, many times the arena in all, beside one that stays.
std::string use_up_addresses(int rounds) {
  const Block stays(100'000);
  fill_bytes(stays.address, 7, 100'000);
  std::deque<char*> held;
  std::vector<unsigned char> host(1 << 20);
  int reused = 0;
  std::set<char*> seen;
  std::uint64_t last_number = 0;
  for (int round = 0; round < rounds; ++round) {
    const std::size_t bytes = 1 + (round * 77'777) % (1 << 20);
    char* block = static_cast<char*>(device_malloc(bytes));
    if (block == nullptr) return "full in round " + std::to_string(round);
    if (!seen.insert(block).second) ++reused;
    const Allocation allocation = find_allocation(block + bytes - 1);
    if (allocation.address != block || allocation.bytes != bytes || !allocation.live) return "found another block";
    if (allocation.number <= last_number) return "a number came again";
    last_number = allocation.number;
    if (find_allocation(block + bytes).address == block) return "found behind the end";
    copy_to_host(host.data(), block, bytes);
    if (std::count(host.begin(), host.begin() + static_cast<std::ptrdiff_t>(bytes), 0xFF) !=
        static_cast<std::ptrdiff_t>(bytes)) {
      return "not filled";
    }
    fill_bytes(block, 1, bytes);
    held.push_back(block);
    if (live_allocations().size() != held.size() + 1) return "the list of live allocations is wrong";
    if (held.size() > 9) {
      // Now the oldest, now one from the middle.
      const auto victim = held.begin() + (round % 3 == 0 ? 4 : 0);
      device_free(*victim);
      if (find_allocation(*victim).live) return "live after free";
      held.erase(victim);
    }
  }
  copy_to_host(host.data(), stays.address, 100'000);
  if (std::count(host.begin(), host.begin() + 100'000, 7) != 100'000) return "the block that stays has changed";
  for (char* block : held) device_free(block);
  if (live_allocations().size() != 1) return "not all is free";
  return reused > rounds / 20 ? "fine" : "addresses were not reused: " + std::to_string(reused);
}

TEST_F(SimtMemoryDeathTest, AddressesAreReusedOnceTheArenaIsUsedUp) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need more address space than this test leaves";
  EXPECT_EXIT(
      {
        limit_address_space(256 << 20);
        const std::string end = use_up_addresses(2000);
        std::fputs(end.c_str(), stderr);
        std::_Exit(end == "fine" ? 0 : 1);
      },
      testing::ExitedWithCode(0), "fine");
}

TEST_F(SimtMemoryDeathTest, NoAddressSpaceIsAnErrorThatSaysSo) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need more address space than this test leaves";
  EXPECT_EXIT(
      {
        limit_address_space(32 << 20);
        std::fputs(message_of([] { device_malloc(8); }).c_str(), stderr);
        std::_Exit(0);
      },
      testing::ExitedWithCode(0), "\\[simt\\] no address space for device memory: 64 MiB failed: ");
}

TEST_F(SimtMemoryDeathTest, ALimitOnFileSizesDoesNotMatter) {
  EXPECT_EXIT(
      {
        rlimit limits{};
        limits.rlim_cur = limits.rlim_max = 1 << 20;
        setrlimit(RLIMIT_FSIZE, &limits);
        char* block = static_cast<char*>(device_malloc(4 << 20));
        fill_bytes(block, 5, 4 << 20);
        unsigned char last = 0;
        copy_to_host(&last, block + (4 << 20) - 1, 1);
        device_free(block);
        std::_Exit(last == 5 ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

// What a forked child does to device memory stays in the child.
TEST(SimtMemory, AForkedChildHasItsOwnMemory) {
  const Block block(8192);
  fill_bytes(block.address, 1, 8192);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    unsigned char seen = 0;
    copy_to_host(&seen, block.address, 1);
    fill_bytes(block.address, 2, 8192);
    device_free(block.address);
    _exit(seen == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  std::vector<unsigned char> back(8192);
  copy_to_host(back.data(), block.address, 8192);
  EXPECT_EQ(std::count(back.begin(), back.end(), 1), 8192);
}

// --- several OS threads ----------------------------------------------------------------------------------------------

TEST(SimtMemory, FourThreadsAllocateCopyAccessAndFree) {
  const MemoryStats before = memory_stats();
  constexpr int kThreads = 4, kRounds = 200;
  std::vector<int> wrong(kThreads, 0);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t, &wrong] {
      std::vector<int*> mine;
      for (int round = 0; round < kRounds; ++round) {
        const int count = 1 + (round * 37 + t * 101) % 3000;
        auto* data = static_cast<int*>(device_malloc(count * sizeof(int)));
        std::vector<int> host(count, t * 1000 + round);
        copy_to_device(data, host.data(), count * sizeof(int));
        store(data + count / 2, -1);
        copy_to_host(host.data(), data, count * sizeof(int));
        const auto kept = std::count(host.begin(), host.end(), t * 1000 + round);
        if (kept != count - 1 || load(data + count / 2) != -1) ++wrong[t];
        mine.push_back(data);
        if (mine.size() > 10) {
          device_free(mine.front());
          mine.erase(mine.begin());
        }
      }
      for (int* data : mine) device_free(data);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(kThreads, 0));
  EXPECT_EQ(memory_stats().current_bytes, before.current_bytes);
  EXPECT_EQ(memory_stats().allocations, before.allocations);
}

// --- address ranges --------------------------------------------------------------------------------------------------

TEST(SimtAddressRanges, UnusedSpaceFirstThenTheOldestThatFits) {
  detail::AddressRanges ranges(100);
  EXPECT_EQ(ranges.take(40), 0u);
  EXPECT_EQ(ranges.take(20), 40u);
  EXPECT_EQ(ranges.take(30), 60u);
  ranges.give_back(60, 30);
  ranges.give_back(0, 40);
  EXPECT_EQ(ranges.take(10), 90u);  // never used
  EXPECT_EQ(ranges.take(10), 60u);  // the oldest
  EXPECT_EQ(ranges.take(25), 0u);   // the oldest that fits
  EXPECT_EQ(ranges.take(15), 70u);  // the rest keeps its age
  EXPECT_EQ(ranges.take(15), 25u);
  EXPECT_EQ(ranges.take(10), std::nullopt);
  EXPECT_EQ(ranges.take(5), 85u);
  EXPECT_EQ(ranges.take(1), std::nullopt);
}

TEST(SimtAddressRanges, NeighboursAreTakenTogetherWhenNothingElseIsLeft) {
  detail::AddressRanges ranges(100);
  for (std::uint64_t i = 0; i < 9; ++i) EXPECT_EQ(ranges.take(10), i * 10);
  for (std::uint64_t i : {4, 2, 3, 7}) ranges.give_back(i * 10, 10);
  EXPECT_EQ(ranges.take(30), 20u);
  ranges.give_back(80, 10);
  EXPECT_EQ(ranges.take(30), 70u);  // two freed ones and what was never used
  EXPECT_EQ(ranges.take(1), std::nullopt);
}

TEST(SimtAddressRanges, RandomUseNeverOverlapsAndLosesNothing) {
  constexpr std::uint64_t kSize = 500;
  detail::AddressRanges ranges(kSize);
  std::vector<bool> used(kSize, false);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> held;
  std::uint64_t state = 1;
  const auto random = [&](std::uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
  };
  int refused = 0;
  for (int step = 0; step < 20'000; ++step) {
    if (random(2) == 0 || held.empty()) {
      const std::uint64_t length = 1 + random(40);
      const auto begin = ranges.take(length);
      if (!begin) {
        ++refused;
        // Only when no gap is long enough.
        std::uint64_t run = 0, longest = 0;
        for (const bool taken : used) longest = std::max(longest, run = taken ? 0 : run + 1);
        ASSERT_LT(longest, length);
        continue;
      }
      ASSERT_LE(*begin + length, kSize);
      for (std::uint64_t i = *begin; i < *begin + length; ++i) {
        ASSERT_FALSE(used[i]);
        used[i] = true;
      }
      held.emplace_back(*begin, length);
    } else {
      const std::size_t which = random(held.size());
      const auto [begin, length] = held[which];
      ranges.give_back(begin, length);
      std::fill_n(used.begin() + static_cast<std::ptrdiff_t>(begin), length, false);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace weft::simt
