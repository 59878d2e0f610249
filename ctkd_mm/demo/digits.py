"""The digits detection set: real handwritten digits in scenes, in COCO format.

Source: the scans are scikit-learn's ``load_digits`` (Alpaydin and Kaynak, *Optical
Recognition of Handwritten Digits*, UCI Machine Learning Repository, CC BY 4.0).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

from ctkd_mm.demo.scenes import render_scene

CLASSES = tuple('0123456789')
SPLITS = ('train', 'val')
VAL_FRACTION = 0.2
MIN_IMAGE_SIZE = 64  # the smallest digits are 10 px high then; the scans have 8
# Raise the version when the scenes change: old sets are then refused.
FORMAT = dict(format='ctkd_mm digits', version=1)


def split_scans(seed: int = 0) -> dict[str, np.ndarray]:
    """Give each of the 1797 scans to one of the splits.

    Args:
        seed: Seed of the permutation, >= 0.

    Returns:
        Scan indices, (M,) int64, by split: four fifths to train, the rest to val.
    """
    num_scans = len(load_digits().images)
    order = np.random.default_rng([seed, len(SPLITS)]).permutation(num_scans)
    num_val = round(VAL_FRACTION * num_scans)
    return {'train': order[num_val:], 'val': order[:num_val]}


def _write_split(root: Path, split: str, meta: dict) -> None:
    """Write the images and the annotation file of one split."""
    digits, chosen = load_digits(), split_scans(meta['seed'])[split]
    scans, size = digits.images[chosen], meta['image_size']
    images, annotations = [], []
    (root / split).mkdir()
    for index in range(meta[f'num_{split}']):
        # Each scene has its own generator, so that it is the same in a larger set.
        rng = np.random.default_rng([meta['seed'], SPLITS.index(split), index])
        image, rows, boxes = render_scene(scans, size, rng)
        name = f'{index:06d}.png'
        if not cv2.imwrite(str(root / split / name), image):
            raise OSError(f'could not write {root / split / name}')
        images.append({'id': index, 'file_name': name, 'width': size, 'height': size})
        for row, box in zip(rows, boxes):
            annotation = {'image_id': index, 'bbox': box, 'iscrowd': 0}
            annotation['area'] = box[2] * box[3]
            annotation['id'] = len(annotations) + 1  # pycocotools: 0 is "unmatched"
            annotation['category_id'] = int(digits.target[chosen[row]]) + 1
            annotation['scan'] = int(chosen[row])
            annotations.append(annotation)
    categories = [{'id': i + 1, 'name': name} for i, name in enumerate(CLASSES)]
    coco = {'images': images, 'annotations': annotations, 'categories': categories}
    (root / 'annotations').mkdir(exist_ok=True)
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(coco))


def _make(root: Path, meta: dict) -> None:
    """Make the set in a folder beside root, then rename that to root."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as work:
        new = Path(work) / 'new'
        new.mkdir()
        for split in SPLITS:
            _write_split(new, split, meta)
        (new / 'meta.json').write_text(json.dumps(meta, indent=2))
        new.rename(root)


def make_demo_data(
    root: str | Path,
    num_train: int = 800,
    num_val: int = 200,
    image_size: int = 128,
    seed: int = 0,
) -> Path:
    """Make the digits detection set, unless it is there already.

    ``root`` gets ``train/*.png``, ``val/*.png``, ``annotations/{train,val}.json`` and
    ``meta.json``, which names the arguments. The same arguments give the same bytes.
    An interrupted call leaves ``root`` as it was.

    Args:
        root: Folder of the set: new, empty, or made before with the same arguments.
        num_train: Number of training scenes, >= 1.
        num_val: Number of validation scenes, >= 1; they share no scan with training.
        image_size: Side of the square scenes in pixels, >= 64.
        seed: Seed of the scan split and of every scene, >= 0.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: If a number is not an int in its range.
        OSError: If ``root`` is a file, or a folder with anything else in it.

    Source: scans of scikit-learn's ``load_digits``; the format is COCO's, with the
    extra annotation key ``scan``, the index of the scan.
    """
    meta = dict(num_train=num_train, num_val=num_val, image_size=image_size, seed=seed)
    for (name, value), minimum in zip(meta.items(), (1, 1, MIN_IMAGE_SIZE, 0)):
        if type(value) is not int or value < minimum:
            raise ValueError(f'{name} must be an int >= {minimum}, got {value!r}')
    meta.update(FORMAT)
    root, made = Path(root), Path(root) / 'meta.json'
    if made.is_file() and made.read_text() == json.dumps(meta, indent=2):
        return root
    _make(root.resolve(), meta)
    return root
