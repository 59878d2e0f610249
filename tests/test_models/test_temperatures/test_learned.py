from __future__ import annotations

import math

import pytest
import torch

from ctkd_mm import GlobalTemperature, InstanceTemperature
from ctkd_mm.registry import MODELS


def test_global_temperature_starts_where_the_paper_does():
    tau = GlobalTemperature()(None, None)
    assert tau.shape == (1,)
    assert tau.item() == pytest.approx(1 + 20 / (1 + math.exp(-1)), rel=1e-6)


@pytest.mark.parametrize('start', [1.01, 2.0, 11.0, 20.9])
def test_tau_start_is_in_units_of_tau(start):
    assert GlobalTemperature(tau_start=start)(None, None).item() == pytest.approx(
        start, rel=1e-5
    )


@pytest.mark.parametrize('start', [1.0, 21.0, 0.5, 30.0, '3'])
def test_tau_start_outside_the_range_is_refused(start):
    with pytest.raises(ValueError, match=f'tau_start .* got {start!r}'):
        GlobalTemperature(tau_start=start)


@pytest.mark.parametrize('value', [0, float('nan'), float('inf')])
@pytest.mark.parametrize('key', ['tau_init', 'tau_range'])
def test_floor_and_range_must_be_positive_and_finite(key, value):
    with pytest.raises(ValueError, match=f'{key} must be > 0 .* got {value}'):
        GlobalTemperature(**{key: value})


@pytest.mark.parametrize(('raw', 'bound'), [(-1e3, 1.0), (1e3, 21.0)])
def test_tau_never_leaves_its_range(raw, bound):
    temperature = GlobalTemperature()
    temperature.raw_tau.data.fill_(raw)
    assert temperature(None, None).item() == pytest.approx(bound)


def test_only_raw_tau_is_saved():
    assert list(GlobalTemperature().state_dict()) == ['raw_tau']


def test_instance_temperature_matches_its_formula():
    torch.manual_seed(0)
    temperature = InstanceTemperature(
        num_classes=3, hidden_channels=5, tau_init=0.5, tau_range=4.0
    ).double()
    preds_S, preds_T = torch.randn(2, 7, 4, dtype=torch.float64)
    tau = temperature(preds_S, preds_T)
    first, _, last = temperature.mlp
    probs = torch.cat(
        [p.exp() / p.exp().sum(1, keepdim=True) for p in (preds_T, preds_S)], 1
    )
    hidden = (probs @ first.weight.T + first.bias).clamp(min=0)
    raw = hidden @ last.weight.T + last.bias
    want = 0.5 + 4.0 / (1 + torch.exp(-raw))
    assert tau.shape == (7, 1)
    torch.testing.assert_close(tau, want, rtol=1e-12, atol=0)


def test_instance_temperature_starts_near_tau_start():
    torch.manual_seed(0)
    temperature = InstanceTemperature(num_classes=80, tau_start=2.0)
    tau = temperature(torch.randn(64, 81), torch.randn(64, 81))
    assert tau.mean().item() == pytest.approx(2.0, abs=0.3)


def test_instance_temperature_gives_the_student_no_gradient():
    preds_S = torch.randn(4, 4, requires_grad=True)
    tau = InstanceTemperature(num_classes=3)(preds_S, torch.randn(4, 4))
    tau.sum().backward()
    assert preds_S.grad is None


def test_the_last_tau_is_kept_detached_for_logging():
    temperature = GlobalTemperature(tau_start=3.0)
    assert temperature.tau is None
    temperature(None, None)
    assert temperature.tau.item() == pytest.approx(3.0)
    assert not temperature.tau.requires_grad


def test_configs_build_them_by_name():
    built = MODELS.build(dict(type='ctkd_mm.GlobalTemperature', tau_range=5))
    assert isinstance(built, GlobalTemperature)
