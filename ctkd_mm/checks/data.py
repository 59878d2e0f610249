"""COCO-format data sets: what would train silently wrong is refused before it does."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctkd_mm.checks.annotation_check import (
    check_annotations,
    forgotten_metainfo,
    from_here,
)
from ctkd_mm.utils.messages import some, warn

# Boxes of COCO's own files end less than a pixel outside.
SLACK, OUTSIDE = 3, 0.05  # pixels, and the share of boxes from which to warn


def check_dataset(dataset: Any, key: str) -> None:
    """Compare a built data set with its annotation file and its folder of images.

    MMDetection trains on without a word where classes are absent from the file (all
    later labels shift) or stand in another order there, where annotations belong to
    no image or no category, or where ids repeat. Those are refused; boxes that
    MMDetection drops, or that end outside their images, and images that are there
    more than once are counted in a warning. Looked into are wrappers, and in them
    every data set that loads its file as ``CocoDataset`` does; others pass. One of
    several may be without objects.

    Args:
        dataset: A data set, as the data loader has it.
        key: Where it stands in the config, for example ``train_dataloader.dataset``.

    Raises:
        ValueError: At the first thing that is wrong; it names the key, the file, the
            value found and the cure.

    Source: the rules of :class:`mmdet.datasets.CocoDataset`.
    """
    from mmdet.datasets import CocoDataset

    empty = []
    for where, part in _parts(dataset, key):
        if not len(part):
            raise ValueError(f'{where} has no image: {_settings(part)}')
        loads = getattr(type(part), 'load_data_list', None)
        is_coco = loads is CocoDataset.load_data_list
        empty.append(_check_coco(part, where) if is_coco else '')
    if all(empty):
        raise ValueError(empty[0])
    for reason in filter(None, empty):
        warn(reason)


def _check_coco(dataset: Any, where: str) -> str:
    """Check a data set; return why it has no box, if it has none."""
    coco = check_annotations(where, dataset.ann_file, dataset.backend_args)
    _check_labels(dataset, where, coco)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    empty = _check_boxes(dataset, where, coco, infos)
    _check_corners(dataset, where, coco)
    paths = [info['img_path'] for info in infos]
    if dataset.backend_args is None:
        _check_files(dataset, where, paths)
    if len(set(paths)) < len(paths):
        warn(
            f'{where}: {len(paths)} images of {dataset.ann_file} are '
            f'{len(set(paths))} files. Good for repeating some of them; of files '
            'joined from folders with the same names, make each file_name unique'
        )
    return empty


def _parts(dataset: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The data sets inside wrappers, with their keys."""
    for name in ('unseeded', '_dataset'):  # SeededDataset, MMEngine's _SlicedDataset
        dataset = getattr(dataset, name, dataset)
    if hasattr(dataset, 'datasets'):
        for i, part in enumerate(dataset.datasets):
            yield from _parts(part, f'{key}.datasets.{i}')
    elif hasattr(dataset, 'dataset'):
        yield from _parts(dataset.dataset, f'{key}.dataset')
    else:
        yield key, dataset


def _settings(dataset: Any) -> str:
    return (
        f'ann_file={getattr(dataset, "ann_file", None)!r}, '
        f'filter_cfg={getattr(dataset, "filter_cfg", None)!r}, '
        f'indices={getattr(dataset, "_indices", None)!r} leave none. Give a file with '
        'images, or loosen the filter'
    )


def _check_labels(dataset: Any, where: str, coco: dict) -> None:
    """Label i must be class i; MMDetection numbers the classes in the file's order."""
    classes = dataset.metainfo.get('classes') or ()
    if isinstance(classes, str):
        raise ValueError(
            f'{where}.metainfo.classes={classes!r} is a string, expected a tuple of '
            f'names. Add a comma: ({classes!r},)'
        )
    in_file = [category['name'] for category in coco['categories']]
    blame = f'{where}.metainfo.classes={some(map(repr, classes))}: {dataset.ann_file}'
    absent = [name for name in classes if name not in in_file]
    default = (getattr(dataset, 'METAINFO', None) or {}).get('classes')
    if absent and classes == default:
        advice = forgotten_metainfo(type(dataset).__name__, default, in_file)
        if advice:
            raise ValueError(f'{blame} has other categories. {where}.{advice}')
    if absent:
        near = difflib.get_close_matches(absent[0], in_file, 1)
        raise ValueError(
            f'{blame} has no category {some(map(repr, absent))}; it has '
            f'{some(map(repr, in_file))}. The labels of all later classes would '
            'shift: '
            + (f'write {near[0]!r}' if near else 'use the names of the file')
            + ', or add the category, without annotations, to the file'
        )
    names = {category['id']: category['name'] for category in coco['categories']}
    found = [names[i] for i in dataset.cat_ids]
    for i, (want, name) in enumerate(zip(classes, found)):
        if want != name:
            raise ValueError(
                f'{blame} lists its categories in another order, so label {i} would '
                f'be {name!r} and not {want!r}. Write the classes in the order of '
                f'the file: {some(map(repr, found))}'
            )


def _check_boxes(dataset: Any, where: str, coco: dict, infos: list) -> str:
    boxes = [box for info in infos for box in info.get('instances', ())]
    usable = sum(not box.get('ignore_flag', 0) for box in boxes)
    total = len(coco['annotations'])
    if not total:
        return (
            f'{where}: {dataset.ann_file} has no annotations, so no box to learn from '
            'or to evaluate against. Give a file with objects, unless its images are '
            'background alone'
        )
    if not usable:
        return (
            f'{where}: none of the {total} annotations in {dataset.ann_file} gives a '
            f'box to learn from or to evaluate against: {len(boxes)} are crowds, and '
            'the others are of other classes, lie outside their images, are less than '
            'a pixel wide or have area 0. Correct bbox, area, iscrowd or '
            'metainfo.classes'
        )
    used = set(dataset.cat_ids)
    other = sum(a['category_id'] not in used for a in coco['annotations'])
    if other:
        warn(
            f'{where}: {other} of {total} annotations in {dataset.ann_file} are of '
            'categories that metainfo.classes does not name, and are not used',
        )
    seen = {info['img_id'] for info in infos}
    here = sum(
        a['image_id'] in seen and a['category_id'] in used for a in coco['annotations']
    )
    if here > len(boxes):
        warn(
            f'{where}: MMDetection drops {here - len(boxes)} of {total} annotations '
            f'in {dataset.ann_file}: outside the image, less than a pixel wide, area '
            '0 or "ignore"',
        )
    return ''


def _check_corners(dataset: Any, where: str, coco: dict) -> None:
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    outside = []
    for annotation in coco['annotations']:
        x, y, w, h = annotation['bbox']
        width, height = sizes[annotation['image_id']]
        if x + w > width + SLACK or y + h > height + SLACK:
            outside.append((annotation['bbox'], f'{width} x {height}'))
    if len(outside) <= OUTSIDE * len(coco['annotations']):
        return
    corners = all(w >= x and h >= y for (x, y, w, h), _ in outside)
    box, size = outside[0]
    warn(
        f'{where}: {len(outside)} of {len(coco["annotations"])} boxes in '
        f'{dataset.ann_file} end outside their images, {box} in {size} pixels for '
        'example. '
        + (
            'bbox is [x, y, width, height]; these look like [x1, y1, x2, y2]: write '
            '[x1, y1, x2 - x1, y2 - y1], and correct area'
            if corners
            else 'Correct bbox, or width and height of the images, unless these boxes '
            'are to hold what the image does not show'
        )
    )


def _check_files(dataset: Any, where: str, paths: list[str]) -> None:
    """Look for the images in one listing of each folder."""
    present: dict[str, set] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if '://' in folder:
            return
        if folder not in present:
            present[folder] = set(os.listdir(folder)) if Path(folder).is_dir() else ()
        if name not in present[folder]:
            missing.append(path)
    if missing:
        raise ValueError(
            f'{where}: {len(missing)} of {len(paths)} images of {dataset.ann_file} do '
            f'not exist: {some(missing)}{from_here(missing[0])}. Get them, or correct '
            f'data_prefix={dataset.data_prefix!r}'
        )
