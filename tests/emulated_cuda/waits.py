"""Counts where the host waits for the device, by line of code.

A wait is a number read out of a tensor (``item``, ``float``, ``bool``), a result whose
size depends on values (``nonzero``, a boolean mask as an index), and a copy between
device and host that is not ``non_blocking``: what ``torch.cuda.set_sync_debug_mode``
warns of on a GPU.
"""

from __future__ import annotations

import linecache
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PACKAGES = ('ctkd_mm', 'mmengine', 'mmdet', 'mmcv', 'mmrazor', 'tests')
VALUES = {
    'lift_fresh',  # what torch.tensor() and new_tensor() end with
    *('_local_scalar_dense', 'nonzero', 'masked_select', 'equal', 'bincount'),
    *('_unique2', 'unique_dim', 'unique_consecutive', 'repeat_interleave'),
}
MASKABLE = {'index', 'index_put', 'index_put_', '_index_put_impl_'}


class HostWaits(TorchDispatchMode):
    """Counts the waits of what runs meanwhile, the backward pass included.

    Attributes:
        lines: How many of each line, ``'package/file.py: its text'``. The line is the
            innermost of a package of OpenMMLab's, ours or the tests.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if _waits(func.overloadpacket.__name__, args, kwargs or {}, result):
            self.lines[_line(sys._getframe(1))] += 1
        return result

    def files(self) -> Counter:
        """How many of each file, ``'package/file.py'``."""
        files: Counter = Counter()
        for line, count in self.lines.items():
            files[line.split(':')[0]] += count
        return files


def _waits(name: str, args: Any, kwargs: dict, result: Any) -> bool:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if name in ('copy_', '_to_copy'):
        blocks = not (kwargs.get('non_blocking') or args[2:] == (True,))
        return blocks and len({x.device for x in [*tensors, result]}) > 1
    if not any(x.is_cuda for x in tensors):
        return False
    masks = args[1] if name in MASKABLE else ()
    return name in VALUES or any(x is not None and x.dtype == torch.bool for x in masks)


def _line(frame: FrameType | None) -> str:
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        packages = [part for part in path.parts if part in PACKAGES]
        if packages:
            text = linecache.getline(str(path), frame.f_lineno).strip()
            return f'{packages[-1]}/{path.name}: {text}'
        frame = frame.f_back
    return 'elsewhere'
