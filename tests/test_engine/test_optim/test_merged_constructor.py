from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import ConfigDict
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


class ConvNeXt(nn.Module):
    """Parameters by the names of the backbone that MMDetection's constructor knows."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(2, 2)) for _ in range(4)]
        self.downsample_layers = nn.ModuleList(layers)
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(4))


def test_a_constructor_that_knows_a_detectors_names_gets_the_student():
    layers = dict(decay_rate=0.7, decay_type='layer_wise', num_layers=6)
    constructor = 'LearningRateDecayOptimizerConstructor'
    student = nn.ModuleDict(dict(backbone=ConvNeXt(), neck=nn.Linear(2, 2)))
    pair = nn.ModuleDict(dict(architecture=student, temperature=nn.Linear(1, 1)))
    cfg = dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.05))
    alone = build_optim_wrapper(
        student, dict(cfg, constructor=constructor, paramwise_cfg=layers)
    )
    both = build_optim_wrapper(
        pair,
        dict(
            cfg,
            constructor='ctkd_mm.MergedOptimWrapperConstructor',
            paramwise_cfg=dict(
                student=dict(type=constructor, **layers),
                custom_keys={'temperature': dict(lr_mult=10, decay_mult=0)},
            ),
        ),
    )
    *of_student, of_temperature = both.optimizer.param_groups
    for group in alone.optimizer.param_groups:
        del group['param_names']
    assert of_student == alone.optimizer.param_groups
    assert len({group['lr'] for group in of_student}) == 6
    assert of_temperature['params'] == list(pair['temperature'].parameters())
    assert (of_temperature['lr'], of_temperature['weight_decay']) == (1.0, 0)


def test_the_groups_are_plain_dicts_also_of_a_config():
    # torch.compile cannot trace a ConfigDict.
    cfg = ConfigDict(
        optimizer=dict(type='SGD', lr=0.1),
        constructor='ctkd_mm.MergedOptimWrapperConstructor',
        paramwise_cfg=dict(custom_keys={'temperature': dict(lr_mult=10)}),
    )
    groups = build_optim_wrapper(Pair(), cfg).optimizer.param_groups
    assert [type(group) for group in groups] == [dict, dict]


def test_merging_leaves_the_groups_it_was_given():
    groups = [
        dict(params=['a'], lr=1),
        dict(params=['b'], lr=2),
        dict(params=['c'], lr=1),
    ]
    before = copy.deepcopy(groups)
    assert merge(groups) == [dict(params=['a', 'c'], lr=1), dict(params=['b'], lr=2)]
    assert groups == before
