"""Draws a training step of two-stage detectors.

python docs/step_figure.py
"""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

FIGURE = Path(__file__).with_name('step.svg')
STUDENT, TEACHER, TEMPERATURE = '#1565c0', '#616161', '#c62828'
LOSS, INK, SAME_BOX = '#2e7d32', '#222222', '#ef6c00'
BACKWARD = (0, (4, 2.5))
UPPER, LOWER, RIGHT = 3.55, 0.9, 8.55  # the models' rows; the loss's column


def box(
    axes: Axes, at: tuple[float, float], size: tuple[float, float], text: str, ink: str
) -> None:
    """Draw a rounded box with text in its middle."""
    (x, y), (width, height) = at, size
    corner = x - width / 2, y - height / 2
    style = dict(boxstyle='round,pad=0,rounding_size=0.08', lw=1.5)
    axes.add_patch(FancyBboxPatch(corner, *size, fc='white', ec=ink, **style))
    axes.text(x, y, text, ha='center', va='center', color=ink, linespacing=1.35)


def arrow(
    axes: Axes, ink: str, *points: tuple[float, float], dashes: object = 'solid'
) -> None:
    """Draw an arrow along points."""
    *way, last = points
    axes.plot(*zip(*way), color=ink, lw=1.5, ls=dashes)
    style = dict(arrowstyle='-|>', color=ink, lw=1.5, ls=dashes, shrinkA=0, shrinkB=0)
    axes.annotate('', last, way[-1], arrowprops=style)


def logits(axes: Axes, x: float, y: float, name: str, ink: str) -> None:
    """Draw a matrix of logits with one row marked."""
    cell, rows, columns = 0.19, 4, 5
    left, bottom = x - columns * cell / 2, y - rows * cell / 2
    for row in range(rows):
        fill = SAME_BOX if row == 2 else 'white'
        for column in range(columns):
            corner = left + column * cell, bottom + row * cell
            axes.add_patch(Rectangle(corner, cell, cell, fc=fill, ec=ink, lw=0.8))
    axes.text(x, y + 0.46, name, ha='center', va='bottom', color=ink)
    axes.text(x, y - 0.46, 'N × (C + 1)', ha='center', va='top', color=ink)


def image(axes: Axes, x: float, y: float, text: str) -> None:
    """Draw an image with text below."""
    axes.add_patch(Rectangle((x - 0.5, y - 0.4), 1, 0.8, fc='#eeeeee', ec=INK, lw=0.8))
    axes.text(x, y - 0.46, text, ha='center', va='top', color=INK)


def rois(axes: Axes, x: float, y: float) -> None:
    """Draw RoIs in an image, one of them marked."""
    for dx, dy, width, height in ((-0.4, -0.32, 0.4, 0.3), (0.1, -0.2, 0.3, 0.45)):
        corner = x + dx, y + dy
        axes.add_patch(Rectangle(corner, width, height, fill=False, ec=STUDENT))
    corner = x - 0.35, y - 0.08
    axes.add_patch(Rectangle(corner, 0.34, 0.36, fill=False, ec=SAME_BOX, lw=2.2))


def models(axes: Axes) -> None:
    """Draw what both models compute."""
    image(axes, 0.65, UPPER, 'images')
    rois(axes, 0.65, UPPER)
    image(axes, 0.65, LOWER, 'the same, in\nits own pixels')
    rows = (
        (
            UPPER,
            'student\nbackbone, neck,\nRPN, sampler',
            "student's\nRoI head",
            STUDENT,
        ),
        (LOWER, 'teacher, frozen\nbackbone, neck', "teacher's\nRoI head", TEACHER),
    )
    for y, trunk, head, ink in rows:
        arrow(axes, INK, (1.15, y), (1.5, y))
        box(axes, (2.3, y), (1.6, 1.0), trunk, ink)
        arrow(axes, ink, (3.1, y), (4.2, y))
        box(axes, (4.8, y), (1.2, 0.8), head, ink)
        arrow(axes, ink, (5.4, y), (5.85, y))
        logits(axes, 6.4, y, 'preds_S' if y == UPPER else 'preds_T', ink)
    axes.text(3.65, UPPER + 0.08, 'N RoIs', ha='center', color=STUDENT)
    axes.text(3.65, LOWER + 0.08, 'features', ha='center', color=TEACHER)
    turn = (LOWER + UPPER) / 2
    arrow(axes, SAME_BOX, (3.65, UPPER - 0.04), (3.65, turn), (4.8, turn), (4.8, 1.32))
    axes.text(
        3.5, turn, "the student's\nown RoIs", ha='right', va='center', color=SAME_BOX
    )
    axes.text(
        6.4, turn, 'row i: the same box', ha='center', va='center', color=SAME_BOX
    )


def loss(axes: Axes) -> None:
    """Draw the loss, what it is computed from, and its gradients."""
    arrow(axes, STUDENT, (6.9, UPPER), (7.65, UPPER))
    arrow(axes, TEACHER, (6.9, LOWER), (7.4, LOWER), (7.4, 3.3), (7.65, 3.3))
    box(axes, (RIGHT, UPPER), (1.8, 0.8), 'loss_kd\nmean of τ² · KL', LOSS)
    box(axes, (RIGHT, 2.25), (1.8, 0.5), 'τ = 1 + 20 · sigmoid', TEMPERATURE)
    box(axes, (RIGHT, 1.35), (1.8, 0.5), 'gradient reversal', TEMPERATURE)
    box(axes, (RIGHT, 0.45), (1.8, 0.5), 'raw: learned', TEMPERATURE)
    for below, above in ((0.7, 1.1), (1.6, 2.0), (2.5, 3.15)):
        x = RIGHT - 0.3
        arrow(axes, TEMPERATURE, (x, below), (x, above))
        x = RIGHT + 0.3
        arrow(axes, TEMPERATURE, (x, above), (x, below), dashes=BACKWARD)
    for y, text in ((1.8, 'g'), (0.9, '−λ g: climbs')):
        axes.text(RIGHT + 0.4, y, text, va='center', color=TEMPERATURE)
    back = ((RIGHT, 3.95), (RIGHT, 4.35), (4.8, 4.35), (4.8, 3.95))
    arrow(axes, STUDENT, *back, dashes=BACKWARD)
    axes.text(6.7, 4.4, 'gradient: the student descends', ha='center', color=STUDENT)
    axes.text(4.8, 0.25, 'no gradient', ha='center', color=TEACHER)


def write(path: Path) -> Path:
    """Write the figure as SVG, the same bytes every time.

    Args:
        path: Where to.

    Returns:
        The path.
    """
    figure = Figure(figsize=(10, 4.7))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 10), ylim=(0, 4.7))
    axes.axis('off')
    models(axes)
    loss(axes)
    no_date = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    with rc_context({'svg.hashsalt': 'step'}):
        FigureCanvasSVG(figure).print_svg(path, metadata=no_date)
    return path


if __name__ == '__main__':
    print(write(FIGURE))
