"""A part of a data set: which images, and what else of the file stays."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from mmengine.registry import DATASETS

from ctkd_mm import cli
from ctkd_mm.apis.coco_subset import coco_subset


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


def write(coco: dict, folder: Path) -> str:
    path = folder / 'all.json'
    path.write_text(json.dumps(coco))
    return str(path)


def drawn(coco: dict, folder: Path, images: int, seed: int) -> list[int]:
    out = folder / f'{images}-{seed}.json'
    coco_subset(write(coco, folder), images, str(out), seed)
    return [image['id'] for image in json.loads(out.read_text())['images']]


def test_every_image_has_the_same_chance(tmp_path):
    coco = set_of('a', 'aab', '', 'c', 'bb')
    counts = dict.fromkeys(range(100, 105), 0)
    for seed in range(400):
        for image in drawn(coco, tmp_path, 2, seed):
            counts[image] += 1
    # 400 draws of 2 of 5: 160 each, a standard deviation of 9.8.
    assert all(abs(count - 160) < 40 for count in counts.values())


def test_the_seed_decides(tmp_path):
    coco = set_of(*['ab', 'c', ''] * 30)
    first, second, third = (drawn(coco, tmp_path, 9, seed) for seed in (0, 1, 2))
    (tmp_path / '9-0.json').unlink()
    assert drawn(coco, tmp_path, 9, 0) == first
    assert len({*map(tuple, (first, second, third))}) == 3


def test_the_draw_is_the_same_everywhere(tmp_path):
    coco = set_of(*['a', 'b', 'ab', ''] * 3)
    assert drawn(coco, tmp_path, 4, 0) == [100, 104, 106, 111]


def test_all_images_are_all_images(tmp_path):
    coco = set_of('a', '', 'ab')
    coco_subset(write(coco, tmp_path), 3, str(tmp_path / 'part.json'))
    assert json.loads((tmp_path / 'part.json').read_text()) == coco


@pytest.mark.parametrize('images', [-1, 0])
def test_no_image_at_all_is_refused(tmp_path, images):
    out = tmp_path / 'part.json'
    with pytest.raises(ValueError, match=f'--images is {images}: keep 1 or more'):
        coco_subset(write(set_of('a'), tmp_path), images, str(out))
    assert not out.exists()


def test_what_is_kept_is_kept_whole_and_in_its_order(tmp_path):
    coco = set_of('a', '', 'ab', 'bc', 'c', crowds='b')
    source, out = write(coco, tmp_path), tmp_path / 'part.json'
    coco_subset(source, 3, str(out), seed=2)
    part = json.loads(out.read_text())
    chosen = {image['id'] for image in part['images']}
    assert len(chosen) == 3
    assert any(a['iscrowd'] for a in part['annotations'])
    assert part == {
        **coco,
        'images': [i for i in coco['images'] if i['id'] in chosen],
        'annotations': [a for a in coco['annotations'] if a['image_id'] in chosen],
    }
    assert json.loads(Path(source).read_text()) == coco


def test_the_report_counts_what_is_kept(tmp_path):
    coco = set_of('aaa', 'aaa', 'aaa')
    out = tmp_path / 'part.json'
    line = coco_subset(write(coco, tmp_path), 1, str(out))[0]
    assert line == f'{out}: 1 of 3 images, 3 of 9 annotations'


def test_mmdetection_reads_it_with_the_options_that_are_printed(
    digits, demo_cfg, tmp_path
):
    out = tmp_path / 'part.json'
    lines = coco_subset(str(digits / 'annotations' / 'train.json'), 5, str(out))
    option = lines[1].partition('--cfg-options ')[2]
    key, _, value = option.partition('=')
    demo_cfg.merge_from_dict({key: value})
    dataset = DATASETS.build(demo_cfg.train_dataloader.dataset)
    images = {image['id'] for image in json.loads(out.read_text())['images']}
    assert {dataset.get_data_info(i)['img_id'] for i in range(len(dataset))} == images
    assert Path(dataset.get_data_info(0)['img_path']).is_file()


def test_a_file_that_is_there_is_not_touched(tmp_path):
    source = write(set_of('a', 'b'), tmp_path)
    before = Path(source).read_bytes()
    with pytest.raises(FileExistsError, match='all.json'):
        coco_subset(source, 1, source)
    assert Path(source).read_bytes() == before


def test_more_images_than_there_are_are_refused(tmp_path):
    source, out = write(set_of('a', 'b', ''), tmp_path), tmp_path / 'part.json'
    with pytest.raises(ValueError, match='Sample larger than population or is neg'):
        coco_subset(source, 4, str(out))
    assert not out.exists()


def test_the_tool_says_why_not(tmp_path):
    out = tmp_path / 'part.json'
    source = write(dict(images=[dict(id=1)]), tmp_path)
    with pytest.raises(SystemExit) as error:
        cli.coco_subset([source, '--images', '1', '-o', str(out)])
    assert str(error.value) == f'{out} is not written. KeyError: annotations'
    assert not out.exists()


def test_the_tool_prints_what_it_wrote(tmp_path, capsys):
    out = tmp_path / 'part.json'
    source = write(set_of('a', 'b', 'ab'), tmp_path)
    cli.coco_subset([source, '--images', '2', '--seed', '4', '-o', str(out)])
    assert len(json.loads(out.read_text())['images']) == 2
    assert capsys.readouterr().out.splitlines()[1:] == [
        f'train on it: --cfg-options train_dataloader.dataset.ann_file={out}',
        f'evaluate on it: --cfg-options val_dataloader.dataset.ann_file={out} '
        f'val_evaluator.ann_file={out}',
    ]


def test_a_path_with_a_space_can_be_pasted(tmp_path):
    out = tmp_path / 'my part.json'
    source = write(set_of('a', 'b', 'ab'), tmp_path)
    options = coco_subset(source, 2, str(out))[1].partition('--cfg-options ')[2]
    assert shlex.split(options) == [f'train_dataloader.dataset.ann_file={out}']
