from __future__ import annotations

import torch
from torch import nn

from ctkd_mm import GradientReversal, grad_reverse, set_lambda


def test_forward_is_the_identity():
    x = torch.randn(5)
    assert torch.equal(grad_reverse(x, 0.3), x)


def test_backward_multiplies_by_minus_lambda_exactly():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64)
    (grad_reverse(x, 0.3) * weight).sum().backward()
    assert torch.equal(x.grad, -0.3 * weight)


def test_minus_one_is_a_plain_identity_for_gradcheck():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: grad_reverse(x, -1.0).sin(), (x,))


def test_lambda_zero_keeps_the_graph_with_a_zero_gradient():
    x = torch.randn(3, requires_grad=True)
    grad_reverse(x, 0.0).sum().backward()
    assert torch.equal(x.grad, torch.zeros(3))


def test_set_lambda_reaches_every_layer_and_counts_them():
    model = nn.Sequential(GradientReversal(), nn.Sequential(GradientReversal()))
    assert set_lambda(model, 0.25) == 2
    assert [m.lambda_ for m in model.modules() if isinstance(m, GradientReversal)] == [
        0.25,
        0.25,
    ]
    assert set_lambda(nn.Linear(1, 1), 0.25) == 0


def test_lambda_is_not_in_the_state_dict():
    assert not GradientReversal(0.5).state_dict()
