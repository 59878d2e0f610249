from __future__ import annotations

import copy

import torch
from helpers.tensors import OnDevice
from torch import nn

from ctkd_mm.utils.weights import (
    move_to_host,
    state_dict_of,
    student_weights,
    weights_sha256,
)


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


def test_every_tensor_of_a_checkpoint_moves_to_the_host():
    value = torch.ones(1).as_subclass(OnDevice)
    weights = nn.Linear(1, 1).state_dict()
    weights['weight'] = value
    checkpoint = dict(
        state_dict=weights,
        optimizer=dict(state={0: [value]}),
        step=value,
        meta=dict(a=1),
    )
    move_to_host(checkpoint)
    moved = [
        checkpoint['state_dict']['weight'],
        checkpoint['optimizer']['state'][0][0],
        checkpoint['step'],
    ]
    assert [tensor.device.type for tensor in moved] == ['cpu'] * 3
    assert checkpoint['state_dict']._metadata == weights._metadata
    assert checkpoint['meta'] == dict(a=1)
