from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from helpers.two_stage_detectors import build_distiller, training_step
from mmdet.models.roi_heads import StandardRoIHead
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS as ROOT_MODELS

from ctkd_mm import kd_kl_div, set_lambda


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


def test_a_step_without_any_roi_has_a_zero_loss(ctkd_cfg, batch):
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
