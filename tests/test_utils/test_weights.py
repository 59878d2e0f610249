from __future__ import annotations

import copy

import torch
from torch import nn

from ctkd_mm.utils.weights import state_dict_of, student_weights, weights_sha256


def test_the_weights_of_a_checkpoint_are_found_in_it_or_are_it():
    weights = dict(weight=1)
    assert state_dict_of(dict(state_dict=weights, meta={})) is weights
    assert state_dict_of(weights) is weights


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
