"""The teacher's features for less time, the same up to rounding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.model import BaseModel
from torch import Tensor, nn

PROBES = 128, 384  # pixels; the last level of SSD's neck takes the second
TOLERANCE = 1e-6  # relative, in float64, where rounding alone makes 1e-15


@torch.no_grad()
def speed_up(teacher: BaseModel, dtype: str | None = None) -> str:
    """Fold BatchNorms into convolutions; compute channels-last on a CPU.

    And in a half type on a GPU too, whose tensor cores read that layout; that is not
    measured, see docs/performance.md.

    Both need weights that stay and a network in eval mode. The features of a made-up
    image are compared before and after, in float64: where they would change, as in
    pre-activation networks or ones that share a convolution between BatchNorms, or
    cannot be computed, the teacher is left as it is. What a recorder looks into stays
    too, and so do the layers behind it. Features leave in the usual layout.

    Args:
        teacher: The detector with its final weights; set to eval mode. Its
            ``backbone`` and ``neck`` are replaced.
        dtype: The lower precision that it will compute in, if any.

    Returns:
        What was done, for the log.
    """
    parts = _unwatched(teacher)
    if not parts:
        return 'teacher: left as it is, a recorder looks into its backbone'
    weight = next(teacher.parameters())
    stored, last = weight.dtype, bool(dtype) or weight.device.type == 'cpu'
    teacher.eval()
    for size in PROBES:
        try:
            fault = _replace(teacher.double(), parts, last, size)
        except Exception as error:  # a network may meet a layout or size it cannot take
            fault = str(error).splitlines()[0]
        if not fault:
            break
        _set(teacher, parts)
    if fault:
        done = f'left as it is, BatchNorm cannot be folded: {fault}'
    else:
        done = f'BatchNorm folded in {" and ".join(parts)}'
    teacher.to(stored)
    return f'teacher: {done}'


def _unwatched(teacher: BaseModel) -> dict[str, nn.Module]:
    parts = {}
    for name in ('backbone', 'neck'):
        part = getattr(teacher, name, None)
        if part is None or any(module._forward_hooks for module in part.modules()):
            break
        parts[name] = part
    return parts


def _replace(
    teacher: BaseModel, parts: dict[str, nn.Module], last: bool, size: int
) -> str:
    """Put folded copies in the places of the parts; say what is wrong with them."""
    weight = next(teacher.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, size, size, generator=generator).to(weight)
    want = teacher.extract_feat(images)
    folded = {name: _folded(part, last) for name, part in parts.items()}
    folded[list(parts)[-1]].register_forward_hook(_usual_layout)
    _set(teacher, folded)
    return _fault(teacher.extract_feat(images), want)


def _folded(part: nn.Module, last: bool) -> nn.Module:
    part = fuse_conv_bn(copy.deepcopy(part)).requires_grad_(False)
    return part.to(memory_format=torch.channels_last) if last else part


def _set(teacher: BaseModel, parts: dict[str, nn.Module]) -> None:
    for name, part in parts.items():
        setattr(teacher, name, part)


def _usual_layout(module: nn.Module, args: Any, levels: Any) -> Any:
    return type(levels)(level.contiguous() for level in levels)


def _fault(found: Sequence[Tensor], want: Sequence[Tensor]) -> str:
    if len(found) != len(want) or not all(level.is_contiguous() for level in found):
        return 'its features are not those of its last part'
    distances = [(a - b).norm() / b.norm() for a, b in zip(found, want)]
    error = torch.stack(distances).max().item()
    # Not error > TOLERANCE: no comparison holds for NaN.
    return '' if error <= TOLERANCE else f'the features would change by {error:.0e}'
