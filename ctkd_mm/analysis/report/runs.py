"""Reads what a report shows of a run from the files that MMEngine wrote."""

from __future__ import annotations

import inspect
import math
import os
import re
from pathlib import Path
from typing import Any, Sequence

from mmengine.runner import Runner

from ctkd_mm.analysis.run_log import (
    PathLike,
    find_logs,
    read_config,
    read_metrics,
    read_scalars,
)
from ctkd_mm.utils.config import bare, walk

# Of the environment that MMEngine logs, what may explain a difference.
ENVIRONMENT = re.compile(
    r'(?m)^ {4}(Python|PyTorch|CUDA available|GPU [\d,]+|NVCC|TorchVision|OpenCV|seed|'
    r'MMEngine|deterministic|cudnn_benchmark|GPU number|Distributed launcher): (.+)$'
)


class RunRecord:
    """One run.

    Args:
        name: What the report calls it.
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
        self.name, self.path, self.checkpoint = name, path, _checkpoint(path)
        self.scalars, self.metrics = read_scalars(path), read_metrics(path)
        self.config = read_config(path)
        self.model = self.config.get('model') or {}
        # A test in the same folder has no scalars.
        start = find_logs(path)[-1].parents[1]
        texts = (log.read_text(errors='replace') for log in sorted(start.glob('*.log')))
        # The config follows, and may repeat a key.
        environment = next(texts, '').partition('Config:')[0]
        self.environment: dict[str, str] = dict(ENVIRONMENT.findall(environment))

    @property
    def seed(self) -> Any:
        """The seed that was used, None where neither log nor config has it."""
        configured = self.config.get('randomness', {}).get('seed')
        return self.environment.get('seed', configured)

    @property
    def metric(self) -> str | None:
        """Name of the first metric, as MMEngine's ``save_best='auto'`` takes it."""
        skip = ('step', 'time', 'data_time', 'teacher/')
        logged = self.metrics[-1] if self.metrics else {}
        return next((key for key in logged if not key.startswith(skip)), None)

    @property
    def data(self) -> str:
        """The annotations that it is validated on; empty where it says none."""
        data = (self.config.get('val_dataloader') or {}).get('dataset') or {}
        return os.path.join(data.get('data_root') or '', data.get('ann_file') or '')

    @property
    def method(self) -> str:
        """The distillation losses of the config, and what sets their temperature."""
        distiller = self.model.get('distiller') or {}
        losses = [self.model.get('loss_kd')]
        losses += (distiller.get('distill_losses') or {}).values()
        names = map(_loss_name, filter(None, losses))
        return ' + '.join(names) or 'no distillation loss'


def read_runs(paths: Sequence[PathLike]) -> list[RunRecord]:
    """Read runs to compare.

    Args:
        paths: Work directories; one given again counts once.

    Returns:
        A record for each, in that order, named by its path below the folder that all
        of them share.

    Raises:
        FileNotFoundError: If a folder has no JSON log or no config of a run.
    """
    folders = {str(Path(path).resolve()): Path(path) for path in paths}
    # Of the folders above them: one of them may hold another.
    shared = os.path.commonpath([Path(path).parent for path in folders])
    return [RunRecord(os.path.relpath(k, shared), v) for k, v in folders.items()]


def group_seeds(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Put the runs together whose configs differ in their seeds alone.

    Args:
        runs: The runs.

    Returns:
        They by a name, in their order: that of the first run, and how many more.
    """
    alike: dict[str, list[RunRecord]] = {}
    for run in runs:
        cfg = _comparable(run).items()
        key = [(k, v) for k, v in cfg if not k.startswith(('randomness', 'resume'))]
        alike.setdefault(repr(key), []).append(run)
    return {
        run.name + f' and {len(others)} more' * bool(others): [run, *others]
        for run, *others in alike.values()
    }


def training_minutes(lines: Sequence[dict[str, float]]) -> float:
    """Time spent in training iterations: sum of logged seconds an iteration / 60.

    Args:
        lines: Training lines of one run; each gives the mean time of the iterations
            since the line before.
    """
    steps = [line['step'] for line in lines]
    means = [line.get('time', math.nan) for line in lines]
    return sum(t * (b - a) for t, a, b in zip(means, [0, *steps], steps)) / 60


def flatten(cfg: dict) -> dict[str, Any]:
    """Pick the settings of a config that hold no dict.

    Args:
        cfg: A config.

    Returns:
        Their values by dotted key, for example ``{'custom_hooks.0.end': 5}``; a list
        without dicts is one value.
    """
    plain = {
        key: value
        for key, value in walk(cfg)
        if not any(isinstance(part, dict) for _, part in walk(value))
    }
    return {k: v for k, v in plain.items() if k.rpartition('.')[0] not in plain}


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
    last = [Path(file.read_text()) for file in run.glob('last_checkpoint')]
    # It names a full path, but the folder may have been moved since.
    found = (*best[::-1], *(run / path.name for path in last), *last)
    return next((path for path in found if path.is_file()), None)


def _loss_name(loss: dict) -> str:
    """For example ``CTKDLoss (GlobalTemperature)`` or ``KLDivergence (tau=4)``."""
    name, temperature = bare(loss.get('type')), loss.get('temperature')
    if isinstance(temperature, dict):
        return f'{name} ({_loss_name(temperature)})'
    return f'{name} (tau={loss["tau"]})' if 'tau' in loss else name


def _comparable(run: RunRecord) -> dict[str, str]:
    read = inspect.signature(Runner.__init__).parameters.keys() - {'work_dir'}
    cfg = {key: value for key, value in run.config.items() if key in read}
    if cfg.get('resume') or not cfg.get('load_from'):
        cfg.pop('load_from', None)  # what --resume named is the run itself
    if 'architecture' not in run.model:
        cfg['model'] = dict(architecture=run.model)
    return {k: repr(v) for k, v in flatten(cfg).items() if not k.endswith('_scope_')}
