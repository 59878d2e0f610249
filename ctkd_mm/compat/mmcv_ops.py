"""mmcv's operators on channels-last and bfloat16 tensors.

They read any memory as if it were in the usual layout: RoIAlign and modulated
deformable convolutions then compute wrong values without an error. They have no
bfloat16 kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch.autograd import Function

NAMES = 'carafe deform_conv modulated_deform_conv roi_align roi_pool'
OPERATORS = [f'mmcv.ops.{name}' for name in NAMES.split()]


def import_operator(execute: Callable, module: ModuleType) -> None:
    """Give a module's operators what they can read; the results are the same bits."""
    execute(module)
    for name, value in vars(module).items():
        if name.endswith('Function') and value is not Function:
            value.forward = staticmethod(_with_readable(value.forward))


def _with_readable(forward: Callable) -> Callable:
    def call(ctx: Any, *args: Any) -> Any:
        return forward(ctx, *[_readable(arg) for arg in args])

    return call


def _readable(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return (value.float() if value.dtype == torch.bfloat16 else value).contiguous()
