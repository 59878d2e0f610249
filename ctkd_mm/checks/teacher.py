"""Compares the teacher with the data: its class names, and its mAP on them."""

from __future__ import annotations

from itertools import zip_longest

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Subset


def check_class_names(metas: dict[str, dict]) -> str:
    """Compare the class names of checkpoints and data, and their order.

    Args:
        metas: ``meta`` of checkpoints, of MMDetection 3 or 2, and ``metainfo`` of data
            sets, by where they come from.

    Returns:
        A line for the log.

    Raises:
        ValueError: At the first class that differs, or if their number does.
    """
    metas = {key: meta.get('dataset_meta') or meta for key, meta in metas.items()}
    names = {k: meta.get('classes', meta.get('CLASSES')) for k, meta in metas.items()}
    known = {key: tuple(value) for key, value in names.items() if value}
    if not known:
        return 'no class names to compare'
    (first, want), *others = known.items()
    for key, found in others:
        for i, (a, b) in enumerate(zip_longest(want, found)):
            if a != b:
                raise ValueError(
                    f'class {i} is {a!r} in {first} ({len(want)} classes) and {b!r} in '
                    f'{key} ({len(found)} classes): names and order must agree. Set '
                    'metainfo.classes of the data, or take another checkpoint'
                )
    line = f'{len(want)} classes, the same in {", ".join(known)}'
    unnamed = [key for key in names if key not in known]
    return line + (f'; no names to compare in {", ".join(unnamed)}' if unnamed else '')


def evaluate_teacher(
    runner: Runner, teacher: BaseModel, images: int
) -> tuple[str, float]:
    """Evaluate the teacher on the first validation images.

    The images pass through its own ``data_preprocessor``.

    Args:
        runner: The runner, for ``val_dataloader`` and ``val_evaluator``.
        teacher: The detector.
        images: How many images, at most as many as there are.

    Returns:
        Name and value of the evaluator's first mAP.

    Raises:
        ValueError: If ``val_evaluator`` gives no mAP.
    """
    dataset = runner.val_dataloader.dataset
    loader = runner.build_dataloader(
        {**runner.cfg.val_dataloader, 'dataset': Subset(dataset, range(images))}
    )
    evaluator = runner.build_evaluator(runner.cfg.val_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    for metric in evaluator.metrics:
        # CocoMetric would count the objects of all other images as missed.
        metric.img_ids = [dataset.get_data_info(i)['img_id'] for i in range(images)]
    with torch.no_grad():
        for batch in loader:
            evaluator.process(teacher.val_step(batch), batch)
    metrics = evaluator.evaluate(images)
    name = next((name for name in metrics if name.endswith('mAP')), None)
    if name is None:
        raise ValueError(
            'default_hooks.preflight.expect_map needs a val_evaluator with a metric '
            f'named *mAP, got {sorted(metrics)}'
        )
    return name, float(metrics[name])
