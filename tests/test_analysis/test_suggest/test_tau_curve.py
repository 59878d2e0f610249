from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ctkd_mm import ConstantTemperature, CTKDLoss, DKDLoss
from ctkd_mm.analysis.suggest.shown_logits import Rows
from ctkd_mm.analysis.suggest.tau_curve import TauCurve

CTKD = CTKDLoss(ConstantTemperature(1))


def pair(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (66, 11) of a student and a teacher, in float64."""
    generator = torch.Generator().manual_seed(0)
    noise_S, noise_T = torch.randn(2, 66, 11, generator=generator).double()
    sure = torch.eye(11).double().repeat(6, 1)
    return {
        'random': (noise_S, noise_T),
        'close': (noise_T + 0.1 * noise_S, noise_T),
        'sure teacher': (0.01 * noise_S, 6 * sure + noise_T),
        'sure pair': (4 * sure + noise_S, 6 * sure + noise_T),
        'one class excluded': (0.01 * noise_S, -6 * sure + 0.1 * noise_T),
    }[kind]


KINDS = ['random', 'close', 'sure teacher', 'sure pair', 'one class excluded']


def rows_of(preds_S, preds_T, loss=CTKD) -> Rows:
    labels = preds_T.argmax(1)
    return Rows(preds_S, preds_T, labels, loss)


def curve_of(preds_S, preds_T, loss=CTKD) -> TauCurve:
    rows = rows_of(preds_S, preds_T, loss)
    return TauCurve(rows.loss, rows.scale())


def reference(preds_S, preds_T, tau: float) -> float:
    """tau² · KL by SciPy, mean over rows."""
    log_S, log_T = (log_softmax(z.numpy() / tau, axis=1) for z in (preds_S, preds_T))
    return tau**2 * (np.exp(log_T) * (log_T - log_S)).sum(1).mean()


@pytest.mark.parametrize('kind', KINDS)
def test_the_limit_is_half_the_variance_of_the_difference(kind):
    preds_S, preds_T = pair(kind)
    half = np.var((preds_T - preds_S).numpy(), axis=1).mean() / 2
    assert curve_of(preds_S, preds_T).limit == pytest.approx(half, rel=0.01)


@pytest.mark.parametrize('kind', ['sure teacher', 'sure pair'])
def test_the_peak_is_the_maximum(kind):
    preds = pair(kind)
    best = minimize_scalar(lambda tau: -reference(*preds, tau), (0.5, 50), (0.5, 50))
    curve = curve_of(*preds)
    assert curve.peak == pytest.approx(best.x, rel=1e-3)
    assert curve.supremum == pytest.approx(-best.fun, rel=0.01)


def test_a_curve_that_rises_to_its_limit_has_no_peak_and_yet_a_range():
    preds = pair('one class excluded')
    curve = curve_of(*preds)
    assert curve.peak is None
    limit = np.var((preds[1] - preds[0]).numpy(), axis=1).mean() / 2
    suggested = curve.tau_range()
    assert reference(*preds, suggested.tau_start) == pytest.approx(limit / 2, rel=0.01)


@pytest.mark.parametrize('kind', KINDS)
def test_floor_start_and_middle_are_at_5_50_and_95_percent(kind):
    preds = pair(kind)
    taus = np.geomspace(1e-3, 2e3, 150)
    highest = max(reference(*preds, tau) for tau in taus)
    floor, width, start = curve_of(*preds).tau_range()
    for tau, share in {floor: 0.05, start: 0.5, floor + width / 2: 0.95}.items():
        assert reference(*preds, tau) == pytest.approx(share * highest, rel=0.01)
        below = taus[taus < 0.99 * tau]
        assert all(reference(*preds, x) < share * highest for x in below)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('factor', [0.1, 3, 10])
def test_logits_times_a_give_a_range_times_a(kind, factor):
    preds_S, preds_T = pair(kind)
    want = curve_of(preds_S, preds_T).tau_range()
    # 7 and 5: an offset of a row means nothing to a softmax.
    found = curve_of(factor * preds_S + 7, factor * preds_T - 5).tau_range()
    assert found == pytest.approx([factor * value for value in want], rel=1e-4)


def test_decoupled_distillation_has_a_curve_of_its_own_that_scales_too():
    preds = pair('sure pair')
    dkd = DKDLoss(ConstantTemperature(1), alpha=1, beta=8)
    want = curve_of(*preds, dkd).tau_range()
    assert want != pytest.approx(curve_of(*preds).tau_range(), rel=0.05)
    found = curve_of(*(3 * preds_ for preds_ in preds), dkd).tau_range()
    assert found == pytest.approx([3 * value for value in want], rel=1e-4)


def test_models_that_agree_are_refused():
    preds = pair('random')[0]
    with pytest.raises(ValueError, match='agree everywhere'):
        curve_of(preds, preds)


def test_infinite_logits_are_refused():
    preds_S, preds_T = pair('random')
    preds_T[3, 4] = float('inf')
    with pytest.raises(ValueError, match='not all logits are finite'):
        curve_of(preds_S, preds_T)
