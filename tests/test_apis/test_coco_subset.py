"""A part of a data set: which images, and what else of the file stays."""

from __future__ import annotations

import copy
import json
import random
import shlex
from collections import Counter
from pathlib import Path

import pytest
from mmengine.registry import DATASETS

from ctkd_mm import cli
from ctkd_mm.apis.coco_subset import choose_images, coco_subset
from ctkd_mm.demo.digits import make_demo_data


def set_of(*shown: str, crowds: str = '') -> dict:
    """A set whose i-th image shows the categories named by the i-th word's letters.

    Letters that are in ``crowds`` too are crowds wherever they occur.
    """
    letters = sorted(set(''.join(shown)))
    annotations = [
        dict(image_id=100 + i, category_id=ord(letter), iscrowd=int(letter in crowds))
        for i, word in enumerate(shown)
        for letter in word
    ]
    for i, annotation in enumerate(annotations):
        annotation.update(id=i + 1, bbox=[1, 2, 30, 40], area=1200)
        annotation.update(segmentation=[[1, 2, 31, 2, 31, 42]])
    return dict(
        info=dict(year=2017),
        images=[
            dict(id=100 + i, file_name=f'{i}.jpg', height=50, width=50)
            for i in range(len(shown))
        ],
        annotations=annotations,
        # Neither by id nor by name.
        categories=[dict(id=ord(x), name=x) for x in reversed(letters)],
    )


def shown_by(coco: dict, chosen: set) -> Counter:
    """In how many chosen images each category is, '' for images without any."""
    images = {image: set() for image in chosen}
    for annotation in coco['annotations']:
        if annotation['image_id'] in chosen:
            images[annotation['image_id']].add(chr(annotation['category_id']))
    return Counter(letter for shown in images.values() for letter in shown or ('',))


def write(coco: dict, folder: Path) -> str:
    path = folder / 'all.json'
    path.write_text(json.dumps(coco))
    return str(path)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> dict:
    """Annotations of 200 scenes of digits."""
    folder = tmp_path_factory.mktemp('scenes') / 'data'
    make_demo_data(folder, num_train=200, num_val=1, image_size=64)
    return json.loads((folder / 'annotations' / 'train.json').read_text())


@pytest.mark.parametrize('seed', range(5))
def test_the_classes_keep_their_proportions(scenes, seed):
    def change(images: set) -> float:
        """Total variation between the classes' shares of the objects."""
        parts = [{i['id'] for i in scenes['images']}, set(images)]
        counts = [
            Counter(
                a['category_id'] for a in scenes['annotations'] if a['image_id'] in part
            )
            for part in parts
        ]
        shares = [{c: n / sum(x.values()) for c, n in x.items()} for x in counts]
        return sum(abs(shares[1][c] - share) for c, share in shares[0].items()) / 2

    chosen = choose_images(scenes, 40, seed)
    assert len(chosen) == 40
    ids = [image['id'] for image in scenes['images']]
    by_chance = random.Random(seed).sample(ids, 40)
    assert change(chosen) < 0.03
    assert change(chosen) < change(by_chance) / 2


def test_scenes_keep_their_number_of_objects(scenes):
    chosen = choose_images(scenes, 40)
    kept = sum(a['image_id'] in chosen for a in scenes['annotations'])
    assert kept == pytest.approx(len(scenes['annotations']) / 5, rel=0.05)


@pytest.mark.parametrize('seed', range(20))
def test_a_class_of_a_single_image_is_kept(seed):
    coco = set_of(*['a'] * 50, 'b', *['ac'] * 50, '', '')
    assert set(shown_by(coco, choose_images(coco, 3, seed))) >= {'a', 'b', 'c'}


@pytest.mark.parametrize('seed', range(20))
def test_frequent_classes_are_not_crowded_out_by_the_rare_ones(seed):
    coco = set_of(*'defgh', *['a'] * 50, *['b'] * 50, *['c'] * 50)
    assert set(shown_by(coco, choose_images(coco, 10, seed))) == set('abcdefgh')


@pytest.mark.parametrize('seed', range(12))
def test_images_without_an_object_keep_their_share(seed):
    coco = set_of(*['a'] * 50, *['aa'] * 25, *[''] * 25)
    assert shown_by(coco, choose_images(coco, 20, seed))[''] == 5


@pytest.mark.parametrize('seed', range(12))
def test_a_rare_class_weighs_as_much_as_a_frequent_one(seed):
    coco = set_of(*['a' * (i % 9) + 'b' * (i % 10 == 0) for i in range(200)])
    assert abs(shown_by(coco, choose_images(coco, 40, seed))['b'] - 4) <= 1


def test_a_crowd_does_not_make_up_for_an_object():
    coco = set_of('c', *['a'] * 30, 'ab', crowds='bc')
    objects = dict(
        coco, annotations=[a for a in coco['annotations'] if not a['iscrowd']]
    )
    for seed in range(20):
        assert shown_by(objects, choose_images(coco, 1, seed)) == {'a': 1}


def test_the_seed_decides():
    coco = set_of(*['ab', 'c', ''] * 30)
    chosen = [choose_images(coco, 9, seed) for seed in (0, 0, 1, 2)]
    assert chosen[0] == chosen[1]
    assert len(set(map(frozenset, chosen))) == 3


def test_the_choice_is_the_same_everywhere():
    coco = set_of(*['a', 'b', 'ab', ''] * 3)
    assert set(choose_images(coco, 4)) == {101, 102, 103, 108}


def test_all_images_are_all_images(tmp_path):
    coco = set_of('a', '', 'ab')
    coco_subset(write(coco, tmp_path), 3, str(tmp_path / 'part.json'))
    assert json.loads((tmp_path / 'part.json').read_text()) == coco


def test_what_is_kept_is_kept_whole_and_in_its_order(tmp_path):
    coco = set_of('a', '', 'ab', 'bc', 'c', crowds='b')
    source, out = write(coco, tmp_path), tmp_path / 'part.json'
    coco_subset(source, 3, str(out), seed=3)
    part, chosen = json.loads(out.read_text()), choose_images(coco, 3, seed=3)
    want = copy.deepcopy(coco)
    want['images'] = [i for i in want['images'] if i['id'] in chosen]
    kept = [a for a in want['annotations'] if a['image_id'] in chosen]
    want['annotations'] = kept
    assert any(a['iscrowd'] for a in kept)
    assert part == want
    assert json.loads(Path(source).read_text()) == coco


def test_the_report_counts_and_names_what_is_lost(tmp_path):
    coco = set_of('aaa', 'aaa', 'bbc', 'd')
    out = tmp_path / 'part.json'
    lines = coco_subset(write(coco, tmp_path), 1, str(out))
    assert [i['id'] for i in json.loads(out.read_text())['images']] == [102]
    assert lines[:2] == [
        f'{out}: 1 of 4 images, 3 of 10 objects, 2 of 4 classes; without a, d',
        'largest change of a class among the objects: a, 60.0% to 0.0%',
    ]


def test_mmdetection_reads_it_with_the_options_that_are_printed(
    digits, demo_cfg, tmp_path
):
    out = tmp_path / 'part.json'
    lines = coco_subset(str(digits / 'annotations' / 'train.json'), 5, str(out))
    option = lines[2].partition('--cfg-options ')[2]
    key, _, value = option.partition('=')
    demo_cfg.merge_from_dict({key: value})
    dataset = DATASETS.build(demo_cfg.train_dataloader.dataset)
    images = {image['id'] for image in json.loads(out.read_text())['images']}
    assert {dataset.get_data_info(i)['img_id'] for i in range(len(dataset))} == images
    assert Path(dataset.get_data_info(0)['img_path']).is_file()


def test_a_file_that_is_there_is_not_touched(tmp_path):
    source = write(set_of('a', 'b'), tmp_path)
    before = Path(source).read_bytes()
    with pytest.raises(ValueError, match='all.json exists: give another name'):
        coco_subset(source, 1, source)
    assert Path(source).read_bytes() == before


@pytest.mark.parametrize('images', [0, 4])
def test_more_images_than_there_are_are_refused(tmp_path, images):
    source, out = write(set_of('a', 'b', ''), tmp_path), tmp_path / 'part.json'
    with pytest.raises(ValueError, match=rf'--images {images} must be 1 to 3, the nu'):
        coco_subset(source, images, str(out))
    assert not out.exists()


def test_a_file_that_is_no_coco_set_is_refused(tmp_path):
    coco = set_of('a', 'b')
    coco['annotations'][0]['category_id'] = 7
    out = tmp_path / 'part.json'
    with pytest.raises(SystemExit) as error:
        cli.coco_subset([write(coco, tmp_path), '--images', '1', '-o', str(out)])
    assert str(error.value).startswith(f'{out} is not written. coco_subset: ')
    assert 'category_id what is no id in its "categories": 7 (annotation 1)' in str(
        error.value
    )
    assert not out.exists()


def test_the_tool_prints_what_it_wrote(tmp_path, capsys):
    out = tmp_path / 'part.json'
    source = write(set_of('a', 'b', 'ab'), tmp_path)
    cli.coco_subset([source, '--images', '2', '--seed', '4', '-o', str(out)])
    assert len(json.loads(out.read_text())['images']) == 2
    assert capsys.readouterr().out.splitlines()[2:] == [
        f'train on it: --cfg-options train_dataloader.dataset.ann_file={out}',
        f'evaluate on it: --cfg-options val_dataloader.dataset.ann_file={out} '
        f'val_evaluator.ann_file={out}',
    ]


def test_a_path_with_a_space_can_be_pasted(tmp_path):
    out = tmp_path / 'my part.json'
    source = write(set_of('a', 'b', 'ab'), tmp_path)
    options = coco_subset(source, 2, str(out))[2].partition('--cfg-options ')[2]
    assert shlex.split(options) == [f'train_dataloader.dataset.ann_file={out}']
