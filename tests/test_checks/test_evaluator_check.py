from __future__ import annotations

import json

import pytest
from mmengine.config import Config

from ctkd_mm.checks.evaluator_check import check_evaluator, check_save_best


@pytest.fixture
def cfg(digits) -> Config:
    """A data set with the evaluator of its file, and one for the tests likewise."""
    file = 'annotations/val.json'
    dataset = dict(type='CocoDataset', data_root=f'{digits}', ann_file=file)
    evaluator = dict(type='CocoMetric', ann_file=f'{digits}/{file}')
    return Config(
        dict(
            val_dataloader=dict(dataset=dataset),
            val_evaluator=evaluator,
            test_dataloader=dict(dataset=dataset),
            test_evaluator=[evaluator],
        )
    )


@pytest.mark.parametrize('split', ['val', 'test'])
def test_one_file_passes_however_it_is_written(cfg, split, monkeypatch, digits):
    check_evaluator(cfg, split)
    monkeypatch.chdir(digits.parent)
    cfg[f'{split}_dataloader'].dataset.ann_file = 'not/yet/there.json'
    path = f'{digits.name}/train/../not/yet/there.json'
    cfg[f'{split}_evaluator'] = dict(type='ctkd_mm.FastCocoMetric', ann_file=path)
    check_evaluator(cfg, split)


def test_another_file_is_refused_with_both(cfg, digits):
    cfg.val_evaluator.ann_file = f'{digits}/annotations/train.json'
    message = (
        rf'^val_evaluator\.ann_file=.*train\.json. has other images than '
        rf'.{digits}/annotations/val\.json., which val_dataloader\.dataset reads'
    )
    with pytest.raises(ValueError, match=message):
        check_evaluator(cfg, 'val')
    check_evaluator(cfg, 'test')


@pytest.mark.parametrize(
    ('wrap', 'key'),
    [
        (lambda metric: [dict(type='VOCMetric'), metric], 'test_evaluator.1'),
        (lambda metric: dict(metrics=metric), 'test_evaluator.metrics'),
    ],
    ids=['list', 'evaluator'],
)
def test_each_metric_is_looked_at(cfg, wrap, key):
    cfg.test_evaluator = wrap(dict(type='CocoMetric', ann_file='other.json'))
    with pytest.raises(ValueError, match=rf"^{key}\.ann_file='other\.json' has"):
        check_evaluator(cfg, 'test')


def test_a_wrapped_data_set_is_looked_into(cfg):
    inner = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=inner)
    check_evaluator(cfg, 'val')
    cfg.val_evaluator.ann_file = 'other.json'
    with pytest.raises(ValueError, match=r'which val_dataloader\.dataset\.dataset'):
        check_evaluator(cfg, 'val')


@pytest.mark.parametrize(
    'change',
    [
        {'val_evaluator.ann_file': None},
        {'val_evaluator.format_only': True},
        {'val_dataloader.dataset.ann_file': ['a.json', 'b.json']},
        {'val_evaluator.type': 'CrowdHumanMetric'},
        {'val_dataloader.dataset.type': 'XMLDataset'},
        {'val_dataloader.dataset.type': 'CocoPanopticDataset'},
        {'val_evaluator': None, 'val_dataloader': None},
    ],
    ids=[
        'no file',
        'no mAP',
        'two files',
        'other metric',
        'other format',
        'panoptic',
        'no validation',
    ],
)
def test_what_cannot_be_compared_passes(cfg, change):
    cfg.val_evaluator.ann_file = 'other.json'
    cfg.merge_from_dict(change)
    check_evaluator(cfg, 'val')


def test_another_file_of_the_same_images_is_as_good(cfg, digits, tmp_path):
    coco = json.loads((digits / 'annotations/val.json').read_text())
    corrected = tmp_path / 'corrected.json'
    cfg.val_evaluator.ann_file = str(corrected)
    coco['annotations'].pop()
    corrected.write_text(json.dumps(coco, indent=1))
    check_evaluator(cfg, 'val')
    coco['images'][0]['file_name'] += '.png'
    corrected.write_text(json.dumps(coco))
    with pytest.raises(ValueError, match='Set both to one file'):
        check_evaluator(cfg, 'val')


def test_a_part_of_the_file_is_refused_but_for_a_metric_without_one(cfg):
    cfg.val_dataloader.dataset.indices = 2
    message = r'^val_dataloader\.dataset\.indices=2 is a part .*tools/coco_subset\.py'
    with pytest.raises(ValueError, match=message):
        check_evaluator(cfg, 'val')
    for all_of_it in (4, 100, -4, [0, 1, 2, 3]):
        cfg.val_dataloader.dataset.indices = all_of_it
        check_evaluator(cfg, 'val')
    cfg.val_dataloader.dataset.indices = [0, 1]
    with pytest.raises(ValueError, match=r'indices=\[0, 1\] is a part'):
        check_evaluator(cfg, 'val')
    cfg.val_evaluator.ann_file = None  # counts what it is shown
    check_evaluator(cfg, 'val')


@pytest.mark.parametrize(
    ('metric', 'good', 'bad'),
    [
        ({}, 'coco/bbox_mAP', 'coco/bbox_map'),
        ({}, 'auto', 'bbox_mAP'),
        (dict(metric=['bbox', 'segm']), 'coco/segm_mAP_50', 'coco/mask_mAP'),
        (dict(prefix='mine'), 'mine/bbox_mAP_s', 'coco/bbox_mAP_s'),
        (dict(metric_items=['mAP']), 'coco/bbox_mAP', 'coco/bbox_mAP_50'),
        (dict(metric='proposal_fast'), 'coco/AR@300', 'coco/AR@5'),
        (dict(classwise=True), 'coco/cat_precision', 'coco/cat_AP'),
    ],
)
def test_save_best_names_a_figure_of_the_evaluator(cfg, metric, good, bad):
    cfg.val_evaluator.update(metric)
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', save_best=good))
    check_save_best(cfg)
    cfg.default_hooks.checkpoint.save_best = [good, bad]
    with pytest.raises(ValueError, match=f'save_best={bad!r} is no figure of'):
        check_save_best(cfg)
    cfg.val_cfg = dict(type='TeacherStudentValLoop')  # whose names have a prefix
    check_save_best(cfg)
    cfg.val_cfg = None
    metric = cfg.val_evaluator
    cfg.val_evaluator = dict(type='MultiDatasetsEvaluator', metrics=[metric])
    check_save_best(cfg)
    cfg.val_evaluator = {**metric, 'type': 'OVCocoMetric'}
    check_save_best(cfg)
