"""Training loops that resume in the middle of an epoch to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, repeat
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import BatchSampler

from ctkd_mm.engine.loops import seeded_data
from ctkd_mm.registry import LOOPS
from ctkd_mm.utils.model import diff_rank_seed


class _ExactResume:
    """What both loops share: the seeded data loader, built again on a resume."""

    def __init__(
        self, runner: Runner, dataloader: dict, *args: Any, **kwargs: Any
    ) -> None:
        self._dataloader_cfg = dataloader
        if not any(isinstance(hook, seeded_data.ReseedHook) for hook in runner.hooks):
            runner.register_hook(seeded_data.ReseedHook())
        data = dict(type=seeded_data.SeededDataset, dataset=dataloader['dataset'])
        dataloader = _seeded(dataloader, data, runner, iteration=0)
        super().__init__(runner, dataloader, *args, **kwargs)

    def run(self) -> nn.Module:
        """Train; after a resume from the very batch that comes next."""
        layout = dict(
            batch_size=self.dataloader.batch_sampler.batch_size,
            processes=get_world_size(),
            samples=len(self.dataloader.dataset),
            batches=len(self.dataloader),
        )
        if self._iter > 0:
            before = self.runner.message_hub.get_info('train_data')
            if before is None or {**layout, **before} != layout:
                raise ValueError(
                    f'cannot resume exactly: the interrupted run had {before}, found '
                    f'{layout} (train_dataloader, processes). Restore them; or resume '
                    "inexactly: train_cfg.type without 'ctkd_mm.Resumable'"
                )
            self._resume_data()
        # Stored in every checkpoint with the message hub.
        self.runner.message_hub.update_info('train_data', layout)
        try:
            return super().run()
        except Exception:
            # For hooks that changed the process; MMEngine has no such moment.
            self.runner.call_hook('after_failure')
            raise

    def _resume_data(self) -> None:
        # Only now is the seed known that the interrupted run's samplers had.
        dataset = self.dataloader.dataset
        self.dataloader = None  # ends its workers
        # A function, as build_dataloader copies its config, annotations included.
        data = dict(type=lambda: dataset)
        config = _seeded(self._dataloader_cfg, data, self.runner, self._iter)
        self.dataloader = self.runner.build_dataloader(config, seed=self.runner.seed)


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(_ExactResume, EpochBasedTrainLoop):
    """``EpochBasedTrainLoop`` that resumes a checkpoint of any iteration exactly.

    Together with :class:`ctkd_mm.engine.loops.seeded_data.ReseedHook`, which the loop
    registers where the config does not, the resumed run gives the same bits as one that
    was never interrupted, whatever the number of worker processes. Batches that were
    trained on are skipped without being loaded. Pipelines that keep images from batch
    to batch (``CachedMosaic``, ``CachedMixUp``) resume exactly between epochs alone,
    and ``BatchSyncRandomResize`` from its next size on.

    Gradients between two updates of ``optim_wrapper.accumulative_counts`` are in no
    checkpoint: MMEngine warns of a resume there, as its first update lacks them.

    Args: as MMEngine's ``EpochBasedTrainLoop``.

    Raises:
        TypeError: If the data loader or its sampler is an object and not a config, as
            a resume builds it again.
        ValueError: On a resume, before training, if the batch size, the number of
            processes, samples or batches is not the interrupted run's, or that run had
            another kind of loop.

    Source: extends :class:`mmengine.runner.EpochBasedTrainLoop`.
    """

    _done = 0  # batches of the epoch that were trained on before a resume

    def run_epoch(self) -> None:
        """Train the epoch, or what a resume left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done, self._done = self._done, 0
        if done:
            self.dataloader.batch_sampler.advance(done)
        for idx, data_batch in enumerate(self.dataloader, done):
            self.run_iter(idx, data_batch)

        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _resume_data(self) -> None:
        super()._resume_data()
        batches = self.dataloader.batch_sampler
        self._done = self._iter - batches.batches_before(self._epoch)


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(_ExactResume, IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that resumes a checkpoint of any iteration exactly.

    As :class:`ResumableEpochBasedTrainLoop`, with ``InfiniteSampler`` and with
    samplers that have epochs.

    Args: as MMEngine's ``IterBasedTrainLoop``.

    Raises:
        TypeError: As :class:`ResumableEpochBasedTrainLoop`.
        ValueError: As :class:`ResumableEpochBasedTrainLoop`.

    Source: extends :class:`mmengine.runner.IterBasedTrainLoop`.
    """

    def _resume_data(self) -> None:
        self.dataloader_iterator = None  # its workers have loaded from iteration 0 on
        super()._resume_data()
        self.dataloader_iterator = _Skippable(self._remaining_batches())

    def _remaining_batches(self) -> Iterator:
        # For the parent, which takes as many batches as were trained on from its
        # iterator. It does so after the hooks that set the sampler's epoch to 0.
        yield from repeat(None, self._iter)
        batches = self.dataloader.batch_sampler
        for epoch in count(batches.advance(self._iter) + 1):
            yield from self.dataloader
            if hasattr(batches.sampler, 'set_epoch'):
                batches.sampler.set_epoch(epoch)


class _Skippable:
    """Batches for either parent: MMEngine's calls next(), the fork's skip_iter()."""

    def __init__(self, batches: Iterator) -> None:
        self._batches = batches

    def __next__(self) -> Any:
        return next(self._batches)

    def skip_iter(self, num_iters: int) -> None:
        for _ in range(num_iters):
            next(self._batches)


def _seeded(config: dict, dataset: dict, runner: Runner, iteration: int) -> dict:
    """The data loader's config with the parts that make data exactly resumable."""
    seed = runner.seed
    if diff_rank_seed(runner):
        seed -= get_rank()  # samplers must agree on the order on all ranks

    def sampler(dataset: Any, **_: Any) -> Any:
        # Samplers may ask for the data set's type.
        if isinstance(dataset, seeded_data.SeededDataset):
            dataset = dataset.unseeded
        args = dict(dataset=dataset, seed=seed)
        return DATA_SAMPLERS.build(config['sampler'], default_args=args)

    config = {**config, 'dataset': dataset}
    batch_sampler = config.get('batch_sampler') or dict(
        type=BatchSampler, drop_last=config.pop('drop_last', False)
    )
    return {
        **config,
        'sampler': dict(type=sampler),
        'batch_sampler': dict(
            type=seeded_data.ResumableBatchSampler,
            batch_sampler=batch_sampler,
            seed=runner.seed,
            iteration=iteration,
        ),
    }
