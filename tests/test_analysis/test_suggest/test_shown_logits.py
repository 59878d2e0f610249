from __future__ import annotations

import copy

import pytest
import torch
from conftest import save_detector
from helpers.dense_detectors import narrow_detector
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from ctkd_mm import (
    BernoulliCTKDLoss,
    ConstantTemperature,
    CTKDLoss,
    GlobalTemperature,
    bernoulli_kl_div,
)
from ctkd_mm.analysis.suggest.shown_logits import (
    MOST_ROWS,
    LogitRecorder,
    collect,
    watch,
)
from ctkd_mm.models.teachers.load import load_student


class Step(nn.Module):
    """A loss and, before it, a module that gets the labels."""

    def __init__(self, loss=CTKDLoss):
        super().__init__()
        self.loss, self.loss_cls = loss(ConstantTemperature(1)), nn.Identity()
        self.loss_cls.forward = lambda preds, labels: preds
        self.num_classes = 4
        self.seen = LogitRecorder('loss.temperature', self, self)

    def forward(self, preds_S, preds_T, labels=None):
        if labels is not None:
            self.loss_cls(preds_S, labels)
        self.loss(preds_S, preds_T)


def test_rows_of_all_steps_are_joined_with_their_labels():
    step = Step()
    first, second = torch.randn(2, 2, 3, 5).double()
    step(*first, torch.tensor([0, 4, 4]))
    step(*second, torch.tensor([4, 4, 1]))
    parts = step.seen.parts()
    assert torch.equal(parts['all'].preds_S, torch.cat([first[0], second[0]]))
    foreground = torch.stack([first[1][0], second[1][2]])
    assert torch.equal(parts['foreground'].preds_T, foreground)
    assert parts['background'].labels.tolist() == [4] * 4


def test_without_a_foreground_there_is_the_background_alone():
    step = Step()
    step(*torch.randn(2, 3, 5), torch.full((3,), 4))
    assert list(step.seen.parts()) == ['background', 'all']


def test_a_step_without_rois_adds_nothing():
    step = Step()
    step(*torch.randn(2, 3, 5), torch.tensor([0, 4, 4]))
    step(*torch.randn(2, 0, 5))
    assert len(step.seen.parts()['all'].labels) == 3


def test_a_step_without_labels_does_not_take_those_of_the_one_before():
    step = Step()
    step(*torch.randn(2, 3, 5), torch.tensor([0, 4, 4]))
    step(*torch.randn(2, 3, 5))
    parts = step.seen.parts()
    assert {part: len(rows.labels) for part, rows in parts.items()} == dict(
        foreground=1, background=2, all=6
    )


def test_no_row_at_all_is_refused():
    step = Step()
    step(*torch.randn(2, 0, 5))
    with pytest.raises(ValueError, match='loss.temperature got no logits'):
        step.seen.parts()


def test_spread_and_margin_are_those_of_the_rows():
    step = Step()
    preds_T = torch.tensor([[3.0, 1, 2], [0, 0, 6]]).double()
    step(torch.zeros(2, 3), preds_T)
    rows = step.seen.parts()['all']
    *std, margin_T, margin_S = rows.spread()
    assert [margin_T, margin_S] == [(1 + 6) / 2, 0]
    assert std == pytest.approx([((2 / 3) ** 0.5 + 8**0.5) / 2, 0])
    # Squares about the rows' means, over all logits of both models.
    assert rows.scale() == pytest.approx((((1 + 0 + 1) + (4 + 4 + 16)) / 12) ** 0.5)


def test_millions_of_places_are_thinned_out():
    step = Step()
    preds_T = torch.randn(3 * MOST_ROWS, 2)
    step(torch.zeros_like(preds_T), preds_T)
    rows = step.seen.parts()['all'].preds_T
    assert len(rows) == len(rows.unique(dim=0)) == MOST_ROWS


def test_the_places_of_sigmoids_are_drawn_by_the_teachers_confidence():
    step = Step(lambda tau: BernoulliCTKDLoss(tau, confidence=2))
    torch.manual_seed(0)
    preds_S, preds_T = 3 * torch.randn(2, 20000, 2)
    step(preds_S, preds_T - 4)
    weights = (preds_T - 4).amax(1).sigmoid() ** 2
    tau = torch.tensor([2.0])
    want = bernoulli_kl_div(preds_S, preds_T - 4, tau, weights).item()
    plain = bernoulli_kl_div(preds_S, preds_T - 4, tau).item()
    found = step.seen.parts()['all'].loss(2.0)
    assert found == pytest.approx(want, rel=0.05)
    assert found != pytest.approx(plain, rel=0.1)


class _Stop(Exception):
    pass


class FirstLoss(Hook):
    """Keeps the distillation loss of a training's first iteration."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.loss = outputs['distill.loss_kd'].item()
        self.loss_cls = outputs['student.loss_cls'].item()
        raise _Stop


def first_losses(cfg) -> tuple[float, float]:
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    hook = FirstLoss()
    runner.register_hook(hook, priority='HIGHEST')
    with pytest.raises(_Stop):
        runner.train()
    return hook.loss, hook.loss_cls


def rows_of(cfg):
    _, (seen,), _ = collect(cfg, 8)
    return seen.parts()


@pytest.mark.start
def test_the_logits_are_those_of_the_trainings_first_iteration(shown, demo_cfg):
    loss_kd, loss_cls = first_losses(demo_cfg)  # tau_start is 2
    assert shown.parts()['all'].loss(2.0) == pytest.approx(loss_kd, rel=1e-5)
    assert collect(demo_cfg, 8)[2] == pytest.approx(loss_cls, rel=1e-5)


@pytest.mark.start
def test_foreground_and_background_are_the_rois_by_their_labels(shown):
    parts = shown.parts()
    assert list(parts) == ['foreground', 'background', 'all']
    assert set(parts['background'].labels.tolist()) == {10}
    assert set(parts['foreground'].labels.tolist()) <= set(range(10))
    # 8 images of 64 RoIs, a quarter of them foreground at the most.
    sizes = {part: len(rows.labels) for part, rows in parts.items()}
    assert sizes['all'] == 8 * 64
    assert 8 <= sizes['foreground'] <= 8 * 16
    assert sizes['foreground'] + sizes['background'] == 8 * 64


@pytest.mark.start
@pytest.mark.parametrize(('randomness', 'same'), [({}, True), ({'seed': 1}, False)])
def test_the_seed_decides_which_images_and_rois_and_is_0_without_one(
    shown, demo_cfg, randomness, same
):
    assert demo_cfg.randomness.seed == 0
    demo_cfg.randomness = randomness
    found = rows_of(demo_cfg)['all'].preds_T
    assert torch.equal(shown.parts()['all'].preds_T, found) is same


@pytest.mark.start
@pytest.mark.parametrize(('images', 'taken'), [(1, 8), (1000, 16)])
def test_whole_batches_are_taken_no_image_twice_and_nothing_is_written(
    demo_cfg, tmp_path, images, taken
):
    # An endless sampler would give the set again and again.
    demo_cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    before, files = demo_cfg.to_dict(), sorted(tmp_path.rglob('*'))
    assert collect(demo_cfg, images)[0] == taken
    assert demo_cfg.to_dict() == before
    assert sorted(tmp_path.rglob('*')) == files


@pytest.mark.parametrize('distilled', [False, True])
def test_a_trained_student_is_loaded_alone_or_distilled(
    student_cfg, tmp_path, distilled
):
    trained, student = (MODELS.build(copy.deepcopy(student_cfg)) for _ in range(2))
    torch.nn.init.normal_(trained.roi_head.bbox_head.fc_cls.weight)
    weights = trained.state_dict()
    if distilled:
        weights = {f'architecture.{key}': value for key, value in weights.items()}
        weights['distiller.distill_losses.loss_kd.temperature.raw_tau'] = torch.ones(1)
    torch.save(dict(state_dict=weights), tmp_path / 'student.pth')
    load_student(student, tmp_path / 'student.pth')
    want = trained.state_dict()
    assert all(torch.equal(v, want[k]) for k, v in student.state_dict().items())


def test_the_temperature_of_a_students_own_head_may_differ(tmp_path):
    head = CTKDLoss(GlobalTemperature(tau_start=3))
    student = nn.ModuleDict(dict(neck=nn.Linear(2, 1), head=head))
    weights = dict(student['neck'].state_dict(prefix='neck.'))
    weights['head.temperature.fc.weight'] = torch.ones(1)
    torch.save(dict(state_dict=weights), tmp_path / 'student.pth')
    load_student(student, tmp_path / 'student.pth')
    assert head.temperature(None, None).item() == pytest.approx(3)


def test_a_student_that_does_not_fit_is_refused(student_cfg, teacher_ckpt):
    student = MODELS.build(student_cfg)
    with pytest.raises(
        ValueError, match='not fit the student.*another shape: backbone.*more'
    ):
        load_student(student, teacher_ckpt)


@pytest.mark.start
def test_the_teacher_is_loaded_strictly(demo_cfg, tmp_path):
    demo_cfg.model.teacher_ckpt = str(tmp_path / 'none.pth')
    with pytest.raises(ValueError, match='none.pth.* could not be loaded'):
        collect(demo_cfg, 1)


def test_a_model_that_learns_no_temperature_is_refused(student_cfg):
    student = MODELS.build(student_cfg)
    student.loss_kd = CTKDLoss(ConstantTemperature(1))
    with pytest.raises(ValueError, match='FasterRCNN has no learnable temperature'):
        watch(student)


@pytest.mark.start
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
    assert parts['all'].loss(2.0) == pytest.approx(first_losses(demo_cfg)[0], rel=0.05)
