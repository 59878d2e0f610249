"""Pairs of MMDetection's detectors: the config that is written, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.dense_detectors import narrow_detector
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS

from ctkd_mm import cli
from ctkd_mm.apis.model_zoo import find_config, zoo_weights
from ctkd_mm.apis.new_pair import _stem, new_pair, pair_config
from ctkd_mm.apis.pair_template import render
from ctkd_mm.checks.dry_run import check

ROOT = Path(__file__).parents[2]
METHODS = ROOT / 'configs' / '_base_' / 'methods'
HOOKS = Config.fromfile(ROOT / 'configs' / '_base_' / 'hooks.py').ctkd_hooks
FASTER = 'faster-rcnn_r50_fpn_1x_coco'
FASTER_R18 = 'faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco'
FASTER_90K = 'faster-rcnn_r50-caffe_fpn_90k_coco'
RETINA = 'retinanet_r18_fpn_1x_coco'
RTMDET = 'rtmdet_tiny_8xb32-300e_coco'
VOC = 'faster-rcnn_r50_fpn_1x_voc0712'
DEMO = str(ROOT / 'configs/demo/faster-rcnn_r18-{}_fpn_digits.py')
CKPT = 'https://weights/teacher.pth'
SHARED = {'loss_kd', 'distiller', 'paramwise_cfg', 'ctkd_hooks', 'method'}


class Pair(NamedTuple):
    teacher: str
    student: str
    method: str = 'ctkd'
    used: str = 'ctkd'  # the method that is written
    teacher_ckpt: str | None = CKPT


TWO_STAGE = dict(
    faster=Pair(FASTER, FASTER_R18, teacher_ckpt=None),
    digits=Pair(
        DEMO.format('half'), DEMO.format('eighth'), 'ctkd-instance', 'ctkd-instance'
    ),
)
ONE_STAGE = dict(
    rtmdet=Pair('rtmdet_s_8xb32-300e_coco', RTMDET, 'ctkd-dense', 'ctkd-dense'),
    retinanet=Pair('retinanet.py', 'retinanet.py', used='ctkd-dense'),
    softmax=Pair('softmax.py', 'softmax.py'),
)
PAIRS = {**TWO_STAGE, **ONE_STAGE}


class Written(NamedTuple):
    path: Path
    report: list
    cfg: Config


def narrow(name: str, folder: Path, **head: Any) -> str:
    """The config of a small one-stage detector for the digits."""
    cfg = Config.fromfile(DEMO.format('eighth'))
    cfg.model = narrow_detector(name)
    for key, value in head.items():
        cfg.model.bbox_head[key] = value  # update() would merge
    path = folder / f'{"softmax" if head else name}.py'
    cfg.dump(path)
    return str(path)


@pytest.fixture(scope='module')
def detectors(tmp_path_factory) -> dict[str, str]:
    """Small one-stage detectors, by the names in ``PAIRS``."""
    folder = tmp_path_factory.mktemp('detectors')
    softmax = dict(type='CrossEntropyLoss', use_sigmoid=False)
    return {
        'atss.py': narrow('atss', folder),
        'retinanet.py': narrow('retinanet', folder),
        'softmax.py': narrow('retinanet', folder, loss_cls=softmax),
        'faster.py': DEMO.format('eighth'),
    }


@pytest.fixture(scope='module')
def write(tmp_path_factory, detectors):
    """Write a pair's config, once."""
    done = {}

    def once(name: str) -> Written:
        if name not in done:
            teacher, student, method, _, ckpt = PAIRS[name]
            names = [detectors.get(config, config) for config in (teacher, student)]
            path = tmp_path_factory.mktemp(name) / 'pair.py'
            report = new_pair(*names, str(path), method, ckpt)
            done[name] = Written(path, report, Config.fromfile(path))
        return done[name]

    return once


@pytest.mark.parametrize('name', PAIRS)
def test_structure_decides_distiller_and_method(write, name):
    pair, written = PAIRS[name], write(name)
    distiller = 'RoILogitDistill' if name in TWO_STAGE else 'DenseLogitDistill'
    assert written.report[0] == f'ctkd_mm.{distiller}, method {pair.used}'
    assert written.cfg.model.type == f'ctkd_mm.{distiller}'
    assert f"/configs/_base_/methods/{pair.used}.py'" in written.path.read_text()


@pytest.mark.process
def test_the_configs_are_short_and_clean(write):
    paths = [str(write(name).path) for name in PAIRS]
    assert max(len(Path(path).read_text().splitlines()) for path in paths) <= 30
    for command in (['check'], ['format', '--check']):
        options = ['--no-cache', '--config', str(ROOT / 'pyproject.toml')]
        subprocess.run(
            [sys.executable, '-m', 'ruff', *command, *options, *paths], check=True
        )


def test_the_distillation_ends_where_the_students_pipeline_switches(write):
    stop = dict(type='mmrazor.StopDistillHook', stop_epoch=280)
    assert write('rtmdet').cfg.default_hooks.stop == stop
    assert 'stop' not in write('faster').cfg.default_hooks


@pytest.mark.parametrize('name', ['faster', 'rtmdet'])
def test_data_and_schedule_are_the_students(write, name):
    cfg = write(name).cfg
    own = find_config(PAIRS[name].student)
    student = Config.fromstring(f'_base_ = {own!r}', '.py')
    for key in ('train_dataloader', 'val_evaluator', 'param_scheduler', 'visualizer'):
        assert cfg[key] == student[key]
    assert cfg.optim_wrapper.optimizer == student.optim_wrapper.optimizer
    loop = student.train_cfg
    assert cfg.train_cfg == {**loop, 'type': f'ctkd_mm.Resumable{loop.type}'}
    checkpoint = student.default_hooks.checkpoint
    assert cfg.default_hooks.checkpoint == {**checkpoint, **HOOKS.checkpoint}
    assert all(cfg.default_hooks[key].type == HOOKS[key].type for key in HOOKS)


@pytest.mark.parametrize('name', ['faster', 'rtmdet'])
def test_nothing_of_the_method_stays_at_the_top_to_look_settable(write, name):
    assert not SHARED & write(name).cfg.keys()


@pytest.mark.parametrize('name', ['faster', 'rtmdet'])
def test_what_a_training_stores_of_it_says_the_same(write, name):
    cfg = write(name).cfg
    assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    ('name', 'places'),
    [
        ('faster', 'RoIs from levels of strides [4, 8, 16, 32], 81 logits each'),
        ('digits', 'RoIs from levels of strides [4, 8, 16, 32], 11 logits each'),
        (
            'rtmdet',
            '[1, 1, 1] anchors or points a place at strides [8, 16, 32], 80 logits '
            'each',
        ),
        (
            'softmax',
            '[9, 9, 9, 9, 9] anchors or points a place at strides '
            '[8, 16, 32, 64, 128], 11 logits each',
        ),
    ],
)
def test_both_heads_were_probed(write, name, places):
    report = write(name).report
    assert f'architecture: {places}' in report
    assert any(line.startswith('teacher: ') for line in report)


def test_the_zoos_weights_are_the_teachers(write):
    cfg = write('faster').cfg.model
    assert cfg.teacher == f'mmdet::faster_rcnn/{FASTER}.py'
    assert cfg.teacher_ckpt.startswith('https://download.openmmlab.com/mmdetection/')
    assert '/faster_rcnn_r50_fpn_1x_coco_' in cfg.teacher_ckpt


def test_given_weights_win(write):
    assert write('rtmdet').cfg.model.teacher_ckpt == CKPT


def test_the_instance_temperature_gets_the_pairs_classes(write):
    assert write('digits').cfg.model.loss_kd.temperature.num_classes == 10


def test_the_students_own_hooks_stay_beside_the_methods(write):
    cfg = write('rtmdet').cfg
    types = [type(ROOT_HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks]
    ours = ['CurriculumHook', 'TemperatureDoctorHook']
    assert types == ['EMAHook', 'PipelineSwitchHook', *ours]


def test_the_students_rates_stay_beside_the_temperatures(write):
    cfg = write('rtmdet').cfg
    model = ROOT_MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    by_name = {
        name: group
        for name, parameter in model.named_parameters()
        for group in groups
        if group['params'][0] is parameter
    }
    raw_tau = by_name['distiller.distill_losses.loss_kd.temperature.raw_tau']
    assert (raw_tau['lr'], raw_tau['weight_decay']) == (pytest.approx(0.04), 0)
    stem = 'architecture.backbone.stem.0'
    assert by_name[f'{stem}.conv.weight']['weight_decay'] == 0.05
    assert by_name[f'{stem}.bn.weight']['weight_decay'] == 0


def test_one_preprocessor_is_noted(write):
    assert 'pixels: the same for both' in write('faster').report


# What the template makes of a student and a method, without building models.


def rendered(student: str, method: str, folder: Path) -> Config:
    path = folder / 'pair.py'
    student_cfg = Config.fromfile(student)
    kind = 'ctkd_mm.RoILogitDistill'
    path.write_text(render(student, student_cfg, student, CKPT, method, kind, folder))
    return Config.fromfile(path)


def test_a_teacher_of_more_classes_teaches_by_name(write, tmp_path):
    head = 'model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))'
    student = derived(tmp_path / 'three.py', DEMO.format('eighth'), head)
    out = tmp_path / 'pair.py'
    report = new_pair(DEMO.format('half'), student, str(out), 'ctkd-instance', CKPT)
    assert 'teacher classes: 3 of 10 by name' in report
    model = Config.fromfile(out).model
    assert model.teacher_classes == 'by name'
    assert model.loss_kd.temperature.num_classes == 3
    digits = write('digits')
    assert 'teacher classes: 10 of 10 as is' in digits.report
    assert 'teacher_classes' not in digits.path.read_text()


def test_a_methods_feature_losses_come_along(tmp_path):
    cfg = rendered(find_config(FASTER_R18), 'ctkd-pkd', tmp_path)
    assert cfg.model.distiller == Config.fromfile(METHODS / 'ctkd-pkd.py').distiller
    assert not SHARED & cfg.keys()


def test_the_ramp_takes_the_same_share_of_iterations(tmp_path):
    hook, _ = rendered(find_config(FASTER_90K), 'ctkd', tmp_path).custom_hooks
    assert hook.by_epoch is False
    assert hook.end == 90000 * 5 / 12


@pytest.mark.parametrize(
    ('by_epoch', 'length', 'loop'),
    [
        (True, 'max_epochs=12', 'EpochBasedTrainLoop'),
        (False, 'max_iters=90', 'IterBasedTrainLoop'),
    ],
)
def test_a_schedule_may_be_written_without_the_type_of_its_loop(
    tmp_path, by_epoch, length, loop
):
    text = f'train_cfg = dict(_delete_=True, by_epoch={by_epoch}, {length})'
    student = derived(tmp_path / 'student.py', f'mmdet::faster_rcnn/{FASTER}.py', text)
    cfg = rendered(student, 'ctkd', tmp_path)
    key, value = length.split('=')
    assert cfg.train_cfg == {'type': f'ctkd_mm.Resumable{loop}', key: int(value)}


def test_a_student_may_have_variables_named_as_the_methods(tmp_path):
    lines = 'paramwise_cfg = dict(norm_decay_mult=0)', 'custom_hooks = None'
    student = derived(
        tmp_path / 'student.py', f'mmdet::faster_rcnn/{FASTER}.py', '\n'.join(lines)
    )
    cfg = rendered(student, 'ctkd', tmp_path)
    assert list(cfg.optim_wrapper.paramwise_cfg.custom_keys) == ['loss_kd.temperature']
    types = [hook.type for hook in cfg.custom_hooks]
    assert types == ['ctkd_mm.CurriculumHook', 'ctkd_mm.TemperatureDoctorHook']
    assert not SHARED & cfg.keys()


def test_a_folder_behind_a_link_will_do(tmp_path):
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'a' / 'b')
    cfg = rendered(find_config(FASTER_R18), 'kd', tmp_path / 'link')
    assert cfg.model.loss_kd.type == 'mmrazor.KLDivergence'


# What is refused.


def derived(path: Path, base: str, text: str) -> str:
    path.write_text(f'_base_ = {base!r}\n{text}\n')
    return str(path)


REFUSED = dict(
    lvis=(
        Pair(FASTER, 'mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1'),
        'num_classes is 1203 in architecture, 80 in teacher: '
        'model.teacher_classes=None must give each class another one',
    ),
    distillation=(
        Pair('gfl_r50_fpn_1x_coco', 'ld_r18-gflv1-r101_fpn_1x_coco'),
        'student is a KnowledgeDistillationSingleStageDetector, a distillation itself: '
        "give the detector's own config",
    ),
    misspelt=(
        Pair('retinanet_r50_fpn_1_coco', RETINA),
        'retinanet_r50_fpn_1_coco is neither a file nor in the model zoo of '
        'MMDetection: did you mean retinanet_r50_fpn_1x_coco?',
    ),
    unknown=(
        Pair('no/such/detector', RETINA),
        'no/such/detector is neither a file nor in the model zoo of MMDetection',
    ),
    no_weights=(
        Pair(VOC, VOC),
        f'the model zoo has no weights for mmdet::pascal_voc/{VOC}.py: give '
        '--teacher-ckpt PATH_OR_URL',
    ),
    detr=(
        Pair(RETINA, 'detr_r50_8xb2-150e_coco'),
        'student must be a one-stage detector whose head scores the anchors or points',
    ),
)


@pytest.mark.parametrize('name', REFUSED)
def test_no_pair_of_the_zoo_is_refused_and_nothing_written(name, tmp_path):
    (teacher, student, method, _, _), message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        new_pair(teacher, student, str(tmp_path / 'pair.py'), method)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('teacher', 'student', 'method', 'message'),
    [
        ('retinanet', 'faster', 'kd', 'teacher must be a two-stage detector'),
        ('faster', 'retinanet', 'kd', 'teacher must be a one-stage detector'),
        (
            'atss',
            'retinanet',
            'kd',
            'student and teacher must score the same places, got num_base_priors '
            '[9, 9, 9, 9, 9] in architecture.bbox_head and '
            '[1, 1, 1, 1, 1] in teacher.bbox_head: ',
        ),
        ('retinanet', 'retinanet', 'normkd', 'loss_kd has NormKDLoss, '),
        ('faster', 'faster', 'ctkd-dense', 'loss_kd has BernoulliCTKDLoss, '),
    ],
)
def test_what_cannot_be_compared_is_refused(
    detectors, teacher, student, method, message, tmp_path
):
    names = [detectors[f'{name}.py'] for name in (teacher, student)]
    with pytest.raises(ValueError, match=re.escape(message)):
        new_pair(*names, str(tmp_path / 'pair.py'), method, CKPT)
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_overwritten(tmp_path):
    out = tmp_path / 'pair.py'
    out.write_text('mine')
    with pytest.raises(FileExistsError, match='pair.py'):
        new_pair(*map(DEMO.format, ('half', 'eighth')), str(out), 'ctkd', CKPT)
    assert out.read_text() == 'mine'


def test_a_name_that_mmengine_would_not_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match='must end in .py'):
        new_pair(*map(DEMO.format, ('half', 'eighth')), str(tmp_path / 'pair'))


def test_the_dots_of_a_name_stay_in_that_of_its_pair():
    stem = 'faster-rcnn_regnetx-3.2GF_fpn_1x_coco'
    for name in (stem, f'{stem}.py', f'mmdet::regnet/{stem}.py', f'/a/{stem}.py'):
        assert _stem(name) == stem


@pytest.mark.parametrize('method', ['kd', 'ctkd'])
def test_a_students_own_optimizer_constructor_gets_the_student(tmp_path, method):
    own = (
        "optim_wrapper = dict(constructor='LearningRateDecayOptimizerConstructor', "
        'paramwise_cfg=dict(decay_rate=0.7, num_layers=6))'
    )
    student = derived(tmp_path / 'own.py', DEMO.format('eighth'), own)
    out = str(tmp_path / 'pair.py')
    new_pair(DEMO.format('half'), student, out, method, CKPT)
    found = Config.fromfile(out).optim_wrapper
    want = dict(
        student=dict(
            type='LearningRateDecayOptimizerConstructor', decay_rate=0.7, num_layers=6
        )
    )
    if method == 'ctkd':
        want.update(Config.fromfile(METHODS / 'ctkd.py').paramwise_cfg)
    assert found.constructor == 'ctkd_mm.MergedOptimWrapperConstructor'
    assert found.paramwise_cfg == want


# Two local configs, small.


def test_other_pixels_are_noted(tmp_path):
    grey = 'model = dict(data_preprocessor=dict(mean=[0, 0, 0]))'
    teacher = derived(tmp_path / 'teacher.py', DEMO.format('half'), grey)
    path = str(tmp_path / 'pair.py')
    report = new_pair(teacher, DEMO.format('eighth'), path, 'ctkd', CKPT)
    assert "pixels: each model's own" in report


@pytest.fixture
def own_pair(root, tmp_path, monkeypatch, teacher_ckpt, capsys) -> Path:
    """The tool's config for two local configs."""
    monkeypatch.chdir(root)
    out = tmp_path / 'my own' / 'pair.py'
    out.parent.mkdir()
    names = [f'configs/demo/{Path(DEMO.format(x)).name}' for x in ('half', 'eighth')]
    cli.new_pair([*names, '--teacher-ckpt', str(teacher_ckpt), '-o', str(out)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3:] == [
        f'{out} is written. Check, then train:',
        f"  python -m ctkd_mm check '{out}'",
        f"  python -m ctkd_mm train '{out}' --work-dir work_dirs/pair",
    ]
    return out


def test_local_configs_are_found_from_anywhere(own_pair, monkeypatch, tmp_path):
    assert str(own_pair.parent) not in own_pair.read_text()
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(own_pair).model
    assert Path(cfg.teacher).samefile(DEMO.format('half'))
    assert cfg.architecture.roi_head.bbox_head.num_classes == 10


@pytest.mark.start
def test_a_training_of_it_starts(own_pair, digits_options):
    cfg = Config.fromfile(own_pair)
    pairs = [option.split('=', 1) for option in digits_options]
    cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in pairs})
    assert check(cfg)[2:] == [
        'architecture: RoIs from levels of strides [4, 8, 16, 32], 11 logits each',
        'teacher: RoIs from levels of strides [4, 8, 16, 32], 11 logits each',
    ]


@pytest.mark.parametrize('name', ['faster', 'retinanet'])
def test_a_pair_of_one_training_is_the_one_that_is_written(write, detectors, name):
    def plain(path) -> dict:
        cfg = Config.fromfile(path).to_dict()
        cfg['model']['teacher'] = os.path.normpath(cfg['model']['teacher'])
        return cfg

    teacher, student, method, _, ckpt = PAIRS[name]
    teacher, student = (detectors.get(x, x) for x in (teacher, student))
    with pair_config(student, teacher, method, ckpt) as path:
        assert plain(path) == plain(write(name).path)
        stems = Path(teacher).stem, Path(student).stem
        assert Path(path).name == '{}_{}_to_{}.py'.format(PAIRS[name].used, *stems)
        assert '..' not in Path(path).read_text()
    assert not Path(path).exists()


@pytest.mark.parametrize(
    ('name', 'used'),
    [
        ('faster', 'ctkd-zscore'),
        ('retinanet', 'ctkd-dense'),
        ('softmax', 'ctkd-zscore'),
    ],
)
def test_without_a_method_it_is_the_one_that_results_recommend(detectors, name, used):
    teacher, student, *_, ckpt = PAIRS[name]
    teacher, student = (detectors.get(x, x) for x in (teacher, student))
    with pair_config(student, teacher, None, ckpt) as path:
        assert Path(path).name.startswith(f'{used}_')
        loss = Config.fromfile(path).model.loss_kd
        shipped = ROOT / 'configs' / '_base_' / 'methods' / f'{used}.py'
        assert loss == Config.fromfile(shipped).loss_kd


def test_a_method_without_a_teacher_is_refused():
    with pair_config(FASTER) as path:
        assert path == FASTER
    for given in (dict(method='kd'), dict(teacher_ckpt=CKPT)):
        with pytest.raises(ValueError, match='need --teacher'):
            pair_config(FASTER, **given).__enter__()


def test_a_config_of_this_package_is_a_student_by_name(tmp_path):
    name = 'ctkd_mm::demo/faster-rcnn_r18-eighth_fpn_digits.py'
    assert Path(find_config(name)).samefile(DEMO.format('eighth'))
    names = [name.replace('eighth', 'half'), name]
    with pair_config(name, names[0], 'kd', CKPT) as path:
        assert Path(path).name == f'kd_{names[0][14:-3]}_to_{names[1][14:-3]}.py'
        assert 'ctkd_mm::' not in Path(path).read_text()


def test_the_tool_says_why_not(tmp_path):
    out = tmp_path / 'pair.py'
    message = f'{out} is not written. lost.py is neither a file nor in the model zoo'
    with pytest.raises(SystemExit, match=re.escape(message)):
        cli.new_pair(['lost.py', FASTER_R18, '-o', str(out)])


def test_weights_are_those_of_the_metafile():
    for name in ('retinanet_r50_fpn_1x_coco', 'rtmdet_s_8xb32-300e_coco'):
        assert zoo_weights(find_config(name)).startswith('https://download.openmmlab')
    with pytest.raises(ValueError, match='has no weights for my/teacher.py'):
        zoo_weights('my/teacher.py')


@pytest.mark.parametrize('words', [['--help'], [RETINA, RETINA, '--method', 'x']])
def test_the_methods_are_listed(words, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        cli.new_pair([*words, '-o', str(tmp_path / 'pair.py')])
    printed = ''.join(capsys.readouterr()) + str(exit_.value)
    printed = re.findall(r'[\w-]+', printed)
    assert {'ctkd', 'ctkd-instance', 'ctkd-dense', 'kd', 'dkd'} <= set(printed)
    assert not {'ctkd-ld', 'ctkd-classification'} & set(printed)
