"""The teacher held against the data: its class names, its mAP."""

from __future__ import annotations

from itertools import zip_longest

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Subset


def check_class_names(metas: dict[str, dict], loaders: dict[str, DataLoader]) -> str:
    """Compare the names, and their order, of the teacher's checkpoint and the data.

    Args:
        metas: ``meta`` of checkpoints, of MMDetection 3 or 2, by where they come from.
        loaders: The data loaders, by their keys in the config.

    Returns:
        A line for the log.

    Raises:
        ValueError: At the first class that differs, or if their number does.
    """
    names = {}
    for key, meta in metas.items():
        meta = meta.get('dataset_meta') or meta
        names[key] = meta.get('classes', meta.get('CLASSES'))
    for key, loader in loaders.items():
        data_meta = getattr(loader.dataset, 'metainfo', {})
        names[f'{key}.dataset'] = data_meta.get('classes')
    known = {key: tuple(value) for key, value in names.items() if value}
    if not known:
        return 'no class names to compare'
    (first, want), *others = known.items()
    for key, found in others:
        if found == want:
            continue
        pairs = zip_longest(map(repr, want), map(repr, found), fillvalue='absent')
        i, a, b = next((i, a, b) for i, (a, b) in enumerate(pairs) if a != b)
        raise ValueError(
            f'class {i} is {a} in {first} ({len(want)} classes) and '
            f'{b} in {key} ({len(found)} classes): names and order must '
            "agree, or column i of the two models' logits means two things. Set "
            'metainfo.classes of the data as the teacher was trained, or take another '
            'checkpoint'
        )
    line = f'{len(want)} classes, the same in {", ".join(known)}'
    unnamed = [key for key in names if key not in known]
    return line + (f'; no names to compare in {", ".join(unnamed)}' if unnamed else '')


def evaluate_teacher(
    runner: Runner, teacher: BaseModel, images: int
) -> tuple[str, float]:
    """Evaluate the teacher on the first validation images, by its own pixels.

    Args:
        runner: The runner, for ``val_dataloader`` and ``val_evaluator``.
        teacher: The detector.
        images: How many images; no more than there are.

    Returns:
        Name and value of the evaluator's first mAP.

    Raises:
        ValueError: If ``val_evaluator`` gives no mAP.
    """
    dataset = runner.val_dataloader.dataset
    images = min(images, len(dataset))
    loader = runner.build_dataloader(
        {**runner.cfg.val_dataloader, 'dataset': Subset(dataset, range(images))}
    )
    evaluator = runner.build_evaluator(runner.cfg.val_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    for metric in evaluator.metrics:
        # CocoMetric would count the images that were not looked at as misses.
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
