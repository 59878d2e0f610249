// What CUDA refuses and a CPU kernel, or this device, would not.

#pragma once

#include <ATen/ATen.h>

#include <set>
#include <string>
#include <vector>

namespace emulated {

using at::Tensor;

// CPU tensors among CUDA's: indices are copied, copies are what they are for.
const std::set<std::string> kMixes = {
    "aten::copy_", "aten::index", "aten::index_put", "aten::index_put_",
    "aten::_index_put_impl_", "aten::_unsafe_index", "aten::_unsafe_index_put"};
// A number on the CPU does everywhere else.
const std::set<std::string> kNoNumbers = {"aten::cat", "aten::stack"};
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
              *types.begin(), " but found ", *types.rbegin(), " (in ", name,
              ", emulated)");
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

}  // namespace emulated
