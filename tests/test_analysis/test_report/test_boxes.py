"""Which detections find an object, and where their texts stand in the picture."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from mmengine.structures import InstanceData

from ctkd_mm.analysis.report.boxes import mark, place_texts


def test_detections_are_hits_once_an_object_by_class_and_overlap():
    truth = [
        dict(corners=(0, 0, 10, 10), label=0),
        dict(corners=(20, 0, 30, 10), label=1),
    ]
    rows = [  # corners, score, label, what it is
        ((0, 0, 10, 10), 0.6, 0, None),  # found already, by the next
        ((0, 0, 10, 6), 0.9, 0, 'hit'),  # IoU 0.6
        ((20, 0, 30, 10), 0.8, 0, 'miss'),  # of another class
        ((20, 0, 24, 10), 0.7, 1, 'miss'),  # IoU 0.4
        ((20, 0, 30, 10), 0.29, 1, 'below the threshold'),
    ]
    corners, scores, labels, _ = zip(*rows)
    found = InstanceData(
        bboxes=torch.tensor(corners).float(),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels),
    )
    boxes = mark(found, truth, ['cat', 'dog'])
    assert [(box['text'], box['kind']) for box in boxes] == [
        ('cat 0.90', 'hit'),
        ('cat 0.80', 'miss'),
        ('dog 0.70', 'miss'),
        ('cat 0.60', 'miss'),
    ]
    assert boxes[1]['corners'] == (20, 0, 30, 10)
    assert [box['kind'] for box in mark(found, [], ['cat', 'dog'])] == ['miss'] * 4


def box(*corners: float, text: str = 'a 0.90') -> dict:
    return dict(corners=corners, text=text, kind='hit')


def test_texts_of_boxes_on_one_place_stand_around_it():
    # A picture 200 wide has a font 10 high; the six letters take 39.
    placed = place_texts([box(50, 50, 100, 110)] * 5, 200, 200)
    at = [(one['x'], one['y']) for one in placed]
    # Above, below, at the top and the bottom inside; the fifth has no place.
    assert at == [(50, 48.5), (50, 118.5), (50, 58.5), (50, 108.5)]
    right = place_texts([box(50, 50, 140, 110)] * 2, 200, 200)[1]
    assert (right['x'], right['y']) == (101, 48.5)


def test_a_text_is_moved_into_the_picture():
    (one,) = place_texts([box(190, 0, 200, 30)], 200, 100)
    assert (one['x'], one['y']) == (161, 8.5)
    (one,) = place_texts([box(-9, 90, 9, 105, text='a' * 50)], 200, 100)
    assert (one['x'], one['y']) == (0, 88.5)


@pytest.mark.parametrize('letter', ['a', '\N{CJK UNIFIED IDEOGRAPH-4EBA}'])
def test_no_text_covers_another(letter):
    draw = random.Random(0)
    boxes = []
    for _ in range(60):
        x, y, w, h = (draw.uniform(low, 150) for low in (0, 0, 5, 5))
        boxes.append(box(x, y, x + w, y + h, text=letter * draw.randint(1, 8)))
    placed = place_texts(boxes, 300, 300)
    assert 20 < len(placed) < 60
    assert placed[0]['text'] == boxes[0]['text']
    wide = 15 if letter > 'z' else 15 * 0.65
    spans = [(p['x'], p['x'] + wide * len(p['text']), p['y']) for p in placed]
    for (a, b, y), (c, d, z) in itertools.combinations(spans, 2):
        assert b <= c + 0.2 or d <= a + 0.2 or abs(y - z) >= 15 - 0.2
    assert all(a >= 0 and b < 300.1 and 12 < y < 300 for a, b, y in spans)
