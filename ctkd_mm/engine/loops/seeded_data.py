"""Random draws as a function of progress, so that a resumed run repeats them.

Nothing random is stored in a checkpoint: what is drawn in iteration i, in the model or
while an image is loaded, is drawn from a seed made of (run's seed, rank, i) alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, Sampler

from ctkd_mm.registry import HOOKS


def seed_everything(*entropy: int) -> None:
    """Seed Python, NumPy and PyTorch.

    Args:
        entropy: Non-negative integers that tell one moment of a run from all others.
            Zeros at the end do not count.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    # What torch.manual_seed does to the devices in use; for each kind that is not it
    # notes the call stack: at the depth of a training, 0.7 ms an image.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    elif get_device() not in ('cpu', 'cuda'):
        torch.manual_seed(seed)


@HOOKS.register_module()
class ReseedHook(Hook):
    """Seeds Python, NumPy and PyTorch before each training iteration.

    The seed is drawn from (the run's seed, rank, iteration) alone. MMEngine stores no
    generator state in a checkpoint; with this hook none is needed: which RoIs the
    samplers pick in iteration i no longer depends on what ran before it. How images
    are augmented, in worker processes, is :class:`SeededDataset`'s part.

    Source: extends :class:`mmengine.hooks.Hook`.
    """

    def before_train_iter(self, runner: Runner, **_: Any) -> None:
        """Seed for iteration ``runner.iter``."""
        seed_everything(runner.seed, get_rank(), runner.iter)


class SeededIndex(NamedTuple):
    """Index of a sample, with the seed to load it under.

    Attributes:
        index: What the data set takes: a number, or MMDetection's (video, frame).
        seed: See :func:`seed_everything`.
    """

    index: Any
    seed: tuple


class SeededDataset:
    """A data set that loads each sample under the seed its index carries.

    So an augmentation draws the same whichever process loads the sample, and however
    many there are. A plain index loads without seeding. All other attributes, read
    and set, are the data set's own.

    Args:
        dataset: The data set, or its config.

    Attributes:
        unseeded: The data set itself.
    """

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        self.__dict__['unseeded'] = dataset

    def __getitem__(self, index: Any) -> Any:
        """Load a sample."""
        if isinstance(index, SeededIndex):
            seed_everything(*index.seed)
            index = index.index
        return self.unseeded[index]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.unseeded)

    def __getattr__(self, name: str) -> Any:
        # Not Python's protocols: __getitems__ would load around the seeding, and a
        # copy that is being unpickled has no data set yet.
        if name == 'unseeded' or name.startswith('__'):
            raise AttributeError(f'{type(self).__name__} has no {name}')
        return getattr(self.unseeded, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.unseeded, name, value)


class ResumableBatchSampler(Sampler):
    """The batches of another batch sampler, with seeds, from any iteration on.

    A sample's seed is made of (the run's seed, rank, iteration that trains on it,
    its place in the batch).

    Args:
        sampler: Gives the indices of samples.
        batch_size: Samples in a batch.
        batch_sampler: Config of the batch sampler that makes batches of them.
        seed: The run's seed.
        iteration: The training iteration, counted from 0, of the first batch to come.

    Source: wraps :class:`torch.utils.data.BatchSampler` or MMDetection's
    ``AspectRatioBatchSampler``.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        batch_sampler: dict,
        seed: int,
        iteration: int = 0,
    ) -> None:
        self.batches = DATA_SAMPLERS.build(
            batch_sampler, default_args=dict(sampler=sampler, batch_size=batch_size)
        )
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = self.batches.drop_last
        self.seed = seed
        self.iteration = iteration
        self._begun: Iterator | None = None

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        """One pass, or what :meth:`advance` left of it."""
        batches = iter(self.batches) if self._begun is None else self._begun
        self._begun = None
        for batch in batches:
            moment = self.seed, get_rank(), self.iteration
            self.iteration += 1
            # From 1, as a place of 0 would draw what ReseedHook draws.
            yield [SeededIndex(x, (*moment, i)) for i, x in enumerate(batch, 1)]

    def __len__(self) -> int:
        """Batches in a pass, as the wrapped batch sampler counts them."""
        return len(self.batches)

    def advance(self, num_batches: int) -> int:
        """Skip batches of the next pass, and of those after it; loads no data.

        ``iteration`` is not advanced.

        Args:
            num_batches: How many. All of a pass leaves an empty pass.

        Returns:
            The passes that are over; the sampler's epoch is set to this number where
            it is not 0.
        """
        ended = 0
        self._begun = iter(self.batches)
        while True:
            num_batches -= sum(1 for _ in islice(self._begun, num_batches))
            if not num_batches:
                return ended
            ended += 1
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(ended)
            self._begun = iter(self.batches)

    def batches_before(self, epoch: int) -> int:
        """Number of batches that the epochs before this one gave."""
        if not self.drop_last or type(self.batches) is BatchSampler:
            return epoch * len(self)
        # Where left-over images exactly fill a batch, MMDetection's batch samplers
        # drop that one too and give fewer batches than their len() says.
        total = 0
        for past in range(epoch):
            self.sampler.set_epoch(past)
            total += sum(1 for _ in self.batches)
        return total
