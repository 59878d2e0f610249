"""Changes of MMDetection and mmcv for an export to ONNX, and only while it lasts.

An export follows one image through the detector. Where the code asks how many boxes
there are, the answer for that image would stay in the file, for every other image.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor


@contextmanager
def exportable() -> Iterator[None]:
    """Let :func:`torch.onnx.export` follow one image that has boxes, opset >= 16."""
    import mmengine.model.base_model.data_preprocessor as preprocessor
    from mmcv.ops.nms import NMSop
    from mmcv.ops.roi_align import RoIAlignFunction
    from mmdet.models.utils import misc

    split = Tensor.split
    changes = (
        (NMSop, 'symbolic', _nms),
        (RoIAlignFunction, 'symbolic', _roi_align),  # mmcv's is that of opset 10
        # Its branches import what MMDetection 3 lacks, and leave the threshold out.
        (torch.onnx, 'is_in_onnx_export', lambda: False),
        # Numbers of boxes are compared with 0 and nms_pre, which cuts fewer boxes
        # too; and with split_thr, above which NMS takes class by class.
        (Tensor, '__gt__', _answer(Tensor.__gt__, True, 0)),
        (Tensor, '__lt__', _answer(Tensor.__lt__, True, 0)),
        # Of topk and the number of boxes: a slice ends at the last box by itself.
        (misc, 'min', lambda topk, boxes: topk),
        # Whether all boxes are valid: the filter keeps those that are.
        (Tensor, 'all', _answer(Tensor.all, False, 1)),
        # RoIs by image, of which there is one.
        (
            Tensor,
            'split',
            lambda x, n, *dim: (x,) if type(n) is tuple else split(x, n, *dim),
        ),
        # The exporter takes the size of the other dimensions for constant.
        (torch, 'squeeze', lambda x: x.reshape([n for n in x.shape if n != 1])),
        # The padding depends on the size of the image.
        (preprocessor, 'math', SimpleNamespace(ceil=lambda x: x.ceil().long())),
    )
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # one for every number that stays
        for place in changes:
            stack.enter_context(mock.patch.object(*place, create=True))
        yield


def _answer(method: Any, answer: bool, most_dims: int) -> Any:
    """Give one answer for every image, of tensors that small."""

    def asked(x: Tensor, *args: Any) -> Any:
        fixed = torch.jit.is_tracing() and x.dim() <= most_dims
        return answer if fixed else method(x, *args)

    return asked


def _constant(g: Any, value: Any, dtype: torch.dtype = torch.int64) -> Any:
    return g.op('Constant', value_t=torch.tensor(value, dtype=dtype))


def _column(g: Any, rows: Any, index: int | list[int]) -> Any:
    return g.op('Gather', rows, _constant(g, index), axis_i=1)


def _nms(g: Any, boxes: Any, scores: Any, iou: float, offset: int, *more: Any) -> Any:
    score, most = more
    if offset:
        raise NotImplementedError(f'nms has offset={offset}: ONNX knows 0 alone')
    found = g.op(
        'NonMaxSuppression',
        g.op('Unsqueeze', boxes, _constant(g, [0])),
        g.op('Unsqueeze', scores, _constant(g, [0, 1])),
        _constant(g, [most if most > 0 else 2**31 - 1]),
        *(_constant(g, [value], torch.float32) for value in (iou, score)),
    )
    return _column(g, found, 2)  # of image, class and box


def _roi_align(g: Any, features: Any, rois: Any, size: tuple, *more: Any) -> Any:
    scale, ratio, mode, aligned = more
    return g.op(
        'RoiAlign',
        features,
        _column(g, rois, [1, 2, 3, 4]),
        g.op('Cast', _column(g, rois, 0), to_i=7),  # int64
        coordinate_transformation_mode_s=f'{"output_" * (not aligned)}half_pixel',
        mode_s=mode,
        output_height_i=size[0],
        output_width_i=size[1],
        sampling_ratio_i=max(ratio, 0),
        spatial_scale_f=scale,
    )
