"""How often a training step makes the host wait for the device.

On a GPU each of these is a wait: a number read out of a tensor (``item``, ``float``,
``bool``), a result whose size depends on values (``nonzero``, a boolean mask as an
index), and a copy to the host. They are counted here on the CPU, where they happen too.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGES = ('ctkd_mm', 'mmengine', 'mmdet', 'mmcv', 'mmrazor', 'tests')
VALUES = {'_local_scalar_dense', 'nonzero', 'masked_select', 'equal', '_unique2'}
MASKABLE = {'index', 'index_put', 'index_put_', '_index_put_impl_'}
COPIES = {'cpu', 'numpy', 'tolist'}  # reading nothing else, unlike item()
# Per step, beside what the student alone reads.
DISTILLATION = {
    'mmdet/single_level_roi_extractor.py': 4,  # the teacher's, a level each
    'mmengine/message_hub.py': 1,  # loss_kd, for the log
    'ctkd_mm/finite_hook.py': 1,  # before the optimizer's step
}


def place() -> str:
    """Name the innermost file of a known package that is at work."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        found = [part for part in path.parts if part in PACKAGES]
        if found and frame.f_code.co_name != '__torch_function__':
            return f'{found[-1]}/{path.name}'
        frame = frame.f_back
    return 'elsewhere'


class Reads(TorchDispatchMode):
    """Counts reads, those in the backward pass included, by place."""

    def __init__(self, places: Counter) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        masks = args[1] if name in MASKABLE else ()
        if name in VALUES or any(
            m is not None and m.dtype == torch.bool for m in masks
        ):
            self.places[place()] += 1
        return func(*args, **(kwargs or {}))


class HostCopies(TorchFunctionMode):
    """Counts copies to the host, which do nothing on a CPU, by place."""

    def __init__(self, places: Counter) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, '__name__', '') in COPIES:
            self.places[place()] += 1
        return func(*args, **(kwargs or {}))


class Begin(Hook):
    """Counts from before any other hook of the second iteration on."""

    priority = 'HIGHEST'

    def __init__(self, weights: dict) -> None:
        self.weights = weights
        self.places: Counter = Counter()
        self.modes = HostCopies(self.places), Reads(self.places)

    def before_train(self, runner: Runner) -> None:
        # The same proposals for all: the assigner reads as many as overlap a box.
        student = getattr(runner.model, 'student', runner.model)
        student.load_state_dict(self.weights or student.state_dict())
        self.weights.update(student.state_dict())

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == 1:
            for mode in self.modes:
                mode.__enter__()


class End(Hook):
    """Counts no longer, after all others."""

    priority = 'LOWEST'

    def __init__(self, begin: Begin) -> None:
        self.begin = begin

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter == 1:
            for mode in reversed(self.begin.modes):
                mode.__exit__(None, None, None)


@pytest.fixture
def reads(root, monkeypatch, digits_options, teacher_ckpt, tmp_path):
    """Returns the reads of one training step of a demo config, by place."""

    weights: dict = {}

    def run(name: str, own_hooks: bool = True) -> Counter:
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
        # As on COCO. AdamW reads its counters of steps, which are on the host.
        cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0, weight_decay=0)
        cfg.work_dir = cfg.visualizer.name = str(tmp_path / name)
        cfg.log_level = 'ERROR'
        runner = Runner.from_cfg(cfg)
        begin = Begin(weights)
        for hook in (begin, End(begin)):
            runner.register_hook(hook)
        runner.train()
        return begin.places

    monkeypatch.chdir(root)
    return run


def more(places: Counter, than: Counter) -> dict[str, int]:
    keys = places.keys() | than.keys()
    return {k: places[k] - than[k] for k in keys if places[k] != than[k]}


@pytest.mark.start
def test_a_step_waits_for_nothing_but_what_the_student_and_the_guard_read(reads):
    student = reads('faster-rcnn_r18-eighth', own_hooks=False)
    assert student['mmengine/message_hub.py'] == 6  # its losses and their sum, accuracy
    for method in ('ctkd', 'ctkd-instance'):
        ours = reads(f'{method}_faster-rcnn_r18-half-to-r18-eighth')
        assert more(ours, student) == DISTILLATION


@pytest.mark.parametrize(
    'read',
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.sum()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: torch.equal(x, x),
    ],
)
def test_each_way_to_read_counts(read):
    places = Counter()
    with HostCopies(places), Reads(places):
        x = torch.arange(3.0)
        x[x.long()] + x.max()
        assert not places
        read(x)
    assert places == {'tests/test_device_sync.py': 1}
