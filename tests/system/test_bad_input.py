"""Bad data, configs and files: one clear error, and nothing on the disk is touched."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner

from ctkd_mm.checks.explain import explain
from ctkd_mm.engine.loops.seeded_data import SeededDataset
from ctkd_mm.models.teachers.load import load_teacher

KEPT = {
    'epoch_1.pth': b'an earlier checkpoint',
    'last_checkpoint': b'{work_dir}/epoch_1.pth',
    '20260101_000000/20260101_000000.log': b'an earlier log',
}
TRAIN = 'train_dataloader.dataset'
VAL = 'val_dataloader.dataset'
TEMPERATURE = 'model.loss_kd.temperature'


class Losses(Hook):
    """Keeps the losses of every iteration."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(float(outputs['loss']))


@pytest.fixture
def cfg(demo_cfg, _detector_cfgs) -> Config:
    """The demo's config: an epoch of 2 iterations, without the validation."""
    cfg = Config(demo_cfg.to_dict(), format_python_code=False)  # formatting is slow
    cfg.model.teacher = copy.deepcopy(_detector_cfgs['teacher'])
    cfg.train_cfg.update(max_epochs=1, val_begin=2)
    return cfg


@pytest.fixture
def data(cfg, digits, tmp_path) -> Path:
    """The digits, copied to be changed."""
    root = tmp_path / 'data'
    shutil.copytree(digits, root)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = f'{root}/'
    for split in ('val', 'test'):
        cfg[f'{split}_evaluator'].ann_file = f'{root}/annotations/val.json'
    return root


@pytest.fixture
def train(cfg):
    """Train, and return the losses, which it keeps where it fails, too."""
    losses = Losses()

    def train(**options) -> list[float]:
        cfg.merge_from_dict(options)
        runner = Runner.from_cfg(cfg)
        runner.register_hook(losses)
        runner.train()
        return losses.values

    train.losses = losses.values
    return train


@pytest.fixture
def refuse(train, cfg):
    """Start a training that fails before its first iteration, where a run has been.

    Returns the error as the tools show it.
    """
    work_dir = Path(cfg.work_dir)
    kept = {
        work_dir / name: content.replace(b'{work_dir}', str(work_dir).encode())
        for name, content in KEPT.items()
    }
    for path, content in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def refuse(**options) -> str:
        with pytest.raises(Exception) as caught:
            train(**options)
        assert {path: path.read_bytes() for path in kept} == kept
        assert train.losses == []
        return explain(caught.value, cfg)

    return refuse


BAD_CONFIG = {
    'misspelt argument': (
        {f'{TEMPERATURE}.tau_rnage': 5},
        [f'{TEMPERATURE}.tau_rnage=5', 'did you mean tau_range?'],
    ),
    'a loss at the top level': (
        {'loss_kd': dict(loss_weight=2)},
        ['loss_kd at the top level', 'write model.loss_kd'],
    ),
    'learnable loss without a curriculum': (
        {'custom_hooks': []},
        ['custom_hooks', TEMPERATURE[len('model.') :], "type='ctkd_mm.CurriculumHook'"],
    ),
    'data of fewer classes': (
        {f'{TRAIN}.metainfo.classes': tuple('012345678')},
        ['bbox_head.num_classes is 10', f'{TRAIN}.metainfo.classes has 9 names'],
    ),
    'classes in another order': (
        {f'{TRAIN}.metainfo.classes': tuple('9876543210')},
        [f"{TRAIN}.metainfo.classes has '9' where", "has '0'", 'in the order'],
    ),
    'forgotten metainfo': (
        {f'{VAL}.metainfo': None},
        [f'{VAL}.metainfo is not set', f'classes={tuple("0123456789")!r}'],
    ),
    'evaluation of a part of a file': (
        {f'{VAL}.indices': 2},
        ['val_evaluator.ann_file has 4 images', f'{VAL} 2', 'ctkd_mm subset'],
    ),
    'no teacher file': (
        {'model.teacher_ckpt': None},
        ['model.teacher_ckpt is None', 'Give the path or URL'],
    ),
    'teacher of another width': (
        {'model.teacher': 'configs/demo/faster-rcnn_r18-eighth_fpn_digits.py'},
        ['does not fit the teacher', '(32, 3, 7, 7) in the file, (8, 3, 7, 7) in'],
    ),
}


@pytest.mark.start
@pytest.mark.parametrize(('options', 'words'), BAD_CONFIG.values(), ids=BAD_CONFIG)
def test_a_bad_config_ends_in_one_error_before_training(refuse, options, words):
    error = refuse(**options)
    assert [word for word in words if word not in error] == [], error


def change_annotations(root: Path, change) -> None:
    path = root / 'annotations' / 'train.json'
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))


def without_objects(coco) -> None:
    ids = {image['id'] for image in coco['images'][:15]}
    coco['annotations'] = [a for a in coco['annotations'] if a['image_id'] not in ids]


def odd_boxes(coco) -> None:
    boxes = [500, 500, 20, 20], [-5, -5, 20, 20], [5, 5, 1, 1], [5, 5, 0, 0]
    for annotation, box in zip(coco['annotations'], boxes):
        annotation['bbox'] = box


ODD_DATA = {
    'images without objects': without_objects,
    'boxes outside and of no size': odd_boxes,
    'crowd': lambda coco: coco['annotations'][0].update(iscrowd=1),
    'category that is not trained': lambda coco: coco['categories'].append(
        dict(id=99, name='letter')
    ),
}


@pytest.mark.start
@pytest.mark.parametrize('change', ODD_DATA.values(), ids=ODD_DATA)
def test_odd_data_trains_with_finite_losses(data, train, change):
    change_annotations(data, change)
    losses = train(**{f'{TRAIN}.filter_cfg.filter_empty_gt': False})
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


needs_restricted_load = pytest.mark.skipif(
    not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'),
    reason="torch < 2.6 loads with the plain pickle, by MMEngine's own function",
)


@pytest.mark.start
@needs_restricted_load
def test_no_code_in_a_file_to_start_from_is_run(refuse, tmp_path):
    marker, path = tmp_path / 'marker', tmp_path / 'bad.pth'
    torch.save(dict(state_dict=dict(x=Payload(marker))), path)
    error = refuse(load_from=str(path))
    assert not marker.exists()
    assert str(path) in error
    assert 'mkdir' in error


@pytest.mark.start
@needs_restricted_load
def test_a_resume_from_a_damaged_last_checkpoint_names_it(refuse, cfg):
    error = refuse(resume=True)
    assert f'{cfg.work_dir}/epoch_1.pth' in error
    assert 'could not be read' in error


def saved_as(name, change):
    def make(folder: Path, teacher_ckpt: Path) -> str:
        checkpoint = torch.load(teacher_ckpt)
        torch.save(change(checkpoint) or checkpoint, folder / name)
        return str(folder / name)

    return make


def written_as(name, content):
    def make(folder: Path, teacher_ckpt: Path) -> str:
        (folder / name).write_bytes(content(teacher_ckpt.read_bytes()))
        return str(folder / name)

    return make


def rename_weights(checkpoint) -> None:
    weights = checkpoint['state_dict']
    checkpoint['state_dict'] = {f'architecture.{k}': v for k, v in weights.items()}


def other_classes(checkpoint) -> None:
    for end, shape in dict(weight=(81, 256), bias=(81,)).items():
        name = f'roi_head.bbox_head.fc_cls.{end}'
        checkpoint['state_dict'][name] = torch.zeros(shape)


def deeper(checkpoint) -> None:
    weight = checkpoint['state_dict']['backbone.conv1.weight']
    checkpoint['state_dict']['backbone.layer3.5.conv1.weight'] = weight


BAD_TEACHER = {
    'a web page': (
        written_as('t.pth', lambda content: b'<!DOCTYPE html><p>404'),
        ['UnpicklingError', 'path or URL of a checkpoint'],
    ),
    'cut short': (
        written_as('t.pth', lambda content: content[:-4000]),
        ['could not be loaded', 'path or URL of a checkpoint'],
    ),
    'empty': (
        written_as('t.pth', lambda content: b''),
        ['EOFError', 'path or URL of a checkpoint'],
    ),
    'a folder': (
        lambda folder, teacher_ckpt: str(folder),
        ['could not be loaded', 'path or URL of a checkpoint'],
    ),
    'missing': (
        lambda folder, teacher_ckpt: str(folder / 'none.pth'),
        ['FileNotFoundError', 'path or URL of a checkpoint'],
    ),
    'a URL without network': (
        lambda folder, teacher_ckpt: 'https://no-such-host.invalid/t.pth',
        ['URLError', 'path or URL of a checkpoint'],
    ),
    'not weights': (
        saved_as('t.pth', lambda checkpoint: dict(state_dict={})),
        ['holds no weights'],
    ),
    'of another architecture': (
        saved_as('t.pth', deeper),
        ['1 unexpected: backbone.layer3.5.conv1.weight', 'in `teacher`'],
    ),
    'of other classes': (
        saved_as('t.pth', other_classes),
        ['(81,) in the file, (11,) in the model', 'in `teacher`'],
    ),
    'of a distillation': (
        saved_as('t.pth', rename_weights),
        ['distilled: ', 'ctkd_mm extract'],
    ),
}


@pytest.mark.parametrize(('make', 'words'), BAD_TEACHER.values(), ids=BAD_TEACHER)
def test_a_bad_teacher_file_ends_in_one_error(
    _detector_cfgs, teacher_ckpt, tmp_path, make, words
):
    path = make(tmp_path, teacher_ckpt)
    teacher = MODELS.build(copy.deepcopy(_detector_cfgs['teacher']))
    with pytest.raises(Exception) as caught:
        load_teacher(teacher, path)
    error = str(caught.value)
    words = [f'teacher_ckpt={path!r}', *words]
    assert [word for word in words if word not in error] == [], error


@needs_restricted_load
@pytest.mark.parametrize(
    ('save', 'word'),
    [(torch.save, 'mkdir'), (pickle.dump, 'could not be read')],
    ids=['torch', 'pickle'],
)
def test_no_code_in_a_teachers_file_is_run(student_cfg, tmp_path, save, word):
    marker, path = tmp_path / 'marker', tmp_path / 'bad.pth'
    with path.open('wb') as file:
        save(dict(state_dict=dict(x=Payload(marker))), file)
    with pytest.raises(Exception, match=word) as caught:
        load_teacher(MODELS.build(student_cfg), str(path))
    assert not marker.exists()
    assert str(path) in str(caught.value)


def cut(suffix: str) -> bytes:
    """The first half of an image."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    content = cv2.imencode(suffix, noise)[1].tobytes()
    return content[: len(content) // 2]


BAD_PIXELS = {
    'empty': b'',
    'a web page': b'<html>404',
    'PNG cut short': cut('.png'),
    'JPEG cut short': cut('.jpg'),
}


@pytest.mark.parametrize('content', BAD_PIXELS.values(), ids=BAD_PIXELS)
def test_unreadable_pixels_are_refused_when_they_are_read(cfg, data, content):
    (data / 'train/000003.png').write_bytes(content)
    dataset = SeededDataset(cfg.train_dataloader.dataset)
    with pytest.raises(Exception, match='train/000003.png|buf.empty'):  # OpenCV's words
        dataset[3]
    assert len(dataset[4]) == 2
