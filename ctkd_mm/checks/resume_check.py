"""A resumed run goes on with the settings that it began with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ctkd_mm.utils.messages import some, warn

# What a training's way depends on, and a checkpoint does not bring along.
PARTS = ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader')
PARTS += ('custom_hooks', 'auto_scale_lr')
# But for where things are, how long to train, and what is compared elsewhere: the
# teacher's weights.
FREE = {'data_root', 'ann_file', 'data_prefix', 'num_workers', 'persistent_workers'}
FREE |= {'max_epochs', 'max_iters', 'teacher_ckpt'}
# A loss at a temperature, wherever in the model.
LOSS = re.compile(r'model\.(loss_kd\.|distiller\.distill_losses\.|.*\.temperature\.)')


def check_resumed(cfg: Config, meta: dict) -> None:
    """Compare a config with the one that a checkpoint to resume was trained with.

    An option of the command line that is forgotten, such as the range of tau, gives
    the same weights another meaning: the raw value of tau is resumed, its range is the
    config's. Other settings may be changed on purpose, and are told in a warning.

    Args:
        cfg: The config to train with.
        meta: The checkpoint's, in which MMEngine keeps its config as code, which is
            only parsed here. One without a config that can be parsed passes.

    Raises:
        ValueError: If a distillation loss or a temperature in ``model`` differs.
    """
    before, now = meta.get('cfg'), cfg.pretty_text
    if not isinstance(before, str) or before == now or 'model' not in cfg:
        return
    try:
        was, now = dict(_settings(before)), dict(_settings(now))
    except SyntaxError:  # values that have no literal
        return
    lines = {
        key: f'{key}={_told(now, key)}, was {_told(was, key)}'
        for key in {**was, **now}
        if was.get(key) != now.get(key) and FREE.isdisjoint(key.split('.'))
    }
    losses = [line for key, line in lines.items() if LOSS.match(key)]
    if losses:
        raise ValueError(
            f'cannot resume with another distillation loss: {some(losses)}. Give the '
            'options of the first start again, or start a new run from the checkpoint '
            '(load_from, without --resume)'
        )
    if lines:
        warn(
            f'resuming with other settings than the checkpoint was trained with: '
            f'{some(lines.values(), 8)}. Give the options of the first start again, '
            'unless this is meant'
        )


def _told(settings: dict, key: str) -> str:
    return repr(settings[key]) if key in settings else 'not set'


def _settings(text: str) -> Iterator[tuple[str, Any]]:
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if getattr(target, 'id', None) in PARTS:
                    yield from _leaves(statement.value, target.id)


def _leaves(node: ast.AST, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.Call):  # dict(...), with a {...} in it for odd keys
        parts = [(f'{path}.{part.arg}', part.value) for part in node.keywords]
        parts += [(path, part) for part in node.args]
    elif isinstance(node, ast.Dict):
        keys = map(_value, node.keys)
        parts = [(f'{path}.{key}', part) for key, part in zip(keys, node.values)]
    elif isinstance(node, (ast.List, ast.Tuple)):
        parts = [(f'{path}.{i}', part) for i, part in enumerate(node.elts)]
    else:
        yield path, _value(node)
        return
    for key, part in parts:
        yield from _leaves(part, key)


def _value(node: ast.AST) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):  # inf, for example
        return ast.dump(node)
