from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ctkd_mm.utils.weights import state_dict_of, student_weights, weights_sha256


@pytest.mark.parametrize('prefix', ['', 'module.'], ids=['plain', 'of DDP'])
@pytest.mark.parametrize('alone', [True, False])
def test_the_weights_of_a_checkpoint_are_found_in_it_or_are_it(prefix, alone):
    model = nn.Sequential(nn.BatchNorm1d(2))
    weights = model.state_dict(prefix=prefix)
    found = state_dict_of(
        weights if alone else dict(state_dict=weights, meta={}), 'a.pth'
    )
    want = model.state_dict()
    assert list(found) == list(want)
    assert all(torch.equal(found[key], want[key]) for key in want)
    assert found._metadata is weights._metadata


@pytest.mark.parametrize(
    ('content', 'found'),
    [
        (dict(model=dict(weight=torch.ones(1))), "'model'"),
        (dict(state_dict=dict(weight=np.ones(1))), "'weight'"),
        (dict(state_dict={}), 'dict'),
        ([torch.ones(1)], 'list'),
        (torch.ones(1), 'Tensor'),
    ],
    ids=['another key', 'NumPy', 'empty', 'a list', 'a tensor'],
)
def test_what_is_no_checkpoint_is_refused_with_what_it_is(content, found):
    with pytest.raises(ValueError, match=f'a.pth holds no weights.* found {found}'):
        state_dict_of(content, 'a.pth')


def test_a_students_weights_have_their_own_names():
    weights = {'architecture.neck.weight': 1, 'distiller.raw_tau': 2}
    assert student_weights(weights) == {'neck.weight': 1}


def test_the_hash_is_that_of_names_types_shapes_and_values():
    model = nn.Linear(2, 3)
    found = {weights_sha256(model), weights_sha256(copy.deepcopy(model))}
    assert len(found) == 1
    with torch.no_grad():
        model.bias[1] += 1
    others = [model, copy.deepcopy(model).double(), nn.Sequential(model)]
    assert len(found | {weights_sha256(other) for other in others}) == 4
