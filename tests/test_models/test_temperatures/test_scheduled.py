from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_run import Distilled, make_runner
from torch import nn

from ctkd_mm import GlobalTemperature
from ctkd_mm.analysis.run_log import read_scalars
from ctkd_mm.engine.hooks.curriculum_hook import TemperatureScheduleHook
from ctkd_mm.models.temperatures.scheduled import (
    CosineTemperature,
    LinearTemperature,
    set_progress,
)

SHARES = {
    LinearTemperature: [1 / 3, 2 / 3, 1, 1],
    CosineTemperature: [(1 - math.cos(math.pi * k / 3)) / 2 for k in (1, 2, 3, 3)],
}
LOGITS = torch.zeros(2, 3)


def hook_cfg(**kwargs):
    return dict(type='ctkd_mm.TemperatureScheduleHook', **kwargs)


def taus(model):
    return torch.cat(model.seen).tolist()


@pytest.mark.start
@pytest.mark.parametrize('kind', SHARES)
def test_tau_follows_epochs_and_is_logged(kind, tmp_path):
    model = Distilled(kind(4, 1))
    make_runner(tmp_path, model, hook_cfg(end=3)).train()
    want = [4 - 3 * share for share in SHARES[kind] for _ in range(6)]
    assert taus(model) == pytest.approx(want)
    lines = read_scalars(tmp_path)
    assert [line['tau'] for line in lines] == pytest.approx(want[1::2])


@pytest.mark.start
def test_tau_follows_iterations_and_waits_for_the_begin(tmp_path):
    model = Distilled(LinearTemperature(1, 5))
    loop = dict(by_epoch=False, max_iters=9)
    hook = hook_cfg(begin=3, end=7, by_epoch=False)
    make_runner(tmp_path, model, hook, loop).train()
    assert taus(model) == [1, 1, 1, 2, 3, 4, 5, 5, 5]


@pytest.mark.start
def test_a_resumed_run_goes_on_where_it_stopped(tmp_path):
    straight = Distilled(CosineTemperature(4, 1))
    make_runner(tmp_path / 'a', straight, hook_cfg(end=4)).train()
    first, second = (Distilled(CosineTemperature(4, 1)) for _ in range(2))
    short = dict(by_epoch=True, max_epochs=2)
    make_runner(tmp_path / 'b', first, hook_cfg(end=4), short).train()
    make_runner(tmp_path / 'b', second, hook_cfg(end=4), resume=True).train()
    assert taus(first) + taus(second) == taus(straight)


@pytest.mark.parametrize('kind', SHARES)
def test_nothing_is_learned_or_saved(kind):
    temperature = kind(4, 1)
    assert not list(temperature.parameters())
    assert not temperature.state_dict()


@pytest.mark.parametrize('kind', SHARES)
def test_tau_goes_from_begin_to_end_along_the_ramp(kind):
    temperature, found = kind(4, 1), []
    for share in (0, 1 / 3, 2 / 3, 1):
        assert set_progress(nn.Sequential(temperature), share) == 1
        found.append(temperature(LOGITS, LOGITS).item())
    assert found == pytest.approx([4] + [4 - 3 * share for share in SHARES[kind][:3]])


def test_tau_takes_the_logits_dtype_and_device():
    temperature = LinearTemperature(4, 1)
    assert set_progress(temperature, 0.5) == 1
    tau = temperature(LOGITS.double(), LOGITS)
    assert tau.dtype == torch.float64
    assert tau.tolist() == [2.5]
    assert temperature(LOGITS.to('meta'), LOGITS).device.type == 'meta'


def test_without_its_hook_the_loss_says_so():
    with pytest.raises(RuntimeError, match='LinearTemperature .*TemperatureSchedule'):
        LinearTemperature(4, 1)(LOGITS, LOGITS)


@pytest.mark.start
def test_a_model_without_a_schedule_is_refused_before_training(tmp_path):
    model = Distilled(GlobalTemperature())
    with pytest.raises(RuntimeError, match='no scheduled .*LinearTemperature'):
        make_runner(tmp_path, model, hook_cfg(end=3)).train()
    assert not model.seen


@pytest.mark.start
def test_epochs_without_an_epoch_based_loop_are_refused(tmp_path):
    model = Distilled(LinearTemperature(4, 1))
    loop = dict(by_epoch=False, max_iters=9)
    runner = make_runner(tmp_path, model, hook_cfg(end=3), loop)
    with pytest.raises(ValueError, match='TemperatureScheduleHook.*by_epoch=False'):
        runner.train()


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match='begin=3, end=3'):
        TemperatureScheduleHook(end=3, begin=3)


@pytest.mark.parametrize('value', [0, -1, float('nan'), float('inf')])
@pytest.mark.parametrize('key', ['tau_begin', 'tau_end'])
def test_both_ends_must_be_positive_and_finite(key, value):
    with pytest.raises(ValueError, match=f'{key} must be > 0 .* got {value}'):
        LinearTemperature(**{**dict(tau_begin=4, tau_end=1), key: value})
