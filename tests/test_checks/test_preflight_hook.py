from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner, save_checkpoint

from ctkd_mm.checks import preflight_hook
from ctkd_mm.checks.dry_run import check
from ctkd_mm.checks.preflight_hook import PreflightHook, apply_rules
from ctkd_mm.checks.teacher import check_class_names

DIGITS = tuple('0123456789')


def resave(path: Path, change) -> None:
    checkpoint = torch.load(path)
    change(checkpoint)
    torch.save(checkpoint, path)


def data(classes=DIGITS) -> dict:
    return {'train_dataloader.dataset': dict(classes=classes)}


@pytest.mark.parametrize(
    'classes, message',
    [
        (tuple('1023456789'), "class 0 is '1' in teacher_ckpt .* '0' in train_data"),
        (DIGITS[:9], r"class 9 is None in teacher_ckpt \(9 classes\) and '9'"),
    ],
    ids=['order', 'number'],
)
def test_other_class_names_are_refused_with_both(classes, message):
    meta = dict(dataset_meta=dict(classes=classes))
    with pytest.raises(ValueError, match=message):
        check_class_names(dict(teacher_ckpt=meta, **data()))


def test_class_names_of_mmdetection_2_are_read():
    with pytest.raises(ValueError, match="class 0 is '9' in teacher_ckpt"):
        check_class_names(dict(teacher_ckpt=dict(CLASSES=DIGITS[::-1]), **data()))


def test_missing_class_names_are_told():
    line = check_class_names(dict(teacher_ckpt={}, **data()))
    assert line == (
        '10 classes, the same in train_dataloader.dataset; no names to compare in '
        'teacher_ckpt'
    )
    line = check_class_names(dict(teacher_ckpt={}, **data(None)))
    assert line == 'no class names to compare'


@pytest.mark.parametrize(
    'expect_map', [dict(value=0.4), dict(value=0.4, tol=0.1, pictures=5)]
)
def test_an_expect_map_of_other_keys_is_refused(expect_map):
    hook = PreflightHook(expect_map)
    with pytest.raises(TypeError, match='argument'):
        hook._check_map(None, None, **hook.expect_map)


def apply(monkeypatch, *rules) -> None:
    monkeypatch.setattr(preflight_hook, 'RULES', [('', *rule) for rule in rules])
    apply_rules(SimpleNamespace())


def test_a_rule_refuses_or_warns_with_its_words(monkeypatch, warnings):
    apply(monkeypatch, (lambda runner: ['a', 'b'], 'warn'), (lambda runner: [], 'x'))
    assert warnings == ['a', 'b']
    with pytest.raises(ValueError, match='^first$'):
        apply(monkeypatch, (lambda runner: ['first', 'second'], 'refuse'))


def test_a_rule_that_fails_ends_in_an_error_that_all_ranks_can_raise(monkeypatch):
    with pytest.raises(ValueError, match=r"^: KeyError: 'bbox'$"):
        apply(monkeypatch, (lambda runner: {}['bbox'], 'warn'))


def test_every_rule_has_a_name_and_a_verdict():
    names, rules, verdicts = zip(*preflight_hook.RULES)
    assert len(set(names)) == len(set(rules)) == len(rules)
    assert set(verdicts) == {'refuse', 'warn'}


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


@pytest.mark.start
def test_the_teacher_is_evaluated_at_each_start_and_logged_beside_the_student(demo_cfg):
    demo_cfg.val_evaluator = dict(type='ImageCount')
    demo_cfg.default_hooks.preflight.expect_map = dict(value=0.04, tol=0.02, images=3)
    demo_cfg.train_cfg.max_epochs = 1
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
    assert maps == [(0.04, 0.03)] * 2
    assert batches == [1, 1]


@pytest.mark.start
def test_a_weak_teacher_is_refused_with_both_figures(demo_cfg):
    demo_cfg.val_evaluator = dict(type='ImageCount')
    demo_cfg.default_hooks.preflight.expect_map = dict(value=0.5, tol=0.02, images=3)
    with pytest.raises(ValueError, match=r'mAP 0.0300 on 3 .* asks for 0.5 - 0.02'):
        check(demo_cfg)


@pytest.fixture
def resumable(demo_cfg, teacher_ckpt, tmp_path):
    """Train an epoch; return how to resume it with other settings."""
    demo_cfg.train_cfg.max_epochs = 1
    demo_cfg.val_cfg = demo_cfg.val_dataloader = demo_cfg.val_evaluator = None
    own = tmp_path / 'own_teacher.pth'
    own.write_bytes(teacher_ckpt.read_bytes())
    demo_cfg.model.teacher_ckpt = str(own)
    Runner.from_cfg(copy.deepcopy(demo_cfg)).train()

    def resume(**options) -> None:
        cfg: Config = copy.deepcopy(demo_cfg)
        cfg.merge_from_dict(dict(options, resume=True))
        Runner.from_cfg(cfg).train()

    resume.path = Path(demo_cfg.work_dir) / 'epoch_1.pth'
    resume.teacher = own
    return resume


@pytest.mark.start
def test_a_resume_of_another_run_or_of_a_part_of_it_is_refused(resumable):
    tau_range = 'model.loss_kd.temperature.tau_range'
    message = rf'another distillation: {tau_range}=5, was 20'
    with pytest.raises(ValueError, match=message):
        resumable(**{tau_range: 5})
    meta = dict(dataset_meta=dict(classes=tuple('012345678x')))
    resave(resumable.path, lambda checkpoint: checkpoint['meta'].update(meta))
    message = r"class 9 is '9' in teacher_ckpt .* 'x' in the resumed checkpoint"
    with pytest.raises(ValueError, match=message):
        resumable()

    def strip(checkpoint) -> None:
        del checkpoint['optimizer'], checkpoint['param_schedulers']

    # As MMEngine saves best_*.pth; it would start both anew.
    whole = resumable.path.read_bytes()
    resave(resumable.path, strip)
    message = r'run cannot be resumed: it has no optimizer, param_schedulers\.'
    with pytest.raises(ValueError, match=message):
        resumable()
    resumable.path.write_bytes(whole)
    weight = 'roi_head.bbox_head.fc_cls.bias'
    resave(resumable.teacher, lambda c: c['state_dict'][weight].add_(1e-6))
    with pytest.raises(ValueError, match='teacher sha256=.*options and teacher'):
        resumable()


@pytest.mark.start
def test_joined_sets_of_other_palettes_are_checked_part_by_part(demo_cfg):
    sets = [copy.deepcopy(demo_cfg.train_dataloader.dataset) for _ in range(2)]
    for i, part in enumerate(sets):
        part.metainfo = dict(classes=DIGITS, palette=[(i, i, i)] * 10)
    demo_cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=sets)
    assert check(demo_cfg)[1] == (
        '10 classes, the same in teacher_ckpt, train_dataloader.dataset.datasets.0, '
        'train_dataloader.dataset.datasets.1, val_dataloader.dataset'
    )


@pytest.mark.start
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


@pytest.mark.start
def test_an_evaluator_of_another_file_is_refused_by_an_evaluation(demo_cfg, digits):
    demo_cfg.test_evaluator.ann_file = f'{digits}/annotations/train.json'
    with pytest.raises(ValueError, match=r'^test_evaluator\.ann_file has 16 images'):
        Runner.from_cfg(demo_cfg).test()
