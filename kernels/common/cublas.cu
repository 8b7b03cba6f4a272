#include "kernels/common/cublas.h"

#if defined(__CUDACC__) && defined(WEFT_CUBLASLT)  // nothing for the emulator

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

namespace weft::kernels::cuda {
namespace {

// The functions that are used, by their names in the library. It is never unloaded.
struct Library {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) operation_create;
  decltype(&cublasLtMatmulDescDestroy) operation_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) operation_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
};

std::optional<Library> open_library() {
  // The version whose header this was built with: structures may differ between major versions.
  const std::string versioned = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  void* handle = nullptr;
  for (const char* name : {versioned.c_str(), "libcublasLt.so"})
    if (handle == nullptr) handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return std::nullopt;
  Library library{};
  bool complete = true;
  const auto find = [&]<class F>(F*& function, const char* name) {
    function = reinterpret_cast<F*>(dlsym(handle, name));
    complete = complete && function != nullptr;
  };
  find(library.create, "cublasLtCreate");
  find(library.matmul, "cublasLtMatmul");
  find(library.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(library.operation_create, "cublasLtMatmulDescCreate");
  find(library.operation_destroy, "cublasLtMatmulDescDestroy");
  find(library.operation_set, "cublasLtMatmulDescSetAttribute");
  find(library.layout_create, "cublasLtMatrixLayoutCreate");
  find(library.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(library.preference_create, "cublasLtMatmulPreferenceCreate");
  find(library.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(library.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  // An unversioned name may lead to another major version.
  size_t (*version)() = nullptr;
  find(version, "cublasLtGetVersion");
  complete = complete && version() / 10000 == CUBLAS_VER_MAJOR;
  return complete ? std::optional(library) : std::nullopt;
}

const std::optional<Library>& library() {
  static const std::optional<Library> opened = open_library();
  return opened;
}

void check(cublasStatus_t status, const char* what) {
  require<DeviceError>(status == CUBLAS_STATUS_SUCCESS, "cublas", "{} failed with status {}", what,
                       static_cast<int>(status));
}

// -1 where there is none.
int current_device() {
  int index = -1;
  if (cudaGetDevice(&index) == cudaSuccess) return index;
  cudaGetLastError();  // not to be met again by the next call
  return -1;
}

// One handle per device; they live as long as the process (the driver may be gone when statics are destroyed).
cublasLtHandle_t handle_of(int device) {
  static std::mutex mutex;
  static std::map<int, cublasLtHandle_t> handles;
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = handles[device];
  if (handle == nullptr) check(library()->create(&handle), "creating a handle");
  return handle;
}

// An opaque object of the library.
template <class T>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, cublasStatus_t (*)(T)>;

cudaDataType type_of(Dtype dtype) {
  return dtype == Dtype::f64   ? CUDA_R_64F
         : dtype == Dtype::f32 ? CUDA_R_32F
         : dtype == Dtype::f16 ? CUDA_R_16F
                               : CUDA_R_16BF;
}

// 16 where the address is a multiple of it, else the power of two that it is a multiple of.
std::uint32_t alignment_of(const void* address) {
  std::uint32_t bytes = 16;
  while (!is_aligned(address, bytes)) bytes /= 2;
  return bytes;
}

// The library stores matrices by columns: a row-major C [M, N] is its C^T = B^T A^T. So the operands change places, and
// one whose k's are neighbours in memory is transposed as `first` and is not as `second`.
struct Problem {
  Problem(Dtype dtype, const Matmul& args, Contiguous a, Contiguous b)
      : operation(make_operation(dtype), library()->operation_destroy),
        first(make_layout(dtype, args.k, args.n, b), library()->layout_destroy),
        second(make_layout(dtype, args.k, args.m, a), library()->layout_destroy),
        result(make_layout(dtype, args.n, args.m, Contiguous::k), library()->layout_destroy) {
    set(CUBLASLT_MATMUL_DESC_TRANSA, b == Contiguous::k ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, a == Contiguous::k ? CUBLAS_OP_N : CUBLAS_OP_T);
    if (args.bias != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, args.bias != nullptr
                                           ? args.relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS
                                       : args.relu ? CUBLASLT_EPILOGUE_RELU
                                                   : CUBLASLT_EPILOGUE_DEFAULT);
  }

  Owned<cublasLtMatmulDesc_t> operation;
  Owned<cublasLtMatrixLayout_t> first, second, result;

 private:
  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, Value value) {
    check(library()->operation_set(operation.get(), attribute, &value, sizeof(value)), "describing the product");
  }
  static cublasLtMatmulDesc_t make_operation(Dtype dtype) {
    cublasLtMatmulDesc_t made = nullptr;
    const bool wide = dtype == Dtype::f64;
    check(library()->operation_create(&made, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                      wide ? CUDA_R_64F : CUDA_R_32F),
          "describing the product");
    return made;
  }
  // The columns of a matrix are the rows in our memory, without gaps.
  static cublasLtMatrixLayout_t make_layout(Dtype dtype, std::int64_t k, std::int64_t outer, Contiguous contiguous) {
    const std::int64_t rows = contiguous == Contiguous::k ? k : outer,
                       columns = contiguous == Contiguous::k ? outer : k;
    cublasLtMatrixLayout_t made = nullptr;
    check(library()->layout_create(&made, type_of(dtype), static_cast<std::uint64_t>(rows),
                                   static_cast<std::uint64_t>(columns), rows),
          "describing a matrix");
    return made;
  }
};

// What the library proposes, or nothing; remembered per device, shape, orientation, epilogue and alignment.
std::optional<cublasLtMatmulAlgo_t> algorithm_for(Dtype dtype, const Matmul& args, Contiguous a, Contiguous b,
                                                  const Problem& problem) {
  const int device = current_device();
  const std::uint32_t aligned[] = {alignment_of(args.b), alignment_of(args.a), alignment_of(args.c)};
  const auto key = std::tuple(device, dtype, args.m, args.n, args.k, a, b, args.bias != nullptr, args.relu, args.mode,
                              aligned[0], aligned[1], aligned[2]);
  using Key = std::remove_const_t<decltype(key)>;
  static std::mutex mutex;
  static std::map<Key, std::optional<cublasLtMatmulAlgo_t>> known;
  {
    const std::lock_guard lock(mutex);
    if (const auto found = known.find(key); found != known.end()) return found->second;
  }
  cublasLtMatmulPreference_t made = nullptr;
  check(library()->preference_create(&made), "asking for a kernel");
  const Owned<cublasLtMatmulPreference_t> preference(made, library()->preference_destroy);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(library()->preference_set(made, attribute, &value, sizeof(value)), "asking for a kernel");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{0});
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned[0]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned[1]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned[2]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned[2]);
  cublasLtMatmulHeuristicResult_t proposal{};
  int proposals = 0;
  const cublasStatus_t status =
      library()->heuristic(handle_of(device), problem.operation.get(), problem.first.get(), problem.second.get(),
                           problem.result.get(), problem.result.get(), made, 1, &proposal, &proposals);
  std::optional<cublasLtMatmulAlgo_t> algorithm;
  if (status == CUBLAS_STATUS_SUCCESS && proposals > 0 && proposal.state == CUBLAS_STATUS_SUCCESS)
    algorithm = proposal.algo;
  const std::lock_guard lock(mutex);
  if (known.size() >= 4096) known.clear();  // shapes without end: ragged batches
  known.emplace(key, algorithm);
  return algorithm;
}

}  // namespace

bool cublas_supports(Dtype dtype, const Matmul& args, Contiguous a, Contiguous b) {
  constexpr std::int64_t kMost = INT32_MAX;
  const auto fits = [](std::int64_t extent) { return extent > 0 && extent <= kMost; };
  if (!is_floating(dtype) || !fits(args.m) || !fits(args.n) || !fits(args.k) || !library()) return false;
  if (current_device() < 0) return false;
  return algorithm_for(dtype, args, a, b, Problem(dtype, args, a, b)).has_value();
}

void cublas_matmul(const Stream& stream, Dtype dtype, const Matmul& args, Contiguous a, Contiguous b) {
  require<DeviceError>(library().has_value(), "cublas", "the library was not found: libcublasLt.so.{}",
                       CUBLAS_VER_MAJOR);
  const Problem problem(dtype, args, a, b);
  const auto algorithm = algorithm_for(dtype, args, a, b, problem);
  require<DeviceError>(algorithm.has_value(), "cublas", "no kernel for a product of {} x {} x {} in {}", args.m, args.n,
                       args.k, to_string(dtype));
  // alpha and beta are read from host memory, in the type of the sums, before the call returns.
  const double add = args.mode == Accumulate::add ? 1 : 0;
  const double wide[] = {1, add};
  const float single[] = {1, static_cast<float>(add)};
  const auto factor = [&](int i) -> const void* {
    return dtype == Dtype::f64 ? static_cast<const void*>(wide + i) : single + i;
  };
  check(library()->matmul(handle_of(current_device()), problem.operation.get(), factor(0), args.b, problem.first.get(),
                          args.a, problem.second.get(), factor(1), args.c, problem.result.get(), args.c,
                          problem.result.get(), &*algorithm, nullptr, 0, static_cast<cudaStream_t>(stream.native())),
        "the product");
}

}  // namespace weft::kernels::cuda

#endif
