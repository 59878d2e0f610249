"""Pairs of MMDetection's zoo: the config that is written, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS

from ctkd_mm import cli
from ctkd_mm.apis.model_zoo import find_config, load_config, zoo_weights
from ctkd_mm.apis.new_pair import methods, new_pair
from ctkd_mm.checks.dry_run import check

ROOT = Path(__file__).parents[2]
HOOKS = Config.fromfile(ROOT / 'configs' / '_base_' / 'hooks.py').ctkd_hooks
FASTER = 'faster-rcnn_r50_fpn_1x_coco'
FASTER_R18 = 'faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco'
FASTER_90K = 'faster-rcnn_r50-caffe_fpn_90k_coco'
FCOS = 'fcos_{}_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco'
LSJ = '{}_fpn_8xb8-amp-lsj-200e_coco'
RTMDET = 'rtmdet_tiny_8xb32-300e_coco'
VOC = 'faster-rcnn_r50_fpn_1x_voc0712'
DEMO = 'configs/demo/faster-rcnn_r18-{}_fpn_digits.py'


class Pair(NamedTuple):
    teacher: str
    student: str
    method: str = 'ctkd'
    used: str = 'ctkd'  # the method that is written
    teacher_ckpt: str | None = None


TWO_STAGE = dict(
    faster=Pair(FASTER, FASTER_R18),
    mask=Pair('mask-rcnn_r50_fpn_1x_coco', LSJ.format('mask-rcnn_r18')),
    cascade=Pair('cascade-rcnn_r50_fpn_1x_coco', LSJ.format('cascade-rcnn_r18')),
    cascade_mask_to_faster=Pair(
        'cascade-mask-rcnn_r50_fpn_1x_coco', FASTER_R18, 'dkd', 'dkd'
    ),
    double_head_to_faster=Pair(
        'dh-faster-rcnn_r50_fpn_1x_coco', FASTER_R18, 'kd', 'kd'
    ),
    fpn_to_c4=Pair(FASTER, 'faster-rcnn_r50-caffe_c4-1x_coco'),
    feature_loss=Pair(FASTER, FASTER_R18, 'ctkd-pkd', 'ctkd-pkd'),
    iterations=Pair(FASTER, FASTER_90K),
    voc=Pair(VOC, VOC, 'ctkd-instance', 'ctkd-instance', 'https://weights/voc.pth'),
)
ONE_STAGE = dict(
    retinanet=Pair(
        'retinanet_r50_fpn_1x_coco', 'retinanet_r18_fpn_1x_coco', used='ctkd-dense'
    ),
    fcos=Pair(
        FCOS.format('r50'),
        FCOS.format('r18'),
        'kd',
        'kd-dense',
        'https://weights/fcos.pth',
    ),
    atss=Pair('atss_r50_fpn_1x_coco', LSJ.format('atss_r18'), 'kd', 'kd-dense'),
    atss_to_gfl=Pair('atss_r50_fpn_1x_coco', 'gfl_r50_fpn_1x_coco', used='ctkd-dense'),
    rtmdet=Pair(
        'rtmdet_s_8xb32-300e_coco',
        RTMDET,
        'ctkd-dense',
        'ctkd-dense',
        'https://weights/rtmdet.pth',
    ),
    ssd_with_softmax=Pair('ssd300_coco', 'ssd300_coco'),
)
PAIRS = {**TWO_STAGE, **ONE_STAGE}


class Written(NamedTuple):
    path: Path
    report: list
    cfg: Config


@pytest.fixture(scope='module')
def write(tmp_path_factory):
    """Write a pair's config, once."""
    done = {}

    def once(name: str) -> Written:
        if name not in done:
            teacher, student, method, _, ckpt = PAIRS[name]
            path = tmp_path_factory.mktemp(name) / 'pair.py'
            report = new_pair(teacher, student, method, str(path), ckpt)
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


def test_the_configs_are_short_and_clean(write):
    paths = [str(write(name).path) for name in PAIRS]
    assert max(len(Path(path).read_text().splitlines()) for path in paths) <= 30
    for command in (['check'], ['format', '--check']):
        options = ['--no-cache', '--config', str(ROOT / 'pyproject.toml')]
        subprocess.run(
            [sys.executable, '-m', 'ruff', *command, *options, *paths], check=True
        )


@pytest.mark.parametrize('name', PAIRS)
def test_data_and_schedule_are_the_students(write, name, tmp_path):
    cfg = write(name).cfg
    own = tmp_path / 'student.py'
    own.write_text(f'_base_ = {find_config(PAIRS[name].student)!r}')
    student = Config.fromfile(own)
    for key in ('train_dataloader', 'val_evaluator', 'param_scheduler', 'visualizer'):
        assert cfg[key] == student[key]
    assert cfg.optim_wrapper.optimizer == student.optim_wrapper.optimizer
    loop = student.train_cfg
    assert cfg.train_cfg == {**loop, 'type': f'ctkd_mm.Resumable{loop.type}'}
    checkpoint = student.default_hooks.checkpoint
    assert cfg.default_hooks.checkpoint == {**checkpoint, **HOOKS.checkpoint}
    assert all(cfg.default_hooks[key].type == HOOKS[key].type for key in HOOKS)


@pytest.mark.parametrize('name', ['faster', 'rtmdet'])
def test_what_a_training_stores_of_it_says_the_same(write, name):
    cfg = write(name).cfg
    assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    ('name', 'places'),
    [
        ('faster', 'RoIs from levels of strides [4, 8, 16, 32], 81 logits each'),
        ('voc', 'RoIs from levels of strides [4, 8, 16, 32], 21 logits each'),
        ('fpn_to_c4', 'RoIs from levels of strides [16], 81 logits each'),
        (
            'rtmdet',
            '[1, 1, 1] anchors or points a place at strides [8, 16, 32], 80 logits '
            'each',
        ),
        (
            'ssd_with_softmax',
            '[4, 6, 6, 6, 4, 4] anchors or points a place at strides '
            '[8, 16, 32, 64, 100, 300], 81 logits each',
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
    assert write('rtmdet').cfg.model.teacher_ckpt == 'https://weights/rtmdet.pth'


def test_the_instance_temperature_gets_the_pairs_classes(write):
    assert write('voc').cfg.model.loss_kd.temperature.num_classes == 20


def test_a_methods_feature_losses_come_along(write):
    model = write('feature_loss').cfg.model
    method = ROOT / 'configs' / '_base_' / 'methods' / 'ctkd-pkd.py'
    assert model.distiller == Config.fromfile(method).distiller


def test_the_ramp_takes_the_same_share_of_iterations(write):
    hook, _ = write('iterations').cfg.custom_hooks
    assert hook.by_epoch is False
    assert hook.end == 90000 * 5 / 12


def test_the_students_own_hooks_stay_beside_the_methods(write):
    cfg = write('rtmdet').cfg
    types = [type(ROOT_HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks]
    ours = ['CurriculumHook', 'TemperatureDoctorHook']
    assert types == ['EMAHook', 'PipelineSwitchHook', *ours]
    assert 'method' not in cfg


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


def test_two_preprocessors_are_noted(write):
    assert "pixels: each model's own" in write('iterations').report
    assert 'pixels: the same for both' in write('faster').report


RETINA = 'retinanet_r18_fpn_1x_coco'
REFUSED = dict(
    kinds=(
        Pair(RETINA, FASTER_R18),
        'student (FasterRCNN) is two-stage, teacher (RetinaNet) is one-stage: RoIs of '
        'one and anchors or points of the other are not the same places; take two of '
        'a kind',
    ),
    anchors=(
        Pair('atss_r50_fpn_1x_coco', RETINA),
        'student and teacher must score the same classes at the same places, got '
        'num_base_priors [9, 9, 9, 9, 9] in architecture.bbox_head and [1, 1, 1, 1, 1] '
        'in teacher.bbox_head: give both the same num_classes, loss_cls.use_sigmoid, '
        'and anchor_generator or strides',
    ),
    strides=(
        Pair('fcos_r50-caffe_fpn_gn-head_1x_coco', RTMDET),
        'got strides [(8, 8), (16, 16), (32, 32)] in architecture.bbox_head and '
        '[(8, 8), (16, 16), (32, 32), (64, 64), (128, 128)] in teacher.bbox_head',
    ),
    lvis=(
        Pair('mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1', FASTER_R18),
        "class 0 is 'aerosol_can' in teacher (1203 classes) and 'person' in student "
        "(80 classes): names and order must agree, or column i of the two models' "
        'logits means two things.',
    ),
    voc=(
        Pair(FASTER, VOC),
        "class 0 is 'person' in teacher (80 classes) and 'aeroplane' in student (20 "
        'classes): names and order must agree',
    ),
    detr=(
        Pair('detr_r50_8xb2-150e_coco', RETINA),
        'teacher is a DETR: class logits of RoIs (a model with a roi_head), or of '
        'anchors or points (with a dense bbox_head), are what can be compared; queries '
        'are not',
    ),
    distillation=(
        Pair('gfl_r50_fpn_1x_coco', 'ld_r18-gflv1-r101_fpn_1x_coco'),
        'student is a KnowledgeDistillationSingleStageDetector with '
        "model.teacher_ckpt, a distillation itself: give the detector's own config",
    ),
    sparse=(
        Pair('sparse-rcnn_r50_fpn_1x_coco', FASTER_R18),
        'teacher.roi_head (SparseRoIHead) scores boxes by ',
    ),
    pixels=(
        Pair('faster-rcnn_r50-caffe_fpn_1x_coco', FASTER_R18),
        "architecture.data_preprocessor.batch_augments=['BatchFixedSizePad'] changes "
        'the images after they were normalised; a teacher that wants other pixels '
        'cannot follow.',
    ),
    misspelt=(
        Pair('retinanet_r50_fpn_1_coco', RETINA),
        'retinanet_r50_fpn_1_coco is no file, and MMDetection ships no config of this '
        'name; near to it are retinanet_r50_fpn_1x_coco, ',
    ),
    misspelt_path=(
        Pair('mmdet::retinanet/retinanet_r50_fpn.py', RETINA),
        'mmdet::retinanet/retinanet_r50_fpn.py is no file, and MMDetection ships no '
        'config of this name; near to it are retinanet_r50_',
    ),
    unknown=(
        Pair('no/such/detector', RETINA),
        'no/such/detector is no file, and MMDetection ships no config of this name',
    ),
    no_weights=(
        Pair(VOC, VOC),
        f'the model zoo has no weights for mmdet::pascal_voc/{VOC}.py: give '
        '--teacher-ckpt PATH_OR_URL',
    ),
    hook=(
        Pair('rtmdet_s_8xb32-300e_coco', 'yolox_tiny_8xb8-300e_coco'),
        "custom_hooks has YOLOXModeSwitchHook, which takes the runner's model for the "
        'detector',
    ),
    fine_tuning=(
        Pair(FASTER, 'faster-rcnn_r50-caffe_fpn_ms-1x_coco-person'),
        'has the weights of a detector alone: in a copy of the config set '
        "load_from=None and model=dict(init_cfg=dict(type='Pretrained', "
        'checkpoint=...))',
    ),
    method=(
        Pair(FASTER, FASTER_R18, 'ctkd-ld'),
        f'method ctkd-ld is none of {", ".join(methods())}',
    ),
    softmax_method=(
        Pair(RETINA, RETINA, 'dkd'),
        'method dkd is a softmax over the classes, but those of the student '
        '(RetinaNet) are sigmoids: take one of ctkd-dense, ',
    ),
    sigmoid_method=(
        Pair(FASTER, FASTER_R18, 'ctkd-dense'),
        'method ctkd-dense is for sigmoid classes, but those of the student '
        '(FasterRCNN) are a softmax: take ctkd',
    ),
)


@pytest.mark.parametrize('name', REFUSED)
def test_no_pair_is_refused_and_nothing_written(name, tmp_path):
    (teacher, student, method, _, _), message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        new_pair(teacher, student, method, str(tmp_path / 'pair.py'))
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_overwritten(tmp_path):
    out = tmp_path / 'pair.py'
    out.write_text('mine')
    with pytest.raises(ValueError, match='exists: give another name, or remove it'):
        new_pair(FASTER, FASTER_R18, 'ctkd', str(out))
    assert out.read_text() == 'mine'


def derived(path: Path, base: str, text: str) -> str:
    path.write_text(f'_base_ = {base!r}\n{text}\n')
    return str(path)


def test_a_students_own_optimizer_constructor_is_refused(tmp_path):
    own = "optim_wrapper = dict(constructor='LearningRateDecayOptimizerConstructor')"
    student = derived(tmp_path / 'own.py', find_config(FASTER), own)
    message = (
        "optim_wrapper.constructor='LearningRateDecayOptimizerConstructor' of the "
        "student knows the parameters by a detector's names, which begin with "
        'architecture. here: take the default one, with paramwise_cfg.custom_keys'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        new_pair(FASTER, student, 'ctkd', str(tmp_path / 'pair.py'))


def test_a_training_loop_that_cannot_resume_is_refused(tmp_path):
    loop = "train_cfg = dict(type='MyLoop')"
    student = derived(tmp_path / 'own.py', find_config(FASTER), loop)
    message = (
        "train_cfg.type='MyLoop' of the student: expected one of "
        "('EpochBasedTrainLoop', 'IterBasedTrainLoop'), which resume exactly here"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        new_pair(FASTER, student, 'ctkd', str(tmp_path / 'pair.py'))


def test_sigmoid_classes_of_rois_are_refused(tmp_path):
    head = 'dict(bbox_head=dict(loss_cls=dict(use_sigmoid=True)))'
    teacher = derived(
        tmp_path / 'own.py',
        str(ROOT / DEMO.format('half')),
        f'model = dict(roi_head={head})',
    )
    message = (
        'teacher.roi_head.bbox_head.loss_cls.use_sigmoid is True: RoILogitDistill '
        'compares softmax classes with a background column; take a detector with '
        'use_sigmoid=False'
    )
    student = str(ROOT / DEMO.format('eighth'))
    with pytest.raises(ValueError, match=re.escape(message)):
        new_pair(
            teacher,
            student,
            'ctkd',
            str(tmp_path / 'pair.py'),
            'https://weights/teacher.pth',
        )


def test_a_note_tells_of_other_image_sizes(tmp_path):
    resize = (
        '_base_.val_dataloader.dataset.pipeline.insert(\n'
        "    1, dict(type='Resize', scale={}))"
    )
    student = derived(
        tmp_path / 'student.py',
        str(ROOT / DEMO.format('eighth')),
        resize.format((96, 96)),
    )
    teacher = derived(
        tmp_path / 'teacher.py',
        str(ROOT / DEMO.format('half')),
        resize.format((160, 160)),
    )
    out = str(tmp_path / 'pair.py')
    assert new_pair(teacher, student, 'ctkd', out, 'https://weights/teacher.pth')[
        -1
    ] == (
        "note: the student's images are scaled to (96, 96), the teacher was made for "
        '(160, 160). How good it is on them: default_hooks.preflight.expect_map'
    )


@pytest.fixture
def own_pair(root, tmp_path, monkeypatch, teacher_ckpt, capsys) -> Path:
    """The tool's config for two local configs."""
    monkeypatch.chdir(root)
    out = tmp_path / 'my own' / 'pair.py'
    out.parent.mkdir()
    names = [DEMO.format('half'), DEMO.format('eighth')]
    cli.new_pair([*names, '--teacher-ckpt', str(teacher_ckpt), '-o', str(out)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3:] == [
        f'{out} is written. Check, then train:',
        f"  python tools/check.py '{out}'",
        f"  python tools/train.py '{out}' --work-dir work_dirs/pair",
    ]
    return out


def test_local_configs_are_found_from_anywhere(own_pair, monkeypatch, tmp_path):
    assert str(own_pair.parent) not in own_pair.read_text()
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(own_pair).model
    assert Path(cfg.teacher).samefile(ROOT / DEMO.format('half'))
    assert cfg.architecture.roi_head.bbox_head.num_classes == 10


def test_a_training_of_it_starts(own_pair, digits_options):
    cfg = Config.fromfile(own_pair)
    pairs = [option.split('=', 1) for option in digits_options]
    cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in pairs})
    assert check(cfg)[2:] == [
        'architecture: RoIs from levels of strides [4, 8, 16, 32], 11 logits each',
        'teacher: RoIs from levels of strides [4, 8, 16, 32], 11 logits each',
    ]


def test_the_tool_says_why_not(tmp_path):
    out = tmp_path / 'pair.py'
    message = f'{out} is not written. student (FasterRCNN) is two-stage, teacher'
    with pytest.raises(SystemExit, match=re.escape(message)):
        cli.new_pair([RETINA, FASTER_R18, '-o', str(out)])


def test_a_path_that_cannot_be_meant_is_refused(tmp_path):
    for out, ckpt, message in (
        ('pair', None, 'pair is no name of a config: it must end in .py'),
        ('new/pair.py', None, 'new is no folder: make it first'),
        ('pair.py', 'lost.pth', '--teacher-ckpt lost.pth is no file'),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            new_pair(FASTER, FASTER_R18, 'ctkd', str(tmp_path / out), ckpt)
    assert not list(tmp_path.iterdir())


def test_a_folder_behind_a_link_will_do(tmp_path):
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'a' / 'b')
    out = tmp_path / 'link' / 'pair.py'
    new_pair(FASTER, FASTER_R18, 'kd', str(out))
    assert Config.fromfile(out).model.loss_kd.type == 'mmrazor.KLDivergence'


def test_a_student_may_have_variables_named_as_the_methods(tmp_path):
    lines = 'paramwise_cfg = dict(norm_decay_mult=0)', 'custom_hooks = None'
    student = tmp_path / 'student.py'
    student.write_text(
        '\n'.join([f"_base_ = 'mmdet::faster_rcnn/{FASTER}.py'", *lines])
    )
    out = tmp_path / 'pair.py'
    new_pair(FASTER, str(student), 'ctkd', str(out))
    cfg = Config.fromfile(out)
    assert list(cfg.optim_wrapper.paramwise_cfg.custom_keys) == ['loss_kd.temperature']
    types = [hook.type for hook in cfg.custom_hooks]
    assert types == ['ctkd_mm.CurriculumHook', 'ctkd_mm.TemperatureDoctorHook']


def test_a_hook_under_a_scope_is_the_same_hook(tmp_path):
    student = tmp_path / 'student.py'
    hook = "custom_hooks = [dict(type='mmdet.YOLOXModeSwitchHook')]"
    student.write_text(f"_base_ = 'mmdet::faster_rcnn/{FASTER}.py'\n{hook}\n")
    with pytest.raises(ValueError, match='custom_hooks has YOLOXModeSwitchHook'):
        new_pair(FASTER, str(student), 'ctkd', str(tmp_path / 'pair.py'))


def test_the_zoos_escaped_names_are_found():
    teacher = find_config('faster-rcnn_r50_fpn_gn-ws-all_1x_coco')
    assert 'gn+ws' in teacher
    assert zoo_weights(teacher).startswith('https://')


def test_a_missing_package_is_named():
    with pytest.raises(ValueError, match='foo::bar.py is no config of a package here'):
        load_config('foo::bar.py')


@pytest.mark.parametrize('words', [['--help'], [RETINA, RETINA, '--method', 'x']])
def test_the_methods_are_listed(words, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        cli.new_pair([*words, '-o', str(tmp_path / 'pair.py')])
    printed = ''.join(capsys.readouterr()) + str(exit_.value)
    printed = re.findall(r'[\w-]+', printed)
    assert {'ctkd', 'ctkd-instance', 'ctkd-dense', 'kd', 'dkd'} <= set(printed)
    assert not {'ctkd-ld', 'ctkd-classification'} & set(printed)
