#pragma once
// What is demanded of every operation: the checks that a declarative case (tests/cases/op_case.h) is put through.
#include <string>
#include <vector>

#include "cases/op_case.h"

namespace weft::test {

/// One check of one sample (or workload) in one dtype, on one device.
struct Planned {
  const char* check = "";
  Dtype dtype = Dtype::f32;
  std::size_t index = 0;    // of the sample; of the family for "traffic"
  std::string skip_reason;  // not empty: it is not run, and why
};

/// The names of the checks, in the order of the table, with a line for people.
struct CheckName {
  const char* name;
  const char* meaning;
};
const std::vector<CheckName>& check_names();

/// All that a case is to be put through on a device.
std::vector<Planned> planned_checks(const cases::OpCase& c, DeviceKind device);
/// Runs one; failures are reported through GoogleTest.
void run_check(const cases::OpCase& c, Device device, const Planned& planned);

/// The table of docs/ops.md: operation x dtype x check, with the number of checks on each device.
std::string matrix();

/// The relative error allowed for a result (or a gradient, with its own number of terms) computed in `dtype`.
double tolerance(const cases::Sample& sample, Dtype dtype, double terms);

}  // namespace weft::test
