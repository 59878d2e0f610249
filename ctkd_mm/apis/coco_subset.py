"""A part of a COCO data set, small enough for a first try, with the same classes."""

from __future__ import annotations

import json
import random
import shlex
from collections import Counter
from pathlib import Path

from ctkd_mm.checks.data import check_annotations
from ctkd_mm.utils.files import write_atomically
from ctkd_mm.utils.messages import some


def choose_images(coco: dict, images: int, seed: int = 0) -> dict:
    """Choose images that hold the classes in the proportions of the whole set.

    The images are put in an order drawn from ``seed``. First, from the rarest class
    on, each class that is not there yet gets its first image. The others, cut into as
    many blocks as images are left to choose, give one each: the one after which

        sum over classes c of (k * n_c / N - m_c)^2 / n_c

    is least, with n_c objects of the class in the N images and m_c in the k chosen
    ones. An image without an object counts as one object of a further class.

    Args:
        coco: A COCO annotation file's content; crowds are no objects.
        images: How many to choose, no more than there are.
        seed: Of the order.

    Returns:
        That many images, by id: the objects of each class in them. They have every
        class that has an object, if there are at least as many of them as classes.
    """
    draw = random.Random(seed).random  # the same numbers in any version of Python
    order = sorted((image['id'] for image in coco['images']), key=lambda _: draw())
    shown = _objects_by_image(coco)
    total, first = Counter(), {}
    for image in order:
        total.update(shown[image])
        for category in shown[image]:
            first.setdefault(category, image)
    chosen, count = {}, Counter()

    def choose(image: int) -> None:
        chosen[image] = shown[image]
        count.update(shown[image])

    for category in sorted(total.keys() - {None}, key=lambda c: (total[c], first[c])):
        if not count[category] and len(chosen) < images:
            choose(first[category])
    rest, blocks = [i for i in order if i not in chosen], images - len(chosen)
    for i in range(blocks):
        share = (len(chosen) + 1) / len(order)
        lacking = {c: share * total[c] - count[c] for c in total}
        begin, end = (j * len(rest) // blocks for j in (i, i + 1))
        choose(min(rest[begin:end], key=lambda x: _worse(shown[x], lacking, total)))
    return chosen


def _objects_by_image(coco: dict) -> dict[int, Counter]:
    shown = {image['id']: Counter() for image in coco['images']}
    for annotation in _objects(coco):
        shown[annotation['image_id']][annotation['category_id']] += 1
    return {image: objects or Counter([None]) for image, objects in shown.items()}


def _worse(objects: Counter, lacking: dict, total: Counter) -> float:
    """By how much an image would change the sum; the rest of it is the same for all."""
    return sum(m * (m - 2 * lacking[c]) / total[c] for c, m in objects.items())


def coco_subset(ann_file: str, images: int, out: str, seed: int = 0) -> list[str]:
    """Write an annotation file for a part of the images.

    All else in the file stays: categories with their ids and order, the order of
    images and annotations, crowds, polygons. The images stay where they are:
    MMDetection reads those that the file names.

    Args:
        ann_file: The COCO annotation file of the whole set.
        images: How many images to keep, by :func:`choose_images`.
        out: Where to write; must not exist.
        seed: Of the choice.

    Returns:
        What was written and how to use it, a line each.

    Raises:
        ValueError: If ``out`` exists, there are fewer images, or the file is wrong
            (:func:`ctkd_mm.checks.data.check_annotations`).
        OSError: If it cannot be written; there is no half of it then.
    """
    if Path(out).exists():
        raise ValueError(f'{out} exists: give another name, or remove it first')
    check_annotations('coco_subset', ann_file)
    coco = json.loads(Path(ann_file).read_bytes())
    if not 1 <= images <= len(coco['images']):
        raise ValueError(
            f'--images {images} must be 1 to {len(coco["images"])}, the number of '
            f'images in {ann_file}'
        )
    chosen = choose_images(coco, images, seed)
    subset = {
        **coco,
        'images': [i for i in coco['images'] if i['id'] in chosen],
        'annotations': [a for a in coco['annotations'] if a['image_id'] in chosen],
    }
    write_atomically(out, json.dumps(subset).encode())
    return _report(coco, subset, Path(out))


def _objects(coco: dict) -> list[dict]:
    return [a for a in coco['annotations'] if not a.get('iscrowd')]


def _shares(coco: dict) -> dict:
    """Each class's share of the objects."""
    counts = Counter(a['category_id'] for a in _objects(coco))
    return {key: count / sum(counts.values()) for key, count in counts.items()}


def _report(coco: dict, subset: dict, out: Path) -> list[str]:
    names = {category['id']: category['name'] for category in coco['categories']}
    before, after = _shares(coco), _shares(subset)
    lost = [names[key] for key in before if key not in after]
    lines = [
        f'{out}: {len(subset["images"])} of {len(coco["images"])} images, '
        f'{len(_objects(subset))} of {len(_objects(coco))} objects, {len(after)} of '
        f'{len(before)} classes' + (f'; without {some(lost)}' if lost else '')
    ]
    if before:
        most = max(before, key=lambda key: abs(after.get(key, 0) - before[key]))
        lines.append(
            f'largest change of a class among the objects: {names[most]}, '
            f'{before[most]:.1%} to {after.get(most, 0):.1%}'
        )
    path = shlex.quote(str(out.resolve()))
    return [
        *lines,
        f'train on it: --cfg-options train_dataloader.dataset.ann_file={path}',
        f'evaluate on it: --cfg-options val_dataloader.dataset.ann_file={path} '
        f'val_evaluator.ann_file={path}',
    ]
