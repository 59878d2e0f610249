from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from ctkd_mm import GlobalTemperature, kd_kl_div, set_lambda
from ctkd_mm.models.losses.bernoulli_loss import BernoulliCTKDLoss, bernoulli_kl_div

TAU_SHAPES = [(1,), (6, 1), (6, 2)]


def reference(preds_S, preds_T, tau, weights) -> float:
    """The definition, place by place and class by class."""
    total = 0.0
    tau = np.broadcast_to(tau, (len(preds_S), 2))
    for z_S, z_T, (t_S, t_T), weight in zip(preds_S, preds_T, tau, weights):
        p_S, p_T = 1 / (1 + np.exp(-z_S / t_S)), 1 / (1 + np.exp(-z_T / t_T))
        on, off = p_T * np.log(p_T / p_S), (1 - p_T) * np.log((1 - p_T) / (1 - p_S))
        total += weight * t_S * t_T * (on + off).sum()
    return total / sum(weights)


def logits(rows=6, classes=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, rows, classes, generator=generator, dtype=dtype) * 3


def taus(shape):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 5 + 0.5


@pytest.mark.parametrize('shape', TAU_SHAPES)
def test_equals_the_definition_in_float64(shape):
    preds_S, preds_T = logits()
    tau, weights = taus(shape), torch.arange(6, dtype=torch.float64)
    args = [x.numpy() for x in (preds_S, preds_T, tau)]
    value = bernoulli_kl_div(preds_S, preds_T, tau)
    assert value.item() == pytest.approx(reference(*args, np.ones(6)), rel=1e-12)
    value = bernoulli_kl_div(preds_S, preds_T, tau, weights)
    assert value.item() == pytest.approx(reference(*args, weights.numpy()), rel=1e-12)


@pytest.mark.parametrize('shape', [(1,), (6, 1)])
def test_each_class_is_the_softmax_kl_of_its_logit_and_zero(shape):
    preds_S, preds_T = logits()
    tau = taus(shape)
    for row in range(6):
        tau_i = tau if shape == (1,) else tau[row]
        pairs = (
            torch.stack([z[row], torch.zeros(5, dtype=z.dtype)], dim=1)
            for z in (preds_S, preds_T)
        )
        want = 5 * kd_kl_div(*pairs, tau_i)  # the sum over classes, not their mean
        found = bernoulli_kl_div(preds_S[[row]], preds_T[[row]], tau_i)
        torch.testing.assert_close(found, want)


@pytest.mark.parametrize('shape', TAU_SHAPES)
def test_gradient_is_right_for_student_and_tau(shape):
    preds_S, preds_T = logits()
    weights = torch.rand(6, dtype=torch.float64)
    inputs = (preds_S.requires_grad_(), taus(shape).requires_grad_())
    assert gradcheck(lambda s, t: bernoulli_kl_div(s, preds_T, t, weights), inputs)


def test_the_gradients_are_those_of_the_docstring():
    preds_S, preds_T = logits()
    tau = taus((6, 1)).requires_grad_()
    bernoulli_kl_div(preds_S.requires_grad_(), preds_T, tau).backward()
    with torch.no_grad():
        s, t = preds_S / tau, preds_T / tau
        p_S, p_T = s.sigmoid(), t.sigmoid()
        kl = p_T * (p_T / p_S).log() + (1 - p_T) * ((1 - p_T) / (1 - p_S)).log()
        terms = 2 * kl - s * (p_S - p_T) - t * p_T * (1 - p_T) * (t - s)
    torch.testing.assert_close(preds_S.grad, tau * (p_S - p_T) / 6)
    torch.testing.assert_close(tau.grad, tau * terms.sum(1, keepdim=True) / 6)


def test_gradient_descent_climbs_in_tau():
    preds_S, preds_T = logits()
    loss = BernoulliCTKDLoss(GlobalTemperature(tau_range=5.0).double())
    set_lambda(loss, 0.5)
    before = loss(preds_S, preds_T)
    before.backward()
    torch.optim.SGD(loss.parameters(), lr=1e-2).step()
    assert loss(preds_S, preds_T) > before


def test_teacher_logits_get_no_gradient():
    preds_S, preds_T = logits()
    preds_T.requires_grad_()
    loss = BernoulliCTKDLoss(GlobalTemperature().double(), confidence=1.0)
    loss(preds_S.requires_grad_(), preds_T).backward()
    assert preds_T.grad is None
    assert preds_S.grad.abs().sum() > 0


@pytest.mark.parametrize('raw', [-1e3, 1e3])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
@pytest.mark.parametrize('confidence', [0, 2])
def test_finite_for_extreme_logits_at_both_bounds_of_tau(raw, dtype, confidence):
    loss = BernoulliCTKDLoss(GlobalTemperature(), confidence=confidence)
    loss.temperature.raw_tau.data.fill_(raw)
    preds_S = torch.tensor([[1e4, -1e4, 3e4], [-1e4, 1e4, 3e4]], dtype=dtype)
    preds_S.requires_grad_()
    value = loss(preds_S, preds_S.detach().flip(0))
    value.backward()
    # Each row: two classes that the teacher is sure of and the student wrong by 1e4.
    tau = 1.0 if raw < 0 else 21.0
    assert value.item() == pytest.approx(tau**2 * 2e4 / tau, rel=1e-4)
    want = tau / 2 * torch.tensor([[1.0, -1, 0], [-1, 1, 0]])
    torch.testing.assert_close(preds_S.grad, want.to(dtype), rtol=1e-3, atol=0)
    assert loss.temperature.raw_tau.grad.isfinite().all()


def test_easy_background_is_not_lost_in_float32():
    preds_S, preds_T = logits(rows=2000, classes=80) / 3 - 8  # p about 0.0003
    tau = torch.ones(1, dtype=torch.float64)
    want = bernoulli_kl_div(preds_S, preds_T, tau).item()
    found = bernoulli_kl_div(preds_S.float(), preds_T.float(), tau.float()).item()
    assert found == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize('confidence', [0, 0.5, 2])
def test_confidence_weighs_places_by_the_teachers_best_score(confidence):
    preds_S, preds_T = logits()
    temperature = GlobalTemperature(tau_start=2.0).double()
    value = BernoulliCTKDLoss(temperature, 0.7, confidence)(preds_S, preds_T)
    scores = 1 / (1 + np.exp(-preds_T.numpy()))  # at tau 1, whatever tau is
    weights = scores.max(axis=1) ** confidence
    want = 0.7 * reference(preds_S.numpy(), preds_T.numpy(), np.full(1, 2.0), weights)
    assert value.item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize('confidence', [0, 2])
def test_zero_places_give_a_zero_with_a_graph(confidence):
    loss = BernoulliCTKDLoss(GlobalTemperature(), confidence=confidence)
    preds_S = torch.zeros(0, 5, requires_grad=True)
    value = loss(preds_S, torch.zeros(0, 5))
    value.backward()
    assert value.item() == 0
    assert preds_S.grad.shape == (0, 5)
    assert loss.temperature.raw_tau.grad == 0


def test_a_teacher_that_sees_nothing_gives_zero():
    loss = BernoulliCTKDLoss(GlobalTemperature(), confidence=2)
    preds_S = torch.zeros(4, 5, requires_grad=True)
    value = loss(preds_S, torch.full((4, 5), -1e4))
    value.backward()
    assert value.item() == 0
    assert (preds_S.grad == 0).all()


def test_computed_in_float32_inside_autocast():
    preds_S, preds_T = logits(rows=64, classes=80, dtype=torch.bfloat16)
    loss = BernoulliCTKDLoss(GlobalTemperature(), confidence=1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = loss(preds_S, preds_T)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(preds_S.float(), preds_T.float()))


@pytest.mark.parametrize(
    ('shapes', 'message'),
    [
        (((2, 5), (2, 4), (1,), (2,)), r'\(2, 5\) and teacher \(2, 4\)'),
        (((2, 5), (2, 5), (2,), (2,)), r'tau must .* \(2, 1\) or \(2, 2\), got \(2,\)'),
        (((2, 5), (2, 5), (1,), (2, 1)), r'weights must .* \(2,\), got \(2, 1\)'),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both(shapes, message):
    with pytest.raises(ValueError, match=message):
        bernoulli_kl_div(*(torch.ones(shape) for shape in shapes))


@pytest.mark.parametrize('confidence', [-1, float('nan'), float('inf')])
def test_a_negative_or_infinite_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match=f'confidence must .* got {confidence}'):
        BernoulliCTKDLoss(GlobalTemperature(), confidence=confidence)


def test_the_function_alone_gives_the_teacher_no_gradient():
    preds_S, preds_T = (z.requires_grad_() for z in logits().unbind())
    loss = bernoulli_kl_div(preds_S, preds_T, taus((1,)))
    grads = torch.autograd.grad(loss, (preds_S, preds_T), allow_unused=True)
    assert grads[0].abs().max() > 0 and grads[1] is None


def on_one_of_two(rank: int, folder: Path) -> None:
    """The gradient of a share of the places, as DDP averages it over two processes."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    preds_S, preds_T = (z.tensor_split([1])[rank] for z in logits())
    preds_S.requires_grad_()
    temperature = GlobalTemperature(tau_start=2.0).double()
    BernoulliCTKDLoss(temperature, confidence=2.0)(preds_S, preds_T).backward()
    torch.distributed.all_reduce(temperature.raw_tau.grad)
    grads = preds_S.grad / 2, temperature.raw_tau.grad / 2
    torch.save(grads, folder / f'{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.process
def test_two_processes_of_unequal_shares_give_the_gradient_of_all_places(tmp_path):
    torch.multiprocessing.spawn(on_one_of_two, (tmp_path,), nprocs=2)
    shares = [torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1)]
    preds_S, preds_T = logits()
    temperature = GlobalTemperature(tau_start=2.0).double()
    loss = BernoulliCTKDLoss(temperature, confidence=2.0)
    loss(preds_S.requires_grad_(), preds_T).backward()
    found = torch.cat([grad for grad, _ in shares])
    torch.testing.assert_close(found, preds_S.grad, rtol=1e-9, atol=0)
    for _, grad in shares:
        torch.testing.assert_close(grad, temperature.raw_tau.grad, rtol=1e-6, atol=0)
