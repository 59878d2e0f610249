"""The range of a temperature for a pair, from the pair's own logits."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from ctkd_mm.analysis.suggest.first_steps import collect
from ctkd_mm.analysis.suggest.shown_logits import Rows, Seen
from ctkd_mm.analysis.suggest.tau_curve import TauCurve, TauRange
from ctkd_mm.models.temperatures.base import Temperature
from ctkd_mm.models.temperatures.learned import LearnedTemperature

COLOURS = dict(all='tab:blue', foreground='tab:green', background='tab:orange')


def suggest_temperature(
    cfg: Config,
    images: int = 16,
    student: str | Path | None = None,
    out: str | Path = 'tau_curve.png',
) -> list[str]:
    """Measure the loss over its temperature, and suggest the temperature's range.

    Starts the training of a config as ``Runner.train`` does: the student initialised,
    the teacher loaded strictly, the data seeded. Then runs the first iterations
    forward, the student in training mode, without gradient; what the temperature is
    shown there is measured. Nothing is trained, and only the picture is written. The
    rule: :meth:`ctkd_mm.analysis.suggest.tau_curve.TauCurve.tau_range`.

    Args:
        cfg: A complete config of a distillation.
        images: How many training images, rounded up to whole batches; at most the
            data set once. ``randomness.seed`` decides which.
        student: Checkpoint of a trained student or of a distillation. None is the
            student as initialised: its logits are all but equal, and the curve shows
            how far the teacher stands above even shares.
        out: Path of the PNG.

    Returns:
        The report, a line each.

    Raises:
        ValueError: If ``images`` is below 1, the config is no distillation, its images
            give no logits, student and teacher agree everywhere, the checkpoint does
            not fit, and whatever a training would refuse.
    """
    if images < 1:
        raise ValueError(f'--images must be >= 1, got {images}')
    count, found = collect(cfg, images, student)
    known = 'as initialised' if student is None else f'from {student}'
    report, curves = [f'{count} training images, student {known}'], {}
    for seen in found:
        parts = seen.parts()
        curves[seen] = {
            k: TauCurve(rows.loss, rows.scale()) for k, rows in parts.items()
        }
        report += ['', *_table(parts, curves[seen]), '']
        report += _advice(seen, curves[seen]['all'].tau_range(), cfg)
    return [*report, '', f'{draw(curves, out)} shows the curve']


def _table(parts: dict[str, Rows], curves: dict[str, TauCurve]) -> list[str]:
    table = [
        ('', 'rows', 'std T', 'std S', 'margin T', 'margin S', 'peak', 'at tau', 'end')
    ]
    for part, rows in parts.items():
        curve = curves[part]
        std, margin = rows.std(), rows.margin()
        figures = [*std, *margin, curve.supremum, curve.peak, curve.limit]
        cells = ['none' if x is None else f'{x:.3g}' for x in figures]
        table.append((part, str(len(rows)), *cells))
    lines = [f'{part:<10}' + ''.join(f'{x:>10}' for x in row) for part, *row in table]
    return [
        *lines,
        'std of a row of logits, margin of its highest over the next; T teacher, S '
        'student',
        'peak: the highest loss; at tau: where (none: it rises to the end); end: for '
        'large tau',
    ]


def _advice(seen: Seen, suggested: TauRange, cfg: Config) -> list[str]:
    values = ' '.join(
        f'{{key}}.{name}={value:.3g}' for name, value in suggested._asdict().items()
    )
    key = config_key(seen.name, cfg)
    if isinstance(seen.module, LearnedTemperature):
        return [f'--cfg-options {values.format(key=key)}']
    inner = '' if isinstance(seen.module, Temperature) else '.temperature'
    return [
        f'{key} is a {type(seen.module).__name__}, which learns nothing. With a loss '
        'and temperature as in configs/_base_/methods/ctkd.py, this would be:',
        values.format(key=key + inner),
    ]


def config_key(name: str, cfg: Config) -> str:
    """Find what a module of the model is called in the config.

    Args:
        name: Its path in the model, for example
            ``distiller.distill_losses.loss_kd.temperature``.
        cfg: The config.

    Returns:
        For example ``model.loss_kd.temperature``; of a distiller of MMRazor's own, and
        where the config has no such key, ``model.`` and the path.
    """
    short = name.replace('distiller.distill_losses.', '')
    entry = cfg.model
    for part in short.split('.'):
        entry = entry.get(part) if isinstance(entry, dict) else None
    return f'model.{name if entry is None else short}'


def draw(curves: dict[Seen, dict[str, TauCurve]], out: str | Path) -> Path:
    """Draw curves with the suggested ranges.

    Args:
        curves: For each temperature the curves of the foreground, the background and
            all rows, as far as there are any.
        out: Path of the PNG.

    Returns:
        The path written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it would pick a display and keep global state.
    figure = Figure(figsize=(7, 4 * len(curves)), layout='constrained')
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(curves), squeeze=False)[:, 0]
    for axes, (seen, parts) in zip(rows, curves.items()):
        suggested = parts['all'].tau_range()
        low, start = suggested.tau_init, suggested.tau_start
        high = low + suggested.tau_range
        for part, curve in parts.items():
            axes.plot(curve.taus, curve.heights, color=COLOURS[part], label=part)
            axes.axhline(curve.limit, color=COLOURS[part], linestyle=':', linewidth=1)
            if curve.peak is not None:
                axes.plot(curve.peak, curve.supremum, 'o', color=COLOURS[part])
        axes.axvspan(low, high, color='0.9', label=f'tau from {low:.3g} to {high:.3g}')
        label = f'tau_start {start:.3g}'
        axes.axvline(start, color='0.5', linestyle='--', label=label)
        axes.set_xscale('log')
        axes.set_xlim(low / 10, high * 30)
        axes.set_ylim(0, None)
        axes.set_xlabel('temperature (dotted: the limits of the loss)')
        axes.set_ylabel('distillation loss, mean over rows')
        axes.set_title(seen.name, fontsize='small')
        axes.legend()
        axes.grid(alpha=0.3)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return out
