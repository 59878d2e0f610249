// A CUDA device without a GPU, for a PyTorch that was built without CUDA.
//
// Memory: a tensor on cuda:0 is an ordinary at::Tensor whose storage says "cuda:0" and
// lies in the host's memory. PyTorch's own autograd, autocast and GradScaler see a CUDA
// tensor and treat it as one.
//
// Operations: PyTorch has no kernel for such tensors here, so that each reaches
// run_on_host(), a fallback for the dispatch key CUDA. It refuses what CUDA refuses,
// lends the operation CPU tensors of the same memory, runs PyTorch's CPU kernel, and
// gives back tensors on the device.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/set_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <set>
#include <string>
#include <vector>

namespace {

using at::Tensor;
using c10::IValue;

const c10::Device kHost(c10::kCPU);
const c10::Device kDevice(c10::kCUDA, 0);

// ---- memory -------------------------------------------------------------------------

// The same memory under another device; it keeps its owner alive.
c10::DataPtr share(const c10::Storage& owner, c10::Device device) {
  auto* keep = new c10::Storage(owner);
  auto release = [](void* kept) { delete static_cast<c10::Storage*>(kept); };
  return {keep->mutable_data(), keep, release, device};
}

struct DeviceMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto memory = c10::GetCPUAllocator()->allocate(bytes);
    c10::Storage owner(c10::Storage::use_byte_size_t(), bytes, std::move(memory));
    return share(owner, kDevice);
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
DeviceMemory device_memory;

// A storage of the same memory on another device.
c10::Storage moved(const c10::Storage& storage, c10::Device device) {
  c10::Allocator* allocator = &device_memory;
  if (device == kHost) allocator = c10::GetCPUAllocator();
  return {c10::Storage::use_byte_size_t(), storage.nbytes(), share(storage, device),
          allocator, /*resizable=*/true};
}

// A tensor with the layout of `like`, in `storage`.
Tensor in_storage(c10::Storage storage, const Tensor& like, c10::DispatchKey key) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(),
                                                      like.storage_offset());
  if (like.is_conj()) tensor._set_conj(true);
  if (like.is_neg()) tensor._set_neg(true);
  return tensor;
}

Tensor host_view(const Tensor& tensor) {
  return in_storage(moved(tensor.storage(), kHost), tensor, c10::DispatchKey::CPU);
}

Tensor device_view(const Tensor& tensor) {
  return in_storage(moved(tensor.storage(), kDevice), tensor, c10::DispatchKey::CUDA);
}

// ---- what CUDA refuses --------------------------------------------------------------

// CPU tensors among CUDA's: indices are copied, copies are what they are for.
const std::set<std::string> kMixes = {
    "aten::copy_", "aten::index", "aten::index_put", "aten::index_put_",
    "aten::_index_put_impl_", "aten::_unsafe_index", "aten::_unsafe_index_put"};
// A number on the CPU does everywhere else.
const std::set<std::string> kNoNumbers = {"aten::cat", "aten::stack"};
// CPU kernels for float16 are slow; CUDA's, too, sum these in float32.
const std::set<std::string> kWide = {"aten::convolution", "aten::convolution_backward",
                                     "aten::mm", "aten::addmm", "aten::bmm"};
// CPU kernels take parameters of another type than the input.
const std::set<std::string> kOneType = {"aten::native_layer_norm",
                                        "aten::native_group_norm"};

using Types = std::set<c10::ScalarType>;

// Returns the floating-point types.
Types check(const std::string& name, const std::vector<Tensor>& tensors) {
  Types types;
  for (const auto& tensor : tensors) {
    if (tensor.is_floating_point()) types.insert(tensor.scalar_type());
    if (tensor.is_cuda() || kMixes.count(name)) continue;
    TORCH_CHECK(tensor.dim() == 0 && !kNoNumbers.count(name),
                "Expected all tensors to be on the same device, but found at least two "
                "devices, cuda:0 and cpu! (in ", name, ", emulated)");
  }
  TORCH_CHECK(types.size() < 2 || !kOneType.count(name), "expected scalar type ",
              *types.begin(), " but found ", *types.rbegin(), " (in ", name, ", emulated)");
  return types;
}

// Of `tensors`: what is indexed, the indices, and what is written there.
void check_indexed(const std::string& name, const std::vector<Tensor>& tensors) {
  TORCH_CHECK(tensors[0].is_cuda(),
              "indices should be either on cpu or on the same device as the indexed "
              "tensor (cpu)");
  const bool writes = name.find("put") != std::string::npos;
  TORCH_CHECK(!writes || tensors.back().is_cuda() || tensors.back().dim() == 0,
              "expected device cuda:0 but got device cpu for value tensor in ", name);
}

// ---- operations ---------------------------------------------------------------------

// Applies `change` to each tensor in an argument or result.
template <typename Change>
IValue each_tensor(const IValue& value, const Change& change) {
  if (value.isTensor()) {
    const auto& tensor = value.toTensor();
    return tensor.defined() ? IValue(change(tensor)) : value;
  }
  if (value.isTensorList()) {
    c10::List<Tensor> changed;
    for (const Tensor& tensor : value.toTensorVector())
      changed.push_back(tensor.defined() ? change(tensor) : tensor);
    return changed;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> changed;
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector()) {
      const bool given = tensor.has_value() && tensor->defined();
      changed.push_back(given ? std::optional<Tensor>(change(*tensor)) : tensor);
    }
    return changed;
  }
  return value;
}

struct Lent {
  Tensor device, host;
};

Tensor given_back(const std::vector<Lent>& lent, const Tensor& result) {
  for (const auto& [device, host] : lent)
    if (result.is_same(host)) return device;
  const void* memory = result.has_storage() ? result.storage().data() : nullptr;
  for (const auto& [device, host] : lent)  // a view
    if (memory != nullptr && host.storage().data() == memory)
      return in_storage(device.storage(), result, c10::DispatchKey::CUDA);
  return device_view(result);
}

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto first = stack->size() - schema.arguments().size();
  std::vector<Tensor> tensors;
  std::vector<Lent> lent;
  bool to_host = false;
  for (auto i = first; i < stack->size(); ++i)
    each_tensor((*stack)[i], [&](const Tensor& tensor) {
      tensors.push_back(tensor);
      return tensor;
    });
  const bool is_half = check(schema.name(), tensors) == Types{at::kHalf};
  const bool widens = is_half && schema.overload_name().empty() && kWide.count(schema.name());
  if (kMixes.count(schema.name()) && schema.name() != "aten::copy_")
    check_indexed(schema.name(), tensors);
  for (auto i = first; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    value = each_tensor(value, [&](const Tensor& tensor) {
      if (!tensor.is_cuda()) return tensor;
      lent.push_back({tensor, host_view(tensor)});
      return widens ? lent.back().host.to(at::kFloat) : lent.back().host;
    });
    if (value.isDevice()) {
      to_host = value.toDevice() == kHost;
      value = kHost;
    }
  }
  op.callBoxed(stack);
  for (const auto& [device, host] : lent)
    if (!host.sizes().equals(device.sizes())) {  // an `out` that was resized
      device.storage().set_data_ptr_noswap(share(host.storage(), kDevice));
      device.storage().set_nbytes(host.storage().nbytes());
      device.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides());
    }
  if (to_host) return;
  for (auto i = stack->size() - schema.returns().size(); i < stack->size(); ++i)
    (*stack)[i] = each_tensor((*stack)[i], [&](const Tensor& result) {
      return given_back(lent, widens ? result.to(at::kHalf) : result);
    });
}

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> type,
             std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &device_memory,
                                   c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(type), format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                     std::optional<at::ScalarType> type, std::optional<at::Layout>,
                     std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &device_memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
      c10::dtype_or_default(type));
}

// CUDA's softmax reads float16 and writes float32, in one kernel.
Tensor widened(const Tensor& logits, bool half_to_float) {
  return half_to_float ? logits.to(at::kFloat) : logits;
}
Tensor softmax(const Tensor& logits, int64_t dim, bool half_to_float) {
  return device_view(at::_softmax(host_view(widened(logits, half_to_float)), dim, false));
}
Tensor log_softmax(const Tensor& logits, int64_t dim, bool half_to_float) {
  return device_view(
      at::_log_softmax(host_view(widened(logits, half_to_float)), dim, false));
}
Tensor softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim,
                        at::ScalarType type) {
  return device_view(at::_softmax_backward_data(host_view(grad), host_view(output), dim,
                                                grad.scalar_type()))
      .to(type);
}
Tensor log_softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim,
                            at::ScalarType type) {
  return device_view(at::_log_softmax_backward_data(host_view(grad), host_view(output),
                                                    dim, grad.scalar_type()))
      .to(type);
}

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("set_.source_Storage", static_cast<Tensor& (*)(Tensor&, c10::Storage)>(&at::native::set_));
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  m.impl("resize_", &at::native::resize_);
  m.impl("_softmax", &softmax);
  m.impl("_log_softmax", &log_softmax);
  m.impl("_softmax_backward_data", &softmax_backward);
  m.impl("_log_softmax_backward_data", &log_softmax_backward);
  // PyTorch's own for any device would look for kernels of CUDA's, or take mixed types.
  for (const char* name : {"copy_", "convolution", "convolution_backward",
                           "native_layer_norm", "native_group_norm", "mm", "addmm", "bmm"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

// What the emulated operators of mmcv do the same with.
TORCH_LIBRARY(emulated_cuda, m) {
  m.def("host_view", &host_view);
  m.def("device_view", &device_view);
}

// ---- one idle device ----------------------------------------------------------------

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override {
    return stream();
  }
  // All work is done when a call returns: events have nothing to wait for.
  void record(void** event, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    static int done;
    *event = &done;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}

 private:
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  std::string showConfig() const override { return "  - CUDA emulated\n"; }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return c10::GetCPUAllocator();
  }
};

const bool kAllocates = [] {
  c10::SetAllocator(c10::kCUDA, &device_memory);
  return true;
}();

}  // namespace

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, ::CUDAHooks)
}  // namespace at
