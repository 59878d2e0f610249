"""Weights: those of a checkpoint, those of a student, and a hash of them."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

STUDENT_PREFIX = 'architecture.'


def state_dict_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a checkpoint, which may be a state dict itself."""
    return checkpoint.get('state_dict', checkpoint)


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
