from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.two_stage_detectors import build_distiller, training_step
from mmdet.models.roi_heads import StandardRoIHead
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner

from ctkd_mm import kd_kl_div, set_lambda
from ctkd_mm.analysis.suggest.shown_logits import collect
from ctkd_mm.checks.dry_run import check
from ctkd_mm.checks.preflight_hook import PreflightHook


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """Count box-head forwards by model."""
    counter = Counter()
    original = StandardRoIHead._bbox_forward

    def counted(self, x, rois):
        counter[self.bbox_head.in_channels] += 1
        return original(self, x, rois)

    monkeypatch.setattr(StandardRoIHead, '_bbox_forward', counted)
    return counter


def test_loss_is_the_kl_of_both_heads_on_the_students_rois(ctkd_cfg, batch):
    model = build_distiller(ctkd_cfg)
    seen = {}

    def keep(name):
        def hook(module, inputs, outputs):
            seen[name] = (inputs, outputs)

        return hook

    student, teacher = model.student, model.teacher
    student.roi_head.bbox_roi_extractor.register_forward_hook(keep('rois_S'))
    teacher.roi_head.bbox_roi_extractor.register_forward_hook(keep('rois_T'))
    student.roi_head.bbox_head.register_forward_hook(keep('S'))
    losses = training_step(model, batch)
    rois = seen['rois_S'][0][1]
    assert rois.shape == (128, 5)
    assert torch.equal(rois, seen['rois_T'][0][1])
    # The teacher standing alone, asked for the same boxes.
    images = model.data_preprocessor(copy.deepcopy(batch))['inputs']
    with torch.no_grad():
        preds_T = teacher.roi_head._bbox_forward(teacher.extract_feat(images), rois)
    want = kd_kl_div(
        seen['S'][1][0],
        preds_T['cls_score'],
        torch.tensor([1 + 20 / (1 + 2.718281828**-1)]),
    )
    torch.testing.assert_close(losses['distill.loss_kd'], want)
    assert want > 0


def test_student_head_runs_once_and_teacher_only_its_features_and_head(
    ctkd_cfg, batch, calls
):
    model = build_distiller(ctkd_cfg)
    forbidden, with_grad = [], []
    teacher = model.teacher
    for module in (teacher.rpn_head, teacher.roi_head.bbox_head.loss_cls):
        module.register_forward_hook(lambda *args: forbidden.append(args[0]))
    backbone_passes = []
    teacher.backbone.register_forward_hook(lambda *args: backbone_passes.append(1))
    teacher.roi_head.bbox_sampler.sample = None
    teacher.roi_head.bbox_head.register_forward_hook(
        lambda module, inputs, outputs: with_grad.append(torch.is_grad_enabled())
    )
    training_step(model, batch)
    assert calls == {32: 1, 64: 1}
    assert len(backbone_passes) == 1
    assert not forbidden
    assert with_grad == [False]


def test_with_zero_weight_the_student_trains_as_in_plain_mmdetection(
    ctkd_cfg, student_cfg, batch
):
    ctkd_cfg['loss_kd']['loss_weight'] = 0.0
    distilled = build_distiller(ctkd_cfg)
    plain = ROOT_MODELS.build(copy.deepcopy(student_cfg))
    plain.load_state_dict(distilled.student.state_dict())
    losses, plain_losses = training_step(distilled, batch), training_step(plain, batch)
    for name, value in plain_losses.items():
        torch.testing.assert_close(
            losses[f'student.{name}'], value, rtol=0, atol=0, msg=name
        )
    distilled.parse_losses(losses)[0].backward()
    plain.parse_losses(plain_losses)[0].backward()
    for (name, ours), theirs in zip(
        distilled.student.named_parameters(), plain.parameters()
    ):
        assert torch.equal(ours.grad, theirs.grad), name


def test_every_trainable_parameter_gets_a_gradient_also_at_lambda_zero(ctkd_cfg, batch):
    model = build_distiller(ctkd_cfg)
    assert set_lambda(model, 0.0) == 1
    model.parse_losses(training_step(model, batch))[0].backward()
    missing = [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert not missing


def test_images_without_objects_are_distilled_too(ctkd_cfg, batch):
    model = build_distiller(ctkd_cfg)
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    losses = training_step(model, batch)
    assert losses['distill.loss_kd'] > 0  # background RoIs are rows like any


@pytest.mark.parametrize('around', ['ZScoreLoss', 'NormKDLoss'])
def test_a_loss_around_dkd_gets_the_labels_of_the_rois(ctkd_cfg, batch, around):
    spread = dict(type='ctkd_mm.SpreadTemperature', scale=2)
    one = dict(type='ctkd_mm.ConstantTemperature', tau=1)
    temperature = spread if around == 'NormKDLoss' else one
    inner = dict(type='ctkd_mm.DKDLoss', temperature=temperature)
    ctkd_cfg['loss_kd'] = dict(type=f'ctkd_mm.{around}', loss=inner)
    model = build_distiller(ctkd_cfg)
    dkd, seen = model.distiller.distill_losses.loss_kd.loss, []
    dkd.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs['labels']), with_kwargs=True
    )
    losses = training_step(model, batch)
    assert losses['distill.loss_kd'] > 0
    (labels,) = seen
    assert labels.shape == (128,) and 0 <= labels.min() and labels.max() == 10


@pytest.mark.parametrize('method', ['ctkd', 'kd'])  # MMRazor's: 0 / 0
def test_a_step_without_any_roi_has_a_zero_loss(ctkd_cfg, batch, method):
    if method == 'kd':
        ctkd_cfg['loss_kd'] = dict(type='mmrazor.KLDivergence', tau=2)
    sampler = dict(num=0, add_gt_as_proposals=False)
    ctkd_cfg['architecture']['train_cfg']['rcnn']['sampler'].update(sampler)
    model = build_distiller(ctkd_cfg)
    losses = training_step(model, batch)
    assert losses['distill.loss_kd'] == 0
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())


def test_ddp_needs_no_unused_parameters(ctkd_cfg, batch, one_process_group):
    wrapped = MMDistributedDataParallel(
        build_distiller(ctkd_cfg), find_unused_parameters=False
    )
    for lambda_ in (0.0, 1.0):
        set_lambda(wrapped, lambda_)
        data = wrapped.module.data_preprocessor(copy.deepcopy(batch), training=True)
        # The second forward raises if a parameter had no gradient in the first.
        losses = wrapped(**data, mode='loss')
        wrapped.module.parse_losses(losses)[0].backward()


def test_different_class_numbers_are_refused_with_both(ctkd_cfg):
    ctkd_cfg['teacher']['roi_head']['bbox_head']['num_classes'] = 7
    with pytest.raises(
        ValueError, match='num_classes is 10 in architecture, 7 in teacher: .*=None'
    ):
        build_distiller(ctkd_cfg)


@pytest.mark.parametrize('key', ['architecture', 'teacher'])
def test_a_detector_without_one_box_head_is_refused_by_key(ctkd_cfg, key):
    ctkd_cfg[key] = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    with pytest.raises(ValueError, match=f'{key} must be a two-stage .* RetinaNet'):
        build_distiller(ctkd_cfg)


# Ten digits teach three.

THREE = ('0', '3', '8')
NAMES = tuple('9876543210')  # of the teacher: the digit d is in column 9 - d


@pytest.fixture
def three_cfg(demo_cfg, teacher_ckpt, tmp_path) -> Config:
    """The demo's CTKD config with a student of three of the digits."""
    checkpoint = torch.load(teacher_ckpt)
    checkpoint['meta']['dataset_meta'] = dict(classes=NAMES)
    # Untrained heads nearly agree: logits as spread as a trained one's.
    checkpoint['state_dict']['roi_head.bbox_head.fc_cls.weight'] *= 50
    torch.save(checkpoint, tmp_path / 'ten.pth')
    model = dict(
        architecture=dict(roi_head=dict(bbox_head=dict(num_classes=3))),
        teacher_ckpt=str(tmp_path / 'ten.pth'),
        teacher_classes='by name',
    )
    data = dict(dataset=dict(metainfo=dict(classes=THREE)))
    splits = ('train', 'val', 'test')
    demo_cfg.merge_from_dict({f'{split}_dataloader': data for split in splits})
    demo_cfg.merge_from_dict(dict(model=model))
    demo_cfg.train_cfg.max_epochs = 2
    demo_cfg.custom_hooks.append(dict(type='EMAHook'))
    return demo_cfg


class Watch(Hook):
    """Keeps both heads' logits and the temperature of each iteration."""

    def __init__(self) -> None:
        self.seen = []

    def before_train(self, runner) -> None:
        model = runner.model
        modules = dict(
            S=model.student.roi_head.bbox_head,
            T=model.teacher.roi_head.bbox_head,
            tau=model.distiller.distill_losses.loss_kd.temperature,
        )
        for name, module in modules.items():

            def keep(module, inputs, output, name=name):
                value = output if name == 'tau' else output[0]
                # Not those of a validation after it.
                self.seen[-1].setdefault(name, value.detach().double().numpy())

            module.register_forward_hook(keep)

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        self.seen.append({})


def reference(S: np.ndarray, T: np.ndarray, tau: np.ndarray) -> float:
    """The loss by probabilities: those of the kept digits, and what is left."""
    p_T = np.exp(T) / np.exp(T).sum(axis=1, keepdims=True)
    kept = p_T[:, [9 - int(name) for name in THREE]]
    p_T = np.append(kept, 1 - kept.sum(axis=1, keepdims=True), axis=1)
    p_T, p_S = p_T ** (1 / tau), np.exp(S / tau)
    p_T, p_S = (p / p.sum(axis=1, keepdims=True) for p in (p_T, p_S))
    return float(tau[0] ** 2 * (p_T * np.log(p_T / p_S)).sum() / len(S))


@pytest.mark.start
def test_a_teacher_of_ten_digits_teaches_three_and_the_run_resumes(three_cfg):
    three_cfg.default_hooks.preflight.expect_map = dict(value=0, tol=1, images=2)
    runner, watch = Runner.from_cfg(copy.deepcopy(three_cfg)), Watch()
    runner.register_hook(watch)
    runner.train()
    preflight = next(h for h in runner.hooks if isinstance(h, PreflightHook))
    assert 'teacher classes: 3 of 10 by name' in preflight.report
    wanted = [reference(**seen) for seen in watch.seen]
    losses = runner.message_hub.get_scalar('train/distill.loss_kd')._log_history
    assert len(wanted) == 4 and min(wanted) > 0.01
    assert losses.tolist() == pytest.approx(wanted, rel=1e-4)

    want = runner.model.state_dict()
    three_cfg.load_from = f'{three_cfg.work_dir}/epoch_1.pth'
    three_cfg.resume, three_cfg.work_dir = True, f'{three_cfg.work_dir}/resumed'
    with pytest.raises(ValueError, match="teacher_classes=None, was 'by name'"):
        three_cfg.model.teacher_classes = [9, 6, 1]
        Runner.from_cfg(copy.deepcopy(three_cfg)).train()
    three_cfg.model.teacher_classes = 'by name'
    resumed = Runner.from_cfg(copy.deepcopy(three_cfg))
    resumed.train()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, want[key]), key


@pytest.mark.start
def test_a_name_that_the_teacher_lacks_ends_the_start(three_cfg):
    checkpoint = torch.load(three_cfg.model.teacher_ckpt)
    checkpoint['meta']['dataset_meta'] = dict(classes=('0.', *NAMES[:-1]))
    torch.save(checkpoint, three_cfg.model.teacher_ckpt)
    with pytest.raises(ValueError, match="10 classes, not '0': did you mean 0."):
        check(three_cfg)


@pytest.mark.start
def test_the_suggested_temperature_is_that_of_the_students_classes(three_cfg):
    _, (recorder,), _ = collect(three_cfg, images=8)
    rows = recorder.parts()
    assert rows['all'].preds_S.shape[1] == rows['all'].preds_T.shape[1] == 4
    assert set(rows['foreground'].labels.tolist()) <= {0, 1, 2}
