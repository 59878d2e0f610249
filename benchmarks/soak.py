"""Soak: train the demo's CTKD pair for long; measure what must not grow.

    python benchmarks/soak.py [--iterations 3000] [--out work_dirs/soak]

Runs in the root of a checkout, on the CPU: 10 to 15 minutes on one core. The teacher is
untrained, for nothing here depends on what it knows. MMEngine's log shows progress and
ETA; a table and ``soak.json`` in the folder hold the results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, save_checkpoint

from ctkd_mm.demo.digits import make_demo_data
from ctkd_mm.demo.run import format_table

CONFIG = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
TEACHER = 'configs/demo/faster-rcnn_r18-half_fpn_digits.py'
BATCH_SIZE, PER_EPOCH = 6, 50
EVERY = 10  # iterations between two readings: what the demo logs, too


def rss_kib() -> float:
    """Return this process's resident memory; Linux."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1024


def slope(x: list[float], y: list[float]) -> tuple[float, float]:
    """Fit a line by least squares.

    Args:
        x: At least three positions.
        y: As many values.

    Returns:
        The slope and its standard error, which takes the residuals as independent.
    """
    dx = np.subtract(x, np.mean(x))
    dy = np.subtract(y, np.mean(y))
    value = (dx @ dy) / (dx @ dx)
    residuals = dy - value * dx
    error = np.sqrt(residuals @ residuals / (len(dx) - 2) / (dx @ dx))
    return float(value), float(error)


class BeforeHooks(Hook):
    """Notes the time when the step is done, before any hook keeps a scalar of it."""

    priority = 'HIGHEST'
    time = 0.0

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Note it."""
        self.time = time.perf_counter()


class Readings(Hook):
    """Reads the clocks at every iteration, memory and log size at some."""

    priority = 61  # right after LoggerHook

    def __init__(self, before_hooks: BeforeHooks) -> None:
        self.before_hooks = before_hooks
        self.ends: list[float] = []
        self.logging: list[float] = []
        self.at: list[int] = []
        self.rss: list[float] = []
        self.log_bytes: list[int] = []

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Read."""
        self.ends.append(time.perf_counter())
        self.logging.append(self.ends[-1] - self.before_hooks.time)
        if (runner.iter + 1) % EVERY == 0:
            files = Path(runner.log_dir).rglob('*')
            self.at.append(runner.iter + 1)
            self.rss.append(rss_kib())
            self.log_bytes.append(sum(f.stat().st_size for f in files if f.is_file()))


def prepare(out: Path, num_train: int, num_val: int) -> tuple[Path, str]:
    """Make the digits and an untrained teacher's checkpoint; nothing old stays.

    Args:
        out: Folder for everything.
        num_train: Images.
        num_val: Images.

    Returns:
        The data's folder and the checkpoint's path.
    """
    from mmdet.registry import MODELS

    shutil.rmtree(out, ignore_errors=True)
    data = make_demo_data(out / 'data', num_train=num_train, num_val=num_val)
    init_default_scope('mmdet')
    torch.manual_seed(1)
    teacher = MODELS.build(Config.fromfile(TEACHER).model)
    teacher.init_weights()
    meta = dict(dataset_meta=dict(classes=tuple('0123456789')))
    teacher_ckpt = str(out / 'teacher.pth')
    save_checkpoint(dict(meta=meta, state_dict=teacher.state_dict()), teacher_ckpt)
    return data, teacher_ckpt


def build(iterations: int, out: Path, hooks: list[Hook]) -> Runner:
    """Make the data, the teacher's checkpoint and the run; nothing of an old one stays.

    Args:
        iterations: Rounded up to whole epochs of 50.
        out: Folder for everything.
        hooks: Added to the config's.
    """
    data, teacher_ckpt = prepare(out, num_train=BATCH_SIZE * PER_EPOCH, num_val=4)
    cfg = Config.fromfile(CONFIG)
    loader = dict(  # no worker: its memory would not be seen
        batch_size=BATCH_SIZE, num_workers=0, persistent_workers=False
    )
    cfg.merge_from_dict(
        dict(
            work_dir=str(out / 'run'),
            model=dict(teacher_ckpt=teacher_ckpt),
            train_dataloader=dict(loader, dataset=dict(data_root=f'{data}/')),
            train_cfg=dict(max_epochs=-(-iterations // PER_EPOCH)),
        )
    )
    # The rate stays: one that had decayed to 0 would rest, not train.
    cfg.param_scheduler = cfg.param_scheduler[:1]
    for split in ('val', 'test'):
        for key in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{split}_{key}'] = None
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    return runner


def summary(readings: Readings) -> dict[str, Any]:
    """Compare the first and the last third of what follows the first epoch.

    The slope of the memory is that of the last two thirds, and of the last alone:
    PyTorch's allocator takes its time to have seen every size.
    """
    seconds = np.diff(readings.ends)[PER_EPOCH - 1 :]
    logging = np.array(readings.logging[PER_EPOCH:]) * 1e3
    skip = PER_EPOCH // EVERY
    third = len(readings.at) // 3
    log_bytes = np.diff(readings.log_bytes[skip - 1 :]) / EVERY
    slopes = [slope(readings.at[n:], readings.rss[n:]) for n in (third, 2 * third)]
    return dict(
        iterations=len(readings.ends),
        rss_mib=readings.rss[-1] / 1024,
        # Of the last two thirds and of the last: (slope, standard error).
        rss_slopes_kib_per_iteration=slopes,
        # The median: what else the machine does is no growth.
        seconds_per_iteration=_thirds(seconds, np.median),
        logging_ms_per_iteration=_thirds(logging, np.mean),
        log_bytes_per_iteration=_thirds(log_bytes, np.mean),
    )


def _thirds(values: np.ndarray, average: Callable) -> list[float]:
    third = len(values) // 3
    return [float(average(part)) for part in (values[:third], values[-third:])]


def table(results: dict[str, Any]) -> str:
    """Format :func:`summary`'s figures for the console."""
    rows = [
        {'per iteration': name, 'first third': f'{a:.{n}f}', 'last third': f'{b:.{n}f}'}
        for name, n, (a, b) in (
            ('seconds (median)', 3, results['seconds_per_iteration']),
            ('hooks and logging, ms', 2, results['logging_ms_per_iteration']),
            ('log files, bytes', 0, results['log_bytes_per_iteration']),
        )
    ]
    late, last = (
        f'{value:+.3f} +- {error:.3f}'
        for value, error in results['rss_slopes_kib_per_iteration']
    )
    return (
        f'{results["iterations"]} iterations, {results["rss_mib"]:.0f} MiB resident; '
        f'slope of the last two thirds {late} KiB an iteration, of the last {last}\n'
        f'{format_table(rows)}'
    )


def main() -> None:
    """Train, print the table, write ``soak.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=3000, help='at least 150')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/soak'))
    args = parser.parse_args()
    if args.iterations < 3 * PER_EPOCH:
        parser.error(f'--iterations must be >= {3 * PER_EPOCH}, got {args.iterations}')
    before_hooks = BeforeHooks()
    readings = Readings(before_hooks)
    build(args.iterations, args.out, [before_hooks, readings]).train()
    results = summary(readings)
    series = dict(iteration=readings.at, rss_kib=readings.rss)
    path = args.out / 'soak.json'
    path.write_text(json.dumps(dict(results, series=series), indent=1))
    print(f'\n{table(results)}\nfigures: {path}')


if __name__ == '__main__':
    main()
