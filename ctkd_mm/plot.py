"""A picture of the curriculum: tau and lambda over training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Sequence, Union

PathLike = Union[str, Path]


def read_scalars(run: PathLike) -> list[dict[str, float]]:
    """Read the training lines of a run's JSON log, one per logged iteration.

    Args:
        run: A work directory, or one ``scalars.json``. In a work directory all
            starts of the run are joined; where a resumed start repeats an
            iteration, the later one counts.

    Returns:
        The logged scalars in the order of ``step``.

    Raises:
        FileNotFoundError: If there is no JSON log.
    """
    run = Path(run)
    logs = [run] if run.is_file() else sorted(run.glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(
            f'{run} has no JSON log: expected a work directory with '
            '<timestamp>/vis_data/scalars.json, or such a file'
        )
    by_step = {}
    for log in logs:
        for line in log.read_text().splitlines(keepends=True):
            if not line.endswith('\n'):
                continue  # the run was killed while it wrote this line
            scalars = json.loads(line)
            if 'lr' in scalars:  # validation lines have none
                by_step[scalars['step']] = scalars
    return [by_step[step] for step in sorted(by_step)]


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
        label = Path(run).parent.parent.name if Path(run).is_file() else Path(run).name
        for name in names:
            curve = [line.get(name) for line in lines]
            tau_axes.plot(steps, curve, label=label + name[len('tau') :])
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
