"""Draws a part of a COCO data set, small enough for a first training."""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path


def coco_subset(ann_file: str, images: int, out: str, seed: int = 0) -> list[str]:
    """Write an annotation file for a part of the images, drawn at random.

    The annotations of the drawn images stay as they are, and so do the categories and
    every order. No image is copied: MMDetection reads those that the file names.

    Args:
        ann_file: The COCO annotation file of the whole set.
        images: How many images to keep, each with the same chance.
        out: Where to write; must not exist yet.
        seed: Of the draw.

    Returns:
        What was written and how to use it, a line each.

    Raises:
        ValueError: If ``images`` is below 1, or the set has fewer.
        OSError: If ``out`` exists or cannot be written.
    """
    if images < 1:
        raise ValueError(f'--images is {images}: keep 1 or more')
    coco = json.loads(Path(ann_file).read_bytes())
    drawn = set(random.Random(seed).sample([i['id'] for i in coco['images']], images))
    subset = {
        **coco,
        'images': [i for i in coco['images'] if i['id'] in drawn],
        'annotations': [a for a in coco['annotations'] if a['image_id'] in drawn],
    }
    with open(out, 'x') as file:
        json.dump(subset, file)
    parts = 'images', 'annotations'
    counted = [f'{len(subset[part])} of {len(coco[part])} {part}' for part in parts]
    path = shlex.quote(str(Path(out).resolve()))
    return [
        f'{out}: {", ".join(counted)}',
        f'train on it: --cfg-options train_dataloader.dataset.ann_file={path}',
        f'evaluate on it: --cfg-options val_dataloader.dataset.ann_file={path} '
        f'val_evaluator.ann_file={path}',
    ]
