"""MMDetection's Localization Distillation with the shipped loss_ld, in small."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model.wrappers import MMDistributedDataParallel
from mmengine.registry import MODELS
from mmengine.runner import Runner, load_checkpoint

from ctkd_mm import cosine_curriculum, set_lambda
from ctkd_mm.checks.dry_run import check
from ctkd_mm.models.teachers.load import adopt_teacher
from ctkd_mm.models.temperatures.base import find_temperatures

METHODS = ('ld', 'ctkd-ld')
PLACE = 'bbox_head.loss_ld.temperature'


@pytest.fixture(scope='module')
def leaves(root):
    stem = 'gfl_r101-to-r18_fpn_1x_coco.py'
    return {m: Config.fromfile(root / f'configs/ld/{m}_{stem}') for m in METHODS}


def narrow(detector):
    """An eighth of R18's width and a head of one convolution, for the digits."""
    depth = dict(depth=18, base_channels=8, frozen_stages=-1, init_cfg=None)
    detector.backbone.update(depth, norm_eval=False)
    detector.neck.update(in_channels=[8, 16, 32, 64], out_channels=32)
    head = dict(num_classes=10, in_channels=32, feat_channels=32, stacked_convs=1)
    detector.bbox_head.update(head)
    return detector


@pytest.fixture
def model_cfg(leaves, tmp_path):
    """The shipped model, narrow, with a teacher's file."""
    model = narrow(copy.deepcopy(leaves['ctkd-ld'].model))
    teacher = narrow(model.teacher_config.model)
    torch.manual_seed(1)
    weights = MODELS.build(copy.deepcopy(teacher)).state_dict()
    weights['bbox_head.gfl_reg.weight'] *= 10  # edges as sharp as a trained one's
    torch.save(dict(state_dict=weights), tmp_path / 'gfl.pth')
    model.teacher_ckpt = str(tmp_path / 'gfl.pth')
    return model


@pytest.fixture
def model(model_cfg):
    return MODELS.build(copy.deepcopy(model_cfg))


@pytest.fixture
def cfg(leaves, model_cfg, demo_cfg):
    """The shipped leaf on the digits: 2 epochs of 2 iterations."""
    demo_cfg.model = model_cfg
    demo_cfg.train_cfg.max_epochs = 2
    demo_cfg.param_scheduler = []
    for key in ('custom_hooks', 'optim_wrapper'):
        demo_cfg[key] = leaves['ctkd-ld'][key]
    return demo_cfg


def data_of(model, batch):
    return model.data_preprocessor(copy.deepcopy(batch), training=True)


def losses(model, batch):
    return model(**data_of(model, batch), mode='loss')


def test_the_plain_leaf_is_mmdetections_with_the_teachers_config_inside(leaves):
    theirs = get_config('mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py')
    ours = leaves['ld']
    teacher = get_config('mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py').model
    assert ours.model == {**theirs.model, 'teacher_config': dict(model=teacher)}
    assert ours.optim_wrapper.optimizer == theirs.optim_wrapper.optimizer


def test_the_curriculum_leaf_differs_by_the_temperature_alone(leaves):
    plain, ours = (copy.deepcopy(leaves[m].model) for m in METHODS)
    plain_ld, our_ld = (m.bbox_head.pop('loss_ld') for m in (plain, ours))
    assert ours.bbox_head.pop('type') == 'ctkd_mm.LearnedLDHead'
    assert plain.bbox_head.pop('type') == 'LDHead'
    assert plain == ours
    assert {**our_ld.loss, 'T': our_ld.temperature.tau_start} == plain_ld


def test_taus_gradient_in_the_head_is_minus_lambda_times_the_slope(model, batch):
    large = batch['data_samples'][0].gt_instances[:1]
    large.bboxes[:] = torch.tensor([0.0, 0, 96, 96])  # for another level
    batch['data_samples'][0].gt_instances = large
    calls = []
    model.bbox_head.loss_ld.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((*args, kwargs['weight'])),
        with_kwargs=True,
    )
    set_lambda(model, 0.3)
    raw = find_temperatures(model)[PLACE].raw_tau
    loss = sum(losses(model, batch)['loss_ld'])
    gradient = torch.autograd.grad(loss, raw)[0].item()

    def formula(raw):
        tau, total = 1 + 20 * torch.sigmoid(raw), 0
        for preds_S, preds_T, weight in calls:
            p_S, p_T = (
                (z.detach().double() / tau).softmax(1) for z in (preds_S, preds_T)
            )
            kl = (p_T * (p_T / p_S).log()).mean(1)
            total += 0.25 * tau**2 * (weight * kl).sum() / 4
        return total.item()

    at, step = raw.detach().double(), 1e-4
    slope = (formula(at + step) - formula(at - step)) / (2 * step)
    assert len(calls) == 2
    assert loss.item() == pytest.approx(formula(at), rel=1e-5)
    assert abs(slope) > 1e-3
    assert gradient == pytest.approx(-0.3 * slope, rel=1e-3)


@pytest.mark.parametrize('method', METHODS)
def test_no_leaf_leaves_a_parameter_without_a_gradient(leaves, batch, method):
    assert not leaves[method].get('find_unused_parameters')
    cfg = narrow(copy.deepcopy(leaves[method].model))
    narrow(cfg.teacher_config.model)
    model = MODELS.build({**cfg, 'teacher_ckpt': None})
    empty = copy.deepcopy(batch)
    for sample in empty['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    for images, lambda_ in itertools.product((batch, empty), (0.0, 1.0)):
        model.zero_grad()
        set_lambda(model, lambda_)
        model.parse_losses(losses(model, images))[0].backward()
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert len(trained) > 50
        assert [name for name, p in trained.items() if p.grad is None] == []


def test_a_process_without_boxes_keeps_ddp_going(model, batch, one_process_group):
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    wrapped = MMDistributedDataParallel(model)
    for _ in range(2):  # DDP would refuse the second
        model.zero_grad()
        total, _ = model.parse_losses(wrapped(**data_of(model, batch), mode='loss'))
        total.backward()
    assert find_temperatures(model)[PLACE].raw_tau.grad.tolist() == [0]


@pytest.mark.start
def test_training_sets_lambda_in_the_head_and_tau_climbs(cfg):
    cfg.default_hooks.logger.interval = 1
    runner = Runner.from_cfg(cfg)
    runner.train()
    temperature = find_temperatures(runner.model)[PLACE]
    assert temperature.grl.lambda_ == cosine_curriculum(1, end=5)
    scalars = runner.message_hub.log_scalars
    assert scalars['train/lambda'].current() == temperature.grl.lambda_
    taus = [value.item() for value in scalars['train/tau']._log_history]
    assert taus[0] == pytest.approx(10) and len(taus) == 4
    assert taus == sorted(set(taus)) and temperature.tau.item() == taus[-1]


@pytest.mark.start
def test_a_checkpoint_is_the_students_and_resumes_and_evaluates(cfg, tmp_path):
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.train()
    saved = torch.load(f'{cfg.work_dir}/epoch_1.pth')['state_dict']
    student = copy.deepcopy(cfg.model.teacher_config.model)  # a GFL as narrow
    plain = MODELS.build(student)
    assert saved.keys() - plain.state_dict().keys() == {f'{PLACE}.raw_tau'}
    assert plain.state_dict().keys() <= saved.keys()

    cfg.update(load_from=f'{cfg.work_dir}/epoch_1.pth', resume=True)
    cfg.work_dir = str(tmp_path / 'resumed')
    resumed = Runner.from_cfg(copy.deepcopy(cfg))
    resumed.train()
    want = runner.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, want[key]), key

    last = f'{cfg.work_dir}/epoch_2.pth'
    cfg.update(load_from=last, resume=False)
    cfg.model.teacher_ckpt = None  # evaluation needs no teacher
    Runner.from_cfg(cfg).test()
    load_checkpoint(plain, last)


def test_a_teacher_that_its_file_covers_in_part_is_refused(model, model_cfg):
    checkpoint = torch.load(model_cfg.teacher_ckpt)
    del checkpoint['state_dict']['bbox_head.gfl_reg.weight']
    torch.save(checkpoint, model_cfg.teacher_ckpt)
    with pytest.raises(ValueError, match='1 missing: bbox_head.gfl_reg.weight'):
        adopt_teacher(model, model_cfg.teacher_ckpt)


@pytest.mark.start
def test_a_teacher_of_other_classes_teaches_its_box_edges(cfg, batch):
    same = MODELS.build(copy.deepcopy(cfg.model))
    cfg.model.teacher_config.model.bbox_head.num_classes = 4
    checkpoint = torch.load(cfg.model.teacher_ckpt)
    for kind in ('weight', 'bias'):
        weights = checkpoint['state_dict']
        weights[f'bbox_head.gfl_cls.{kind}'] = weights[f'bbox_head.gfl_cls.{kind}'][:4]
    checkpoint['meta'] = dict(dataset_meta=dict(classes=tuple('abcd')))
    torch.save(checkpoint, cfg.model.teacher_ckpt)
    assert check(cfg)[1].startswith('10 classes, the same in train_dataloader')
    other = MODELS.build(copy.deepcopy(cfg.model))
    other.load_state_dict(same.state_dict())
    found = zip(losses(other, batch)['loss_ld'], losses(same, batch)['loss_ld'])
    assert all(torch.equal(ours, theirs) for ours, theirs in found)
