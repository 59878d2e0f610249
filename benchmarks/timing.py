"""What the benchmarks share: timing side by side, tables, goals, a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from mmengine.utils import ProgressBar

from ctkd_mm.demo.run import format_table

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmrazor', 'numpy', 'ctkd_mm')


def parser(doc: str) -> argparse.ArgumentParser:
    """Make the arguments that every benchmark takes, described by its docstring."""
    found = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument('--short', action='store_true', help='what `make bench` runs')
    found.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/benchmarks'),
        help='folder of the JSON file',
    )
    return found


def interleaved(
    sides: dict[str, Callable[[], object]], repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time every side once, then every side again, and so on, in shuffled orders.

    A machine that slows down for a while then slows all of them down, and so does what
    a side leaves behind: a warm processor, a fragmented heap. Progress and ETA go to
    the console.

    Args:
        sides: What to run, by name.
        repeats: How often each is timed, >= 1.
        warm_up: How often each runs untimed before, in the order given.

    Returns:
        Seconds of each timed run, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    bar = ProgressBar((warm_up + repeats) * len(sides))
    for i in range(warm_up + repeats):
        order = list(sides)
        if i >= warm_up:
            random.Random(i).shuffle(order)
        for name in order:
            start = time.perf_counter()
            sides[name]()
            if i >= warm_up:
                seconds[name].append(time.perf_counter() - start)
            bar.update()
    print()
    return seconds


def median(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The median of each side's runs."""
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def ratio(seconds: dict[str, list[float]], side: str, over: str) -> float:
    """Median over the rounds of one side's time to another's in the same round."""
    rounds = zip(seconds[side], seconds[over])
    return statistics.median(a / b for a, b in rounds)


def goal(what: str, value: float, at_most: float) -> dict[str, str]:
    """One row of a table of goals."""
    met = 'met' if value <= at_most else 'missed'
    return {'goal': what, 'measured': f'{value:.3f}', 'at most': f'{at_most}', '': met}


def report(
    name: str, tables: dict[str, list[dict[str, str]]], results: dict, out: Path
) -> None:
    """Print tables and write them, the figures and the environment as JSON.

    Args:
        name: The file's name, without its ending.
        tables: Rows by title.
        results: Figures that JSON can hold.
        out: The folder.
    """
    for title, rows in tables.items():
        print(f'\n{title}\n{format_table(rows)}')
    out.mkdir(parents=True, exist_ok=True)
    path = out / f'{name}.json'
    content = dict(environment=environment(), tables=tables, **results)
    path.write_text(json.dumps(content, indent=1) + '\n')
    print(f'figures: {path}\n')


def resident(key: str) -> float:
    """Return the MiB of this process now (VmRSS) or at most so far (VmHWM); Linux."""
    status = Path('/proc/self/status').read_text()
    return int(status.split(f'{key}:')[1].split()[0]) / 1024


def environment() -> dict[str, object]:
    """What the figures depend on beside the code."""
    return dict(
        date=time.strftime('%Y-%m-%d'),
        cpu=_cpu(),
        cpus=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        python=platform.python_version(),
        packages={package: _version(package) for package in PACKAGES},
    )


def _cpu() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1] for line in lines if line.startswith('model name')]
    return names[0].strip() if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a fork of it is installed under another name
        return None
