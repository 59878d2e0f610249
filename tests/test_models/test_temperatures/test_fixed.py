from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS as ROOT_HOOKS
from torch.autograd import gradcheck

from ctkd_mm import CTKDLoss
from ctkd_mm.models.temperatures.fixed import (
    ConstantTemperature,
    SharpnessTemperature,
    SpreadTemperature,
    TeacherTemperature,
)
from ctkd_mm.models.temperatures.scheduled import set_progress
from ctkd_mm.registry import MODELS

METHODS = Path(__file__).parents[3] / 'configs' / '_base_' / 'methods'
KINDS = [
    ConstantTemperature,
    TeacherTemperature,
    SpreadTemperature,
    SharpnessTemperature,
]


def logits(rows=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, rows, classes, generator=generator).double() * 3


def softmax(z):
    return z.exp() / z.exp().sum(1, keepdim=True)


def kl(z_S, z_T):
    """For each row, from probabilities."""
    p_S, p_T = softmax(z_S), softmax(z_T)
    return (p_T * (p_T / p_S).log()).sum(1, keepdim=True)


def sigma(z):
    deviation = z - z.sum(1, keepdim=True) / z.size(1)
    return ((deviation**2).sum(1, keepdim=True) / (z.size(1) - 1)).sqrt()


def kd(z_S, z_T, tau):
    return tau**2 * kl(z_S / tau, z_T / tau).mean()


def z_score_kd(z_S, z_T, tau):
    return kd(*((z - z.mean(1, keepdim=True)) / sigma(z) for z in (z_S, z_T)), tau)


def normkd(z_S, z_T):
    return (sigma(z_T) ** 2 * kl(z_S / sigma(z_S), z_T / sigma(z_T))).mean()


def dtkd(z_S, z_T, tau):
    x, y = (z.abs().max(1, keepdim=True).values for z in (z_T, z_S))
    tau_T, tau_S = 2 * x / (x + y) * tau, 2 * y / (x + y) * tau
    return (tau_T * tau_S * kl(z_S / tau_S, z_T / tau_T)).mean()


def ttm(z_S, z_T, tau):
    return tau * kl(z_S, z_T / tau).mean()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('value', [0, -1, float('nan'), float('inf')])
def test_the_number_must_be_positive_and_finite(kind, value):
    with pytest.raises(ValueError, match=f'(tau|scale) must be > 0 .* got {value}'):
        kind(value)


@pytest.mark.parametrize('kind', KINDS)
def test_nothing_is_learned_or_saved_and_tau_is_kept_for_logging(kind):
    temperature = kind(2)
    assert not list(temperature.parameters())
    assert not temperature.state_dict()
    assert temperature.tau is None
    preds_S, preds_T = logits()
    tau = temperature(preds_S.requires_grad_(), preds_T)
    assert torch.equal(temperature.tau, tau)
    assert not temperature.tau.requires_grad


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('rows', [0, 1, 2, 6])
def test_tau_takes_the_logits_dtype_and_device_at_any_number_of_rows(kind, rows):
    preds_S, preds_T = logits(rows)
    width = {ConstantTemperature: None, SpreadTemperature: 1}.get(kind, 2)
    shape = (rows, width) if width else (1,)
    assert kind(2)(preds_S, preds_T).shape == shape
    assert kind(2)(preds_S, preds_T).dtype == torch.float64
    assert kind(2)(preds_S.to('meta'), preds_T.to('meta')).device.type == 'meta'
    loss = CTKDLoss(kind(2))(preds_S.requires_grad_(), preds_T)
    loss.backward()
    assert loss.isfinite()
    assert preds_S.grad.isfinite().all()


def test_a_constant_temperature_is_mmrazors_kl_divergence():
    from mmrazor.models.losses import KLDivergence

    preds = logits(rows=8, classes=81)
    ours = CTKDLoss(ConstantTemperature(3))(*preds)
    torch.testing.assert_close(ours, KLDivergence(tau=3)(*preds))


def test_the_spread_is_that_of_the_teacher_alone():
    preds_S, preds_T = logits()
    tau = SpreadTemperature(1.5)(preds_S.requires_grad_(), preds_T)
    torch.testing.assert_close(tau, 1.5 * sigma(preds_T))
    assert not tau.requires_grad


def test_the_sharper_model_gets_the_higher_temperature_and_their_mean_is_tau():
    preds_S, preds_T = logits()
    tau_S, tau_T = SharpnessTemperature(4)(preds_S, 5 * preds_T).unbind(1)
    assert (tau_T > tau_S).all()
    torch.testing.assert_close((tau_S + tau_T) / 2, torch.full_like(tau_S, 4))
    # What the temperatures are for: both models' largest logits meet.
    peaks = (preds_S.abs().amax(1) / tau_S, 5 * preds_T.abs().amax(1) / tau_T)
    torch.testing.assert_close(*peaks)


def test_rows_of_negative_logits_keep_positive_temperatures():
    preds_S, preds_T = logits()
    tau = SharpnessTemperature(4)(-preds_S.abs(), -preds_T.abs())
    assert (tau > 0).all()


@pytest.mark.parametrize(
    ('kind', 'published'), [(SharpnessTemperature, dtkd), (TeacherTemperature, ttm)]
)
def test_value_and_gradient_are_the_published_ones(kind, published):
    preds_S, preds_T = logits()
    ours, theirs = (preds_S.clone().requires_grad_() for _ in range(2))
    got, want = CTKDLoss(kind(2))(ours, preds_T), published(theirs, preds_T, 2)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    # DTKD's published gradient runs through the student's temperatures too.
    (got_grad,) = torch.autograd.grad(got, ours)
    (want_grad,) = torch.autograd.grad(want, theirs)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('kind', KINDS)
def test_the_students_gradient_matches_finite_differences(kind):
    preds_S, preds_T = logits(rows=3)
    loss = CTKDLoss(kind(2))
    assert gradcheck(lambda s: loss(s, preds_T), preds_S.requires_grad_())


# What each method config computes from both models' logits and its last tau.
FORMULAS = {
    'kd-linear': lambda z_S, z_T, tau: kd(z_S, z_T, 4 - 3 * 0.4),
    'kd-cosine': lambda z_S, z_T, tau: kd(z_S, z_T, 4 - 3 * 0.3454915028125263),
    'kd-zscore': lambda z_S, z_T, tau: 9 * z_score_kd(z_S, z_T, 2),
    'ctkd-zscore': lambda z_S, z_T, tau: 9 * z_score_kd(z_S, z_T, tau.double()),
    'normkd': lambda z_S, z_T, tau: normkd(z_S, z_T),
    'dtkd': lambda z_S, z_T, tau: dtkd(z_S, z_T, 1),
    'ttm': lambda z_S, z_T, tau: ttm(z_S, z_T, 2),
}


def train_twice(method, ctkd_cfg, batch):
    """Two steps at the second epoch's progress; the model, losses and logits."""
    cfg = copy.deepcopy(ctkd_cfg)
    cfg['loss_kd'] = method.loss_kd.to_dict()
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    model.train()
    set_progress(model, 0.4)  # epoch 1 of 5
    logits = dict(S=[], T=[])
    for key, detector in dict(S=model.student, T=model.teacher).items():
        detector.roi_head.bbox_head.register_forward_hook(
            lambda module, inputs, outputs, key=key: logits[key].append(outputs[0])
        )
    optimizer = dict(type='SGD', lr=0.01, weight_decay=1e-4)
    paramwise_cfg = method.get('paramwise_cfg')
    optim_wrapper = build_optim_wrapper(
        model, dict(optimizer=optimizer, paramwise_cfg=paramwise_cfg)
    )
    losses, taus = [], []
    for _ in range(2):
        data = model.data_preprocessor(copy.deepcopy(batch), training=True)
        out = model(**data, mode='loss')
        losses.append(out['distill.loss_kd'])
        inner = model.distiller.distill_losses['loss_kd']
        taus.append(getattr(inner, 'loss', inner).temperature.tau)
        optim_wrapper.update_params(model.parse_losses(out)[0])
    pairs = [tuple(z.detach().double() for z in pair) for pair in zip(*logits.values())]
    return model, optim_wrapper, losses, pairs, taus


@pytest.mark.parametrize('name', FORMULAS)
def test_a_method_config_trains_the_demo_pair_by_its_formula(name, ctkd_cfg, batch):
    method = Config.fromfile(METHODS / f'{name}.py')
    trained = train_twice(method, ctkd_cfg, batch)
    model, optim_wrapper, losses, pairs, taus = trained
    assert len(pairs) == 2
    for loss, (z_S, z_T), tau in zip(losses, pairs, taus):
        want = FORMULAS[name](z_S, z_T, tau)
        assert loss.item() == pytest.approx(want.item(), rel=1e-4)
        assert want > 0
    hooks = [ROOT_HOOKS.build(hook) for hook in method.custom_hooks]
    learned = list(model.distiller.parameters())
    assert len(hooks) == 1 + len(learned)  # the doctor's
    assert len(learned) == int(name.startswith('ctkd'))
    if learned:
        assert taus[0] == pytest.approx(0.4)
        assert taus[1] != taus[0]
        groups = {id(p): g for g in optim_wrapper.param_groups for p in g['params']}
        assert groups[id(learned[0])]['lr'] == pytest.approx(0.1)


def test_every_method_config_with_one_is_tried():
    texts = {path.stem: path.read_text() for path in METHODS.glob('*.py')}
    ours = ('zscore', 'ZScore', 'NormKD', 'Linear', 'Cosine', 'Sharpness', 'TeacherT')
    named = {stem for stem, text in texts.items() if any(o in text for o in ours)}
    assert named == set(FORMULAS)
