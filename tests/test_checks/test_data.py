from __future__ import annotations

import gc
import json
import re
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset, MultiImageMixDataset
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import Dataset

from ctkd_mm.checks.annotation_check import check_annotations
from ctkd_mm.checks.data import check_dataset
from ctkd_mm.engine.loops.seeded_data import SeededDataset

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


def lose_category(content) -> None:
    content['categories'].pop(3)
    content['annotations'] = [
        a for a in content['annotations'] if a['category_id'] != 4
    ]


def test_a_sound_set_passes_without_a_word(coco, warnings):
    check_dataset(coco(), 'key')
    assert warnings == []


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
    dataset = wrap(coco(lose_category))
    with pytest.raises(ValueError, match=rf"^{key}\.metainfo\.classes=.* '3'"):
        check_dataset(dataset, 'key')


def test_another_format_passes():
    class Squares(Dataset):
        def __len__(self):
            return 3

    check_dataset(Squares(), 'key')


def test_a_set_without_samples_is_refused_in_any_format():
    class Nothing(Dataset):
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match='^key has no image: ann_file=None'):
        check_dataset(Nothing(), 'key')


def test_a_subset_of_the_classes_is_told_with_the_number_left_out(coco, warnings):
    check_dataset(coco(metainfo=dict(classes=DIGITS[:9])), 'key')
    (line,) = warnings
    content = json.loads(Path(coco().ann_file).read_text())
    nines = sum(a['category_id'] == 10 for a in content['annotations'])
    assert nines > 0
    assert f'key: {nines} of {len(content["annotations"])} annotations' in line


def test_dropped_boxes_are_counted(coco, warnings):
    def change(content) -> None:
        for i, box in enumerate(([500, 500, 9, 9], [5, 5, 0, 9], [-20, 5, 9, 9])):
            content['annotations'][i]['bbox'] = box

    check_dataset(coco(change), 'key')
    (line,) = warnings
    assert 'key: MMDetection drops 3 of 92 annotations' in line


def without_objects(content) -> None:
    content['annotations'] = []


def test_images_of_background_alone_are_sound_beside_others_and_told(coco, warnings):
    keep = dict(filter_cfg=dict(filter_empty_gt=False))
    with pytest.raises(ValueError, match='^key: .* has no annotations, so no box'):
        check_dataset(coco(without_objects, **keep), 'key')
    empty = coco(without_objects, **keep)
    Path(empty.ann_file).rename(Path(empty.ann_file).with_name('empty.json'))
    empty.ann_file = str(Path(empty.ann_file).with_name('empty.json'))
    check_dataset(ConcatDataset([coco(), empty]), 'key')
    (line,) = warnings
    assert line.startswith('key.datasets.1: ') and 'background alone' in line


def test_a_file_under_two_ids_is_told_with_both_numbers(coco, warnings):
    def change(content) -> None:
        content['images'][1]['file_name'] = content['images'][0]['file_name']

    check_dataset(coco(change), 'key')
    (line,) = warnings
    assert line.startswith('key: 16 images of ') and 'are 15 files' in line


def test_only_images_that_are_used_must_exist(coco, digits):
    def change(content) -> None:
        content['images'][15]['file_name'] = 'none.png'

    check_dataset(coco(change, indices=15), 'key')
    with pytest.raises(ValueError, match=r'1 of 16 images .*/none\.png\. Get them'):
        check_dataset(coco(change), 'key')


def test_images_in_several_folders_are_found(coco, digits):
    def change(content) -> None:
        for image in content['images'][:8]:
            image['file_name'] = f'../train/{image["file_name"]}'

    check_dataset(coco(change), 'key')


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
    found = check_annotations('key', str(path))
    if isinstance(segmentation, list):
        box['segmentation'] = []
    assert found == content
    assert gc.isenabled()


def as_corners(content) -> None:
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = [x, y, x + width, y + height]


def test_corners_in_place_of_sizes_are_told_with_the_cure(coco, warnings):
    check_dataset(coco(as_corners), 'key')
    line = warnings[-1]
    number = int(re.match(r'key: (\d+) of 92 boxes', line).group(1))
    assert number > 0.3 * 92
    assert ' 128 x 128 pixels for example. bbox is [x, y, width, height]; ' in line
    assert 'these look like [x1, y1, x2, y2]: write [x1, y1, x2 - x1, ' in line


def move_outside(number, x):
    def change(content) -> None:
        for annotation in content['annotations'][:number]:
            width = annotation['bbox'][2]
            annotation['bbox'][0] = 128 - width + x

    return change


def test_boxes_outside_for_another_reason_are_not_called_corners(coco, warnings):
    check_dataset(coco(move_outside(5, 4)), 'key')
    (line,) = warnings
    assert line.startswith('key: 5 of 92 boxes ')
    assert (
        'for example. Correct bbox, or width and height of the images, unless' in line
    )


@pytest.mark.parametrize(('number', 'pixels'), [(4, 4), (92, 3)])
def test_few_boxes_outside_or_by_a_rounding_are_nothing(coco, warnings, number, pixels):
    check_dataset(coco(move_outside(number, pixels)), 'key')
    assert warnings == []


@pytest.mark.parametrize('kept', [(), ('5',)], ids=['none', 'one'])
def test_forgotten_metainfo_is_refused_with_the_names_to_paste(coco, kept):
    def change(content) -> None:
        for category in content['categories']:
            if category['name'] in kept:
                category['name'] = 'person'

    names = ['person' if name in kept else name for name in DIGITS]
    message = re.escape(
        'key.metainfo is not set: the data set took the 80 class names of CocoDataset: '
        f"'person', 'bicycle', 'car' and 77 more. Write metainfo=dict(classes="
        f'{tuple(names)!r}) in the config of each data set, and num_classes=10 in every'
    )
    with pytest.raises(ValueError, match=message):
        check_dataset(coco(change, metainfo=None), 'key')


def test_a_relative_path_is_told_with_the_current_folder(coco, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    here = re.escape(f' (a relative path, in the current folder {tmp_path}')
    with pytest.raises(ValueError, match=rf'key\.ann_file: a/b\.json .* read{here}'):
        check_annotations('key', 'a/b.json')
    relative = CocoDataset(
        ann_file=coco().ann_file,
        data_prefix=dict(img='train'),
        metainfo=dict(classes=DIGITS),
    )
    with pytest.raises(ValueError, match=rf'16 of 16 images .* do not exist: .*{here}'):
        check_dataset(relative, 'key')
    with pytest.raises(ValueError) as caught:
        check_annotations('key', str(tmp_path / 'b.json'))
    assert 'current folder' not in str(caught.value)
