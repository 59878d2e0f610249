from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from ctkd_mm import (
    CTKDLoss,
    GlobalTemperature,
    InstanceTemperature,
    kd_kl_div,
    set_lambda,
)


def reference(preds_S: np.ndarray, preds_T: np.ndarray, tau: np.ndarray) -> float:
    """The paper's formula, RoI by RoI and class by class."""
    total = 0.0
    for z_S, z_T, t in zip(preds_S, preds_T, np.broadcast_to(tau, (len(preds_S), 1))):
        p_S, p_T = (np.exp(z / t) / np.exp(z / t).sum() for z in (z_S, z_T))
        total += t[0] ** 2 * sum(p_T * np.log(p_T / p_S))
    return total / len(preds_S)


def logits(rows=6, classes=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, rows, classes, generator=generator, dtype=dtype) * 3


@pytest.mark.parametrize('shape', [(1,), (6, 1)])
def test_equals_the_formula_in_float64(shape):
    preds_S, preds_T = logits()
    tau = torch.rand(shape, dtype=torch.float64) * 5 + 0.5
    want = reference(preds_S.numpy(), preds_T.numpy(), tau.numpy())
    assert kd_kl_div(preds_S, preds_T, tau).item() == pytest.approx(want, rel=1e-12)


def test_equals_mmrazors_kl_divergence_and_not_mmdetections():
    from mmdet.models.losses import KnowledgeDistillationKLDivLoss
    from mmrazor.models.losses import KLDivergence

    preds_S, preds_T = logits(rows=8, classes=81)
    ours = kd_kl_div(preds_S, preds_T, torch.full((1,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(ours, KLDivergence(tau=3.0)(preds_S, preds_T))
    mean_over_classes = KnowledgeDistillationKLDivLoss(T=3)(preds_S, preds_T)
    torch.testing.assert_close(ours, 81 * mean_over_classes)


def test_loss_is_two_homogeneous_in_temperature_and_logits():
    preds_S, preds_T = logits()
    tau = torch.full((1,), 2.0, dtype=torch.float64)
    torch.testing.assert_close(
        kd_kl_div(7 * preds_S, 7 * preds_T, 7 * tau),
        49 * kd_kl_div(preds_S, preds_T, tau),
    )


@pytest.mark.parametrize('shape', [(1,), (6, 1)])
def test_gradient_is_right_for_student_and_tau(shape):
    preds_S, preds_T = logits()
    tau = (torch.rand(shape, dtype=torch.float64) * 3 + 1).requires_grad_()
    preds_S.requires_grad_()
    assert gradcheck(lambda s, t: kd_kl_div(s, preds_T, t), (preds_S, tau))


def test_gradient_is_right_for_the_raw_temperature_before_the_reversal():
    preds_S, preds_T = logits()
    loss = CTKDLoss(GlobalTemperature(tau_range=5.0).double(), loss_weight=0.7)
    set_lambda(loss, -1.0)  # makes the reversal an identity both ways

    def value(student, raw):
        weights = {'temperature.raw_tau': raw}
        return torch.func.functional_call(loss, weights, (student, preds_T))

    raw = loss.temperature.raw_tau.detach().requires_grad_()
    assert gradcheck(value, (preds_S.requires_grad_(), raw))


@pytest.mark.parametrize('lambda_', [0.0, 0.3454915, 1.0])
def test_raw_gradient_is_exactly_minus_lambda_times_the_plain_one(lambda_):
    preds_S, preds_T = logits()

    loss = CTKDLoss(GlobalTemperature().double())
    set_lambda(loss, lambda_)
    loss(preds_S, preds_T).backward()
    raw = torch.ones(1, dtype=torch.float64, requires_grad=True)
    kd_kl_div(preds_S, preds_T, 1.0 + 20.0 * raw.sigmoid()).backward()
    assert raw.grad.abs() > 0.01
    assert torch.equal(loss.temperature.raw_tau.grad, -lambda_ * raw.grad)


def test_gradient_descent_climbs_in_tau():
    preds_S, preds_T = logits()
    loss = CTKDLoss(GlobalTemperature(tau_range=5.0).double())
    before = loss(preds_S, preds_T)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1e-2)
    before.backward()
    optimizer.step()
    assert loss(preds_S, preds_T) > before


def test_teacher_logits_get_no_gradient():
    preds_S, preds_T = logits()
    preds_T.requires_grad_()
    preds_S.requires_grad_()
    CTKDLoss(InstanceTemperature(4).double())(preds_S, preds_T).backward()
    assert preds_T.grad is None
    assert preds_S.grad.abs().sum() > 0


@pytest.mark.parametrize('temperature', [GlobalTemperature(), InstanceTemperature(4)])
def test_zero_rois_give_a_zero_with_a_graph(temperature):
    loss = CTKDLoss(temperature)
    preds_S = torch.zeros(0, 5, requires_grad=True)
    value = loss(preds_S, torch.zeros(0, 5))
    assert value.item() == 0
    value.backward()
    assert preds_S.grad.shape == (0, 5)
    assert all(p.grad is not None for p in loss.parameters())


@pytest.mark.parametrize('raw', [-1e3, 1e3])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_finite_for_extreme_logits_at_both_bounds_of_tau(raw, dtype):
    loss = CTKDLoss(GlobalTemperature())
    loss.temperature.raw_tau.data.fill_(raw)
    preds_S = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 0]], dtype=dtype)
    preds_S.requires_grad_()
    value = loss(preds_S, preds_S.detach().flip(0))
    value.backward()
    # Each row: all the teacher's mass on one class, 2e4 / tau nats away.
    tau = 1.0 if raw < 0 else 21.0
    assert value.item() == pytest.approx(tau**2 * 2e4 / tau, rel=1e-4)
    assert preds_S.grad.isfinite().all()
    assert loss.temperature.raw_tau.grad.isfinite().all()


def test_computed_in_float32_inside_autocast():
    preds_S, preds_T = logits(rows=64, classes=81, dtype=torch.bfloat16)
    loss = CTKDLoss(InstanceTemperature(80))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = loss(preds_S, preds_T)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(preds_S.float(), preds_T.float()))


def test_shape_mismatch_names_both():
    with pytest.raises(ValueError, match=r'\(2, 5\) and teacher \(2, 4\)'):
        kd_kl_div(torch.zeros(2, 5), torch.zeros(2, 4), torch.ones(1))


def test_wrong_tau_shape_is_refused():
    with pytest.raises(ValueError, match=r'\(2, 1\) or \(2, 2\), got \(2,\)'):
        kd_kl_div(torch.zeros(2, 5), torch.zeros(2, 5), torch.ones(2))


@pytest.mark.parametrize('weight', [-1, float('nan'), float('inf')])
def test_a_negative_or_infinite_loss_weight_is_refused(weight):
    with pytest.raises(ValueError, match=f'loss_weight must be >= 0 .* got {weight}'):
        CTKDLoss(GlobalTemperature(), loss_weight=weight)


def test_python_use_outside_configs_follows_the_reversal():
    torch.manual_seed(0)
    preds_S, preds_T = logits(dtype=torch.float32)
    loss_kd = CTKDLoss(GlobalTemperature(tau_init=1.0, tau_range=20.0))
    student = torch.nn.Parameter(preds_S.clone())
    optimizer = torch.optim.SGD([student, *loss_kd.parameters()], lr=0.02)
    start = loss_kd(student, preds_T)
    for _ in range(20):
        optimizer.zero_grad()
        loss_kd(student, preds_T).backward()
        optimizer.step()
    fixed = CTKDLoss(GlobalTemperature())
    assert fixed(student, preds_T) < start


def test_the_function_alone_gives_the_teacher_no_gradient():
    preds_S, preds_T = (z.requires_grad_() for z in logits().unbind())
    tau = torch.ones(1, dtype=torch.float64, requires_grad=True)
    grads = torch.autograd.grad(
        kd_kl_div(preds_S, preds_T, tau), (preds_S, preds_T, tau), allow_unused=True
    )
    assert grads[1] is None
    assert grads[0].abs().max() > 0 and grads[2].abs() > 0


def test_one_roi_counts_in_full():
    preds_S, preds_T = logits(rows=1)
    tau = torch.full((1,), 2.0, dtype=torch.float64)
    want = reference(preds_S.numpy(), preds_T.numpy(), tau.numpy())
    assert kd_kl_div(preds_S, preds_T, tau).item() == pytest.approx(want, rel=1e-12)
