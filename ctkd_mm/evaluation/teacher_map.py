"""The mAP of a teacher on the student's validation images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Subset


def evaluate_teacher(
    runner: Runner, teacher: BaseModel, images: int, relabel: Callable | None = None
) -> tuple[str, float]:
    """Evaluate the teacher on the first validation images.

    The images pass through its own ``data_preprocessor``.

    Args:
        runner: The runner, for ``val_dataloader`` and ``val_evaluator``.
        teacher: The detector.
        images: How many images, at most as many as there are.
        relabel: Gives a batch's predictions, a list of ``DetDataSample``, the labels of
            the data.

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
            samples = teacher.val_step(batch)
            if relabel is not None:
                relabel(samples)
            evaluator.process(samples, batch)
    metrics = evaluator.evaluate(images)
    name = next((name for name in metrics if name.endswith('mAP')), None)
    if name is None:
        raise ValueError(
            'default_hooks.preflight.expect_map needs a val_evaluator with a metric '
            f'named *mAP, got {sorted(metrics)}'
        )
    return name, float(metrics[name])
