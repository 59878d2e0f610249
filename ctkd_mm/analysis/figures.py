"""Draws curves of what was logged, and the curriculum: tau and lambda."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Iterable, Sequence

from ctkd_mm.analysis.run_log import PathLike, read_scalars, run_name


def draw_curve(axes: Any, lines: Iterable[dict], key: str, **style: Any) -> None:
    """Draw a logged value over ``step``, with its band from minimum to maximum.

    Args:
        axes: Axes of matplotlib.
        lines: What was logged; lines without the key are left out.
        key: Key of the value; its band, if any, has the keys :func:`band_of`.
        style: Properties of the line, as ``plot`` takes them.
    """
    lines = [line for line in lines if key in line]
    steps = [line['step'] for line in lines]
    (drawn,) = axes.plot(steps, [line[key] for line in lines], **style)
    ends = band_of(key)
    if any(ends[0] in line for line in lines):
        band = [[line.get(end, math.nan) for line in lines] for end in ends]
        axes.fill_between(steps, *band, color=drawn.get_color(), alpha=0.2, lw=0)


def band_of(key: str) -> list[str]:
    """Name the ends of a value's band: ``tau_min.0`` and ``tau_max.0`` of ``tau.0``."""
    stem, dot, suffix = key.partition('.')
    return [f'{stem}_{end}{dot}{suffix}' for end in ('min', 'max')]


def keys_of(lines: Iterable[dict], stem: str) -> list[str]:
    """Find the keys of a scalar: ``tau``, or ``tau.0``, ``tau.1`` and so on."""
    return sorted({k for line in lines for k in line if k.split('.')[0] == stem})


def plot_curriculum(runs: Sequence[PathLike], out: PathLike) -> Path:
    """Draw tau (above) and lambda (below) over the iterations of one or more runs.

    Instance-wise temperatures show their mean with the band from minimum to maximum.

    Args:
        runs: Work directories or ``scalars.json`` files.
        out: Path of the PNG.

    Returns:
        The path written.

    Raises:
        FileNotFoundError: If a run has no JSON log.
        ValueError: If a run's log has no ``tau``.
    """
    # No pyplot: it would pick a display and keep global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout='constrained')
    tau_axes, lambda_axes = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    for run in runs:
        lines = read_scalars(run)
        keys = keys_of(lines, 'tau')
        if not keys:
            raise ValueError(f'the log of {run} has no tau: train with CurriculumHook')
        for key in keys:
            draw_curve(tau_axes, lines, key, label=run_name(run) + key[len('tau') :])
        draw_curve(lambda_axes, lines, 'lambda')
    tau_axes.legend()
    lambda_axes.set_xlabel('iteration')
    for axes, label in ((tau_axes, 'temperature'), (lambda_axes, 'lambda')):
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    return save(figure, out)


def save(figure: Any, out: PathLike) -> Path:
    """Write a figure of matplotlib, in a folder that is made where it is missing."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return out
