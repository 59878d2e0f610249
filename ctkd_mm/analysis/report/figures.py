"""Figures of the report: curves, pictures, and the places of their texts."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Sequence

import cv2

from ctkd_mm.analysis.figures import draw_curve, keys_of
from ctkd_mm.analysis.report.runs import RunRecord

# Told apart on white and on near-black, also by the colour-blind (after Okabe and Ito).
COLORS = ('#2e86de', '#e07b00', '#12a57c', '#d4599f', '#8a6fe8', '#b59a00', '#00a3b8')
POINTS = 400  # of a curve, about
INK = '#010203'  # stands for the page's own text colour
LONG_SIDE = 480  # pixels of a picture in the page
FONTS = 20  # a picture is as wide as the font is high this many times
LETTER = 0.65  # heights of the font: the mean width of a bold letter or digit


def draw_figures(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Draw what the runs logged: validation, losses, temperatures and lambdas.

    The SVGs take their text colour from the page.

    Args:
        runs: The runs; run i has colour ``COLORS[i % len(COLORS)]`` in every figure.

    Returns:
        The SVG by its title, where at least one run has data.
    """
    metric = next((run.metric for run in runs if run.metric), 'metric')
    in_epochs = all('max_epochs' in (run.config.get('train_cfg') or {}) for run in runs)
    rows = [(f'Validation: {metric}', metric, [run.metrics for run in runs])]
    logs = [thinned(run.scalars) for run in runs]
    stems = {
        'Training loss without distillation': 'task',
        'Distillation loss, as weighted': 'distillation',
        'Temperature tau': 'tau',
        'Curriculum lambda': 'lambda',
    }
    for title, stem in stems.items():
        for key in keys_of((line for lines in logs for line in lines), stem):
            rows.append((title + key[len(stem) :], key, logs))
    xlabels = {metric: 'epoch' if in_epochs else 'step'}
    return {
        title: _draw(title, xlabels.get(key, 'iteration'), key, logs)
        for title, key, logs in rows
        if any(key in line for lines in logs for line in lines)
    }


def thinned(lines: Sequence[dict]) -> list[dict]:
    """Take about ``POINTS`` lines, and add the sum of the distillation losses.

    Args:
        lines: Training lines of a run.

    Returns:
        The last line and those at even distances before it; ``distillation`` is the
        sum of the losses ``distill.*``, ``task`` the loss without them.
    """
    taken = []
    # From the end on, so that the last line is one of them.
    for line in lines[:: -(len(lines) // POINTS or 1)]:
        terms = [value for key, value in line.items() if key.startswith('distill.')]
        sums = dict(distillation=sum(terms)) if terms else {}
        if 'loss' in line:
            sums['task'] = line['loss'] - sum(terms)
        taken.append({**line, **sums})
    return taken[::-1]


def _draw(title: str, xlabel: str, key: str, logs: Sequence[list[dict]]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    inks = ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color')
    style = dict.fromkeys((*inks, 'ytick.color'), INK)
    style.update({'svg.fonttype': 'none', 'svg.hashsalt': title, 'font.size': 9})
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 2.7), layout='constrained')
        axes = figure.subplots()
        for i, lines in enumerate(logs):
            few = sum(key in line for line in lines) < 25
            dashes = ('-', '--', ':')[i // len(COLORS) % 3] + 'o' * few
            color = COLORS[i % len(COLORS)]
            draw_curve(axes, lines, key, dashes, color=color, markersize=4, lw=1.6)
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


def picture(info: dict, classes: Sequence[str]) -> dict:
    """Make an image of a data set ready to be shown with its ground truth.

    Args:
        info: What the data set's ``get_data_info`` returns.
        classes: Names by label.

    Returns:
        ``path``, ``name``, ``width``, ``height`` (of the file), ``uri`` with at most
        ``LONG_SIDE`` pixels along a side, and the objects as ``truth``, each from
        :func:`make_box`.

    Raises:
        FileNotFoundError: If the file is missing or no image.
    """
    path = Path(info['img_path'])
    image = cv2.imread(str(path))
    if image is None:
        raise FileNotFoundError(f'{path} is missing or no image')
    height, width = image.shape[:2]
    scale = min(1, LONG_SIDE / max(height, width))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    kind = 'png' if small.size < 2**17 else 'jpeg'  # photographs are too large as PNG
    pixels = base64.b64encode(cv2.imencode(f'.{kind}', small)[1].tobytes()).decode()
    truth = [
        make_box(one['bbox'], one['bbox_label'], classes[one['bbox_label']], 'truth')
        for one in info['instances']
        if not one.get('ignore_flag')
    ]
    return dict(
        path=info['img_path'],
        name=path.name,
        width=width,
        height=height,
        uri=f'data:image/{kind};base64,{pixels}',
        truth=truth,
    )


def make_box(corners: Sequence[float], label: int, text: str, kind: str) -> dict:
    """A box to draw: its corners x1, y1, x2, y2 in pixels, class, text and kind."""
    corners = tuple(round(float(value), 1) for value in corners)
    return dict(corners=corners, label=label, text=text, kind=kind)


def place_texts(boxes: Sequence[dict], width: float, height: float) -> list[dict]:
    """Find a place for the text of each box where it covers no other text.

    In the order of the boxes, a text takes the first free place of those above, below
    and inside its box, moved into the picture. Where none is free, it is left out.

    Args:
        boxes: Each from :func:`make_box`.
        width: Of the picture, in the units of the boxes' corners; the font is
            ``width / FONTS`` high.
        height: Of the picture.

    Returns:
        For each text that has a place ``text``, ``kind``, and ``x`` and ``y``, the
        left end of its baseline.
    """
    size, taken, placed = width / FONTS, [], []
    for box in boxes:
        left, top, _, bottom = box['corners']
        length = size * sum(LETTER if c.isascii() else 1 for c in box['text'])
        x = max(0, min(left, width - length))
        for place in (top - size, bottom, top, bottom - size):
            y = max(0, min(place, height - size))
            if all(
                x >= right or other_x >= x + length or abs(y - other_y) >= size
                for other_x, right, other_y in taken
            ):
                taken.append((x, x + length, y))
                at = dict(x=round(x, 1), y=round(y + 0.85 * size, 1))
                placed.append(dict(text=box['text'], kind=box['kind'], **at))
                break
    return placed
