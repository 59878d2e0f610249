from __future__ import annotations

import copy
import math
import re
from inspect import signature

import pytest
import torch
from helpers.logit_run import Distilled, Logits
from helpers.toy_run import two_programs
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner, find_latest_checkpoint

from ctkd_mm.engine.hooks.finite_hook import FiniteHook, _mean
from ctkd_mm.models.temperatures.fixed import ConstantTemperature
from ctkd_mm.models.temperatures.learned import GlobalTemperature
from ctkd_mm.registry import MODELS

pytestmark = pytest.mark.start

NAN, INF = math.nan, math.inf
WEIGHT = 'student.weight'


class Meanwhile(Hook):
    """Acts before chosen iterations, counted from 1; keeps the weights after each."""

    priority = 'LOWEST'

    def __init__(self, action, iterations):
        self.action, self.iterations, self.states = action, iterations, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.states.append(copy.deepcopy(runner.model.state_dict()))
        if runner.iter + 1 in self.iterations:
            self.action(runner, data_batch)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.states.append(copy.deepcopy(runner.model.state_dict()))


def poison_image(runner, data_batch):
    data_batch['inputs'][0][:] = NAN


def poison_gradient(runner, data_batch, factor=NAN):
    """The loss stays finite: only what flows back to one weight does not."""
    weight = next(p for p in runner.model.parameters() if p.requires_grad)
    handle = weight.register_hook(lambda grad: (handle.remove(), grad * factor)[1])


def poison_tau(runner, data_batch):
    runner.model.deep['loss'].temperature.raw_tau.data.fill_(NAN)


def build(tmp_path, action, iterations=(6,), model=None, data=None, **wrapper):
    """Build a run of 12 iterations that saves every second; return its watcher too."""
    watcher = Meanwhile(action, iterations)
    runner = Runner(
        model=model or Distilled(GlobalTemperature()),
        work_dir=str(tmp_path / 'run'),
        train_dataloader=data
        or dict(
            batch_size=4,
            dataset=Logits(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)) | wrapper,
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False)
        ),
        custom_hooks=[dict(type='ctkd_mm.FiniteHook'), watcher],
        experiment_name=tmp_path.name,
        randomness=dict(seed=0),
        default_scope='mmengine',
        log_level='WARNING',
    )
    return runner, watcher


def stopped(runner):
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    return str(error.value)


def weights(path):
    return torch.load(path)['state_dict'].values()


@pytest.mark.parametrize(
    ('action', 'named'),
    [
        (poison_image, 'loss = nan'),
        (poison_gradient, f'gradient of {WEIGHT}'),
        (poison_tau, 'tau of deep.loss.temperature = nan'),
    ],
)
def test_a_stop_leaves_the_weights_and_the_last_good_checkpoint(
    tmp_path, action, named
):
    runner, watcher = build(tmp_path, action)
    message = stopped(runner)
    assert named in message
    assert 'not finite in iteration 6, epoch 1' in message
    tau = re.search(r'temperature: tau = (\S+), lambda = 1\. ', message).group(1)
    raw = watcher.states[5]['deep.loss.temperature.raw_tau'].item()
    want = NAN if action is poison_tau else 1 + 20 / (1 + math.exp(-raw))
    assert float(tau) == pytest.approx(want, rel=1e-5, nan_ok=True)
    good = tmp_path / 'run' / 'iter_4.pth'
    assert f'Last checkpoint: {good}' in message
    assert find_latest_checkpoint(tmp_path / 'run') == str(good)
    assert not (tmp_path / 'run' / 'iter_6.pth').exists()
    assert all(value.isfinite().all() for value in weights(good))
    before = watcher.states[5]
    changed = {
        k for k, v in runner.model.state_dict().items() if (v != before[k]).any()
    }
    assert changed == (
        {'deep.loss.temperature.raw_tau'} if action is poison_tau else set()
    )


def test_a_detectors_losses_and_weights_are_named_under_a_wrapper(
    tmp_path, ctkd_cfg, batch, one_process_group
):
    data = dict(
        batch_size=2,
        dataset=[
            dict(inputs=i.float(), data_samples=s)
            for i, s in zip(batch['inputs'], batch['data_samples'])
        ],
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )
    runner, _ = build(tmp_path, poison_image, (2,), MODELS.build(ctkd_cfg), data)
    runner.model = MMDistributedDataParallel(runner.model)
    message = stopped(runner)
    assert 'student.loss_cls = nan' in message
    assert 'gradient of architecture.backbone.conv1.weight' in message


def test_a_temperature_that_learns_nothing_is_named_too(tmp_path):
    def poison(runner, data_batch):
        runner.model.deep['loss'].temperature.value = NAN

    model = Distilled(ConstantTemperature(2))
    message = stopped(build(tmp_path, poison, model=model)[0])
    assert 'tau of deep.loss.temperature = nan' in message
    assert 'lambda' not in message


def test_infinite_weights_are_not_saved(tmp_path):
    def jump(runner, data_batch):
        runner.optim_wrapper.param_groups[0]['lr'] = 1e38
        poison_gradient(runner, data_batch, 1e5)

    runner, _ = build(tmp_path, jump)
    message = stopped(runner)
    assert message.startswith('not saved: after 6 iterations these weights')
    assert WEIGHT in message
    assert find_latest_checkpoint(tmp_path / 'run').endswith('iter_4.pth')
    assert not (tmp_path / 'run' / 'iter_6.pth').exists()


def test_a_buffer_that_is_infinite_by_design_is_saved(tmp_path):
    model = Distilled(GlobalTemperature())
    model.register_buffer('mask', torch.tensor([0.0, -INF]))
    runner, _ = build(tmp_path, None, (), model)
    runner.train()
    saved = torch.load(find_latest_checkpoint(tmp_path / 'run'))['state_dict']
    assert torch.equal(saved['mask'], torch.tensor([0.0, -INF]))


@pytest.mark.parametrize('clip', [dict(max_norm=10), dict(type='value', clip_value=1)])
def test_clipping_hides_nothing(tmp_path, clip):
    runner, _ = build(tmp_path, poison_gradient, clip_grad=clip)
    assert 'gradient of ' in stopped(runner)


def test_a_large_finite_gradient_passes(tmp_path):
    def enlarge(runner, data_batch):  # its norm is infinite
        poison_gradient(runner, data_batch, 1e30)

    runner, watcher = build(tmp_path, enlarge, optimizer=dict(type='SGD', lr=1e-30))
    runner.train()
    assert not torch.equal(watcher.states[5][WEIGHT], watcher.states[6][WEIGHT])
    assert runner.iter == 12


def test_accumulation_stops_in_the_bad_iteration(tmp_path):
    runner, _ = build(tmp_path, poison_image, accumulative_counts=4)
    assert 'not finite in iteration 6' in stopped(runner)


SCALING = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='no loss scaling on a CPU before 2.3'
)

FUSED = pytest.mark.skipif(
    'fused' not in signature(torch.optim.SGD).parameters,
    reason='no fused SGD before 2.4',
)


def sgd(fused: bool) -> dict:
    options = dict(fused=True) if fused else {}
    return dict(type='SGD', lr=1e-3, momentum=0.9, **options)


def scaled(**loss_scale):
    return dict(type='ctkd_mm.CPUAmpOptimWrapper', loss_scale=loss_scale)


@SCALING
def test_loss_scaling_may_overflow(tmp_path):
    wrapper = scaled(init_scale=2.0**127, backoff_factor=2.0**-20)
    runner, watcher = build(
        tmp_path, lambda *args: poison_gradient(*args, 1e9), (1,), **wrapper
    )
    runner.train()
    start, dropped, *_, end = (state[WEIGHT] for state in watcher.states)
    assert torch.equal(start, dropped)
    assert not torch.equal(start, end)


@SCALING
def test_loss_scaling_does_not_hide_a_bad_loss(tmp_path):
    message = stopped(build(tmp_path, poison_image, **scaled())[0])
    assert 'not finite in iteration 6' in message
    assert 'loss = nan' in message


@SCALING
@pytest.mark.parametrize('fused', [False, pytest.param(True, marks=FUSED)])
def test_loss_scaling_does_not_hide_a_gradient_that_stays_bad(tmp_path, fused):
    # A fused optimizer drops a step inside of it.
    wrapper = scaled(init_scale=8) | dict(optimizer=sgd(fused))
    runner, watcher = build(tmp_path, poison_gradient, range(17), **wrapper)
    # 8, 4, 2 and 1 overflow: no scale is to blame.
    assert 'not finite in iteration 4, epoch 1: gradient' in stopped(runner)
    assert torch.equal(runner.model.state_dict()[WEIGHT], watcher.states[0][WEIGHT])


@pytest.mark.process
@pytest.mark.parametrize('accumulate', [1, 4])
def test_what_one_process_finds_stops_all_with_the_same_words(tmp_path, accumulate):
    # With accumulation the iteration ends without a step.
    words = ('inf=4', 'rank=1', f'accumulate={accumulate}')
    for process in two_programs(tmp_path, *words):
        output, _ = process.communicate(timeout=120)
        assert 'not finite in iteration 5, epoch 1: loss = inf on rank 1. The' in output
        assert process.returncode == 1


def test_a_second_training_is_watched_once(tmp_path):
    runner, _ = build(tmp_path, poison_image)
    stopped(runner)
    (hook,) = (h for h in runner.hooks if isinstance(h, FiniteHook))
    hook.before_train(runner)
    assert len(runner.optim_wrapper.optimizer._optimizer_step_pre_hooks) == 1
    assert len(runner.model._forward_hooks) == 1


def test_the_kept_losses_hold_no_graph():
    logits = torch.ones(2, requires_grad=True)
    mean = _mean([logits * 2, logits.exp()])
    assert not mean.requires_grad
    assert mean.item() == pytest.approx(2 + math.e)
