#pragma once
// Reading by index, and its transpose: adding rows up by index in a fixed order, without float atomics. Formulas:
// autograd/index.h.
#include <cstdint>

#include "kernels/common/contract.h"
#include "tensor/shape.h"
#include "tensor/status.h"

namespace weft::kernels {

// Bad indices (negative ones too): on the cpu Error "[op] index 12 at position 5 is outside [0, 10)" for the first one,
// before anything is written, where op is named by `code`. On a GPU one of them goes to the status word, and what would
// have been read is 0.

/// out[o, n, i] = in[o, indices[n], i]
/// Aliasing: out overlaps nothing.
/// Traffic:  reads and writes O·N·I elements, reads 8N bytes.
struct IndexSelect {
  Dtype dtype;                     // any
  std::int64_t outer;              // O
  std::int64_t extent;             // V
  std::int64_t count;              // N
  std::int64_t inner;              // I
  const void* in;                  // in,  [O, V, I]
  const std::int64_t* indices;     // in,  [N], [0, V)
  void* out;                       // out, [O, N, I], `=`
  StatusCode code;                 // what a bad index is reported as
  DeviceStatus* status = nullptr;  // inout, the device's status word; null on the cpu
};
void index_select(Device device, const IndexSelect& args);
WEFT_GPU_OP(index_select, IndexSelect)

/// out[e] = in[at(e)],  at(e) = sum over d of position_d(e) * in_strides[d], + index[e] * index_stride; or, without
/// `in`, keys[e] = at(e), and -1 for a bad index.
/// Aliasing: out and keys overlap nothing.
/// Traffic:  reads 8 bytes of index and an element, writes an element (or 4 bytes of key), each of E.
struct Gather {
  Dtype dtype;                // any
  Shape shape;                // of index, E elements
  Strides in_strides;         // in elements, 0 for the dimension that is indexed
  std::int64_t index_stride;  // of that dimension
  std::int64_t extent;        // of that dimension
  const void* in;             // in,  any layout; null: keys are wanted
  const std::int64_t* index;  // in,  [shape], [0, extent)
  void* out;                  // out, [shape], `=`; null with keys
  std::int32_t* keys;         // out, [shape], `=`; null with out
  StatusCode code;
  DeviceStatus* status = nullptr;  // inout
};
void gather(Device device, const Gather& args);
WEFT_GPU_OP(gather, Gather)

/// Stable sort of the positions [0, N) by their key. Keys outside [0, V), and the key `skip`, count as V: they come
/// last.
///   order[j] = the j-th position in the order of (key, position), keys[j] = its key
/// Aliasing: nothing overlaps.
/// Traffic:  on a GPU a radix sort by 8 bits: per pass and position 12 bytes read and 8 written; passes = bytes of V.
///           Counts are added by integer atomics in shared memory, so nothing depends on the order of threads.
struct IndexSort {
  std::int64_t count;            // N < 2^31
  std::int64_t extent;           // V < 2^31 - 1
  std::int64_t skip;             // -1: none
  const std::int64_t* indices;   // in,  [N]; or null and
  const std::int32_t* unsorted;  // in,  [N]
  std::int32_t* keys;            // out, [N], `=`
  std::int32_t* order;           // out, [N], `=`
  std::int32_t* workspace;       // index_sort_workspace(...) elements
};
void index_sort(Device device, const IndexSort& args);
WEFT_GPU_OP(index_sort, IndexSort)

/// Elements of the workspace; 0 on the cpu.
std::int64_t index_sort_workspace(Device device, std::int64_t count, std::int64_t extent);

/// out[o, v, i] (`=` or `+=`) sum over the positions n with key v, in ascending order, of source[o, n, i]; f32 sums
/// (f64 for f64), rounded once. Rows without a position become 0, or stay as they are with `+=`.
///   The sorted list is cut into pieces of kIndexPiece positions: a key with more positions than that gets a partial
///   sum per piece, and these are added in order. So a key that fills the whole list is shared by as many threads as N
///   different ones.
/// Aliasing: nothing overlaps.
/// Traffic:  reads O·N·I elements and 4N bytes, writes O·V·I elements (`=`) or reads and writes those with a position;
///           finds the positions of a key by binary search.
struct IndexAdd {
  Dtype dtype;  // of source and out, floating
  Accumulate mode;
  std::int64_t outer;         // O
  std::int64_t extent;        // V
  std::int64_t count;         // N
  std::int64_t inner;         // I
  const std::int32_t* keys;   // in,  [N], ascending, [0, V]; those of V are left out
  const std::int32_t* order;  // in,  [N], [0, N)
  const void* source;         // in,  [O, N, I]
  void* out;                  // inout, [O, V, I]
  void* partials;             // workspace, index_add_partials(...) elements of the compute type
};
void index_add(Device device, const IndexAdd& args);
WEFT_GPU_OP(index_add, IndexAdd)

inline constexpr std::int64_t kIndexPiece = 256;

/// Elements of the workspace: two rows for each piece, or 0 when no key can have more positions than a piece.
inline std::int64_t index_add_partials(std::int64_t outer, std::int64_t count, std::int64_t inner) {
  return count <= kIndexPiece ? 0 : (count + kIndexPiece - 1) / kIndexPiece * 2 * outer * inner;
}

}  // namespace weft::kernels
