"""MMDetection's COCO evaluation, matched in C++ by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from mmdet.evaluation.metrics import CocoMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ctkd_mm.compat.patches import coco_evaluator
from ctkd_mm.registry import METRICS


def fast_coco_eval() -> Callable[..., COCOeval]:
    """Make pycocotools' ``COCOeval`` with ``evaluate`` and ``accumulate`` in C++.

    The summary stays pycocotools' own: faster-coco-eval's takes mAP over as many
    detections of an image as the last of ``maxDets`` says, 1000 in MMDetection's
    configs, where pycocotools takes 100.

    Returns:
        A function with the arguments of ``COCOeval``. Files with ids that the C++
        would mistake for others get pycocotools' own.

    Raises:
        ImportError: If faster-coco-eval is not installed.
    """
    from faster_coco_eval import COCOeval_faster

    class FastCOCOeval(COCOeval_faster):
        summarize = COCOeval.summarize

    def make(coco_gt: COCO, *args: Any, **kwargs: Any) -> COCOeval:
        # The C++ holds ids in doubles, and takes one that is no integer for 0.
        ids = chain(coco_gt.anns, coco_gt.imgs, coco_gt.cats)
        fits = all(isinstance(i, int) and 0 <= i <= 2**53 for i in ids)
        return (FastCOCOeval if fits else COCOeval)(coco_gt, *args, **kwargs)

    return make


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """``CocoMetric`` with the same results in less time.

    Ids other than integers from 0 to 2**53 are counted by pycocotools, in its own time.

    Args: as MMDetection's ``CocoMetric``. ``use_mp_eval`` changes nothing here.

    Raises:
        ImportError: If faster-coco-eval is not installed.

    Source: extends :class:`mmdet.evaluation.metrics.CocoMetric`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._coco_eval = fast_coco_eval()
        super().__init__(*args, **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute what ``CocoMetric`` computes from processed results."""
        with coco_evaluator(self._coco_eval):
            return super().compute_metrics(results)
