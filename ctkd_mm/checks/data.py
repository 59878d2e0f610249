"""Rules about annotation files, whose faults MMDetection reads without an error.

MMDetection numbers the labels in the order of the categories in the file. It drops an
annotation whose image or category is not there, and evaluates whatever images the
evaluator's file lists.
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

from ctkd_mm.utils.config import walk
from ctkd_mm.utils.messages import nearest, some

# Polygons are most of a COCO file, and no rule reads them.
POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[[^"{}]*\]')


def wrong_annotations(runner: Runner) -> Iterator[str]:
    """Find files whose entries hide each other, or whose labels are other classes."""
    from mmdet.datasets import CocoDataset

    for name, loader in dataloaders(runner).items():
        for key, part in parts(loader.dataset, f'{name}.dataset'):
            load = getattr(type(part), 'load_data_list', None)
            if load is CocoDataset.load_data_list:
                file = read(part.ann_file, part.backend_args)
                yield from (f'{key}: {part.ann_file}: {f}' for f in id_faults(file))
                yield from label_faults(key, part, file)


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
    in_file = [category['name'] for category in file['categories']]
    absent = [name for name in classes if name not in in_file]
    if absent and tuple(classes) == tuple(dataset.METAINFO.get('classes') or ()):
        yield (
            f'{key}.metainfo is not set, so its classes are not those of '
            f'{dataset.ann_file}. Write metainfo=dict(classes={tuple(in_file)!r}) in '
            f'each data set, and num_classes={len(in_file)} in every box head'
        )
    elif absent:
        yield (
            f'{key}.metainfo.classes has {absent[0]!r}, {dataset.ann_file} does not'
            f'{nearest(absent[0], in_file) or "."} All later labels would shift. Its '
            f'names: {some(map(repr, in_file))}'
        )
    else:
        numbered = [name for name in in_file if name in classes]
        for want, found in zip(classes, numbered):
            if want != found:
                yield (
                    f'{key}.metainfo.classes has {want!r} where {dataset.ann_file} '
                    f'has {found!r}: write the names in the order of the file'
                )
                return


def emptied_data(cfg: dict) -> Iterator[str]:
    """Find data sets with wrong classes, where MMDetection dropped all their images.

    Args:
        cfg: A complete config.

    Yields:
        What :func:`label_faults` finds in each ``CocoDataset``.
    """
    from mmdet.registry import DATASETS

    for key, part in walk({**cfg}):
        if '_dataloader' in key and isinstance(part, dict) and part.get('ann_file'):
            dataset = DATASETS.build({**part, 'pipeline': [], 'lazy_init': True})
            yield from label_faults(key, dataset, read(dataset.ann_file))


def id_faults(file: dict) -> Iterator[str]:
    """Check that ids are unique and references lead somewhere.

    Args:
        file: The annotations.

    Yields:
        A sentence for each kind of fault.
    """
    for part, field in (('images', 'id'), ('categories', 'id'), ('categories', 'name')):
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
    """Find an evaluator whose file lists other images than those that it is shown.

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
    infos = map(dataset.get_data_info, range(len(dataset)))
    shown = {(i.get('img_id'), osp.basename(i.get('img_path') or '')) for i in infos}
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
