"""How often a training step makes the host wait for the device.

``HostWaits`` of the emulated device says what a wait is. Ours are held to a list; those
of MMDetection's own are what the student alone has, and the teacher's RoI extractor.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner

from emulated_cuda.precisions import PRECISIONS
from emulated_cuda.waits import HostWaits

pytestmark = pytest.mark.emulated_cuda

# A wait for the device in each of these lines, once a step.
OURS = {'ctkd_mm/finite_hook.py: return bool(finite)': 1}
# Per step, beside OURS and what the student alone waits for.
DISTILLATION = {
    'mmdet/single_level_roi_extractor.py': 4,  # the teacher's, a level each
    'mmengine/message_hub.py': 1,  # loss_kd, for the log
}
STUDENT = 'faster-rcnn_r18-eighth'
PAIR = 'faster-rcnn_r18-half-to-r18-eighth'


class Begin(Hook):
    """Counts from before any other hook of the second iteration on."""

    priority = 'HIGHEST'

    def __init__(self, weights: dict) -> None:
        self.weights = weights
        self.waits = HostWaits()

    def before_train(self, runner: Runner) -> None:
        # The same proposals for all: the assigner reads as many as overlap a box.
        student = getattr(runner.model, 'student', runner.model)
        student.load_state_dict(self.weights or student.state_dict())
        self.weights.update(student.state_dict())

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if runner.iter == 1:
            self.waits.__enter__()


class End(Hook):
    """Counts no longer, after all others."""

    priority = 'LOWEST'

    def __init__(self, begin: Begin) -> None:
        self.begin = begin

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if runner.iter == 1:
            self.begin.waits.__exit__(None, None, None)


@pytest.fixture
def step(root, monkeypatch, digits_options, teacher_ckpt, tmp_path):
    """Returns the waits of one training step of a demo config."""
    weights: dict = {}

    def run(name: str, precision: str = 'float32', own_hooks: bool = True) -> HostWaits:
        cfg = Config.fromfile(
            f'configs/demo/{name}_fpn_digits.py', format_python_code=False
        )
        pairs = [option.split('=', 1) for option in digits_options]
        cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in pairs})
        if 'teacher' in cfg.model:
            cfg.model.teacher_ckpt = str(teacher_ckpt)
        kinds = {key: str(hook['type']) for key, hook in cfg.default_hooks.items()}
        for key in [k for k, v in kinds.items() if v.startswith('ctkd_mm.')]:
            if not own_hooks:
                del cfg.default_hooks[key]
        for split in ('val', 'test'):
            for key in ('dataloader', 'cfg', 'evaluator'):
                cfg[f'{split}_{key}'] = None
        cfg.train_dataloader.batch_size = 6  # 3 iterations; the last one is logged
        cfg.train_cfg.max_epochs = 1
        cfg.optim_wrapper.update(PRECISIONS[precision])
        cfg.optim_wrapper.optimizer.update(lr=0, weight_decay=0)
        cfg.work_dir = cfg.visualizer.name = str(tmp_path / f'{name}_{precision}')
        cfg.log_level = 'ERROR'
        runner = Runner.from_cfg(cfg)
        begin = Begin(weights)
        for hook in (begin, End(begin)):
            runner.register_hook(hook)
        runner.train()
        return begin.waits

    monkeypatch.chdir(root)
    return run


def ours(waits: HostWaits) -> dict[str, int]:
    return {k: v for k, v in waits.lines.items() if k.startswith('ctkd_mm/')}


def more(waits: HostWaits, than: HostWaits) -> dict[str, int]:
    """What one has more of each file, or less; ours apart."""
    left, right = waits.files(), than.files()
    differences = Counter({k: left[k] - right[k] for k in left.keys() | right.keys()})
    return {k: v for k, v in differences.items() if v and not k.startswith('ctkd_mm/')}


def test_a_step_waits_for_nothing_but_what_the_student_and_the_guard_read(step):
    student = step(STUDENT, own_hooks=False)
    assert ours(student) == {}
    assert student.files()['mmengine/message_hub.py'] == 6  # losses, sum and accuracy
    for method in ('ctkd', 'ctkd-instance'):
        waits = step(f'{method}_{PAIR}')
        assert ours(waits) == OURS
        assert more(waits, student) == DISTILLATION


@pytest.mark.parametrize('precision', ['float16', 'bfloat16'])
def test_mixed_precision_adds_no_wait_of_ours(step, precision):
    assert ours(step(f'ctkd_{PAIR}', precision)) == OURS
