from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_run import Distilled, make_runner
from mmengine.model import MMDistributedDataParallel

from ctkd_mm import (
    GlobalTemperature,
    InstanceTemperature,
    cosine_curriculum,
)
from ctkd_mm.analysis.run_log import read_scalars
from ctkd_mm.engine.hooks.curriculum_hook import CurriculumHook


def test_equals_the_papers_first_epochs():
    got = [cosine_curriculum(epoch, end=5) for epoch in range(7)]
    want = [0.0954915, 0.3454915, 0.6545085, 0.9045085, 1.0, 1.0, 1.0]
    assert got == pytest.approx(want, abs=1e-7)


def test_begin_and_bounds_shift_and_scale_the_ramp():
    got = [
        cosine_curriculum(epoch, end=6, begin=2, lambda_min=0.2, lambda_max=0.6)
        for epoch in range(8)
    ]
    ramp = [0.2 + 0.4 * (1 - math.cos(math.pi * p / 4)) / 2 for p in (1, 2, 3, 4)]
    assert got == pytest.approx([0.2, 0.2, *ramp, 0.6, 0.6])


def test_empty_range_is_refused():
    with pytest.raises(ValueError, match='begin=3, end=3'):
        CurriculumHook(end=3, begin=3)


@pytest.mark.parametrize('value', [-1, float('nan'), float('inf')])
@pytest.mark.parametrize('key', ['lambda_min', 'lambda_max'])
def test_a_negative_or_infinite_lambda_is_refused(key, value):
    with pytest.raises(ValueError, match=f'{key} must be >= 0 .* got {value}'):
        CurriculumHook(end=3, **{key: value})
    with pytest.raises(ValueError, match=f'{key} must be >= 0 .* got {value}'):
        cosine_curriculum(0, end=3, **{key: value})


def hook_cfg(**kwargs):
    return dict(type='ctkd_mm.CurriculumHook', **kwargs)


@pytest.mark.start
def test_lambda_follows_epochs_and_is_logged_with_tau(tmp_path):
    model = Distilled(GlobalTemperature(tau_start=3.0))
    runner = make_runner(tmp_path, model, hook_cfg(end=3))
    runner.train()
    # 24 iterations, logged every second: tau is fetched for no other.
    assert len(runner.message_hub.get_scalar('train/tau').data[0]) == 12
    want = [cosine_curriculum(epoch, end=3) for epoch in range(4)]
    assert model.seen == [value for value in want for _ in range(6)]
    lines = read_scalars(tmp_path)
    assert [line['lambda'] for line in lines] == [v for v in want for _ in range(3)]
    assert lines[0]['tau'] == pytest.approx(3.0, abs=0.1)
    assert lines[-1]['tau'] == model.deep['loss'].temperature.tau.item()


@pytest.mark.start
def test_tensorboard_shows_tau_and_lambda(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = Distilled(GlobalTemperature())
    make_runner(tmp_path, model, hook_cfg(end=3)).train()
    (events,) = tmp_path.glob('*/vis_data/**/events*')
    scalars = EventAccumulator(str(events)).Reload()
    assert scalars.Scalars('lambda')[0].value == pytest.approx(0.25)
    assert scalars.Scalars('tau')[0].value == pytest.approx(15.62, abs=0.01)


@pytest.mark.start
def test_lambda_follows_iterations(tmp_path):
    model = Distilled(GlobalTemperature())
    make_runner(
        tmp_path,
        model,
        hook_cfg(end=6, by_epoch=False),
        train_cfg=dict(by_epoch=False, max_iters=9),
    ).train()
    assert model.seen == [cosine_curriculum(i, end=6) for i in range(9)]


@pytest.mark.start
def test_instance_temperature_logs_its_spread(tmp_path):
    model = Distilled(InstanceTemperature(4))
    make_runner(tmp_path, model, hook_cfg(end=3)).train()
    line = read_scalars(tmp_path)[-1]
    assert line['tau_min'] < line['tau'] < line['tau_max']
    last = model.deep['loss'].temperature.tau
    assert line['tau_max'] == pytest.approx(last.max().item())


@pytest.mark.start
def test_resumed_run_continues_the_ramp(tmp_path):
    straight = Distilled(GlobalTemperature())
    make_runner(tmp_path / 'a', straight, hook_cfg(end=4)).train()
    torch.manual_seed(0)
    first = Distilled(GlobalTemperature())
    short = dict(by_epoch=True, max_epochs=2)
    make_runner(tmp_path / 'b', first, hook_cfg(end=4), train_cfg=short).train()
    second = Distilled(GlobalTemperature())
    make_runner(tmp_path / 'b', second, hook_cfg(end=4), resume=True).train()
    assert first.seen + second.seen == straight.seen


@pytest.mark.start
def test_no_gradient_reversal_is_refused_before_training(tmp_path):
    class Plain(Distilled):
        def forward(self, inputs, mode='loss'):
            raise AssertionError('trained')

    model = Plain(GlobalTemperature())
    model.deep = torch.nn.ModuleDict()
    with pytest.raises(RuntimeError, match='no GradientReversal .*CTKDLoss'):
        make_runner(tmp_path, model, hook_cfg(end=3)).train()


@pytest.mark.start
def test_epochs_without_an_epoch_based_loop_are_refused(tmp_path):
    runner = make_runner(
        tmp_path,
        Distilled(GlobalTemperature()),
        hook_cfg(end=3),
        train_cfg=dict(by_epoch=False, max_iters=9),
    )
    with pytest.raises(ValueError, match='by_epoch=False'):
        runner.train()


@pytest.mark.start
def test_works_under_a_ddp_wrapper(tmp_path, one_process_group):
    model = Distilled(GlobalTemperature())
    runner = make_runner(
        tmp_path,
        model,
        hook_cfg(end=3),
        launcher='pytorch',
        cfg=dict(
            model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)
        ),
    )
    assert isinstance(runner.model, MMDistributedDataParallel)
    runner.train()
    assert model.seen[::6] == [cosine_curriculum(epoch, end=3) for epoch in range(4)]
    assert 'tau' in read_scalars(tmp_path)[-1]
