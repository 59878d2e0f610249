"""mmcv's compiled operators by torchvision's, where mmcv has none for the device.

For measuring: NMS, RoIAlign (average) and the sigmoid focal loss, all that Faster R-CNN
and RetinaNet call. Their values are those of mmcv's own (tests/system/
test_torchvision_ops.py); every other operator refuses to run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

NAME = 'mmcv._ext'


class TorchvisionExtension(ModuleType):
    """Stands where mmcv has its compiled module."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.__spec__ = ModuleSpec(NAME, None)

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        return OPERATORS.get(name, _refused(name))


def prepare(device: str) -> str:
    """Make mmcv work on a device; call it before ``mmcv.ops`` is imported.

    Args:
        device: ``'cuda'`` or ``'cpu'``.

    Returns:
        Whose operators will run: ``'mmcv'`` or ``'torchvision'``.

    Raises:
        ImportError: If mmcv has none for the device and there is no torchvision.
    """
    if find_spec(NAME) is not None:
        cuda = import_module(NAME).get_compiling_cuda_version()
        if device == 'cpu' or cuda != 'not available':
            return 'mmcv'
    import torchvision  # noqa: F401  registers its operators

    assert 'mmcv.ops' not in sys.modules, 'mmcv.ops has its operators already'
    sys.modules[NAME] = TorchvisionExtension()
    return 'torchvision'


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that are kept, the highest score first.

    Args:
        boxes: (N, 4), x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: Boxes that overlap a better one by more are dropped.
        offset: Added to widths and heights, 0 or 1.
    """
    boxes = boxes.float()
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    return torch.ops.torchvision.nms(boxes, scores.float(), iou_threshold)


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    pool_mode: int,
    **kwargs: Any,
) -> None:
    """Crop RoIs, (N, 5), from (B, C, H, W) into ``output``, (N, C, h, w)."""
    _require_average(pool_mode)
    scale, height, width, *rest = _ordered(**kwargs)
    crops = torch.ops.torchvision.roi_align(features, rois, scale, height, width, *rest)
    output.copy_(crops)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    pool_mode: int,
    **kwargs: Any,
) -> None:
    """Write the gradient of the features into ``grad_input``, (B, C, H, W)."""
    _require_average(pool_mode)
    scale, height, width, *rest = _ordered(**kwargs)
    grad = torch.ops.torchvision._roi_align_backward(
        grad_output, rois, scale, height, width, *grad_input.shape, *rest
    )
    grad_input.copy_(grad)


def focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, **kwargs: float
) -> None:
    """Write the loss of each row and class into ``output``, (N, C)."""
    output.copy_(_focal_loss(logits, target, weight, **kwargs))


def focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad: Tensor, **kwargs: float
) -> None:
    """Write the gradient of the losses' sum into ``grad``, (N, C)."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        loss = _focal_loss(logits, target, weight, **kwargs).sum()
    grad.copy_(*torch.autograd.grad(loss, logits))


def _focal_loss(logits: Tensor, target: Tensor, weight: Tensor, **kwargs: Any) -> Any:
    from torchvision.ops import sigmoid_focal_loss

    if weight.numel():
        raise NotImplementedError('sigmoid_focal_loss: no class weights here')
    # Background is the column after the last.
    labels = one_hot(target, logits.shape[1] + 1)[:, :-1].to(logits)
    return sigmoid_focal_loss(logits, labels, reduction='none', **kwargs)


def _ordered(
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple:
    return spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned


def _require_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError("roi_align: pool_mode='max' has no counterpart here")


def _refused(name: str) -> Callable:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            f'mmcv.ops: {name} has no counterpart in torchvision here; install an '
            'mmcv with compiled operators'
        )

    return refuse


OPERATORS = dict(
    nms=nms,
    roi_align_forward=roi_align_forward,
    roi_align_backward=roi_align_backward,
    sigmoid_focal_loss_forward=focal_loss_forward,
    sigmoid_focal_loss_backward=focal_loss_backward,
)
