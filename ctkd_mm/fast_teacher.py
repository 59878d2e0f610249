"""The teacher's features for less time, the same up to rounding."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.model import BaseModel
from torch import Tensor, nn

PROBE = (1, 3, 384, 384)  # large enough for the last level of SSD's neck
TOLERANCE = 1e-4  # relative; float32 rounding makes 1e-6 of it in ResNet-101


@torch.no_grad()
def speed_up(teacher: BaseModel) -> str:
    """Fold BatchNorms into convolutions; on a CPU, compute channels-last.

    Both need weights that stay and a network in eval mode. The features of a made-up
    image are compared before and after: where a folding would change them, as in
    pre-activation networks or ones that share a convolution between BatchNorms, the
    teacher is left as it is. What a recorder looks into stays too, and so do the
    layers behind it.

    Features leave in the usual layout: mmcv's RoIAlign and deformable convolutions
    read channels-last memory as if it were that, without an error.

    Args:
        teacher: The detector with its final weights; set to eval mode. Its
            ``backbone`` and ``neck`` are replaced.

    Returns:
        What was done, for the log.
    """
    names = []
    for name in ('backbone', 'neck'):
        part = getattr(teacher, name, None)
        if part is None or any(module._forward_hooks for module in part.modules()):
            break
        names.append(name)
    if not names:
        return 'teacher: left as it is, recorders look into its backbone'
    teacher.eval()
    parts = {name: getattr(teacher, name) for name in names}
    images = _noise(next(teacher.parameters()))
    try:
        folded = {name: _folded(part, images.device) for name, part in parts.items()}
    except (RuntimeError, TypeError) as error:  # BatchNorm of other channels, or plain
        return f'teacher: left as it is, BatchNorm cannot be folded ({error})'
    folded[names[-1]].register_forward_hook(_usual_layout)
    # TF32 would hide what the comparison looks for.
    with torch.backends.cudnn.flags(allow_tf32=False):
        want = teacher.extract_feat(images)
        _set(teacher, folded)
        error = _distance(teacher.extract_feat(images), want)
    if error <= TOLERANCE:
        return (
            f'teacher: BatchNorm folded in {" and ".join(names)}, features within '
            f'{error:.0e} of the plain ones'
        )
    _set(teacher, parts)
    return f'teacher: left as it is, folding BatchNorm would change it by {error:.0e}'


def _noise(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(PROBE, generator=generator).to(like)


def _folded(part: nn.Module, device: torch.device) -> nn.Module:
    part = fuse_conv_bn(copy.deepcopy(part)).requires_grad_(False)
    # Measured on a CPU only; see docs/performance.md.
    return part.to(memory_format=torch.channels_last) if device.type == 'cpu' else part


def _set(teacher: BaseModel, parts: dict[str, nn.Module]) -> None:
    for name, part in parts.items():
        setattr(teacher, name, part)


def _usual_layout(module: nn.Module, args: Any, levels: Any) -> Any:
    return type(levels)(level.contiguous() for level in levels)


def _distance(found: list[Tensor], want: list[Tensor]) -> float:
    """Largest relative distance of a level, in the Euclidean norm."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, want))
