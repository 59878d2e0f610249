"""MMRazor 1.0.0 on a current PyTorch and on the forked MMCV.

MMRazor is repaired while Python imports it: ``import ctkd_mm`` itself imports none of
it, and a config that has only MMRazor's own distillers gets repaired ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any
from unittest import mock

from torch import nn

from ctkd_mm.compat import mmcv_ops


def apply() -> None:
    """Repair modules when they are imported, or now if they have been."""
    sys.meta_path.insert(0, RepairingFinder())
    for name, repair in REPAIRS.items():
        if name in sys.modules:
            repair(lambda module: None, sys.modules[name])


class RepairingFinder(MetaPathFinder):
    """Finds modules as Python does; those in ``REPAIRS`` are executed by a repair."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Find a module's spec, as :class:`importlib.abc.MetaPathFinder` asks."""
        spec = PathFinder.find_spec(fullname, path) if fullname in REPAIRS else None
        if spec is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = partial(REPAIRS[fullname], execute)
        return spec


def import_mmrazor(execute: Callable, module: ModuleType) -> None:
    """Show MMRazor the newest mmcv that it accepts; ``stack`` checks the real one."""
    import mmcv

    with mock.patch.object(mmcv, '__version__', '2.1.0'):
        execute(module)  # checks versions and does nothing else


def import_quantization(execute: Callable, module: ModuleType) -> None:
    """Give MMRazor names to import where torch 2 removed what quantization needs.

    They are None: any quantization fails at its first use of them.
    """
    try:
        execute(module)
    except ImportError:
        module.BackendConfigs = module.QConfigHandler = None


def import_algorithms(execute: Callable, module: ModuleType) -> None:
    """Let recorders see a layer's own output, which no in-place layer changes."""
    execute(module)
    module.BaseAlgorithm.set_module_inplace_false = set_module_inplace_false


def set_module_inplace_false(
    algorithm: nn.Module, architecture: nn.Module, varstr: str
) -> None:
    """Switch off ``inplace`` in a whole model.

    MMRazor's version walks ``OrderedDict`` children only and so changes nothing on
    PyTorch >= 2.5, where they are plain dicts.
    """
    for part in architecture.modules():
        if hasattr(part, 'inplace'):
            part.inplace = False


REPAIRS = {
    'mmrazor': import_mmrazor,
    'mmrazor.structures.quantization': import_quantization,
    'mmrazor.models.algorithms.base': import_algorithms,
    **dict.fromkeys(mmcv_ops.OPERATORS, mmcv_ops.import_operator),
}
