from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner, save_checkpoint

from ctkd_mm.checks.dry_run import check
from ctkd_mm.checks.preflight_hook import PreflightHook

CTKD = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'


def resave(path: Path, change) -> None:
    checkpoint = torch.load(path)
    change(checkpoint)
    torch.save(checkpoint, path)


@pytest.fixture
def own_teacher(demo_cfg, teacher_ckpt, tmp_path) -> Path:
    """A copy of the teacher's checkpoint, used by ``demo_cfg``, to change."""
    path = tmp_path / 'own_teacher.pth'
    path.write_bytes(teacher_ckpt.read_bytes())
    demo_cfg.model.teacher_ckpt = str(path)
    return path


@pytest.mark.parametrize(
    'classes, message',
    [
        (tuple('1023456789'), "class 0 is '1' in teacher_ckpt .* '0' in train_data"),
        (
            tuple('012345678'),
            r"class 9 is absent in teacher_ckpt \(9 classes\) and '9'",
        ),
    ],
    ids=['order', 'number'],
)
def test_other_class_names_are_refused_with_both(
    demo_cfg, own_teacher, classes, message
):
    resave(own_teacher, lambda c: c['meta']['dataset_meta'].update(classes=classes))
    with pytest.raises(ValueError, match=message):
        check(demo_cfg)


def test_class_names_of_mmdetection_2_are_read(demo_cfg, own_teacher):
    meta = dict(CLASSES=tuple('9876543210'))
    resave(own_teacher, lambda checkpoint: checkpoint.update(meta=meta))
    with pytest.raises(ValueError, match="class 0 is '9' in teacher_ckpt"):
        check(demo_cfg)


def test_missing_class_names_are_told(demo_cfg, own_teacher):
    resave(own_teacher, lambda checkpoint: checkpoint.update(meta={}))
    assert check(demo_cfg)[1].endswith('; no names to compare in teacher_ckpt')


@pytest.mark.parametrize(
    'expect_map',
    [
        dict(value=0.4),
        dict(value=40.0, tol=0.1, images=5),
        dict(value=0.4, tol=-1, images=5),
        dict(value=0.4, tol=0.1, images=0),
    ],
)
def test_a_wrong_expect_map_is_refused(expect_map):
    with pytest.raises(ValueError, match=r'expect_map must be dict\(value=0..1'):
        PreflightHook(expect_map)


@METRICS.register_module()
class ImageCount(BaseMetric):
    def __init__(self) -> None:
        super().__init__(prefix='count')

    def process(self, data_batch, data_samples) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results) -> dict:
        return dict(mAP=len(results) / 100)


class Calls(Hook):
    """Counts the teacher's evaluated batches."""

    def __init__(self) -> None:
        self.counter = Counter()

    def before_run(self, runner) -> None:
        teacher = runner.model.teacher
        original = teacher.val_step

        def counted(data):
            self.counter['batches'] += 1
            return original(data)

        teacher.val_step = counted


@pytest.mark.process
def test_the_teacher_is_evaluated_once_and_logged_beside_the_student(demo_cfg):
    demo_cfg.val_evaluator = dict(type='ImageCount')
    demo_cfg.default_hooks.preflight.expect_map = dict(value=0.04, tol=0.02, images=3)
    demo_cfg.train_cfg.max_epochs = 2
    maps, batches = [], []
    for resume in (False, True):
        cfg = copy.deepcopy(demo_cfg)
        cfg.resume = resume
        cfg.train_cfg.max_epochs += resume
        runner = Runner.from_cfg(cfg)
        calls = Calls()
        runner.register_hook(calls)
        runner.train()
        batches.append(calls.counter['batches'])
    for log in sorted(Path(demo_cfg.work_dir).glob('*/vis_data/scalars.json')):
        lines = map(json.loads, log.read_text().splitlines())
        maps += [
            (line['count/mAP'], line['teacher/count/mAP'])
            for line in lines
            if 'count/mAP' in line
        ]
    assert maps == [(0.04, 0.03)] * 3
    assert batches == [1, 0]


def test_a_weak_teacher_is_refused_with_both_figures(demo_cfg):
    demo_cfg.val_evaluator = dict(type='ImageCount')
    demo_cfg.default_hooks.preflight.expect_map = dict(value=0.5, tol=0.02, images=3)
    with pytest.raises(ValueError, match=r'mAP 0.0300 on 3 .* asks for 0.5 - 0.02'):
        check(demo_cfg)


@pytest.mark.process
def test_a_resume_with_another_teacher_is_refused(demo_cfg, own_teacher):
    demo_cfg.train_cfg.max_epochs = 1
    demo_cfg.val_cfg = demo_cfg.val_dataloader = demo_cfg.val_evaluator = None
    Runner.from_cfg(demo_cfg).train()
    weight = 'roi_head.bbox_head.fc_cls.bias'
    resave(own_teacher, lambda checkpoint: checkpoint['state_dict'][weight].add_(1e-6))
    demo_cfg.resume = True
    with pytest.raises(ValueError, match='Resume with the same teacher'):
        Runner.from_cfg(demo_cfg).train()


@pytest.mark.process
def test_a_resume_with_classes_renamed_is_refused(demo_cfg):
    demo_cfg.train_cfg.max_epochs = 1
    demo_cfg.val_cfg = demo_cfg.val_dataloader = demo_cfg.val_evaluator = None
    Runner.from_cfg(demo_cfg).train()
    path = Path(demo_cfg.work_dir) / 'epoch_1.pth'
    renamed = dict(classes=tuple('012345678x'))
    resave(path, lambda checkpoint: checkpoint['meta'].update(dataset_meta=renamed))
    demo_cfg.resume = True
    message = r"class 9 is '9' in teacher_ckpt .* 'x' in the resumed checkpoint"
    with pytest.raises(ValueError, match=message):
        Runner.from_cfg(demo_cfg).train()


def test_weights_of_another_model_are_refused_by_an_evaluation(demo_cfg, tmp_path):
    runner = Runner.from_cfg(demo_cfg)
    weights = runner.model.student.state_dict()  # as an extracted student's
    for lost in (0, 1):
        save_checkpoint(dict(state_dict=weights, meta={}), f'{tmp_path}/{lost}.pth')
        with pytest.raises(ValueError, match=f'{len(lost_of(runner, weights))} of'):
            runner.load_checkpoint(f'{tmp_path}/{lost}.pth')
        weights = runner.model.state_dict()
        weights.pop('architecture.rpn_head.rpn_cls.weight')


def lost_of(runner: Runner, weights: dict) -> list[str]:
    names = [n for n in runner.model.state_dict() if 'num_batches_tracked' not in n]
    return [name for name in names if name not in weights]


def test_training_may_start_from_a_part_but_not_from_nothing(demo_cfg, tmp_path):
    weights = Runner.from_cfg(demo_cfg).model.state_dict()
    demo_cfg.load_from = f'{tmp_path}/start.pth'
    weights.pop('architecture.rpn_head.rpn_cls.weight')
    save_checkpoint(dict(state_dict=weights, meta={}), demo_cfg.load_from)
    assert len(check(demo_cfg)) == 4
    weights = {f'backbone.{name}': value for name, value in weights.items()}
    save_checkpoint(dict(state_dict=weights, meta={}), demo_cfg.load_from)
    with pytest.raises(ValueError, match=r'start.pth: .* file has backbone'):
        check(demo_cfg)


def test_a_start_from_other_classes_needs_a_head_of_its_own(demo_cfg, tmp_path):
    weights = Runner.from_cfg(demo_cfg).model.state_dict()
    weights.pop('distiller.distill_losses.loss_kd.temperature.raw_tau')  # as KD's
    start = dict(state_dict=weights, meta=dict(classes=tuple('9876543210')))
    demo_cfg.load_from = f'{tmp_path}/start.pth'
    save_checkpoint(start, demo_cfg.load_from)
    message = "class 0 is '0' in teacher_ckpt .* '9' in load_from .* another checkpoint"
    with pytest.raises(ValueError, match=message):
        check(demo_cfg)
    weights['architecture.roi_head.bbox_head.fc_cls.bias'] = torch.zeros(21)
    save_checkpoint(start, demo_cfg.load_from)
    assert 'the same in teacher_ckpt, train_dataloader' in check(demo_cfg)[1]


def test_an_evaluator_of_another_file_is_refused_before_training(demo_cfg, digits):
    demo_cfg.test_evaluator.ann_file = f'{digits}/annotations/train.json'
    check(demo_cfg)  # a training does not test
    demo_cfg.val_evaluator.ann_file = f'{digits}/annotations/train.json'
    message = r'^val_evaluator\.ann_file=.*train\.json.* which val_dataloader\.d'
    with pytest.raises(ValueError, match=message):
        check(demo_cfg)


def test_an_evaluator_of_another_file_is_refused_by_an_evaluation(demo_cfg, digits):
    demo_cfg.test_evaluator.ann_file = f'{digits}/annotations/train.json'
    with pytest.raises(ValueError, match=r'^test_evaluator\.ann_file='):
        Runner.from_cfg(demo_cfg).test()


def test_an_option_that_comes_too_late_is_refused(demo_cfg, tmp_path):
    file = tmp_path / 'demo.py'
    file.write_text(demo_cfg.pretty_text)
    cfg = Config.fromfile(file)
    cfg.loss_kd.temperature.tau_range = 5
    with pytest.raises(ValueError, match=r'^loss_kd=.* Set model\.loss_kd instead'):
        check(cfg)
