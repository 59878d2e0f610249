"""Registries of ctkd_mm, children of MMEngine's.

Each imports what it is asked for by itself, so that ``type='ctkd_mm.X'`` resolves in
any config, under any default scope, without ``custom_imports``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mmengine import registry
from mmengine.registry import Registry


class LazyRegistry(Registry):
    """Imports the module of a name, and no other, when it is asked for the name.

    So a loss finds its temperature without MMRazor, which the distillers need.

    Args:
        name: That of MMEngine's registry of the same kind, its parent.
        packages: Relative to ctkd_mm; what they register is among their public names.
    """

    def __init__(self, name: str, *packages: str) -> None:
        parent = getattr(registry, name)
        super().__init__(parent.name, parent=parent, scope='ctkd_mm')
        self.packages = [f'ctkd_mm.{package}' for package in packages]

    def get(self, key: str) -> type | None:
        """Look a name up, as every registry does."""
        scope, name = self.split_scope_key(key)
        if scope in (None, self.scope):
            self._import(name)
            if name in self.module_dict:
                return self.module_dict[name]
        return super().get(key)

    def import_from_location(self) -> None:
        """Import all, as MMEngine does before it calls a name unknown."""
        self._import()

    def _import(self, name: str | None = None) -> None:
        for package in map(import_module, self.packages):
            for public in package.__all__:
                if name in (None, public):
                    getattr(package, public)


MODELS = LazyRegistry('MODELS', 'models')
HOOKS = LazyRegistry('HOOKS', 'engine.hooks', 'engine.loops', 'checks', 'analysis')
LOOPS = LazyRegistry('LOOPS', 'engine.loops')
OPTIM_WRAPPERS = LazyRegistry('OPTIM_WRAPPERS', 'engine.optim')
OPTIM_WRAPPER_CONSTRUCTORS = LazyRegistry('OPTIM_WRAPPER_CONSTRUCTORS', 'engine.optim')
METRICS = LazyRegistry('METRICS', 'evaluation')


def built(module: Any) -> Any:
    """Build a module of a model from its config; a module stays as it is."""
    return MODELS.build(module) if isinstance(module, dict) else module
