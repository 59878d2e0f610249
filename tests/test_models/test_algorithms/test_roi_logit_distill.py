from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS as ROOT_MODELS
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder

from ctkd_mm import kd_kl_div, set_lambda
from ctkd_mm.models.algorithms.roi_logit_distill import RoILogitDistill
from ctkd_mm.registry import MODELS


def build(cfg: dict, seed: int = 0) -> RoILogitDistill:
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    return model


def step(model, batch, seed: int = 0) -> dict:
    """Losses of one training step, with the samplers' random draws fixed."""
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    torch.manual_seed(seed)
    return model(**data, mode='loss')


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
    model = build(ctkd_cfg)
    seen = {}

    def keep(name):
        def hook(module, inputs, outputs):
            seen[name] = (inputs, outputs)

        return hook

    student, teacher = model.student, model.teacher
    student.roi_head.bbox_roi_extractor.register_forward_hook(keep('rois_S'))
    teacher.roi_head.bbox_roi_extractor.register_forward_hook(keep('rois_T'))
    student.roi_head.bbox_head.register_forward_hook(keep('S'))
    losses = step(model, batch)
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
    model = build(ctkd_cfg)
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
    step(model, batch)
    assert calls == {32: 1, 64: 1}
    assert len(backbone_passes) == 1
    assert not forbidden
    assert with_grad == [False]


def test_with_zero_weight_the_student_trains_as_in_plain_mmdetection(
    ctkd_cfg, student_cfg, batch
):
    ctkd_cfg['loss_kd']['loss_weight'] = 0.0
    distilled = build(ctkd_cfg)
    plain = ROOT_MODELS.build(copy.deepcopy(student_cfg))
    plain.load_state_dict(distilled.student.state_dict())
    losses, plain_losses = step(distilled, batch), step(plain, batch)
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


def test_the_teacher_is_frozen_and_stays_in_eval_mode(ctkd_cfg, batch):
    model = build(ctkd_cfg)
    before = copy.deepcopy(model.teacher.state_dict())
    assert model.train() is model
    assert model.student.training
    assert not any(m.training for m in model.teacher.modules())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.parse_losses(step(model, batch))[0].backward()
    optimizer.step()
    assert all(p.grad is None for p in model.teacher.parameters())
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_given_teacher_keeps_its_weights(ctkd_cfg, teacher_cfg):
    torch.manual_seed(3)
    teacher = ROOT_MODELS.build(teacher_cfg)
    before = copy.deepcopy(teacher.state_dict())
    model = MODELS.build({**ctkd_cfg, 'teacher': teacher})
    model.init_weights()
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_every_trainable_parameter_gets_a_gradient_also_at_lambda_zero(ctkd_cfg, batch):
    model = build(ctkd_cfg)
    assert set_lambda(model, 0.0) == 1
    model.parse_losses(step(model, batch))[0].backward()
    missing = [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert not missing


def test_images_without_objects_are_distilled_too(ctkd_cfg, batch):
    model = build(ctkd_cfg)
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    losses = step(model, batch)
    assert losses['distill.loss_kd'] > 0  # background RoIs are rows like any


def test_a_step_without_any_roi_has_a_zero_loss(ctkd_cfg, batch):
    sampler = dict(num=0, add_gt_as_proposals=False)
    ctkd_cfg['architecture']['train_cfg']['rcnn']['sampler'].update(sampler)
    model = build(ctkd_cfg)
    losses = step(model, batch)
    assert losses['distill.loss_kd'] == 0
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())


def test_ddp_needs_no_unused_parameters(ctkd_cfg, batch, one_process_group):
    wrapped = MMDistributedDataParallel(build(ctkd_cfg), find_unused_parameters=False)
    for lambda_ in (0.0, 1.0):
        set_lambda(wrapped, lambda_)
        data = wrapped.module.data_preprocessor(copy.deepcopy(batch), training=True)
        # The second forward raises if a parameter had no gradient in the first.
        losses = wrapped(**data, mode='loss')
        wrapped.module.parse_losses(losses)[0].backward()


def test_records_are_released_after_the_loss(ctkd_cfg, batch):
    model = build(ctkd_cfg)
    step(model, batch)
    managers = (model.distiller.student_recorders, model.distiller.teacher_recorders)
    assert not any(
        recorder.data_buffer
        for manager in managers
        for recorder in manager.recorders.values()
    )


def test_in_place_modules_are_off_so_recorders_see_their_own_layer(ctkd_cfg, batch):
    ctkd_cfg['distiller'] = dict(
        student_recorders=dict(
            bn=dict(type='mmrazor.ModuleOutputs', source='backbone.bn1')
        ),
    )
    model = build(ctkd_cfg)
    assert not any(
        module.inplace for module in model.modules() if hasattr(module, 'inplace')
    )
    recorder = model.distiller.student_recorders.get_recorder('bn')
    assert isinstance(recorder, ModuleOutputsRecorder)
    data = model.data_preprocessor(copy.deepcopy(batch))
    with recorder:
        model.student.extract_feat(data['inputs'])
    # ReLU(inplace=True) follows bn1 and would have clipped the record at 0.
    assert recorder.get_record_data().min() < 0


@pytest.mark.parametrize(
    'loss',
    [dict(type='mmrazor.ChannelWiseDivergence'), dict(type='mmrazor.PKDLoss')],
    ids=['cwd', 'pkd'],
)
def test_mmrazors_feature_losses_stand_beside_loss_kd(ctkd_cfg, batch, loss):
    neck = dict(neck=dict(type='mmrazor.ModuleOutputs', source='neck.fpn_convs.0.conv'))
    ctkd_cfg['distiller'] = dict(
        student_recorders=neck,
        teacher_recorders=neck,
        connectors=dict(
            widen=dict(
                type='mmrazor.ConvModuleConnector',
                in_channel=32,
                out_channel=64,
                kernel_size=1,
            )
        ),
        distill_losses=dict(loss_neck=loss),
        loss_forward_mappings=dict(
            loss_neck=dict(
                preds_S=dict(from_student=True, recorder='neck', connector='widen'),
                preds_T=dict(from_student=False, recorder='neck'),
            )
        ),
    )
    model = build(ctkd_cfg)
    losses = step(model, batch)
    assert losses['distill.loss_neck'] > 0
    assert losses['distill.loss_kd'] > 0
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.distiller.connectors.parameters())


def test_plain_kd_is_a_one_line_swap(ctkd_cfg, batch):
    kd_cfg = {**ctkd_cfg, 'loss_kd': dict(type='mmrazor.KLDivergence', tau=2)}
    constant = dict(tau_init=1, tau_range=2, tau_start=2)
    ctkd_cfg['loss_kd']['temperature'].update(constant)
    ctkd, kd = build(ctkd_cfg), build(kd_cfg)
    kd.load_state_dict(ctkd.state_dict(), strict=False)
    torch.testing.assert_close(
        step(ctkd, batch)['distill.loss_kd'], step(kd, batch)['distill.loss_kd']
    )


def test_different_class_numbers_are_refused_with_both(ctkd_cfg):
    ctkd_cfg['teacher']['roi_head']['bbox_head']['num_classes'] = 7
    with pytest.raises(
        ValueError, match='num_classes=10 in arch.*num_classes=7 in tea'
    ):
        build(ctkd_cfg)


@pytest.mark.parametrize('key', ['architecture', 'teacher'])
def test_a_detector_without_one_box_head_is_refused_by_key(ctkd_cfg, key):
    ctkd_cfg[key] = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    with pytest.raises(ValueError, match=f'{key} must be a two-stage .* RetinaNet'):
        build(ctkd_cfg)


def test_a_loss_for_sigmoid_classes_is_refused_by_name(ctkd_cfg):
    ctkd_cfg['loss_kd']['type'] = 'ctkd_mm.BernoulliCTKDLoss'
    with pytest.raises(ValueError, match='BernoulliCTKDLoss, .* take ctkd_mm.CTKDLoss'):
        build(ctkd_cfg)


@pytest.mark.parametrize('loss', ['class', 'module', 'unknown'])
def test_a_loss_in_any_of_mmengines_forms_is_understood(ctkd_cfg, loss):
    from ctkd_mm import CTKDLoss, DKDLoss, GlobalTemperature, ZScoreLoss

    if loss == 'class':
        ctkd_cfg['loss_kd']['type'] = DKDLoss
    elif loss == 'module':
        inner = CTKDLoss(GlobalTemperature())
        ctkd_cfg['loss_kd'] = dict(type=ZScoreLoss, loss=inner)
    else:
        ctkd_cfg['loss_kd']['type'] = 'ctkd_mm.Missing'
        with pytest.raises(KeyError, match='ctkd_mm.Missing is not in the'):
            build(ctkd_cfg)
        return
    recorders = build(ctkd_cfg).distiller.student_recorders.recorders
    assert ('roi_labels' in recorders) == (loss == 'class')


def test_an_instance_temperature_for_other_classes_is_refused_at_build(ctkd_cfg):
    ctkd_cfg['loss_kd']['temperature'] = dict(
        type='ctkd_mm.InstanceTemperature', num_classes=80
    )
    message = 'loss_kd.temperature.num_classes=80 .* that of student and teacher, 10'
    with pytest.raises(ValueError, match=message):
        build(ctkd_cfg)


def test_deliveries_are_refused(ctkd_cfg):
    ctkd_cfg['distiller'] = dict(distill_deliveries=dict(rand=dict(type='X')))
    with pytest.raises(ValueError, match=r'own places, got \[.rand.\]'):
        build(ctkd_cfg)


def test_recorder_names_in_use_are_refused(ctkd_cfg):
    rois = dict(rois=dict(type='mmrazor.ModuleOutputs', source='neck'))
    ctkd_cfg['distiller'] = dict(student_recorders=rois)
    with pytest.raises(ValueError, match=r'student_recorders .* \[.rois.\]'):
        build(ctkd_cfg)


def test_stopped_distillation_leaves_the_students_losses(ctkd_cfg, batch):
    model = build(ctkd_cfg)
    model.distillation_stopped = True
    assert all(name.startswith('student.') for name in step(model, batch))


def test_prediction_is_the_students(ctkd_cfg, batch):
    model = build(ctkd_cfg).eval()
    ours = model.test_step(copy.deepcopy(batch))
    plain = model.student.test_step(copy.deepcopy(batch))
    for a, b in zip(ours, plain):
        assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)
