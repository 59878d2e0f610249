"""Configs that build, but would train something else than they say."""

from __future__ import annotations

import difflib
import inspect
import logging
import os.path as osp
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn

from .curriculum import CurriculumHook
from .explain import walk
from .gradient_reversal import GradientReversal
from .listing import some

# They call the runner's model as if it were the detector.
DETECTOR_HOOKS = {'SetEpochInfoHook', 'YOLOXModeSwitchHook'}
# No key of a config that MMDetection or MMRazor ships is this near to another.
NEAR = 0.9


def check_top_level(cfg: Config) -> None:
    """Look for misspelt arguments of ``Runner``, which MMEngine takes for variables.

    Args:
        cfg: A complete config.

    Raises:
        ValueError: If a key is all but that of an argument.
    """
    known = set(inspect.signature(Runner.__init__).parameters)
    for key in cfg:
        near = difflib.get_close_matches(key, known, 1, NEAR)
        if near and key not in known:
            raise ValueError(
                f'{key}={_short(cfg[key])} is no key that MMEngine reads, and would '
                f'do nothing. Write {near[0]!r}, or name your variable otherwise'
            )


def check_variables(cfg: Config) -> None:
    """Look for variables of a config that were changed after it had been read.

    ``loss_kd`` in a method's config is one, copied by ``model = dict(loss_kd=...)``
    when the file is read: ``--cfg-options loss_kd...`` comes too late for the model.

    Args:
        cfg: A complete config; one that was read from no file, or whose file was
            edited since, passes.

    Raises:
        ValueError: If a variable of the file differs now, or a dict was added, and no
            setting of its name has its value.
    """
    if not cfg.filename or not osp.isfile(cfg.filename):
        return
    file = Config.fromfile(cfg.filename)
    if file.text != cfg.text:
        return
    now, written = cfg.to_dict(), file.to_dict()
    known = inspect.signature(Runner.__init__).parameters
    settings = dict(walk({key: now[key] for key in now if key in known}))
    for key, value in now.items():
        # A dict that was added is an option for a setting of its name.
        before = written.get(key, {} if isinstance(value, dict) else value)
        if key in known or value == before:
            continue
        used = [path for path in settings if path.split('.')[-1] == key]
        if used and all(settings[path] != value for path in used):
            option = f'{used[0]}.NAME' if isinstance(value, dict) else used[0]
            raise ValueError(
                f'{key}={_short(value)} was set after {cfg.filename} had been read, '
                f'and would do nothing: no {key} is read at the top level. Set '
                f'{some(used)} instead, for example with --cfg-options {option}=...'
            )


def check_method(cfg: Config) -> None:
    """Look for a part of the method that the config inherits and does not use.

    Args:
        cfg: A complete config.

    Raises:
        ValueError: If ``distiller`` or ``paramwise_cfg`` stands at the top level alone.
    """
    for key, section in dict(distiller='model', paramwise_cfg='optim_wrapper').items():
        if cfg.get(key) and not (cfg.get(section) or {}).get(key):
            raise ValueError(
                f'{key} of the method is inherited, but nothing uses it: add '
                f'{section} = dict({key}=_base_.{key}), as the shipped configs of that '
                f'method do, or {key} = None to do without'
            )


def check_hook_names(names: Iterable[str]) -> None:
    """Look for hooks that a distiller cannot have.

    Args:
        names: Names of the hooks' classes.

    Raises:
        ValueError: If one of them takes the runner's model for the detector.
    """
    found = sorted(DETECTOR_HOOKS.intersection(names))
    if found:
        raise ValueError(
            f"custom_hooks has {found[0]}, which takes the runner's model for the "
            'detector; in a distillation the detector is inside, and the hook would '
            'fail, if only in the last epochs: drop it from custom_hooks'
        )


def check_curriculum(model: nn.Module, hooks: list) -> None:
    """Check that a learnable temperature has something that sets its lambda.

    Args:
        model: The model that is trained.
        hooks: The runner's hooks.

    Raises:
        ValueError: If the model has a ``GradientReversal`` and the hooks have no
            :class:`ctkd_mm.CurriculumHook`.
    """
    names = [n for n, m in model.named_modules() if isinstance(m, GradientReversal)]
    if names and not any(isinstance(hook, CurriculumHook) for hook in hooks):
        raise ValueError(
            f'custom_hooks has no CurriculumHook, but the model has the learnable '
            f'temperature {names[0]}: lambda would stay at its default without a ramp. '
            "Add dict(type='ctkd_mm.CurriculumHook', end=5); with end=1, lambda is "
            'lambda_max from the start'
        )


def check_num_classes(model: nn.Module, dataset: Any, key: str) -> None:
    """Check that the box heads have as many classes as the data.

    Args:
        model: The model that is trained.
        dataset: A data set with ``metainfo``.
        key: Where it stands in the config.

    Raises:
        ValueError: If they differ.

    Source: the rule of MMDetection's ``NumClassCheckHook``, which no config has on
    by default.
    """
    classes = getattr(dataset, 'metainfo', {}).get('classes')
    if classes is None:
        return
    for name, module in model.named_modules():
        found = getattr(module, 'num_classes', None)
        if 'bbox_head' in name and found not in (None, len(classes)):
            raise ValueError(
                f'model.{name}.num_classes={found}, but {key}.metainfo.classes has '
                f'{len(classes)} names: {some(map(repr, classes))}. Make them agree'
            )


def check_custom_keys(model: nn.Module, cfg: Config) -> None:
    """Warn of learning-rate multipliers that are meant for no parameter.

    Args:
        model: The model that is trained.
        cfg: Its config, for ``optim_wrapper.paramwise_cfg.custom_keys``.
    """
    paramwise = (cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    names = [name for name, _ in model.named_parameters()]
    for key, value in (paramwise.get('custom_keys') or {}).items():
        if not any(key in name for name in names):
            print_log(
                f'optim_wrapper.paramwise_cfg.custom_keys: {key!r}={_short(value)} is '
                "part of no parameter's name and does nothing. Correct or remove it",
                logger='current',
                level=logging.WARNING,
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f'{text[:76]} ...'
