"""The parts of a training step, without a Runner."""

from __future__ import annotations

import copy

from torch import Tensor, nn


def losses_of(model: nn.Module, batch: dict) -> Tensor:
    inner = getattr(model, 'module', model)
    data = inner.data_preprocessor(copy.deepcopy(batch), training=True)
    return inner.parse_losses(model(**data, mode='loss'))[0]


def part_of(batch: dict, i: int) -> dict:
    return {key: value[i : i + 1] for key, value in batch.items()}


def without_objects(batch: dict) -> dict:
    batch = copy.deepcopy(batch)
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    return batch
