// Tensors on cuda:0, in the host's memory.

#pragma once

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>

namespace emulated {

using at::Tensor;

const c10::Device kHost(c10::kCPU);
const c10::Device kDevice(c10::kCUDA, 0);

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

}  // namespace emulated
