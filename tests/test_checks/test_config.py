from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS

from ctkd_mm import CTKDLoss, CurriculumHook, GlobalTemperature
from ctkd_mm.checks.config import (
    frozen_random_backbone,
    left_at_the_top,
    no_curriculum,
    other_classes,
    other_constructor,
)


@pytest.mark.parametrize(
    ('key', 'place'),
    [
        ('loss_kd', 'model.loss_kd'),
        ('loss_ld', 'model.bbox_head.loss_ld'),
        ('distiller', 'model.distiller'),
        ('paramwise_cfg', 'optim_wrapper.paramwise_cfg'),
    ],
)
def test_a_methods_setting_at_the_top_level_is_told_with_its_place(key, place):
    (line,) = left_at_the_top(SimpleNamespace(cfg={key: 1, 'model': {key: 2}}))
    assert line.startswith(f'{key} at the top level')
    assert f"write {place}, in a config that inherits it {key}=_base_.pop('{key}')" in (
        line
    )
    *parents, last = place.split('.')
    read = {last: 1}
    for parent in reversed(parents):
        read = {parent: read}
    elsewhere = {'model': {'distiller': {'distill_losses': {key: 1}}}}
    for sound in (
        {'model': {key: 1}},
        {key: None},
        {key: 1, **read},
        {key: 1, **elsewhere},
    ):
        assert list(left_at_the_top(SimpleNamespace(cfg=sound))) == []


def test_a_constructor_that_may_look_for_a_detectors_names_is_told():
    cfg = Config(dict(model=dict(architecture={}), optim_wrapper={}))
    assert list(other_constructor(cfg)) == []
    cfg.optim_wrapper.constructor = 'ctkd_mm.MergedOptimWrapperConstructor'
    assert list(other_constructor(cfg)) == []
    cfg.optim_wrapper.constructor = 'LearningRateDecayOptimizerConstructor'
    (line,) = other_constructor(cfg)
    assert line == (
        "optim_wrapper.constructor='LearningRateDecayOptimizerConstructor' gets the "
        "distiller, no detector. Write constructor='ctkd_mm."
        "MergedOptimWrapperConstructor', paramwise_cfg=dict(student=dict(type="
        "'LearningRateDecayOptimizerConstructor', ...))"
    )
    cfg.model = dict(type='FasterRCNN')  # a detector alone
    assert list(other_constructor(cfg)) == []
    assert list(other_constructor(Config())) == []  # a Runner made in Python


def test_a_learnable_temperature_without_the_hook_is_told_by_its_path():
    runner = SimpleNamespace(model=CTKDLoss(GlobalTemperature()), hooks=[])
    (line,) = no_curriculum(runner)
    assert 'temperature.grl is learnable' in line
    assert "Add dict(type='ctkd_mm.CurriculumHook', end=5)" in line
    runner.hooks = [CurriculumHook(end=5)]
    assert list(no_curriculum(runner)) == []


def with_data(model, dataset) -> SimpleNamespace:
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(model=model, train_dataloader=loader, val_loop=None)


def named(classes) -> SimpleNamespace:
    return SimpleNamespace(metainfo=dict(classes=classes))


def test_heads_of_another_number_of_classes_are_told_with_both(student_cfg):
    model = MODELS.build(student_cfg)
    assert list(other_classes(with_data(model, named(tuple('0123456789'))))) == []
    (line,) = other_classes(with_data(model, named(tuple('012345678'))))
    assert line == (
        'model.roi_head.bbox_head.num_classes is 10, but '
        'train_dataloader.dataset.metainfo.classes has 9 names: make them equal'
    )


@pytest.mark.parametrize(
    ('name', 'metainfo'),
    [
        ('cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco', {}),
        ('panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco', dict(thing_classes='c' * 80)),
    ],
)
def test_rpns_and_panoptic_heads_have_classes_of_their_own(name, metainfo):
    cfg = get_config(f'mmdet::{name}.py').model
    cfg.backbone = dict(type='ResNet', depth=18, base_channels=4)
    cfg.neck.in_channels = [4, 8, 16, 32]
    classes = tuple(map(str, range(133 if metainfo else 80)))
    dataset = SimpleNamespace(metainfo=dict(classes=classes, **metainfo))
    assert list(other_classes(with_data(MODELS.build(cfg), dataset))) == []


def test_each_part_of_data_is_compared_whatever_its_wrapper_says(student_cfg):
    sets = [named(tuple('0123456789')), named(tuple('012345678'))]
    # As MMDetection's ConcatDataset of parts whose metainfo differs.
    both = SimpleNamespace(datasets=sets, metainfo=[part.metainfo for part in sets])
    (line,) = other_classes(with_data(MODELS.build(student_cfg), both))
    assert 'train_dataloader.dataset.datasets.1.metainfo.classes has 9 names' in line


@pytest.mark.parametrize('metainfo', [None, {}])
def test_data_without_class_names_passes(student_cfg, metainfo):
    dataset = SimpleNamespace(metainfo=metainfo)
    runner = with_data(MODELS.build(student_cfg), dataset)
    assert list(other_classes(runner)) == []


def test_a_classifier_is_left_to_its_own_framework():
    model = torch.nn.Module()
    model.data_preprocessor = torch.nn.Module()
    model.data_preprocessor.num_classes = 100
    assert list(other_classes(with_data(model, named(tuple('0123456789'))))) == []


def told(cfg: dict, **loaded: bool) -> list[str]:
    model = MODELS.build(cfg)
    runner = SimpleNamespace(model=model, _has_loaded=False, **loaded)
    return list(frozen_random_backbone(runner))


def test_a_backbone_that_trains_wholly_passes(student_cfg):
    assert told(student_cfg) == []


@pytest.mark.parametrize(
    ('key', 'value', 'numbers'),
    [
        # conv1 and bn1: 3 parameters.
        ('frozen_stages', 0, '3 of its parameters .* 1 of its 20'),
        ('norm_eval', True, '0 of its parameters .* 20 of its 20'),
        ('norm_cfg', dict(type='BN', requires_grad=False), '40 of its p.* 0 of its 20'),
    ],
)
def test_random_weights_that_stay_frozen_are_told(student_cfg, key, value, numbers):
    student_cfg.backbone[key] = value
    (line,) = told(student_cfg)
    assert re.search(numbers, line)
    assert 'norm_eval=False' in line


def test_weights_that_are_loaded_are_not_told(student_cfg):
    student_cfg.backbone.frozen_stages = 0
    student_cfg.backbone.init_cfg = dict(type='Pretrained', checkpoint='x.pth')
    assert told(student_cfg) == []
    runner = SimpleNamespace(model=MODELS.build(student_cfg), _has_loaded=True)
    assert list(frozen_random_backbone(runner)) == []
