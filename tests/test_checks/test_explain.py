from __future__ import annotations

import importlib.util

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, MODELS

from ctkd_mm.checks.explain import explain

TEMPERATURE = dict(type='ctkd_mm.GlobalTemperature')


def error_of(build, cfg: dict) -> Exception:
    with pytest.raises(Exception) as caught:
        build(cfg)
    return caught.value


def of_model(**model) -> Config:
    return Config(dict(model=model, variable=dict(tau_rnage=1)))


def test_a_misspelt_argument_is_told_with_key_value_and_the_nearest():
    loss = dict(type='ctkd_mm.CTKDLoss', temperature=dict(TEMPERATURE, tau_rnage=5))
    error = error_of(MODELS.build, loss)
    text = explain(error, of_model(loss_kd=loss))
    assert text.startswith(str(error))
    told = '[model.loss_kd.temperature.tau_rnage=5: did you mean tau_range?]'
    assert text.endswith(told)


def test_an_argument_that_a_class_hands_to_its_parent_is_none():
    loss = dict(type='ctkd_mm.CTKDLoss', temperature=TEMPERATURE, loss_wieght=2)
    text = explain(error_of(MODELS.build, loss), of_model(loss_kd=loss))
    assert text.endswith('[model.loss_kd.loss_wieght=2: did you mean loss_weight?]')


@pytest.mark.parametrize(
    ('build', 'key', 'name', 'near'),
    [
        (MODELS.build, 'model', 'ctkd_mm.CTKDLos', 'CTKDLoss'),
        (HOOKS.build, 'custom_hooks', 'ctkd_mm.CuriculumHook', 'CurriculumHook'),
    ],
)
def test_a_misspelt_type_is_told_with_key_and_the_nearest(build, key, name, near):
    error = error_of(build, dict(type=name))
    cfg = Config({key: [dict(type=name)]})
    told = f'[{key}.0.type={name!r}: did you mean {near}?]'
    assert explain(error, cfg).endswith(told)


@pytest.mark.parametrize(
    'error', [KeyError('mask'), ValueError('train.txt is not JSON'), OSError('gone')]
)
def test_another_error_keeps_its_own_words(error):
    assert explain(error, of_model(backbone=dict(mask='mask'))) == str(error.args[0])


def test_what_a_distiller_lacks_is_told_with_the_optimizers_constructor(ctkd_cfg):
    model = MODELS.build(ctkd_cfg)
    kind = 'LearningRateDecayOptimizerConstructor'
    optim_wrapper = dict(
        constructor=kind,
        optimizer=dict(type='AdamW', lr=1),
        paramwise_cfg=dict(num_layers=6, decay_rate=0.7),
    )
    cfg = Config(dict(model=ctkd_cfg, optim_wrapper=optim_wrapper))
    error = error_of(lambda cfg: build_optim_wrapper(model, cfg), optim_wrapper)
    told = "'RoILogitDistill' object has no attribute 'backbone' [optim_wrapper.const"
    assert explain(error, cfg).startswith(told)
    cfg.optim_wrapper.constructor = None
    assert explain(error, cfg) == str(error)


def test_a_lost_file_of_voc_and_a_missing_package_keep_their_words(digits, tmp_path):
    (tmp_path / 'train.txt').write_text('000001\n')
    voc = dict(type='VOCDataset', ann_file=f'{tmp_path}/train.txt')
    voc['data_prefix'] = dict(sub_data_root=f'{tmp_path}/VOC2007/')
    error = error_of(DATASETS.build, voc)
    cfg = Config(dict(train_dataloader=dict(dataset=voc)))
    assert isinstance(error, FileNotFoundError)
    assert explain(error, cfg) == str(error)
    assert '000001.xml' in str(error)
    if importlib.util.find_spec('lvis') is None:
        lvis = dict(type='LVISV1Dataset', ann_file=f'{digits}/annotations/train.json')
        error = error_of(DATASETS.build, lvis)
        cfg = Config(dict(train_dataloader=dict(dataset=lvis)))
        assert explain(error, cfg) == str(error)
        assert 'Package lvis is not installed' in str(error)


def test_an_error_without_words_is_told_by_its_kind():
    assert explain(AssertionError(), None) == 'AssertionError'


def test_an_error_is_told_where_the_config_cannot_be_looked_into():
    error = TypeError("unexpected keyword argument 'x'")
    assert explain(error, None) == str(error)


def test_a_set_that_kept_no_image_without_its_classes_is_told_with_them(digits):
    data = dict(type='CocoDataset', data_root=f'{digits}/')
    data['ann_file'] = 'annotations/train.json'
    cfg = Config(dict(train_dataloader=dict(dataset=dict(dataset=data))))
    error = ValueError('need at least one array to concatenate')
    text = explain(error, cfg)
    assert text.startswith(str(error))
    assert 'train_dataloader.dataset.dataset.metainfo is not set' in text
    assert f'Write metainfo=dict(classes={tuple("0123456789")!r})' in text
    data['metainfo'] = dict(classes=tuple('0123456789'))
    assert explain(error, Config(dict(train_dataloader=dict(dataset=data)))) == str(
        error
    )
