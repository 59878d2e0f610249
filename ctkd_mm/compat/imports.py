"""Repairs while importing: MMRazor 1.0.0, mmcv's operators, MMDetection's COCO sets.

Modules are repaired while Python imports them: ``import ctkd_mm`` itself imports none
of them, and a config that has only MMRazor's own distillers gets repaired ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.autograd import Function


def apply(repairs: dict[str, Callable]) -> None:
    """Repair modules when they are imported, or now if they have been.

    Args:
        repairs: By the module's name a function that gets what executes the module,
            and the module.
    """
    sys.meta_path.insert(0, RepairingFinder(repairs))
    for name, repair in repairs.items():
        if name in sys.modules:
            repair(lambda module: None, sys.modules[name])


class RepairingFinder(MetaPathFinder):
    """Finds modules as Python does; those with a repair are executed by that.

    Args:
        repairs: See :func:`apply`.
    """

    def __init__(self, repairs: dict[str, Callable]) -> None:
        self.repairs = repairs

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Find a module's spec, as :class:`importlib.abc.MetaPathFinder` asks."""
        if fullname not in self.repairs:
            return None
        # An editable install has a finder of its own.
        others = (found for found in sys.meta_path if found is not self)
        specs = (found.find_spec(fullname, path, target) for found in others)
        spec = next(filter(None, specs), None)
        if spec is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = partial(self.repairs[fullname], execute)
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


def import_operator(execute: Callable, module: ModuleType) -> None:
    """Give a module's operators memory and types that they can read.

    They read any memory as if it were in the usual layout: of channels-last tensors
    RoIAlign and modulated deformable convolutions compute wrong values without an
    error. They have no bfloat16 kernels. All else gives the same bits.
    """
    execute(module)
    for name, value in vars(module).items():
        if name.endswith('Function') and value is not Function:
            value.forward = staticmethod(_with_readable(value.forward))


def _with_readable(forward: Callable) -> Callable:
    def readable(arg: Any) -> Any:
        if not isinstance(arg, torch.Tensor):
            return arg
        return (arg.float() if arg.dtype == torch.bfloat16 else arg).contiguous()

    return lambda ctx, *args: forward(ctx, *map(readable, args))


def import_coco(note: Callable, execute: Callable, module: ModuleType) -> None:
    """Show what MMDetection's ``CocoDataset`` reads to ``note(path, content)``."""
    execute(module)

    class COCO(module.CocoDataset.COCOAPI):
        def __init__(self, annotation_file: str) -> None:
            super().__init__(annotation_file)
            note(annotation_file, self.dataset)

    module.CocoDataset.COCOAPI = COCO


OPERATORS = 'carafe deform_conv modulated_deform_conv roi_align roi_pool'
REPAIRS = {
    'mmrazor': import_mmrazor,
    'mmrazor.structures.quantization': import_quantization,
    'mmrazor.models.algorithms.base': import_algorithms,
    **{f'mmcv.ops.{name}': import_operator for name in OPERATORS.split()},
}
