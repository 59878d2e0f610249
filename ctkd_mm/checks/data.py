"""Rules about annotation files, whose faults MMDetection reads without an error.

MMDetection numbers the labels in the order of the categories in the file. It drops an
annotation whose image or category is not there, and evaluates whatever images the
evaluator's file lists.
"""

from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from typing import Any

from mmengine.fileio import load
from mmengine.runner import Runner

from ctkd_mm.compat import imports
from ctkd_mm.utils.config import walk
from ctkd_mm.utils.messages import nearest, some
from ctkd_mm.utils.model import data_sets, infos, unwrapped

# Of the files that MMDetection has read: the faults of their ids, and their classes.
FILES: dict[str, tuple[list[str], list[str]]] = {}


def judge(path: str, file: dict) -> None:
    """Note what the rules need of a COCO annotation file.

    Args:
        path: Of the file.
        file: Its content.
    """
    FILES[path] = [*id_faults(file)], [one['name'] for one in file['categories']]


# It reads for minutes and then drops what it read; to read again would take as long.
imports.apply({'mmdet.datasets.coco': partial(imports.import_coco, judge)})


def wrong_annotations(runner: Runner) -> Iterator[str]:
    """Find files whose entries hide each other, or whose labels are other classes."""
    from mmdet.datasets import CocoDataset

    for key, part in data_sets(runner):
        if getattr(type(part), 'load_data_list', None) is CocoDataset.load_data_list:
            faults, _ = judged(part)
            yield from (f'{key}: {part.ann_file}: {fault}' for fault in faults)
            yield from label_faults(key, part)


def judged(dataset: Any) -> tuple[list[str], list[str]]:
    """Return what :func:`judge` notes of a ``CocoDataset``'s file."""
    path = dataset.ann_file
    if path not in FILES:  # of a remote storage, or it is not read yet
        judge(path, load(path, 'json', backend_args=dataset.backend_args))
    return FILES[path]


def label_faults(key: str, dataset: Any) -> Iterator[str]:
    """Compare the labels of a ``CocoDataset`` with its file: label i is class i.

    Args:
        key: The data set's place in the config.
        dataset: The built data set.

    Yields:
        A sentence for each fault.
    """
    classes = dataset.metainfo.get('classes') or ()
    _, in_file = judged(dataset)
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
        numbered = (name for name in in_file if name in classes)
        for want, found in zip(classes, numbered):
            if want != found:
                yield (
                    f'{key}.metainfo.classes has {want!r} where {dataset.ann_file} has '
                    f'{found!r}: write the names in the order of the file'
                )


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
            yield from label_faults(key, dataset)


def id_faults(file: dict) -> Iterator[str]:
    """Check that ids are unique and references lead somewhere.

    Args:
        file: The annotations.

    Yields:
        A sentence for each kind of fault.
    """
    file = {'annotations': (), **file}  # those of COCO's test images are secret
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

    from ctkd_mm.evaluation.fast_coco_metric import hides_matches

    loop, key = getattr(runner, f'{split}_loop'), f'{split}_evaluator.ann_file'
    for i, metric in enumerate(loop.evaluator.metrics if loop else ()):
        coco = isinstance(metric, CocoMetric) and metric._coco_api
        if not coco or metric.format_only:
            continue
        if hides_matches(coco):
            yield (
                f'{key}: "id" in "annotations" repeats or is 0, which stands for no '
                "match in COCO's evaluation: the mAP would be wrong. Number them from "
                '1, or take ctkd_mm.FastCocoMetric'
            )
        classes = [*(metric.dataset_meta or {}).get('classes', ())]
        in_file = [c['name'] for c in coco.loadCats(coco.get_cat_ids(classes))]
        # A panoptic set has more, at the end.
        if classes and in_file != classes[: len(in_file)]:
            yield (
                f'{key} has the classes in the order {some(in_file)}, '
                f'{split}_dataloader.dataset {some(classes)}: the mAP would be wrong. '
                'Write its categories in the order of metainfo.classes'
            )
        part = loop.dataloader.dataset
        if hasattr(loop.evaluator, 'dataset_prefixes'):  # MultiDatasetsEvaluator
            part = part.datasets[i]
        counted = {(i, osp.basename(v['file_name'])) for i, v in coco.imgs.items()}
        shown = {(i.get('img_id'), osp.basename(i['img_path'])) for i in infos(part)}
        if shown and counted != shown:
            yield (
                f'{key} has {len(counted)} images, {split}_dataloader.dataset '
                f'{len(shown)}, {len(counted & shown)} of them the same: the mAP would '
                'be wrong. Set both to one file; for a part: ctkd_mm subset'
            )


def wrong_samples(runner: Runner) -> Iterator[str]:
    """Load a few images with their annotations, as the data sets do.

    Boxes of an image that was resized, or is turned by its EXIF orientation, would be
    elsewhere in it; a student's mask head without masks would fail in its first step.

    Args:
        runner: The runner.

    Yields:
        A sentence for each image of another size than annotated, or without the masks
        that the student needs.

    Raises:
        Exception: What the training's first epoch would have raised.
    """
    from mmcv.transforms import LoadAnnotations, LoadImageFromFile

    model = unwrapped(runner)
    head = getattr(getattr(model, 'architecture', model), 'roi_head', None)
    kinds = LoadImageFromFile, LoadAnnotations
    for key, part in data_sets(runner):
        pipeline = getattr(getattr(part, 'pipeline', None), 'transforms', ())
        loads = list(takewhile(lambda t: isinstance(t, kinds), pipeline))
        masks = key.startswith('train') and getattr(head, 'with_mask', False)
        for info in infos(part, 16) if loads else ():
            told = info.get('height'), info.get('width')
            for transform in loads:
                info = transform(info)
            if all(told) and info.get('ori_shape', told) != told:
                yield (
                    f'{key}: {info["img_path"]} has height and width '
                    f'{info["ori_shape"]}, its annotations {told}: boxes would be '
                    'elsewhere. Undo resizing and EXIF rotation, or correct the file'
                )
            if masks and 'gt_bboxes' in info and 'gt_masks' not in info:
                yield (
                    f'{key}.pipeline loads no masks for the mask_head of the student: '
                    'set with_mask=True in LoadAnnotations, or take another student'
                )
