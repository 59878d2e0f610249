from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from ctkd_mm.engine.optim.merged_constructor import merge


class Pair(nn.Module):
    """A student with a shared layer, and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.again = self.student[0]
        self.temperature = nn.Linear(1, 1)
        self.bare = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.student(x).square().mean() * self.bare.sum()
        return y + self.temperature(x[:1, :1]).square().sum()


def optimizer(model: Pair, merged: bool, kind: str = 'SGD') -> torch.optim.Optimizer:
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type=kind, lr=0.1, weight_decay=0.01),
        paramwise_cfg=dict(
            custom_keys={'temperature': dict(lr_mult=10, decay_mult=0)},
            norm_decay_mult=0,
            bypass_duplicate=True,
        ),
    )
    if merged:
        cfg['constructor'] = 'ctkd_mm.MergedOptimWrapperConstructor'
    return build_optim_wrapper(model, cfg).optimizer


def test_there_is_a_group_for_each_setting():
    model = Pair()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {
        (g['lr'], g['weight_decay']): {names[id(p)] for p in g['params']}
        for g in optimizer(model, True).param_groups
    }
    assert groups == {
        (0.1, 0.01): {'bare', 'student.0.weight', 'student.0.bias'},
        (0.1, 0): {'student.1.weight', 'student.1.bias'},
        (1.0, 0): {'temperature.weight', 'temperature.bias'},
    }


@pytest.mark.parametrize('kind', ['SGD', 'AdamW'])
def test_training_gives_the_same_bits(kind):
    torch.manual_seed(0)
    models = [Pair()]
    models.append(copy.deepcopy(models[0]))
    data = torch.randn(5, 8, 3)
    for model, merged in zip(models, (True, False)):
        optim = optimizer(model, merged, kind)
        assert len(optim.param_groups) == (3 if merged else 7)
        for x in data:
            optim.zero_grad()
            model(x).backward()
            optim.step()
    a, b = (model.state_dict() for model in models)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_merging_leaves_the_groups_it_was_given():
    groups = [
        dict(params=['a'], lr=1),
        dict(params=['b'], lr=2),
        dict(params=['c'], lr=1),
    ]
    before = copy.deepcopy(groups)
    assert merge(groups) == [dict(params=['a', 'c'], lr=1), dict(params=['b'], lr=2)]
    assert groups == before
