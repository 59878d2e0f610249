"""Weights: those of a checkpoint, those of a student, and a hash of them."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctkd_mm.utils.messages import some

STUDENT_PREFIX = 'architecture.'


def state_dict_of(checkpoint: Any, source: str | Path) -> OrderedDict[str, Tensor]:
    """Return the weights of a checkpoint, which may be a state dict itself.

    Args:
        checkpoint: What was read.
        source: Path or URL, for the message.

    Returns:
        The tensors by name, DDP's ``module.`` removed as MMEngine does.

    Raises:
        ValueError: If there are none.
    """
    weights = checkpoint
    if isinstance(checkpoint, dict):
        weights = checkpoint.get('state_dict', checkpoint)
    items = weights.items() if isinstance(weights, dict) else ()
    named = OrderedDict(
        (re.sub(r'^module\.', '', k), v) for k, v in items if isinstance(v, Tensor)
    )
    if not named:
        found = some(map(repr, weights)) if items else type(weights).__name__
        raise ValueError(
            f'{source} holds no weights: expected tensors by name, found {found}'
        )
    # Modules read their version there, to convert older files.
    named._metadata = getattr(weights, '_metadata', None)
    return named


def student_weights(weights: dict[str, Any]) -> dict[str, Any]:
    """Pick the student's weights out of a distiller's, under their own names.

    Args:
        weights: State dict of a distiller.

    Returns:
        The student's state dict; empty if there is no student in it.
    """
    own = [key for key in weights if key.startswith(STUDENT_PREFIX)]
    return {key[len(STUDENT_PREFIX) :]: weights[key] for key in own}


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
