from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from ctkd_mm import CTKDLoss, set_lambda
from ctkd_mm.models.losses.with_temperature import WithTemperature
from ctkd_mm.models.temperatures.base import find_temperatures

LOSSES = [
    dict(type='mmrazor.KLDivergence', loss_weight=0.7),
    dict(type='mmrazor.KLDivergence', reduction='mean'),
    dict(type='mmrazor.ChannelWiseDivergence', loss_weight=3.0),
    dict(type='mmrazor.DISTLoss', inter_loss_weight=2.0),
    dict(type='mmdet.KnowledgeDistillationKLDivLoss', loss_weight=0.25),
]
GLOBAL = dict(type='ctkd_mm.GlobalTemperature', tau_start=3)


def name(loss):
    return loss['type'].split('.')[1]


def arguments(loss, dtype=torch.float64):
    """What the loss is called with; for MMDetection's, as LDHead calls it."""
    shape = (2, 3, 4, 5) if 'ChannelWise' in loss['type'] else (6, 5)
    generator = torch.Generator().manual_seed(0)
    preds_S, preds_T = torch.randn(2, *shape, generator=generator, dtype=dtype) * 3
    extra = {}
    if 'KLDivLoss' in loss['type']:
        weight = torch.rand(6, generator=generator, dtype=dtype)
        extra = dict(weight=weight, avg_factor=4.0)
    return preds_S.requires_grad_(), preds_T, extra


def build(loss, temperature):
    return WithTemperature(copy.deepcopy(loss), temperature)


@pytest.mark.parametrize('tau', [10, 1.3])
@pytest.mark.parametrize('loss', LOSSES, ids=name)
def test_a_constant_gives_the_original_bit_by_bit(loss, tau):
    number = 'T' if 'KLDivLoss' in loss['type'] else 'tau'
    constant = build(loss, dict(type='ctkd_mm.ConstantTemperature', tau=tau))
    original = ROOT_MODELS.build({**loss, number: tau})
    preds_S, preds_T, extra = arguments(loss, torch.float32)
    values = [f(preds_S, preds_T, **extra) for f in (original, constant)]
    gradients = [torch.autograd.grad(value, preds_S)[0] for value in values]
    for want, got in (values, gradients):
        assert torch.equal(want, got) and want.dtype == got.dtype
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize('loss', LOSSES, ids=name)
def test_the_gradient_in_raw_tau_is_minus_lambda_times_the_slope(loss):
    adapter = build(loss, GLOBAL).double()
    set_lambda(adapter, 0.3)
    preds_S, preds_T, extra = arguments(loss)
    raw, step = adapter.temperature.raw_tau, 1e-5
    value = adapter(preds_S, preds_T, **extra)
    gradient = torch.autograd.grad(value, raw)[0].item()
    sides = []
    for shift in (step, -step):
        with torch.no_grad():
            raw += shift
            sides.append(adapter(preds_S, preds_T, **extra).item())
            raw -= shift
    slope = (sides[0] - sides[1]) / (2 * step)
    assert abs(slope) > 1e-4
    assert gradient == pytest.approx(-0.3 * slope, rel=1e-6)


def test_the_students_gradient_is_that_of_the_original_at_the_learned_tau():
    for loss in LOSSES:
        adapter = build(loss, GLOBAL).double()
        preds_S, preds_T, extra = arguments(loss)
        got = adapter(preds_S, preds_T, **extra)
        setattr(adapter.loss, adapter.name, adapter.temperature.tau.item())
        want = adapter.loss(preds_S, preds_T, **extra)
        torch.testing.assert_close(
            torch.autograd.grad(got, preds_S), torch.autograd.grad(want, preds_S)
        )


def test_the_value_is_a_scalar_and_the_number_stands_in_its_place_again():
    adapter = build(LOSSES[-1], GLOBAL)
    preds_S, preds_T, extra = arguments(LOSSES[-1], torch.float32)
    assert adapter(preds_S, preds_T, **extra).shape == ()
    assert adapter.loss.T == 10
    with pytest.raises(AssertionError):
        adapter(preds_S, preds_T[:2])
    assert adapter.loss.T == 10
    copy.deepcopy(adapter)  # as the moving average of a model does


def test_the_temperature_is_given_student_and_teacher_whatever_the_loss_calls_them():
    class Spy(nn.Module):
        def forward(self, preds_S, preds_T):
            self.seen = preds_S, preds_T
            return preds_S.new_ones(1)

    dist = WithTemperature(dict(type='mmrazor.DISTLoss'), Spy())
    preds_S, preds_T, _ = arguments(LOSSES[3])
    dist(preds_T=preds_T.requires_grad_(), preds_S=preds_S)
    seen_S, seen_T = dist.temperature.seen
    assert torch.equal(seen_S, preds_S) and seen_S.requires_grad
    assert torch.equal(seen_T, preds_T) and not seen_T.requires_grad


def test_half_precision_logits_give_the_gradient_of_their_values():
    adapter = build(LOSSES[0], GLOBAL)
    preds = [x.detach().bfloat16() for x in arguments(LOSSES[0])[:2]]
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = adapter(*(x.to(dtype) for x in preds))
        gradients += torch.autograd.grad(value, adapter.temperature.raw_tau)
    assert torch.equal(*gradients)


def test_what_the_loss_registers_stays_in_the_state_dict():
    class Centred(nn.Module):
        tau = 1.0

        def __init__(self):
            super().__init__()
            self.register_buffer('centre', torch.zeros(5))

        def forward(self, preds_S, preds_T):
            return ((preds_S - preds_T - self.centre) / self.tau).square().mean()

    adapter = WithTemperature(Centred(), GLOBAL)
    adapter(*arguments(LOSSES[0])[:2])
    assert set(adapter.state_dict()) == {'loss.centre', 'temperature.raw_tau'}
    assert list(find_temperatures(adapter)) == ['temperature']


def test_a_loss_without_a_temperature_is_refused():
    with pytest.raises(ValueError, match='loss=PKDLoss has no temperature.*tau or T'):
        WithTemperature(dict(type='mmrazor.PKDLoss'), GLOBAL)
    with pytest.raises(ValueError, match='loss=CTKDLoss has no temperature'):
        WithTemperature(CTKDLoss(GLOBAL), GLOBAL)


def test_mmrazors_dkd_is_refused_in_favour_of_ours():
    with pytest.raises(ValueError, match='NaN in .*: take ctkd_mm.DKDLoss'):
        WithTemperature(dict(type='mmrazor.DKDLoss'), GLOBAL)


@pytest.mark.parametrize('loss', [LOSSES[0], LOSSES[-1]], ids=name)
def test_a_second_temperature_is_refused(loss):
    number = 'T' if 'KLDivLoss' in loss['type'] else 'tau'
    with pytest.raises(ValueError, match=rf'loss\.{number}=4 .* drop it'):
        WithTemperature({**loss, number: 4}, GLOBAL)


def test_a_temperature_for_each_sample_is_refused():
    class PerSample(nn.Module):
        def forward(self, preds_S, preds_T):
            return preds_S.new_ones(len(preds_S), 1)

    adapter = build(LOSSES[0], PerSample())
    message = r'KLDivergence takes one .* PerSample gives tau of shape \(6, 1\): take'
    with pytest.raises(ValueError, match=message):
        adapter(*arguments(LOSSES[0])[:2])


def test_only_our_own_loss_survives_a_teachers_probability_of_zero():
    preds_S, preds_T, _ = arguments(LOSSES[0], torch.float32)
    preds_T[0, 0] = -1000
    for loss, finite in ((build(LOSSES[0], GLOBAL), False), (CTKDLoss(GLOBAL), True)):
        value = loss(preds_S, preds_T)
        gradient = torch.autograd.grad(value, loss.temperature.raw_tau)[0]
        assert value.isfinite() and gradient.isfinite() == finite


@pytest.mark.parametrize('loss', ['KLDivergence', 'DISTLoss'])
def test_it_stands_in_loss_kd(ctkd_cfg, batch, loss):
    loss = dict(type=f'mmrazor.{loss}')
    ctkd_cfg['loss_kd'] = dict(
        type='ctkd_mm.WithTemperature', loss=loss, temperature=GLOBAL
    )
    model = ROOT_MODELS.build(ctkd_cfg).train()
    model.init_weights()
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    losses['distill.loss_kd'].backward()
    temperature = model.distiller.distill_losses['loss_kd'].temperature
    assert temperature.raw_tau.grad.abs() > 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_teacher_of_mmdetections_loss_gets_no_gradient(dtype):
    adapter = build(LOSSES[-1], GLOBAL)
    preds_S, preds_T, extra = arguments(LOSSES[-1], dtype)
    value = adapter(preds_S, preds_T.requires_grad_(), **extra)
    grads = torch.autograd.grad(value, (preds_S, preds_T), allow_unused=True)
    assert grads[0].abs().max() > 0 and grads[1] is None
