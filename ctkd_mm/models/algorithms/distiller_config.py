"""Configs of MMRazor's ``ConfigurableDistiller``."""

from __future__ import annotations

import inspect
from typing import Any

from mmrazor.registry import MODELS


def takes_labels(loss_kd: dict) -> bool:
    """Whether a loss config names a loss whose ``forward`` has ``labels``."""
    loss: Any = loss_kd
    while isinstance(loss, dict):  # a loss around a loss passes them on
        loss = loss.get('loss', loss.get('type'))
    if isinstance(loss, str):
        loss = MODELS.get(loss)
    if loss is None:
        return False  # its build says what is missing
    return 'labels' in inspect.signature(loss.forward).parameters


def join(distiller: dict, ours: dict, loss_kd: dict) -> dict:
    """Join what ``loss_kd`` needs with what a user computes beside it.

    Args:
        distiller: The user's arguments of ``ConfigurableDistiller``.
        ours: Recorders, connectors and mappings of ``loss_kd``.
        loss_kd: Config of the loss.

    Returns:
        Config of the distiller.

    Raises:
        ValueError: If the user's asks for deliveries, or claims a name of ours.
    """
    if distiller.get('distill_deliveries'):
        raise ValueError(
            'distiller.distill_deliveries must be empty: the teacher scores the '
            "student's own places, got "
            f'{list(distiller["distill_deliveries"])}'
        )
    joined = dict(type='mmrazor.ConfigurableDistiller', **distiller)
    for key, entries in {**ours, 'distill_losses': dict(loss_kd=loss_kd)}.items():
        theirs = distiller.get(key) or {}
        taken = sorted(entries.keys() & theirs.keys())
        if taken:
            raise ValueError(
                f'distiller.{key} may not use the names {taken}: they belong to '
                'loss_kd; rename them'
            )
        joined[key] = {**theirs, **entries}
    return joined
