"""Pictures for the report, boxes to lay over them, and where their texts stand."""

from __future__ import annotations

import base64
from itertools import product
from pathlib import Path
from typing import Sequence
from unicodedata import east_asian_width

import cv2
import torch
from mmengine.structures import InstanceData

SCORE_THR = 0.3
IOU_THR = 0.5
LONG_SIDE = 480  # pixels of a picture in the page
FONTS = 20  # a picture is as wide as the font is high this many times
LETTER = 0.65  # heights of the font: the mean width of a bold letter or digit


def picture(info: dict, classes: Sequence[str]) -> dict:
    """Make an image of a data set ready to be shown with its ground truth.

    Args:
        info: What the data set's ``get_data_info`` returns.
        classes: Names by label.

    Returns:
        ``path``, ``name``, ``width`` and ``height`` in pixels of the file, ``uri``
        with the pixels, at most ``LONG_SIDE`` of them along a side, and ``truth``, the
        objects as :func:`mark` returns them, of kind truth.

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
    encoded = base64.b64encode(cv2.imencode(f'.{kind}', small)[1].tobytes()).decode()
    objects = [one for one in info['instances'] if not one.get('ignore_flag')]
    return dict(
        path=info['img_path'],
        name=path.name,
        width=width,
        height=height,
        uri=f'data:image/{kind};base64,{encoded}',
        truth=[
            _box(one['bbox'], one['bbox_label'], classes[one['bbox_label']], 'truth')
            for one in objects
        ],
    )


def mark(
    found: InstanceData, truth: Sequence[dict], classes: Sequence[str]
) -> list[dict]:
    """Say for each detection with a score >= ``SCORE_THR`` whether it finds an object.

    Highest score first, a detection is a hit if an object of its class that no other
    has found overlaps with it by an IoU >= ``IOU_THR``.

    Args:
        found: ``bboxes`` (N, 4), x1 y1 x2 y2 in pixels, ``scores`` and ``labels`` (N,).
        truth: The objects, from :func:`picture`.
        classes: Names by label.

    Returns:
        ``corners`` (x1, y1, x2, y2), ``label``, ``text`` to show, and ``kind``: hit or
        miss.
    """
    from mmdet.structures.bbox import bbox_overlaps

    found = found[found.scores >= SCORE_THR]
    found = found[found.scores.argsort(descending=True)]
    objects = torch.tensor([one['corners'] for one in truth]).reshape(-1, 4)
    labels = torch.tensor([one['label'] for one in truth]).reshape(1, -1)
    overlaps = bbox_overlaps(found.bboxes.float(), objects.float())
    overlaps = overlaps * (found.labels[:, None] == labels)
    boxes = []
    for i, label in enumerate(found.labels.tolist()):
        hit = bool((overlaps[i] >= IOU_THR).any())
        if hit:
            overlaps[:, overlaps[i].argmax()] = 0
        text = f'{classes[label]} {found.scores[i]:.2f}'
        kind = 'hit' if hit else 'miss'
        boxes.append(_box(found.bboxes[i].tolist(), label, text, kind))
    return boxes


def place_texts(boxes: Sequence[dict], width: float, height: float) -> list[dict]:
    """Find a place for the text of each box where it covers no other text.

    In the order of the boxes, a text takes the first free place of those above, below
    and inside its box, moved into the picture. Where none is free, it is left out.

    Args:
        boxes: From :func:`mark` or :func:`picture`.
        width: Of the picture, in the units of the boxes' corners; the font is
            ``width / FONTS`` high.
        height: Of the picture.

    Returns:
        For each text that has a place ``text``, ``kind``, and ``x`` and ``y``, the
        left end of its baseline.
    """
    size, taken, placed = width / FONTS, [], []
    for box in boxes:
        x1, y1, x2, y2 = box['corners']
        letters = (1 if east_asian_width(c) in 'FW' else LETTER for c in box['text'])
        length = size * sum(letters)
        tops, lefts = (y1 - size, y2, y1, y2 - size), (x1, x2 - length)
        for top, left in product(tops, lefts):
            x = max(0, min(left, width - length))
            y = max(0, min(top, height - size))
            if all(
                x >= right or left >= x + length or abs(y - other) >= size
                for left, right, other in taken
            ):
                taken.append((x, x + length, y))
                at = dict(x=round(x, 1), y=round(y + 0.85 * size, 1))
                placed.append(dict(text=box['text'], kind=box['kind'], **at))
                break
    return placed


def _box(corners: Sequence[float], label: int, text: str, kind: str) -> dict:
    corners = tuple(round(float(value), 1) for value in corners)
    return dict(corners=corners, label=label, text=text, kind=kind)
