"""Train the runs of the ledger that have no log yet, then rebuild its page.

    make ledger    # or python experiments/ledger.py, in the root of a checkout

Trains as many runs at a time as there are cores, each on one; an interrupted run goes
on from its last epoch when called again. A run takes 3 to 8 minutes of a core. Names
of sets given as arguments train these alone.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Iterator

from mmengine.config import Config
from record import LOGS, DataSet, load_sets
from results import rebuild

from ctkd_mm.analysis.run_log import is_validated, read_scalars
from ctkd_mm.demo.digits import make_demo_data

WORK_DIR, DEMO_DATA = Path('work_dirs/ledger'), Path('work_dirs/demo/data')
POLL_SECONDS, REPORT_SECONDS = 2, 60


def missing(data: DataSet) -> list[tuple[str, int]]:
    """Name and seed of every run without a log; all runs of a seed, then the next."""
    jobs = [(seed, name) for name, run in data.runs.items() for seed in run['seeds']]
    return [
        (name, seed)
        for seed, name in sorted(jobs, key=lambda job: job[0])
        if data.read_log(name, seed) is None
    ]


@functools.lru_cache
def max_epochs(config: str) -> int:
    """How many epochs a config trains."""
    return Config.fromfile(config).train_cfg.max_epochs


class Training:
    """One run on its way.

    Args:
        data: Its set.
        name: The run's name.
        seed: Its seed.
    """

    def __init__(self, data: DataSet, name: str, seed: int) -> None:
        self.data, self.name, self.seed = data, name, seed
        self.work_dir = WORK_DIR / data.name / name / f'seed{seed}'

    def start(self) -> bool:
        """Start it, or go on; False while the run that gives its tau has no log."""
        source = self.data.runs[self.name].get('tau_of')
        tau = self.data.final_tau(source, self.seed) if source else None
        if source and tau is None:
            return False
        config = self.work_dir.with_suffix('.py')  # beside: MMEngine dumps inside
        text = self.data.make_config(self.name, self.seed, tau).pretty_text
        if not config.is_file() or config.read_text() != text:
            shutil.rmtree(self.work_dir, True)  # what is there is of an older entry
        self.work_dir.mkdir(parents=True, exist_ok=True)
        config.write_text(text)
        command = [sys.executable, '-W', 'ignore', 'tools/train.py', str(config)]
        with (self.work_dir / 'train.log').open('a') as log:
            self.process = subprocess.Popen(
                [*command, '--resume', '--work-dir', str(self.work_dir)],
                env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.getcwd()},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return True

    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        with suppress(FileNotFoundError, IndexError):
            done = read_scalars(self.work_dir)[-1]['epoch']
            return done / max_epochs(self.data.student)
        return 0.0

    def finish(self) -> bool:
        """Write its log; False if it failed."""
        if self.process.returncode:
            print(f'{self} failed: see {self.work_dir / "train.log"}', file=sys.stderr)
            return False
        if not is_validated(self.work_dir, max_epochs(self.data.student)):
            # It was stopped between its last checkpoint and its validation.
            shutil.rmtree(self.work_dir)
            print(f'{self} has no validation: call again', file=sys.stderr)
            return False
        self.data.write_log(self.name, self.seed, self.work_dir)
        return True

    def __str__(self) -> str:
        return f'{self.data.name}: {self.name}, seed {self.seed}'


def train(waiting: list[Training], cores: int) -> bool:
    """Train runs, as many at a time as there are cores; print progress and ETA.

    Args:
        waiting: The runs to train.
        cores: How many at a time.

    Returns:
        Whether all were trained.
    """
    running, failed, progress = [], 0, Progress(waiting)
    try:
        while True:
            for training in waiting[:]:
                if len(running) < cores and training.start():
                    running.append(training)
                    waiting.remove(training)
            if not running:  # what waits takes its tau from a run that failed
                return not failed
            time.sleep(POLL_SECONDS)
            for training in [t for t in running if t.process.poll() is not None]:
                running.remove(training)
                failed += not training.finish()
            progress.report(running, waiting)
    finally:
        for training in running:
            training.process.terminate()
        for training in running:  # each saves first: until then its folder is in use
            training.process.wait()


class Progress:
    """Prints how far the runs are, once in ``REPORT_SECONDS``.

    Args:
        trainings: All of the runs, none of them started.
    """

    def __init__(self, trainings: list[Training]) -> None:
        self.total, self.begin = len(trainings), time.time()
        self.at_begin = sum(t.share() for t in trainings)
        self.next_report = self.begin + REPORT_SECONDS

    def report(self, running: list[Training], waiting: list[Training]) -> None:
        """Print a line with the ETA, if it is time to."""
        if time.time() < self.next_report:
            return
        self.next_report += REPORT_SECONDS
        shares = [t.share() for t in [*running, *waiting]]
        done, left = self.total - len(shares), len(shares) - sum(shares)
        gained = done + sum(shares) - self.at_begin
        eta = (time.time() - self.begin) * left / max(gained, 1e-3)
        print(
            f'{done} of {self.total} runs done, eta {timedelta(seconds=round(eta))}; '
            f'now {"; ".join(map(str, running))}',
            flush=True,
        )


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock on ``WORK_DIR``: two ledgers would train into the same folders.

    Raises:
        SystemExit: If another process holds it.
    """
    WORK_DIR.mkdir(parents=True, exist_ok=True)
    with (WORK_DIR / 'lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f'another process trains in {WORK_DIR}: wait until it has ended')
        yield


def prepare(data: DataSet) -> None:
    """Find the data of a set, the demo's are made, and train its teacher."""
    root = Path(Config.fromfile(data.student).data_root)
    if root == DEMO_DATA:
        make_demo_data(root)
    if not root.is_dir():
        sys.exit(f'{root} is missing: see docs/own-detector.md, or name other sets')
    last = f'epoch_{max_epochs(data.teacher)}.pth'
    if not (data.teacher_dir / last).is_file():
        print(f'training {data.teacher}', flush=True)
        command = [sys.executable, '-W', 'ignore', 'tools/train.py', data.teacher]
        options = ['--resume', '--work-dir', str(data.teacher_dir)]
        env = {**os.environ, 'OMP_NUM_THREADS': '1'}
        subprocess.run([*command, *options], env=env, check=True)
    if not is_validated(data.teacher_dir, max_epochs(data.teacher)):
        sys.exit(f'{data.teacher_dir} was stopped before its validation: remove it')


def main(names: list[str]) -> None:
    """Train what is missing and rebuild the page.

    Args:
        names: Of the sets to train; empty for all.
    """
    sets = load_sets()
    jobs = {name: missing(sets[name]) for name in names or sets}
    for name, left in jobs.items():
        print(f'{len(left)} runs of {name} have no log in {LOGS}', flush=True)
    waiting = [Training(sets[name], *job) for name in jobs for job in jobs[name]]
    if waiting:
        with alone():
            for name in filter(jobs.get, jobs):  # a complete set needs nothing
                prepare(sets[name])
            if not train(waiting, len(os.sched_getaffinity(0))):
                sys.exit('some runs failed: call again when their cause is gone')
    rebuild()


if __name__ == '__main__':
    # As Ctrl-C does: it ends the trainings too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(sys.argv[1:])
