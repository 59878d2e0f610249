"""Suggests a temperature range for a pair of models, from their own logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.config import Config

from ctkd_mm.analysis.figures import save
from ctkd_mm.analysis.suggest.shown_logits import Rows, collect
from ctkd_mm.analysis.suggest.tau_curve import TauCurve

LEGEND = """\
std of a row of logits, margin of its highest over the next; T teacher, S student
peak: the highest loss; at tau: where (none: it rises to the end); end: for large tau"""
COLOURS = dict(all='tab:blue', foreground='tab:green', background='tab:orange')


def suggest_temperature(
    cfg: Config,
    images: int = 16,
    student: str | Path | None = None,
    out: str | Path = 'tau_curve.png',
) -> list[str]:
    """Measure the loss over its temperature, and suggest its range and the weight.

    Starts the training of a config as ``Runner.train`` does: the student initialised,
    the teacher loaded strictly, the data seeded. Then runs the first iterations
    forward, the student in training mode, without gradient; what the temperature is
    shown there is measured. Nothing is trained, and only the picture is written. The
    rule: :meth:`ctkd_mm.analysis.suggest.tau_curve.TauCurve.tau_range`, and a
    ``loss_weight``, no higher than the config's, at which no temperature of the range
    makes the distillation loss larger than the student's own ``loss_cls``.

    Args:
        cfg: A complete config of a distillation.
        images: How many training images, rounded up to whole batches; at most the
            data set once. ``randomness.seed`` decides which.
        student: Checkpoint of a trained student or of a distillation. None is the
            student as initialised. Its logits are nearly equal, and the curve shows
            how far the teacher is from giving all classes the same score.
        out: Path of the PNG.

    Returns:
        The report, a line each.

    Raises:
        ValueError: If the config has no learnable temperature, its images give no
            logits, student and teacher agree everywhere, the checkpoint does not fit,
            and whatever a training would refuse.
    """
    count, found, loss_cls = collect(cfg, images, student)
    known = 'as initialised' if student is None else f'from {student}'
    report, curves = [f'{count} training images, student {known}'], {}
    for recorder in found:
        parts = recorder.parts()
        own = {part: TauCurve(rows.loss, rows.scale()) for part, rows in parts.items()}
        curves[recorder.name] = own
        report += ['', *_table(parts, own), '']
        key, suggested = config_key(recorder.name, cfg), own['all'].tau_range()
        options = [f'{key}.{k}={v:.3g}' for k, v in suggested._asdict().items()]
        if hasattr(recorder.loss, 'loss_weight') and loss_cls:
            low, width, start = suggested
            loss, weight = parts['all'].loss, recorder.loss.loss_weight
            highest = max(map(loss, np.linspace(low, low + width)))
            report.append(
                f'loss {weight * loss(start):.3g} at tau_start, {weight * highest:.3g} '
                f"at most in the range; the student's own loss_cls {loss_cls:.3g}"
            )
            weight = min(weight, loss_cls / highest)
            options.append(f'{key.rpartition(".")[0]}.loss_weight={weight:.2g}')
        report.append(' '.join(['--cfg-options', *options]))
    return [*report, '', f'{draw(curves, out)} shows the curve']


def _table(parts: dict[str, Rows], curves: dict[str, TauCurve]) -> list[str]:
    head = ('rows', 'std T', 'std S', 'margin T', 'margin S', 'peak', 'at tau', 'end')
    table = {'': head}
    for part, rows in parts.items():
        curve = curves[part]
        figures = *rows.spread(), curve.supremum, curve.peak, curve.limit
        cells = ('none' if x is None else f'{x:.3g}' for x in figures)
        table[part] = (str(len(rows.labels)), *cells)
    lines = [f'{k:<10}' + ''.join(f'{x:>10}' for x in v) for k, v in table.items()]
    return [*lines, LEGEND]


def config_key(name: str, cfg: Config) -> str:
    """Find what a module of the model is called in the config.

    Args:
        name: Its path in the model, for example
            ``distiller.distill_losses.loss_kd.temperature``.
        cfg: The config.

    Returns:
        For example ``model.loss_kd.temperature``. Where the model has no ``loss_kd``,
        as in a distiller of MMRazor's own, ``model.`` and the path.
    """
    if 'loss_kd' in cfg.model:
        name = name.replace('distiller.distill_losses.loss_kd.', 'loss_kd.')
    return f'model.{name}'


def draw(curves: dict[str, dict[str, TauCurve]], out: str | Path) -> Path:
    """Draw curves with the suggested ranges.

    Args:
        curves: By the path of a temperature its curves: of the foreground, the
            background and all rows, as far as there are any.
        out: Path of the PNG.

    Returns:
        The path written.
    """
    # No pyplot: it would pick a display and keep global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4 * len(curves)), layout='constrained')
    rows = figure.subplots(len(curves), squeeze=False)[:, 0]
    for axes, (name, parts) in zip(rows, curves.items()):
        low, width, start = parts['all'].tau_range()
        high = low + width
        for part, curve in parts.items():
            axes.plot(curve.taus, curve.heights, color=COLOURS[part], label=part)
            axes.axhline(curve.limit, color=COLOURS[part], linestyle=':', linewidth=1)
            if curve.peak is not None:
                axes.plot(curve.peak, curve.supremum, 'o', color=COLOURS[part])
        axes.axvspan(low, high, color='0.9', label=f'tau from {low:.3g} to {high:.3g}')
        axes.axvline(start, color='0.5', ls='--', label=f'tau_start {start:.3g}')
        axes.set(xscale='log', xlim=(low / 10, high * 30), ylim=(0, None))
        axes.set_xlabel('temperature (dotted: the limits of the loss)')
        axes.set_ylabel('distillation loss, mean over rows')
        axes.set_title(name, fontsize='small')
        axes.legend()
        axes.grid(alpha=0.3)
    return save(figure, out)
