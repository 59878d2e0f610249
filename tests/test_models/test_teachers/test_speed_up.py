from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import ConvWS2d
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ctkd_mm.models.heads.roi_head import box_forward
from ctkd_mm.models.teachers import frozen_teacher
from ctkd_mm.models.teachers.speed_up import speed_up
from ctkd_mm.registry import MODELS
from ctkd_mm.utils.precision import HALVES, keep_weights
from ctkd_mm.utils.weights import weights_sha256

ROIS = torch.tensor([[0.0, 3, 5, 60, 40], [0, 10, 10, 90, 95], [0, 30, 0, 50, 80]])


def shake(model):
    """Give BatchNorms statistics that a training would: fresh ones do nothing."""
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


@pytest.fixture
def plain(teacher_cfg):
    torch.manual_seed(0)
    return shake(ROOT_MODELS.build(teacher_cfg))


@pytest.fixture
def images():
    return torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features(model, images):
    return model.extract_feat(images)


def assert_close(found, want):
    for a, b in zip(found, want):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


def test_features_stay_and_batchnorm_is_gone(plain, images):
    fast = copy.deepcopy(plain)
    message = speed_up(fast)
    assert 'BatchNorm folded in backbone and neck' in message
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.backbone.modules())
    want = features(copy.deepcopy(plain).double(), images.double())
    assert_close(features(fast, images), [level.float() for level in want])
    assert not any(p.requires_grad for p in fast.backbone.parameters())


def test_a_cpu_computes_channels_last_and_rois_see_the_usual_layout(plain, images):
    fast = copy.deepcopy(plain)
    speed_up(fast)
    weight = fast.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert all(level.is_contiguous() for level in features(fast, images))
    with torch.no_grad():
        found = box_forward(fast, fast.extract_feat(images), ROIS, 0)
        want = box_forward(plain, plain.extract_feat(images), ROIS, 0)
    assert_close([found], [want])


def test_the_detections_stay(plain, batch):
    fast = copy.deepcopy(plain)
    speed_up(fast)
    data = dict(batch, data_samples=copy.deepcopy(batch['data_samples']))
    for found, want in zip(fast.test_step(data), plain.test_step(batch)):
        torch.testing.assert_close(
            found.pred_instances.scores, want.pred_instances.scores
        )
        torch.testing.assert_close(
            found.pred_instances.bboxes,
            want.pred_instances.bboxes,
            rtol=1e-3,
            atol=1e-2,
        )


@pytest.mark.parametrize(
    ('watched', 'left', 'message'),
    [
        ('backbone.layer1', 'backbone', 'left as it is'),
        ('neck.fpn_convs.0', 'neck', 'folded in backbone'),
    ],
)
def test_what_a_recorder_looks_into_stays(plain, images, watched, left, message):
    fast = copy.deepcopy(plain)
    fast.get_submodule(watched).register_forward_hook(lambda *args: None)
    part = getattr(fast, left)
    assert message in speed_up(fast)
    assert getattr(fast, left) is part
    assert_close(features(fast, images), features(plain, images))


def test_a_recorder_on_the_neck_sees_contiguous_features(plain, images):
    seen = []
    plain.neck.lateral_convs[0].register_forward_hook(
        lambda module, args, output: seen.append((args[0], output))
    )
    speed_up(plain)
    seen.clear()
    features(plain, images)
    assert all(x.is_contiguous() for x in seen[0])


class PreActivation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = ConvModule(
            8, channels, 3, norm_cfg=dict(type='BN'), order=('norm', 'act', 'conv')
        )

    def forward(self, x):
        return [self.block(self.stem(x))] * 4


class SharedConv(nn.Module):
    def __init__(self):
        super().__init__()
        conv = nn.Conv2d(3, 8, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(conv, nn.BatchNorm2d(8)) for _ in range(4)
        )

    def forward(self, x):
        return [branch(x) for branch in self.branches]


@pytest.mark.parametrize(
    ('backbone', 'reason'),
    [
        (PreActivation(8), 'the features would change by'),
        (PreActivation(16), 'is invalid for input of size'),
        (SharedConv(), 'the features would change by'),
    ],
    ids=['same channels', 'other channels', 'shared'],
)
def test_what_cannot_be_folded_is_left_as_it_is(plain, images, backbone, reason):
    plain.backbone, plain.neck = shake(backbone), nn.Identity()
    before = copy.deepcopy(backbone)
    message = speed_up(plain)
    assert 'left as it is, BatchNorm cannot be folded' in message
    assert reason in message
    assert plain.backbone is backbone
    for a, b in zip(features(plain, images), before(images)):
        assert torch.equal(a, b)


class Neck(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, levels):
        return self.change(levels)


@pytest.mark.parametrize(
    'change',
    [
        lambda levels: dict(enumerate(levels)),
        lambda levels: levels[0],
        lambda levels: (level for level in levels),
        lambda levels: [levels[0], levels[1] * float('nan')],
    ],
    ids=['dict', 'tensor', 'generator', 'nan'],
)
def test_other_features_leave_the_teacher_as_it_is(plain, images, change):
    plain.neck = Neck(change)
    backbone, weights = plain.backbone, copy.deepcopy(plain.state_dict())
    assert 'left as it is' in speed_up(plain)
    assert plain.backbone is backbone
    for name, value in plain.state_dict().items():
        assert value.dtype == weights[name].dtype and torch.equal(value, weights[name])


def test_maps_of_the_backbone_beside_the_necks_are_noticed(plain, images):
    backbone, extract = plain.backbone, type(plain).extract_feat

    def both(self, inputs):
        return [*extract(self, inputs), *self.backbone(inputs)]

    plain.extract_feat = both.__get__(plain)
    assert 'its features are not those of its last part' in speed_up(plain)
    assert plain.backbone is backbone


@pytest.mark.parametrize('kind', ['DCN', 'DCNv2'])
def test_a_deformable_backbone_is_sped_up(teacher_cfg, images, kind):
    teacher_cfg['neck']['in_channels'] = [32, 64, 128, 256]
    teacher_cfg['backbone'].update(
        depth=50,
        dcn=dict(type=kind, deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    )
    plain = shake(ROOT_MODELS.build(teacher_cfg))
    want = features(plain, images)
    assert 'BatchNorm folded' in speed_up(plain)
    for a, b in zip(features(plain, images), want):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def build(cfg):
    model = MODELS.build(cfg)
    torch.manual_seed(0)  # building a teacher draws numbers too
    model.init_weights()
    return model.train()


def losses(model, batch):
    torch.manual_seed(0)
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    return model(**data, mode='loss')


@pytest.fixture
def shaken_cfg(ctkd_cfg, plain, tmp_path):
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'shaken.pth')
    return dict(ctkd_cfg, teacher_ckpt=str(tmp_path / 'shaken.pth'))


def test_a_loaded_teacher_is_sped_up_and_known_by_the_files_weights(
    shaken_cfg, plain, batch
):
    model = build(shaken_cfg)
    assert isinstance(model.teacher.backbone.bn1, nn.Identity)
    assert model.teacher_sha256 == weights_sha256(plain)
    want = losses(build(dict(shaken_cfg, teacher=plain)), batch)
    assert isinstance(plain.backbone.bn1, nn.BatchNorm2d)
    for name, value in losses(model, batch).items():
        torch.testing.assert_close(value, want[name], rtol=1e-4, atol=1e-6)


def test_layers_work_in_place_as_in_plain_mmdetection(ctkd_cfg):
    model = build(ctkd_cfg)
    for detector in (model.student, model.teacher):
        assert all(m.inplace for m in detector.modules() if isinstance(m, nn.ReLU))


@pytest.mark.parametrize(
    'loss', [dict(type='mmrazor.KLDivergence', tau=1), None], ids=['kd', 'ctkd']
)
def test_a_bfloat16_teacher_gives_nearly_the_same_logits(shaken_cfg, batch, loss):
    if loss:
        shaken_cfg['loss_kd'] = loss
    logits = []
    for dtype in (None, 'bfloat16'):
        model = build(dict(shaken_cfg, teacher_dtype=dtype))
        head = model.teacher.roi_head.bbox_head
        head.register_forward_hook(lambda m, args, output: logits.append(output[0]))
        value = losses(model, batch)['distill.loss_kd']
        assert value.dtype == torch.float32 and value.isfinite()
    want, found = logits
    assert found.dtype == torch.float32
    error = (found - want).norm() / want.norm()
    assert 1e-5 < error < 3e-2


@pytest.mark.parametrize('dtype', HALVES)
def test_kept_weights_give_the_bits_of_weights_cast_at_every_step(
    shaken_cfg, batch, dtype, monkeypatch
):
    monkeypatch.setattr(frozen_teacher, 'keep_weights', lambda model, dtype: None)
    seen, hashes = [], []
    for _ in range(2):
        model = build(dict(shaken_cfg, teacher_dtype=dtype))
        images = model.data_preprocessor(copy.deepcopy(batch), True)['teacher_inputs']
        with Operators() as operators, model.teaching():
            feats = model.teacher.extract_feat(images)
            logits = box_forward(model.teacher, feats, ROIS, 0)
        seen.append((operators.count, [*feats, logits]))
        hashes.append(model.teacher_sha256)
        monkeypatch.undo()
    (cast, want), (kept, found) = seen
    for a, b in zip(found, want):
        assert torch.equal(a, b)
    layers = [m for m in model.teacher.modules() if type(m) in (nn.Conv2d, nn.Linear)]
    assert {m.weight.dtype for m in layers} == {HALVES[dtype]}
    # A weight and a bias of every layer that the features and logits come from; the
    # RPN and the boxes' regression have 3 and 1 more.
    used = [m for m in layers if m.bias is not None]
    assert cast['_to_copy'] - kept['_to_copy'] >= 2 * (len(used) - 4)
    assert cast['convolution'] == kept['convolution']
    assert hashes[0] == hashes[1]


class Operators(TorchDispatchMode):
    """Counts the operators of what runs meanwhile, by name."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_what_computes_with_its_weights_first_keeps_them():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), ConvWS2d(4, 4, 1), nn.Linear(4, 2)
    )
    keep_weights(model, 'bfloat16')
    found = [layer.weight.dtype for layer in model]
    assert found == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]
    keep_weights(model, None)
    assert found == [layer.weight.dtype for layer in model]


def test_an_unknown_teacher_dtype_is_refused(ctkd_cfg):
    with pytest.raises(ValueError, match="teacher_dtype='half' must be None or one of"):
        MODELS.build(dict(ctkd_cfg, teacher_dtype='half'))


def test_a_recorder_of_a_method_leaves_the_teacher_as_it_is(ctkd_cfg):
    method = 'mmdet.models.backbones.ResNet.forward'
    ctkd_cfg['distiller'] = dict(
        teacher_recorders=dict(maps=dict(type='mmrazor.MethodOutputs', source=method))
    )
    assert isinstance(build(ctkd_cfg).teacher.backbone.bn1, nn.BatchNorm2d)
