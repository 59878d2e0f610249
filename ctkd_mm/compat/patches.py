"""Repairs of MMEngine and MMDetection; no other module changes them.

torch >= 2.6 refuses the checkpoints that MMEngine writes. So the few types in them are
allowed, and every load of MMEngine, from files and URLs, keeps to that list. Without
torchvision, MMEngine still finds the weights that ``torchvision://`` names.
"""

from __future__ import annotations

import importlib.util
import pickle
import re
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ctkd_mm.compat import mmrazor, stack


def apply() -> None:
    """Apply every repair that this environment needs.

    Raises:
        ImportError: If MMEngine is missing or outside its bounds.
    """
    stack.require('mmengine')
    mmrazor.apply()
    if importlib.util.find_spec('torchvision') is None:
        _find_torchvision_urls()
    # Before 2.6 torch restricts nothing by default, so there is nothing to allow.
    if torch.__version__ >= (2, 6):
        _allow_mmengine_types()
        _restrict_mmengine_loaders()


def _find_torchvision_urls() -> None:
    """Serves ``torchvision://resnet18`` without torchvision.

    MMEngine imports it for its version alone, and reads the URLs of 0.12 from a file.
    """
    import mmengine
    from mmengine.runner import checkpoint

    table = Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json'
    checkpoint.get_torchvision_models = partial(mmengine.load, table)


def _allow_mmengine_types() -> None:
    """Allow what MMEngine stores beside tensors: its log history, NumPy numbers."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    def guarded_getattr(obj: Any, name: str) -> Any:
        # HistoryBuffer pickles its own statistics as getattr(HistoryBuffer, 'mean').
        # The real getattr would give a file every attribute of every allowed object.
        if obj is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
            return getattr(HistoryBuffer, name)
        raise pickle.UnpicklingError(f'refused getattr({obj!r}, {name!r})')

    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype]
    allowed += [type(np.dtype(code)) for code in '?bhilqBHILQefd']
    allowed += [(guarded_getattr, 'builtins.getattr')]
    # NumPy 2's name and NumPy 1's: files outlive the environment that wrote them.
    for value in (np.zeros(1), np.float64(0)):
        rebuild = value.__reduce__()[0]
        for core in ('_core', 'core'):
            allowed.append((rebuild, f'numpy.{core}.multiarray.{rebuild.__name__}'))
    torch.serialization.add_safe_globals(allowed)


def _restrict_mmengine_loaders() -> None:
    """Restrict MMEngine's loads to the allowed types and explain refusals."""
    from mmengine.runner import CheckpointLoader, checkpoint

    load = CheckpointLoader.load_checkpoint

    def load_checkpoint(filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return load(filename, *args, **kwargs)
        except OSError:  # no such file or address
            raise
        except Exception as error:  # damaged files fail in any way
            if isinstance(error, KeyError) and '://' in filename:
                raise  # no such name in a model zoo
            raise pickle.UnpicklingError(_refusal(filename, error)) from error

    CheckpointLoader.load_checkpoint = staticmethod(load_checkpoint)
    # torch.hub still defaults to False; None stands for torch.load's default.
    checkpoint.load_url = partial(checkpoint.load_url, weights_only=None)
    # The fork loads once more, without any restriction, what its own list refuses.
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = torch.load


def _refusal(source: str, error: Exception) -> str:
    """Say what is wrong with a file that could not be loaded, and the cure."""
    pattern = r"GLOBAL (\S+) w|but got <class '(\S+)'>|refused (getattr\(.*\))"
    refused = re.search(pattern, str(error))
    if refused is None:
        return (
            f'{source} is no checkpoint, damaged or cut short: get it again, or take '
            f'an older one ({type(error).__name__}: {error})'
        )
    kind = refused[refused.lastindex]
    # torch offers no allow-listing of what is never a mere type, as os.system.
    listed = 'add_safe_globals' in str(error)
    allow = f'torch.serialization.add_safe_globals([{kind}]) or ' if listed else ''
    return (
        f'{source} holds more than weights and was not loaded: {kind}. Loading that '
        f'can run any code. If you trust the file, {allow}set '
        'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 for this command'
    )


def coco_evaluator(evaluator: Any) -> AbstractContextManager:
    """Make MMDetection's ``CocoMetric`` compute with another evaluator meanwhile.

    It names its evaluators in the code and has no argument for them.

    Args:
        evaluator: Makes one; called as pycocotools' ``COCOeval``.
    """
    from mmdet.evaluation.metrics import coco_metric

    return mock.patch.multiple(coco_metric, COCOeval=evaluator, COCOevalMP=evaluator)
