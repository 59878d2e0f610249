"""Registries of ctkd_mm, children of MMEngine's.

``locations`` lets MMEngine import the modules by itself, so that
``type='ctkd_mm.X'`` resolves in any config, under any default scope, without
``custom_imports``.
"""

from __future__ import annotations

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry


class _LazyRegistry(Registry):
    """Imports its locations only for a name that is not registered yet.

    So a loss finds its temperature without MMRazor, which ``ctkd_mm.distill`` needs.
    """

    def get(self, key: str) -> type | None:
        scope, name = self.split_scope_key(key)
        if scope in (None, self.scope) and name in self.module_dict:
            return self.module_dict[name]
        return super().get(key)


MODELS = _LazyRegistry(
    'model',
    parent=MMENGINE_MODELS,
    scope='ctkd_mm',
    locations=[
        'ctkd_mm.temperature',
        'ctkd_mm.policies',
        'ctkd_mm.schedule',
        'ctkd_mm.zscore',
        'ctkd_mm.loss',
        'ctkd_mm.dkd',
        'ctkd_mm.bernoulli',
        'ctkd_mm.adapter',
        'ctkd_mm.ld_head',
        'ctkd_mm.distill',
        'ctkd_mm.dense_distill',
    ],
)
HOOKS = _LazyRegistry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='ctkd_mm',
    locations=[
        'ctkd_mm.temperature_log',
        'ctkd_mm.doctor_hook',
        'ctkd_mm.curriculum',
        'ctkd_mm.schedule',
        'ctkd_mm.reseed',
        'ctkd_mm.checkpoint',
        'ctkd_mm.finite',
        'ctkd_mm.history',
        'ctkd_mm.preemption',
        'ctkd_mm.preflight',
    ],
)
LOOPS = Registry(
    'loop',
    parent=MMENGINE_LOOPS,
    scope='ctkd_mm',
    locations=['ctkd_mm.resume'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='ctkd_mm',
    locations=['ctkd_mm.amp'],
)
METRICS = Registry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='ctkd_mm',
    locations=['ctkd_mm.fast_coco_metric'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='ctkd_mm',
    locations=['ctkd_mm.param_groups'],
)
