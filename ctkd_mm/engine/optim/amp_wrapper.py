"""Mixed precision where MMEngine and mmcv leave gaps: bfloat16, and the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper as MMEngineAmpOptimWrapper
from mmengine.optim import OptimWrapper
from torch import nn

from ctkd_mm.registry import OPTIM_WRAPPERS
from ctkd_mm.utils.precision import float32_for_mmcv


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(MMEngineAmpOptimWrapper):
    """MMEngine's mixed precision on a GPU, with bfloat16 as well as float16.

    mmcv's NMS and RoIAlign have no bfloat16 kernels, and boxes are not to be rounded:
    near 1000 pixels bfloat16 has multiples of 4, float16 of one half. The layers before
    them compute in lower precision; what reaches them is cast to float32.

    Args: as MMEngine's ``AmpOptimWrapper``: ``loss_scale`` (``'dynamic'``, a fixed
    scale or arguments of ``GradScaler``); ``dtype`` (``'float16'``, ``'bfloat16'`` or
    None, PyTorch's default for the device); ``optimizer``, ``accumulative_counts``,
    ``clip_grad``.

    Source: extends :class:`mmengine.optim.AmpOptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast the forward pass of ``model``, mmcv's operations excepted."""
        with super().optim_context(model), float32_for_mmcv():
            yield


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(AmpOptimWrapper):
    """Mixed precision on a CPU, in bfloat16; MMEngine's own wants a GPU.

    Before PyTorch 2.3 there is no loss scaling on a CPU and ``loss_scale`` has no
    effect; bfloat16 has float32's range and does not need it.

    Args:
        loss_scale: ``'dynamic'``, a fixed scale > 0 or arguments of ``GradScaler``.
        dtype: ``'bfloat16'``, or None for the same.
        **kwargs: ``optimizer``, ``accumulative_counts``, ``clip_grad``.

    Raises:
        ValueError: If ``dtype`` is another.

    Source: extends :class:`mmengine.optim.AmpOptimWrapper`, whose attributes and
    state it has.
    """

    def __init__(
        self,
        loss_scale: str | float | dict = 'dynamic',
        dtype: str | torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        # Not the parent's: its only other content is the check for a GPU.
        OptimWrapper.__init__(self, **kwargs)
        if dtype not in (None, 'bfloat16', torch.bfloat16):
            raise ValueError(
                f"optim_wrapper.dtype={dtype!r}: on a CPU it must be 'bfloat16' (or "
                'None, the same); set that, or train on a GPU'
            )
        self.cast_dtype = torch.bfloat16
        self._scale_update_param = None
        if loss_scale == 'dynamic':
            loss_scale = {}
        elif isinstance(loss_scale, (int, float)):
            self._scale_update_param = float(loss_scale)
            loss_scale = dict(init_scale=self._scale_update_param)
        self.loss_scaler = _cpu_scaler(**loss_scale)


def _cpu_scaler(**kwargs: Any) -> Any:
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler('cpu', **kwargs)
    # A disabled scaler passes losses and steps through.
    return torch.cuda.amp.GradScaler(enabled=False)
