"""Registries of ctkd_mm, children of MMEngine's.

Each imports the modules of its table by itself, so that ``type='ctkd_mm.X'`` resolves
in any config, under any default scope, without ``custom_imports``.
"""

from __future__ import annotations

from importlib import import_module

from mmengine import registry
from mmengine.registry import Registry


class _LazyRegistry(Registry):
    """Imports its locations one by one, and only until a name is registered.

    So a loss finds its temperature without MMRazor, which the distillers need.
    """

    def __init__(self, parent: Registry, locations: list[str]) -> None:
        super().__init__(
            parent.name, parent=parent, scope='ctkd_mm', locations=locations
        )
        self.locations = locations

    def get(self, key: str) -> type | None:
        scope, name = self.split_scope_key(key)
        if scope in (None, self.scope):
            for location in self.locations:
                if name in self.module_dict:
                    return self.module_dict[name]
                import_module(location)
        return super().get(key)


def _child_of(parent: Registry, *modules: str) -> Registry:
    return _LazyRegistry(parent, [f'ctkd_mm.{module}' for module in modules])


MODELS = _child_of(
    registry.MODELS,
    'models.temperatures.learned',
    'models.temperatures.fixed',
    'models.temperatures.scheduled',
    'models.losses.zscore_loss',
    'models.losses.kd_loss',
    'models.losses.dkd_loss',
    'models.losses.bernoulli_loss',
    'models.losses.with_temperature',
    'models.heads.ld_head',
    'models.algorithms.roi_logit_distill',
    'models.algorithms.dense_logit_distill',
)
HOOKS = _child_of(
    registry.HOOKS,
    'engine.hooks.temperature_log_hook',
    'engine.hooks.curriculum_hook',
    'engine.hooks.atomic_checkpoint_hook',
    'engine.hooks.finite_hook',
    'engine.hooks.history_hook',
    'engine.hooks.preemption_hook',
    'engine.loops.seeded_data',
    'checks.preflight_hook',
    'analysis.doctor.doctor_hook',
)
LOOPS = _child_of(registry.LOOPS, 'engine.loops.resumable_loops')
OPTIM_WRAPPERS = _child_of(registry.OPTIM_WRAPPERS, 'engine.optim.amp_wrapper')
OPTIM_WRAPPER_CONSTRUCTORS = _child_of(
    registry.OPTIM_WRAPPER_CONSTRUCTORS, 'engine.optim.merged_constructor'
)
METRICS = _child_of(registry.METRICS, 'evaluation.fast_coco_metric')
