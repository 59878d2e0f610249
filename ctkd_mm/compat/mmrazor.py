"""MMRazor 1.0.0 on a current PyTorch and on the forked MMCV.

MMRazor is repaired while Python imports it: ``import ctkd_mm`` itself loads none of
it, and a config with MMRazor's own distillers alone gets repaired ones.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import nn

_QUANTIZATION = 'mmrazor.structures.quantization'
_ALGORITHMS = 'mmrazor.models.algorithms.base'


def apply() -> None:
    """Repair MMRazor's modules when they are imported, or now if they have been."""
    sys.meta_path.insert(0, _Repairs())
    if _ALGORITHMS in sys.modules:
        _switch_off_inplace(sys.modules[_ALGORITHMS])


class _Repairs(importlib.abc.MetaPathFinder):
    """Finds modules as Python does, to execute some of them with a repair."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in _REPAIRS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            repair, execute = _REPAIRS[fullname], spec.loader.exec_module
            spec.loader.exec_module = lambda module: repair(module, execute)
        return spec


def _import_mmrazor(module: ModuleType, execute: Callable) -> None:
    """Show MMRazor the newest mmcv that it accepts; ``stack`` has the real bounds."""
    import mmcv

    found, mmcv.__version__ = mmcv.__version__, '2.1.0'
    try:
        execute(module)  # checks versions and does nothing else
    finally:
        mmcv.__version__ = found


def _import_quantization(module: ModuleType, execute: Callable) -> None:
    """Give MMRazor names to import where torch 2 removed what quantization needs.

    They are None: any quantization fails at its first use of them.
    """
    try:
        execute(module)
    except ImportError:
        module.BackendConfigs = module.QConfigHandler = None


def _import_algorithms(module: ModuleType, execute: Callable) -> None:
    execute(module)
    _switch_off_inplace(module)


def _switch_off_inplace(module: ModuleType) -> None:
    """Let recorders see a layer's own output, which no in-place layer changes.

    MMRazor's version walks ``OrderedDict`` children only and so changes nothing on
    PyTorch >= 2.5, where they are plain dicts.
    """

    def set_module_inplace_false(
        self: nn.Module, architecture: nn.Module, varstr: str
    ) -> None:
        for part in architecture.modules():
            if hasattr(part, 'inplace'):
                part.inplace = False

    module.BaseAlgorithm.set_module_inplace_false = set_module_inplace_false


_REPAIRS = {
    'mmrazor': _import_mmrazor,
    _QUANTIZATION: _import_quantization,
    _ALGORITHMS: _import_algorithms,
}
