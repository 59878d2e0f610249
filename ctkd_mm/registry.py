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

    So a loss finds its temperature without MMRazor, which
    ``ctkd_mm.models.algorithms.roi_logit_distill`` needs.
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
        'ctkd_mm.models.temperatures.learned',
        'ctkd_mm.models.temperatures.fixed',
        'ctkd_mm.models.temperatures.scheduled',
        'ctkd_mm.models.losses.zscore_loss',
        'ctkd_mm.models.losses.kd_loss',
        'ctkd_mm.models.losses.dkd_loss',
        'ctkd_mm.models.losses.bernoulli_loss',
        'ctkd_mm.models.losses.with_temperature',
        'ctkd_mm.models.heads.ld_head',
        'ctkd_mm.models.algorithms.roi_logit_distill',
        'ctkd_mm.models.algorithms.dense_logit_distill',
    ],
)
HOOKS = _LazyRegistry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='ctkd_mm',
    locations=[
        'ctkd_mm.engine.hooks.temperature_log_hook',
        'ctkd_mm.analysis.doctor.doctor_hook',
        'ctkd_mm.engine.hooks.curriculum_hook',
        'ctkd_mm.engine.loops.seeded_data',
        'ctkd_mm.engine.hooks.atomic_checkpoint_hook',
        'ctkd_mm.engine.hooks.finite_hook',
        'ctkd_mm.engine.hooks.history_hook',
        'ctkd_mm.engine.hooks.preemption_hook',
        'ctkd_mm.checks.preflight_hook',
    ],
)
LOOPS = Registry(
    'loop',
    parent=MMENGINE_LOOPS,
    scope='ctkd_mm',
    locations=['ctkd_mm.engine.loops.resumable_loops'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='ctkd_mm',
    locations=['ctkd_mm.engine.optim.amp_wrapper'],
)
METRICS = Registry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='ctkd_mm',
    locations=['ctkd_mm.evaluation.fast_coco_metric'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='ctkd_mm',
    locations=['ctkd_mm.engine.optim.merged_constructor'],
)
