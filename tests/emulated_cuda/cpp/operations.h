// Operations on cuda:0 by PyTorch's CPU kernels.

#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/set_native.h>
#include <torch/library.h>

#include "memory.h"
#include "refusals.h"

namespace emulated {

using c10::IValue;

// CPU kernels for float16 are slow; CUDA's, too, sum these in float32.
const std::set<std::string> kWide = {"aten::convolution", "aten::convolution_backward",
                                     "aten::mm", "aten::addmm", "aten::bmm"};

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
  const auto& name = schema.name();
  const bool is_half = check(name, tensors) == Types{at::kHalf};
  const bool widens = is_half && schema.overload_name().empty() && kWide.count(name);
  if (kMixes.count(name) && name != "aten::copy_") check_indexed(name, tensors);
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
  return device_view(
      at::_softmax(host_view(widened(logits, half_to_float)), dim, false));
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
  using SetStorage = Tensor& (*)(Tensor&, c10::Storage);
  m.impl("set_.source_Storage", static_cast<SetStorage>(&at::native::set_));
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  m.impl("resize_", &at::native::resize_);
  m.impl("_softmax", &softmax);
  m.impl("_log_softmax", &log_softmax);
  m.impl("_softmax_backward_data", &softmax_backward);
  m.impl("_log_softmax_backward_data", &log_softmax_backward);
  // PyTorch's own for any device would look for kernels of CUDA's, or take mixed types.
  for (const char* name :
       {"copy_", "convolution", "convolution_backward", "native_layer_norm",
        "native_group_norm", "mm", "addmm", "bmm"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

// What the emulated operators of mmcv do the same with.
TORCH_LIBRARY(emulated_cuda, m) {
  m.def("host_view", &host_view);
  m.def("device_view", &device_view);
}

}  // namespace emulated
