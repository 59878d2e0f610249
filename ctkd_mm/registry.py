"""Registries of ctkd_mm, children of MMEngine's.

``locations`` lets MMEngine import the modules by itself, so that
``type='ctkd_mm.X'`` resolves in any config, under any default scope, without
``custom_imports``.
"""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='ctkd_mm',
    locations=['ctkd_mm.temperature', 'ctkd_mm.loss', 'ctkd_mm.distill'],
)
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='ctkd_mm',
    locations=['ctkd_mm.curriculum', 'ctkd_mm.reseed'],
)
