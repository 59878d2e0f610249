"""The facts of a run that a report shows, from what MMEngine left in its folder."""

from __future__ import annotations

import inspect
import math
import os
import re
from pathlib import Path
from typing import Any, Iterator, Sequence

from mmengine.runner import Runner

from ctkd_mm.analysis.run_log import (
    LOG,
    PathLike,
    read_config,
    read_metrics,
    read_scalars,
    run_name,
)

# Of the environment that MMEngine logs, what may explain a difference.
ENVIRONMENT = re.compile(
    r'^ {4}(Python|PyTorch|CUDA available|GPU [\d,]+|NVCC|TorchVision|OpenCV|MMEngine'
    r'|seed|deterministic|cudnn_benchmark|GPU number|Distributed launcher): (.+)$',
    re.MULTILINE,
)


class RunRecord:
    """One run.

    Args:
        name: Its work directory, short, different for each run of a report.
        path: The work directory.

    Attributes:
        config: The config of its last start.
        model: Its model; empty where it has none.
        scalars: Training lines, see :func:`ctkd_mm.analysis.run_log.read_scalars`.
        metrics: Validation lines, see :func:`ctkd_mm.analysis.run_log.read_metrics`.
        environment: What MMEngine logged about machine and packages, by its names.
        checkpoint: The best checkpoint, else the last; None where there is none.

    Raises:
        FileNotFoundError: If the folder has no JSON log or no config of a run.
    """

    def __init__(self, name: str, path: Path) -> None:
        if not path.is_dir():
            raise FileNotFoundError(f'{path} is no folder: expected a work directory')
        self.name, self.path, self.checkpoint = name, path, _checkpoint(path)
        self.scalars, self.metrics = read_scalars(path), read_metrics(path)
        self.config = read_config(path)
        self.model = self.config.get('model') or {}
        # A test in the same folder has no scalars.
        start = sorted(path.glob(LOG))[-1].parents[1]
        texts = (log.read_text(errors='replace') for log in sorted(start.glob('*.log')))
        # The config follows, and may repeat a key.
        environment = next(texts, '').partition('Config:')[0]
        self.environment: dict[str, str] = dict(ENVIRONMENT.findall(environment))

    @property
    def seed(self) -> Any:
        """The seed that was used, None where neither log nor config tells."""
        configured = (self.config.get('randomness') or {}).get('seed')
        return self.environment.get('seed', configured)

    @property
    def metric(self) -> str | None:
        """Name of the first metric, as MMEngine's ``save_best='auto'`` takes it."""
        logged = self.metrics[-1] if self.metrics else {}
        skip = ('step', 'time', 'data_time')
        known = (k for k in logged if k not in skip and not k.startswith('teacher/'))
        return next(known, None)

    @property
    def method(self) -> str:
        """The distillation losses of the config, and what sets their temperature."""
        losses = [self.model['loss_kd']] if 'loss_kd' in self.model else []
        distiller = self.model.get('distiller') or {}
        losses += (distiller.get('distill_losses') or {}).values()
        return ' + '.join(map(_loss_name, losses)) or 'no distillation loss'

    @property
    def teacher(self) -> str | None:
        """The teacher's checkpoint, as configured."""
        return self.model.get('teacher_ckpt')


def read_runs(paths: Sequence[PathLike]) -> list[RunRecord]:
    """Read runs to compare.

    Args:
        paths: Work directories; one given again counts once.

    Returns:
        A record for each, in that order; runs whose folders have the same name are
        named by their paths below the folder they share.

    Raises:
        FileNotFoundError: If a folder has no JSON log or no config of a run.
    """
    folders = {str(Path(path).resolve()): Path(path) for path in paths}
    names = [run_name(path) for path in folders]
    if len(set(names)) < len(names):
        # Of the folders above them: one of them may hold another.
        shared = os.path.commonpath([Path(path).parent for path in folders])
        names = [os.path.relpath(path, shared) for path in folders]
    return [RunRecord(name, path) for name, path in zip(names, folders.values())]


def training_minutes(lines: Sequence[dict[str, float]]) -> float:
    """Time spent in training iterations: sum of logged seconds an iteration / 60.

    Args:
        lines: Training lines of one run; each gives the mean time of the iterations
            since the line before.
    """
    steps = [line['step'] for line in lines]
    means = [line.get('time', math.nan) for line in lines]
    return sum(t * (b - a) for t, a, b in zip(means, [0, *steps], steps)) / 60


def flatten(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Walk through a config.

    Args:
        value: A config, or a value in one.
        key: Where it is, for example ``model``; empty at the top.

    Yields:
        Dotted key and value of everything that holds no dict, for example
        ``('custom_hooks.0.end', 5)``.
    """
    if isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        yield key, value
        return
    for name, item in value.items():
        yield from flatten(item, f'{key}.{name}' if key else str(name))


def config_differences(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Keys of the configs whose values differ between runs.

    Args:
        runs: The runs.

    Returns:
        By dotted key, a value for each run, ``'–'`` where it is absent. A model
        without distillation stands below ``model.architecture``, where a distillation
        has its student. Top-level variables that MMEngine does not read are left out.
    """
    flat = [_comparable(run) for run in runs]
    keys = sorted({key for one in flat for key in one})
    rows = {key: [one.get(key, '–') for one in flat] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def _checkpoint(run: Path) -> Path | None:
    best = sorted(run.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    named = run / 'last_checkpoint'
    last = Path(named.read_text()) if named.is_file() else run
    # It names a full path, but the folder may have been moved since.
    found = (*best[::-1], run / last.name, last)
    return next((path for path in found if path.is_file()), None)


def _loss_name(part: dict) -> str:
    """For example ``CTKDLoss (GlobalTemperature)`` or ``KLDivergence (tau=4)``."""
    name, own = str(part.get('type')).rsplit('.', 1)[-1], part.get('temperature')
    if isinstance(own, dict):
        return f'{name} ({_loss_name(own)})'
    return f'{name} (tau={part["tau"]})' if 'tau' in part else name


def _comparable(run: RunRecord) -> dict[str, str]:
    read = inspect.signature(Runner.__init__).parameters.keys() - {'work_dir'}
    cfg = {key: value for key, value in run.config.items() if key in read}
    if 'architecture' not in run.model:
        cfg['model'] = dict(architecture=run.model)
    return {k: repr(v) for k, v in flatten(cfg) if not k.endswith('_scope_')}
