"""The ledger's pictures: mAP by method; tau and the loss's share over training."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

import matplotlib
import numpy as np
from intervals import Interval, interval, paired
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from record import DataSet

# The same figures give the same file.
STYLE = {'svg.hashsalt': 'ledger', 'font.size': 9, 'axes.axisbelow': True}
CTKD, OTHER = 'tab:orange', 'tab:blue'
SEEDS = 'mean and range of the seeds'
KD, GROUPS = ['distill.loss_kd'], ['kd_foreground', 'kd_background']
PARTS = {
    'loss_kd in the loss': (KD, ['loss']),
    'foreground in loss_kd': (GROUPS[:1], GROUPS),
}


def is_learned(logs: list[dict]) -> bool:
    """Whether a run's temperature is learned: whether lambda is in its log."""
    return 'lambda' in logs[0]['curves']


def maps(logs: list[dict]) -> list[float]:
    """The seeds' box mAP."""
    return [log['metrics']['bbox_mAP'] for log in logs]


def gain_over(logs: list[dict], others: list[dict]) -> Interval:
    """How much higher the box mAP is than another run's, over the seeds of both."""
    count = min(len(logs), len(others))
    return paired(maps(logs)[:count], maps(others)[:count])


def shares(log: dict, parts: Sequence[str], whole: Sequence[str]) -> np.ndarray:
    """Some curves' sum over that of others, an epoch each.

    Args:
        log: A compact log.
        parts: Keys of the curves above.
        whole: Keys of the curves below.
    """
    _, epochs = np.unique(log['epochs'], return_inverse=True)
    sums = [
        sum(np.bincount(epochs, log['curves'][key]) for key in keys)
        for keys in (parts, whole)
    ]
    return np.divide(*sums)


def share_of_loss(logs: list[dict]) -> float:
    """Part of the total loss that ``loss_kd`` is, over the training; nan without it."""
    if not _has_share(logs):
        return math.nan
    return float(np.mean([shares(log, KD, ['loss']) for log in logs]))


def draw_maps(data: DataSet, logs: dict[str, list[dict]], out: Path) -> None:
    """Draw every seed's mAP, the mean and its 95% interval, a row a method.

    Args:
        data: The set.
        logs: The compact logs of its runs.
        out: Path of the SVG.
    """
    names = [name for name in logs if not data.changes(name)]
    with _picture(out, 0.36 * len(names) + 0.8) as figure:
        axes = figure.subplots()
        for row, name in enumerate(names):
            values = maps(logs[name])
            color = _draw_row(axes, row, interval(values), logs[name])
            axes.plot(values, [row] * len(values), 'o', color=color, alpha=0.35, ms=4)
        _label_rows(axes, [data.runs[name]['title'] for name in names])
        axes.set_xlabel('box mAP: seeds, mean and 95% interval (orange: learned tau)')


def draw_taus(data: DataSet, logs: dict[str, list[dict]], out: Path) -> None:
    """Draw every learned tau over training: the seeds' mean, band from min to max.

    Args:
        data: The set.
        logs: The compact logs of its runs.
        out: Path of the SVG.
    """
    curves = {
        run['title']: (
            logs[name][0]['steps'],
            [log['curves']['tau'] for log in logs[name]],
        )
        for name, run in data.runs.items()
        if name in logs and is_learned(logs[name]) and not data.changes(name)
    }
    with _picture(out, 4.2) as figure:
        axes = figure.subplots()
        _bands(axes, curves, 'iteration', f'tau: {SEEDS}')
        axes.set_yscale('log')
        axes.set_yticks([1, 2, 5, 10, 20], ['1', '2', '5', '10', '20'])
        axes.minorticks_off()
        axes.legend()


def draw_epochs(data: DataSet, logs: dict[str, list[dict]], out: Path) -> None:
    """Draw mAP over training, as :func:`draw_taus`; of ``data.shown`` alone.

    Args:
        data: The set.
        logs: The compact logs of its runs.
        out: Path of the SVG.
    """
    curves = {}
    for name in (name for name in data.shown if name in logs):
        steps, *_ = zip(*logs[name][0]['maps'])
        values = [[value for _, value in log['maps']] for log in logs[name]]
        curves[data.runs[name]['title']] = steps, values
    with _picture(out, 4.2) as figure:
        axes = figure.subplots()
        _bands(axes, curves, 'epoch', f'box mAP: {SEEDS}')
        axes.legend()


def draw_shares(data: DataSet, logs: dict[str, list[dict]], out: Path) -> None:
    """Draw which part of the loss is ``loss_kd``, and which part of that foreground.

    Args:
        data: The set.
        logs: The compact logs of its runs; of ``data.shown`` those that distil.
        out: Path of the SVG.
    """
    names = [name for name in data.shown if name in logs and _has_share(logs[name])]
    with _picture(out, 6.5) as figure:
        for axes, (label, keys) in zip(figure.subplots(2), PARTS.items()):
            curves = {}
            for name in names:
                values = [shares(log, *keys) for log in logs[name]]
                steps = range(1, len(values[0]) + 1)
                curves[data.runs[name]['title']] = steps, values
            _bands(axes, curves, 'epoch', label)
            axes.set_ylim(0, 1)
        axes.legend()


def draw_gains(data: DataSet, logs: dict[str, list[dict]], out: Path) -> None:
    """Draw every run's gain over the student alone, by the share of its loss.

    Args:
        data: The set.
        logs: The compact logs of its runs, with 'student' among them.
        out: Path of the SVG.
    """
    runs = sorted(
        (share_of_loss(logs[name]), name) for name in logs if name != 'student'
    )
    with _picture(out, 0.3 * len(runs) + 0.8) as figure:
        axes = figure.subplots()
        for row, (_, name) in enumerate(runs):
            gain = gain_over(logs[name], logs['student'])
            _draw_row(axes, row, gain, logs[name])
        _label_rows(axes, [f'{data.runs[n]["title"]}: {of:.0%}' for of, n in runs])
        axes.axvline(0, color='grey', lw=1)
        axes.set_xlabel(
            'box mAP over the student alone: mean and 95% interval\n'
            '(percent: share of loss_kd; orange: learned tau)'
        )


def _has_share(logs: list[dict]) -> bool:
    return {*KD, 'loss'} <= logs[0]['curves'].keys()


@contextmanager
def _picture(out: Path, height: float) -> Iterator[Figure]:
    """A figure in the ledger's style, saved at the end."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, height), layout='constrained')
        FigureCanvasSVG(figure)
        yield figure
        figure.savefig(out, metadata={'Date': None})


def _draw_row(axes: Axes, row: int, found: Interval, logs: list[dict]) -> str:
    """Draw a run's mean and interval; return their colour."""
    mean, half, _ = found
    color = CTKD if is_learned(logs) else OTHER
    axes.errorbar(mean, row, xerr=half, fmt='D', color=color, capsize=3, ms=5)
    return color


def _label_rows(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis='x', alpha=0.3)


def _bands(axes: Axes, curves: dict[str, tuple], xlabel: str, ylabel: str) -> None:
    """Draw curves by title, (steps, values of each seed): the mean, and a band."""
    for title, (steps, values) in curves.items():
        values = np.array(values, float)
        (line,) = axes.plot(steps, values.mean(0), label=title)
        color = line.get_color()
        axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
