"""Pictures for the report, and boxes to lay over them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Sequence

import cv2
import torch
from mmengine.structures import InstanceData

SCORE_THR = 0.3
IOU_THR = 0.5
LONG_SIDE = 480  # pixels of a picture in the page


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


def _box(corners: Sequence[float], label: int, text: str, kind: str) -> dict:
    corners = tuple(round(float(value), 1) for value in corners)
    return dict(corners=corners, label=label, text=text, kind=kind)
