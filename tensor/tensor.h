#pragma once
// Tensor: a value handle on a strided view of a Storage. Its members are metadata, views, byte copies, to_vector and item;
// whatever computes (factories with values, casts, operators, backward) is a free function declared in autograd/.
#include <initializer_list>
#include <iosfwd>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/device.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/storage.h"

namespace weft {

class Tensor;

/// How a view was made from its base; enough to carry a gradient back through it.
struct ViewRecord {
  enum class Kind : std::uint8_t { reshape, transpose, permute, slice, select, expand } kind;
  int a = 0, b = 0;                            // transpose: the two dimensions; slice, select: a = dimension
  std::int64_t start = 0, stop = 0, step = 1;  // slice; select: start = index
  Dims order = {};                             // permute: dimension d of the view is dimension order[d] of the base
};

/// What autograd attaches to a tensor; opaque here. It decides what a view of its tensor carries.
class AutogradSlot {
 public:
  virtual ~AutogradSlot() = default;
  virtual std::shared_ptr<AutogradSlot> view(const Tensor& base, const Tensor& view, const ViewRecord& record) = 0;
};

/// A tensor. Copies share the same data (a handle, as in PyTorch); a default-constructed one is undefined.
class Tensor {
 public:
  Tensor() = default;
  /// Uninitialised contiguous tensor. Errors: ShapeError for a negative extent; OutOfMemory.
  static Tensor empty(const Shape& shape, Dtype dtype = Dtype::f32, Device device = {});
  /// Copies `values` (row-major) into a new cpu tensor. Errors: ShapeError when the count is not shape.numel().
  template <class T>
  static Tensor from_vector(const std::vector<T>& values, const Shape& shape);
  /// A tensor over memory of the caller, row-major, which must outlive it; or be freed by `release`.
  template <class T>
  static Tensor from_blob(T* data, const Shape& shape, std::function<void()> release = {});

  /// A strided view of a storage. The caller vouches that it lies inside. `offset` and strides in elements.
  static Tensor from_storage(std::shared_ptr<Storage> storage, std::int64_t offset, const Shape& shape,
                             const Strides& strides, Dtype dtype) {
    return make(std::move(storage), offset, shape, strides, dtype);
  }

  bool defined() const { return impl_ != nullptr; }
  const Shape& shape() const { return impl().shape; }
  const Strides& strides() const { return impl().strides; }  // in elements
  int rank() const { return impl().shape.rank(); }
  std::int64_t size(int dim) const;  // extent of a dimension, dim in [-rank, rank)
  std::int64_t numel() const { return impl().numel; }
  std::int64_t nbytes() const { return impl().numel * element_bytes(impl().dtype); }
  Dtype dtype() const { return impl().dtype; }
  Device device() const { return impl().storage->device(); }
  bool is_contiguous() const { return impl().contiguous; }  // row-major without gaps
  const std::shared_ptr<Storage>& storage() const { return impl().storage; }
  std::int64_t storage_offset() const { return impl().offset; }  // in elements

  /// Pointer to the first element. Errors: DtypeError when T is not the dtype.
  template <class T>
  T* data() const {
    if (impl().dtype != dtype_of<T>) [[unlikely]]
      wrong_dtype(dtype_of<T>);
    return reinterpret_cast<T*>(raw_data());
  }
  std::byte* raw_data() const { return impl().storage->data() + impl().offset * element_bytes(impl().dtype); }

  // Views: no copy, the result shares this tensor's storage, and gradients flow through.
  /// One extent may be -1 (inferred). Errors: ShapeError when the sizes differ, or when the layout needs a copy (then use
  /// weft::reshape, which makes one).
  Tensor reshape(const Shape& asked) const;
  Tensor transpose(int a, int b) const;
  Tensor t() const { return transpose(-2, -1); }
  /// Reorders the dimensions: dimension d of the result is dimension dims[d] in [-rank, rank) of this tensor.
  /// Errors: ShapeError "[permute] [0, 0] must name each of the 2 dimensions of shape [2, 3] once".
  Tensor permute(const Dims& dims) const;
  /// Elements start, start+step, ... below stop along `dim`; negative start and stop count from the end, both are clamped.
  Tensor slice(int dim, std::int64_t start, std::int64_t stop, std::int64_t step = 1) const;
  /// Drops `dim` at `index` in [-size, size).
  Tensor select(int dim, std::int64_t index) const;
  Tensor operator[](std::int64_t index) const { return select(0, index); }
  /// Stretches extents of 1 (and adds leading ones) with stride 0. Writing through an expanded view is refused.
  Tensor expand(const Shape& shape) const;
  Tensor flatten(int first = 0, int last = -1) const;
  Tensor unsqueeze(int dim) const;
  Tensor squeeze(int dim) const;
  /// Whether the layout allows reshape(shape) without a copy.
  bool can_view(const Shape& shape) const;

  /// The elements, row-major; off the cpu a copy is waited for. Errors: DtypeError when T is not the dtype.
  template <class T>
  std::vector<T> to_vector() const;
  /// The only element, converted to T. Errors: ShapeError unless numel() == 1.
  template <class T>
  T item() const;
  /// Nested brackets, long axes shortened; dtype and shape behind unless it is a plain f32.
  std::string str() const;

  /// Overwrites this contiguous tensor's bytes with those of a contiguous tensor of the same shape and dtype, from any device.
  void copy_bytes_from(const Tensor& source) const;
  /// Lets this handle, and every copy of it, refer to another storage of the same shape and dtype: how a module moves.
  void replace_storage(const Tensor& source) const;
  std::uint64_t version() const { return impl().storage->version(); }
  void bump_version() const { impl().storage->bump_version(); }

  // For autograd.
  const std::shared_ptr<AutogradSlot>& autograd_slot() const { return impl().slot; }
  void set_autograd_slot(std::shared_ptr<AutogradSlot> slot) const { impl().slot = std::move(slot); }
  /// The same view without the autograd slot.
  Tensor alias() const;
  /// Whether no other handle shares this tensor's memory, so that it may be overwritten unseen.
  bool is_unique() const { return impl_.use_count() == 1 && impl_->storage.use_count() == 1; }
  /// Whether both handles are the same tensor (not merely equal).
  bool is_same(const Tensor& other) const { return impl_ == other.impl_; }

 private:
  struct Impl {
    std::shared_ptr<Storage> storage;
    std::int64_t offset = 0;
    std::int64_t numel = 0;
    Shape shape;
    Strides strides;
    Dtype dtype = Dtype::f32;
    bool contiguous = true;
    std::shared_ptr<AutogradSlot> slot;
  };
  explicit Tensor(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  static Tensor make(std::shared_ptr<Storage> storage, std::int64_t offset, const Shape& shape, const Strides& strides,
                     Dtype dtype);
  Tensor view(std::int64_t offset, const Shape& shape, const Strides& strides, const ViewRecord& record) const;
  static Tensor from_bytes(const void* data, std::int64_t count, const Shape& shape, Dtype dtype);
  void gather_bytes(std::byte* out) const;
  [[noreturn]] void wrong_dtype(Dtype asked) const;
  [[noreturn]] static void undefined();
  Impl& impl() const {
    if (!impl_) [[unlikely]]
      undefined();
    return *impl_;
  }

  std::shared_ptr<Impl> impl_;
};

/// As str().
std::ostream& operator<<(std::ostream& out, const Tensor& tensor);

template <class T>
Tensor Tensor::from_vector(const std::vector<T>& values, const Shape& shape) {
  if constexpr (std::is_same_v<T, bool>) {  // std::vector<bool> has no contiguous storage
    std::unique_ptr<bool[]> bytes(new bool[values.size() + 1]);
    for (std::size_t i = 0; i < values.size(); ++i) bytes[i] = values[i];
    return from_bytes(bytes.get(), static_cast<std::int64_t>(values.size()), shape, Dtype::boolean);
  } else {
    return from_bytes(values.data(), static_cast<std::int64_t>(values.size()), shape, dtype_of<T>);
  }
}

template <class T>
Tensor Tensor::from_blob(T* data, const Shape& shape, std::function<void()> release) {
  const std::int64_t bytes = shape.numel() * static_cast<std::int64_t>(sizeof(T));
  return make(std::make_shared<Storage>(data, bytes, Device{}, std::move(release)), 0, shape, contiguous_strides(shape),
              dtype_of<T>);
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  if (dtype() != dtype_of<T>) wrong_dtype(dtype_of<T>);
  const auto count = static_cast<std::size_t>(numel());
  if constexpr (std::is_same_v<T, bool>) {
    std::unique_ptr<bool[]> bytes(new bool[count + 1]);
    gather_bytes(reinterpret_cast<std::byte*>(bytes.get()));
    return std::vector<bool>(bytes.get(), bytes.get() + count);
  } else {
    std::vector<T> values(count);
    gather_bytes(reinterpret_cast<std::byte*>(values.data()));
    return values;
  }
}

template <class T>
T Tensor::item() const {
  require<ShapeError>(numel() == 1, "item", "needs a tensor with one element but has shape {}", shape());
  return dispatch_all(dtype(), "item", [&]<class S>(std::type_identity<S>) -> T {
    const S value = Tensor(impl_).to_vector<S>()[0];
    if constexpr (std::is_same_v<S, float16> || std::is_same_v<S, bfloat16>)
      return static_cast<T>(static_cast<float>(value));
    else
      return static_cast<T>(value);
  });
}

}  // namespace weft
