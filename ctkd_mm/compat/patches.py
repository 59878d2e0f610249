"""Repairs of MMEngine and MMDetection; no other module patches them.

torch >= 2.6 refuses the checkpoints that MMEngine writes: the few types in them are
allowed, and MMEngine's loads from files and URLs all keep to that list. Without
torchvision, MMEngine still finds the weights that ``torchvision://`` names.
"""

from __future__ import annotations

import os.path as osp
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from ctkd_mm.compat import mmrazor, stack


@cache
def apply() -> None:
    """Apply every repair that this environment needs, once.

    Raises:
        ImportError: If MMEngine is missing or outside its bounds.
    """
    stack.require('mmengine')
    mmrazor.apply()

    from mmengine.utils import digit_version

    _find_torchvision_urls()
    # Before 2.6 torch restricts nothing by default, so there is nothing to allow.
    if digit_version(torch.__version__) >= digit_version('2.6.0'):
        _allow_mmengine_types()
        _restrict_mmengine_loaders()


def _find_torchvision_urls() -> None:
    """Serves ``torchvision://resnet18`` without torchvision.

    MMEngine imports it for its version alone, and reads the URLs of 0.12 from a file.
    """
    import mmengine
    from mmengine.runner import checkpoint

    original = checkpoint.get_torchvision_models

    def get_torchvision_models() -> dict[str, str]:
        try:
            return original()
        except ModuleNotFoundError:
            table = osp.join(mmengine.__path__[0], 'hub', 'torchvision_0.12.json')
            return mmengine.load(table)

    checkpoint.get_torchvision_models = get_torchvision_models


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
            name = f'numpy.{core}.multiarray.{rebuild.__name__}'
            allowed.append((rebuild, name))
    torch.serialization.add_safe_globals(allowed)


def _restrict_mmengine_loaders() -> None:
    """Restrict MMEngine's loads to the allowed types and explain refusals."""
    from mmengine.runner import CheckpointLoader, checkpoint

    # MMEngine logs the backend by the function's name, "load_from_" cut off.
    def load_from_local(filename: str, map_location: Any = None) -> Any:
        with _explained(filename):
            return local(filename, map_location)

    def load_url(url: str, *args: Any, **kwargs: Any) -> Any:
        # torch.hub still defaults to False; None stands for torch.load's default.
        with _explained(url):
            return download(url, *args, **{**kwargs, 'weights_only': None})

    local, download = checkpoint.load_from_local, checkpoint.load_url
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    # torchvision://, open-mmlab:// and mmcls:// call load_from_http by name, past the
    # registered schemes; only the download below it serves them all.
    checkpoint.load_url = load_url
    # The fork loads once more, without any restriction, what its own list refuses.
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = torch.load


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Name the file that could not be loaded, what is wrong with it and the cure."""
    try:
        yield
    except OSError:  # it, or its address, is not there
        raise
    except Exception as error:  # damaged files fail in any way
        pattern = r"GLOBAL (\S+) w|but got <class '(\S+)'>|refused (getattr\(.*\))"
        refused = re.search(pattern, str(error))
        if refused is None:
            raise pickle.UnpicklingError(
                f'{source} is no checkpoint, damaged or cut short: get it again, or '
                f'take an older one ({type(error).__name__}: {error})'
            ) from error
        kind = ''.join(filter(None, refused.groups()))
        # torch offers no allow-listing of what is never a mere type, as os.system.
        listed = 'add_safe_globals' in str(error)
        allow = f'torch.serialization.add_safe_globals([{kind}]) or ' if listed else ''
        raise pickle.UnpicklingError(
            f'{source} holds more than weights and was not loaded: {kind}. Loading '
            f'that can run any code. If you trust the file, {allow}set '
            'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 for this command'
        ) from error


@contextmanager
def coco_evaluator(evaluator: type) -> Iterator[None]:
    """Make MMDetection's ``CocoMetric`` compute with another evaluator meanwhile.

    It names its evaluators in the code and has no argument for them.

    Args:
        evaluator: With the interface of pycocotools' ``COCOeval``.
    """
    from mmdet.evaluation.metrics import coco_metric

    own = {name: getattr(coco_metric, name) for name in ('COCOeval', 'COCOevalMP')}
    vars(coco_metric).update(dict.fromkeys(own, evaluator))
    try:
        yield
    finally:
        vars(coco_metric).update(own)
