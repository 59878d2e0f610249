"""The fast evaluation is pycocotools' own, to the last digit."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmdet.evaluation import CocoMetric
from mmengine.runner import Runner
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

pytest.importorskip('faster_coco_eval')

from ctkd_mm.evaluation.fast_coco_metric import FastCocoMetric, fast_coco_eval

CLASSES = 6  # of which 0 is in no annotation and 5 in no detection
WIDTH, HEIGHT = 200, 160


def random_box(rng):
    width, height = rng.choice([0, 8, 40, 90, 180]) * rng.uniform(0.5, 1, 2)
    return [*(rng.random(2) * 100).tolist(), float(width), float(height)]


def random_mask(rng, box, kinds):
    """A box as polygon, compressed or plain run-length code."""
    x, y, w, h = (int(v) for v in box)
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    pixels[y : y + h + 1, x : x + w + 1] = 1
    kind = rng.choice(kinds)
    if kind == 'polygon':
        return [[x, y, x + w + 1, y, x + w + 1, y + h + 1.5, x, y + h + 1]]
    if kind == 'coded':
        code = rle.encode(pixels)
        return dict(code, counts=code['counts'].decode())
    line = np.concatenate([[0], pixels.flatten(order='F'), [2]])
    counts = np.diff(np.flatnonzero(np.diff(line, prepend=2)))
    counts[0] -= 1  # the zero in front
    return dict(size=[HEIGHT, WIDTH], counts=counts.tolist())


def awkward(seed, crowded=0, masks=False):
    """Annotations and detections with all that COCO's rules treat apart.

    Ties in the scores, crowds, empty and outsized boxes, areas that are not the box's,
    images and classes without either; ``crowded``: so many more in one class.
    """
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(10):
        for _ in range(rng.integers(7) if image % 4 else 0):
            box, crowd = random_box(rng), int(rng.random() < 0.2)
            annotation = dict(id=len(annotations) + 1, image_id=image, bbox=box)
            annotation.update(category_id=int(rng.integers(1, CLASSES)), iscrowd=crowd)
            annotation['area'] = box[2] * box[3] * float(rng.choice([1, 0.5]))
            kinds = ('coded', 'plain') if crowd else ('polygon', 'coded', 'plain')
            annotation['segmentation'] = random_mask(rng, box, kinds)
            annotations.append(annotation)
            for _ in range(rng.integers(4)):
                near = np.add(box, rng.choice([0, 1, 5]) * rng.random(4)).tolist()
                label = min(annotation['category_id'], CLASSES - 2)
                detections.append((image, near, label))
        others = [(image, random_box(rng), int(rng.integers(CLASSES - 1)))] * 2
        others += [
            (image, random_box(rng), 1) for _ in range(rng.integers(crowded + 1))
        ]
        detections += others if image % 3 else []
    found = [
        dict(image_id=image, bbox=box, category_id=label, score=float(score))
        for (image, box, label), score in zip(
            detections, rng.random(len(detections)).round(1)
        )
    ]
    for detection in found if masks else ():
        detection['segmentation'] = random_mask(rng, detection.pop('bbox'), ['coded'])
    truth = dict(
        images=[dict(id=i, width=WIDTH, height=HEIGHT) for i in range(10)],
        categories=[dict(id=i, name=f'class {i}') for i in range(CLASSES)],
        annotations=annotations,
    )
    return truth, found


def coco(dataset):
    api = COCO()
    api.dataset = copy.deepcopy(dataset)
    api.createIndex()
    return api


def evaluate(evaluator, truth, found, iou_type='bbox', **params):
    api = coco(truth)
    run = evaluator(api, api.loadRes(copy.deepcopy(found)), iou_type)
    params = dict(maxDets=[100, 300, 1000], **params)
    for name, value in params.items():
        setattr(run.params, name, value)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run


def assert_equal(truth, found, *args, **params):
    slow = evaluate(COCOeval, truth, found, *args, **params)
    fast = evaluate(fast_coco_eval(), truth, found, *args, **params)
    np.testing.assert_allclose(fast.stats, slow.stats, rtol=0, atol=1e-12)
    for name in ('precision', 'recall', 'scores'):
        assert fast.eval[name].shape == slow.eval[name].shape
        np.testing.assert_allclose(fast.eval[name], slow.eval[name], rtol=0, atol=1e-12)
    return slow


@pytest.mark.parametrize('seed', range(5))
def test_boxes_are_judged_as_pycocotools_judges_them(seed):
    slow = assert_equal(*awkward(seed))
    assert 0 < slow.stats[0] < 1
    assert (slow.eval['precision'][:, :, 0] == -1).all()  # no annotation: no AP
    assert slow.eval['recall'][:, 5].max() == 0  # no detection: AP 0


@pytest.mark.parametrize('seed', range(2))
def test_map_counts_a_hundred_detections_a_class_and_recall_a_thousand(seed):
    slow = assert_equal(*awkward(seed, crowded=400))
    precision = slow.eval['precision']
    assert (precision[..., 0] != precision[..., 2]).any()


@pytest.mark.parametrize('seed', range(3))
def test_masks_are_judged_alike_in_any_coding(seed):
    assert 0 < assert_equal(*awkward(seed, masks=True), 'segm').stats[0] < 1


@pytest.mark.parametrize('crowded', [0, 400])
def test_proposals_are_judged_alike(crowded):
    assert_equal(*awkward(0, crowded), useCats=0)


def test_own_thresholds_images_and_classes_are_taken():
    thresholds = np.array([0.3, 0.5, 0.75])
    assert_equal(*awkward(0), iouThrs=thresholds, imgIds=[7, 5, 2], catIds=[3, 1])


def test_an_annotation_with_id_0_is_lost_in_both():
    truth, found = awkward(0)
    for annotation in truth['annotations']:
        annotation['id'] -= 1
    assert_equal(truth, found)


def test_no_annotation_at_all_gives_minus_one_in_both():
    truth, found = awkward(0)
    slow = assert_equal(dict(truth, annotations=[]), found)
    assert (slow.stats == -1).all()


@pytest.mark.parametrize(
    ('name', 'number'),
    [('annotations', 7.5), ('annotations', -3), ('images', 2**60)],
)
def test_ids_that_would_be_mistaken_are_left_to_pycocotools(name, number):
    truth, found = awkward(0)
    truth[name][2]['id'] = number
    for annotation in truth['annotations']:
        annotation['image_id'] = truth['images'][1]['id']
    assert_equal(truth, found[-1:])


@pytest.fixture
def metrics(tmp_path):
    """Both metrics' results on the same set: a function of their arguments."""
    truth, found = awkward(3)
    _, coded = awkward(3, masks=True)
    ann_file = tmp_path / 'truth.json'
    ann_file.write_text(json.dumps(truth))
    results = []
    for image in truth['images']:
        mine = [i for i, d in enumerate(found) if d['image_id'] == image['id']]
        boxes = np.array([found[i]['bbox'] for i in mine], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        prediction = dict(
            img_id=image['id'],
            bboxes=boxes,
            scores=np.array([found[i]['score'] for i in mine]),
            labels=np.array([found[i]['category_id'] for i in mine], int),
            masks=[coded[i]['segmentation'] for i in mine],
        )
        results.append((dict(image, img_id=image['id']), prediction))

    def run(results=results, **options):
        found = []
        for metric in (CocoMetric, FastCocoMetric):
            metric = metric(str(ann_file), **options)
            metric.dataset_meta = dict(classes=[c['name'] for c in truth['categories']])
            found.append(metric.compute_metrics(results))
        return found, results

    return run


@pytest.mark.parametrize(
    'options',
    [
        dict(classwise=True),
        dict(metric=['bbox', 'segm', 'proposal'], classwise=True),
        dict(metric=['proposal', 'bbox'], proposal_nums=(1, 10, 100)),
        dict(
            iou_thrs=np.array([0.4, 0.5, 0.75]),
            metric_items=['mAP', 'mAP_75', 'AR@1000'],
        ),
        dict(use_mp_eval=True),
    ],
)
def test_the_metric_reports_what_cocometric_reports(metrics, options):
    (slow, fast), _ = metrics(**options)
    assert fast.keys() == slow.keys()
    np.testing.assert_array_equal([*fast.values()], [*slow.values()])
    assert any(0 < value < 1 for value in fast.values())


def test_without_any_detection_both_report_nothing(metrics):
    _, results = metrics()
    empty = dict(bboxes=np.zeros((0, 4)), scores=np.zeros(0), labels=np.zeros(0, int))
    results = [(gt, dict(img_id=gt['img_id'], **empty)) for gt, _ in results]
    assert metrics(results)[0] == [{}, {}]


def test_the_files_for_a_test_server_are_the_same(metrics, tmp_path):
    _, results = metrics()
    files = []
    for metric in (CocoMetric, FastCocoMetric):
        prefix = tmp_path / metric.__name__
        metric = metric(
            str(tmp_path / 'truth.json'), format_only=True, outfile_prefix=str(prefix)
        )
        metric.dataset_meta = dict(classes=[f'class {i}' for i in range(CLASSES)])
        assert metric.compute_metrics(results) == {}
        files.append([Path(f'{prefix}.{k}.json').read_text() for k in ('bbox', 'segm')])
    assert files[0] == files[1]


def test_annotations_from_the_dataset_do_for_a_file():
    instances = [dict(bbox=[10, 10, 60, 50], bbox_label=1, ignore_flag=0)]
    gt = dict(img_id=1, width=WIDTH, height=HEIGHT, anns=instances)
    prediction = dict(
        img_id=1,
        bboxes=np.array([[10, 10, 60, 50], [0, 0, 9, 9]], float),
        scores=np.array([0.4, 0.9]),
        labels=np.array([1, 1]),
    )
    metric = FastCocoMetric()
    metric.dataset_meta = dict(classes=('a', 'b'))
    assert metric.compute_metrics([(gt, prediction)])['bbox_mAP'] == 0.5


def test_mmdetection_keeps_its_own_evaluator(metrics):
    from mmdet.evaluation.metrics import coco_metric

    metrics()
    assert coco_metric.COCOeval is COCOeval
    # What the fast metric substitutes is what that code asks for.
    names = CocoMetric.compute_metrics.__code__.co_names
    assert {'COCOeval', 'COCOevalMP'} <= set(names)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'faster_coco_eval', None)
    with pytest.raises(ImportError, match='faster_coco_eval'):
        FastCocoMetric()


@pytest.mark.start
def test_the_demo_is_evaluated_alike_by_its_config_type(demo_cfg, teacher_ckpt):
    values = []
    for type_ in ('CocoMetric', 'ctkd_mm.FastCocoMetric'):
        cfg = copy.deepcopy(demo_cfg)
        cfg.merge_from_dict({'test_evaluator.type': type_})
        cfg.work_dir = str(Path(cfg.work_dir) / type_)
        values.append(Runner.from_cfg(cfg).test())
    assert values[0] == values[1]
    assert 'coco/bbox_mAP' in values[1]
