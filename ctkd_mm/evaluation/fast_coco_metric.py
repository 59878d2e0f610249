"""MMDetection's COCO evaluation, matched in C++ by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mmdet.evaluation.metrics import CocoMetric
from pycocotools.cocoeval import COCOeval

from ctkd_mm.compat.patches import coco_evaluator
from ctkd_mm.registry import METRICS

_KEY = "val_evaluator.type='ctkd_mm.FastCocoMetric' (or that of test_evaluator)"
_LARGEST_ID = 2**53


def fast_coco_eval() -> type:
    """Make pycocotools' ``COCOeval`` with ``evaluate`` and ``accumulate`` in C++.

    The summary stays pycocotools' own: faster-coco-eval's takes mAP over as many
    detections of an image as the last of ``maxDets`` says, 1000 in MMDetection's
    configs, where pycocotools takes 100. ``evaluate`` raises ValueError for ids that
    the C++ would mistake for others.

    Raises:
        ImportError: If faster-coco-eval is not installed.
    """
    from faster_coco_eval import COCOeval_faster

    class FastCOCOeval(COCOeval_faster):
        summarize = COCOeval.summarize

        def evaluate(self) -> None:
            for name in ('anns', 'imgs', 'cats'):
                _check_ids(name, getattr(self.cocoGt, name))
            super().evaluate()

    return FastCOCOeval


def _check_ids(name: str, ids: Collection) -> None:
    # The C++ holds them in doubles, and takes one that is no integer for 0.
    bad = [i for i in ids if not isinstance(i, int) or not 0 <= i <= _LARGEST_ID]
    if bad:
        raise ValueError(
            f'{_KEY} needs ids that are integers from 0 to 2**53, found {bad[0]!r} '
            f'among the {len(ids)} {name} of val_evaluator.ann_file. Renumber them, or '
            "set it to 'CocoMetric', which computes the same, slower"
        )


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """``CocoMetric`` with the same results in less time.

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
