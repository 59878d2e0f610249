"""A run of the ledger: its config, and the compact log that is committed."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmengine.config import Config

from ctkd_mm.analysis.report.runs import training_minutes
from ctkd_mm.analysis.run_log import read_config, read_metrics, read_scalars
from ctkd_mm.utils.files import write_atomically

# As for the demo, all paths are those of a checkout that is the current folder.
LOGS = Path('experiments/logs')
METHODS = Path('configs/_base_/methods')
STUDENT = Path('configs/demo/faster-rcnn_r18-eighth_fpn_digits.py')
PAIR = STUDENT.with_name('kd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py')
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmrazor', 'numpy', 'opencv-python')
CURVES = ('tau', 'tau_min', 'tau_max', 'lambda', 'distill.loss_kd')


def load_runs() -> dict[str, dict]:
    """Read ``runs.py``: every run by its name, with its seeds."""
    ledger = Config.fromfile(Path(__file__).with_name('runs.py'))
    return {name: {'seeds': ledger.seeds, **run} for name, run in ledger.runs.items()}


def is_ablation(name: str) -> bool:
    """Whether a run changes one thing in another; the rest are methods."""
    return name.startswith('ablation-')


def log_path(name: str, seed: int) -> Path:
    """Where the compact log of a run is."""
    return LOGS / name / f'seed{seed}.json'


def read_log(name: str, seed: int, runs: dict[str, dict]) -> dict | None:
    """Read a run's compact log.

    Args:
        name: The run's name.
        seed: Its seed.
        runs: The entries of ``runs.py``.

    Returns:
        The log; None if there is none, if it is of another entry, or if it is a
        control's and not of the tau that the log of its source ends with.
    """
    path, source = log_path(name, seed), runs[name].get('tau_of')
    log = json.loads(path.read_text()) if path.is_file() else None
    if log is None or log['run'] != _definition(runs[name]):
        return None
    if source and log['loss_kd']['tau'] != final_tau(source, seed, runs):
        return None
    return log


def final_tau(name: str, seed: int, runs: dict[str, dict]) -> float | None:
    """Read which tau a run ended with; None if it has no log, see :func:`read_log`."""
    log = read_log(name, seed, runs)
    return log and log['curves']['tau'][-1]


def make_config(run: dict, seed: int, tau: float | None = None) -> Config:
    """Make the config that a run is trained with.

    Args:
        run: The run's entry in ``runs.py``.
        seed: Its seed.
        tau: The constant temperature of a control.

    Returns:
        The demo's config, with the run's method in it.
    """
    cfg = Config.fromfile(PAIR if run['method'] else STUDENT)
    if run['method']:
        method = make_method(run, tau)
        cfg.model.loss_kd = method.loss_kd
        cfg.custom_hooks = method.get('custom_hooks', [])
        if 'paramwise_cfg' in method:
            cfg.optim_wrapper.paramwise_cfg = method.paramwise_cfg
    cfg.randomness.seed = seed
    return cfg


def make_method(run: dict, tau: float | None = None) -> Config:
    """Make the method config of a run that distils; see :func:`make_config`."""
    method = Config.fromfile(METHODS / f'{run["method"]}.py')
    method.merge_from_dict(run.get('changes', {}))
    if tau is not None:
        method.loss_kd.tau = tau
    return method


def find_temperature(loss_kd: dict) -> dict | None:
    """Find the temperature's config in a loss's, or in that of a loss inside it."""
    if 'temperature' in loss_kd:
        return loss_kd['temperature']
    return find_temperature(loss_kd['loss']) if 'loss' in loss_kd else None


def write_log(name: str, seed: int, run: dict, work_dir: Path) -> Path:
    """Write the compact log of a finished run.

    Args:
        name: The run's name.
        seed: Its seed.
        run: Its entry in ``runs.py``.
        work_dir: Where it was trained.

    Returns:
        The path written.
    """
    cfg, lines = read_config(work_dir), read_scalars(work_dir)
    loss_kd = cfg.model.get('loss_kd')
    log = dict(
        run=_definition(run),
        seed=cfg.randomness.seed,
        loss_kd=loss_kd and loss_kd.to_dict(),
        metrics={
            key.rpartition('/')[2]: value
            for key, value in read_metrics(work_dir)[-1].items()
            if key.startswith('coco/')
        },
        steps=[line['step'] for line in lines],
        epochs=[line['epoch'] for line in lines],
        curves={
            key: [_short(line.get(key)) for line in lines]
            for key in CURVES
            if any(key in line for line in lines)
        },
        seconds=round(60 * training_minutes(lines)),
        teacher=_teacher(cfg.model.get('teacher_ckpt')),
        packages=_versions(),
    )
    path = log_path(name, seed)
    text = json.dumps(log, separators=(',', ':')) + '\n'
    write_atomically(path, text.encode())
    return path


def _definition(run: dict) -> dict:
    """What makes a run what it is: its entry without the title."""
    definition = {
        key: run[key] for key in ('method', 'changes', 'tau_of') if key in run
    }
    return json.loads(json.dumps(definition))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f'{value:.5g}')


def _teacher(checkpoint: str | None) -> dict | None:
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return dict(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest()[:12],
        bbox_mAP=read_metrics(path.parent)[-1]['coco/bbox_mAP'],
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = 'none'
    return found
