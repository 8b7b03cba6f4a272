// One tile by oneDNN's matmul primitive (2.x and 3.x), run by the calling thread alone.
#include "kernels/common/gemm.h"

#if defined(WEFT_ONEDNN)
#include <array>
#include <functional>
#include <unordered_map>

#include <omp.h>

#include <dnnl.hpp>

#include "tensor/allocator.h"
#endif

namespace weft::kernels {

#if defined(WEFT_ONEDNN)
namespace {

// oneDNN sizes a primitive's blocking and work sharing by OpenMP's thread setting when it is made and when it runs: with one
// thread the result cannot depend on how many there are. (Sharing one primitive whose scratchpad the library owns between
// threads gives wrong numbers; hence a cache per thread, and scratchpads of our own.)
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) {
    if (before_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ != 1) omp_set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

using Key = std::array<std::int64_t, 9>;
struct KeyHash {
  std::size_t operator()(const Key& key) const {
    std::uint64_t hash = 0;
    for (std::int64_t part : key) hash = (hash ^ static_cast<std::uint64_t>(part)) * 0x9E3779B97F4A7C15u;
    return static_cast<std::size_t>(hash ^ (hash >> 32));
  }
};

dnnl::matmul::primitive_desc describe(const Gemm& tile) {
  using dnnl::memory;
  constexpr auto f32 = memory::data_type::f32;
  const memory::desc a({tile.m, tile.k}, f32, memory::dims{tile.a_row, tile.a_col});
  const memory::desc b({tile.k, tile.n}, f32, memory::dims{tile.b_row, tile.b_col});
  const memory::desc bias =
      tile.bias != nullptr ? memory::desc({1, tile.n}, f32, memory::dims{tile.n, 1}) : memory::desc();
  const memory::desc c({tile.m, tile.n}, f32, memory::dims{tile.c_row, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::post_ops post;
  if (tile.mode == Accumulate::add) post.append_sum(1.0f);
#if DNNL_VERSION_MAJOR >= 3
  if (tile.epilogue == Epilogue::relu) post.append_eltwise(dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
  attributes.set_post_ops(post);
  return dnnl::matmul::primitive_desc(engine(), a, b, bias, c, attributes);
#else
  if (tile.epilogue == Epilogue::relu) post.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
  attributes.set_post_ops(post);
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, bias, c), attributes, engine());
#endif
}

struct Prepared {
  explicit Prepared(const Gemm& tile) : description(describe(tile)), primitive(description) {
    const auto bind = [&](int argument, const dnnl::memory::desc& desc) {
      arguments.emplace(argument, dnnl::memory(desc, engine(), nullptr));
    };
    bind(DNNL_ARG_SRC, description.src_desc());
    bind(DNNL_ARG_WEIGHTS, description.weights_desc());
    bind(DNNL_ARG_DST, description.dst_desc());
    if (tile.bias != nullptr) bind(DNNL_ARG_BIAS, description.bias_desc());
    bind(DNNL_ARG_SCRATCHPAD, description.scratchpad_desc());
    scratchpad_bytes = static_cast<std::int64_t>(description.scratchpad_desc().get_size());
  }
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
  std::unordered_map<int, dnnl::memory> arguments;
  std::int64_t scratchpad_bytes = 0;
};

// What a thread keeps between tiles.
struct ThreadCache {
  std::unordered_map<Key, Prepared, KeyHash> prepared;
  dnnl::stream stream{engine()};
  void* scratchpad = nullptr;
  std::int64_t scratchpad_bytes = 0;

  ~ThreadCache() { cpu_free(scratchpad, scratchpad_bytes); }
  void* scratchpad_of(std::int64_t bytes) {
    if (bytes > scratchpad_bytes) {
      cpu_free(scratchpad, scratchpad_bytes);
      scratchpad = nullptr;
      scratchpad_bytes = 0;
      scratchpad = cpu_allocate(bytes);
      scratchpad_bytes = bytes;
    }
    return scratchpad;
  }
};

}  // namespace

bool detail::gemm_tile_onednn(const Gemm& tile) {
  if (tile.dtype != Dtype::f32 || tile.k == 0) return false;
  thread_local ThreadCache cache;
  const Key key{tile.m,
                tile.n,
                tile.k,
                tile.a_row,
                tile.a_col,
                tile.b_row,
                tile.b_col,
                tile.c_row,
                (tile.bias != nullptr ? 1 : 0) | (tile.epilogue == Epilogue::relu ? 2 : 0) |
                    (tile.mode == Accumulate::add ? 4 : 0)};
  const OneThread guard;
  auto found = cache.prepared.find(key);
  if (found == cache.prepared.end()) {
    constexpr std::size_t kMostPrepared = 512;  // data of ever new sizes must not fill the memory with primitives
    if (cache.prepared.size() >= kMostPrepared) cache.prepared.clear();
    found = cache.prepared.emplace(key, Prepared(tile)).first;
  }
  Prepared& prepared = found->second;
  const auto set = [&](int argument, const void* data) {
    prepared.arguments.at(argument).set_data_handle(const_cast<void*>(data));
  };
  set(DNNL_ARG_SRC, tile.a);
  set(DNNL_ARG_WEIGHTS, tile.b);
  set(DNNL_ARG_DST, tile.c);
  if (tile.bias != nullptr) set(DNNL_ARG_BIAS, tile.bias);
  set(DNNL_ARG_SCRATCHPAD, cache.scratchpad_of(prepared.scratchpad_bytes));
  prepared.primitive.execute(cache.stream, prepared.arguments);
  return true;
}

const char* gemm_backend() {
  static const std::string name = [] {
    const dnnl_version_t* version = dnnl_version();
    return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
  }();
  return name.c_str();
}

#else

bool detail::gemm_tile_onednn(const Gemm& /*tile*/) { return false; }

const char* gemm_backend() { return "own"; }

#endif

}  // namespace weft::kernels
