"""The fast evaluation is pycocotools' own, to the bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval

pytest.importorskip('hotcoco')

from ctkd_mm.evaluation import fast_coco_metric
from ctkd_mm.evaluation.fast_coco_metric import FastCocoMetric

WIDTH, HEIGHT = 200, 160
SIDES = [0, 8, 32, 40, 90, 96, 180]  # 32 and 96 divide small, medium and large


def random_box(rng):
    sides = rng.choice(SIDES) * (rng.uniform(0.5, 1, 2) if rng.random() < 0.7 else 1)
    box = [*(rng.random(2) * 100), *np.broadcast_to(sides, 2)]
    return np.round(box).tolist() if rng.random() < 0.3 else np.array(box).tolist()


def random_mask(rng, box, kinds):
    """A box as polygons, compressed or plain run-length code."""
    x, y, w, h = (int(v) for v in box)
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    pixels[y : y + h + 1, x : x + w + 1] = 1
    if rng.random() < 0.3:
        pixels[rng.random((HEIGHT, WIDTH)) < 0.3] = 0
    kind = rng.choice(kinds)
    if kind == 'polygon':
        polygon = [x, y, x + w + 1, y, x + w + 1, y + h + 1.5, x, y + h + 1]
        other = [x + 3.3, y + 2.2, x + w / 2, y + 1.0, x + 9.1, y + h / 3]
        return [polygon, other][: rng.integers(1, 3)]
    if kind == 'coded':
        code = rle.encode(pixels)
        return dict(code, counts=code['counts'].decode())
    line = np.concatenate([[0], pixels.flatten(order='F'), [2]])
    counts = np.diff(np.flatnonzero(np.diff(line, prepend=2)))
    counts[0] -= 1  # the zero in front
    return dict(size=[HEIGHT, WIDTH], counts=counts.tolist())


def random_set(rng, masks=True):
    """Annotations with all that COCO's rules treat apart, and detections.

    Crowds, ignored ones, ties in the scores, empty and outsized boxes, areas that are
    not the box's, images and classes without either, more than 100 of a class.

    Returns:
        COCO's dict; what a metric keeps of each image, labels being places in COCO's
        list of categories.
    """
    classes = int(rng.integers(1, 6))
    images = rng.integers(rng.choice([0, 2**31, 2**53 - 100]), 2**53 - 50, 9)
    images = np.unique(images)[: rng.integers(1, 9)].tolist()
    numbers = (rng.permutation(500) + 1).tolist()
    categories = rng.choice(90, classes, replace=False).tolist()
    if rng.random() < 0.5:
        categories.sort()
    crowded, digits = rng.choice([0, 0, 0, 130, 400]), rng.choice([1, 2, 17])
    annotations, results = [], []
    for image in rng.permutation(images).tolist():
        boxes, labels = [], []
        for _ in range(rng.choice([0, 1, 3, 7])):
            box, crowd = random_box(rng), int(rng.random() < 0.2)
            label = int(rng.integers(classes))
            kinds = ('coded', 'plain') if crowd else ('polygon', 'coded', 'plain')
            annotation = dict(
                id=numbers.pop(),
                image_id=image,
                category_id=categories[label],
                bbox=box,
                area=box[2] * box[3] * float(rng.choice([1, 0.5])),
                iscrowd=crowd,
                ignore=int(rng.random() < 0.1),
            )
            if masks:
                annotation['segmentation'] = random_mask(rng, box, kinds)
            annotations.append(annotation)
            for _ in range(rng.integers(4)):
                boxes.append(np.abs(box + rng.choice([0, 1, 5]) * rng.random(4)))
                labels.append(label if rng.random() < 0.9 else rng.integers(classes))
        others = rng.integers(4) + rng.integers(crowded + 1) if image % 3 else 0
        boxes += [random_box(rng) for _ in range(others)]
        labels += [rng.integers(classes) if i < 3 else 0 for i in range(others)]
        corners = np.array(boxes, np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        result = dict(img_id=image, bboxes=corners, labels=np.array(labels, int))
        result['scores'] = rng.random(len(boxes)).round(digits).astype(np.float32)
        if masks:
            result['masks'] = [random_mask(rng, box, ['coded']) for box in boxes]
            if rng.random() < 0.5:
                result['mask_scores'] = result['scores'] ** 2
        results.append(result)
    truth = dict(
        images=[dict(id=i, width=WIDTH, height=HEIGHT) for i in images],
        categories=[dict(id=i, name=f'class {i}') for i in categories],
        annotations=annotations,
    )
    return truth, results


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Evaluate by both metrics: a function that returns their values, checked equal."""
    summarize, slow_way = COCOeval.summarize, CocoMetric.compute_metrics

    def run(kind, truth, results, classes, options):
        arrays = []

        def record(self):
            summarize(self)
            arrays.append(dict(self.eval, stats=self.stats))

        monkeypatch.setattr(COCOeval, 'summarize', record)
        given = {key: value for key, value in options.items() if key != 'img_ids'}
        metric = kind(ann_file=truth and str(tmp_path / 'truth.json'), **given)
        metric.img_ids = options.get('img_ids')
        metric.dataset_meta = dict(classes=classes)
        results = [(dict(img_id=r['img_id']), r) for r in copy.deepcopy(results)]
        values = metric.compute_metrics(results)
        monkeypatch.setattr(COCOeval, 'summarize', summarize)
        return values, arrays

    def compare(truth, results, classes=None, fast=True, **options):
        (tmp_path / 'truth.json').write_text(json.dumps(truth))
        classes = classes or [c['name'] for c in truth['categories']]
        case = truth, results, classes, options
        slow, slow_arrays = run(CocoMetric, *case)
        ways = []

        def counted(self, results):
            ways.append('slow')
            return slow_way(self, results)

        monkeypatch.setattr(CocoMetric, 'compute_metrics', counted)
        quick, quick_arrays = run(FastCocoMetric, *case)
        monkeypatch.setattr(CocoMetric, 'compute_metrics', slow_way)
        assert ways == [] if fast else ways == ['slow']
        np.testing.assert_equal(quick, slow)  # keys, values, NaN
        assert list(quick) == list(slow)
        # COCOevalMP has a summary of its own.
        assert len(quick_arrays) == len(slow_arrays) or options.get('use_mp_eval')
        for left, right in zip(quick_arrays, slow_arrays):
            for name in ('precision', 'recall', 'scores', 'stats'):
                assert np.array_equal(left[name], right[name], equal_nan=True), name
        return slow

    return compare


def is_rising(truth):
    ids = [category['id'] for category in truth['categories']]
    return ids == sorted(ids)


NUMS = [(100, 300, 1000)] * 3 + [(1, 10, 100), (7, 300, 5), (100, 100, 100)]
THRESHOLDS = [None] * 3 + [np.array([0.3, 0.5, 0.75, 1]), np.array([0.6])]


@pytest.mark.parametrize('seed', range(200))
def test_any_set_is_counted_to_the_bit(both, seed):
    rng = np.random.default_rng(seed)
    masks = bool(rng.random() < 0.4)
    results = []
    while not sum(len(r['labels']) for r in results):  # nothing found has its own test
        truth, results = random_set(rng, masks)
    kinds = ['bbox', 'proposal'] + ['segm'] * masks
    metric = rng.permutation(kinds)[: rng.integers(1, len(kinds) + 1)].tolist()
    names = [c['name'] for c in truth['categories']]
    classes = [name for name in names if rng.random() < 0.8] or names
    places = [names.index(name) for name in classes]
    for result in results:  # a subset of the categories: other labels
        kept = np.isin(result['labels'], places)
        labels = [places.index(i) for i in result['labels'][kept]]
        result.update({k: result[k][kept] for k in ('bboxes', 'scores')}, labels=labels)
        result['labels'] = np.array(labels, int)
        if 'masks' in result:
            result['masks'] = [m for m, k in zip(result['masks'], kept) if k]
        if 'mask_scores' in result:
            result['mask_scores'] = result['mask_scores'][kept]
    found = any(len(result['labels']) for result in results)
    thresholds = THRESHOLDS[rng.integers(len(THRESHOLDS))]
    both(
        truth,
        results,
        classes,
        found,
        metric=metric,
        proposal_nums=NUMS[rng.integers(len(NUMS))],
        iou_thrs=thresholds,
        # Elsewhere CocoMetric confuses the classes' names.
        classwise=thresholds is None and is_rising(truth) and bool(rng.random() < 0.9),
        metric_items=['AR@1000', 'mAP_75'] if rng.random() < 0.2 else None,
    )


@pytest.fixture(scope='module')
def usual():
    """A set with detections of every kind."""
    truth, results = random_set(np.random.default_rng(13))
    assert is_rising(truth) and len(truth['categories']) > 3
    return truth, results


@pytest.fixture
def log(monkeypatch):
    """What is logged from here on."""
    lines = []
    logger = SimpleNamespace(info=lines.append)
    monkeypatch.setattr(MMLogger, 'get_current_instance', lambda: logger)
    return lines


def test_the_values_and_the_table_of_classes(both, usual, log):
    values = both(*usual, metric=['bbox', 'segm', 'proposal'], classwise=True)
    tables = [line for line in log if line.startswith('\n+')]
    assert tables[:2] == tables[2:]
    assert len(tables) == 4
    assert all(-1 <= value <= 1 or np.isnan(value) for value in values.values())
    for name in ('bbox_mAP', 'bbox_mAP_s', 'segm_mAP', 'AR@100'):
        assert 0 < values[name] < 1


def test_a_class_keeps_its_name_whatever_the_order_in_the_file(tmp_path):
    box = dict(id=1, image_id=1, category_id=2, bbox=[8, 8, 40, 40], area=1600)
    truth = dict(
        images=[dict(id=1, width=WIDTH, height=HEIGHT)],
        categories=[dict(id=2, name='found'), dict(id=1, name='lost')],
        annotations=[
            dict(box, iscrowd=0),
            dict(box, id=2, category_id=1, bbox=[90, 90, 40, 40], iscrowd=0),
        ],
    )
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(truth))
    metric = FastCocoMetric(ann_file=str(path), classwise=True)
    metric.dataset_meta = dict(classes=('found', 'lost'))
    corners, scores = np.array([[8, 8, 48, 48]]), np.array([0.9])
    found = dict(img_id=1, bboxes=corners, labels=np.array([0]), scores=scores)
    values = metric.compute_metrics([(dict(img_id=1), found)])
    assert values['found_precision'] == 1
    assert values['lost_precision'] == 0


def test_a_file_without_annotations_is_read(tmp_path):
    path = tmp_path / 'test-dev.json'
    path.write_text(json.dumps(dict(images=[dict(id=1)], categories=[dict(id=1)])))
    metric = FastCocoMetric(
        ann_file=str(path), format_only=True, outfile_prefix=str(tmp_path / 'out')
    )
    assert metric.format_only


def test_no_annotation_at_all_gives_minus_one(both, usual):
    truth, results = usual
    assert both(dict(truth, annotations=[]), results)['bbox_mAP'] == -1


def renumber(truth, results, section, change):
    """Replace the ids of a section, also where they are referred to."""
    key = dict(images='image_id', categories='category_id').get(section)
    for item in truth[section]:
        item['id'] = change(item['id'])
    for annotation in truth['annotations'] if key else ():
        annotation[key] = change(annotation[key])
    for result in results if section == 'images' else ():
        result['img_id'] = change(result['img_id'])


@pytest.mark.parametrize(
    ('section', 'change', 'fast'),
    [
        ('annotations', lambda i: i + 2**60, True),
        ('annotations', lambda i: -i, False),
        ('annotations', lambda i: i + 0.5, False),
        ('annotations', str, False),
        ('images', lambda i: -i, False),
        ('images', lambda i: i + 0.5 if i < 2**50 else -i, False),
        ('images', lambda i: i + 2**60, False),
        ('images', str, False),
        ('categories', lambda i: i + 2**40, True),
        ('categories', lambda i: -i - 1, False),
        ('categories', lambda i: i + 0.5, False),
    ],
)
@pytest.mark.parametrize('metric', ['bbox', 'segm', 'proposal'])
def test_ids_of_every_kind(both, usual, section, change, fast, metric):
    truth, results = copy.deepcopy(usual)
    renumber(truth, results, section, change)
    both(truth, results, fast=fast, metric=metric)


@pytest.mark.parametrize('change', [lambda i: i - 1, lambda i: i % 3])
@pytest.mark.parametrize('with_hotcoco', [True, False])
def test_no_annotation_hides_behind_its_id(
    tmp_path, monkeypatch, usual, change, with_hotcoco
):
    truth, results = copy.deepcopy(usual)
    if not with_hotcoco:
        monkeypatch.setattr(fast_coco_metric, 'hotcoco', None)
    for i, annotation in enumerate(truth['annotations'], 1):
        annotation['id'] = i
    values = []
    for kind in (CocoMetric, FastCocoMetric):
        path = tmp_path / f'{kind.__name__}.json'
        path.write_text(json.dumps(truth))
        metric = kind(ann_file=str(path), metric=['bbox', 'segm'])
        metric.dataset_meta = dict(classes=[c['name'] for c in truth['categories']])
        found = [(dict(img_id=r['img_id']), r) for r in copy.deepcopy(results)]
        values.append(metric.compute_metrics(found))
        renumber(truth, [], 'annotations', change)
    assert values[0] == values[1]


@pytest.mark.parametrize('number', [np.nan, np.inf])
@pytest.mark.parametrize(
    ('key', 'metric'), [('bboxes', 'bbox'), ('scores', 'bbox'), ('mask_scores', 'segm')]
)
def test_what_is_not_finite_is_left_to_pycocotools(both, usual, key, metric, number):
    truth, results = copy.deepcopy(usual)
    for result in results:
        result.setdefault('mask_scores', result['scores'].copy())
        result[key][:1] = number
    both(truth, results, fast=False, metric=metric)


def test_masks_of_another_size_than_their_image(both, usual):
    truth, results = copy.deepcopy(usual)
    small = rle.encode(np.ones((9, 9), np.uint8, order='F'))
    for result in results:
        result['masks'][:1] = [small] * len(result['masks'][:1])
    both(truth, results, metric='segm')


def test_without_any_detection_both_report_nothing(both, usual):
    truth, results = usual
    none = dict(bboxes=np.zeros((0, 4)), scores=np.zeros(0), labels=np.zeros(0, int))
    results = [dict(none, img_id=result['img_id']) for result in results]
    assert both(truth, results, fast=False) == {}


def test_only_the_images_that_are_asked_for_count(both, usual):
    truth, results = usual
    images = [result['img_id'] for result in results][::2]
    some = [result for result in results if result['img_id'] in images]
    assert both(truth, some, img_ids=images) != both(truth, some)


def test_several_processes_change_nothing(both, usual):
    both(*usual, use_mp_eval=True)


def test_the_files_for_a_test_server_are_the_same(both, usual, tmp_path):
    files = {}
    for kind in ('format_only', 'outfile_prefix'):
        prefix = str(tmp_path / kind)
        options = dict(format_only=kind == 'format_only', outfile_prefix=prefix)
        both(*usual, fast=False, **options)
        files[kind] = [Path(f'{prefix}.{k}.json').read_text() for k in ('bbox', 'segm')]
    assert files['format_only'] == files['outfile_prefix']


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
    for _ in range(2):  # pycocotools first, then hotcoco
        assert metric.compute_metrics([(gt, prediction)])['bbox_mAP'] == 0.5


@pytest.mark.parametrize(
    ('change', 'options', 'error', 'words'),
    [
        ({}, dict(metric_items=['mAP_5']), KeyError, '"mAP_5" is not supported'),
        (dict(masks=None), dict(metric='segm'), KeyError, 'segm is not in results'),
        (dict(img_id=1), {}, AssertionError, 'not correspond to current coco set'),
        (dict(labels=np.array([9])), {}, IndexError, 'out of'),
    ],
)
def test_what_is_wrong_is_said_by_cocometric(tmp_path, change, options, error, words):
    path = tmp_path / 'truth.json'
    box = dict(id=1, image_id=0, category_id=5, bbox=[9, 9, 20, 20], area=9, iscrowd=0)
    sizes = dict(id=0, width=WIDTH, height=HEIGHT)
    categories = [dict(id=5, name='a')]
    content = dict(images=[sizes], categories=categories, annotations=[box])
    path.write_text(json.dumps(content))
    code = rle.encode(np.ones((HEIGHT, WIDTH), np.uint8, order='F'))
    found = dict(img_id=0, bboxes=np.ones((1, 4)), scores=np.ones(1), masks=[code])
    found = {**found, 'labels': np.zeros(1, int), **change}
    found = {key: value for key, value in found.items() if value is not None}
    metric = FastCocoMetric(str(path), **options)
    metric.dataset_meta = dict(classes=['a'])
    with pytest.raises(error, match=words):
        metric.compute_metrics([({}, found)])


def test_without_hotcoco_cocometric_counts_and_the_log_says_so(
    both, usual, monkeypatch, log
):
    monkeypatch.setattr(fast_coco_metric, 'hotcoco', None)
    assert 0 < both(*usual, fast=False)['bbox_mAP'] < 1
    assert sum('CocoMetric counts, which takes longer: hotcoco' in i for i in log) == 1


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
