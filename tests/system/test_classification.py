"""The classification pairs: their recipes, and a training of small ones on digits."""

from __future__ import annotations

import copy
import importlib.util
import math
import sys
from pathlib import Path

import cv2
import pytest
import torch
from helpers import torchvision_cpu
from helpers.classifier_run import kl_at, narrow, train_digits
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, save_checkpoint
from sklearn.datasets import load_digits

from ctkd_mm import set_lambda
from ctkd_mm.cli import extract_student, train
from ctkd_mm.demo.digits import split_scans

for package in ('mmpretrain', 'torchvision'):
    if importlib.util.find_spec(package) is None:
        pytest.skip(
            f'{package} is not installed (the extra "classification")',
            allow_module_level=True,
        )
torchvision_cpu.load()  # mmpretrain needs it

CONFIGS = Path(__file__).parents[2] / 'configs'
LEAVES = sorted((CONFIGS / 'classification').glob('*.py'))
IMAGENET = 'resnet34-to-resnet18_8xb32-120e_in1k'
CIFAR = 'resnet50-to-resnet18_1xb64-240e_cifar100'
LR, DECAY, KL_WEIGHT, CE_WEIGHT = 0.05, 5e-4, 0.9, 0.1


@pytest.fixture(autouse=True)
def _mmpretrain_scope(_mmdet_scope) -> None:
    init_default_scope('mmpretrain')


def read(name: str) -> Config:
    path = CONFIGS / 'classification' / f'{name}.py'
    return Config.fromfile(path, format_python_code=False)


def test_both_pairs_come_with_both_methods():
    assert {p.stem for p in LEAVES} == {
        f'{method}_{pair}' for method in ('kd', 'ctkd') for pair in (IMAGENET, CIFAR)
    }


@pytest.mark.parametrize('path', LEAVES, ids=lambda p: p.stem)
def test_a_config_builds_offline(path):
    cfg = Config.fromfile(path)
    assert Config.fromstring(cfg.pretty_text, '.py').model == cfg.model
    assert cfg.model.pop('teacher_ckpt').startswith('https://download.openmmlab.com/')
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    learnable = int(path.stem.startswith('ctkd'))
    assert set_lambda(model, 1.0) == bool(cfg.get('custom_hooks')) == learnable
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    trained = {id(p) for group in optimizer.param_groups for p in group['params']}
    assert all(id(p) in trained for p in model.distiller.parameters())
    assert not any(p.requires_grad for p in model.teacher.parameters())
    # One preprocessor serves both: it must be the one the teacher was trained with.
    for key in ('mean', 'std'):
        ours, theirs = (
            getattr(m.data_preprocessor, key) for m in (model, model.teacher)
        )
        assert torch.equal(ours, theirs)
    assert model.data_preprocessor.to_rgb == model.teacher.data_preprocessor.to_rgb


def test_the_runtime_has_the_hooks_of_detection():
    hooks = {
        name: Config.fromfile(CONFIGS / '_base_' / f'{name}runtime.py').default_hooks
        for name in ('', 'classification_')
    }
    both = [
        {name: hook['type'] for name, hook in h.items() if 'ctkd_mm' in hook['type']}
        for h in hooks.values()
    ]
    assert both[0] == both[1] and len(both[0]) == 6


@pytest.mark.parametrize(
    ('pair', 'epochs', 'ramp', 'lr', 'decay', 'steps', 'batch', 'weights'),
    [
        (IMAGENET, 120, 5, 0.1, 1e-4, [30, 60, 90], 32, (1, 1)),
        (CIFAR, 240, 10, LR, DECAY, [150, 180, 210], 64, (CE_WEIGHT, KL_WEIGHT)),
    ],
)
def test_the_recipe_is_the_papers(pair, epochs, ramp, lr, decay, steps, batch, weights):
    cfg = read(f'ctkd_{pair}')
    loss_kd = MODELS.build(cfg.model.distiller.distill_losses.loss_kd)
    assert loss_kd.temperature(None, None).item() == pytest.approx(
        1 + 20 / (1 + math.exp(-1))
    )
    ce_weight = cfg.model.architecture.head.loss.loss_weight
    assert (ce_weight, loss_kd.loss_weight) == weights
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.custom_hooks[0] == dict(type='ctkd_mm.CurriculumHook', end=ramp)
    assert cfg.optim_wrapper.optimizer.lr == lr
    assert cfg.optim_wrapper.optimizer.weight_decay == decay
    assert cfg.param_scheduler.milestones == steps and cfg.param_scheduler.gamma == 0.1
    assert cfg.train_dataloader.batch_size == batch
    assert read(f'kd_{pair}').model.distiller.distill_losses.loss_kd.tau == 4


@pytest.fixture(scope='module')
def digit_images(tmp_path_factory) -> Path:
    """3 training scans and 1 validation scan of each digit, in a folder of its own."""
    root, digits = tmp_path_factory.mktemp('digits'), load_digits()
    for split, count in (('train', 3), ('val', 1)):
        scans = split_scans()[split]
        for digit in range(10):
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            for i in scans[digits.target[scans] == digit][:count]:
                scan = (digits.images[i] * 255 / 16).astype('uint8')
                assert cv2.imwrite(str(folder / f'{i}.png'), cv2.resize(scan, (16, 16)))
    return root


@pytest.fixture
def cfg(digit_images, tmp_path) -> Config:
    """The CIFAR-100 leaf on digits: narrow models, 2 epochs of 3 iterations."""
    cfg = read(f'ctkd_{CIFAR}')
    student = cfg.model.architecture
    cfg.model.architecture = narrow(student, 4)
    cfg.model.teacher = narrow(student, 8)
    cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
    torch.manual_seed(1)
    teacher = MODELS.build(copy.deepcopy(cfg.model.teacher))
    teacher.init_weights()
    teacher.head.fc.weight.data *= 100  # as sure as a trained one
    save_checkpoint(dict(state_dict=teacher.state_dict()), cfg.model.teacher_ckpt)
    for split, prefix in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=10, num_workers=0, persistent_workers=False)
        loader.dataset = dict(
            type='CustomDataset',
            data_root=str(digit_images),
            data_prefix=prefix,
            classes=[str(i) for i in range(10)],
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
        )
    cfg.train_cfg.max_epochs = 2
    cfg.work_dir, cfg.log_level = str(tmp_path / 'run'), 'ERROR'
    cfg.randomness = dict(seed=0)
    cfg.visualizer.name = cfg.experiment_name = str(tmp_path)  # one a name, a process
    return cfg


@pytest.mark.start
def test_row_i_of_both_logits_is_image_i(cfg):
    runner, steps = train_digits(cfg, **{'train_cfg.max_epochs': 1})
    teacher_weights = torch.load(cfg.model.teacher_ckpt)['state_dict']
    for side, name in (('S', 'architecture'), ('T', 'teacher')):
        model = MODELS.build(copy.deepcopy(cfg.model[name]))
        weights = teacher_weights if side == 'T' else steps[1]['student']
        model.load_state_dict(weights)
        model.train(side == 'S')
        data = runner.model.data_preprocessor(dict(inputs=steps[1]['images']))
        logits = model.head(model.extract_feat(data['inputs']))
        torch.testing.assert_close(logits, steps[1][f'preds_{side}'])
    taught_by = runner.model.teacher.state_dict()
    assert all(torch.equal(taught_by[k], v) for k, v in teacher_weights.items())


@pytest.mark.start
def test_the_loss_is_the_papers_and_tau_ascends_on_it(cfg):
    # Without decay, and with a ramp that ends, tau moves for the loss's sake alone.
    options = {'optim_wrapper.optimizer.weight_decay': 0, 'custom_hooks.0.end': 2}
    _, steps = train_digits(cfg, **options)
    assert [s['lambda_'] for s in steps] == pytest.approx(3 * [0.5] + 3 * [1.0])
    velocity = 0.0
    for s in steps:
        preds, h = (s['preds_S'], s['preds_T']), 1e-4
        loss = KL_WEIGHT * kl_at(s['raw'], *preds)
        assert s['losses']['distill.loss_kd'] == pytest.approx(loss, rel=1e-4)
        rise = kl_at(s['raw'] + h, *preds) - kl_at(s['raw'] - h, *preds)
        slope = KL_WEIGHT * rise / (2 * h)
        velocity = 0.9 * velocity + s['lambda_'] * slope  # descent would subtract
        change = s['raw_after'] - s['raw']
        assert change == pytest.approx(LR * velocity, rel=1e-2)
        assert change * slope > 0


def test_ddp_needs_no_search_for_unused_parameters(cfg, one_process_group):
    assert not cfg.get('find_unused_parameters')
    keys = dict(teacher_ckpt=None, data_preprocessor=cfg.data_preprocessor)
    model = MODELS.build({**cfg.model, **keys})
    model = MMDistributedDataParallel(model, find_unused_parameters=False)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    data = model.module.data_preprocessor(batch, training=True)
    for lambda_ in (0.0, 1.0, 1.0):  # after a step with an unused one DDP refuses
        set_lambda(model, lambda_)
        total, _ = model.module.parse_losses(model(**data, mode='loss'))
        total.backward()
    trained = (p for p in model.parameters() if p.requires_grad)
    assert all(p.grad is not None for p in trained)


@pytest.mark.start
def test_a_resumed_run_keeps_tau_and_every_weight(cfg):
    whole, steps = train_digits(cfg)
    first = str(Path(cfg.work_dir) / 'epoch_1.pth')
    resumed, rest = train_digits(cfg, resume=True, load_from=first)
    assert [s['raw'] for s in rest] == [s['raw'] for s in steps[3:]]
    assert rest[0]['raw'] != 1.0
    weights = resumed.model.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in whole.model.state_dict().items())


@pytest.mark.start
def test_the_train_tool_trains_it_and_the_student_comes_out(
    cfg, tmp_path, capsys, monkeypatch
):
    name = str(tmp_path / 'leaf.py')
    cfg.dump(name)
    monkeypatch.setattr(sys, 'argv', sys.argv)  # the tool's own from here on
    train([name, '--work-dir', cfg.work_dir, '--auto-scale-lr'])
    extract_student([str(Path(cfg.work_dir) / 'epoch_2.pth')])
    student = MODELS.build(cfg.model.architecture)
    weights = torch.load(capsys.readouterr().out.split()[-1])['state_dict']
    student.load_state_dict(weights)  # strictly
