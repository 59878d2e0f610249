"""The ledger's pictures: mAP by method, tau over training."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from intervals import interval
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from record import DataSet

# The same figures give the same file.
STYLE = {'svg.hashsalt': 'ledger', 'font.size': 9, 'axes.axisbelow': True}
CTKD, OTHER = 'tab:orange', 'tab:blue'


def is_learned(logs: list[dict]) -> bool:
    """Whether a run's temperature is learned: whether lambda is in its log."""
    return 'lambda' in logs[0]['curves']


def draw_maps(data: DataSet, logs: dict[str, list[dict]], out: Path) -> None:
    """Draw every seed's mAP, the mean and its 95% interval, a row a method.

    Args:
        data: The set.
        logs: The compact logs of its runs.
        out: Path of the SVG.
    """
    names = [name for name in logs if not data.changes(name)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 0.36 * len(names) + 0.8), layout='constrained')
        axes = figure.subplots()
        for row, name in enumerate(names):
            values = [log['metrics']['bbox_mAP'] for log in logs[name]]
            mean, half, _ = interval(values)
            color = CTKD if is_learned(logs[name]) else OTHER
            axes.plot(values, [row] * len(values), 'o', color=color, alpha=0.35, ms=4)
            axes.errorbar(mean, row, xerr=half, fmt='D', color=color, capsize=3, ms=5)
        axes.set_yticks(range(len(names)), [data.runs[name]['title'] for name in names])
        axes.invert_yaxis()
        axes.set_xlabel('box mAP: seeds, mean and 95% interval (orange: learned tau)')
        axes.grid(axis='x', alpha=0.3)
        _save(figure, out)


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
    with matplotlib.rc_context(STYLE):
        figure, axes = _bands(curves, 'tau', 'iteration')
        axes.set_yscale('log')
        axes.set_yticks([1, 2, 5, 10, 20], ['1', '2', '5', '10', '20'])
        axes.minorticks_off()
        _save(figure, out)


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
        maps = [[value for _, value in log['maps']] for log in logs[name]]
        curves[data.runs[name]['title']] = steps, maps
    with matplotlib.rc_context(STYLE):
        _save(_bands(curves, 'box mAP', 'epoch')[0], out)


def _bands(curves: dict[str, tuple], label: str, xlabel: str) -> tuple[Figure, Axes]:
    """Draw curves by title, (steps, values of each seed): the mean, and a band."""
    figure = Figure(figsize=(7.5, 4.2), layout='constrained')
    axes = figure.subplots()
    for title, (steps, values) in curves.items():
        values = np.array(values, float)
        (line,) = axes.plot(steps, values.mean(0), label=title)
        color = line.get_color()
        axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(f'{label}: mean and range of the seeds')
    axes.legend()
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Figure, out: Path) -> None:
    FigureCanvasSVG(figure)
    figure.savefig(out, metadata={'Date': None})
