"""Changes of MMDetection and mmcv for an export to ONNX, and only while it lasts.

An export follows one image through the detector. Where the code asks how many boxes
there are, the answer for that image would stay in the file, for every other image.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor


@contextmanager
def exportable() -> Iterator[None]:
    """Let :func:`torch.onnx.export` follow one image that has boxes, opset >= 16."""
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # one for every number that stays
        for place, change in CHANGES.items():
            stack.enter_context(mock.patch(place, change, create=True))
        yield


def _limit(compare):
    """Let a number of boxes be above 0 and below or above any limit."""

    def asked(x, other):
        fixed = torch.jit.is_tracing() and not x.dim() and not 0 < other < 100
        return fixed or compare(x, other)

    return asked


def _split(x, sizes, dim=0, split=Tensor.split):
    return (x,) if isinstance(sizes, tuple) else split(x, sizes, dim)


def _reshape(x, *shape, reshape=Tensor.reshape):
    found = reshape(x, *shape)
    return reshape(x, shape[0], int(found.shape[1])) if shape[1:] == (-1,) else found


def _constant(g, value):
    return g.op('Constant', value_t=torch.tensor(value))


def _column(g, rows, index):
    return g.op('Gather', rows, _constant(g, index), axis_i=1)


def _nms(g, boxes, scores, iou_threshold, offset, score_threshold, max_num):
    limits = [max_num % 2**31], [iou_threshold], [float(score_threshold)]
    boxes = g.op('Unsqueeze', boxes, _constant(g, [0]))
    scores = g.op('Unsqueeze', scores, _constant(g, [0, 1]))
    limits = (_constant(g, limit) for limit in limits)
    # Rows of image, class and box.
    return _column(g, g.op('NonMaxSuppression', boxes, scores, *limits), 2)


def _roi_align(g, features, rois, size, scale, sampling_ratio, mode, aligned):
    return g.op(
        'RoiAlign',
        features,
        _column(g, rois, [1, 2, 3, 4]),
        g.op('Cast', _column(g, rois, 0), to_i=7),  # int64
        coordinate_transformation_mode_s=f'{"output_" * (not aligned)}half_pixel',
        mode_s=mode,
        output_height_i=size[0],
        output_width_i=size[1],
        sampling_ratio_i=max(sampling_ratio, 0),
        spatial_scale_f=scale,
    )


CHANGES = {
    # mmcv has no rule for its NMS; that for RoIAlign is of opset 10, which takes boxes
    # below a pixel of the feature map for larger.
    'mmcv.ops.nms.NMSop.symbolic': _nms,
    'mmcv.ops.roi_align.RoIAlignFunction.symbolic': _roi_align,
    # Its branches import what MMDetection 3 lacks, and leave the threshold out.
    'torch.onnx.is_in_onnx_export': lambda: False,
    # Numbers of boxes are compared with 0; with nms_pre, which cuts what is longer; and
    # with split_thr, above which NMS takes class by class. The 4 of a box is no limit.
    'torch.Tensor.__gt__': _limit(Tensor.__gt__),
    'torch.Tensor.__lt__': _limit(Tensor.__lt__),
    # Whether all boxes are valid; those that are not are filtered out.
    'torch.Tensor.all': lambda x, *dim: False,
    # Of topk and the number of boxes: a slice ends at the last box by itself.
    'mmdet.models.utils.misc.min': lambda topk, boxes: topk,
    # Of RoIs by their numbers in each image, of which there is one.
    'torch.Tensor.split': _split,
    # To (n, -1): with n = 0 the graph cannot tell how long a row is.
    'torch.Tensor.reshape': _reshape,
    # The exporter would take the sizes that are left for constant.
    'torch.squeeze': lambda x: x.reshape([size for size in x.shape if size != 1]),
    # The padding depends on the size of the image.
    'mmengine.model.base_model.data_preprocessor.math': mock.Mock(
        ceil=lambda x: x.ceil().long()
    ),
}
