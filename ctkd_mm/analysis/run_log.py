"""Reads what MMEngine wrote of a run: scalars, metrics and config."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Iterable, Union

from mmengine.config import Config

PathLike = Union[str, Path]


def read_scalars(run: PathLike) -> list[dict[str, float]]:
    """Read the training lines of a run's JSON log, one per logged iteration.

    Args:
        run: A work directory, or one ``scalars.json``. In a work directory all
            starts of the run are joined; from the iteration on at which a later
            start began, that one counts. Damaged lines are left out.

    Returns:
        The logged scalars in the order of ``step``, the iteration.

    Raises:
        FileNotFoundError: If there is no JSON log.
    """
    return _by_step(line for line in _lines(run) if 'lr' in line)


def read_metrics(run: PathLike) -> list[dict[str, float]]:
    """Read the validation lines of a run's JSON log, one per validation.

    Args:
        run: As for :func:`read_scalars`.

    Returns:
        The metrics in the order of ``step``, which counts epochs here in an
        epoch-based training.

    Raises:
        FileNotFoundError: If there is no JSON log.
    """
    # Only the learning rate tells the two kinds of lines apart.
    return _by_step(line for line in _lines(run) if 'lr' not in line)


def is_validated(run: PathLike, epoch: int) -> bool:
    """Whether the last validation of a run is that of the epoch."""
    return [metrics['step'] for metrics in read_metrics(run)[-1:]] == [epoch]


def read_config(run: PathLike) -> Config:
    """Read the config that the last start of a run was trained with.

    Args:
        run: As for :func:`read_scalars`.

    Returns:
        The whole config, as MMEngine dumped it beside the JSON log.

    Raises:
        FileNotFoundError: If there is none.
    """
    dumped = find_logs(run)[-1].with_name('config.py')
    return Config.fromfile(dumped, import_custom_modules=False)


def run_name(run: PathLike) -> str:
    """The name of a run: that of its work directory."""
    run = Path(run).resolve()
    return run.parents[2].name if run.is_file() else run.name


def short_path(path: PathLike) -> str:
    """Write a path for a reader.

    Args:
        path: A path, or a URL.

    Returns:
        The path without detours, or from the current folder on if that is shorter; a
        URL as it is.
    """
    if '://' in str(path):
        return str(path)
    return min(os.path.normpath(path), os.path.relpath(path), key=len)


def find_logs(run: PathLike) -> list[Path]:
    """Find the JSON logs of a run, one for each start; see :func:`read_scalars`."""
    run = Path(run)
    logs = [run] if run.is_file() else sorted(run.glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(
            f'{run} has no JSON log: expected <timestamp>/vis_data/scalars.json in it'
        )
    return logs


def _lines(run: PathLike) -> list[dict[str, float]]:
    lines = []
    for log in find_logs(run):
        own = []
        for line in log.read_text(errors='replace').splitlines():
            # Cut off by a kill, or damaged by a crash of the machine.
            with suppress(json.JSONDecodeError):
                own.append(json.loads(line))
        first = next((line['step'] for line in own if 'lr' in line), math.inf)
        again = (i for i, x in enumerate(lines) if 'lr' in x and x['step'] >= first)
        # From there on this start has gone its own way.
        del lines[next(again, len(lines)) :]
        lines += own
    return lines


def _by_step(lines: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    by_step = {line['step']: line for line in lines}
    return [by_step[step] for step in sorted(by_step)]
