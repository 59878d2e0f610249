"""A picture of the curriculum: tau and lambda over training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Sequence

from ctkd_mm.analysis.run_log import PathLike, read_scalars, run_name


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it would pick a display and keep global state.
    figure = Figure(figsize=(7, 5), layout='constrained')
    FigureCanvasAgg(figure)
    tau_axes, lambda_axes = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    for run in runs:
        lines = [line for line in read_scalars(run) if any(map(_is_tau, line))]
        names = sorted({key for line in lines for key in line if _is_tau(key)})
        if not names:
            raise ValueError(
                f'the log of {run} has no tau: it was not trained with CurriculumHook '
                'or TemperatureLogHook, or its first logged iteration has not been '
                'reached'
            )
        steps = [line['step'] for line in lines]
        for name in names:
            curve = [line.get(name) for line in lines]
            tau_axes.plot(steps, curve, label=run_name(run) + name[len('tau') :])
            low, high = (name.replace('tau', f'tau_{end}', 1) for end in ('min', 'max'))
            if any(low in line for line in lines):
                band = [[line.get(k, math.nan) for line in lines] for k in (low, high)]
                tau_axes.fill_between(steps, *band, alpha=0.2)
        lambda_axes.plot(steps, [line.get('lambda') for line in lines])
    tau_axes.set_ylabel('temperature')
    tau_axes.legend()
    lambda_axes.set_ylabel('lambda')
    lambda_axes.set_xlabel('iteration')
    for axes in (tau_axes, lambda_axes):
        axes.grid(alpha=0.3)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return out


def _is_tau(key: str) -> bool:
    return key.split('.')[0] == 'tau'
