from __future__ import annotations

import pytest
import torch
from torch import nn

from ctkd_mm import BernoulliCTKDLoss, ConstantTemperature, CTKDLoss, bernoulli_kl_div
from ctkd_mm.analysis.suggest.shown_logits import MOST_ROWS, Seen


class Step(nn.Module):
    """A loss and, before it, a module that gets the labels."""

    def __init__(self, loss=CTKDLoss):
        super().__init__()
        self.loss, self.loss_cls = loss(ConstantTemperature(1)), nn.Identity()
        self.loss_cls.forward = lambda preds, labels: preds
        self.seen = Seen(
            'loss_kd', self.loss.temperature, self.loss, self.loss_cls, background=4
        )

    def forward(self, preds_S, preds_T, labels=None):
        if labels is not None:
            self.loss_cls(preds_S, labels)
        self.loss(preds_S, preds_T)
        self.seen.end_step()


def test_rows_of_all_steps_are_joined_with_their_labels():
    step = Step()
    first, second = torch.randn(2, 2, 3, 5).double()
    step(*first, torch.tensor([0, 4, 4]))
    step(*second, torch.tensor([4, 4, 1]))
    parts = step.seen.parts()
    assert torch.equal(parts['all'].preds_S, torch.cat([first[0], second[0]]))
    foreground = torch.stack([first[1][0], second[1][2]])
    assert torch.equal(parts['foreground'].preds_T, foreground)
    assert parts['background'].labels.tolist() == [4] * 4


def test_without_a_foreground_there_is_the_background_alone():
    step = Step()
    step(*torch.randn(2, 3, 5), torch.full((3,), 4))
    assert list(step.seen.parts()) == ['background', 'all']


def test_a_step_without_rois_adds_nothing():
    step = Step()
    step(*torch.randn(2, 3, 5), torch.tensor([0, 4, 4]))
    step(*torch.randn(2, 0, 5))
    assert len(step.seen.parts()['all']) == 3


def test_a_step_without_labels_does_not_take_those_of_the_one_before():
    step = Step()
    step(*torch.randn(2, 3, 5), torch.tensor([0, 4, 4]))
    step(*torch.randn(2, 3, 5))
    parts = step.seen.parts()
    assert {part: len(rows) for part, rows in parts.items()} == dict(
        foreground=1, background=2, all=6
    )


def test_no_row_at_all_is_refused():
    step = Step()
    step(*torch.randn(2, 0, 5))
    with pytest.raises(ValueError, match='loss_kd was shown no logits'):
        step.seen.parts()


def test_spread_and_margin_are_those_of_the_rows():
    step = Step()
    preds_T = torch.tensor([[3.0, 1, 2], [0, 0, 6]]).double()
    step(torch.zeros(2, 3), preds_T)
    rows = step.seen.parts()['all']
    assert rows.margin() == [(1 + 6) / 2, 0]
    assert rows.std() == pytest.approx([((2 / 3) ** 0.5 + 8**0.5) / 2, 0])
    # Squares about the rows' means, over all logits of both models.
    assert rows.scale() == pytest.approx((((1 + 0 + 1) + (4 + 4 + 16)) / 12) ** 0.5)


def test_millions_of_places_are_thinned_out():
    step = Step()
    preds_T = torch.randn(3 * MOST_ROWS, 2)
    step(torch.zeros_like(preds_T), preds_T)
    rows = step.seen.parts()['all'].preds_T
    assert len(rows) == len(rows.unique(dim=0)) == MOST_ROWS


def test_the_places_of_sigmoids_are_drawn_by_the_teachers_confidence():
    step = Step(lambda tau: BernoulliCTKDLoss(tau, confidence=2))
    torch.manual_seed(0)
    preds_S, preds_T = 3 * torch.randn(2, 20000, 2)
    step(preds_S, preds_T - 4)
    weights = (preds_T - 4).amax(1).sigmoid() ** 2
    tau = torch.tensor([2.0])
    want = bernoulli_kl_div(preds_S, preds_T - 4, tau, weights).item()
    plain = bernoulli_kl_div(preds_S, preds_T - 4, tau).item()
    found = step.seen.parts()['all'].loss(2.0)
    assert found == pytest.approx(want, rel=0.05)
    assert found != pytest.approx(plain, rel=0.1)
