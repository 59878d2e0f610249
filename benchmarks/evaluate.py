"""COCO evaluation: pycocotools against hotcoco, as a validation waits for it.

    python benchmarks/evaluate.py [--short] [--out work_dirs/benchmarks]

Synthetic detections in the numbers of COCO's val set: 80 classes, 7.36 objects and up
to 100 detections an image, ellipses of 16 corners as masks, the same for both sides.

- ``CocoMetric``: MMDetection's, with pycocotools.
- ``FastCocoMetric``: ``ctkd_mm.FastCocoMetric``, with hotcoco.

The time is that of ``compute_metrics``, all that follows the last image in one process.
With several, rank 0 first collects what the others found, and these wait for both:
``collected`` is the time of rank 0 for it, pickled as MMEngine does. ``peak`` is the
memory above that of the data. With 5,000 images 15 minutes;
``--short``, 500 images: 1.
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import pickle
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
from mmdet.evaluation import CocoMetric
from pycocotools import mask
from timing import interleaved, median, parser, ratio, report, resident

from ctkd_mm.evaluation.fast_coco_metric import FastCocoMetric

IMAGES, SHORT = 5000, 500
WIDTH, HEIGHT = 640, 480
CLASSES = 80
OBJECTS = 36781 / 5000  # an image
MAX_PER_IMAGE = 100
PARTS = dict(boxes='bbox', masks='segm')
SIDES = (CocoMetric, FastCocoMetric)


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw corners, (count, 4), with sides of 8 to 400 pixels, more of the small."""
    sizes = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    starts = rng.random((count, 2)) * ((WIDTH, HEIGHT) - sizes)
    return np.concatenate([starts, starts + sizes], axis=1)


def outlines(found: np.ndarray) -> list[list[float]]:
    """Make an ellipse of each box, (count, 4), as COCO's polygons: x, y, x, y..."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
    corners, sizes = found[:, None, :2], found[:, None, 2:] - found[:, None, :2]
    return (corners + circle * sizes).reshape(-1, 32).tolist()


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
            segmentation=[outline],
        )
        for corner, size, label, outline in zip(
            truth[:, :2], sizes, labels, outlines(truth)
        )
    ]
    seen = rng.random(count) < 0.8
    near = truth[seen] + rng.normal(0, 0.1, (seen.sum(), 1)) * np.tile(sizes[seen], 2)
    others = rng.integers(MAX_PER_IMAGE - count + 1)
    other_labels = rng.integers(CLASSES, size=others)
    scores = (rng.beta(4, 2, seen.sum()), rng.beta(1, 5, others))
    found = np.concatenate([near, boxes(rng, others)])
    return annotations, dict(
        img_id=image,
        bboxes=found.astype(np.float32),
        masks=mask.frPyObjects(outlines(found), HEIGHT, WIDTH) if len(found) else [],
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


def runs(images: int) -> dict[tuple[str, str], Callable[[], dict]]:
    """Make every part of every side, by both names; each returns its figures."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        ann_file = Path(folder, 'annotations.json')
        results = write(images, ann_file)
        bare = [(gt, {k: v for k, v in p.items() if k != 'masks'}) for gt, p in results]
        classes = [f'class {i}' for i in range(CLASSES)]
        for part, kind in PARTS.items():
            for side in SIDES:
                metric = side(str(ann_file), metric=kind)
                metric.dataset_meta = dict(classes=classes)
                data = results if part == 'masks' else bare
                run = partial(metric.compute_metrics, data)
                found[part, side.__name__] = run
            found[part, 'collected'] = partial(collect, data)
    return found


def collect(results: list) -> dict:
    """Store and load results, as MMEngine does between processes."""
    with tempfile.TemporaryFile() as file:
        pickle.dump(results, file)
        file.seek(0)
        pickle.load(file)
    return {}


def peak(run: Callable[[], object]) -> float:
    """Return the MiB that a run takes at most above what is there; Linux with glibc."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else a run takes what another one has left
    Path('/proc/self/clear_refs').write_text('5')  # VmHWM starts anew
    before = resident('VmRSS')
    run()
    return resident('VmHWM') - before


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
    peaks = {key: peak(run) for key, run in sides.items()}
    seconds = interleaved(sides, repeats=3, warm_up=0)
    times = median(seconds)
    rows = []
    for part in PARTS:
        slow, fast = ((part, side.__name__) for side in SIDES)
        row = {'part': part}
        for side in (slow, fast):
            row[f'{side[1]}, s'] = f'{times[side]:.2f}'
            row[f'{side[1]}, peak MiB'] = f'{peaks[side]:.0f}'
        row['ratio'] = f'{ratio(seconds, slow, fast):.1f}'
        row['collected, s'] = f'{times[part, "collected"]:.2f}'
        row['equal'] = 'yes' if found[slow] == found[fast] else 'no'
        rows.append(row)
    results = dict(
        images=images,
        mAP=found['boxes', 'CocoMetric']['bbox_mAP'],
        seconds=[[*key, *values] for key, values in seconds.items()],
    )
    report('evaluate', {f'{images} images': rows}, results, args.out)


if __name__ == '__main__':
    main()
