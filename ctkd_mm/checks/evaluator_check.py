"""An evaluator that counts other images than those it is shown gives a wrong mAP."""

from __future__ import annotations

import difflib
import inspect
import math
import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ctkd_mm.checks.annotation_check import annotation_files, check_annotations
from ctkd_mm.utils.messages import some


def check_evaluator(cfg: Config, split: str) -> None:
    """Check that an evaluator reads the annotations of the data it evaluates.

    MMDetection's configs name the file twice. Compared are those of ``CocoMetric``
    and of a single ``CocoDataset``, subclasses included; a file with the same images
    is as good. A metric with ``format_only`` counts nothing. Of a part of a file, which
    ``indices`` gives, the rest would count as missed.

    Args:
        cfg: A complete config.
        split: ``val`` or ``test``.

    Raises:
        ValueError: If the two files have different images, or the data set has
            ``indices`` of fewer images than its file.
    """
    loader = cfg.get(f'{split}_dataloader') or {}
    key = f'{split}_dataloader.dataset'
    files = list(annotation_files(key, loader.get('dataset')))
    if len(files) != 1 or not _is_a('CocoDataset', files[0][2]):
        return
    key, wanted, dataset = files[0]
    evaluator = cfg.get(f'{split}_evaluator')
    for where, metric in _metrics(f'{split}_evaluator', evaluator):
        found = metric.get('ann_file')
        if not found or metric.get('format_only') or not _is_a('CocoMetric', metric):
            continue
        if not _same_images(found, wanted):
            raise ValueError(
                f'{where}.ann_file={found!r} has other images than {wanted!r}, which '
                f'{key} reads: the mAP would be wrong. Set both to one file'
            )
        if _is_part(dataset.get('indices'), wanted):
            raise ValueError(
                f'{key}.indices={dataset["indices"]!r} is a part of the images of '
                f'{where}.ann_file={found!r}: the others would count as missed. Write '
                'a file of that part (tools/coco_subset.py), or set indices=None'
            )


def check_save_best(cfg: Config) -> None:
    """Check that ``save_best`` names a figure that ``CocoMetric`` gives.

    MMEngine looks it up after the first validation. What other metrics give, subclasses
    included, is not known; nor what other loops and evaluators make of the names.

    Args:
        cfg: A complete config.

    Raises:
        ValueError: If none of the evaluator's figures has that name.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    wanted = hook.get('save_best') or ()
    evaluator = cfg.get('val_evaluator')
    metrics = [metric for _, metric in _metrics('', evaluator)]
    kinds = {str(metric.get('type')).split('.')[-1] for metric in metrics}
    wrapped = isinstance(evaluator, dict) and 'metrics' in evaluator
    wrapper = evaluator.get('type', 'Evaluator') if wrapped else 'Evaluator'
    loop = (cfg.get('val_cfg') or {}).get('type', 'ValLoop')
    if not kinds or not kinds <= {'CocoMetric', 'FastCocoMetric'}:
        return
    if (loop, wrapper) != ('ValLoop', 'Evaluator'):
        return
    known = {name for metric in metrics for name in _figures(metric)}
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in known | {'auto'} and not name.endswith('_precision'):
            near = difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f'default_hooks.checkpoint.save_best={name!r} is no figure of '
                f'val_evaluator: it gives {some(sorted(known), 12)}'
                + (f'. Write {near[0]!r}' if near else '')
            )


def _figures(metric: dict) -> Iterator[str]:
    prefix = f'{metric.get("prefix") or "coco"}/'
    items = metric.get('metric_items')
    kinds = metric.get('metric', 'bbox')
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind == 'proposal_fast':
            figures = [f'AR@{n}' for n in metric.get('proposal_nums', (100, 300, 1000))]
        elif kind == 'proposal':
            figures = items or [f'AR@{n}' for n in (100, 300, 1000)] + [
                f'AR_{size}@1000' for size in 'sml'
            ]
        else:
            sizes = ('', '_50', '_75', '_s', '_m', '_l')
            figures = [f'{kind}_{x}' for x in items or [f'mAP{of}' for of in sizes]]
        for figure in figures:
            yield prefix + figure


def _metrics(key: str, cfg: Any) -> Iterator[tuple[str, dict]]:
    if isinstance(cfg, (list, tuple)):
        for i, part in enumerate(cfg):
            yield from _metrics(f'{key}.{i}', part)
    elif isinstance(cfg, dict) and 'metrics' in cfg:
        yield from _metrics(f'{key}.metrics', cfg['metrics'])
    elif isinstance(cfg, dict):
        yield key, cfg


def _is_a(name: str, cfg: dict) -> bool:
    from mmdet.registry import DATASETS, METRICS

    registry = DATASETS if name == 'CocoDataset' else METRICS
    kind = cfg.get('type')
    cls = kind if inspect.isclass(kind) else registry.get(str(kind))
    base = registry.get(name)
    # Panoptic data sets read a file of their own beside that of the boxes.
    return (
        cls is not None
        and issubclass(cls, base)
        and getattr(cls, 'COCOAPI', None) is getattr(base, 'COCOAPI', None)
    )


def _is_part(indices: Any, path: str) -> bool:
    if indices is None:
        return False
    total = len(_images(path)) if osp.isfile(path) else math.inf
    kept = abs(indices) if isinstance(indices, int) else len(set(indices))
    return kept < total


def _same_images(one: str, other: str) -> bool:
    if '://' in one or '://' in other:
        return one == other
    return osp.realpath(one) == osp.realpath(other) or (
        osp.isfile(one) and osp.isfile(other) and _images(one) == _images(other)
    )


def _images(path: str) -> set:
    images = check_annotations('ann_file', path)['images']
    return {(image['id'], image['file_name']) for image in images}
