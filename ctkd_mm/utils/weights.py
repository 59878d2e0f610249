"""Weights: those of a checkpoint, those of a student, and a hash of them."""

from __future__ import annotations

import hashlib
from operator import methodcaller
from typing import Any

import torch
from mmengine.utils import apply_to
from torch import nn

STUDENT_PREFIX = 'architecture.'


def state_dict_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a checkpoint, which may be a state dict itself."""
    return checkpoint.get('state_dict', checkpoint)


def move_to_host(checkpoint: dict[str, Any]) -> None:
    """Move every tensor of a checkpoint, in place, to the host.

    MMEngine moves what it stores itself; what hooks add, as ``EMAHook`` does, stays on
    the GPU, and a host without one cannot read it by a plain ``torch.load``.
    """
    for key, part in checkpoint.items():
        checkpoint[key] = apply_to(part, torch.is_tensor, methodcaller('cpu'))
        if hasattr(part, '_metadata'):  # versions of modules, in a state dict
            checkpoint[key]._metadata = part._metadata


def student_weights(weights: dict[str, Any]) -> dict[str, Any]:
    """Pick the student's weights out of a distiller's, under their own names.

    Args:
        weights: State dict of a distiller.

    Returns:
        The student's state dict; empty if there is no student in it.
    """
    return {
        key[len(STUDENT_PREFIX) :]: value
        for key, value in weights.items()
        if key.startswith(STUDENT_PREFIX)
    }


def weights_sha256(model: nn.Module) -> str:
    """Hash a model's weights: names, types, shapes and values.

    A file saved again, without its optimizer for example, is the same teacher.

    Args:
        model: Any module, on any device.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}\n'.encode())
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy())
    return digest.hexdigest()
