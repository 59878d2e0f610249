"""Rules about annotation files: what MMDetection would read silently wrong.

MMDetection numbers the labels in the order of the file's categories, drops what belongs
to no image or category, and evaluates whatever images the evaluator's file has.
"""

from __future__ import annotations

import json
import os.path as osp
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.fileio import get
from mmengine.runner import Runner

from ctkd_mm.utils.config import bare, walk
from ctkd_mm.utils.messages import nearest, some

# Polygons are most of a COCO file, and no rule reads them.
POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[[^"{}]*\]')


def wrong_annotations(runner: Runner) -> Iterator[str]:
    """Find files whose entries hide each other, or whose labels are other classes."""
    for key, dataset, file in _files(runner):
        yield from (f'{key}: {dataset.ann_file}: {fault}' for fault in id_faults(file))
        yield from label_faults(key, dataset, file)


def label_faults(key: str, dataset: Any, file: dict) -> Iterator[str]:
    """Compare the labels of a ``CocoDataset`` with its file: label i is class i.

    Args:
        key: The data set's place in the config.
        dataset: The built data set.
        file: Its annotations.

    Yields:
        The first fault, if there is one.
    """
    classes = dataset.metainfo.get('classes') or ()
    if isinstance(classes, str):  # left to MMDetection's NumClassCheckHook
        return
    names = {category['id']: category['name'] for category in file['categories']}
    in_file = list(names.values())
    absent = [name for name in classes if name not in in_file]
    if absent and tuple(classes) == tuple(dataset.METAINFO.get('classes') or ()):
        yield forgotten_metainfo(key, dataset.ann_file, in_file)
    elif absent:
        yield (
            f'{key}.metainfo.classes has {absent[0]!r}, {dataset.ann_file} does not'
            f'{nearest(absent[0], in_file) or "."} All later labels would shift. Its '
            f'names: {some(map(repr, in_file))}'
        )
    else:
        for want, index in zip(classes, dataset.cat_ids):
            if names[index] != want:
                yield (
                    f'{key}.metainfo.classes has {want!r} where {dataset.ann_file} '
                    f'has {names[index]!r}: write the names in the order of the file'
                )
                return


def forgotten_metainfo(key: str, ann_file: str, names: list[str]) -> str:
    """Say that a data set of one's own has the class names of its type."""
    return (
        f'{key}.metainfo is not set, so its classes are not those of {ann_file}. Write '
        f'metainfo=dict(classes={tuple(names)!r}) in each data set, and '
        f'num_classes={len(names)} in every box head'
    )


def without_metainfo(cfg: dict) -> Iterator[str]:
    """Find the data sets of a config that lack class names, where none can be built.

    Args:
        cfg: A complete config.

    Yields:
        A sentence for each data set whose file has other names than its type.
    """
    from mmdet.registry import DATASETS

    for key, part in walk({k: v for k, v in cfg.items() if k.endswith('_dataloader')}):
        if isinstance(part, dict) and part.get('ann_file'):
            own = getattr(DATASETS.get(bare(part.get('type'))), 'METAINFO', {})
            path = osp.join(part.get('data_root') or '', part['ann_file'])
            names = [c['name'] for c in read(path)['categories']]
            given = (part.get('metainfo') or {}).get('classes')
            if not given and not set(names) <= set(own.get('classes') or names):
                yield forgotten_metainfo(key, path, names)


def id_faults(file: dict) -> Iterator[str]:
    """Check that ids are unique and references lead somewhere.

    Args:
        file: The annotations.

    Yields:
        A sentence for each kind of fault.
    """
    unique = [('images', 'id'), ('categories', 'id'), ('categories', 'name')]
    for part, field in unique:
        values = Counter(entry[field] for entry in file[part])
        repeated = [repr(value) for value, count in values.items() if count > 1]
        if repeated:
            yield (
                f'"{field}" repeats in "{part}": {some(repeated)}. One would hide the '
                'other: make it unique'
            )
    for field, part in (('image_id', 'images'), ('category_id', 'categories')):
        known = {entry['id'] for entry in file[part]}
        lost = [a[field] for a in file['annotations'] if a[field] not in known]
        if lost:
            yield (
                f'{len(lost)} annotations have a {field} that is not in "{part}", '
                f'{lost[0]!r} for example, and would be dropped: correct them'
            )


def other_images(runner: Runner, split: str = 'val') -> Iterator[str]:
    """Find an evaluator that counts other images than those it is shown.

    Args:
        runner: The runner.
        split: ``val`` or ``test``.

    Yields:
        A sentence for each metric of COCO's with another file.
    """
    from mmdet.evaluation import CocoMetric

    loop = getattr(runner, f'{split}_loop')
    dataset = loop and loop.dataloader.dataset
    if not hasattr(dataset, 'get_data_info'):
        return
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    shown = {
        (info.get('img_id'), osp.basename(info.get('img_path') or '')) for info in infos
    }
    for metric in loop.evaluator.metrics:
        coco = isinstance(metric, CocoMetric) and metric._coco_api
        if not coco or metric.format_only:
            continue
        counted = {(i, osp.basename(v['file_name'])) for i, v in coco.imgs.items()}
        if counted != shown:
            yield (
                f'{split}_evaluator.ann_file has {len(counted)} images, '
                f'{split}_dataloader.dataset {len(shown)}, {len(counted & shown)} of '
                'them the same: the mAP would be wrong. Set both to one file; for a '
                'part: tools/coco_subset.py'
            )


def read(path: str, backend_args: dict | None = None) -> dict:
    """Read a COCO annotation file, without its polygons.

    Args:
        path: Path or URL.
        backend_args: As MMDetection's data sets take them.
    """
    raw = get(path, backend_args=backend_args)
    return json.loads(POLYGONS.sub(b'"segmentation":[]', raw))


def parts(dataset: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Find the data sets inside wrappers.

    Args:
        dataset: A built data set.
        key: Its place in the config.

    Yields:
        Key and data set, wrappers left out.
    """
    for name in ('unseeded', '_dataset'):  # SeededDataset, MMEngine's _SlicedDataset
        dataset = getattr(dataset, name, dataset)
    if hasattr(dataset, 'datasets'):
        for i, part in enumerate(dataset.datasets):
            yield from parts(part, f'{key}.datasets.{i}')
    elif hasattr(dataset, 'dataset'):
        yield from parts(dataset.dataset, f'{key}.dataset')
    else:
        yield key, dataset


def dataloaders(runner: Runner) -> dict[str, Any]:
    """Return the data loaders of a training, by their keys in the config."""
    loaders = dict(train_dataloader=runner.train_dataloader)
    if runner.val_loop is not None:
        loaders['val_dataloader'] = runner.val_dataloader
    return loaders


def _files(runner: Runner) -> Iterator[tuple[str, Any, dict]]:
    """The data sets that load their file as CocoDataset does, with its content."""
    from mmdet.datasets import CocoDataset

    for name, loader in dataloaders(runner).items():
        for key, part in parts(loader.dataset, f'{name}.dataset'):
            load = getattr(type(part), 'load_data_list', None)
            if load is CocoDataset.load_data_list:
                yield key, part, read(part.ann_file, part.backend_args)
