from __future__ import annotations

import copy
import math
import os
import re

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, find_latest_checkpoint
from torch.utils.data import Dataset

from ctkd_mm.engine.hooks.finite_hook import FiniteHook
from ctkd_mm.engine.launch import leave_group
from ctkd_mm.models.temperatures.learned import LearnedTemperature

NAN, INF = math.nan, math.inf
RAW_TAU = 'distiller.distill_losses.loss_kd.temperature.raw_tau'


class Scenes(Dataset):
    """The two images of a batch, over and over: eight iterations an epoch."""

    metainfo = {}

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return 16

    def __getitem__(self, index):
        image = self.batch['inputs'][index % 2].float()
        sample = copy.deepcopy(self.batch['data_samples'][index % 2])
        return dict(inputs=image, data_samples=sample)


class Meanwhile(Hook):
    """Acts before chosen iterations, counted from 1; keeps the state after each."""

    priority = 'LOWEST'

    def __init__(self, action, iterations):
        self.action, self.iterations, self.states = action, iterations, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.states.append(state(runner))
        if runner.iter + 1 in self.iterations:
            self.action(runner, data_batch)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.states.append(state(runner))


def state(runner):
    """Model, optimizer state and learning rate."""
    return copy.deepcopy(
        dict(
            model=runner.model.state_dict(),
            optimizer=runner.optim_wrapper.optimizer.state_dict()['state'],
            lr=runner.optim_wrapper.get_lr()['lr'][0],
        )
    )


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def poison_image(runner, data_batch):
    data_batch['inputs'][0][:] = NAN


def poison_gradient(runner, data_batch):
    """The loss stays finite: only what flows back to one weight does not."""
    weight = next(p for p in runner.model.parameters() if p.requires_grad)
    handle = weight.register_hook(lambda grad: (handle.remove(), grad * NAN)[1])


def poison_tau(runner, data_batch):
    (temperature,) = (
        m for m in runner.model.modules() if isinstance(m, LearnedTemperature)
    )
    temperature.raw_tau.data.fill_(NAN)


def train(
    tmp_path,
    model,
    batch,
    action,
    iterations=(6,),
    max_skips=0,
    hooks=(),
    launcher='none',
    **wrapper,
):
    """Build a run of 16 iterations that saves every second; return its watcher too."""
    watcher = Meanwhile(action, iterations)
    runner = Runner(
        launcher=launcher,
        cfg=dict(
            model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)
        ),
        model=model,
        work_dir=str(tmp_path / 'run'),
        train_dataloader=dict(
            batch_size=2,
            dataset=Scenes(batch),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=1e-4)
        )
        | wrapper,
        param_scheduler=dict(type='ConstantLR', factor=0.5, end=7, by_epoch=False),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False)
        ),
        custom_hooks=[
            dict(type='ctkd_mm.FiniteHook', max_skips=max_skips),
            *hooks,
            watcher,
        ],
        experiment_name=tmp_path.name,
        randomness=dict(seed=0),
    )
    return runner, watcher


def stopped(runner):
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    return str(error.value)


def weights(path):
    return torch.load(path, weights_only=False)['state_dict'].values()


@pytest.mark.parametrize(
    ('action', 'named'),
    [
        (poison_image, 'student.loss_cls = nan'),
        (poison_gradient, 'gradient of architecture.backbone.conv1.weight'),
        (poison_tau, 'tau of distiller.distill_losses.loss_kd.temperature = nan'),
    ],
)
def test_a_stop_leaves_the_weights_and_the_last_good_checkpoint(
    tmp_path, ctkd_cfg, batch, action, named
):
    runner, watcher = train(tmp_path, ctkd_cfg, batch, action)
    message = stopped(runner)
    assert named in message
    assert 'not finite in iteration 6, epoch 1' in message
    tau = re.search(r'temperature: tau = (\S+), lambda = 1\. ', message).group(1)
    raw = watcher.states[5]['model'][RAW_TAU].item()
    want = NAN if action is poison_tau else 1 + 20 / (1 + math.exp(-raw))
    assert float(tau) == pytest.approx(want, rel=1e-5, nan_ok=True)
    good = tmp_path / 'run' / 'iter_4.pth'
    assert f'Last checkpoint: {good}' in message
    assert find_latest_checkpoint(tmp_path / 'run') == str(good)
    assert not (tmp_path / 'run' / 'iter_6.pth').exists()
    assert all(value.isfinite().all() for value in weights(good))
    parameters = dict(runner.model.named_parameters())
    before = watcher.states[5]['model']
    changed = [k for k, p in parameters.items() if not torch.equal(p, before[k])]
    assert changed == [k for k in changed if k.endswith('raw_tau')]


def test_a_temperature_that_learns_nothing_is_named_too(tmp_path, ctkd_cfg, batch):
    def poison(runner, data_batch):
        runner.model.distiller.distill_losses.loss_kd.temperature.value = NAN

    constant = dict(type='ctkd_mm.ConstantTemperature', tau=2)
    ctkd_cfg['loss_kd']['temperature'] = constant
    message = stopped(train(tmp_path, ctkd_cfg, batch, poison)[0])
    assert 'tau of distiller.distill_losses.loss_kd.temperature = nan' in message
    assert 'lambda' not in message


@pytest.mark.parametrize('action', [poison_image, poison_gradient])
@pytest.mark.parametrize('optimizer', ['SGD', 'AdamW'])
def test_a_skipped_step_leaves_model_and_optimizer_as_they_were(
    tmp_path, student_cfg, batch, action, optimizer
):
    optimizer = dict(type=optimizer, lr=1e-3, weight_decay=0.1)
    runner, watcher = train(
        tmp_path, student_cfg, batch, action, max_skips=1, optimizer=optimizer
    )
    runner.train()
    _, *_, before, skipped, after = watcher.states[:8]
    assert equal(skipped['model'], before['model'])
    assert equal(skipped['optimizer'], before['optimizer'])
    assert not equal(after['model'], skipped['model'])
    assert runner.iter == 16


def test_schedules_go_on_over_a_skipped_step(tmp_path, student_cfg, batch):
    runner, watcher = train(
        tmp_path, student_cfg, batch, poison_image, iterations=(5, 6), max_skips=2
    )
    runner.train()
    rates = [state['lr'] for state in watcher.states]
    assert rates == [5e-4] * 6 + [1e-3] * 11


def test_one_more_than_max_skips_in_a_row_stops(tmp_path, student_cfg, batch):
    runner, watcher = train(
        tmp_path, student_cfg, batch, poison_image, (3, 4, 6, 7, 8), max_skips=2
    )
    assert 'not finite in iteration 8, epoch 1' in stopped(runner)
    (log,) = (tmp_path / 'run').glob('*/*.log')
    skipped = re.findall(r'Skipped: (\d) in a row, max_skips=2', log.read_text())
    assert skipped == ['1', '2', '1', '2']


def test_infinite_weights_are_not_saved(tmp_path, student_cfg, batch):
    def jump(runner, data_batch):
        runner.optim_wrapper.param_groups[0]['lr'] = 1e38

    runner, _ = train(tmp_path, student_cfg, batch, jump, clip_grad=dict(max_norm=1e3))
    message = stopped(runner)
    assert message.startswith('not saved: after 6 iterations these weights')
    assert 'roi_head.bbox_head.fc_cls.weight' in message
    assert find_latest_checkpoint(tmp_path / 'run').endswith('iter_4.pth')
    assert not (tmp_path / 'run' / 'iter_6.pth').exists()


def test_a_buffer_that_is_infinite_by_design_is_saved(tmp_path, student_cfg, batch):
    init_default_scope('mmdet')
    model = MODELS.build(student_cfg)
    model.register_buffer('mask', torch.tensor([0.0, -INF]))
    runner, _ = train(tmp_path, model, batch, None, iterations=())
    runner.train()
    path = find_latest_checkpoint(tmp_path / 'run')
    saved = torch.load(path, weights_only=False)['state_dict']
    assert torch.equal(saved['mask'], torch.tensor([0.0, -INF]))


@pytest.mark.parametrize('clip', [dict(max_norm=10), dict(type='value', clip_value=1)])
def test_clipping_hides_nothing(tmp_path, student_cfg, batch, clip):
    runner, _ = train(tmp_path, student_cfg, batch, poison_gradient, clip_grad=clip)
    assert 'gradient of ' in stopped(runner)


def test_a_large_finite_gradient_passes(tmp_path, student_cfg, batch):
    def enlarge(runner, data_batch):
        weight = runner.model.backbone.conv1.weight
        handle = weight.register_hook(lambda g: (handle.remove(), g * 0 + 1e30)[1])

    optimizer = dict(type='SGD', lr=1e-30)
    runner, _ = train(tmp_path, student_cfg, batch, enlarge, optimizer=optimizer)
    runner.train()
    assert runner.iter == 16


def accumulated(max_skips):
    return dict(accumulative_counts=4, max_skips=max_skips, iterations=(6,))


def test_accumulation_stops_in_the_bad_iteration(tmp_path, student_cfg, batch):
    runner, _ = train(tmp_path, student_cfg, batch, poison_image, **accumulated(0))
    assert 'not finite in iteration 6' in stopped(runner)


def test_accumulation_drops_the_bad_gradients_alone(tmp_path, student_cfg, batch):
    runner, watcher = train(
        tmp_path, student_cfg, batch, poison_image, **accumulated(1)
    )
    runner.train()
    assert all(p.isfinite().all() for p in runner.model.state_dict().values())
    moved = [
        not torch.equal(a['model']['rpn_head.rpn_conv.weight'], b)
        for a, b in zip(
            watcher.states,
            (s['model']['rpn_head.rpn_conv.weight'] for s in watcher.states[1:]),
        )
    ]
    assert moved == [False, False, False, True] * 4


SCALING = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='no loss scaling on a CPU before 2.3'
)


def scaled(**loss_scale):
    return dict(type='ctkd_mm.CPUAmpOptimWrapper', loss_scale=loss_scale)


@SCALING
def test_loss_scaling_may_overflow(tmp_path, student_cfg, batch):
    wrapper = scaled(init_scale=2.0**128 / 1.5, backoff_factor=2.0**-20)
    runner, watcher = train(tmp_path, student_cfg, batch, None, (), **wrapper)
    runner.train()
    start, dropped, *_, end = (s['model'] for s in watcher.states)
    name = 'rpn_head.rpn_conv.weight'
    assert torch.equal(start[name], dropped[name])
    assert not torch.equal(start[name], end[name])


@SCALING
def test_loss_scaling_does_not_hide_a_bad_loss(tmp_path, student_cfg, batch):
    runner, _ = train(tmp_path, student_cfg, batch, poison_image, **scaled())
    message = stopped(runner)
    assert 'not finite in iteration 6' in message
    assert 'loss_cls = nan' in message


@SCALING
def test_loss_scaling_does_not_hide_a_gradient_that_stays_bad(
    tmp_path, student_cfg, batch
):
    runner, watcher = train(
        tmp_path, student_cfg, batch, poison_gradient, range(17), **scaled(init_scale=8)
    )
    # 8, 4, 2 and 1 overflow: no scale is to blame.
    assert 'not finite in iteration 4, epoch 1: gradient' in stopped(runner)
    name = 'backbone.conv1.weight'
    assert torch.equal(
        runner.model.state_dict()[name], watcher.states[0]['model'][name]
    )


def test_ema_averages_finite_weights_over_a_skip(tmp_path, student_cfg, batch):
    runner, _ = train(
        tmp_path,
        student_cfg,
        batch,
        poison_image,
        max_skips=1,
        hooks=[dict(type='EMAHook', momentum=0.1, update_buffers=True)],
    )
    runner.train()
    path = find_latest_checkpoint(tmp_path / 'run')
    averaged = torch.load(path, weights_only=False)['ema_state_dict']
    assert len(averaged) > 100
    assert all(value.isfinite().all() for value in averaged.values())


def test_a_wrapped_model_is_watched(tmp_path, ctkd_cfg, batch, one_process_group):
    from mmengine.model import MMDistributedDataParallel

    runner, _ = train(tmp_path, ctkd_cfg, batch, poison_image)
    runner.model = MMDistributedDataParallel(runner.model)
    message = stopped(runner)
    assert 'student.loss_cls = nan' in message
    assert 'gradient of architecture.backbone.conv1.weight' in message


def test_a_second_training_is_watched_once(tmp_path, student_cfg, batch):
    runner, _ = train(tmp_path, student_cfg, batch, poison_image)
    stopped(runner)
    (hook,) = (h for h in runner.hooks if isinstance(h, FiniteHook))
    hook.before_train(runner)
    assert len(runner.optim_wrapper.optimizer._optimizer_step_pre_hooks) == 1
    assert len(runner.model._forward_hooks) == 1


def test_negative_max_skips_is_refused():
    with pytest.raises(ValueError, match='max_skips must be >= 0, got -1'):
        FiniteHook(max_skips=-1)


def poison_image_of_one(runner, data_batch):
    if get_rank() == 1:
        poison_image(runner, data_batch)


def train_one_of_two(rank, folder, cfg, batch):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    init_default_scope('mmdet')
    runner, _ = train(
        folder,
        cfg,
        batch,
        poison_image_of_one,
        accumulative_counts=4,
        max_skips=1,
        launcher='pytorch',
    )
    runner.train()
    torch.save(runner.model.module.state_dict(), folder / f'{rank}.pth')
    leave_group()


@pytest.mark.process
def test_all_processes_skip_what_one_cannot_use(tmp_path, student_cfg, batch):
    # Before the last of four accumulated batches no process sees another's gradient.
    torch.multiprocessing.spawn(
        train_one_of_two, (tmp_path, student_cfg, batch), nprocs=2
    )
    weights = [torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1)]
    trained = [key for key in weights[0] if 'running' not in key]
    assert all(torch.equal(*(w[key] for w in weights)) for key in trained)
    assert all(value.isfinite().all() for w in weights for value in w.values())
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert 'found by another process. Skipped: 1 in a row' in log.read_text()
