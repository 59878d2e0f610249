"""Figures of the report: curves, pictures, and the places of the labels in them."""

from __future__ import annotations

import base64
import io
import math
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Sequence

import cv2
import mmcv

from ctkd_mm.analysis.figures import band_of, draw_curve, keys_of
from ctkd_mm.analysis.report.runs import RunRecord

# Distinct on white and on near-black, also to the colour-blind (after Okabe and Ito).
COLORS = ('#2e86de', '#e07b00', '#12a57c', '#d4599f', '#8a6fe8', '#b59a00', '#00a3b8')
LOGGED = {
    'task': 'Training loss without distillation',
    'distillation': 'Distillation loss, as weighted',
    'tau': 'Temperature tau',
    'lambda': 'Curriculum lambda',
}
POINTS = 400  # of a curve, about
INK = '#010203'  # stands for the page's own text colour
LONG_SIDE = 480  # pixels of a picture in the page
FONTS = 20  # heights of the font in the width of a picture
LETTER = 0.65  # heights of the font: the mean width of a bold letter or digit


def draw_figures(groups: Sequence[Sequence[RunRecord]]) -> dict[str, str]:
    """Draw what the runs logged: validation, losses, temperatures and lambdas.

    The SVGs take their text colour from the page.

    Args:
        groups: The runs, those that differ in their seeds alone together: they are one
            curve, see :func:`join_seeds`. Group i has colour ``COLORS[i % 7]``.

    Returns:
        The SVG by its title, where at least one run has data. Runs that are validated
        on different sets have a figure of the validation for each.
    """
    runs = [*chain(*groups)]
    in_epochs = all('max_epochs' in (run.config.get('train_cfg') or {}) for run in runs)
    step, figures = 'epoch' if in_epochs else 'step', {}
    several = len({run.data for run in runs}) > 1
    for metric, data in dict.fromkeys((r.metric, r.data) for r in runs if r.metric):
        logs = [[r.metrics for r in group if r.data == data] for group in groups]
        title = f'Validation: {metric}' + f', {data}' * several
        figures[title] = _draw(metric, logs, step)
    logs = [[with_sums(run.scalars) for run in group] for group in groups]
    for stem, title in LOGGED.items():
        for key in keys_of(chain(*chain(*logs)), stem):
            figures[title + key[len(stem) :]] = _draw(key, logs, 'iteration')
    return figures


def join_seeds(logs: Sequence[list[dict]], key: str) -> list[dict]:
    """Join what several runs logged of one value.

    Args:
        logs: Lines of each run.
        key: Key of the value.

    Returns:
        At each step that all have, the mean of the value, with the lowest and highest
        as its band, see :func:`ctkd_mm.analysis.figures.draw_curve`.
    """
    if len(logs) == 1:
        return logs[0]
    low, high = band_of(key)
    runs = [{line['step']: line for line in lines if key in line} for lines in logs]
    return [
        {
            'step': step,
            key: fmean(run[step][key] for run in runs),
            low: min(run[step].get(low, run[step][key]) for run in runs),
            high: max(run[step].get(high, run[step][key]) for run in runs),
        }
        for step in sorted(set(runs[0]).intersection(*runs[1:]) if runs else ())
    ]


def with_sums(lines: Sequence[dict]) -> list[dict]:
    """Add the sums of losses to the training lines of a run.

    Args:
        lines: The lines.

    Returns:
        They with ``distillation``, the sum of the losses ``distill.*``, where there are
        any, and ``task``, the loss without them.
    """
    summed = []
    for line in lines:
        terms = [value for key, value in line.items() if key.startswith('distill.')]
        summed.append({**line, 'task': line.get('loss', math.nan) - sum(terms)})
        if terms:
            summed[-1]['distillation'] = sum(terms)
    return summed


def thin_out(lines: Sequence[dict]) -> list[dict]:
    """Take about ``POINTS`` lines: the last, and others at even distances before it."""
    return lines[:: -(len(lines) // POINTS or 1)][::-1]


def _draw(key: str, logs: Sequence[list[list[dict]]], xlabel: str) -> str:
    from matplotlib import cycler, rc_context
    from matplotlib.figure import Figure

    inks = ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color')
    style = dict.fromkeys((*inks, 'ytick.color'), INK)
    style.update({'svg.fonttype': 'none', 'svg.hashsalt': key, 'font.size': 9})
    style['axes.prop_cycle'] = cycler(linestyle=('-', '--', ':')) * cycler(color=COLORS)
    with rc_context(style):
        figure = Figure(figsize=(4.6, 2.7), layout='constrained')
        axes = figure.subplots()
        for group in logs:
            # Joined first: thinned alone, seeds of other lengths would share no step.
            lines = thin_out(join_seeds(group, key))
            few = sum(key in line for line in lines) < 25
            draw_curve(axes, lines, key, marker='o' * few, markersize=4, lw=1.6)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set(xlabel=xlabel, xlim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=7)
        file = io.StringIO()
        figure.savefig(file, format='svg', transparent=True, metadata=dict(Date=None))
    svg = file.getvalue()
    return svg[svg.index('<svg') :].replace(INK, 'currentColor')


def make_picture(info: dict, classes: Sequence[str]) -> dict:
    """Make an image of a data set ready to be shown with its ground truth.

    Args:
        info: What the data set's ``get_data_info`` returns.
        classes: Names by label.

    Returns:
        ``path``, ``name``, ``width`` and ``height`` (of the file), ``font``, the height
        of the labels, ``uri`` with at most ``LONG_SIDE`` pixels along a side, and the
        objects as ``truth``, each from :func:`make_box`.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    image = mmcv.imread(info['img_path'])
    height, width = image.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    small = mmcv.imrescale(image, scale, interpolation='area')
    pixels = base64.b64encode(cv2.imencode('.jpg', small)[1].tobytes()).decode()
    truth = [
        make_box(one['bbox'], one['bbox_label'], classes[one['bbox_label']], 'truth')
        for one in info['instances']
        if not one.get('ignore_flag')
    ]
    return dict(
        path=info['img_path'],
        name=Path(info['img_path']).name,
        width=width,
        height=height,
        font=width / FONTS,
        uri=f'data:image/jpeg;base64,{pixels}',
        truth=truth,
    )


def make_box(corners: Sequence[float], label: int, text: str, kind: str) -> dict:
    """A box to draw: its corners x1, y1, x2, y2 in pixels, class, text and kind."""
    return dict(corners=corners, label=label, text=text, kind=kind)


def place_labels(boxes: Sequence[dict], picture: dict) -> list[dict]:
    """Find a place for the text of each box where it covers no other text.

    In the order of the boxes, a text takes the first free place of those above, below
    and inside its box, moved into the picture. Where none is free, it is left out.

    Args:
        boxes: Each from :func:`make_box`.
        picture: Its ``width``, ``height`` and ``font``, see :func:`make_picture`.

    Returns:
        For each text that has a place its box, with ``x`` and ``y``, the upper left
        corner of the text, and ``end``, where it ends.
    """
    font, placed = picture['font'], []
    for box in boxes:
        left, top, _, bottom = box['corners']
        length = font * sum(LETTER if c.isascii() else 1 for c in box['text'])
        x = max(0, min(left, picture['width'] - length))
        for y in (top - font, bottom, top, bottom - font):
            y = max(0, min(y, picture['height'] - font))
            if all(
                x >= by['end'] or x + length <= by['x'] or abs(y - by['y']) >= font
                for by in placed
            ):
                placed.append({**box, 'x': x, 'y': y, 'end': x + length})
                break
    return placed
