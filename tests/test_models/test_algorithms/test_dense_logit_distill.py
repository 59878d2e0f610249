from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import save_detector
from helpers.dense_detectors import narrow_detector
from mmdet.datasets import MultiImageMixDataset
from mmdet.engine.hooks import YOLOXModeSwitchHook
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner

from ctkd_mm import kd_kl_div
from ctkd_mm.checks.preflight_hook import PreflightHook
from ctkd_mm.engine.loops.seeded_data import SeededDataset
from ctkd_mm.models.algorithms.dense_logit_distill import DenseLogitDistill, DenseRows
from ctkd_mm.registry import MODELS

METHODS = Path(__file__).parents[3] / 'configs' / '_base_' / 'methods'
DETECTORS = ['retinanet', 'fcos', 'atss', 'gfl', 'rtmdet']
GLOBAL = dict(type='ctkd_mm.GlobalTemperature')
BERNOULLI = dict(type='ctkd_mm.BernoulliCTKDLoss', temperature=GLOBAL)
CTKD = dict(type='ctkd_mm.CTKDLoss', temperature=GLOBAL)


def build(student: dict, teacher: dict, loss_kd: dict = BERNOULLI) -> DenseLogitDistill:
    torch.manual_seed(0)
    teacher = ROOT_MODELS.build(copy.deepcopy(teacher))
    cfg = dict(type='ctkd_mm.DenseLogitDistill', architecture=student, teacher=teacher)
    model = MODELS.build(copy.deepcopy({**cfg, 'loss_kd': loss_kd}))
    # Logits as spread as trained ones: untrained heads nearly agree.
    for head in (model.student.bbox_head, model.teacher.bbox_head):
        for name, weight in head.named_parameters():
            if 'cls' in name and weight.ndim == 4:
                weight.data.normal_(std=0.1)
    return model


def watch(model: DenseLogitDistill) -> dict:
    """Keep what both heads give first, and whether with a gradient."""
    seen = {}
    for key in ('student', 'teacher'):

        def keep(module, inputs, outputs, key=key):
            seen[key] = outputs[0]

        getattr(model, key).bbox_head.register_forward_hook(keep)
    return seen


def rows(levels, columns: int) -> np.ndarray:
    """Flatten as MMDetection's heads do for their losses, in float64."""
    flat = [x.detach().permute(0, 2, 3, 1).reshape(-1, columns) for x in levels]
    return torch.cat(flat).double().numpy()


def reference(seen: dict, tau: float, confidence: float) -> float:
    """The loss of the heads' outputs by cross entropies, in float64."""
    z_S, z_T = (rows(seen[key], 10) for key in ('student', 'teacher'))
    p_S, p_T = (1 / (1 + np.exp(-z / tau)) for z in (z_S, z_T))

    def cross_entropy(p):
        return -(p_T * np.log(p) + (1 - p_T) * np.log(1 - p)).sum(axis=1)

    weights = (1 / (1 + np.exp(-z_T.max(axis=1)))) ** confidence
    kl = cross_entropy(p_S) - cross_entropy(p_T)
    return tau**2 * (weights * kl).sum() / weights.sum()


@pytest.fixture
def digits_batch(demo_cfg) -> dict:
    """Two scenes of the digits, as their data loader gives them."""
    loader = demo_cfg.train_dataloader
    loader.update(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False))
    return next(iter(Runner.build_dataloader(loader)))


@pytest.mark.parametrize('name', DETECTORS)
def test_two_iterations_follow_the_formula_and_climb_in_tau(name, digits_batch):
    loss_kd = dict(**BERNOULLI, confidence=2)
    model = build(narrow_detector(name), narrow_detector(name, 64), loss_kd)
    seen, raw_tau = watch(model), model.distiller.distill_losses.loss_kd.temperature
    teacher = copy.deepcopy(model.teacher.state_dict())
    # The method's own: some of these heads share their layers among levels.
    method = Config.fromfile(METHODS / 'ctkd-dense.py')
    optim_wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=0.01, weight_decay=0.0),
            paramwise_cfg=method.paramwise_cfg,
        ),
    )
    model.train()
    for _ in range(2):
        raw = raw_tau.raw_tau.item()
        log_vars = model.train_step(copy.deepcopy(digits_batch), optim_wrapper)
        tau = 1 + 20 / (1 + np.exp(-raw))
        want = reference(seen, tau, confidence=2)
        assert want > 0.01
        assert log_vars['distill.loss_kd'].item() == pytest.approx(want, rel=1e-4)
        slope = reference(seen, tau * 1.001, 2) - want
        assert (raw_tau.raw_tau.item() - raw) * slope > 0
    assert all(level.requires_grad for level in seen['student'])
    assert not any(level.requires_grad for level in seen['teacher'])
    for key, value in model.teacher.state_dict().items():
        assert torch.equal(value, teacher[key]), key


@pytest.mark.parametrize('name', DETECTORS)
def test_the_loss_reaches_every_weight_before_the_students_logits(name, digits_batch):
    model = build(narrow_detector(name), narrow_detector(name, 64))
    seen = watch(model)
    data = model.data_preprocessor(copy.deepcopy(digits_batch), training=True)
    loss = model(**data, mode='loss')['distill.loss_kd']
    weights = dict(model.named_parameters())
    logits = sum(level.sum() for level in seen['student'])
    grads = [
        torch.autograd.grad(y, weights.values(), retain_graph=True, allow_unused=True)
        for y in (logits, loss)
    ]
    for key, before_logits, before_loss in zip(weights, *grads):
        if before_logits is not None or 'raw_tau' in key:
            assert before_loss.abs().sum() > 0, key
        else:
            assert before_loss is None, key


def test_the_hook_of_yolox_switches_the_student_to_its_last_loss(
    digits_batch, demo_cfg
):
    model = build(narrow_detector('yolox'), narrow_detector('yolox', 64))
    data = model.data_preprocessor(copy.deepcopy(digits_batch), training=True)
    before = model(**data, mode='loss')
    scenes = DATASETS.build(demo_cfg.train_dataloader.dataset)
    dataset = MultiImageMixDataset(scenes, [dict(type='Mosaic')])
    runner = SimpleNamespace(
        model=model,
        epoch=284,
        max_epochs=300,
        train_dataloader=SimpleNamespace(dataset=SeededDataset(dataset)),
        logger=MMLogger.get_current_instance(),
    )
    YOLOXModeSwitchHook(num_last_epochs=15).before_train_epoch(runner)
    after = model(**data, mode='loss')
    assert set(after) - set(before) == {'student.loss_l1'}
    assert not model.teacher.bbox_head.use_l1
    assert dataset._skip_type_keys == ('Mosaic', 'RandomAffine', 'MixUp')


def test_rows_are_the_anchors_of_every_level_in_one_piece():
    # The value says where a logit is: level, image, anchor, class, row, column.
    shapes = [(2, 3, 5, 4, 2), (2, 1, 5, 2, 1)]  # as in SSD, 3 anchors and 1
    numbers = torch.arange(280.0).split([240, 20, 20])
    levels = [x.reshape(shape) for x, shape in zip(numbers, shapes)]
    found = DenseRows(columns=5)([x.flatten(1, 2) for x in levels])
    assert found.shape == (2 * (3 * 8 + 2), 5)
    assert found.is_contiguous()
    want = {
        tuple(level[b, a, :, y, x].tolist())
        for level in levels
        for b, a, _, y, x in np.ndindex(*level.shape)
    }
    assert {tuple(row) for row in found.tolist()} == want


def test_detectors_of_the_same_anchors_teach_each_other(digits_batch):
    model = build(narrow_detector('gfl'), narrow_detector('atss', 64))
    seen = watch(model)
    data = model.data_preprocessor(copy.deepcopy(digits_batch), training=True)
    loss = model(**data, mode='loss')['distill.loss_kd'].item()
    tau = 1 + 20 / (1 + np.exp(-1))
    assert loss == pytest.approx(reference(seen, tau, confidence=0), rel=1e-4)


def softmax_retinanet(channels: int = 32) -> dict:
    cfg = narrow_detector('retinanet', channels)
    cfg.bbox_head.loss_cls = dict(type='CrossEntropyLoss', use_sigmoid=False)
    return cfg


def test_softmax_heads_take_the_loss_of_two_stage_detectors(digits_batch):
    instance = dict(type='ctkd_mm.InstanceTemperature', num_classes=10)
    loss_kd = dict(type='ctkd_mm.CTKDLoss', temperature=instance)
    model = build(softmax_retinanet(), softmax_retinanet(64), loss_kd)
    seen = watch(model)
    data = model.data_preprocessor(copy.deepcopy(digits_batch), training=True)
    loss = model(**data, mode='loss')['distill.loss_kd']
    preds = [torch.from_numpy(rows(seen[key], 11)) for key in ('student', 'teacher')]
    temperature = model.distiller.distill_losses.loss_kd.temperature.double()
    want = kd_kl_div(*preds, temperature(*preds))
    torch.testing.assert_close(loss.double(), want, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ('loss_kd', 'detector', 'message'),
    [
        (CTKD, narrow_detector, 'has CTKDLoss, .* take ctkd_mm.BernoulliCTKDLoss'),
        (dict(type='mmrazor.KLDivergence'), narrow_detector, 'has KLDivergence'),
        (
            dict(type='ctkd_mm.ZScoreLoss', loss=BERNOULLI),
            narrow_detector,
            'has ZScoreLoss',
        ),
        (
            dict(
                type='ctkd_mm.WithTemperature',
                loss=dict(type='mmdet.KnowledgeDistillationKLDivLoss'),
                temperature=GLOBAL,
            ),
            narrow_detector,
            'has KnowledgeDistillationKLDivLoss',
        ),
        (BERNOULLI, softmax_retinanet, 'has BernoulliCTKDLoss, .* ctkd_mm.CTKDLoss'),
        (
            dict(type='ctkd_mm.DKDLoss', temperature=GLOBAL),
            narrow_detector,
            'loss_kd takes the labels of RoIs, .* take ctkd_mm.Bernoulli',
        ),
    ],
    ids=['ctkd', 'kl', 'zscore', 'ld', 'bernoulli', 'dkd'],
)
def test_a_loss_for_other_classes_is_refused_by_name(loss_kd, detector, message):
    cfg = detector() if detector is softmax_retinanet else detector('retinanet')
    with pytest.raises(ValueError, match=message):
        build(cfg, cfg, loss_kd)


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        (
            'retinanet',
            {'loss_cls': dict(type='CrossEntropyLoss', _delete_=True)},
            'use_sigmoid True in arch.* False in teacher',
        ),
        (
            'gfl',
            {'anchor_generator.strides': [4, 8, 16, 32, 64]},
            r'strides \[\(8, 8\).*128\)\] in arch.* \[\(4, 4\).*64\)\] in teacher',
        ),
        (
            'rtmdet',
            {'anchor_generator.strides': [8, 16]},
            r'strides .*\(32, 32\)\] in arch.*\(16, 16\)\] in teacher',
        ),
        (
            'retinanet',
            {'anchor_generator.ratios': [1.0]},
            r'num_base_priors \[9, .* in arch.* \[3, .* in teacher',
        ),
        (
            'gfl',
            {'anchor_generator.octave_base_scale': 4},
            r'priors of level 0 \[\[-32.0, .* in arch.* \[\[-16.0, .* in teacher',
        ),
        (
            'rtmdet',
            {'anchor_generator.offset': 0.5},
            r'priors of level 0 \[\[0.0, 0.0\]\] in arch.* \[\[4.0, 4.0\]\] in teacher',
        ),
    ],
    ids=['softmax', 'strides', 'levels', 'ratios', 'scales', 'offset'],
)
def test_heads_that_score_other_places_are_refused_with_both(name, changes, message):
    teacher = Config(narrow_detector(name))
    teacher.merge_from_dict(
        {f'bbox_head.{key}': value for key, value in changes.items()}
    )
    with pytest.raises(ValueError, match='same places, got ' + message):
        build(narrow_detector(name), teacher._cfg_dict)


def test_points_do_not_teach_anchors_of_the_same_strides():
    message = r'level 0 \[\[-32.0, -32.0, 32.0, 32.0\]\] in arch.* \[\[4.0, 4.0\]\] in'
    with pytest.raises(ValueError, match=message):
        build(narrow_detector('atss'), narrow_detector('fcos'))


@pytest.mark.parametrize('key', ['architecture', 'teacher'])
def test_a_two_stage_detector_is_refused_with_the_way_out(key, student_cfg):
    pair = {k: narrow_detector('retinanet') for k in ('student', 'teacher')}
    pair['student' if key == 'architecture' else 'teacher'] = student_cfg
    message = f"{key} must be a one-stage .* FasterRCNN .*'ctkd_mm.RoILogitDistill'"
    with pytest.raises(ValueError, match=message):
        build(**pair)


def test_batches_that_are_padded_differently_are_refused_with_both():
    teacher = narrow_detector('retinanet')
    teacher.data_preprocessor.pad_size_divisor = 64
    with pytest.raises(ValueError, match='is 32 in architecture and 64 in teacher'):
        build(narrow_detector('retinanet'), teacher)


@pytest.mark.start
def test_a_run_checks_both_heads_and_learns_its_temperature(demo_cfg, tmp_path):
    student, teacher = narrow_detector('gfl'), narrow_detector('gfl', 64)
    loss_kd = copy.deepcopy(demo_cfg.model.loss_kd)
    loss_kd.update(type='ctkd_mm.BernoulliCTKDLoss', confidence=2)
    demo_cfg.model = dict(
        type='ctkd_mm.DenseLogitDistill',
        architecture=student,
        teacher=teacher,
        teacher_ckpt=str(save_detector(teacher, tmp_path / 'gfl.pth')),
        loss_kd=loss_kd,
    )
    demo_cfg.train_cfg.max_epochs = 1
    runner = Runner.from_cfg(demo_cfg)
    runner.train()
    preflight = next(h for h in runner.hooks if isinstance(h, PreflightHook))
    line = '[1, 1, 1, 1, 1] anchors or points a place at strides [8, 16, 32, 64, 128]'
    for key in ('architecture', 'teacher'):
        assert f'{key}: {line}, 10 logits each' in preflight.report
    tau = runner.model.distiller.distill_losses.loss_kd.temperature.tau
    assert tau.item() != pytest.approx(2, abs=1e-9)
    assert runner.iter == 2
