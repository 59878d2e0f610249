from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers.two_stage_detectors import narrow_two_stage
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.evaluator import MultiDatasetsEvaluator
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS
from PIL import Image

from ctkd_mm.checks import data
from ctkd_mm.checks.data import (
    id_faults,
    label_faults,
    wrong_annotations,
    wrong_map,
    wrong_samples,
)
from ctkd_mm.evaluation import FastCocoMetric

DIGITS = tuple('0123456789')


@pytest.fixture
def coco(digits, tmp_path):
    """Build the training set with its annotations changed, and other arguments."""

    def build(change=None, **kwargs) -> CocoDataset:
        content = json.loads((digits / 'annotations/train.json').read_text())
        if change is not None:
            change(content)
        path = tmp_path / 'train.json'
        path.write_text(json.dumps(content))
        kwargs = {'metainfo': dict(classes=DIGITS), **kwargs}
        images = dict(img=str(digits / 'train'))
        return CocoDataset(ann_file=str(path), data_prefix=images, **kwargs)

    return build


def faults(dataset: CocoDataset) -> list[str]:
    return list(label_faults('key', dataset))


def test_the_labels_of_a_sound_set_pass(coco):
    assert faults(coco()) == []
    assert faults(coco(metainfo=dict(classes=DIGITS[:9]))) == []


def test_a_class_that_the_file_lacks_is_told_with_the_nearest(coco):
    (line,) = faults(coco(metainfo=dict(classes=('zero 0', *DIGITS[1:]))))
    assert line.startswith("key.metainfo.classes has 'zero 0', ")
    assert "All later labels would shift. Its names: '0', '1', '2' and 7 more" in line
    (line,) = faults(
        coco(lambda content: content['categories'][7].update(name='7 seven'))
    )
    assert "has '7', " in line


def test_another_order_is_told_with_both_names(coco):
    line, *_ = faults(coco(lambda content: content['categories'].reverse()))
    assert "has '0' where " in line and "has '9': write the names in the order" in line


def test_forgotten_metainfo_is_told_with_the_names_to_paste(coco):
    dataset = coco(metainfo=None, filter_cfg=None)
    (line,) = faults(dataset)
    assert line.startswith('key.metainfo is not set, so its classes are not those of')
    assert f'Write metainfo=dict(classes={DIGITS!r}) in each data set' in line
    assert 'num_classes=10 in every box head' in line


def repeat(kind, field):
    def change(content) -> None:
        content[kind][1][field] = content[kind][0][field]

    return change


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (lambda content: None, []),
        (repeat('images', 'id'), ['"id" repeats in "images": 0.']),
        (repeat('annotations', 'id'), ['"id" repeats in "annotations": ']),
        (repeat('categories', 'id'), ['"id" repeats in "categories": 1.']),
        (repeat('categories', 'name'), ['"name" repeats in "categories": \'0\'.']),
        (
            lambda content: content['annotations'][0].update(image_id=777),
            ['1 annotations have a image_id that is not in "images", 777 for'],
        ),
        (
            lambda content: content['annotations'][0].update(category_id=777),
            ['1 annotations have a category_id that is not in "categories", 777 for'],
        ),
        (lambda content: content.pop('annotations'), []),  # as of COCO's test images
    ],
    ids='sound image object category name no_image no_category no_objects'.split(),
)
def test_entries_that_hide_each_other_or_belong_nowhere_are_told(
    digits, tmp_path, change, told
):
    content = json.loads((digits / 'annotations/train.json').read_text())
    change(content)
    path = tmp_path / 'train.json'
    path.write_text(json.dumps(content))
    lines = list(id_faults(json.loads(path.read_text())))
    assert [line[: len(start)] for line, start in zip(lines, told)] == told
    assert bool(lines) == bool(told)


def test_other_formats_and_wrappers_pass_and_a_coco_set_does_not(coco):
    def told(dataset) -> list[str]:
        loader = SimpleNamespace(dataset=dataset)
        return list(
            wrong_annotations(SimpleNamespace(train_dataloader=loader, val_loop=None))
        )

    wrong = coco(lambda content: content['categories'].reverse())
    line, *_ = told(RepeatDataset(wrong, 2))
    assert line.startswith('train_dataloader.dataset.dataset.metainfo.classes has')
    assert told([1, 2, 3]) == []


@pytest.mark.parametrize(
    ('file', 'indices', 'told'),
    [
        ('train.json', None, None),
        ('val.json', None, '4 images, val_dataloader.dataset 16, 4 of'),
        ('train.json', 5, '16 images, val_dataloader.dataset 5, 5 of'),
    ],
    ids=['same', 'other', 'part'],
)
def test_an_evaluator_of_other_images_is_told_with_both_numbers(
    digits, coco, file, indices, told
):
    dataset = coco(test_mode=True, indices=indices)
    metric = CocoMetric(ann_file=f'{digits}/annotations/{file}')
    loop = SimpleNamespace(
        dataloader=SimpleNamespace(dataset=dataset), evaluator=Evaluator(metric)
    )
    runner = SimpleNamespace(val_loop=loop, test_loop=None)
    lines = list(wrong_map(runner))
    assert list(wrong_map(runner, 'test')) == []
    if told is None:
        assert lines == []
        return
    (line,) = lines
    assert line.startswith(f'val_evaluator.ann_file has {told}')
    metric.format_only = True  # counts nothing
    assert list(wrong_map(runner)) == []


ONE_BOX = dict(image_id=1, category_id=1, bbox=[9, 9, 20, 20], area=400, iscrowd=0)


@pytest.mark.parametrize('metric', [CocoMetric, FastCocoMetric])
@pytest.mark.parametrize(
    ('ids', 'right'),
    [
        ([1, 2], True),
        ([-1, 7.5], True),
        (['1', '2'], True),
        ([0, 1], False),
        ([0.0, 1], False),
        (['0', '1'], False),
        ([3, 3], False),
    ],
    ids=str,
)
def test_ids_are_refused_exactly_where_perfect_boxes_score_less(
    tmp_path, metric, ids, right
):
    boxes = [[9, 9, 20, 20], [50, 50, 20, 30]]
    annotations = [dict(ONE_BOX, id=i, bbox=box) for i, box in zip(ids, boxes)]
    image = dict(id=1, file_name='a.png', width=99, height=99)
    content = dict(images=[image], categories=[dict(id=1, name='a')])
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(dict(content, annotations=annotations)))
    metric = metric(ann_file=str(path))
    right = right or isinstance(metric, FastCocoMetric)
    loop = SimpleNamespace(
        dataloader=SimpleNamespace(dataset=[]), evaluator=Evaluator(metric)
    )
    lines = list(wrong_map(SimpleNamespace(val_loop=loop)))
    assert len(lines) == (not right)
    assert all('"annotations" repeats or is 0' in line for line in lines)
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float()
    found = dict(bboxes=corners, scores=torch.ones(2), labels=torch.zeros(2).int())
    metric.dataset_meta = dict(classes=['a'])
    metric.process({}, [dict(img_id=1, ori_shape=(99, 99), pred_instances=found)])
    assert (metric.evaluate(1)['coco/bbox_mAP'] == 1) == right


@pytest.mark.parametrize('metric', [CocoMetric, FastCocoMetric])
@pytest.mark.parametrize(
    ('in_file', 'right'), [('ab', True), ('ba', False), ('cab', True), ('cba', False)]
)
def test_another_order_is_refused_exactly_where_perfect_boxes_score_nothing(
    tmp_path, metric, in_file, right
):
    numbers = {'a': 1, 'b': 2, 'c': 3}
    content = dict(
        images=[dict(id=1, file_name='a.png', width=99, height=99)],
        categories=[dict(id=numbers[name], name=name) for name in in_file],
        annotations=[dict(ONE_BOX, id=1, category_id=numbers['a'])],
    )
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(content))
    metric = metric(ann_file=str(path))
    # The stuff of a panoptic set comes last, and is not in the file of its objects.
    metric.dataset_meta = dict(classes=('a', 'b', 'stuff'))
    loop = SimpleNamespace(
        dataloader=SimpleNamespace(dataset=[]), evaluator=Evaluator(metric)
    )
    lines = list(wrong_map(SimpleNamespace(test_loop=loop), 'test'))
    assert len(lines) == (not right)
    assert all('in the order b, a, test_dataloader' in line for line in lines)
    found = dict(
        bboxes=torch.tensor([[9.0, 9, 29, 29]]),
        scores=torch.ones(1),
        labels=torch.zeros(1).int(),
    )
    metric.process({}, [dict(img_id=1, ori_shape=(99, 99), pred_instances=found)])
    assert (metric.evaluate(1)['coco/bbox_mAP'] == 1) == right


def test_each_metric_of_several_sets_is_compared_with_its_own(digits, coco):
    train = coco(test_mode=True)
    files = [f'{digits}/annotations/{split}.json' for split in ('train', 'val')]
    metrics = [CocoMetric(ann_file=file) for file in files]
    loop = SimpleNamespace(
        dataloader=SimpleNamespace(dataset=ConcatDataset([train, train])),
        evaluator=MultiDatasetsEvaluator(metrics, ['a', 'b']),
    )
    (line,) = wrong_map(SimpleNamespace(val_loop=loop))
    assert line.startswith('val_evaluator.ann_file has 4 images')


@pytest.fixture
def samples(digits, tmp_path):
    """What is told of the training set, with an image, loader or model changed."""
    shutil.copytree(digits / 'train', tmp_path / 'images')
    content = json.loads((digits / 'annotations/train.json').read_text())

    def told(change=lambda image, path: None, model=None, **loader) -> list[str]:
        path = tmp_path / 'images' / content['images'][3]['file_name']
        change(Image.open(path), path)
        load = {k: loader.pop(k) for k in ('color_type',) if k in loader}
        pipeline = [
            dict(type='LoadImageFromFile', **load),
            dict(type='LoadAnnotations', with_bbox=True, **loader),
            dict(type='Resize', scale=(32, 32)),
        ]
        dataset = CocoDataset(
            ann_file=f'{digits}/annotations/train.json',
            data_prefix=dict(img=str(tmp_path / 'images')),
            metainfo=dict(classes=DIGITS),
            pipeline=pipeline,
        )
        runner = SimpleNamespace(model=model or torch.nn.Module(), val_loop=None)
        runner.train_dataloader = SimpleNamespace(dataset=RepeatDataset(dataset, 2))
        return list(wrong_samples(runner))

    return told


def halve(image, path) -> None:
    image.resize((image.width // 2, image.height // 2)).save(path)


def turn(image, path) -> None:
    # As a camera held upright: wide pixels, and a tag that says they are tall.
    tag = Image.Exif()
    tag[0x0112] = 6
    image.resize((image.width, image.height // 2)).save(path, 'JPEG', exif=tag)


@pytest.mark.parametrize(
    ('change', 'size'), [(halve, (64, 64)), (turn, (128, 64))], ids=['half', 'turned']
)
def test_an_image_of_another_size_than_annotated_is_told(samples, change, size):
    assert samples() == []
    (line,) = samples(change)
    assert line.startswith('train_dataloader.dataset.dataset: ')
    assert f'000003.png has height and width {size}, its annotations (128, 128)' in line


def test_an_orientation_that_the_loader_ignores_is_no_fault(samples):
    (line,) = samples(turn, color_type='color_ignore_orientation')
    assert 'has height and width (64, 128)' in line


def test_an_image_that_cannot_be_loaded_keeps_its_readers_words(samples):
    with pytest.raises(FileNotFoundError, match='000003.png'):
        samples(lambda image, path: path.unlink())


def test_a_mask_head_without_masks_is_told(samples, student_cfg):
    model = MODELS.build(narrow_two_stage('mask'))
    lines = samples(model=model)
    assert {'loads no masks for the mask_head' in line for line in lines} == {True}
    distiller = torch.nn.Module()
    distiller.architecture = model
    assert samples(model=distiller) == lines
    assert samples(model=MODELS.build(student_cfg)) == []
    with pytest.raises(KeyError, match='mask'):  # LoadAnnotations' own words
        samples(model=model, with_mask=True)


def test_a_file_is_judged_while_mmdetection_reads_it_and_not_read_again(
    coco, monkeypatch
):
    dataset = coco(lambda content: content['annotations'][0].update(image_id=-1))
    run = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=dataset))
    run.val_loop = None
    monkeypatch.setattr(data, 'load', None)
    (told,) = wrong_annotations(run)
    assert '1 annotations have a image_id that is not in "images", -1' in told
    monkeypatch.undo()
    data.FILES.clear()  # as of a remote storage
    assert [*wrong_annotations(run)] == [told]
