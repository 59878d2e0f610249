"""What the processes of a training exchange, and of what size its parts are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Collectives(TorchDispatchMode):
    """Counts the collective operations of PyTorch's made while it is entered.

    Attributes:
        calls: How many of each operation and element type.
        bytes: What they were given, in this process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter = Counter()
        self.bytes: Counter = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Count the operation, then do it."""
        if func.namespace == 'c10d':
            tensors = [t for t in tree_flatten(args[0])[0] if isinstance(t, Tensor)]
            key = f'{func.overloadpacket.__name__} {tensors[0].dtype}'
            self.calls[key] += 1
            self.bytes[key] += sum(t.numel() * t.element_size() for t in tensors)
        return func(*args, **(kwargs or {}))


def sizes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of a distiller's parts."""
    model = getattr(model, 'module', model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    teacher = list(model.teacher.parameters())
    return {
        'trainable parameters': _bytes(trainable),
        'frozen parameters': _bytes(frozen),
        'buffers': _bytes(model.buffers()),
        "teacher's parameters": _bytes(teacher),
        "teacher's buffers": _bytes(model.teacher.buffers()),
    }


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
