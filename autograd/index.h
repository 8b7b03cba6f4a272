#pragma once
// Reading and adding up by index. Indices are i64 (i32 are cast) in [0, extent): negative ones do not count from the
// end, they are errors.
#include <optional>

#include "tensor/tensor.h"

namespace weft {

/// Picks slices along a dimension, in the order of the indices, any of them as often as wanted.
///   y[..., n, ...] = x[..., indices[n], ...]
/// Shapes:   x [..., E, ...]; indices [N] (or a scalar: N = 1), 0 allowed -> y [..., N, ...].
/// Types:    x any; indices i64|i32.
/// Layout:   operands are made contiguous when they are not.
/// Params:   dim in [-rank, rank).
/// Grad:     dx accumulates (+=): dx[..., e, ...] = sum of dy[..., n, ...] over the n with indices[n] = e, n ascending.
///           Saves the indices.
/// Errors:   Error "[index_select] index 12 at position 5 is outside [0, 10)" for the first such index, before anything
///           is computed; on simt it may be another of several, on cuda it is thrown by check_status, and no optimizer
///           updates until then. ShapeError "[index_select] indices must have shape [N] but have [2, 3]"; DtypeError;
///           DeviceError.
/// Cost:     reads and writes every picked element once, and 8N bytes; memory-bound. Backward sorts the indices
///           (stable, integers only), reads dy and writes dx once.
/// Numerics: forward exact. Backward adds in f32 (f64 for f64), in an order fixed by the indices: deterministic.
Tensor index_select(const Tensor& x, int dim, const Tensor& indices);

/// Picks an element for each place along a dimension.
///   y[i, j, k] = x[i, index[i, j, k], k]  for dim = 1
/// Shapes:   x and index of one rank, index no longer than x but for `dim` -> y as index.
/// Types:    x any; index i64|i32.
/// Layout:   x any strides; index is made contiguous when it is not.
/// Params:   dim in [-rank, rank).
/// Grad:     dx accumulates (+=): scatter_add of dy. Saves the index.
/// Errors:   Error "[gather] index 12 at position 5 is outside [0, 10)" as for index_select, positions counted
///           row-major; ShapeError "[gather] index must not be longer than x of shape [2, 3] but for dimension 1, but
///           has [4, 1]"; Error "[gather] ..." for a gradient with 2^31 elements or more; DtypeError; DeviceError.
/// Cost:     reads index and the picked elements, writes y.
/// Numerics: forward exact; backward deterministic, sums in f32 (f64 for f64).
Tensor gather(const Tensor& x, int dim, const Tensor& index);

/// Adds elements to the places that an index names; the result is a new tensor.
///   y = x;  y[i, index[i, j, k], k] += source[i, j, k]  for dim = 1
/// Shapes:   x, index and source of one rank, index no longer than source, nor than x but for `dim` -> y as x. Elements
///           of source beyond the index are left out.
/// Types:    x and source f32|f16|bf16|f64, the same; index i64|i32.
/// Layout:   operands are made contiguous when they are not.
/// Params:   dim in [-rank, rank).
/// Grad:     dx = dy; dsource = gather(dy, dim, index), 0 beyond the index. Saves the index.
/// Errors:   Error "[scatter_add] index 12 at position 5 is outside [0, 10)" as for index_select; ShapeError
///           "[scatter_add] index must not be longer than source of shape [2, 3] but has [2, 4]"; Error for 2^31
///           elements or more; DtypeError; DeviceError.
/// Cost:     copies x, sorts index.numel() keys, reads the source once.
/// Numerics: the elements that meet in one place are added in row-major order of the index, in f32 (f64 for f64), and
///           their sum to x: deterministic, without float atomics.
Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& source);

/// Rows of a table: y[..., :] = weight[indices[...], :].
/// Shapes:   weight [V, D]; indices any shape [...] -> y [..., D].
/// Types:    weight f32|f16|bf16|f64; indices i64|i32.
/// Layout:   operands are made contiguous when they are not.
/// Params:   padding_idx in [0, V): a row that gets no gradient from its own positions. It is read like any other.
/// Grad:     dweight accumulates (+=), straight into a leaf's gradient: dweight[v] = sum of dy[n] over the positions n
///           with indices[n] = v, ascending. Saves the indices.
/// Errors:   Error "[embedding] index 12 at position 5 is outside [0, 10)" as for index_select; ShapeError "[embedding]
///           weight must have shape [V, D] but has [10]"; OptionError "[embedding] padding_idx must be in [0, 10) but
///           is -1"; DtypeError; DeviceError.
/// Cost:     N = indices.numel(): reads and writes N·D elements, reads 8N bytes. Backward sorts N integers by V, reads
///           N·D elements and writes V·D (only rows that occur when it adds to a gradient); no row is read V times, and
///           a row that takes every position is shared by the whole device.
/// Numerics: forward exact. Backward adds in f32 (f64 for f64) in an order fixed by the indices: bitwise independent of
///           the thread count.
/// Source:   stable radix sort: Satish, Harris, Garland 2009, "Designing efficient sorting algorithms for manycore
///           GPUs".
Tensor embedding(const Tensor& weight, const Tensor& indices, std::optional<std::int64_t> padding_idx = {});

}  // namespace weft
