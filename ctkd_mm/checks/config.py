"""Configs that build, but would train something else than they say."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

from mmengine.config import Config
from torch import nn

from ctkd_mm.engine.hooks.curriculum_hook import CurriculumHook
from ctkd_mm.models.temperatures.gradient_reversal import GradientReversal
from ctkd_mm.utils.messages import some, value_of, warn

# They call the runner's model as if it were the detector.
DETECTOR_HOOKS = {'SetEpochInfoHook', 'YOLOXModeSwitchHook'}


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


def check_interval(cfg: Config) -> None:
    """Check how often to validate; MMEngine divides by it after the first epoch.

    Args:
        cfg: A complete config.

    Raises:
        ValueError: If ``train_cfg.val_interval`` is no number >= 1.
    """
    interval = (cfg.get('train_cfg') or {}).get('val_interval', 1)
    if not isinstance(interval, Real) or interval < 1:
        raise ValueError(
            f'train_cfg.val_interval={interval!r}, expected a number >= 1. For none, '
            'set val_cfg, val_dataloader and val_evaluator to None'
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
            warn(
                f'optim_wrapper.paramwise_cfg.custom_keys: {key!r}={value_of(value)} '
                "is part of no parameter's name and does nothing. Correct or remove it"
            )
