"""The sets of the ledger, their runs, and the compact logs that are committed."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ctkd_mm.analysis.report.runs import training_minutes
from ctkd_mm.analysis.run_log import read_config, read_metrics, read_scalars
from ctkd_mm.utils.files import write_atomically

# As for the demo, all paths are those of a checkout that is the current folder.
LOGS = Path('experiments/logs')
SETS = Path('experiments/sets')
METHODS = Path('configs/_base_/methods')
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmrazor', 'numpy', 'opencv-python')
# The last two are RowSharesHook's.
CURVES = (
    *('tau', 'tau_min', 'tau_max', 'lambda', 'loss', 'student.loss_cls'),
    *('distill.loss_kd', 'kd_foreground', 'kd_background'),
)


@dataclass(frozen=True)
class DataSet:
    """A set of the ledger: a pair of detectors on some data, and its runs.

    Args:
        name: Of its file in ``experiments/sets``, and of the folder of its logs.
        title: For the page.
        student: Config of the student alone.
        pair: Config of the pair; a run's method takes the place of its own.
        teacher: Config of the teacher.
        teacher_dir: Work directory of the teacher's run.
        val_interval: How many epochs lie between two validations.
        comparisons: Pairs of runs beside those with the student alone; ``best`` is the
            best constant temperature.
        shown: Runs whose mAP is drawn over the training.
        runs: The runs by their name, each with its seeds; see ``sets/base.py``.
    """

    name: str
    title: str
    student: str
    pair: str
    teacher: str
    teacher_dir: Path
    val_interval: int
    comparisons: list[list[str]]
    shown: list[str]
    runs: dict[str, ConfigDict]

    def changes(self, name: str) -> str | None:
        """Kind of a run that changes one thing in another: what its name begins with.

        ``variant-x`` is of ``variants``; None is a method.
        """
        return f'{name.partition("-")[0]}s' if 'base' in self.runs[name] else None

    def kinds(self) -> list[str]:
        """All kinds of changes that the set has."""
        return sorted(set(filter(None, map(self.changes, self.runs))))

    def log_path(self, name: str, seed: int) -> Path:
        """Where the compact log of a run is."""
        return LOGS / self.name / name / f'seed{seed}.json'

    def read_log(self, name: str, seed: int) -> dict | None:
        """Read a run's compact log.

        Args:
            name: The run's name.
            seed: Its seed.

        Returns:
            The log; None if there is none, if it is of another entry, or if it is a
            control's and not of the tau that the log of its source ends with.
        """
        path, run = self.log_path(name, seed), self.runs[name]
        log = json.loads(path.read_text()) if path.is_file() else None
        if log is None or log['run'] != _definition(run):
            return None
        if 'tau_of' in run:
            found = find_constant(log['loss_kd'])['tau']
            if found != self.final_tau(run['tau_of'], seed):
                return None
        return log

    def final_tau(self, name: str, seed: int) -> float | None:
        """Read which tau a run ended with; None if it has no log."""
        log = self.read_log(name, seed)
        return log and log['curves']['tau'][-1]

    def make_config(self, name: str, seed: int, tau: float | None = None) -> Config:
        """Make the config that a run is trained with.

        Args:
            name: The run's name.
            seed: Its seed.
            tau: The constant temperature of a control.

        Returns:
            The set's config, with the run's method in it.
        """
        run = self.runs[name]
        cfg = Config.fromfile(self.pair if run['method'] else self.student)
        if run['method']:
            method = make_method(run, tau)
            cfg.model.loss_kd = method.loss_kd
            cfg.custom_hooks = [
                *method.get('custom_hooks', []),
                dict(type='RowSharesHook'),
            ]
            if 'paramwise_cfg' in method:
                cfg.optim_wrapper.paramwise_cfg = method.paramwise_cfg
        hooks = [dict(type='SameStartHook'), dict(type='TeacherCacheHook')]
        hooks = [*cfg.get('custom_hooks', []), *hooks]
        modules = 'same_start', 'teacher_cache', 'row_shares', 'variants'
        cfg.custom_hooks = hooks
        cfg.custom_imports = dict(imports=[f'experiments.{name}' for name in modules])
        cfg.randomness.seed = seed
        cfg.train_cfg.val_interval = self.val_interval
        return cfg

    def write_log(self, name: str, seed: int, work_dir: Path) -> Path:
        """Write the compact log of a finished run.

        Args:
            name: The run's name.
            seed: Its seed.
            work_dir: Where it was trained.

        Returns:
            The path written.
        """
        cfg, lines = read_config(work_dir), read_scalars(work_dir)
        metrics = read_metrics(work_dir)
        loss_kd = cfg.model.get('loss_kd')
        log = dict(
            run=_definition(self.runs[name]),
            seed=cfg.randomness.seed,
            loss_kd=loss_kd and loss_kd.to_dict(),
            metrics={
                key.rpartition('/')[2]: value
                for key, value in metrics[-1].items()
                if key.startswith('coco/')
            },
            maps=[[line['step'], line['coco/bbox_mAP']] for line in metrics],  # epochs
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
        path = self.log_path(name, seed)
        text = json.dumps(log, separators=(',', ':')) + '\n'
        write_atomically(path, text.encode())
        return path


def load_sets() -> dict[str, DataSet]:
    """Read ``sets/*.py`` but the base: every set by its name, the digits first."""
    found = {}
    for path in sorted(SETS.glob('*.py'), key=lambda path: path.stem != 'digits'):
        if path.stem != 'base':
            cfg = Config.fromfile(path)
            found[path.stem] = DataSet(
                path.stem,
                *(cfg[key] for key in ('title', 'student', 'pair', 'teacher')),
                Path(cfg.teacher_dir),
                cfg.val_interval,
                cfg.comparisons,
                cfg.shown,
                {k: ConfigDict({'seeds': cfg.seeds, **v}) for k, v in cfg.runs.items()},
            )
    return found


def make_method(run: dict, tau: float | None = None) -> Config:
    """Make the method config of a run that distils; see ``DataSet.make_config``."""
    method = Config.fromfile(METHODS / f'{run["method"]}.py')
    method.merge_from_dict(copy.deepcopy(run.get('changes', {})))  # eats _delete_
    if tau is not None:
        find_constant(method.loss_kd)['tau'] = tau
    return method


def find_temperature(loss_kd: dict) -> dict | None:
    """Find the temperature's config in a loss's, or in that of a loss inside it."""
    if 'temperature' in loss_kd:
        return loss_kd['temperature']
    return find_temperature(loss_kd['loss']) if 'loss' in loss_kd else None


def find_constant(loss_kd: dict) -> dict:
    """Find the part of a loss's config that has the constant ``tau``."""
    return find_temperature(loss_kd) or loss_kd


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
