import itertools
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from sklearn.datasets import load_digits

from ctkd_mm.demo import digits as demo_data
from ctkd_mm.demo import scenes
from ctkd_mm.demo.digits import CLASSES, make_demo_data, split_scans

COUNTS = {'num_train': 12, 'num_val': 4}


def read_files(root):
    """Every file below root, by relative path, as bytes."""
    files = sorted(p for p in root.rglob('*') if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def read_annotations(root, split):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def iou(a, b):
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(across, 0) * max(down, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    return make_demo_data(tmp_path_factory.mktemp('digits') / 'demo', **COUNTS)


def test_set_holds_the_promised_files_and_no_others(demo):
    names = {f'train/{i:06d}.png' for i in range(12)}
    names |= {f'val/{i:06d}.png' for i in range(4)}
    names |= {'annotations/train.json', 'annotations/val.json', 'meta.json'}
    assert set(read_files(demo)) == names
    assert [p.name for p in demo.parent.iterdir()] == [demo.name]


def test_same_seed_gives_the_same_bytes(demo, tmp_path):
    assert read_files(make_demo_data(tmp_path / 'again', **COUNTS)) == read_files(demo)


def test_another_seed_gives_other_scenes(demo, tmp_path):
    other = read_files(make_demo_data(tmp_path / 'other', seed=1, **COUNTS))
    assert all(other[name] != data for name, data in read_files(demo).items())


def test_a_scene_does_not_depend_on_the_number_of_scenes(demo, tmp_path):
    fewer = make_demo_data(tmp_path / 'fewer', num_train=3, num_val=2)
    few, many = read_files(fewer), read_files(demo)
    images = [name for name in few if name.endswith('.png')]
    assert len(images) == 5
    assert all(few[name] == many[name] for name in images)
    annotations = read_annotations(fewer, 'train')['annotations']
    assert (
        annotations
        == read_annotations(demo, 'train')['annotations'][: len(annotations)]
    )


def test_train_and_val_scenes_differ(demo):
    assert (demo / 'train/000000.png').read_bytes() != (
        demo / 'val/000000.png'
    ).read_bytes()


@pytest.mark.parametrize('seed', [0, 1, 7])
def test_split_gives_every_scan_to_exactly_one_split(seed):
    scans = split_scans(seed)
    both = np.concatenate([scans['train'], scans['val']])
    assert sorted(both) == list(range(len(load_digits().images)))
    assert len(scans['val']) == 359


def test_scenes_use_the_scans_of_their_own_split(demo):
    for split, scans in split_scans(0).items():
        used = {a['scan'] for a in read_annotations(demo, split)['annotations']}
        assert used <= set(scans.tolist())


def test_categories_are_the_labels_of_the_scans(demo):
    coco = read_annotations(demo, 'train')
    names = {c['id']: c['name'] for c in coco['categories']}
    assert tuple(names[i] for i in sorted(names)) == CLASSES
    labels = load_digits().target
    for a in coco['annotations']:
        assert names[a['category_id']] == str(labels[a['scan']])


@pytest.mark.parametrize('image_size', [64, 128, 333])
def test_boxes_overlap_little_and_lie_inside_the_image(image_size):
    scans = load_digits().images
    for seed in range(15):
        rng = np.random.default_rng(seed)
        image, rows, boxes = scenes.render_scene(scans, image_size, rng)
        assert image.shape == (image_size, image_size, 3)
        assert 1 <= len(rows) == len(boxes) <= 9
        for x, y, w, h in boxes:
            assert x >= 0 and y >= 0 and w > 0 and h > 0
            assert x + w <= image_size and y + h <= image_size
        assert all(iou(a, b) <= 0.1 for a, b in itertools.combinations(boxes, 2))


def test_no_digit_sits_inside_another():
    canvas = scenes.Canvas(load_digits().images, 96, np.random.default_rng(0))
    assert canvas.find_room(10, 10, [[0, 0, 96, 96]]) is None
    assert canvas.find_room(10, 10, [])[2:] == [10, 10]


def test_boxes_are_tight_around_the_pixels_a_digit_changed(monkeypatch):
    paint, changed = scenes.Canvas.paint, set()

    def record(canvas, *args):
        before = canvas.image.copy()
        paint(canvas, *args)
        difference = np.abs(canvas.image - before).max(axis=2) > 0
        changed.add(cv2.boundingRect(difference.astype(np.uint8)))

    monkeypatch.setattr(scenes.Canvas, 'paint', record)
    for seed in range(5):
        changed.clear()
        rng = np.random.default_rng(seed)
        boxes = scenes.render_scene(load_digits().images, 160, rng)[2]
        assert {tuple(box) for box in boxes} <= changed


def test_pycocotools_loads_the_set(demo):
    for split, count in (('train', 12), ('val', 4)):
        coco = COCO(str(demo / 'annotations' / f'{split}.json'))
        assert len(coco.getImgIds()) == count
        assert 0 not in coco.getAnnIds()
        for info in coco.loadImgs(coco.getImgIds()):
            image = cv2.imread(str(demo / split / info['file_name']))
            assert image.shape == (info['height'], info['width'], 3)
            assert coco.getAnnIds(imgIds=info['id'])


def test_complete_set_is_left_alone(tmp_path, monkeypatch):
    make_demo_data(tmp_path / 'demo', 1, 1)
    monkeypatch.setattr(demo_data, '_make', lambda *_: pytest.fail('made again'))
    assert make_demo_data(str(tmp_path / 'demo'), 1, 1) == tmp_path / 'demo'


@pytest.mark.parametrize('change', [{'num_train': 1}, {'image_size': 96}])
def test_a_set_of_other_arguments_is_not_replaced(tmp_path, change):
    arguments = {'num_train': 2, 'num_val': 1}
    root = make_demo_data(tmp_path / 'demo', **arguments)
    files = read_files(root)
    with pytest.raises(OSError, match=f'not empty.*{root}'):
        make_demo_data(root, **{**arguments, **change})
    assert read_files(root) == files


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scenes.Canvas, 'find_room', interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_demo_data(tmp_path / 'demo', 2, 1)
    assert not list(tmp_path.iterdir())
    files = read_files(make_demo_data(tmp_path / 'demo', 2, 1))
    assert 'train/000001.png' in files


def test_empty_folder_is_filled(tmp_path):
    make_demo_data(tmp_path, 1, 1)
    assert (tmp_path / 'meta.json').is_file()


@pytest.mark.parametrize('text', ['', '{"format": "another"}', '[]'])
def test_folder_of_another_maker_is_refused(tmp_path, text):
    (tmp_path / 'meta.json').write_text(text)
    with pytest.raises(OSError, match='not empty'):
        make_demo_data(tmp_path, 1, 1)
    assert read_files(tmp_path) == {'meta.json': text.encode()}


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / 'demo').write_text('mine')
    with pytest.raises(NotADirectoryError, match='demo'):
        make_demo_data(tmp_path / 'demo', 1, 1)
    assert (tmp_path / 'demo').read_text() == 'mine'


@pytest.mark.parametrize(
    'name, value',
    [
        ('num_train', 0),
        ('num_val', -1),
        ('num_val', True),
        ('image_size', 63),
        ('image_size', 160.0),
        ('seed', -1),
        ('seed', None),
    ],
)
def test_bad_argument_is_named_with_its_value(tmp_path, name, value):
    with pytest.raises(ValueError, match=f'{name} must be .* got {value}'):
        make_demo_data(tmp_path / 'demo', **{name: value})
    assert not (tmp_path / 'demo').exists()
