"""A part of a COCO data set, small enough for a first try."""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path

from ctkd_mm.utils.files import write_atomically


def coco_subset(ann_file: str, images: int, out: str, seed: int = 0) -> list[str]:
    """Write an annotation file for a part of the images, drawn at random.

    All else in the file stays: categories with their ids and order, the order of
    images and annotations, crowds, polygons. The images stay where they are:
    MMDetection reads those that the file names.

    Args:
        ann_file: The COCO annotation file of the whole set.
        images: How many images to keep, each with the same chance.
        out: Where to write; must not exist.
        seed: Of the draw.

    Returns:
        What was written and how to use it, a line each.

    Raises:
        ValueError: If ``out`` exists, or there are fewer images.
        OSError: If it cannot be written; no half of it is left then.
    """
    if Path(out).exists():
        raise ValueError(f'{out} exists: give another name, or remove it first')
    coco = json.loads(Path(ann_file).read_bytes())
    if not 1 <= images <= len(coco['images']):
        raise ValueError(
            f'--images {images} must be 1 to {len(coco["images"])}, the number of '
            f'images in {ann_file}'
        )
    drawn = set(random.Random(seed).sample([i['id'] for i in coco['images']], images))
    subset = {
        **coco,
        'images': [i for i in coco['images'] if i['id'] in drawn],
        'annotations': [a for a in coco['annotations'] if a['image_id'] in drawn],
    }
    write_atomically(out, json.dumps(subset).encode())
    counted = [
        f'{len(subset[part])} of {len(coco[part])} {part}'
        for part in ('images', 'annotations')
    ]
    path = shlex.quote(str(Path(out).resolve()))
    return [
        f'{out}: {", ".join(counted)}',
        f'train on it: --cfg-options train_dataloader.dataset.ann_file={path}',
        f'evaluate on it: --cfg-options val_dataloader.dataset.ann_file={path} '
        f'val_evaluator.ann_file={path}',
    ]
