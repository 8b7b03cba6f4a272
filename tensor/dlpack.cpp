#include "tensor/dlpack.h"

#include <array>
#include <memory>

namespace weft::dlpack {
namespace {

constexpr std::uint32_t kMajor = 1, kMinor = 0;

DLDataType type_of(Dtype dtype) {
  const auto bits = static_cast<std::uint8_t>(8 * element_bytes(dtype));
  switch (dtype) {
    case Dtype::f64:
    case Dtype::f32:
    case Dtype::f16: return {TypeCode::floating, bits, 1};
    case Dtype::bf16: return {TypeCode::bfloat, bits, 1};
    case Dtype::i64:
    case Dtype::i32: return {TypeCode::integer, bits, 1};
    case Dtype::u8: return {TypeCode::unsigned_integer, bits, 1};
    case Dtype::boolean: return {TypeCode::boolean, bits, 1};
  }
  fail<DtypeError>("to_dlpack", "has no type for {}", to_string(dtype));
}

Dtype dtype_of(const DLDataType& type) {
  for (const Dtype dtype :
       {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i64, Dtype::i32, Dtype::u8, Dtype::boolean}) {
    const DLDataType known = type_of(dtype);
    if (known.code == type.code && known.bits == type.bits && type.lanes == 1) return dtype;
  }
  fail<DtypeError>("from_dlpack", "knows no element of type code {} with {} bits and {} lanes: convert it before",
                   static_cast<int>(type.code), type.bits, type.lanes);
}

Device device_of(const DLDevice& device) {
  switch (device.type) {
    case DeviceType::cpu:
    case DeviceType::cuda_host: return {};
    case DeviceType::cuda: {
      const CudaStatus status = cuda_status();
      require<DeviceError>(status.usable, "from_dlpack", "got memory on cuda:{} but {}", device.id, status.reason);
      require<DeviceError>(device.id >= 0 && device.id < status.device_count, "from_dlpack",
                           "got memory on cuda:{} but there are {} devices", device.id, status.device_count);
      return {DeviceKind::cuda, device.id};
    }
    default:
      fail<DeviceError>("from_dlpack",
                        "takes memory of the cpu (1), cuda (2) or pinned (3) but got device type {}: copy it before",
                        static_cast<int>(device.type));
  }
}

/// What an exported struct keeps alive; the struct is its first member's neighbour, so that both go together.
template <class Managed>
struct Export {
  Managed managed{};
  std::shared_ptr<Storage> storage;
  std::array<std::int64_t, Dims::kMaxRank> shape{}, strides{};
};

template <class Managed>
Managed* hand_out(const Tensor& tensor) {
  require(tensor.defined(), "to_dlpack", "needs a tensor but got an undefined one");
  require<AutogradError>(tensor.autograd_slot() == nullptr, "to_dlpack",
                         "takes no tensor that autograd follows: hand out detach(tensor)");
  require<DeviceError>(tensor.device().kind != DeviceKind::simt, "to_dlpack",
                       "cannot hand out memory of the emulator: copy it to the cpu with to(tensor, Device{{}})");
  auto exported = std::make_unique<Export<Managed>>();
  exported->storage = tensor.storage();
  for (int i = 0; i < tensor.rank(); ++i) {
    exported->shape[static_cast<std::size_t>(i)] = tensor.shape()[i];
    exported->strides[static_cast<std::size_t>(i)] = tensor.strides()[i];
  }
  Managed& managed = exported->managed;
  managed.dl_tensor = {
      tensor.raw_data(),
      {tensor.device().kind == DeviceKind::cpu ? DeviceType::cpu : DeviceType::cuda, tensor.device().index},
      tensor.rank(),
      type_of(tensor.dtype()),
      exported->shape.data(),
      exported->strides.data(),
      0};
  managed.manager_ctx = exported.get();
  managed.deleter = [](Managed* self) { delete static_cast<Export<Managed>*>(self->manager_ctx); };
  return &exported.release()->managed;
}

/// The tensor over what a DLTensor describes; `release` goes to its storage.
Tensor over(const DLTensor& source, std::function<void()> release) {
  constexpr const char* kOp = "from_dlpack";
  require<ShapeError>(source.ndim >= 0 && source.ndim <= Dims::kMaxRank, kOp, "takes at most {} dimensions but got {}",
                      Dims::kMaxRank, source.ndim);
  require<ShapeError>(source.ndim == 0 || source.shape != nullptr, kOp, "got {} dimensions but no shape", source.ndim);
  const Dtype dtype = dtype_of(source.dtype);
  const Device device = device_of(source.device);
  const std::int64_t element = element_bytes(dtype);
  const auto rank = static_cast<std::size_t>(source.ndim);
  const Shape shape(std::span(source.shape, rank));
  for (const std::int64_t extent : shape)
    require<ShapeError>(extent >= 0, kOp, "extents must not be negative but the shape is {}", shape);
  const std::int64_t count = shape.numel();  // throws beyond 2^63
  const Strides strides =
      source.strides == nullptr ? contiguous_strides(shape) : Strides(std::span(source.strides, rank));
  std::int64_t last = 0, bytes = 0;
  bool fits = true;
  for (int i = 0; count > 0 && i < shape.rank(); ++i) {
    if (shape[i] == 1) continue;  // its stride says nothing
    require<ShapeError>(strides[i] >= 0, kOp, "strides must not be negative but are {}: copy the tensor before",
                        strides);
    std::int64_t step = 0;
    fits =
        fits && !__builtin_mul_overflow(shape[i] - 1, strides[i], &step) && !__builtin_add_overflow(last, step, &last);
  }
  fits = fits && !__builtin_add_overflow(last, 1, &last) && !__builtin_mul_overflow(last, element, &bytes);
  require<ShapeError>(fits, kOp, "shape {} with strides {} spans more than 2^63 - 1 bytes", shape, strides);
  require(count == 0 || source.data != nullptr, kOp, "got {} elements but no memory", count);
  std::byte* data = count == 0 ? nullptr : static_cast<std::byte*>(source.data) + source.byte_offset;
  require<ShapeError>(reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(element) == 0, kOp,
                      "got memory that is not aligned to its elements of {} bytes: copy it before", element);
  return Tensor::from_storage(std::make_shared<Storage>(data, count == 0 ? 0 : bytes, device, std::move(release)), 0,
                              shape, count == 0 ? contiguous_strides(shape) : strides, dtype);
}

/// Calls the deleter, which a producer may leave out.
struct Delete {
  template <class Managed>
  void operator()(Managed* managed) const {
    if (managed->deleter != nullptr) managed->deleter(managed);
  }
};

template <class Managed>
Tensor take_over(std::unique_ptr<Managed, Delete> managed) {
  // The storage takes the deleter over as the last thing: until then whatever is thrown lets `managed` call it. Hence the
  // storage's own release does nothing before it is told to.
  const auto owner = std::make_shared<Managed*>(nullptr);
  Tensor tensor = over(managed->dl_tensor, [owner] {
    if (*owner != nullptr) Delete{}(*owner);
  });
  *owner = managed.release();
  return tensor;
}

}  // namespace

DLManagedTensorVersioned* to_dlpack(const Tensor& tensor) {
  auto* managed = hand_out<DLManagedTensorVersioned>(tensor);
  managed->version = {kMajor, kMinor};
  return managed;
}

DLManagedTensor* to_dlpack_legacy(const Tensor& tensor) { return hand_out<DLManagedTensor>(tensor); }

Tensor from_dlpack(DLManagedTensorVersioned* managed, ReadOnly read_only) {
  require<OptionError>(managed != nullptr, "from_dlpack", "needs a tensor but got a null pointer");
  std::unique_ptr<DLManagedTensorVersioned, Delete> guard(managed);
  require<OptionError>(managed->version.major == kMajor, "from_dlpack", "knows version {}.x of DLPack but got {}.{}",
                       kMajor, managed->version.major, managed->version.minor);
  if ((managed->flags & kReadOnly) == 0) return take_over(std::move(guard));
  require<OptionError>(read_only == ReadOnly::copy, "from_dlpack",
                       "got memory that must not be written: pass ReadOnly::copy, or copy it before");
  const Tensor view = over(managed->dl_tensor, {});
  require<DeviceError>(view.device().kind == DeviceKind::cpu, "from_dlpack",
                       "copies read-only memory on the cpu only but it is on {}", view.device());
  return dispatch_all(view.dtype(), "from_dlpack", [&]<class T>(std::type_identity<T>) {
    return Tensor::from_vector(view.to_vector<T>(), view.shape());
  });
}

Tensor from_dlpack(DLManagedTensor* managed) {
  require<OptionError>(managed != nullptr, "from_dlpack", "needs a tensor but got a null pointer");
  return take_over(std::unique_ptr<DLManagedTensor, Delete>(managed));
}

}  // namespace weft::dlpack
