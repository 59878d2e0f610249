"""Bad data, configs and files, each in a real start of training: one clear error."""

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
from mmengine.runner import Runner

from ctkd_mm.checks.explain import explain

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
def fail(train, cfg):
    """Start a training that fails where an earlier run left its files.

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

    def fail(**options) -> str:
        with pytest.raises(Exception) as caught:
            train(**options)
        assert {path: path.read_bytes() for path in kept} == kept
        return explain(caught.value, cfg)

    return fail


@pytest.fixture
def refuse(fail, train):
    """As ``fail``, before the first iteration."""

    def refuse(**options) -> str:
        error = fail(**options)
        assert train.losses == []
        return error

    return refuse


def annotations(change, split='train'):
    """An edit of an annotation file."""

    def edit(root: Path) -> None:
        path = root / 'annotations' / f'{split}.json'
        coco = json.loads(path.read_text())
        change(coco)
        path.write_text(json.dumps(coco))

    return edit


def put(kind, **values):
    """An edit of the first image, annotation or category."""
    return annotations(lambda coco: coco[kind][0].update(values))


def put_all(**values):
    """An edit of every training annotation."""
    return annotations(lambda coco: [a.update(values) for a in coco['annotations']])


def repeat(kind, field):
    """Give the second entry the first's id or name."""

    def change(coco) -> None:
        coco[kind][1][field] = coco[kind][0][field]

    return annotations(change)


def drop(kind, field):
    return annotations(lambda coco: coco[kind][0].pop(field))


def without_objects(images=slice(None), split='train'):
    def change(coco) -> None:
        ids = {image['id'] for image in coco['images'][images]}
        coco['annotations'] = [
            a for a in coco['annotations'] if a['image_id'] not in ids
        ]

    return annotations(change, split)


def overwrite(name, content):
    return lambda root: (root / name).write_bytes(content)


def cut(suffix):
    """Overwrite a training image by the first half of it, written as PNG or JPEG."""

    def edit(root: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
        content = cv2.imencode(suffix, noise)[1].tobytes()
        (root / 'train/000003.png').write_bytes(content[: len(content) // 2])

    return edit


def no_images(split):
    return annotations(lambda coco: coco.update(images=[], annotations=[]), split)


def rename(old, new):
    def change(coco) -> None:
        next(c for c in coco['categories'] if c['name'] == old)['name'] = new

    return annotations(change)


BAD_DATA = {
    'annotation file missing': (
        lambda root: (root / 'annotations/train.json').unlink(),
        [f'{TRAIN}.ann_file', 'train.json cannot be read', 'Correct ann_file'],
    ),
    'annotation file of html': (
        overwrite('annotations/train.json', b'<html>404'),
        [f'{TRAIN}.ann_file', 'is not JSON', "b'<html>404'", 'Get it again'],
    ),
    'annotation file empty': (
        overwrite('annotations/val.json', b''),
        [f'{VAL}.ann_file', 'val.json is not JSON', '0 bytes', 'Get it again'],
    ),
    'annotation file cut short': (
        overwrite('annotations/train.json', b'{"images": [{"id": 1, '),
        [f'{TRAIN}.ann_file', 'cut short: 22 bytes', 'Get it again'],
    ),
    'annotation file with a list': (
        overwrite('annotations/train.json', b'[]'),
        [f'{TRAIN}.ann_file', 'holds a list', 'Give a COCO annotation file'],
    ),
    'no images in the file': (
        annotations(lambda coco: coco.pop('images')),
        [TRAIN, 'has no list "images"', 'Give a COCO annotation file'],
    ),
    'no annotations in the file': (
        annotations(lambda coco: coco.pop('annotations')),
        [TRAIN, 'has no list "annotations"', 'Give a COCO annotation file'],
    ),
    'no categories in the file': (
        annotations(lambda coco: coco.pop('categories')),
        [TRAIN, 'has no list "categories"', 'Give a COCO annotation file'],
    ),
    'image without width': (
        drop('images', 'width'),
        [TRAIN, 'images[0] has no "width"', 'add it'],
    ),
    'annotation without bbox': (
        drop('annotations', 'bbox'),
        [TRAIN, 'annotations[0] has no "bbox"', 'add it'],
    ),
    'annotation without area': (
        drop('annotations', 'area'),
        [TRAIN, 'annotations[0] has no "area"', 'add it'],
    ),
    'annotation of unknown category': (
        put('annotations', category_id=777),
        [TRAIN, 'category_id', '777 (annotation 1)', 'correct category_id'],
    ),
    'annotation of unknown image': (
        put('annotations', image_id=777),
        [TRAIN, 'image_id', '777 (annotation 1)', 'correct image_id'],
    ),
    'image ids repeated': (
        repeat('images', 'id'),
        [TRAIN, '1 values of "id"', '"images": 0.', 'make every id unique'],
    ),
    'annotation ids repeated': (
        repeat('annotations', 'id'),
        [TRAIN, '1 values of "id"', '"annotations": 1.', 'make every id unique'],
    ),
    'image id of another type': (
        put('images', id=[0]),
        [TRAIN, 'images[0].id=[0], expected a number or a string', '1 of 16'],
    ),
    'image width of another type': (
        put('images', width='128'),
        [TRAIN, "images[0].width='128', expected a number", 'correct them'],
    ),
    'file name of another type': (
        put('images', file_name=7),
        [TRAIN, 'images[0].file_name=7, expected a string', 'correct them'],
    ),
    'area of another type': (
        put('annotations', area=None),
        [TRAIN, 'annotations[0].area=None, expected a number', 'correct them'],
    ),
    'box of negative size': (
        put('annotations', bbox=[50, 50, -20, 9]),
        [TRAIN, 'width, height >= 0', '[50, 50, -20, 9] (annotation 1)', 'Correct'],
    ),
    'box of nan': (
        put('annotations', bbox=[5, math.nan, 9, 9]),
        [TRAIN, 'finite numbers', '[5, nan, 9, 9]', 'Correct or remove'],
    ),
    'box of infinite size': (
        put('annotations', bbox=[5, 5, math.inf, 9]),
        [TRAIN, 'finite numbers', '[5, 5, inf, 9]', 'Correct or remove'],
    ),
    'box of three numbers': (
        put('annotations', bbox=[5, 5, 9]),
        [TRAIN, 'four finite numbers', '[5, 5, 9]', 'Correct or remove'],
    ),
    'no image has objects': (
        without_objects(),
        [TRAIN, '16 images, 0 of them with annotations', 'filter_empty_gt', 'Give'],
    ),
    'all boxes of area 0': (
        put_all(area=0),
        [TRAIN, 'none of the', 'a box to learn from', 'Correct bbox, area'],
    ),
    'crowds alone': (
        put_all(iscrowd=1),
        [TRAIN, 'none of the', 'are crowds', 'Correct bbox, area, iscrowd'],
    ),
    'validation without iscrowd': (
        annotations(
            lambda coco: [a.pop('iscrowd') for a in coco['annotations']], split='val'
        ),
        [VAL, 'val.json', 'have no "iscrowd"', 'add "iscrowd": 0'],
    ),
    'validation without objects': (
        without_objects(split='val'),
        [VAL, 'has no annotations', 'to evaluate against', 'Give a file with objects'],
    ),
    'training set of no images': (
        no_images('train'),
        [TRAIN, 'train.json has 0 images', 'Give images'],
    ),
    'validation set of no images': (
        no_images('val'),
        [VAL, 'val.json has 0 images', 'Give images'],
    ),
    'category misspelt': (
        rename('7', '7 seven'),
        [f'{TRAIN}.metainfo.classes', "no category '7'", 'would shift', 'use the'],
    ),
    'categories in another order': (
        annotations(lambda coco: coco['categories'].reverse()),
        [f'{TRAIN}.metainfo.classes', "label 0 would be '9' and not '0'", 'Write'],
    ),
    'category twice': (
        annotations(lambda coco: coco['categories'].append(dict(id=99, name='3'))),
        [TRAIN, '"name"', "'3'", 'make every name unique'],
    ),
    'image file missing': (
        lambda root: (root / 'val/000001.png').unlink(),
        [VAL, '1 of 4 images', 'val/000001.png', 'correct data_prefix'],
    ),
    'image folder missing': (
        lambda root: shutil.rmtree(root / 'train'),
        [TRAIN, '16 of 16 images', 'train/000000.png', 'correct data_prefix'],
    ),
}


@pytest.mark.parametrize(('edit', 'words'), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_ends_in_one_error(data, refuse, edit, words):
    edit(data)
    error = refuse()
    assert [word for word in words if word not in error] == [], error


# To find these before training would be to decode every image.
BAD_PIXELS = {
    'image file empty': overwrite('train/000003.png', b''),
    'image that is a web page': overwrite('train/000003.png', b'<html>404'),
    'PNG cut short': cut('.png'),
    'JPEG cut short': cut('.jpg'),
}


@pytest.mark.parametrize('edit', BAD_PIXELS.values(), ids=BAD_PIXELS)
def test_unreadable_pixels_end_in_one_error_when_they_are_read(data, fail, edit):
    edit(data)
    error = fail()
    words = ['train_dataloader', 'train/000003.png', 'Replace the file']
    assert [word for word in words if word not in error] == [], error


ODD_DATA = {
    'image without objects': without_objects(slice(3)),
    'empty images trained on': without_objects(slice(15)),
    'box outside': put('annotations', bbox=[500, 500, 20, 20]),
    'box partly outside': put('annotations', bbox=[-5, -5, 20, 20]),
    'box of one pixel': put('annotations', bbox=[5, 5, 1, 1], area=1),
    'box of no pixel': put('annotations', bbox=[5, 5, 0, 0], area=0),
    'image with crowds alone': put('annotations', iscrowd=1),
    'category that is not trained': annotations(
        lambda coco: coco['categories'].append(dict(id=99, name='letter'))
    ),
    'wrong size in the file': put('images', width=9999, height=9999),
}


@pytest.mark.parametrize('edit', ODD_DATA.values(), ids=ODD_DATA)
def test_odd_data_trains_with_finite_losses(data, train, edit):
    edit(data)
    losses = train(**{f'{TRAIN}.filter_cfg.filter_empty_gt': False})
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


BAD_CONFIG = {
    'temperature.tau_rnage': (
        {f'{TEMPERATURE}.tau_rnage': 5},
        [f'{TEMPERATURE}.tau_rnage=5', 'did you mean tau_range?'],
    ),
    'loss_kd.loss_wieght': (
        {'model.loss_kd.loss_wieght': 2},
        ['model.loss_kd.loss_wieght=2', 'did you mean loss_weight?'],
    ),
    'model.teacher_chkpt': (
        {'model.teacher_chkpt': 'x.pth'},
        ["model.teacher_chkpt='x.pth'", 'did you mean teacher_ckpt?'],
    ),
    'architecture.backbone.frozen_stage': (
        {'model.architecture.backbone.frozen_stage': 1},
        ['model.architecture.backbone.frozen_stage=1', 'mean frozen_stages?'],
    ),
    'hook.begn': (
        {'custom_hooks.0.begn': 1},
        ['custom_hooks.0.begn=1', 'did you mean begin?'],
    ),
    'train_cfg.max_epoch': (
        {'train_cfg.max_epoch': 1},
        ['train_cfg.max_epoch=1', 'did you mean max_epochs?'],
    ),
    'optim_wrapper.clip_gard': (
        {'optim_wrapper.clip_gard': 1},
        ['optim_wrapper.clip_gard=1', 'did you mean clip_grad?'],
    ),
    'optimizer.learning_rate': (
        {'optim_wrapper.optimizer.learning_rate': 1},
        ['optim_wrapper.optimizer.learning_rate=1: it takes ', ' lr, '],
    ),
    'dataset.ann_flie': (
        {f'{TRAIN}.ann_flie': 'x'},
        [f"{TRAIN}.ann_flie='x'", 'did you mean ann_file?'],
    ),
    'custom_hook': (
        {'custom_hook': []},
        ['custom_hook=[]', "Write 'custom_hooks'"],
    ),
    'optim_wraper': (
        {'optim_wraper': dict(clip_grad=None)},
        ["optim_wraper={'clip_grad': None}", "Write 'optim_wrapper'"],
    ),
    'type of the temperature': (
        {f'{TEMPERATURE}.type': 'ctkd_mm.GlobalTemprature'},
        [f"{TEMPERATURE}.type='ctkd_mm.GlobalTemprature'", 'ctkd_mm.GlobalTemperature'],
    ),
    'type of the hook': (
        {'custom_hooks.0.type': 'ctkd_mm.CuriculumHook'},
        ["custom_hooks.0.type='ctkd_mm.CuriculumHook'", 'ctkd_mm.CurriculumHook'],
    ),
    'type of the backbone': (
        {'model.architecture.backbone.type': 'ResNett'},
        ["model.architecture.backbone.type='ResNett'", 'did you mean ResNet'],
    ),
    'tau_range negative': (
        {f'{TEMPERATURE}.tau_range': -5},
        [f'{TEMPERATURE}.tau_range=-5', 'must be > 0', 'width'],
    ),
    'tau_range not finite': (
        {f'{TEMPERATURE}.tau_range': math.inf},
        [f'{TEMPERATURE}.tau_range=inf', 'must be > 0', 'width'],
    ),
    'tau_init 0': (
        {f'{TEMPERATURE}.tau_init': 0},
        [f'{TEMPERATURE}.tau_init=0', 'must be > 0', 'floor'],
    ),
    'tau_start below its range': (
        {f'{TEMPERATURE}.tau_start': 1},
        [f'{TEMPERATURE}.tau_start=1', 'strictly between', 'tau_range=21'],
    ),
    'tau_start above its range': (
        {f'{TEMPERATURE}.tau_start': 30},
        [f'{TEMPERATURE}.tau_start=30', 'strictly between', 'tau_range=21'],
    ),
    'loss_weight negative': (
        {'model.loss_kd.loss_weight': -1},
        ['model.loss_kd.loss_weight=-1', 'must be >= 0', '0 turns'],
    ),
    'lambda negative': (
        {'custom_hooks.0.lambda_max': -1},
        ['custom_hooks.0.lambda_max=-1', 'must be >= 0', 'carries the minus'],
    ),
    'end before begin': (
        {'custom_hooks.0.begin': 7},
        ['custom_hooks.0.begin=7', 'custom_hooks.0.end=5', 'end must be > begin'],
    ),
    'curriculum by epoch in a loop by iteration': (
        {
            'train_cfg': dict(
                _delete_=True, type='ctkd_mm.ResumableIterBasedTrainLoop', max_iters=2
            ),
            'train_dataloader.sampler.type': 'InfiniteSampler',
            'param_scheduler': None,
        },
        ['by_epoch=True', 'IterBasedTrainLoop', 'set by_epoch=False'],
    ),
    'curriculum without a learnable loss': (
        {'model.loss_kd': dict(_delete_=True, type='mmrazor.KLDivergence', tau=1)},
        ['CurriculumHook', 'no GradientReversal', 'drop the hook'],
    ),
    'learnable loss without a curriculum': (
        {'custom_hooks': []},
        ['custom_hooks', TEMPERATURE[len('model.') :], "type='ctkd_mm.CurriculumHook'"],
    ),
    'instance temperature of other classes': (
        {
            TEMPERATURE: dict(
                _delete_=True, type='ctkd_mm.InstanceTemperature', num_classes=80
            )
        },
        [f'{TEMPERATURE}.num_classes=80', 'must be that of student', ' 10'],
    ),
    'student of other classes': (
        {'model.architecture.roi_head.bbox_head.num_classes': 80},
        ['num_classes=80 in architecture', 'num_classes=10 in teacher', 'must know'],
    ),
    'RoIs of another size': (
        {'model.architecture.roi_head.bbox_roi_extractor.roi_layer.output_size': 14},
        [
            'model.architecture.roi_head.bbox_head cannot take',
            'roi_layer.output_size=(14, 14)',
            'roi_feat_size=(7, 7)',
            'Set output_size to roi_feat_size',
        ],
    ),
    'data of fewer classes': (
        {f'{TRAIN}.metainfo.classes': tuple('012345678')},
        ['bbox_head.num_classes=10', f'{TRAIN}.metainfo.classes', '9 names', 'agree'],
    ),
    'classes in another order': (
        {f'{TRAIN}.metainfo.classes': tuple('9876543210')},
        [f'{TRAIN}.metainfo.classes', "label 0 would be '0' and not '9'", 'Write'],
    ),
    'class misspelt': (
        {f'{TRAIN}.metainfo.classes': ('zero', *'123456789')},
        [f'{TRAIN}.metainfo.classes', "no category 'zero'", 'use the names'],
    ),
    'one class without a comma': (
        {f'{TRAIN}.metainfo.classes': '0123456789'},
        [f'{TRAIN}.metainfo.classes', 'is a string', 'Add a comma'],
    ),
    'tau_range with a decimal comma': (
        {f'{TEMPERATURE}.tau_range': [2, 5]},
        [f'{TEMPERATURE}.tau_range', 'must be > 0', '[2, 5]', 'width'],
    ),
    'tau_start a string': (
        {f'{TEMPERATURE}.tau_start': '3'},
        ["got '3'", 'strictly between', 'tau_range=21'],
    ),
    'end a string': (
        {'custom_hooks.0.end': '5'},
        ["end='5'", 'end must be > begin'],
    ),
    'expect_map a number': (
        {'default_hooks.preflight.expect_map': 0.4},
        ['default_hooks.preflight.expect_map', 'got 0.4', 'dict(value=0..1'],
    ),
    'expect_map of half an image': (
        {'default_hooks.preflight.expect_map': dict(value=0.4, tol=0, images=1.5)},
        ['default_hooks.preflight.expect_map', "'images': 1.5", 'images=>= 1'],
    ),
    'depth of another type': (
        {'model.architecture.backbone.depth': [18]},
        ["unhashable type: 'list'", 'model.architecture.backbone={', "'depth': [18]"],
    ),
    'train_cfg.val_interval 0': (
        {'train_cfg.val_interval': 0},
        ['train_cfg.val_interval=0', 'expected a number >= 1', 'For none'],
    ),
    'save_best of no figure': (
        {'default_hooks.checkpoint.save_best': 'coco/bbox_map'},
        ["save_best='coco/bbox_map'", "Write 'coco/bbox_mAP'"],
    ),
    'paramwise_cfg.custom_key': (
        {'optim_wrapper.paramwise_cfg.custom_key': {}},
        ['optim_wrapper.paramwise_cfg.custom_key={}', "Write 'custom_keys'"],
    ),
    'evaluation of a part of a file': (
        {f'{VAL}.indices': 2},
        [f'{VAL}.indices=2', 'count as missed', 'tools/coco_subset.py'],
    ),
    'half an epoch': (
        {'train_cfg.max_epochs': 1.5},
        ['should be a integer', 'correct train_cfg.max_epochs=1.5'],
    ),
    'batch size 0': (
        {'train_dataloader.batch_size': 0},
        ['positive integer', 'correct train_dataloader.batch_size=0'],
    ),
    'all images filtered out': (
        {f'{TRAIN}.filter_cfg.min_size': 9999},
        [TRAIN, '16 images', "'min_size': 9999", 'loosen the filter'],
    ),
    'resume from a missing file': (
        {'resume': True, 'load_from': 'no/such/epoch_2.pth'},
        ['can not be found', "correct load_from='no/such/epoch_2.pth'"],
    ),
    'start from a URL without network': (
        {'load_from': 'https://no-such-host.invalid/t.pth'},
        ['could not be downloaded', "give the file's path (load_from"],
    ),
}


@pytest.mark.parametrize(('options', 'words'), BAD_CONFIG.values(), ids=BAD_CONFIG)
def test_a_bad_config_ends_in_one_error(refuse, options, words):
    error = refuse(**options)
    assert [word for word in words if word not in error] == [], error


def test_an_error_is_told_where_the_config_cannot_be_looked_into():
    assert explain(ValueError('what is wrong'), None) == 'what is wrong'


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
        ['is a web page', 'download the file itself'],
    ),
    'cut short': (
        written_as('t.pth', lambda content: content[:-4000]),
        ['cut short', 'get it again'],
    ),
    'empty': (
        written_as('t.pth', lambda content: b''),
        ['is an empty file', 'get it again'],
    ),
    'a folder': (
        lambda folder, teacher_ckpt: str(folder),
        ['is a folder', 'give the checkpoint file'],
    ),
    'missing': (
        lambda folder, teacher_ckpt: str(folder / 'none.pth'),
        ['does not exist', 'train or download'],
    ),
    'a URL without network': (
        lambda folder, teacher_ckpt: 'https://no-such-host.invalid/t.pth',
        ['could not be fetched', 'give the path'],
    ),
    'not weights': (
        saved_as('t.pth', lambda checkpoint: dict(state_dict={})),
        ['holds no weights', 'expected a checkpoint'],
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
        ['checkpoint of a distillation', 'tools/extract_student.py'],
    ),
}


@pytest.mark.parametrize(('make', 'words'), BAD_TEACHER.values(), ids=BAD_TEACHER)
def test_a_bad_teacher_file_ends_in_one_error(
    refuse, teacher_ckpt, tmp_path, make, words
):
    path = make(tmp_path, teacher_ckpt)
    error = refuse(**{'model.teacher_ckpt': path})
    words = [f'teacher_ckpt={path!r}', *words]
    assert [word for word in words if word not in error] == [], error


def test_a_teacher_of_another_width_is_refused(refuse, teacher_ckpt):
    config = 'configs/demo/faster-rcnn_r18-eighth_fpn_digits.py'
    error = refuse(**{'model.teacher': config})
    assert f'teacher_ckpt={str(teacher_ckpt)!r} does not fit the teacher' in error
    assert '(32, 3, 7, 7) in the file, (8, 3, 7, 7) in the model' in error


def test_no_teacher_file_is_refused(refuse):
    error = refuse(**{'model.teacher_ckpt': None})
    assert 'model.teacher_ckpt is None' in error
    assert 'Give the path or URL' in error


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


@needs_restricted_load
@pytest.mark.parametrize('key', ['model.teacher_ckpt', 'load_from'])
@pytest.mark.parametrize(
    ('save', 'word'),
    [(torch.save, 'mkdir'), (pickle.dump, 'is no checkpoint')],
    ids=['torch', 'pickle'],
)
def test_no_code_in_a_file_is_run(refuse, tmp_path, key, save, word):
    marker, path = tmp_path / 'marker', tmp_path / 'bad.pth'
    with path.open('wb') as file:
        save(dict(state_dict=dict(x=Payload(marker))), file)
    error = refuse(**{key: str(path)})
    assert not marker.exists()
    assert str(path) in error
    assert word in error


@needs_restricted_load
def test_a_resume_from_half_a_checkpoint_names_the_file(refuse, teacher_ckpt, tmp_path):
    path = tmp_path / 'half.pth'
    path.write_bytes(teacher_ckpt.read_bytes()[:-4000])
    error = refuse(resume=True, load_from=str(path))
    assert str(path) in error
    assert 'cut short' in error


@needs_restricted_load
def test_a_resume_from_a_damaged_last_checkpoint_names_it(refuse, cfg):
    error = refuse(resume=True)
    assert f'{cfg.work_dir}/epoch_1.pth' in error
    assert 'is no checkpoint' in error


def test_forgotten_metainfo_that_leaves_no_image_is_told_with_the_names(refuse):
    error = refuse(**{f'{TRAIN}.metainfo': None})
    assert 'a data set has no image left' in error
    names = tuple('0123456789')
    assert 'took the 80 class names of CocoDataset' in error
    assert f'Write metainfo=dict(classes={names!r})' in error
    assert error.count('metainfo is not set') == 1  # the validation set has it
