"""Test-time augmentation, as MMDetection's ``tools/test.py --tta`` sets it up."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, MODELS
from mmengine.runner import Runner, save_checkpoint
from torch import Tensor

META = ('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
MOST, OVERLAP = 100, 0.5


@METRICS.register_module()
class Kept(BaseMetric):
    """Keeps the predictions."""

    kept: list = []

    def process(self, data_batch, data_samples) -> None:
        self.kept += [sample['pred_instances'] for sample in data_samples]
        self.results += data_samples

    def compute_metrics(self, results) -> dict:
        return {}


def merged(boxes: Tensor, scores: Tensor, labels: Tensor) -> list[int]:
    """Indices that greedy NMS keeps of each class, the best first."""
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if not any(
            labels[i] == labels[j] and overlap(boxes[i], boxes[j]) > OVERLAP
            for j in kept
        ):
            kept.append(i)
    return kept[:MOST]


def overlap(a: Tensor, b: Tensor) -> float:
    (x1, y1, x2, y2), (u1, v1, u2, v2) = a.tolist(), b.tolist()
    shared = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
    return shared / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared)


@pytest.mark.start
@pytest.mark.parametrize('distilled', [True, False], ids=['distiller', 'student'])
def test_the_predictions_are_those_of_the_image_and_its_mirror_image(
    demo_cfg, tmp_path, distilled
):
    model = demo_cfg.model if distilled else demo_cfg.model.architecture
    built = MODELS.build(copy.deepcopy(model))
    student = built.student if distilled else built
    student.init_weights()
    demo_cfg.load_from = str(tmp_path / 'weights.pth')
    save_checkpoint(dict(state_dict=built.state_dict()), demo_cfg.load_from)
    # What MMDetection's tool makes of the config.
    pipeline = copy.deepcopy(demo_cfg.test_dataloader.dataset.pipeline)
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    pack = dict(type='PackDetInputs', meta_keys=META)
    pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [pack]])
    nms = dict(type='nms', iou_threshold=OVERLAP)
    tta = dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=MOST))
    demo_cfg.model = dict(tta, module=model)
    demo_cfg.test_evaluator = dict(type='Kept')
    plain = copy.deepcopy(demo_cfg.test_dataloader)
    demo_cfg.test_dataloader.dataset.pipeline = pipeline

    Kept.kept = []
    Runner.from_cfg(demo_cfg).test()

    student.eval()
    batches = list(Runner.build_dataloader(plain))
    samples = [
        dict(inputs=[image], data_samples=[sample])
        for batch in batches
        for image, sample in zip(batch['inputs'], batch['data_samples'])
    ]
    assert len(Kept.kept) == len(samples) == 4
    for found, sample in zip(Kept.kept, samples):
        width = sample['inputs'][0].shape[-1]
        views = []
        for mirrored in (True, False):
            view = copy.deepcopy(sample)
            if mirrored:
                view['inputs'] = [view['inputs'][0].flip(-1)]
            with torch.no_grad():
                preds = student.test_step(view)[0].pred_instances
            x1, y1, x2, y2 = preds.bboxes.unbind(1)
            if mirrored:
                x1, x2 = width - x2, width - x1
            views.append((torch.stack([x1, y1, x2, y2], 1), preds.scores, preds.labels))
        boxes, scores, labels = map(torch.cat, zip(*views))
        kept = merged(boxes, scores, labels)
        assert len(kept) > 5
        torch.testing.assert_close(found['bboxes'], boxes[kept], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found['scores'], scores[kept])
        assert torch.equal(found['labels'], labels[kept])
