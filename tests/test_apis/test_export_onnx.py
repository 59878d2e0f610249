"""The exported student in ONNX Runtime, against MMDetection's ``DetInferencer``."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest
import torch
from helpers.dense_detectors import CONFIGS, narrow_detector
from helpers.two_stage_detectors import CONFIGS as TWO_STAGE
from helpers.two_stage_detectors import narrow_two_stage
from mmdet.apis import DetInferencer
from mmengine.hub import get_config
from mmengine.registry import MODELS
from mmengine.runner import save_checkpoint

from ctkd_mm.apis.export_onnx import export_onnx

pytest.importorskip('onnx', reason='the extra onnx is not installed')
onnxruntime = pytest.importorskip(
    'onnxruntime', reason='the extra onnx is not installed'
)
CLASSES = tuple('0123456789')
# Height and width of the ten images.
SIZES = [(96, 128), (128, 96), (90, 131), (64, 64), (160, 100)] * 2


def config(name):
    """The config of MMDetection, the model narrow, images of about 128 pixels."""
    cfg = get_config(f'mmdet::{CONFIGS.get(name) or TWO_STAGE[name]}')
    cfg.model = (narrow_two_stage if name in TWO_STAGE else narrow_detector)(name)
    for step in cfg.test_dataloader.dataset.pipeline:
        if step['type'] == 'Resize':
            step['scale'] = (128, 128)
        if step['type'] == 'Pad':
            step['size'] = (128, 128)
    return cfg


def save(cfg, path, prefix=''):
    """Weights that find boxes with scores far from each other, as if trained."""
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model))
    for key, value in model.named_parameters():
        if 'cls' in key and value.dim() > 1:
            value.data *= 3
    meta = dict(dataset_meta=dict(classes=CLASSES))
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    save_checkpoint(dict(meta=meta, state_dict=weights), str(path))
    return path


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    draw = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate(SIZES):
        pixels = draw.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        paths.append(str(tmp_path_factory.getbasetemp() / f'{i}.png'))
        cv2.imwrite(paths[-1], cv2.resize(pixels, (width, height)))
    return paths


def runtime(path):
    """Detect with the file as a user would; boxes in pixels of the image."""
    session = onnxruntime.InferenceSession(path)

    def detect(shown):
        pixels, sample = shown['inputs'], shown['data_samples']
        image = pixels[None].numpy().astype(np.float32)
        boxes, scores, labels = session.run(None, {'image': image})
        return boxes / np.tile(sample.scale_factor, 2), scores, labels

    return detect


def assert_equal(found, expected):
    """Boxes within 1e-3 px, scores within 1e-4, the same labels and number."""
    boxes, scores, labels = found
    assert len(boxes) == len(scores) == len(labels) == len(expected['bboxes'])
    rows = np.c_[boxes, 100 * scores, 1000 * labels]
    wanted = np.c_[
        np.reshape(expected['bboxes'], (-1, 4)),
        100 * np.array(expected['scores']),
        1000 * np.array(expected['labels']),
    ]
    far = abs(rows[:, None] - wanted[None]).max(-1)
    # Two of one score may have changed places.
    order = far.argmin(0)
    assert sorted(order) == list(range(len(rows)))
    np.testing.assert_allclose(boxes[order], wanted[:, :4], rtol=0, atol=1e-3)
    np.testing.assert_allclose(scores[order], expected['scores'], rtol=0, atol=1e-4)
    assert list(labels[order]) == expected['labels']


@pytest.mark.parametrize('name', ['retinanet', 'rtmdet', 'faster'])
def test_ten_images_give_the_boxes_of_mmdetection(name, images, tmp_path):
    cfg = config(name)
    weights = save(cfg, tmp_path / 'student.pth')
    out = export_onnx(cfg, weights, images[0], tmp_path / 'student.onnx')
    detect = runtime(out)
    inferencer = DetInferencer(cfg, str(weights), device='cpu', show_progress=False)
    numbers = []
    for image in images:
        expected = inferencer(image)['predictions'][0]
        assert_equal(detect(inferencer.pipeline(image)), expected)
        numbers.append(len(expected['scores']))
    print(name, numbers)
    assert min(numbers) > 5
