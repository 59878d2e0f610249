"""The ledger's pictures: mAP by method, tau over training."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from intervals import interval
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from record import is_ablation

# The same figures give the same file.
STYLE = {'svg.hashsalt': 'ledger', 'font.size': 9, 'axes.axisbelow': True}
CTKD, OTHER = 'tab:orange', 'tab:blue'


def is_learned(logs: list[dict]) -> bool:
    """Whether a run's temperature is learned: whether lambda is in its log."""
    return 'lambda' in logs[0]['curves']


def draw_maps(runs: dict[str, dict], logs: dict[str, list[dict]], out: Path) -> None:
    """Draw every seed's mAP, the mean and its 95% interval, a row a method.

    Args:
        runs: The entries of ``runs.py``.
        logs: Their compact logs.
        out: Path of the SVG.
    """
    names = [name for name in runs if not is_ablation(name)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 0.36 * len(names) + 0.8), layout='constrained')
        axes = figure.subplots()
        for row, name in enumerate(names):
            values = [log['metrics']['bbox_mAP'] for log in logs[name]]
            mean, half = interval(values)
            color = CTKD if is_learned(logs[name]) else OTHER
            axes.plot(values, [row] * len(values), 'o', color=color, alpha=0.35, ms=4)
            axes.errorbar(mean, row, xerr=half, fmt='D', color=color, capsize=3, ms=5)
        axes.set_yticks(range(len(names)), [runs[name]['title'] for name in names])
        axes.invert_yaxis()
        axes.set_xlabel('box mAP: seeds, mean and 95% interval (orange: learned tau)')
        axes.grid(axis='x', alpha=0.3)
        _save(figure, out)


def draw_taus(runs: dict[str, dict], logs: dict[str, list[dict]], out: Path) -> None:
    """Draw every learned tau over training: the seeds' mean, band from min to max.

    Args:
        runs: The entries of ``runs.py``.
        logs: Their compact logs.
        out: Path of the SVG.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.2), layout='constrained')
        axes = figure.subplots()
        for name, run in runs.items():
            if is_ablation(name) or not is_learned(logs[name]):
                continue
            taus = np.array([log['curves']['tau'] for log in logs[name]], float)
            steps = logs[name][0]['steps']
            (line,) = axes.plot(steps, taus.mean(0), label=run['title'])
            axes.fill_between(
                steps, taus.min(0), taus.max(0), color=line.get_color(), alpha=0.2
            )
        axes.set_yscale('log')
        axes.set_yticks([1, 2, 5, 10, 20], ['1', '2', '5', '10', '20'])
        axes.minorticks_off()
        axes.set_xlabel('iteration')
        axes.set_ylabel('tau: mean and range of the seeds')
        axes.legend()
        axes.grid(alpha=0.3)
        _save(figure, out)


def _save(figure: Figure, out: Path) -> None:
    FigureCanvasSVG(figure)
    figure.savefig(out, metadata={'Date': None})
