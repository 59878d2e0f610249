from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from mmdet.datasets import CocoDataset, MultiImageMixDataset
from mmdet.evaluation import CocoMetric
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.evaluator import Evaluator

from ctkd_mm.checks.data import (
    id_faults,
    label_faults,
    read,
    wrong_annotations,
    wrong_map,
)
from ctkd_mm.engine.loops.seeded_data import SeededDataset
from ctkd_mm.utils.model import parts

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
    return list(label_faults('key', dataset, read(dataset.ann_file)))


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
    ],
    ids=['sound', 'image', 'category', 'name', 'lost image', 'lost category'],
)
def test_entries_that_hide_each_other_or_belong_nowhere_are_told(
    digits, tmp_path, change, told
):
    content = json.loads((digits / 'annotations/train.json').read_text())
    change(content)
    path = tmp_path / 'train.json'
    path.write_text(json.dumps(content))
    lines = list(id_faults(read(str(path))))
    assert [line[: len(start)] for line, start in zip(lines, told)] == told
    assert bool(lines) == bool(told)


@pytest.mark.parametrize(
    ('wrap', 'key'),
    [
        (SeededDataset, 'key'),
        (lambda part: RepeatDataset(part, 2), 'key.dataset'),
        (lambda part: ClassBalancedDataset(part, 1e-3), 'key.dataset'),
        (lambda part: ConcatDataset([part]), 'key.datasets.0'),
        (lambda part: MultiImageMixDataset(part, []), 'key.dataset'),
        (
            # As from a config: wrappers take no wrapper, but its config.
            lambda part: SeededDataset(
                RepeatDataset(dict(type=lambda: ConcatDataset([part])), 2)
            ),
            'key.dataset.datasets.0',
        ),
    ],
    ids=['seeded', 'repeat', 'balanced', 'concat', 'mix', 'nested'],
)
def test_wrappers_are_looked_into(coco, wrap, key):
    part = coco()
    assert list(parts(wrap(part), 'key')) == [(key, part)]


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


@pytest.mark.parametrize(
    'segmentation',
    [[[1.5, -2, 3e-4]], [], [[1, 2], [3, 4]], dict(size=[1, 2], counts='a"]b')],
    ids=['polygon', 'none', 'two', 'mask'],
)
@pytest.mark.parametrize('last', [True, False])
def test_polygons_are_skipped_and_nothing_else(tmp_path, segmentation, last):
    box = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 1, 1], area=1)
    outline = dict(segmentation=segmentation)
    box = {**box, **outline} if last else {**outline, **box}
    image = dict(id=1, file_name='"segmentation": [1].png', height=1, width=1)
    content = dict(
        annotations=[box], images=[image], categories=[dict(id=1, name='[a]')]
    )
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    found = read(str(path))
    if isinstance(segmentation, list):
        box['segmentation'] = []
    assert found == content
