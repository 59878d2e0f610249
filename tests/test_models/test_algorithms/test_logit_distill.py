from __future__ import annotations

import copy

import pytest
import torch
from helpers.dense_detectors import narrow_detector
from helpers.same_bits import assert_same_bits
from helpers.two_stage_detectors import (
    build_distiller,
    narrow_two_stage,
    training_step,
)
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS as ROOT_MODELS
from mmrazor.models import ConfigurableDistiller
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from torch import nn

from ctkd_mm.models.algorithms.dense_logit_distill import DenseRows
from ctkd_mm.models.algorithms.logit_distill import LogitDistill
from ctkd_mm.registry import MODELS


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
    # As their temperatures stand in a config, by which the doctor numbers them.
    assert list(model.distiller.distill_losses) == ['loss_kd', 'loss_neck']
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


# A teacher that knows more classes.

ORDER = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5]
TEMPERATURE = dict(type='ctkd_mm.GlobalTemperature')
LOSSES = dict(
    ctkd=dict(type='ctkd_mm.CTKDLoss', temperature=TEMPERATURE),
    dkd=dict(type='ctkd_mm.DKDLoss', temperature=TEMPERATURE),
    zscore=dict(
        type='ctkd_mm.ZScoreLoss',
        loss=dict(type='ctkd_mm.CTKDLoss', temperature=TEMPERATURE),
    ),
    mmrazor=dict(type='mmrazor.KLDivergence', tau=2),
    bernoulli=dict(type='ctkd_mm.BernoulliCTKDLoss', temperature=TEMPERATURE),
)


def instance(num_classes: int) -> dict:
    temperature = dict(type='ctkd_mm.InstanceTemperature', num_classes=num_classes)
    return dict(type='ctkd_mm.CTKDLoss', temperature=temperature)


def pair(detector: str, loss_kd: dict, student_classes: int, **keys) -> LogitDistill:
    """Two narrow detectors, a teacher of ten classes and clear opinions."""
    cfgs = []
    for num_classes in (student_classes, 10):
        if detector == 'faster':
            cfg = narrow_two_stage('faster')
            cfg.roi_head.bbox_head.num_classes = num_classes
        else:
            cfg = narrow_detector('retinanet')
            cfg.bbox_head.num_classes = num_classes
            if detector == 'softmax':
                softmax = dict(type='CrossEntropyLoss', use_sigmoid=False)
                cfg.bbox_head.loss_cls = softmax
        cfgs.append(cfg)
    kind = 'RoILogitDistill' if detector == 'faster' else 'DenseLogitDistill'
    torch.manual_seed(0)
    teacher = ROOT_MODELS.build(cfgs[1])
    layer = classifier(teacher)
    layer.weight.data.normal_(std=0.3)
    layer.bias.data.normal_(std=2)
    cfg = dict(architecture=cfgs[0], teacher=teacher, loss_kd=loss_kd, **keys)
    return MODELS.build(dict(cfg, type=f'ctkd_mm.{kind}'))


def classifier(model) -> nn.Module:
    """The last layer before the class logits."""
    if hasattr(model, 'roi_head'):
        return model.roi_head.bbox_head.fc_cls
    return model.bbox_head.retina_cls


def permute(layer: nn.Module, order: list[int]) -> None:
    """Let column i score the class that column ``order[i]`` did."""
    anchors = 9 if isinstance(layer, nn.Conv2d) else 1
    columns = layer.weight.shape[0] // anchors
    order = torch.tensor([*order, *range(len(order), columns)])
    rows = (torch.arange(anchors)[:, None] * columns + order).flatten()
    for weight in (layer.weight, layer.bias):
        weight.data = weight.data[rows]


CASES = [
    *(('faster', name) for name in ('ctkd', 'instance', 'dkd', 'zscore', 'mmrazor')),
    *(('softmax', name) for name in ('ctkd', 'instance')),
    ('retinanet', 'bernoulli'),
]


@pytest.mark.parametrize('detector, method', CASES)
def test_a_teacher_of_the_classes_in_another_order_is_the_same(detector, method, batch):
    names = [f'class {i}' for i in range(10)]
    loss_kd, found = LOSSES.get(method, instance(10)), []
    for classes in (None, 'by name'):
        model = pair(detector, copy.deepcopy(loss_kd), 10, teacher_classes=classes)
        if classes:
            permute(classifier(model.teacher), ORDER)
            model.teacher_classes.find([names[i] for i in ORDER], names)
        losses = training_step(model, batch)
        model.parse_losses(losses)[0].backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((losses['distill.loss_kd'], *grads))
    assert found[0][0] > 1e-3
    for plain, permuted in zip(*found):
        # A product of matrices may round a column by its place.
        torch.testing.assert_close(permuted, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('detector, method', CASES)
def test_a_teacher_of_ten_teaches_three(detector, method, batch):
    kept = [9, 0, 4]
    loss_kd = copy.deepcopy(LOSSES.get(method, instance(3)))
    model = pair(detector, loss_kd, 3, teacher_classes=kept)
    seen = {}
    for name, side in dict(S=model.student, T=model.teacher).items():
        head = side.roi_head.bbox_head if detector == 'faster' else side.bbox_head
        head.register_forward_hook(
            lambda _, inputs, outputs, name=name: seen.update({name: outputs[0]})
        )
    model.distiller.distill_losses['loss_kd'].register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    for sample in batch['data_samples']:
        sample.gt_instances.labels %= 3
    losses = training_step(model, batch)
    model.parse_losses(losses)[0].backward()
    z_T, sigmoid = seen['T'], detector == 'retinanet'
    if detector != 'faster':
        z_T = DenseRows(columns=10 if sigmoid else 11)(z_T)
    given = seen['preds_T'].double()
    want, z_T = z_T.double()[:, kept], z_T.double()
    if not sigmoid:
        want, given = z_T.softmax(dim=1)[:, kept], given.softmax(dim=1)[:, :3]
    torch.testing.assert_close(given, want, rtol=1e-5, atol=1e-7)
    columns = 3 if sigmoid else 4
    assert seen['preds_T'].shape == seen['preds_S'].shape == (len(z_T), columns)
    assert not seen['preds_T'].requires_grad
    assert losses['distill.loss_kd'] > 0
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, p in trained.items() if p.grad is None]
    if method == 'dkd':
        assert seen['labels'].max() == 3  # the background's


def test_a_stage_without_any_roi_has_a_zero_loss(batch):
    student = narrow_two_stage('cascade')
    for head in student.roi_head.bbox_head:
        head.num_classes = 3
    for stage in student.train_cfg.rcnn:
        stage.sampler.update(num=0, add_gt_as_proposals=False)
    cfg = dict(
        type='ctkd_mm.RoILogitDistill',
        architecture=student,
        teacher=ROOT_MODELS.build(narrow_two_stage('faster')),
        student_stage=2,  # which does not run then
        loss_kd=LOSSES['dkd'],
        teacher_classes=[9, 0, 4],
    )
    model = MODELS.build(copy.deepcopy(cfg))
    losses = training_step(model, batch)
    assert losses['distill.loss_kd'] == 0
    model.parse_losses(losses)[0].backward()


def test_ddp_takes_it_along(batch, one_process_group):
    model = pair('faster', LOSSES['ctkd'], 3, teacher_classes='by name')
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=True)
    names = [str(i) for i in range(10)]
    model.teacher_classes.find(names, ['9', '0', '4'])
    for sample in batch['data_samples']:
        sample.gt_instances.labels %= 3
    for _ in range(2):
        losses = wrapped(
            **model.data_preprocessor(copy.deepcopy(batch), True), mode='loss'
        )
        model.parse_losses(losses)[0].backward()
    assert losses['distill.loss_kd'] > 0
