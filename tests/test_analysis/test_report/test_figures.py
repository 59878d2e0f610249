"""Where the texts of boxes stand in a picture, and which lines a curve has."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import pytest
from helpers.run_logs import train_line

from ctkd_mm.analysis.report.figures import (
    POINTS,
    draw_figures,
    join_seeds,
    place_labels,
    thin_out,
    with_sums,
)


def box(*corners: float, text: str = 'a 0.90') -> dict:
    return dict(corners=corners, text=text, kind='hit')


def picture(width: float, height: float) -> dict:
    return dict(width=width, height=height, font=width / 20)


def test_texts_of_boxes_on_one_place_stand_around_it():
    # A picture 200 wide has a font 10 high; the six letters take 39.
    placed = place_labels([box(50, 50, 100, 110)] * 5, picture(200, 200))
    at = [(one['x'], one['y']) for one in placed]
    # Above, below, at the top and the bottom inside; the fifth has no place.
    assert at == [(50, 40), (50, 110), (50, 50), (50, 100)]


def test_a_text_is_moved_into_the_picture():
    (one,) = place_labels([box(190, 0, 200, 30)], picture(200, 100))
    assert (one['x'], one['y']) == (161, 0)
    (one,) = place_labels([box(-9, 90, 9, 105, text='a' * 50)], picture(200, 100))
    assert (one['x'], one['y']) == (0, 80)


@pytest.mark.parametrize('letter', ['a', '\N{CJK UNIFIED IDEOGRAPH-4EBA}'])
def test_no_text_covers_another(letter):
    draw = random.Random(0)
    boxes = []
    for _ in range(60):
        x, y, w, h = (draw.uniform(low, 150) for low in (0, 0, 5, 5))
        boxes.append(box(x, y, x + w, y + h, text=letter * draw.randint(1, 8)))
    placed = place_labels(boxes, picture(300, 300))
    assert 20 < len(placed) < 60
    assert placed[0]['text'] == boxes[0]['text']
    wide = 15 if letter > 'z' else 15 * 0.65
    spans = [(p['x'], p['x'] + wide * len(p['text']), p['y']) for p in placed]
    for (a, b, y), (c, d, z) in itertools.combinations(spans, 2):
        assert b <= c + 1e-6 or d <= a + 1e-6 or abs(y - z) >= 15 - 1e-6
    assert all(a >= 0 and b < 300.1 and 0 <= y <= 285 for a, b, y in spans)


def test_a_long_log_is_thinned_and_keeps_its_last_line():
    lines = [train_line(step) for step in range(1, 10 * POINTS + 8)]
    steps = [line['step'] for line in thin_out(lines)]
    assert POINTS <= len(steps) <= POINTS + 1
    assert steps == sorted(steps) and steps[-1] == 10 * POINTS + 7


def test_seeds_of_other_lengths_share_the_steps_that_both_have(monkeypatch):
    drawn = {}

    def keep(axes, lines, key, **_):
        drawn[key] = [line['step'] for line in lines]

    monkeypatch.setattr('ctkd_mm.analysis.report.figures.draw_curve', keep)
    group = [
        SimpleNamespace(
            metric=None,
            metrics=[],
            data='',
            config={},
            scalars=[train_line(step, tau=2.0) for step in range(1, length + 1)],
        )
        for length in (3 * POINTS, 2 * POINTS + 1)
    ]
    draw_figures([group])
    assert drawn['tau'] == [*range(1, 2 * POINTS + 2, 2)]


def test_losses_are_summed_with_and_without_distillation():
    terms = {'distill.loss_kd': 0.25, 'distill.loss_pkd': 0.125}
    (with_them,) = with_sums([train_line(1, **terms)])
    assert with_them['distillation'] == 0.375
    assert with_them['task'] == 1 - 0.375
    (alone,) = with_sums([train_line(1)])
    assert 'distillation' not in alone and alone['task'] == 1


def test_seeds_are_joined_where_all_have_a_value():
    logs = [
        [dict(step=1, tau=2.0, x=1.0), dict(step=2, tau=3.0), dict(step=3, tau=9.0)],
        [
            dict(step=1, tau=4.0, tau_min=1.0),
            dict(step=2, tau=6.0),
            dict(step=3, x=1.0),
        ],
    ]
    assert join_seeds(logs, 'tau') == [
        dict(step=1, tau=3.0, tau_min=1.0, tau_max=4.0),
        dict(step=2, tau=4.5, tau_min=3.0, tau_max=6.0),
    ]
    assert join_seeds(logs[:1], 'tau') == logs[0]
    assert join_seeds([], 'tau') == []
