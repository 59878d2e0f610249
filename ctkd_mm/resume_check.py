"""A resumed run goes on with the settings that it began with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from .explain import walk
from .listing import some

# What a training's way depends on, and a checkpoint does not bring along.
PARTS = ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'custom_hooks')
PARTS += ('auto_scale_lr',)


def check_resumed(cfg: Config, meta: dict) -> None:
    """Compare a config with the one that a checkpoint to resume was trained with.

    An option of the command line that is forgotten, such as the range of tau, gives
    the same weights another meaning: the raw value of tau is resumed, its range is the
    config's. Other settings may be changed on purpose, and are told in a warning.

    Args:
        cfg: The config to train with.
        meta: The checkpoint's, in which MMEngine keeps its config as text.

    Raises:
        ValueError: If ``model.loss_kd`` differs.
    """
    before, now = meta.get('cfg'), cfg.pretty_text
    if not isinstance(before, str) or before == now:
        return
    was, now = (dict(_settings(Config.fromstring(x, '.py'))) for x in (before, now))
    changed = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    lines = {
        key: f'{key}={now.get(key)!r}, was {was.get(key)!r}'
        for key in changed
        if key != 'model.teacher_ckpt'  # its weights are compared
    }
    losses = [line for key, line in lines.items() if key.startswith('model.loss_kd.')]
    if losses:
        raise ValueError(
            f'cannot resume with another distillation loss: {some(losses)}. Give the '
            'options of the first start again, or start a new run from the checkpoint '
            '(load_from, without --resume)'
        )
    if lines:
        print_log(
            f'resuming with other settings than the checkpoint was trained with: '
            f'{some(lines.values(), 8)}. Give the options of the first start again, '
            'unless this is meant',
            logger='current',
            level=logging.WARNING,
        )


def _settings(cfg: Config) -> Iterator[tuple[str, Any]]:
    for part in PARTS:
        for key, value in walk(cfg.get(part), part):
            if not isinstance(value, (dict, list, tuple)):
                yield key, value
