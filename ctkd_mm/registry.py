"""Registries of ctkd_mm, children of MMEngine's.

Each imports the modules of its packages by itself, so that ``type='ctkd_mm.X'``
resolves in any config, under any default scope, without ``custom_imports``.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from mmengine import registry
from mmengine.registry import Registry


class LazyRegistry(Registry):
    """Imports the modules of its packages one by one, until a name is registered.

    So a loss finds its temperature without MMRazor, which the distillers need.

    Args:
        parent: MMEngine's registry of the same kind.
        packages: Relative to ctkd_mm, in the order of their imports.
    """

    def __init__(self, parent: Registry, *packages: str) -> None:
        root = Path(__file__).parent
        self.modules = [
            f'ctkd_mm.{package}.{module.name}'
            for package in packages
            for module in iter_modules([str(root / package.replace('.', '/'))])
        ]
        super().__init__(
            parent.name, parent=parent, scope='ctkd_mm', locations=self.modules
        )

    def get(self, key: str) -> type | None:
        """Look a name up, as every registry does."""
        scope, name = self.split_scope_key(key)
        if scope in (None, self.scope):
            for module in self.modules:
                if name in self.module_dict:
                    return self.module_dict[name]
                import_module(module)
        return super().get(key)


MODELS = LazyRegistry(
    registry.MODELS,
    'models.temperatures',
    'models.losses',
    'models.heads',
    'models.algorithms',
)
HOOKS = LazyRegistry(
    registry.HOOKS, 'engine.hooks', 'engine.loops', 'checks', 'analysis.doctor'
)
LOOPS = LazyRegistry(registry.LOOPS, 'engine.loops')
OPTIM_WRAPPERS = LazyRegistry(registry.OPTIM_WRAPPERS, 'engine.optim')
OPTIM_WRAPPER_CONSTRUCTORS = LazyRegistry(
    registry.OPTIM_WRAPPER_CONSTRUCTORS, 'engine.optim'
)
METRICS = LazyRegistry(registry.METRICS, 'evaluation')
