from __future__ import annotations

import copy

import pytest
import torch
from helpers.same_bits import assert_same_bits
from helpers.two_stage_detectors import build_distiller, training_step
from mmrazor.models import ConfigurableDistiller
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder


def test_records_are_released_after_the_loss(ctkd_cfg, batch):
    model = build_distiller(ctkd_cfg)
    training_step(model, batch)
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
    model = build_distiller(ctkd_cfg)
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
    model = build_distiller(ctkd_cfg)
    losses = training_step(model, batch)
    assert losses['distill.loss_neck'] > 0
    assert losses['distill.loss_kd'] > 0
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.distiller.connectors.parameters())


def test_plain_kd_is_a_one_line_swap(ctkd_cfg, batch):
    kd_cfg = {**ctkd_cfg, 'loss_kd': dict(type='mmrazor.KLDivergence', tau=2)}
    constant = dict(tau_init=1, tau_range=2, tau_start=2)
    ctkd_cfg['loss_kd']['temperature'].update(constant)
    ctkd, kd = build_distiller(ctkd_cfg), build_distiller(kd_cfg)
    kd.load_state_dict(ctkd.state_dict(), strict=False)
    torch.testing.assert_close(
        training_step(ctkd, batch)['distill.loss_kd'],
        training_step(kd, batch)['distill.loss_kd'],
    )


@pytest.mark.parametrize('kind', ['ConfigurableDistiller', ConfigurableDistiller])
def test_the_distiller_may_have_its_type_as_in_mmrazors_configs(ctkd_cfg, kind):
    want = build_distiller(ctkd_cfg).distiller
    ctkd_cfg['distiller'] = dict(type=kind)
    found = build_distiller(ctkd_cfg).distiller
    assert type(found) is ConfigurableDistiller
    assert found.loss_forward_mappings == want.loss_forward_mappings


def test_another_distiller_is_refused(ctkd_cfg):
    ctkd_cfg['distiller'] = dict(type='mmrazor.OFDDistiller')
    with pytest.raises(ValueError, match=r'distiller\.type=.*OFDDistiller.* must be'):
        build_distiller(ctkd_cfg)


def test_deliveries_are_refused(ctkd_cfg):
    ctkd_cfg['distiller'] = dict(distill_deliveries=dict(rand=dict(type='X')))
    with pytest.raises(ValueError, match=r'own places, got \[.rand.\]'):
        build_distiller(ctkd_cfg)


def test_recorder_names_in_use_are_refused(ctkd_cfg):
    rois = dict(rois=dict(type='mmrazor.ModuleOutputs', source='neck'))
    ctkd_cfg['distiller'] = dict(student_recorders=rois)
    with pytest.raises(ValueError, match=r'student_recorders .* \[.rois.\]'):
        build_distiller(ctkd_cfg)


def test_a_stopped_distillation_leaves_the_students_gradients_and_no_teacher(
    ctkd_cfg, batch, monkeypatch
):
    model = build_distiller(ctkd_cfg)
    losses = training_step(model, batch)
    own = {key: value for key, value in losses.items() if 'student.' in key}
    model.parse_losses(own)[0].backward()
    want = {name: p.grad for name, p in model.student.named_parameters()}
    model.zero_grad()
    model.distillation_stopped = True
    monkeypatch.setattr(model.teacher, 'extract_feat', None)
    stopped = training_step(model, batch)
    assert list(stopped) == list(losses)
    assert stopped.pop('distill.loss_kd').item() == 0
    assert_same_bits(stopped, own)
    stopped = training_step(model, batch)
    model.parse_losses(stopped)[0].backward()
    # Student weights get what they would alone, tau a zero, which DDP waits for.
    assert_same_bits({n: p.grad for n, p in model.student.named_parameters()}, want)
    (raw_tau,) = model.distiller.parameters()
    assert raw_tau.grad.item() == 0


def test_every_distillation_loss_of_a_stopped_one_is_0(ctkd_cfg, batch):
    neck = dict(neck=dict(type='mmrazor.ModuleOutputs', source='neck.fpn_convs.0.conv'))
    connector = dict(type='mmrazor.ConvModuleConnector', in_channel=32, out_channel=64)
    ctkd_cfg['loss_kd'] = dict(type='mmrazor.KLDivergence')
    ctkd_cfg['distiller'] = dict(
        student_recorders=neck,
        teacher_recorders=neck,
        connectors=dict(widen=connector),
        distill_losses=dict(loss_neck=dict(type='mmrazor.PKDLoss')),
        loss_forward_mappings=dict(
            loss_neck=dict(
                preds_S=dict(from_student=True, recorder='neck', connector='widen'),
                preds_T=dict(from_student=False, recorder='neck'),
            )
        ),
    )
    model = build_distiller(ctkd_cfg)
    model.distillation_stopped = True
    losses = training_step(model, batch)
    for key in ('distill.loss_kd', 'distill.loss_neck'):
        assert losses[key].item() == 0
    model.parse_losses(losses)[0].backward()
    assert all(p.grad.abs().sum() == 0 for p in model.distiller.parameters())


def test_prediction_is_the_students(ctkd_cfg, batch):
    model = build_distiller(ctkd_cfg).eval()
    ours = model.test_step(copy.deepcopy(batch))
    plain = model.student.test_step(copy.deepcopy(batch))
    for a, b in zip(ours, plain):
        assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)
