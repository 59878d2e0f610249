"""Rules about a config and the model that is built from it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctkd_mm.engine.hooks.curriculum_hook import CurriculumHook
from ctkd_mm.engine.optim.merged_constructor import OF_ANY_MODEL
from ctkd_mm.models.temperatures.gradient_reversal import GradientReversal
from ctkd_mm.utils.config import bare, walk
from ctkd_mm.utils.model import data_sets, has_loaded, unwrapped

# Settings of a method's config, and the places where they are read.
READ_AT = dict(
    loss_kd='model.loss_kd',
    loss_ld='model.bbox_head.loss_ld',
    distiller='model.distiller',
    paramwise_cfg='optim_wrapper.paramwise_cfg',
)


def left_at_the_top(runner: Runner) -> Iterator[str]:
    """Find settings of a method in a place where nothing reads them.

    The shipped configs move them: ``model = dict(loss_kd=_base_.pop('loss_kd'))``.
    """
    settings = [*walk({**runner.cfg})]
    for key, place in READ_AT.items():
        below = [value for path, value in settings if path.endswith(f'.{key}')]
        if runner.cfg.get(key) and runner.cfg[key] not in below:
            yield (
                f'{key} at the top level of the config is not read: write {place}, in '
                f"a config that inherits it {key}=_base_.pop('{key}')"
            )


def other_constructor(cfg: Config) -> Iterator[str]:
    """Find an optimizer constructor that may look for a detector's names.

    Below a distiller there are none: MMDetection's own fails, others would silently
    take each layer for one behind the backbone.
    """
    kind = cfg.get('optim_wrapper', {}).get('constructor') or OF_ANY_MODEL[0]
    if 'architecture' in cfg.get('model', {}) and bare(kind) not in OF_ANY_MODEL:
        yield (
            f'optim_wrapper.constructor={kind!r} gets the distiller, no detector. '
            "Write constructor='ctkd_mm.MergedOptimWrapperConstructor', "
            f'paramwise_cfg=dict(student=dict(type={kind!r}, ...))'
        )


def other_classes(runner: Runner) -> Iterator[str]:
    """Find heads whose ``num_classes`` is not that of the data.

    MMDetection's ``NumClassCheckHook``, which no config has by default, refuses sound
    panoptic detectors and RPNs too.
    """
    for key, part in data_sets(runner):
        meta = getattr(part, 'metainfo', None) or {}
        wanted = len(meta.get('thing_classes') or meta.get('classes') or ())
        for name, head in runner.model.named_modules():
            found = getattr(head, 'num_classes', wanted)
            if wanted and found != wanted and re.search('(bbox|mask)_head', name):
                yield (
                    f'model.{name}.num_classes is {found}, but {key}.metainfo.classes '
                    f'has {wanted} names: make them equal'
                )


def no_curriculum(runner: Runner) -> Iterator[str]:
    """Find a learnable temperature whose lambda nothing sets."""
    if not any(isinstance(hook, CurriculumHook) for hook in runner.hooks):
        for name, module in runner.model.named_modules():
            if isinstance(module, GradientReversal):
                yield (
                    f'custom_hooks has no CurriculumHook, but {name} is learnable: '
                    'lambda would have no ramp. Add '
                    "dict(type='ctkd_mm.CurriculumHook', end=5)"
                )


def frozen_random_backbone(runner: Runner) -> Iterator[str]:
    """Find a backbone that loads no weights although a part of it is frozen."""
    model = unwrapped(runner)
    detector = getattr(model, 'architecture', model)
    backbone = getattr(detector, 'backbone', None)
    if has_loaded(runner) or backbone is None:
        return
    if any(map(_loads, (model, detector, *backbone.modules()))):
        return
    backbone.train()  # some freeze their weights in it alone
    frozen = sum(not p.requires_grad for p in backbone.parameters())
    fixed = [not m.training for m in backbone.modules() if isinstance(m, _BatchNorm)]
    if frozen or any(fixed):
        yield (
            f'the backbone loads no weights, but {frozen} of its parameters and '
            f'{sum(fixed)} of its {len(fixed)} BatchNorm layers stay frozen. Set '
            "init_cfg=dict(type='Pretrained', ...), or frozen_stages=-1, "
            'norm_eval=False, norm_cfg.requires_grad=True'
        )


def _loads(module: nn.Module) -> bool:
    # DetectoRS' ResNet keeps the path alone.
    own = isinstance(getattr(module, 'pretrained', None), str)
    return own or 'Pretrained' in str(getattr(module, 'init_cfg', None))
