"""Curves of several runs, as SVG that takes its text colour from the page."""

from __future__ import annotations

import io
import math
from typing import Iterable, NamedTuple, Sequence

from ctkd_mm.analysis.report.runs import RunRecord

# Told apart on white and on near-black, also by the colour-blind (after Okabe and Ito).
COLORS = ('#2e86de', '#e07b00', '#12a57c', '#d4599f', '#8a6fe8', '#b59a00', '#00a3b8')
POINTS = 400
INK = '#010203'  # stands for the page's own text colour


class Figure(NamedTuple):
    """A titled SVG."""

    title: str
    svg: str


class Curve(NamedTuple):
    """Points of one run: x, y and, where both are known, the ends of a band."""

    x: list[float]
    y: list[float]
    band: tuple[list[float], list[float]] | None = None


def draw_figures(runs: Sequence[RunRecord]) -> list[Figure]:
    """Draw what the runs logged: validation, losses, temperatures and lambdas.

    Args:
        runs: The runs; run i has colour ``COLORS[i % len(COLORS)]`` in every figure.

    Returns:
        The figures for which at least one run has data.
    """
    in_epochs = all('max_epochs' in (run.config.get('train_cfg') or {}) for run in runs)
    metric = next((run.metric for run in runs if run.metric), 'metric')
    validation = [_curve(run.metrics, run.metric) for run in runs]
    rows = [(f'Validation: {metric}', 'epoch' if in_epochs else 'step', validation)]
    terms = (
        ('Training loss without distillation', _task_loss),
        ('Distillation loss, as weighted', _distillation_loss),
    )
    for title, loss in terms:
        lines = [[dict(step=s['step'], y=loss(s)) for s in run.scalars] for run in runs]
        rows.append((title, 'iteration', [_curve(one, 'y') for one in lines]))
    keys = {key for run in runs for line in run.scalars for key in line}
    for title, stem in (('Temperature tau', 'tau'), ('Curriculum lambda', 'lambda')):
        for key in sorted(key for key in keys if key.split('.')[0] == stem):
            curves = [_curve(run.scalars, key) for run in runs]
            rows.append((title + key[len(stem) :], 'iteration', curves))
    return [
        Figure(title, _draw(title, xlabel, curves))
        for title, xlabel, curves in rows
        if any(curve.x for curve in curves)
    ]


def _distillation_loss(line: dict[str, float]) -> float | None:
    terms = [value for key, value in line.items() if key.startswith('distill.')]
    return sum(terms) if terms else None


def _task_loss(line: dict[str, float]) -> float | None:
    return line['loss'] - (_distillation_loss(line) or 0) if 'loss' in line else None


def _curve(lines: Iterable[dict], key: str | None) -> Curve:
    lines = [line for line in lines if line.get(key) is not None]
    if len(lines) > POINTS:
        lines = lines[:: math.ceil(len(lines) / POINTS)] + lines[-1:]
    x = [line['step'] for line in lines]
    stem, dot, suffix = (key or '').partition('.')
    ends = [f'{stem}_{end}{dot}{suffix}' for end in ('min', 'max')]
    band = None
    if any(ends[0] in line for line in lines):
        band = tuple([line.get(end, math.nan) for line in lines] for end in ends)
    return Curve(x, [line[key] for line in lines], band)


def _draw(title: str, xlabel: str, curves: Sequence[Curve]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    inks = ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color')
    style = dict.fromkeys((*inks, 'ytick.color'), INK)
    style.update({'svg.fonttype': 'none', 'svg.hashsalt': title, 'font.size': 9})
    with matplotlib.rc_context(style):
        figure = Canvas(figsize=(4.6, 2.7), layout='constrained')
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for i, (x, y, band) in enumerate(curves):
            color, marker = COLORS[i % len(COLORS)], 'o' if len(x) < 25 else ''
            dashes = ('-', '--', ':')[i // len(COLORS) % 3]
            axes.plot(x, y, dashes, color=color, marker=marker, markersize=4, lw=1.6)
            if band:
                axes.fill_between(x, *band, color=color, alpha=0.2, lw=0)
        axes.set_xlabel(xlabel)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_xlim(left=0)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=7)
        file = io.StringIO()
        nothing = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
        figure.savefig(file, format='svg', transparent=True, metadata=nothing)
    svg = file.getvalue()
    return svg[svg.index('<svg') :].replace(INK, 'currentColor')
