// Every operation's declarative case through every check, on every device.
//   weft_op_tests --matrix       prints docs/ops.md
//   weft_op_tests --stem NAME    prints the filter for the operations of kernels/NAME.* on the emulator
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <ostream>
#include <regex>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

#include "cases/op_case.h"
#include "support/gpu.h"
#include "support/op_checks.h"

namespace weft {
namespace {

using cases::Kind;
using cases::OpCase;
using cases::Tier;

struct Where {
  const OpCase* op;
  DeviceKind kind;
  friend std::ostream& operator<<(std::ostream& out, const Where& where) {
    return out << where.op->op << " on " << Device{where.kind, 0}.str();
  }
};

class Op : public ::testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (GetParam().kind != DeviceKind::cuda || cuda_status().usable) return;
    if (std::getenv("WEFT_REQUIRE_CUDA") != nullptr) FAIL() << cuda_status().reason;
    GTEST_SKIP() << cuda_status().reason;
  }
};

TEST_P(Op, PassesEveryCheck) {
  const Device device{GetParam().kind, 0};
  int ran = 0;
  for (const test::Planned& planned : test::planned_checks(*GetParam().op, device.kind)) {
    if (!planned.skip_reason.empty()) continue;
    test::run_check(*GetParam().op, device, planned);
    ++ran;
    if (HasFatalFailure()) break;
  }
  EXPECT_GT(ran, 0) << "no check applies";
}

std::vector<Where> everywhere() {
  std::vector<Where> all;
  for (const OpCase& c : cases::all_cases()) {
    all.push_back({&c, DeviceKind::cpu});
    all.push_back({&c, DeviceKind::simt});
#if defined(WEFT_CUDA)
    all.push_back({&c, DeviceKind::cuda});
#endif
  }
  return all;
}

std::string name_of(const ::testing::TestParamInfo<Where>& info) {
  return info.param.op->op + "_" + Device{info.param.kind, 0}.str();
}
INSTANTIATE_TEST_SUITE_P(Operations, Op, ::testing::ValuesIn(everywhere()), name_of);

TEST(OpCases, HaveTheKindsOfSamplesThatTheirTierAsksFor) {
  for (const OpCase& c : cases::all_cases()) {
    const auto has = [&](Kind kind) {
      return std::any_of(c.samples.begin(), c.samples.end(), [&](const auto& s) { return s.kind == kind; });
    };
    const auto excused = [&](const std::string& what) {
      return std::any_of(c.skips.begin(), c.skips.end(), [&](const auto& s) { return s.check == what; });
    };
    const std::pair<Kind, const char*> kinds[] = {
        {Kind::empty, "empty"}, {Kind::one, "one"}, {Kind::odd, "odd"}, {Kind::large, "large"}};
    for (const auto& [kind, name] : kinds)
      EXPECT_TRUE(has(kind) || excused(name)) << c.op << " has no sample of kind " << name;
    if (c.tier != Tier::mission) continue;
    EXPECT_TRUE(has(Kind::huge_mean) || excused("huge_mean")) << c.op << " has no sample of kind huge_mean";
    EXPECT_TRUE(has(Kind::extreme) || excused("extreme")) << c.op << " has no sample of kind extreme";
    EXPECT_TRUE(std::any_of(c.families.begin(), c.families.end(), [](const auto& f) { return !f.counted.empty(); }))
        << c.op << " has no workload that is counted on the emulator";
  }
}

TEST(OpCases, NamesAreUniqueAndSkipsHaveReasons) {
  for (const OpCase& c : cases::all_cases()) {
    for (std::size_t i = 0; i < c.samples.size(); ++i)
      for (std::size_t j = 0; j < i; ++j) EXPECT_NE(c.samples[i].name, c.samples[j].name) << c.op;
    for (const cases::Skip& skip : c.skips) EXPECT_GT(skip.reason.size(), 20u) << c.op << " skips " << skip.check;
    EXPECT_FALSE(c.functions.empty()) << c.op;
    EXPECT_TRUE(std::any_of(c.families.begin(), c.families.end(), [](const auto& f) { return !f.timed.empty(); }))
        << c.op << " has no workload for the benchmark";
    for (const auto& sample : c.samples)
      EXPECT_TRUE(sample.reference || c.exact) << c.op << " " << sample.name << " has no reference";
  }
}

// Functions of autograd/ that are no operation of their own, and why.
const std::map<std::string, std::string>& no_operations() {
  static const std::map<std::string, std::string> kNames = {
      {"zeros", "makes values"},
      {"ones", "makes values"},
      {"full", "makes values"},
      {"zeros_like", "makes values"},
      {"scalar", "makes values"},
      {"arange", "makes values"},
      {"rand", "makes values"},
      {"randn", "makes values"},
      {"to", "moves bytes between devices: every case off the cpu goes through it"},
      {"set_requires_grad", "the engine"},
      {"grad", "the engine"},
      {"detach", "the engine"},
      {"sum_to", "the backward of a broadcast: every broadcasting case goes through it"},
  };
  return kNames;
}

/// The free functions of a header that return tensors or a loss: "add:12" with the line. Operators are those functions under
/// another name, *_composite the references, detail is not public.
std::vector<std::string> operations_of(std::istream& header) {
  static const std::regex kFunction(
      R"(^(?:inline )?(?:Tensor|Loss|std::vector<Tensor>|std::pair<Tensor, Tensor>) ([a-z0-9_]+)\(.*)");
  std::vector<std::string> names;
  std::string line;
  bool detail = false;
  for (int number = 1; std::getline(header, line); ++number) {
    if (line.find("namespace detail") != std::string::npos) detail = line[0] == 'n';
    std::smatch match;
    if (detail || !std::regex_match(line, match, kFunction)) continue;
    const std::string name = match[1];
    if (!name.ends_with("_composite") && !no_operations().contains(name))
      names.push_back(name + ":" + std::to_string(number));
  }
  return names;
}

TEST(OpCases, EveryPublicOperationIsNamedByOne) {
  std::set<std::string> proven;
  for (const OpCase& c : cases::all_cases()) proven.insert(c.functions.begin(), c.functions.end());
  for (const auto& entry : std::filesystem::directory_iterator(WEFT_SOURCE_DIR "/autograd")) {
    if (entry.path().extension() != ".h") continue;
    std::ifstream header(entry.path());
    for (const std::string& name : operations_of(header))
      EXPECT_TRUE(proven.contains(name.substr(0, name.find(':'))))
          << "autograd/" << entry.path().filename().string() << ": " << name
          << " has no case: name it in the functions of one in tests/cases/, or here with the reason";
  }
}

TEST(OpCases, TheSearchFindsFunctions) {
  std::istringstream header(
      "Tensor relu(const Tensor& x);\nTensor relu_composite(const Tensor& x);\n  Tensor inside(int);\nLoss mse_loss(\n"
      "inline Tensor operator+(int);\nnamespace detail {\nTensor hidden(int);\n}  // namespace detail\n"
      "std::vector<Tensor> split(int);\nTensor zeros(int);\n");
  EXPECT_EQ(operations_of(header), (std::vector<std::string>{"relu:1", "mse_loss:4", "split:9"}));
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--matrix") == 0) {
    std::fputs(weft::test::matrix().c_str(), stdout);
    return 0;
  }
  if (argc == 3 && std::strcmp(argv[1], "--stem") == 0) {
    for (const weft::cases::OpCase& c : weft::cases::all_cases())
      if (c.stem == argv[2]) std::printf("Operations/*/%s_simt:", c.op.c_str());
    return 0;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
