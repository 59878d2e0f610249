from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from ctkd_mm import GlobalTemperature, InstanceTemperature, kd_kl_div
from ctkd_mm.models.losses.dkd_loss import DKDLoss, dkd_kl_div
from ctkd_mm.models.temperatures.fixed import ConstantTemperature

LABELS = torch.tensor([0, 3, 4, 4, 1, 2])  # 4 is the background
TAU_SHAPES = [(1,), (6, 1), (6, 2)]


def published(preds_S: Tensor, preds_T: Tensor, labels, tau, alpha, beta) -> Tensor:
    """The paper's formula as its authors compute it, RoI by RoI."""
    total = 0
    for z_S, z_T, label, t in zip(
        preds_S, preds_T, labels, tau.expand(len(labels), -1)
    ):
        z_S, z_T = z_S / t[0], z_T / t[-1]
        target = F.one_hot(label, len(z_S)).bool()
        b_S, b_T = (
            torch.stack([p[target].sum(), p[~target].sum()])
            for p in (z_S.softmax(0), z_T.softmax(0))
        )
        tckd = F.kl_div(b_S.log(), b_T, reduction='sum')
        masked_S, masked_T = z_S - 1000.0 * target, z_T - 1000.0 * target
        nckd = F.kl_div(masked_S.log_softmax(0), masked_T.softmax(0), reduction='sum')
        total = total + t[0] * t[-1] * (alpha * tckd + beta * nckd)
    return total / len(labels)


def logits(rows=6, classes=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, rows, classes, generator=generator, dtype=dtype) * 3


def some_tau(shape):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 3 + 0.5


@pytest.mark.parametrize('alpha, beta', [(1, 0.25), (1, 8), (0, 1), (2, 0)])
@pytest.mark.parametrize('shape', TAU_SHAPES)
def test_equals_the_published_formula(shape, alpha, beta):
    preds_S, preds_T = logits()
    tau = some_tau(shape)
    ours = dkd_kl_div(preds_S, preds_T, LABELS, tau, alpha, beta)
    want = published(preds_S, preds_T, LABELS, tau, alpha, beta)
    assert ours.item() == pytest.approx(want.item(), rel=1e-9)


@pytest.mark.parametrize('shape', TAU_SHAPES)
def test_with_the_teachers_weighting_back_it_is_plain_kl(shape):
    preds_S, preds_T = logits()
    tau = some_tau(shape).expand(6, -1)
    for i, label in enumerate(LABELS):
        row = preds_S[i : i + 1], preds_T[i : i + 1]
        tckd, nckd = (
            dkd_kl_div(*row, label[None], tau[i : i + 1], alpha, 1 - alpha)
            for alpha in (1, 0)
        )
        p_T = (preds_T[i] / tau[i, -1]).softmax(0)[label]
        kl = kd_kl_div(*row, tau[i : i + 1])
        assert (tckd + (1 - p_T) * nckd).item() == pytest.approx(kl.item(), rel=1e-9)


def test_is_the_mean_of_what_mmrazor_sums():
    from mmrazor.models.losses import DKDLoss as MMRazorDKDLoss

    preds_S, preds_T = logits()
    loss = DKDLoss(ConstantTemperature(2), alpha=1, beta=0.25, loss_weight=3)
    theirs = MMRazorDKDLoss(tau=2, alpha=1, beta=0.25, reduction='mean', loss_weight=3)
    ours = loss(preds_S, preds_T, LABELS)
    torch.testing.assert_close(6 * ours, theirs(preds_S, preds_T, LABELS))


@pytest.mark.parametrize('shape', TAU_SHAPES)
def test_gradient_is_right_for_student_and_tau(shape):
    preds_S, preds_T = logits()
    inputs = preds_S.requires_grad_(), some_tau(shape).requires_grad_()
    assert gradcheck(lambda s, t: dkd_kl_div(s, preds_T, LABELS, t, 1, 2), inputs)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_value_and_gradients_where_shares_underflow(dtype):
    # Student sure of the target, class 0; teacher sure of class 1. At tau near 1,
    # TCKD = 1000 / tau - log 2 and NCKD = log 2, both times tau².
    preds_S = torch.tensor([[1000.0, 0, 0]], dtype=dtype, requires_grad=True)
    preds_T = torch.tensor([[0, 1000.0, 0]], dtype=dtype)
    tau = torch.ones(1, dtype=dtype, requires_grad=True)
    value = dkd_kl_div(preds_S, preds_T, torch.tensor([0]), tau, alpha=1, beta=2)
    value.backward()
    assert value.item() == pytest.approx(1000 + math.log(2), rel=1e-6)
    want = torch.tensor([[1.0, -1.5, 0.5]], dtype=dtype)
    # The gap of 1000 itself is rounded, by 3e-5 in float32.
    torch.testing.assert_close(preds_S.grad, want, rtol=1e-4, atol=0)
    assert tau.grad.item() == pytest.approx(1000 + 2 * math.log(2), rel=1e-4)


def test_value_and_gradients_where_both_are_sure_of_the_target():
    # 1 - p underflows in both models: TCKD is 0, and NCKD alone is left.
    preds_S = torch.tensor([[1000.0, 0, 0]], requires_grad=True)
    preds_T = torch.tensor([[1000.0, math.log(3), 0]])
    tau = torch.ones(1, requires_grad=True)
    value = dkd_kl_div(preds_S, preds_T, torch.tensor([0]), tau)
    value.backward()
    nckd = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert value.item() == pytest.approx(0.25 * nckd, rel=1e-3)
    want = torch.tensor([[0, 0.25 * (0.5 - 0.75), 0.25 * (0.5 - 0.25)]])
    torch.testing.assert_close(preds_S.grad, want, rtol=1e-3, atol=1e-6)
    # d/dtau of tau² NCKD(tau): 2 NCKD - Var_T(z_T) + Cov_T(z_T, z_S) with z_S = 0.
    spread = 0.75 * 0.25 * math.log(3) ** 2
    assert tau.grad.item() == pytest.approx(0.25 * (2 * nckd - spread), abs=2e-4)


def test_a_constant_added_to_a_row_changes_nothing():
    preds_S, preds_T = logits()
    tau = some_tau((1,))
    shift = torch.arange(6.0, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        dkd_kl_div(preds_S + shift, preds_T - 7, LABELS, tau),
        dkd_kl_div(preds_S, preds_T, LABELS, tau),
    )


def test_equal_logits_give_exactly_zero():
    preds = logits(dtype=torch.float32)[0] * 100
    assert dkd_kl_div(preds, preds, LABELS, torch.ones(1)).item() == 0


def test_teacher_logits_get_no_gradient():
    preds_S, preds_T = logits(dtype=torch.float32).requires_grad_().unbind()
    preds_T.retain_grad()
    DKDLoss(GlobalTemperature())(preds_S, preds_T, LABELS).backward()
    assert preds_T.grad is None


@pytest.mark.parametrize('temperature', [GlobalTemperature(), InstanceTemperature(4)])
def test_zero_rois_give_a_zero_with_a_graph(temperature):
    loss = DKDLoss(temperature)
    preds_S = torch.zeros(0, 5, requires_grad=True)
    value = loss(preds_S, torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    assert value.item() == 0
    value.backward()
    assert preds_S.grad.shape == (0, 5)
    assert all(p.grad is not None for p in loss.parameters())


def test_a_single_column_gives_a_zero_and_zero_gradients():
    preds_S = torch.tensor([[3.0], [-2.0]], requires_grad=True)
    tau = torch.ones(1, requires_grad=True)
    labels = torch.zeros(2, dtype=torch.int64)
    value = dkd_kl_div(preds_S, torch.tensor([[1.0], [5.0]]), labels, tau)
    value.backward()
    assert value.item() == tau.grad.item() == 0
    assert preds_S.grad.tolist() == [[0], [0]]


def test_computed_in_float32_inside_autocast():
    preds_S, preds_T = logits(dtype=torch.bfloat16)
    loss = DKDLoss(InstanceTemperature(4))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = loss(preds_S, preds_T, LABELS)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(preds_S.float(), preds_T.float(), LABELS))


@pytest.mark.parametrize(
    'labels',
    [
        LABELS - 1,
        LABELS + 1,
        LABELS[:5],
        LABELS.repeat(2),
        LABELS[:, None],
        LABELS.float(),
    ],
    ids=['negative', 'too large', 'too few', 'too many', 'a column', 'float'],
)
def test_labels_that_are_no_class_indices_never_pass(labels):
    assert {0, 4} <= set(LABELS.tolist())
    with pytest.raises(RuntimeError):  # PyTorch's
        dkd_kl_div(*logits(), labels, some_tau((1,)))


@pytest.mark.parametrize('name', ['alpha', 'beta'])
@pytest.mark.parametrize('value', [-1, math.nan, math.inf])
def test_a_negative_or_infinite_factor_is_refused(name, value):
    with pytest.raises(ValueError, match=f'{name} must be >= 0 .* got {value}'):
        DKDLoss(ConstantTemperature(1), **{name: value})
