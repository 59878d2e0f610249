from __future__ import annotations

import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, RoIAlign
from torch import Tensor, nn

ROIS = torch.tensor([[0, 2.2, 3, 15, 14], [1, 1, 1, 9, 10.5]])
OPERATORS = dict(
    roi_align=lambda: (RoIAlign(4, 0.5, aligned=True), [ROIS]),
    deform_conv=lambda: (DeformConv2d(8, 4, 3, padding=1), [offsets(18)]),
    modulated_deform_conv=lambda: (
        ModulatedDeformConv2d(8, 4, 3, padding=1),
        [offsets(18), offsets(9).sigmoid()],
    ),
)


def offsets(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, 12, 14, generator=generator)


def run(operator: nn.Module, features: Tensor, *args: Tensor) -> list[Tensor]:
    """The output, and the gradients of the features and the weights."""
    features = features.detach().requires_grad_()
    output = operator(features, *args)
    wanted = [features, *operator.parameters()]
    return [output, *torch.autograd.grad(output.square().sum(), wanted)]


@pytest.fixture(params=OPERATORS)
def operator(request):
    torch.manual_seed(0)
    return OPERATORS[request.param]()


def test_channels_last_memory_gives_the_same_bits(operator):
    operator, args = operator
    features = torch.randn(2, 8, 12, 14)
    other = features.to(memory_format=torch.channels_last)
    want = run(operator, features, *args)
    for a, b in zip(run(operator, other, *args), want):
        assert torch.equal(a, b)


def test_bfloat16_computes_in_float32(operator):
    operator, args = operator
    features = torch.randn(2, 8, 12, 14).bfloat16()
    args = [arg.bfloat16() for arg in args]
    want = run(operator, features.float(), *[arg.float() for arg in args])
    output, gradient, *others = run(operator, features, *args)
    assert torch.equal(output, want[0])
    assert torch.equal(gradient, want[1].bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(others, want[2:]))
