"""MMDetection's COCO evaluation, counted in Rust by hotcoco."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.evaluation.metrics import CocoMetric
from mmengine.logging import MMLogger
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from ctkd_mm.registry import METRICS

try:
    import hotcoco
except ImportError:
    hotcoco = None

# CocoMetric's names of pycocotools' twelve figures, in their order.
PRECISIONS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')


def hides_matches(api: Any) -> bool:
    """Whether COCO's evaluation would take matches for none: by their ids, 0 or twice.

    Args:
        api: A ``COCO`` of pycocotools, which keeps one annotation of each id.
    """
    repeated = len(api.anns) < len(api.dataset.get('annotations', ()))
    return repeated or not api.anns.keys().isdisjoint((0, '0'))


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """``CocoMetric`` with the same results, to the bit, in less time.

    Of annotations whose id is 0 or repeats CocoMetric takes a match for none, or one
    annotation for another; here they get ids of their own, and count as all others. And
    where the ids of categories do not rise in the file, CocoMetric puts the AP of one
    class under the name of another; here it stands under its own.

    ``CocoMetric`` itself counts, in its own time, where hotcoco is not installed; where
    ``ann_file`` is not given or ``outfile_prefix`` asks for files; ``proposal_fast``;
    and what hotcoco refuses or would count otherwise: ids that are no integers from 0,
    boxes and scores that are not finite.

    Args: as MMDetection's ``CocoMetric``. ``use_mp_eval`` changes nothing here.

    Source: extends :class:`mmdet.evaluation.metrics.CocoMetric`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._coco_api is not None and hides_matches(self._coco_api):
            for i, annotation in enumerate(self._coco_api.dataset['annotations'], 1):
                annotation['id'] = i
            self._coco_api.createIndex()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute what ``CocoMetric`` computes from processed results."""
        files = self._coco_api is None or self.outfile_prefix is not None
        try:
            if hotcoco is None or files or 'proposal_fast' in self.metrics:
                raise ValueError('hotcoco is missing or not made for these arguments')
            return self._count([found for _, found in results])
        except (KeyError, ValueError) as reason:
            text = f'CocoMetric counts, which takes longer: {reason}'
            MMLogger.get_current_instance().info(text)
            return super().compute_metrics(results)

    def _count(self, found: Sequence[dict]) -> dict[str, float]:
        """Count every kind of detections.

        Args:
            found: What ``CocoMetric.process`` keeps of each image.

        Raises:
            ValueError: At what only pycocotools counts as pycocotools does.
        """
        api, values = self._coco_api, {}
        truth = hotcoco.COCO(api.dataset)
        images = [f['img_id'] for f in found]
        if not api.imgs.keys() >= {*images} == {*map(float, images)}:
            raise ValueError('ids of images are not in ann_file or above 2**53')
        self.cat_ids = api.get_cat_ids(self.dataset_meta['classes'])
        labels = np.concatenate([f['labels'] for f in found])
        rows = np.empty((len(labels), 7))  # image, x, y, width, height, score, category
        rows[:, 0] = np.repeat(images, [len(f['labels']) for f in found])
        rows[:, 1:5] = np.concatenate([f['bboxes'] for f in found])
        rows[:, 3:5] -= rows[:, 1:3]
        rows[:, 6] = np.array(self.cat_ids)[labels]
        for metric in self.metrics:
            masks = metric == 'segm'
            scores = 'mask_scores' if masks else 'scores'
            rows[:, 5] = np.concatenate([f.get(scores, f['scores']) for f in found])
            if not (len(rows) and np.isfinite(rows).all()):
                raise ValueError('there is no detection, or one that is not finite')
            codes = [code for f in found for code in f['masks']] if masks else None
            detections = truth.load_res(rows, segmentation=codes)
            if masks:  # small, medium and large by the mask, not by its box
                ids = np.arange(1, len(rows) + 1)
                detections.update_anns(ids=ids, area=hotcoco.mask.area(codes))
            values.update(self._values(metric, truth, detections))
        return values

    def _values(self, metric: str, truth: Any, detections: Any) -> dict[str, float]:
        """Evaluate one kind of detections; name and round as ``CocoMetric`` does."""
        run = COCOeval(self._coco_api, iouType='segm' if metric == 'segm' else 'bbox')
        counter = hotcoco.COCOeval(truth, detections, run.params.iouType)
        alike = metric == 'proposal'  # whatever the class
        for params in (run.params, counter.params):
            params.useCats = not alike
            params.catIds = self.cat_ids if alike else sorted(self.cat_ids)
            params.maxDets = sorted(self.proposal_nums)
            params.iouThrs = self.iou_thrs
            params.imgIds = self.img_ids or sorted(self._coco_api.imgs)
        counter.evaluate()
        counter.accumulate()
        run.eval = counter.eval
        run.summarize()  # the means are pycocotools' own
        stats = dict(zip(PRECISIONS + RECALLS, run.stats))
        items = self.metric_items
        if alike:
            items = RECALLS if items is None else items
            return {item: float(f'{stats[item]:.3f}') for item in items}
        values = self._class_values(run.eval['precision']) if self.classwise else {}
        for item in PRECISIONS if items is None else items:
            values[f'{metric}_{item}'] = float(f'{round(stats[item], 3)}')
        return values

    def _class_values(self, precision: np.ndarray) -> dict[str, float]:
        """Log ``CocoMetric``'s table of the classes; return their mAP.

        Args:
            precision: (IoU, recall, class, area, detections of an image).
        """
        values, lines = {}, [('category', *PRECISIONS)]
        categories = self._coco_api.loadCats(sorted(self.cat_ids))
        for index, category in enumerate(categories):
            areas = np.moveaxis(precision[:, :, index, :, -1], -1, 0)
            means = []
            for part in (areas[0], areas[0, 0], areas[0, 5], *areas[1:]):
                part = part[part > -1]
                means.append(round(part.mean() if part.size else float('nan'), 3))
            values[f'{category["name"]}_precision'] = means[0]
            lines.append((category['name'], *map(str, means)))
        MMLogger.get_current_instance().info('\n' + AsciiTable(lines).table)
        return values
