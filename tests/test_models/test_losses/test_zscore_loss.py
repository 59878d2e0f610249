from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from ctkd_mm import CTKDLoss, GlobalTemperature
from ctkd_mm.models.losses.dkd_loss import DKDLoss
from ctkd_mm.models.losses.zscore_loss import NormKDLoss, ZScoreLoss
from ctkd_mm.models.temperatures.fixed import (
    ConstantTemperature,
    SpreadTemperature,
    spread,
)


def logits(rows=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, rows, classes, generator=generator).double() * 3


def softmax(z):
    return z.exp() / z.exp().sum(1, keepdim=True)


def sigma(z):
    """Standard deviation from its definition, C - 1 below."""
    deviation = z - z.sum(1, keepdim=True) / z.size(1)
    return ((deviation**2).sum(1, keepdim=True) / (z.size(1) - 1)).sqrt()


def published_z_score(z_S, z_T, tau):
    """Algorithm 2 of Logit Standardization, in probabilities."""
    p_S, p_T = (
        softmax((z - z.mean(1, keepdim=True)) / sigma(z) / tau) for z in (z_S, z_T)
    )
    return tau**2 * (p_T * (p_T / p_S).log()).sum() / len(z_S)


def published_normkd(z_S, z_T, scale):
    """NormKD with its own factor, the teacher's temperature squared."""
    p_S, p_T = softmax(z_S / (scale * sigma(z_S))), softmax(z_T / (scale * sigma(z_T)))
    kl = (p_T * (p_T / p_S).log()).sum(1, keepdim=True)
    return ((scale * sigma(z_T)) ** 2 * kl).mean()


def z_score_loss():
    return ZScoreLoss(CTKDLoss(ConstantTemperature(2)))


def normkd_loss():
    return NormKDLoss(CTKDLoss(SpreadTemperature(1.5)))


CASES = [(z_score_loss, published_z_score, 2), (normkd_loss, published_normkd, 1.5)]


@pytest.mark.parametrize(('build', 'published', 'number'), CASES)
def test_value_and_gradient_are_the_published_ones(build, published, number):
    preds_S, preds_T = logits()
    ours, theirs = (preds_S.clone().requires_grad_() for _ in range(2))
    got, want = build()(ours, preds_T), published(theirs, preds_T, number)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    # The published gradient runs through the student's sigma too.
    (got_grad,) = torch.autograd.grad(got, ours)
    (want_grad,) = torch.autograd.grad(want, theirs)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('build', [z_score_loss, normkd_loss])
def test_the_gradient_matches_finite_differences(build):
    preds_S, preds_T = logits(rows=3)
    assert gradcheck(lambda s: build()(s, preds_T), preds_S.requires_grad_())


@pytest.mark.parametrize('build', [z_score_loss, normkd_loss])
def test_the_teacher_gets_no_gradient(build):
    preds_S, preds_T = (z.clone().requires_grad_() for z in logits())
    build()(preds_S, preds_T).backward()
    assert preds_S.grad is not None
    assert preds_T.grad is None


@pytest.mark.parametrize('build', [z_score_loss, normkd_loss])
def test_the_size_and_mean_of_the_students_logits_do_not_matter(build):
    preds_S, preds_T = logits()
    want = build()(preds_S, preds_T)
    torch.testing.assert_close(
        build()(7 * preds_S - 3, preds_T), want, rtol=1e-6, atol=0
    )


def test_a_learned_temperature_inside_has_the_gradient_of_the_formula():
    preds_S, preds_T = logits()
    loss = ZScoreLoss(CTKDLoss(GlobalTemperature(tau_start=2.0).double()))
    (raw_tau,) = loss.parameters()
    tau = loss.loss.temperature(None, None)
    want = published_z_score(preds_S, preds_T, tau).sum()
    (want_grad,) = torch.autograd.grad(want, raw_tau)
    (got_grad,) = torch.autograd.grad(loss(preds_S, preds_T), raw_tau)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-9, atol=0)
    assert got_grad != 0


@pytest.mark.parametrize('kind', [ZScoreLoss, NormKDLoss])
def test_mmrazors_loss_stands_inside_as_well(kind):
    from mmrazor.models.losses import KLDivergence

    preds_S, preds_T = logits()
    ours = kind(CTKDLoss(ConstantTemperature(3)))(preds_S, preds_T)
    theirs = kind(dict(type='mmrazor.KLDivergence', tau=3))
    assert isinstance(theirs.loss, KLDivergence)
    torch.testing.assert_close(theirs(preds_S, preds_T), ours)


def published_dkd(z_S, z_T, labels, factor):
    """DKD of logits that are tempered already, row by row."""
    total = 0.0
    for row, label in enumerate(labels):
        p_S, p_T = softmax(z_S)[row], softmax(z_T)[row]
        others = torch.arange(len(p_S)) != label
        target = p_T[label] * (p_T[label] / p_S[label]).log()
        rest = (1 - p_T[label]) * ((1 - p_T[label]) / (1 - p_S[label])).log()
        q_S, q_T = p_S[others] / p_S[others].sum(), p_T[others] / p_T[others].sum()
        total += factor[row] * (target + rest + 8 * (q_T * (q_T / q_S).log()).sum())
    return total / len(labels)


def test_dkd_inside_gets_its_labels():
    preds_S, preds_T = logits(rows=3)
    labels = torch.tensor([1, 4, 0])
    loss = ZScoreLoss(DKDLoss(ConstantTemperature(2), beta=8))
    tempered = [
        (z - z.mean(1, keepdim=True)) / sigma(z) / 2 for z in (preds_S, preds_T)
    ]
    want = published_dkd(*tempered, labels, torch.full((3,), 4.0))
    got = loss(preds_S, preds_T, labels=labels)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)


def test_normkd_with_dkd_inside_is_the_authors_combination():
    preds_S, preds_T = logits(rows=3)
    labels = torch.tensor([1, 4, 0])
    loss = NormKDLoss(DKDLoss(SpreadTemperature(2), beta=8))
    tempered = [z / (2 * sigma(z)) for z in (preds_S, preds_T)]
    want = published_dkd(*tempered, labels, (2 * sigma(preds_T)).square()[:, 0])
    got = loss(preds_S, preds_T, labels=labels)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)


@pytest.mark.parametrize('build', [z_score_loss, normkd_loss])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_standardised_in_float32(build, dtype):
    preds_S, preds_T = (z.to(dtype) for z in logits())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = build()(preds_S, preds_T)
    want = build()(preds_S.double(), preds_T.double())
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)


@pytest.mark.parametrize('build', [z_score_loss, normkd_loss])
def test_rows_of_equal_logits_and_no_rows_stay_finite(build):
    preds_S, preds_T = logits()
    preds_S[0], preds_T[1] = 2.0, -3.0
    preds_S.requires_grad_()
    loss = build()(preds_S, preds_T)
    loss.backward()
    assert loss.isfinite()
    assert preds_S.grad.isfinite().all()
    empty = torch.zeros(0, 5, requires_grad=True)
    build()(empty, empty.detach()).backward()
    assert empty.grad.shape == (0, 5)


@pytest.mark.parametrize('shape', [(5,), (3, 1)])
def test_logits_without_a_spread_are_refused(shape):
    with pytest.raises(ValueError, match=r'\(N, C\) with C >= 2, got \(\d'):
        spread(torch.zeros(shape))
