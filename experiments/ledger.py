"""Train the runs of the ledger that have no log yet, then rebuild its page.

    make ledger    # or python experiments/ledger.py, in the root of a checkout

Trains as many runs at a time as there are cores, each on one; an interrupted run goes
on from its last epoch when called again. A run takes about 3 minutes of a core.
"""

from __future__ import annotations

import fcntl
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

from record import LOGS, final_tau, load_runs, make_config, read_log, write_log
from results import rebuild

from ctkd_mm.analysis.run_log import read_metrics, read_scalars
from ctkd_mm.demo.digits import make_demo_data
from ctkd_mm.demo.run import WORK_DIR as DEMO_DIR
from ctkd_mm.demo.run import run_training

WORK_DIR = Path('work_dirs/ledger')
POLL_SECONDS, REPORT_SECONDS = 2, 60
STEPS = 600  # 6 epochs of 800 scenes in batches of 8


def missing(runs: dict[str, dict]) -> list[tuple[str, int]]:
    """Name and seed of every run without a log; all runs of a seed, then the next."""
    jobs = [(seed, name) for name, run in runs.items() for seed in run['seeds']]
    return [
        (name, seed)
        for seed, name in sorted(jobs, key=lambda job: job[0])
        if read_log(name, seed, runs) is None
    ]


class Training:
    """One run on its way.

    Args:
        name: The run's name.
        seed: Its seed.
        run: Its entry in ``runs.py``.
    """

    def __init__(self, name: str, seed: int, run: dict) -> None:
        self.name, self.seed, self.run = name, seed, run
        self.work_dir = WORK_DIR / name / f'seed{seed}'

    def start(self, runs: dict[str, dict]) -> bool:
        """Start it, or go on; False while the run that gives its tau has no log."""
        source = self.run.get('tau_of')
        tau = final_tau(source, self.seed, runs) if source else None
        if source and tau is None:
            return False
        config = self.work_dir.with_suffix('.py')  # beside: MMEngine dumps inside
        text = make_config(self.run, self.seed, tau).pretty_text
        if not config.is_file() or config.read_text() != text:
            shutil.rmtree(self.work_dir, True)  # what is there is of an older entry
        self.work_dir.mkdir(parents=True, exist_ok=True)
        config.write_text(text)
        command = [sys.executable, '-W', 'ignore', 'tools/train.py', str(config)]
        with (self.work_dir / 'train.log').open('a') as log:
            self.process = subprocess.Popen(
                [*command, '--resume', '--work-dir', str(self.work_dir)],
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return True

    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        with suppress(FileNotFoundError, IndexError):
            return read_scalars(self.work_dir)[-1]['step'] / STEPS
        return 0.0

    def finish(self) -> bool:
        """Write its log; False if it failed."""
        if self.process.returncode:
            print(f'{self} failed: see {self.work_dir / "train.log"}', file=sys.stderr)
            return False
        if not read_metrics(self.work_dir):
            # It was stopped between its last checkpoint and its validation.
            shutil.rmtree(self.work_dir)
            print(f'{self} has no validation: call again', file=sys.stderr)
            return False
        write_log(self.name, self.seed, self.run, self.work_dir)
        return True

    def __str__(self) -> str:
        return f'{self.name}, seed {self.seed}'


def train(waiting: list[Training], runs: dict[str, dict], cores: int) -> bool:
    """Train runs, as many at a time as there are cores; print progress and ETA.

    Args:
        waiting: The runs to train.
        runs: The entries of ``runs.py``.
        cores: How many at a time.

    Returns:
        Whether all were trained.
    """
    running, failed, progress = [], 0, Progress(waiting)
    try:
        while True:
            for training in waiting[:]:
                if len(running) < cores and training.start(runs):
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


def main() -> None:
    """Train what is missing and rebuild the page."""
    runs = load_runs()
    waiting = [Training(*job, runs[job[0]]) for job in missing(runs)]
    print(f'{len(waiting)} runs have no log in {LOGS}', flush=True)
    if waiting:
        with alone():
            make_demo_data(DEMO_DIR / 'data')
            teacher = run_training('teacher', DEMO_DIR).parent
            if not read_metrics(teacher):
                sys.exit(f'{teacher} was stopped before its validation: remove it')
            if not train(waiting, runs, len(os.sched_getaffinity(0))):
                sys.exit('some runs failed: call again when their cause is gone')
    rebuild()


if __name__ == '__main__':
    # As Ctrl-C does: it ends the trainings too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
