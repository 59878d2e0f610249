"""COCO annotation files: what they hold, and whether its parts belong together."""

from __future__ import annotations

import gc
import json
import math
import os
import os.path as osp
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.fileio import get

from ctkd_mm.utils.messages import some

# What MMDetection reads of each entry, and as what.
NUMBER, ID, TEXT = (int, float), (int, float, str), (str,)
FIELDS = dict(
    images=dict(id=ID, file_name=TEXT, height=NUMBER, width=NUMBER),
    annotations=dict(id=ID, image_id=ID, category_id=ID, bbox=(object,), area=NUMBER),
    categories=dict(id=ID, name=ID),
)
# Polygons are most of a COCO file, and no box needs them.
POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[[^"{}]*\]')


def check_annotations(
    where: str, ann_file: str, backend_args: dict | None = None
) -> dict:
    """Read an annotation file and check that its parts belong together.

    Args:
        where: Key of the data set in the config, for the message.
        ann_file: Path or URL of the file.
        backend_args: As the data set's.

    Returns:
        Its content, without polygons.

    Raises:
        ValueError: If it is not JSON, lacks a list or a field, has one of another
            type, repeats an id or a category's name, refers to what it does not hold,
            has a box of non-finite numbers or negative size, or, of an evaluation,
            lacks ``iscrowd``.
    """
    coco = _read(where, ann_file, backend_args)
    blame = f'{where}: {ann_file}:'
    for name in FIELDS:
        _check_fields(blame, name, coco.get(name))
        _check_types(blame, name, coco[name])
        _check_unique(blame, name, 'id', coco[name])
    _check_unique(blame, 'categories', 'name', coco['categories'])
    _check_references(blame, coco)
    _check_numbers(blame, coco['annotations'])
    if where.startswith(('val_', 'test_')):
        _check_crowds(blame, coco['annotations'])
    return coco


def annotation_files(key: str, cfg: Any) -> Iterator[tuple[str, str, dict]]:
    """Find the data sets of a config that load a file, wrapped ones too.

    Args:
        key: Where the config stands, for example ``train_dataloader.dataset``.
        cfg: Config of a data set; anything else has none.

    Yields:
        The data set's key, its annotation file joined with its ``data_root``, and its
        config.
    """
    if not isinstance(cfg, dict):
        return
    path = cfg.get('ann_file')
    if isinstance(path, str) and path:
        if '://' not in path:
            path = osp.join(cfg.get('data_root') or '', path)
        yield key, path, cfg
    yield from annotation_files(f'{key}.dataset', cfg.get('dataset'))
    for i, part in enumerate(cfg.get('datasets') or ()):
        yield from annotation_files(f'{key}.datasets.{i}', part)


def from_here(path: str) -> str:
    """Say where a relative path begins.

    Args:
        path: Path or URL of a file that was not found.

    Returns:
        Words for a message, none for an absolute path or a URL.
    """
    if osp.isabs(path) or '://' in path:
        return ''
    return f' (a relative path, in the current folder {os.getcwd()})'


def forgotten_metainfo(kind: str, defaults: Any, names: list[str]) -> str:
    """Say so if a data set has the class names of its type for want of others.

    Args:
        kind: Name of the data set's class.
        defaults: Names of that class.
        names: Those of the file's categories.

    Returns:
        A sentence for a message; none if half of the file's names are the class's.
    """
    if 2 * len(set(names) & set(defaults)) >= len(names):
        return ''
    return (
        f'metainfo is not set: the data set took the {len(defaults)} class names of '
        f'{kind}: {some(map(repr, defaults))}. Write metainfo=dict(classes='
        f'{tuple(names)!r}) in the config of each data set, and '
        f'num_classes={len(names)} in every box head'
    )


def _read(where: str, ann_file: str, backend_args: dict | None) -> dict:
    try:
        raw = get(ann_file, backend_args=backend_args)
    except (OSError, ValueError) as error:
        raise ValueError(
            f'{where}.ann_file: {ann_file} cannot be read{from_here(ann_file)} '
            f'({error}). Correct ann_file or data_root, or get the file'
        ) from error
    # Millions of new objects: each collection would walk through all of them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        coco = json.loads(POLYGONS.sub(b'"segmentation":[]', raw))
    except ValueError as error:
        raise ValueError(
            f'{where}.ann_file: {ann_file} is not JSON, or is cut short: '
            f'{len(raw)} bytes that begin with {raw[:40]!r} ({error}). Get it again'
        ) from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(coco, dict):
        raise ValueError(
            f'{where}.ann_file: {ann_file} holds a {type(coco).__name__}, expected '
            f'an object with {", ".join(FIELDS)}. Give a COCO annotation file'
        )
    return coco


def _check_fields(blame: str, name: str, entries: Any) -> None:
    fields = FIELDS[name].keys()
    if not isinstance(entries, list):
        raise ValueError(
            f'{blame} has no list "{name}" (found {type(entries).__name__}). Give a '
            f'COCO annotation file, with lists {", ".join(FIELDS)}'
        )
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not entry.keys() >= fields:
            found = entry if isinstance(entry, dict) else {}
            lacks = [field for field in FIELDS[name] if field not in found]
            raise ValueError(
                f'{blame} {name}[{i}] has no "{lacks[0]}": '
                f'{json.dumps(entry)[:120]}. Expected are {", ".join(FIELDS[name])}: '
                'add it'
            )


def _check_types(blame: str, name: str, entries: list[dict]) -> None:
    for field, kinds in FIELDS[name].items():
        bad = [
            i for i, entry in enumerate(entries) if not isinstance(entry[field], kinds)
        ]
        if bad:
            wanted = {NUMBER: 'a number', TEXT: 'a string'}.get(
                kinds, 'a number or a string'
            )
            raise ValueError(
                f'{blame} {name}[{bad[0]}].{field}={entries[bad[0]][field]!r}, '
                f'expected {wanted}; {len(bad)} of {len(entries)} are not: correct them'
            )


def _check_unique(blame: str, name: str, field: str, entries: list) -> None:
    values = Counter(entry[field] for entry in entries)
    if len(values) == len(entries):
        return
    repeated = [value for value, count in values.items() if count > 1]
    raise ValueError(
        f'{blame} {len(repeated)} values of "{field}" occur more than once in '
        f'"{name}": {some(map(repr, repeated))}. Each hides or mixes up the entries '
        f'before it: make every {field} unique'
    )


def _check_references(blame: str, coco: dict) -> None:
    for field, name in dict(image_id='images', category_id='categories').items():
        known = {entry['id'] for entry in coco[name]}
        lost = [a for a in coco['annotations'] if a[field] not in known]
        if lost:
            raise ValueError(
                f'{blame} {len(lost)} of {len(coco["annotations"])} annotations have '
                f'as {field} what is no id in its "{name}": '
                f'{some(_ids(lost, field))}. '
                f'MMDetection would drop them: correct {field}, remove them, or add '
                f'what is missing to "{name}"'
            )


def _check_numbers(blame: str, annotations: list[dict]) -> None:
    bad = [a for a in annotations if not _is_box(a['bbox'])]
    if bad:
        raise ValueError(
            f'{blame} {len(bad)} annotations have no box of four finite numbers '
            '[x, y, width, height] with width, height >= 0: '
            f'{some(_ids(bad, "bbox"))}. Correct or remove them'
        )


def _check_crowds(blame: str, annotations: list[dict]) -> None:
    lost = sum('iscrowd' not in a for a in annotations)
    if lost:  # pycocotools reads it, after the first epoch of training
        raise ValueError(
            f'{blame} {lost} of {len(annotations)} annotations have no "iscrowd", '
            'which the evaluation needs: add "iscrowd": 0'
        )


def _is_box(box: Any) -> bool:
    try:
        x, y, width, height = box
        return abs(x) + abs(y) + width + height < math.inf and min(width, height) >= 0
    except (TypeError, ValueError):
        return False


def _ids(annotations: list[dict], field: str) -> list[str]:
    return [f'{a[field]!r} (annotation {a["id"]!r})' for a in annotations]
