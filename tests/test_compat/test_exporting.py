"""What an export follows, for other inputs than the one that it followed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

from ctkd_mm.compat.exporting import CHANGES, exportable

onnxruntime = pytest.importorskip(
    'onnxruntime', reason='the extra onnx is not installed'
)


class PostProcess(nn.Module):
    """What an RPN does with its boxes; those right of 50 are of another level."""

    def __init__(self):
        super().__init__()
        self.head = RPNHead(8, feat_channels=8)
        nms = dict(type='nms', iou_threshold=0.7, split_thr=100)
        self.cfg = ConfigDict(min_bbox_size=0, nms=nms, max_per_img=3)

    def forward(self, boxes, scores):
        found = InstanceData(bboxes=boxes, scores=scores)
        found.level_ids = (boxes[:, 0] > 50).long()
        found = self.head._bbox_post_process(found, self.cfg, img_meta={})
        return found.bboxes, found.scores


class Pool(nn.Module):
    """RoIAlign on the level of the pyramid that fits each RoI."""

    def __init__(self):
        super().__init__()
        layer = dict(type='RoIAlign', output_size=3, sampling_ratio=0)
        self.extract = SingleRoIExtractor(layer, 2, [4, 8], finest_scale=16)

    def forward(self, fine, coarse, rois):
        return self.extract((fine, coarse), rois)


def exported(module, *followed):
    """A function that runs in ONNX Runtime what the export of ``module`` followed."""
    file, names = io.BytesIO(), [f'x{i}' for i in range(len(followed))]
    dynamic = {k: [0] for k, x in zip(names, followed) if x.dim() < 4}
    with exportable():
        torch.onnx.export(
            module.eval(),
            followed,
            file,
            input_names=names,
            dynamic_axes=dynamic,
            opset_version=17,
            dynamo=False,
        )
    session = onnxruntime.InferenceSession(file.getvalue())
    return lambda *given: session.run(
        None, {k: x.numpy() for k, x in zip(names, given)}
    )


def test_boxes_without_an_area_go_where_the_export_had_none():
    followed = torch.tensor([[0.0, 0, 9, 9], [0, 20, 9, 29]]), torch.tensor([0.9, 0.8])
    boxes = torch.tensor([[0.0, 0, 9, 9], [3, 3, 3, 9], [0, 20, 9, 29], [5, 1, 9, 1]])
    scores = torch.tensor([0.6, 0.9, 0.7, 0.8])
    found = exported(PostProcess(), *followed)(boxes, scores)
    assert found[0].tolist() == [[0, 20, 9, 29], [0, 0, 9, 9]]
    assert found[1].tolist() == pytest.approx([0.7, 0.6])


def test_a_class_stays_that_was_not_among_the_many_boxes_of_the_export():
    corners = torch.rand(150, 2) * 40  # above split_thr, and all of one level
    followed = torch.cat([corners, corners + 9], 1), torch.rand(150)
    given = torch.tensor([[0.0, 0, 9, 9], [60, 0, 69, 9]]), torch.tensor([0.9, 0.8])
    found = exported(PostProcess(), *followed)(*given)
    assert found[0].tolist() == given[0].tolist()


def test_rois_are_pooled_from_a_level_that_had_none_in_the_export():
    torch.manual_seed(0)
    pyramid = torch.rand(1, 2, 16, 16), torch.rand(1, 2, 8, 8)
    small = torch.tensor([[0.0, 4, 4, 12, 12]])
    # The first is below a pixel of its level, where opset 10 would take one for it.
    rois = torch.tensor([[0.0, 4, 4, 5.5, 6], [0, 3, 5, 44, 61], [0, 0, 0, 64, 64]])
    pool = Pool()
    (found,) = exported(pool, *pyramid, small)(*pyramid, rois)
    np.testing.assert_allclose(found, pool(*pyramid, rois), rtol=0, atol=1e-6)


def test_nothing_is_changed_after_an_export():
    before = torch.Tensor.all, torch.Tensor.__gt__, torch.squeeze
    with exportable():
        assert torch.squeeze is CHANGES['torch.squeeze']
    assert (torch.Tensor.all, torch.Tensor.__gt__, torch.squeeze) == before
