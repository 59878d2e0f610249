"""COCO evaluation: pycocotools against faster-coco-eval, as a validation waits for it.

    python benchmarks/evaluate.py [--short] [--out work_dirs/benchmarks]

Synthetic detections in the numbers of COCO's val set: 80 classes, 7.36 objects and up
to 100 detections an image, the same ones for both sides.

- ``CocoMetric``: MMDetection's, with pycocotools.
- ``FastCocoMetric``: ``ctkd_mm.FastCocoMetric``, with faster-coco-eval.

``compute_metrics`` is all that follows the last image: the detections are written as
JSON, read again and evaluated. ``evaluation`` is that last part alone, which is what
faster-coco-eval replaces. With 5,000 images 6 minutes; ``--short``, 500 images: 30 s.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from pycocotools.cocoeval import COCOeval
from timing import interleaved, median, parser, ratio, report

from ctkd_mm.evaluation.fast_coco_metric import FastCocoMetric, fast_coco_eval

IMAGES, SHORT = 5000, 500
WIDTH, HEIGHT = 640, 480
CLASSES = 80
OBJECTS = 36781 / 5000  # an image
MAX_PER_IMAGE = 100
PARTS = ('compute_metrics', 'evaluation')
SIDES = ('CocoMetric', 'FastCocoMetric')


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw corners, (count, 4), with sides of 8 to 400 pixels, more of the small."""
    sizes = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    starts = rng.random((count, 2)) * ((WIDTH, HEIGHT) - sizes)
    return np.concatenate([starts, starts + sizes], axis=1)


def scene(rng: np.random.Generator, image: int) -> tuple[list[dict], dict]:
    """Draw one image's annotations, and detections that fit four of five of them.

    Returns:
        Annotations in COCO's format, without ids; what ``CocoMetric.process`` keeps.
    """
    count = min(rng.poisson(OBJECTS), MAX_PER_IMAGE)
    truth, labels = boxes(rng, count), rng.integers(CLASSES, size=count)
    sizes = truth[:, 2:] - truth[:, :2]
    annotations = [
        dict(
            image_id=image,
            category_id=int(label),
            bbox=[*map(float, corner), *map(float, size)],
            area=float(0.6 * size.prod()),  # of a mask within the box
            iscrowd=int(rng.random() < 0.01),
        )
        for corner, size, label in zip(truth[:, :2], sizes, labels)
    ]
    seen = rng.random(count) < 0.8
    near = truth[seen] + rng.normal(0, 0.1, (seen.sum(), 1)) * np.tile(sizes[seen], 2)
    others = rng.integers(MAX_PER_IMAGE - count + 1)
    other_labels = rng.integers(CLASSES, size=others)
    scores = (rng.beta(4, 2, seen.sum()), rng.beta(1, 5, others))
    return annotations, dict(
        img_id=image,
        bboxes=np.concatenate([near, boxes(rng, others)]).astype(np.float32),
        labels=np.concatenate([labels[seen], other_labels]),
        scores=np.concatenate(scores).astype(np.float32),
    )


def write(images: int, path: Path) -> list[tuple[dict, dict]]:
    """Write the annotations of so many images; return what a metric evaluates."""
    rng = np.random.default_rng(0)
    scenes = [scene(rng, image) for image in range(images)]
    sizes = [dict(id=i, width=WIDTH, height=HEIGHT) for i in range(images)]
    annotations = [annotation for found, _ in scenes for annotation in found]
    content = dict(
        images=sizes,
        categories=[dict(id=i, name=f'class {i}') for i in range(CLASSES)],
        annotations=[dict(a, id=i) for i, a in enumerate(annotations, 1)],
    )
    path.write_text(json.dumps(content))
    return list(zip(sizes, [predictions for _, predictions in scenes]))


def evaluation(evaluator: type, truth: COCO, detections: COCO) -> dict[int, float]:
    """Evaluate as ``CocoMetric`` does; return COCO's twelve figures."""
    run = evaluator(truth, detections, 'bbox')
    run.params.maxDets = [100, 300, 1000]
    run.evaluate()
    run.accumulate()
    run.summarize()
    return dict(enumerate(run.stats))


def runs(images: int) -> dict[tuple[str, str], Callable[[], dict]]:
    """Make every part of every side, by both names; each returns its figures."""
    with tempfile.TemporaryDirectory() as folder:
        ann_file = Path(folder, 'annotations.json')
        results = write(images, ann_file)
        metrics = CocoMetric(str(ann_file)), FastCocoMetric(str(ann_file))
        truth = COCO(str(ann_file))
        for metric in metrics:
            metric.dataset_meta = dict(classes=[c['name'] for c in truth.cats.values()])
            metric.cat_ids = truth.get_cat_ids()
        files = metrics[0].results2json([p for _, p in results], f'{folder}/found')
        detections = truth.loadRes(files['bbox'])
    both = zip(SIDES, metrics, (COCOeval, fast_coco_eval()))
    found = {}
    for side, metric, evaluator in both:
        found[PARTS[0], side] = partial(metric.compute_metrics, results)
        found[PARTS[1], side] = partial(evaluation, evaluator, truth, detections)
    return found


def main() -> None:
    """Time both sides in turn, print the table, write ``evaluate.json``."""
    args = parser(__doc__).parse_args()
    images = SHORT if args.short else IMAGES
    found = {}

    def quiet(key: tuple[str, str], run: Callable[[], dict]) -> None:
        with redirect_stdout(io.StringIO()):
            found[key] = run()

    with redirect_stdout(io.StringIO()):
        all_runs = runs(images)
    sides = {key: partial(quiet, key, run) for key, run in all_runs.items()}
    seconds = interleaved(sides, repeats=3, warm_up=0)
    times = median(seconds)
    rows = []
    for part in PARTS:
        slow, fast = ((part, side) for side in SIDES)
        difference = max(
            abs(found[slow][key] - found[fast][key]) for key in found[slow]
        )
        row = {'part': part, **{f'{s}, s': f'{times[part, s]:.2f}' for s in SIDES}}
        row['ratio'] = f'{ratio(seconds, slow, fast):.1f}'
        rows.append({**row, 'largest difference': f'{difference:.0e}'})
    results = dict(
        images=images,
        mAP=found[PARTS[1], SIDES[0]][0],
        seconds=[[*key, *values] for key, values in seconds.items()],
    )
    report('evaluate', {f'{images} images': rows}, results, args.out)


if __name__ == '__main__':
    main()
