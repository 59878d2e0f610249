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

from ctkd_mm import cli
from ctkd_mm.apis.export_onnx import export_onnx
from ctkd_mm.compat import exporting

onnxruntime = pytest.importorskip(
    'onnxruntime', reason='the extra onnx is not installed'
)
CLASSES = tuple('0123456789')
# Height and width of the ten images.
SIZES = [(96, 128), (128, 96), (90, 131), (64, 64), (160, 100)] * 2


def config(name, score_thr):
    """The config of MMDetection, the model narrow, images of about 128 pixels."""
    cfg = get_config(f'mmdet::{CONFIGS.get(name) or TWO_STAGE[name]}')
    cfg.model = (narrow_two_stage if name in TWO_STAGE else narrow_detector)(name)
    cfg.model.test_cfg.get('rcnn', cfg.model.test_cfg).score_thr = score_thr
    # Limits that some of the images exceed, the exported one too or not.
    limits = dict(retinanet=dict(nms_pre=20), faster=dict(rpn=dict(nms_pre=150)))
    limits['rtmdet'] = dict(nms=dict(split_thr=100))
    cfg.merge_from_dict({'model.test_cfg': limits.get(name, {})})
    for step in cfg.test_dataloader.dataset.pipeline:
        if step['type'] == 'Resize':
            step['scale'] = (128, 128)
        if step['type'] == 'Pad':
            step['size'] = (128, 128)
    return cfg


# Factor of the weights, and addition to the biases, of the last layers.
LAYERS = dict(
    retina_cls=(8, -5),
    rtm_cls=(0.05, -4),
    rtm_reg=(0.005, 2),
    fc_cls=(15, 0),
    rpn_cls=(10, 0),
)


def save(cfg, path, prefix=''):
    """Weights whose boxes and scores depend on the image, as if they were trained."""
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all images shown
    with torch.no_grad():
        features = model.train().extract_feat(torch.randn(2, 3, 128, 128))
        getattr(model, 'rpn_head', getattr(model, 'bbox_head', None))(features)
    for name, layer in model.named_modules():
        for key, (factor, bias) in LAYERS.items():
            if key in name and hasattr(layer, 'weight'):
                layer.weight.data *= factor
                layer.bias.data += bias
    meta = dict(dataset_meta=dict(classes=CLASSES))
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    save_checkpoint(dict(meta=meta, state_dict=weights), str(path))
    return path


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Ten of coloured noise, and a grey one."""
    draw = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp('images')
    for i, (height, width) in enumerate(SIZES):
        pixels = draw.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{i}.png'), cv2.resize(pixels, (width, height)))
    cv2.imwrite(str(folder / '10.png'), np.full((96, 128, 3), 110, np.uint8))
    return [str(folder / f'{i}.png') for i in range(11)]


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
    wanted = np.reshape(expected['bboxes'], (-1, 4))
    far = abs(boxes[:, None] - wanted[None]).max(-1)
    far += 1000 * (labels[:, None] != np.array(expected['labels'])[None])
    # Two of one score may have changed places.
    order = [column.argmin() for column in far.T]
    assert sorted(order) == list(range(len(boxes)))
    assert (far.min(0, initial=1e3) <= 1e-3).all()
    np.testing.assert_allclose(scores[order], expected['scores'], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ('name', 'score_thr', 'distilled'),
    [
        ('retinanet', 0.05, False),
        ('rtmdet', 0.001, False),  # thousands of candidates
        ('rtmdet', 0.95, True),
        ('faster', 0.6, False),
        ('cascade', 0.05, False),  # boxes that all classes share
    ],
)
def test_eleven_images_give_the_boxes_of_mmdetection(
    name, score_thr, distilled, images, tmp_path
):
    cfg = config(name, score_thr)
    weights = save(cfg, tmp_path / 'student.pth')
    given, checkpoint = copy.deepcopy(cfg), weights
    if distilled:
        given.model = dict(type='ctkd_mm.DenseLogitDistill', architecture=cfg.model)
        checkpoint = save(cfg, tmp_path / 'epoch_1.pth', 'architecture.')
    given.dump(tmp_path / 'config.py')
    out = tmp_path / 'student.onnx'
    paths = [tmp_path / 'config.py', checkpoint, images[0], '-o', out]
    cli.export_onnx(list(map(str, paths)))

    detect = runtime(out)
    inferencer = DetInferencer(cfg, str(weights), device='cpu', show_progress=False)
    numbers = []
    for image in images:
        expected = inferencer(image)['predictions'][0]
        assert_equal(detect(inferencer.pipeline(image)), expected)
        numbers.append(len(expected['scores']))
    assert sum(number > 0 for number in numbers) > 5
    assert 0 in numbers or name == 'cascade' or score_thr == 0.001


def test_an_image_without_boxes_is_refused(images, tmp_path):
    cfg = config('retinanet', 0.05)
    weights = save(cfg, tmp_path / 'student.pth')
    with pytest.raises(ValueError, match='nothing is found in .*10.png: give an image'):
        export_onnx(cfg, weights, images[10], tmp_path / 'student.onnx')
    assert not (tmp_path / 'student.onnx').exists()


def test_other_boxes_than_those_of_pytorch_are_not_written(
    images, tmp_path, monkeypatch
):
    # The rule of another NMS, as an unknown operator of a detector could be.
    name = 'mmcv.ops.nms.NMSop.symbolic'
    rule = exporting.CHANGES[name]
    monkeypatch.setitem(
        exporting.CHANGES,
        name,
        lambda g, boxes, scores, *more: rule(g, boxes, scores, 0.01, *more[1:]),
    )
    cfg = config('rtmdet', 0.001)
    weights = save(cfg, tmp_path / 'student.pth')
    with pytest.raises(ValueError, match='other boxes than PyTorch in .*0.png: RTMDet'):
        export_onnx(cfg, weights, images[0], tmp_path / 'student.onnx')
    assert not (tmp_path / 'student.onnx').exists()
