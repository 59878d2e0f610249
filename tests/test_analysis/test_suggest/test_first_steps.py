from __future__ import annotations

import copy

import pytest
import torch
from conftest import save_detector
from helpers.dense_detectors import narrow_detector
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner

from ctkd_mm.analysis.suggest.first_steps import collect, load_student


class _Stop(Exception):
    pass


class FirstLoss(Hook):
    """Keeps the distillation loss of a training's first iteration."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.loss = outputs['distill.loss_kd'].item()
        raise _Stop


def first_loss(cfg) -> float:
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    hook = FirstLoss()
    runner.register_hook(hook, priority='HIGHEST')
    with pytest.raises(_Stop):
        runner.train()
    return hook.loss


def rows_of(cfg, images=8, **kwargs):
    _, (seen,) = collect(cfg, images, **kwargs)
    return seen.parts()


def test_the_logits_are_those_of_the_trainings_first_iteration(demo_cfg):
    trained = first_loss(demo_cfg)  # tau_start is 2
    assert rows_of(demo_cfg)['all'].loss(2.0) == pytest.approx(trained, rel=1e-5)


def test_foreground_and_background_are_the_rois_by_their_labels(demo_cfg):
    parts = rows_of(demo_cfg)
    assert list(parts) == ['foreground', 'background', 'all']
    assert set(parts['background'].labels.tolist()) == {10}
    assert set(parts['foreground'].labels.tolist()) <= set(range(10))
    # 8 images of 64 RoIs, a quarter of them foreground at the most.
    assert len(parts['all']) == 8 * 64
    assert 8 <= len(parts['foreground']) <= 8 * 16
    assert len(parts['foreground']) + len(parts['background']) == 8 * 64


def test_the_seed_decides_which_images_and_rois_and_is_0_without_one(demo_cfg):
    assert demo_cfg.randomness.seed == 0
    first = rows_of(demo_cfg)['all'].preds_T
    demo_cfg.randomness = dict(seed=None)
    assert torch.equal(first, rows_of(demo_cfg)['all'].preds_T)
    demo_cfg.randomness = dict(seed=1)
    assert not torch.equal(first, rows_of(demo_cfg)['all'].preds_T)


@pytest.mark.parametrize(('images', 'taken'), [(1, 8), (1000, 16)])
def test_whole_batches_are_taken_and_no_image_twice(demo_cfg, images, taken):
    # An endless sampler would give the set again and again.
    demo_cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    assert collect(demo_cfg, images)[0] == taken


def test_nothing_is_written_or_changed(demo_cfg, tmp_path):
    before = demo_cfg.to_dict()
    files = sorted(tmp_path.rglob('*'))
    collect(demo_cfg, 1)
    assert demo_cfg.to_dict() == before
    assert sorted(tmp_path.rglob('*')) == files


@pytest.mark.parametrize('distilled', [False, True])
def test_a_trained_student_is_loaded_alone_or_distilled(demo_cfg, tmp_path, distilled):
    student = MODELS.build(copy.deepcopy(demo_cfg.model.architecture))
    torch.manual_seed(3)
    torch.nn.init.normal_(student.roi_head.bbox_head.fc_cls.weight)
    weights = student.state_dict()
    if distilled:
        weights = {f'architecture.{key}': value for key, value in weights.items()}
        weights['distiller.distill_losses.loss_kd.temperature.raw_tau'] = torch.ones(1)
    path = tmp_path / 'student.pth'
    torch.save(dict(state_dict=weights), path)
    # As initialised, with weights a hundredth as large, it is below 0.1.
    assert rows_of(demo_cfg, student=path)['all'].std()[1] > 1


def test_a_student_that_does_not_fit_is_refused(demo_cfg, teacher_ckpt):
    student = MODELS.build(copy.deepcopy(demo_cfg.model.architecture))
    with pytest.raises(ValueError, match='does not fit the student.*backbone.bn1.bias'):
        load_student(student, teacher_ckpt)


def test_the_teacher_is_loaded_strictly(demo_cfg, tmp_path):
    demo_cfg.model.teacher_ckpt = str(tmp_path / 'none.pth')
    with pytest.raises(ValueError, match='does not exist'):
        collect(demo_cfg, 1)


def test_a_plain_detector_is_refused(demo_cfg):
    demo_cfg.model = demo_cfg.model.architecture
    demo_cfg.custom_hooks = []
    demo_cfg.paramwise_cfg = demo_cfg.optim_wrapper.paramwise_cfg = None
    with pytest.raises(ValueError, match='no temperature and no loss_kd'):
        collect(demo_cfg, 1)


def test_of_a_dense_head_places_are_drawn_as_they_weigh(demo_cfg, tmp_path):
    dense = narrow_detector('retinanet')
    demo_cfg.model = dict(
        type='ctkd_mm.DenseLogitDistill',
        architecture=dense,
        teacher=copy.deepcopy(dense),
        teacher_ckpt=str(save_detector(dense, tmp_path / 'dense.pth')),
        loss_kd=dict(
            type='ctkd_mm.BernoulliCTKDLoss',
            temperature=dict(type='ctkd_mm.GlobalTemperature', tau_start=2),
            confidence=2,
        ),
    )
    parts = rows_of(demo_cfg)
    assert list(parts) == ['all']
    assert parts['all'].loss(2.0) == pytest.approx(first_loss(demo_cfg), rel=0.05)
