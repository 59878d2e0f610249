"""mmcv's compiled operators, as strict as its CUDA kernels, on the emulated device."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


class EmulatedExtension(ModuleType):
    """``mmcv._ext``, whose operators take tensors of the emulated device too."""

    def __init__(self, extension: ModuleType) -> None:
        super().__init__(extension.__name__)
        self.__spec__ = extension.__spec__
        self._extension = extension

    def get_compiling_cuda_version(self) -> str:
        """Say that there are operators for the device."""
        return 'emulated'

    def __getattr__(self, name: str) -> Any:
        operator = OPERATORS.get(name) or getattr(self._extension, name)
        if not callable(operator):
            return operator

        def call(*args: Any, **kwargs: Any) -> Any:
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            if not any(x.is_cuda for x in tensors):
                return getattr(self._extension, name)(*args, **kwargs)
            check(name, tensors)
            return on_host(operator, args, kwargs)

        return call


def install() -> None:
    """Put it in mmcv's place, before ``mmcv.ops`` is imported."""
    import mmcv._ext

    assert 'mmcv.ops' not in sys.modules
    sys.modules['mmcv._ext'] = EmulatedExtension(mmcv._ext)


def check(name: str, tensors: list[Tensor]) -> None:
    """Refuse what mmcv's CUDA operators refuse.

    Raises:
        RuntimeError: If devices or types are mixed, or of a type without a kernel.
    """
    if not all(x.is_cuda for x in tensors if x.numel()):
        raise RuntimeError(f'{name}: inconsistent devices (emulated)')
    floats = [x.dtype for x in tensors if x.is_floating_point()]
    if torch.bfloat16 in floats:
        raise RuntimeError(f'{name}: not implemented for BFloat16 (emulated)')
    if name == 'nms':  # scores of any type, boxes of one
        floats = [floats[0], torch.float32]
    if len(set(floats)) > 1:
        raise RuntimeError(f'{name}: expected one type, got {floats} (emulated)')


def on_host(operator: Any, args: tuple, kwargs: dict) -> Any:
    """Run a CPU operator on tensors of the device, in float32 if they are float16."""
    halves = []

    def host(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        view = torch.ops.emulated_cuda.host_view(value.detach())
        if view.dtype != torch.float16:
            return view
        halves.append((view, view.float()))
        return halves[-1][1]

    result = operator(*map(host, args), **{k: host(v) for k, v in kwargs.items()})
    for half, single in halves:  # operators write into their arguments
        half.copy_(single)
    if isinstance(result, Tensor):
        return torch.ops.emulated_cuda.device_view(result)
    return result


def _focal_losses(
    x: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    """Sigmoid focal loss per row and class, (N, C); mmcv has no CPU operator."""
    positive = torch.nn.functional.one_hot(target, x.shape[1] + 1)[:, :-1].bool()
    p = x.sigmoid()
    losses = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * torch.nn.functional.logsigmoid(x),
        -(1 - alpha) * p**gamma * torch.nn.functional.logsigmoid(-x),
    )
    return losses * weight if weight.numel() else losses


def _focal_forward(
    x: Tensor, target: Tensor, weight: Tensor, output: Tensor, **kwargs: float
) -> None:
    output.copy_(_focal_losses(x, target, weight, **kwargs))


def _focal_backward(
    x: Tensor, target: Tensor, weight: Tensor, grad: Tensor, **kwargs: float
) -> None:
    with torch.enable_grad():
        x = x.requires_grad_()
        losses = _focal_losses(x, target, weight, **kwargs)
        grad.copy_(*torch.autograd.grad(losses.sum(), x))


OPERATORS = dict(
    sigmoid_focal_loss_forward=_focal_forward,
    sigmoid_focal_loss_backward=_focal_backward,
)
