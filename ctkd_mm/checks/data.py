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
from contextlib import suppress
from typing import Any

from mmengine.fileio import get
from mmengine.runner import Runner
from PIL import Image

from ctkd_mm.utils.config import walk
from ctkd_mm.utils.messages import nearest, some

# Polygons are most of a COCO file, and no rule reads them.
POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[[^"{}]*\]')

SAMPLE = 100  # images of a data set whose size on the disk is read
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 turn an image by 90 degrees


def wrong_annotations(runner: Runner) -> Iterator[str]:
    """Find files whose entries hide each other, or whose labels are other classes."""
    from mmdet.datasets import CocoDataset

    for key, part in data_sets(dataloaders(runner)):
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
    for place in ('images.id', 'annotations.id', 'categories.id', 'categories.name'):
        part, field = place.split('.')
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


def wrong_map(runner: Runner, split: str = 'val') -> Iterator[str]:
    """Find metrics of COCO's whose file does not count what they are shown.

    Args:
        runner: The runner.
        split: ``val`` or ``test``.

    Yields:
        A sentence for each fault of a file.
    """
    from mmdet.evaluation import CocoMetric

    loop, key = getattr(runner, f'{split}_loop'), f'{split}_evaluator.ann_file'
    for i, metric in enumerate(loop.evaluator.metrics if loop else ()):
        coco = isinstance(metric, CocoMetric) and metric._coco_api
        if not coco or metric.format_only:
            continue
        ids = [annotation['id'] for annotation in coco.dataset['annotations']]
        if len({*ids}) < len(ids) or not {0, '0'}.isdisjoint(ids):
            yield (
                f'{key}: "id" in "annotations" repeats or is 0, which stands for no '
                "match in COCO's evaluation: the mAP would be wrong. Number them from 1"
            )
        dataset = loop.dataloader.dataset
        if hasattr(loop.evaluator, 'dataset_prefixes'):  # MultiDatasetsEvaluator
            dataset = dataset.datasets[i]
        counted = {(i, osp.basename(v['file_name'])) for i, v in coco.imgs.items()}
        shown = {
            (i.get('img_id'), osp.basename(i.get('img_path') or ''))
            for i in infos(dataset)
        }
        if shown and counted != shown:
            yield (
                f'{key} has {len(counted)} images, {split}_dataloader.dataset '
                f'{len(shown)}, {len(counted & shown)} of them the same: the mAP would '
                'be wrong. Set both to one file; for a part: tools/coco_subset.py'
            )


def other_sizes(runner: Runner) -> Iterator[str]:
    """Find images that are loaded in another size than their annotations have.

    Headers tell which of a sample to load. Without a size, or a file on this disk, an
    image is not looked at.

    Args:
        runner: The runner.

    Yields:
        A sentence for each data set with such an image.
    """
    from mmcv.transforms import LoadImageFromFile

    for key, part in data_sets(dataloaders(runner)):
        load = first_transform(part, LoadImageFromFile)
        for info in infos(part, SAMPLE) if load else ():
            told = info.get('width'), info.get('height')
            if all(told) and _header_size(info['img_path']) not in (told, None):
                height, width = load({**info})['ori_shape']
                if (width, height) != told:
                    yield (
                        f'{key}: {info["img_path"]} is {width} x {height} pixels, its '
                        f'annotations are for {told[0]} x {told[1]}: the boxes would '
                        'be elsewhere. Correct the file; undo resizing or rotation '
                        '(EXIF)'
                    )
                    break


def _header_size(path: str) -> tuple | None:
    """Read width and height; turned by EXIF gives none of them, unreadable None."""
    with suppress(OSError), Image.open(path) as image:  # its reader tells
        return () if image.getexif().get(ORIENTATION, 1) > 4 else image.size
    return None


def infos(dataset: Any, number: int = 0) -> Iterator[dict]:
    """Describe images of a data set, evenly spaced.

    Args:
        dataset: A built data set; one without ``get_data_info`` tells nothing.
        number: About how many, 0 for all.

    Yields:
        What ``get_data_info`` returns.
    """
    step = len(dataset) // number if number else 1
    for index in range(0, len(dataset), step or 1):
        if hasattr(dataset, 'get_data_info'):
            yield dataset.get_data_info(index)


def first_transform(dataset: Any, kind: type) -> Any:
    """Return the first transform of a kind in a data set's pipeline, or None."""
    pipeline = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    return next((t for t in pipeline if isinstance(t, kind)), None)


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


def data_sets(loaders: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Find the data sets of data loaders; their wrappers' attributes may be others.

    Args:
        loaders: Data loaders, by their keys in the config.

    Yields:
        Key and data set, as :func:`parts` does.
    """
    for name, loader in loaders.items():
        yield from parts(loader.dataset, f'{name}.dataset')


def dataloaders(runner: Runner) -> dict[str, Any]:
    """Return the data loaders of a training, by their keys in the config."""
    loaders = dict(train_dataloader=runner.train_dataloader)
    if runner.val_loop is not None:
        loaders['val_dataloader'] = runner.val_dataloader
    return loaders
