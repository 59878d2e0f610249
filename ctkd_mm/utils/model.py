"""What the package asks of a Runner, MMEngine's private names included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, Runner


def unwrapped(runner: Runner) -> BaseModel:
    """Return the runner's model, out of all that MMEngine's loader looks through."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def teaching(runner: Runner) -> BaseModel | None:
    """Return the runner's model, out of its wrapper, if it has a teacher of ours."""
    model = unwrapped(runner)
    return model if hasattr(model, 'teacher_sha256') else None


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """Return the wrappers of all optimizers, usually one."""
    wrapper = runner.optim_wrapper
    several = isinstance(wrapper, OptimWrapperDict)
    return list(wrapper.values()) if several else [wrapper]


def trains(runner: Runner) -> bool:
    """Return whether a training has begun: its loop is built."""
    return isinstance(runner._train_loop, BaseLoop)


def resumes(runner: Runner) -> bool:
    """Return whether the runner was told to resume, whatever it finds to resume."""
    return runner._resume


def has_loaded(runner: Runner) -> bool:
    """Return whether the runner has loaded or resumed a checkpoint."""
    return runner._has_loaded


def load_from(runner: Runner) -> str | None:
    """Return the checkpoint that the runner was told to load, or found to resume."""
    return runner._load_from


def diff_rank_seed(runner: Runner) -> bool:
    """Return whether every process has a seed of its own."""
    return bool(runner._randomness_cfg.get('diff_rank_seed'))


def data_sets(runner: Runner) -> Iterator[tuple[str, Any]]:
    """Find the data sets of a training; attributes of their wrappers may be others.

    Args:
        runner: The runner, its training loop built.

    Yields:
        Key in the config and data set, for training and validation.
    """
    yield from parts(runner.train_dataloader.dataset, 'train_dataloader.dataset')
    if runner.val_loop is not None:
        yield from parts(runner.val_dataloader.dataset, 'val_dataloader.dataset')


def parts(dataset: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Find the data sets inside wrappers.

    Args:
        dataset: A built data set.
        key: Its place in the config.

    Yields:
        Key and data set, wrappers left out.
    """
    for name in ('unseeded', '_dataset'):  # SeededDataset, MMEngine's _SlicedDataset
        dataset = getattr(dataset, name, dataset)
    if hasattr(dataset, 'datasets'):
        for i, part in enumerate(dataset.datasets):
            yield from parts(part, f'{key}.datasets.{i}')
    elif hasattr(dataset, 'dataset'):
        yield from parts(dataset.dataset, f'{key}.dataset')
    else:
        yield key, dataset


def infos(dataset: Any, number: int | None = None) -> Iterator[dict]:
    """Describe images of a data set.

    Args:
        dataset: A built data set; one without ``get_data_info`` tells nothing.
        number: About how many, evenly spaced; None for all.

    Yields:
        What ``get_data_info`` returns.
    """
    if hasattr(dataset, 'get_data_info'):
        step = len(dataset) // (number or len(dataset) or 1)
        yield from map(dataset.get_data_info, range(0, len(dataset), max(step, 1)))
