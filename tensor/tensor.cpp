#include "tensor/tensor.h"

#include <algorithm>
#include <cstring>
#include <ostream>

#include "tensor/gpu.h"

namespace weft {
namespace {

bool compute_contiguous(const Shape& shape, const Strides& strides) {
  std::int64_t expected = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

// Strides of `to` over the same elements, when merging and splitting the dimensions of (shape, strides) allows it.
bool reshape_strides(const Shape& shape, const Strides& strides, const Shape& to, Strides& out) {
  out = Dims::filled(to.rank(), 1);
  if (shape.numel() <= 1) {  // nothing to step over
    out = contiguous_strides(to);
    return true;
  }
  int target = to.rank() - 1;
  std::int64_t chunk_stride = strides.rank() > 0 ? strides.back() : 1, chunk = 1, taken = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    chunk *= shape[i];
    // A run of dimensions that lie behind each other without a gap acts as one.
    if (i > 0 && (shape[i - 1] == 1 || strides[i - 1] == chunk * chunk_stride)) continue;
    while (target >= 0 && (taken < chunk || to[target] == 1)) {
      out[target] = taken * chunk_stride;
      taken *= to[target];
      --target;
    }
    if (taken != chunk) return false;
    if (i > 0) {
      chunk_stride = strides[i - 1];
      chunk = taken = 1;
    }
  }
  return target == -1;
}

void copy_strided(std::byte* out, const std::byte* in, const Shape& shape, const Strides& strides, int dim,
                  std::int64_t bytes, std::int64_t& written) {
  if (dim == shape.rank()) {
    std::memcpy(out + written, in, static_cast<std::size_t>(bytes));
    written += bytes;
    return;
  }
  for (std::int64_t i = 0; i < shape[dim]; ++i)
    copy_strided(out, in + i * strides[dim] * bytes, shape, strides, dim + 1, bytes, written);
}

std::string format_element(const Tensor& scalar) {
  return dispatch_all(scalar.dtype(), "print", [&]<class T>(std::type_identity<T>) {
    if constexpr (std::is_same_v<T, bool>)
      return std::string(scalar.item<bool>() ? "true" : "false");
    else if constexpr (std::is_integral_v<T>)
      return fmt::format("{}", scalar.item<std::int64_t>());
    else
      return fmt::format("{:.6g}", scalar.item<double>());
  });
}

void print(std::string& out, const Tensor& tensor, int indent) {
  if (tensor.rank() == 0) {
    out += format_element(tensor);
    return;
  }
  constexpr std::int64_t kEdge = 4;  // longer axes show their first and last four entries
  const std::int64_t extent = tensor.size(0);
  out += '[';
  for (std::int64_t i = 0; i < extent; ++i) {
    if (i > 0) out += tensor.rank() == 1 ? ", " : ",\n" + std::string(static_cast<std::size_t>(indent) + 1, ' ');
    if (extent > 2 * kEdge + 1 && i == kEdge) {
      out += "...";
      i = extent - kEdge - 1;
      continue;
    }
    print(out, tensor.select(0, i), indent + 1);
  }
  out += ']';
}

}  // namespace

Tensor Tensor::make(std::shared_ptr<Storage> storage, std::int64_t offset, const Shape& shape, const Strides& strides,
                    Dtype dtype) {
  auto impl = std::make_shared<Impl>();
  impl->storage = std::move(storage);
  impl->offset = offset;
  impl->numel = shape.numel();
  impl->shape = shape;
  impl->strides = strides;
  impl->dtype = dtype;
  impl->contiguous = compute_contiguous(shape, strides);
  return Tensor(std::move(impl));
}

Tensor Tensor::view(std::int64_t offset, const Shape& shape, const Strides& strides, const ViewRecord& record) const {
  Tensor result = make(storage(), offset, shape, strides, dtype());
  if (impl().slot) result.set_autograd_slot(impl().slot->view(*this, result, record));
  return result;
}

Tensor Tensor::empty(const Shape& shape, Dtype dtype, Device device) {
  for (std::int64_t extent : shape)
    require<ShapeError>(extent >= 0, "empty", "extents must not be negative but the shape is {}", shape);
  std::int64_t bytes = 0;
  require<ShapeError>(!__builtin_mul_overflow(shape.numel(), element_bytes(dtype), &bytes), "empty",
                      "a tensor of shape {} exceeds 2^63 - 1 bytes", shape);
  return make(std::make_shared<Storage>(bytes, device), 0, shape, contiguous_strides(shape), dtype);
}

Tensor Tensor::from_bytes(const void* data, std::int64_t count, const Shape& shape, Dtype dtype) {
  require<ShapeError>(count == shape.numel(), "from_vector", "shape {} has {} elements but {} values were given", shape,
                      shape.numel(), count);
  Tensor result = empty(shape, dtype);
  if (count > 0) std::memcpy(result.raw_data(), data, static_cast<std::size_t>(result.nbytes()));
  return result;
}

std::int64_t Tensor::size(int dim) const { return shape()[normalise_dim(dim, rank(), "size")]; }

bool Tensor::can_view(const Shape& shape) const {
  Strides strides;
  return shape.numel() == numel() && reshape_strides(this->shape(), this->strides(), shape, strides);
}

Tensor Tensor::reshape(const Shape& asked) const {
  Shape shape = asked;
  int inferred = -1;
  std::int64_t known = 1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == -1) {
      require<ShapeError>(inferred == -1, "reshape", "only one extent of {} may be -1", asked);
      inferred = i;
    } else {
      require<ShapeError>(shape[i] >= 0, "reshape", "extents must not be negative but the shape is {}", asked);
      known *= shape[i];
    }
  }
  if (inferred >= 0) {
    require<ShapeError>(known > 0 && numel() % known == 0, "reshape",
                        "cannot infer the -1 of {} for a tensor of shape {}", asked, this->shape());
    shape[inferred] = numel() / known;
  }
  require<ShapeError>(shape.numel() == numel(), "reshape", "shape {} has {} elements but the tensor of shape {} has {}",
                      asked, shape.numel(), this->shape(), numel());
  Strides strides;
  require<ShapeError>(
      reshape_strides(this->shape(), this->strides(), shape, strides), "reshape",
      "a tensor of shape {} with strides {} cannot be viewed as {} without a copy: use weft::reshape(x, shape)",
      this->shape(), this->strides(), shape);
  return view(impl().offset, shape, strides, {ViewRecord::Kind::reshape});
}

Tensor Tensor::transpose(int a, int b) const {
  a = normalise_dim(a, rank(), "transpose");
  b = normalise_dim(b, rank(), "transpose");
  Shape shape = this->shape();
  Strides strides = this->strides();
  std::swap(shape[a], shape[b]);
  std::swap(strides[a], strides[b]);
  return view(impl().offset, shape, strides, {ViewRecord::Kind::transpose, a, b});
}

Tensor Tensor::permute(const Dims& dims) const {
  Dims order;
  Shape shape;
  Strides strides;
  unsigned seen = 0;
  for (const std::int64_t asked : dims) {
    const int d = normalise_dim(static_cast<int>(asked), rank(), "permute");
    seen |= 1u << d;
    order.push_back(d);
    shape.push_back(this->shape()[d]);
    strides.push_back(this->strides()[d]);
  }
  require<ShapeError>(dims.rank() == rank() && seen == (1u << rank()) - 1, "permute",
                      "{} must name each of the {} dimensions of shape {} once", dims, rank(), this->shape());
  return view(impl().offset, shape, strides, {.kind = ViewRecord::Kind::permute, .order = order});
}

Tensor Tensor::slice(int dim, std::int64_t start, std::int64_t stop, std::int64_t step) const {
  dim = normalise_dim(dim, rank(), "slice");
  require<ShapeError>(step >= 1, "slice", "step must be at least 1 but is {}", step);
  const std::int64_t extent = shape()[dim];
  if (start < 0) start += extent;
  if (stop < 0) stop += extent;
  start = std::clamp<std::int64_t>(start, 0, extent);
  stop = std::clamp<std::int64_t>(stop, start, extent);
  Shape shape = this->shape();
  Strides strides = this->strides();
  shape[dim] = stop == start ? 0 : (stop - start - 1) / step + 1;
  const std::int64_t offset = impl().offset + (shape[dim] > 0 ? start * strides[dim] : 0);
  strides[dim] *= step;
  return view(offset, shape, strides, {ViewRecord::Kind::slice, dim, 0, start, stop, step});
}

Tensor Tensor::select(int dim, std::int64_t index) const {
  dim = normalise_dim(dim, rank(), "select");
  const std::int64_t extent = shape()[dim];
  require<ShapeError>(index >= -extent && index < extent, "select", "index {} is outside [-{}, {}) of dimension {}",
                      index, extent, extent, dim);
  if (index < 0) index += extent;
  Shape shape = this->shape();
  Strides strides = this->strides();
  const std::int64_t offset = impl().offset + index * strides[dim];
  shape.erase(dim);
  strides.erase(dim);
  return view(offset, shape, strides, {ViewRecord::Kind::select, dim, 0, index});
}

Tensor Tensor::expand(const Shape& shape) const {
  const int added = shape.rank() - rank();
  require<ShapeError>(added >= 0, "expand", "a tensor of shape {} cannot expand to the lower rank of {}", this->shape(),
                      shape);
  Strides strides = Dims::filled(shape.rank(), 0);
  for (int i = added; i < shape.rank(); ++i) {
    const std::int64_t extent = this->shape()[i - added];
    require<ShapeError>(extent == shape[i] || extent == 1, "expand",
                        "a tensor of shape {} does not expand to {}: dimension {} is {}", this->shape(), shape, i,
                        extent);
    strides[i] = extent == shape[i] ? this->strides()[i - added] : 0;
  }
  for (int i = 0; i < added; ++i)
    require<ShapeError>(shape[i] >= 0, "expand", "extents must not be negative but the shape is {}", shape);
  return view(impl().offset, shape, strides, {ViewRecord::Kind::expand});
}

Tensor Tensor::flatten(int first, int last) const {
  if (rank() == 0) return reshape({1});
  first = normalise_dim(first, rank(), "flatten");
  last = normalise_dim(last, rank(), "flatten");
  require<ShapeError>(first <= last, "flatten", "the first dimension {} comes after the last {}", first, last);
  Shape shape;
  for (int i = 0; i < first; ++i) shape.push_back(size(i));
  std::int64_t merged = 1;
  for (int i = first; i <= last; ++i) merged *= size(i);
  shape.push_back(merged);
  for (int i = last + 1; i < rank(); ++i) shape.push_back(size(i));
  return reshape(shape);
}

Tensor Tensor::unsqueeze(int dim) const {
  dim = normalise_dim(dim, rank() + 1, "unsqueeze");
  Shape shape = this->shape();
  shape.insert(dim, 1);
  return reshape(shape);
}

Tensor Tensor::squeeze(int dim) const {
  dim = normalise_dim(dim, rank(), "squeeze");
  require<ShapeError>(size(dim) == 1, "squeeze", "dimension {} of shape {} is not 1", dim, shape());
  return select(dim, 0);
}

Tensor Tensor::alias() const { return make(storage(), impl().offset, shape(), strides(), dtype()); }

std::string Tensor::str() const {
  if (!defined()) return "(undefined)";
  std::string out;
  print(out, alias(), 0);
  if (dtype() != Dtype::f32 || numel() == 0) out += fmt::format("  {} {}", to_string(dtype()), shape());
  return out;
}

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) { return out << tensor.str(); }

void Tensor::gather_bytes(std::byte* out) const {
  if (numel() == 0) return;
  if (device().kind != DeviceKind::cpu) {
    // A strided view is gathered here, from one copy of the memory that it spans.
    std::int64_t last = 0;
    for (int d = 0; d < rank(); ++d) last += (size(d) - 1) * strides()[d];
    if (is_contiguous()) return gpu::copy_out(device(), out, raw_data(), nbytes());
    const Tensor span = empty({last + 1}, dtype());
    gpu::copy_out(device(), span.raw_data(), raw_data(), span.nbytes());
    std::int64_t written = 0;
    return copy_strided(out, span.raw_data(), shape(), strides(), 0, element_bytes(dtype()), written);
  }
  if (is_contiguous()) {
    std::memcpy(out, raw_data(), static_cast<std::size_t>(nbytes()));
    return;
  }
  std::int64_t written = 0;
  copy_strided(out, raw_data(), shape(), strides(), 0, element_bytes(dtype()), written);
}

void Tensor::copy_bytes_from(const Tensor& source) const {
  require<ShapeError>(source.shape() == shape(), "copy", "shapes differ: {} from {}", shape(), source.shape());
  require<DtypeError>(source.dtype() == dtype(), "copy", "dtypes differ: {} from {}", to_string(dtype()),
                      to_string(source.dtype()));
  require<ShapeError>(is_contiguous() && source.is_contiguous(), "copy", "both tensors must be contiguous");
  const bool to_cpu = device().kind == DeviceKind::cpu, from_cpu = source.device().kind == DeviceKind::cpu;
  if (numel() == 0) return;
  if (to_cpu && from_cpu) {
    std::memmove(raw_data(), source.raw_data(), static_cast<std::size_t>(nbytes()));
  } else if (from_cpu) {
    gpu::copy_in(device(), raw_data(), source.raw_data(), nbytes());
  } else if (to_cpu) {
    gpu::copy_out(source.device(), raw_data(), source.raw_data(), nbytes());
  } else if (device() == source.device()) {
    gpu::copy_on(device(), raw_data(), source.raw_data(), nbytes());
  } else {  // between two devices: by way of the host
    const Tensor host = empty(shape(), dtype());
    host.copy_bytes_from(source);
    gpu::copy_in(device(), raw_data(), host.raw_data(), nbytes());
  }
  bump_version();
}

void Tensor::replace_storage(const Tensor& source) const {
  require<ShapeError>(source.shape() == shape() && source.dtype() == dtype(), "replace_storage",
                      "needs the same shape and dtype, {} {}, but got {} {}", shape(), to_string(dtype()),
                      source.shape(), to_string(source.dtype()));
  impl().storage = source.storage();
  impl().offset = source.storage_offset();
  impl().strides = source.strides();
  impl().contiguous = source.is_contiguous();
}

void Tensor::wrong_dtype(Dtype asked) const {
  fail<DtypeError>("tensor", "holds {} but was accessed as {}", to_string(dtype()), to_string(asked));
}

void Tensor::undefined() {
  fail("tensor", "this tensor is undefined (default-constructed, or its gradient was never computed)");
}

}  // namespace weft
