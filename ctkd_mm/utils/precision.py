"""Lower precision, but float32 in mmcv's operations, which have no kernels for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

HALVES = dict(bfloat16=torch.bfloat16, float16=torch.float16)


@contextmanager
def low_precision(device: torch.device, dtype: str | None) -> Iterator[None]:
    """Autocast what runs meanwhile, RoI extractors and predictions excepted.

    Args:
        device: Where it runs.
        dtype: One of ``HALVES``; None changes nothing.
    """
    if dtype is None:
        yield
        return
    with torch.autocast(device.type, HALVES[dtype]), float32_for_mmcv():
        yield


def keep_weights(model: nn.Module, dtype: str | None) -> None:
    """Cast what autocast would cast at every use: frozen weights, once, to their bits.

    Layers of other types, as those that normalise, may compute with their weights first
    and keep them. The model then runs within :func:`low_precision` only.

    Args:
        model: The frozen model; its convolutions and linear layers are cast.
        dtype: One of ``HALVES``; None changes nothing.
    """
    for layer in model.modules() if dtype else ():
        if type(layer) in (nn.Conv2d, nn.Linear):
            layer.to(HALVES[dtype])


@contextmanager
def float32_for_mmcv() -> Iterator[None]:
    """Cast what enters RoI extractors and leaves heads, in any model meanwhile.

    MMDetection casts RoIs to the type of the features: float16 would move an edge
    beyond 1024 pixels by up to half a pixel, beyond 2048 by up to one.
    """
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import (
        BaseRoIExtractor,
    )

    def cast_features(module: nn.Module, args: tuple) -> tuple | None:
        return _float32(args) if isinstance(module, BaseRoIExtractor) else None

    def cast_predictions(module: nn.Module, args: tuple, output: Any) -> Any:
        heads = (BaseDenseHead, BBoxHead)
        return _float32(output) if isinstance(module, heads) else None

    before = torch_module.register_module_forward_pre_hook(cast_features)
    # Handles of PyTorch's hooks remove them at the end of a with statement.
    with before, torch_module.register_module_forward_hook(cast_predictions):
        yield


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Widen half precision; the sums of a loss lose too much in it."""
    return x if x.dtype == torch.float64 else x.float()


def _float32(value: Any) -> Any:
    """Cast the half-precision tensors in nested lists and tuples."""
    if isinstance(value, (list, tuple)):
        return type(value)(_float32(item) for item in value)
    half = isinstance(value, torch.Tensor) and value.dtype in HALVES.values()
    return value.float() if half else value
