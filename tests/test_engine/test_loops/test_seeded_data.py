from __future__ import annotations

import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader

from ctkd_mm.engine.loops.seeded_data import (
    ReseedHook,
    ResumableBatchSampler,
    SeededDataset,
    SeededIndex,
    seed_everything,
)

# By name, as spawned workers import this file and need no MMDetection.
ASPECT_RATIO = 'AspectRatioBatchSampler'


def draw() -> tuple:
    return random.random(), np.random.rand(), torch.rand(1).item()


def draws(seed: int, iteration: int) -> tuple:
    ReseedHook().before_train_iter(SimpleNamespace(seed=seed, iter=iteration))
    return draw()


def test_draws_depend_on_seed_and_iteration_alone():
    first = draws(0, 7)
    torch.rand(10)
    assert draws(0, 7) == first
    assert draws(0, 8) != first
    assert draws(1, 7) != first


def test_each_number_of_the_entropy_changes_all_three_generators():
    entropies = [(0, 0, 5, 1), (1, 0, 5, 1), (0, 1, 5, 1), (0, 0, 6, 1), (0, 0, 5, 2)]
    found = []
    for entropy in entropies:
        seed_everything(*entropy)
        found.append(draw())
    for generator in zip(*found):
        assert len(set(generator)) == 5


class Noise:
    """Samples of an index and what the three generators draw; some are tall."""

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.pipeline = 'first'

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple:
        return (index, self.pipeline, *draw())

    def __getitems__(self, indices: list) -> list:
        return [self[index] for index in indices]

    def get_data_info(self, index: int) -> dict:
        return dict(width=1 + index % 3 % 2, height=2)


def batch_sampler(dataset, sampler=DefaultSampler, inner=BatchSampler, **kwargs):
    sampler = sampler(dataset, seed=kwargs.pop('order', 0))
    drop_last = kwargs.pop('drop_last', False)
    inner = dict(type=inner, drop_last=drop_last)
    return ResumableBatchSampler(sampler, 3, inner, **{'seed': 0, **kwargs})


def load(workers: int, method: str | None = None, **kwargs) -> list:
    data = SeededDataset(Noise())
    loader = DataLoader(
        data,
        batch_sampler=batch_sampler(data, **kwargs),
        num_workers=workers,
        multiprocessing_context=method,
        collate_fn=list,
    )
    return list(loader)


@pytest.mark.parametrize('workers, method', [(1, 'fork'), (2, 'fork'), (1, 'spawn')])
def test_samples_are_the_same_in_any_number_of_workers(workers, method):
    here = load(0)
    assert [len(batch) for batch in here] == [3, 3, 3, 1]
    assert len({sample[2] for batch in here for sample in batch}) == 10
    torch.rand(10)
    assert load(workers, method) == here


def test_samples_are_drawn_anew_in_another_iteration_and_run():
    first = {sample[0]: sample[2:] for batch in load(0) for sample in batch}
    for other in (load(0, iteration=4), load(0, seed=1)):
        for index, _, *drawn in sum(other, []):
            assert all(a != b for a, b in zip(first[index], drawn))


def test_the_first_sample_does_not_draw_what_the_model_draws():
    assert load(0)[0][0][2:] != draws(0, 0)


def test_a_plain_index_leaves_the_generators_alone():
    data = SeededDataset(Noise())
    seed_everything(3)
    drawn = draw()
    seed_everything(3)
    assert data[4] == (4, 'first', *drawn)


def test_attributes_are_the_data_sets_own():
    bare = Noise()
    data = pickle.loads(pickle.dumps(SeededDataset(bare)))
    assert (len(data), data.size, data.get_data_info(1)['width']) == (10, 10, 2)
    data = SeededDataset(bare)
    data.pipeline = 'second'
    assert bare.pipeline == 'second'
    assert data.unseeded is bare
    with pytest.raises(AttributeError, match='missing'):
        _ = data.missing
    # Through this one PyTorch would load around the seeding.
    assert not hasattr(data, '__getitems__')


def test_an_index_may_be_more_than_a_number():
    class Frames:
        def __getitem__(self, index: tuple) -> str:
            return 'frame {1} of video {0}'.format(*index)

    index = pickle.loads(pickle.dumps(SeededIndex((2, 5), (0, 0, 1, 1))))
    assert SeededDataset(Frames())[index] == 'frame 5 of video 2'


@pytest.mark.parametrize('inner', [BatchSampler, ASPECT_RATIO])
@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_batches_after_a_jump_are_those_without_it(sampler, inner):
    def passes(batches, epoch):
        """The 12 batches from an epoch's start, or from where it was advanced to."""
        found = []
        while len(found) < 12:
            batches.sampler.set_epoch(epoch)
            epoch += 1
            found += batches
        return found[:12]

    if sampler is InfiniteSampler:

        def passes(batches, epoch):
            return [batch for batch, _ in zip(batches, range(12))]

    data = Noise()
    straight = passes(batch_sampler(data, sampler, inner), 0)
    for number in range(12):
        batches = batch_sampler(data, sampler, inner, iteration=number)
        epoch = batches.advance(number)
        expected = straight[number:]
        # A pass that is over ends the epoch it is in; 4 batches are a pass here.
        assert epoch == (0 if sampler is InfiniteSampler else max(number - 1, 0) // 4)
        assert passes(batches, epoch)[: len(expected)] == expected


def test_the_jump_loads_no_sample():
    class Unreadable(Noise):
        def __getitem__(self, index):
            raise AssertionError('loaded')

    batches = batch_sampler(SeededDataset(Unreadable()))
    assert batches.advance(3) == 0
    assert [len(batch) for batch in batches] == [1]
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]


def test_length_and_size_are_those_of_the_wrapped_batch_sampler():
    for drop_last, length in ((False, 4), (True, 3)):
        batches = batch_sampler(Noise(), drop_last=drop_last)
        assert len(batches) == length == len(list(batches))
        assert (batches.batch_size, batches.drop_last) == (3, drop_last)
        assert len(batches.sampler) == 10


def test_batches_that_mmdetections_sampler_drops_are_counted():
    data = Noise(12)
    batches = batch_sampler(data, inner=ASPECT_RATIO, drop_last=True)
    given = []
    for epoch in range(8):
        batches.sampler.set_epoch(epoch)
        given.append(len(list(batches)))
    assert len(batches) == 4
    assert sum(given) < 8 * 4  # its len() is wrong
    assert batches.batches_before(8) == sum(given)
    assert batches.batches_before(0) == 0
    plain = batch_sampler(data, drop_last=True)
    assert plain.batches_before(8) == 8 * 4


def test_the_draws_are_those_of_the_libraries_own_seeding():
    seed = int(np.random.SeedSequence((3, 1)).generate_state(1)[0])
    for seed_one in (random.seed, np.random.seed, torch.manual_seed):
        seed_one(seed)
    wanted = draw()
    seed_everything(3, 1)
    assert draw() == wanted
