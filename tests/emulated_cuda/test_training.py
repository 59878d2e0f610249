"""Whole trainings of the demo's CTKD, with validations, checkpoints and resuming."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.same_bits import assert_same_bits
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ctkd_mm.utils.precision import HALVES
from emulated_cuda.precisions import PRECISIONS

pytestmark = pytest.mark.emulated_cuda

SCALES = {None: None, 'float16': 64, 'bfloat16': 1}


class Steps(Hook):
    """Keeps the losses of each iteration and the student's weights after it."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.losses: list[dict] = []
        self.weights: list[dict] = []

    def before_train(self, runner: Runner) -> None:
        self.keep(runner)

    def after_train_iter(
        self, runner: Runner, *_: Any, outputs: dict | None = None, **__: Any
    ) -> None:
        self.losses.append({k: v.item() for k, v in outputs.items()})
        self.keep(runner)

    def keep(self, runner: Runner) -> None:
        weights = runner.model.student.named_parameters()
        self.weights.append({k: v.detach().cpu().clone() for k, v in weights})


@pytest.fixture(params=PRECISIONS)
def cfg(request: pytest.FixtureRequest, demo_cfg: Config) -> Config:
    """The demo's CTKD in one precision: 2 epochs of 2 iterations."""
    demo_cfg.optim_wrapper.update(PRECISIONS[request.param])
    demo_cfg.train_cfg.max_epochs = 2
    demo_cfg.param_scheduler[0].end = 2
    return demo_cfg


def train(cfg: Config, **changes: Any) -> tuple[Runner, Steps]:
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(changes)
    cfg.visualizer.name = cfg.work_dir
    runner, steps = Runner.from_cfg(cfg), Steps()
    runner.register_hook(steps)
    runner.train()
    return runner, steps


def resumed(cfg: Config) -> tuple[Runner, Steps]:
    """The same training from the first epoch's checkpoint, in another folder."""
    checkpoint = f'{cfg.work_dir}/epoch_1.pth'
    work_dir = cfg.work_dir + '_resumed'
    return train(cfg, work_dir=work_dir, load_from=checkpoint, resume=True)


def state(runner: Runner) -> dict:
    """Everything that a resume must bring back."""
    hub = runner.message_hub.log_scalars
    metrics = {k: v.current() for k, v in hub.items() if k.startswith('val/coco')}
    assert metrics
    return dict(
        model=dict(runner.model.state_dict()),
        optimizer=runner.optim_wrapper.state_dict(),
        schedulers=[x.state_dict() for x in runner.param_schedulers],
        ema=[dict(h.ema_model.state_dict()) for h in runner.hooks if is_ema(h)],
        metrics=metrics,
    )


def is_ema(hook: Hook) -> bool:
    return hasattr(hook, 'ema_model')


def test_the_student_learns_and_a_resumed_run_ends_with_the_same_bits(cfg):
    runner, steps = train(cfg)
    assert {x.device.type for x in runner.model.state_dict().values()} == {'cuda'}
    assert len(steps.losses) == 4
    assert all(math.isfinite(x) for losses in steps.losses for x in losses.values())
    assert all(losses['distill.loss_kd'] > 0 for losses in steps.losses)
    assert steps.losses[-1]['loss'] < steps.losses[0]['loss']
    first, *_, last = steps.weights
    assert all(not torch.equal(first[k], last[k]) for k in first)
    saved = torch.load(Path(cfg.work_dir) / 'epoch_1.pth', map_location='cpu')
    scaler = saved['optimizer'].get('loss_scaler', {'scale': None})
    assert scaler['scale'] == SCALES[cfg.optim_wrapper.get('dtype')]
    again, more = resumed(cfg)
    assert more.losses == steps.losses[2:]
    assert_same_bits(state(again), state(runner))


def test_averages_follow_the_steps_of_accumulated_gradients(cfg):
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.25))
    runner, steps = train(cfg)
    moved = [
        any(not torch.equal(before[k], after[k]) for k in before)
        for before, after in zip(steps.weights, steps.weights[1:])
    ]
    assert moved == [False, True, False, True]
    (ema,) = (hook.ema_model for hook in runner.hooks if is_ema(hook))
    # MMEngine's first update copies.
    want = {k: v.double() for k, v in steps.weights[1].items()}
    for weights in steps.weights[2:]:
        want = {k: 0.75 * v + 0.25 * weights[k].double() for k, v in want.items()}
    got = dict(ema.module.student.named_parameters())
    for key, value in want.items():
        torch.testing.assert_close(got[key].cpu().double(), value, rtol=1e-5, atol=1e-7)
    again, _ = resumed(cfg)
    assert_same_bits(state(again), state(runner))


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_a_teacher_in_lower_precision_teaches_a_student_in_float32(demo_cfg, dtype):
    demo_cfg.model.teacher_dtype = dtype
    demo_cfg.train_cfg.max_epochs = 1
    # Evaluated too, in that type.
    expected = dict(value=0, tol=1, images=2)
    demo_cfg.default_hooks.preflight.expect_map = expected
    runner, steps = train(demo_cfg)
    assert len(steps.losses) == 2
    assert all(losses['distill.loss_kd'] > 0 for losses in steps.losses)
    weight = runner.model.teacher.backbone.conv1.weight
    assert weight.dtype == HALVES[dtype]
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_fused_optimizer_steps_under_loss_scaling(demo_cfg):
    demo_cfg.optim_wrapper.update(PRECISIONS['float16'])
    demo_cfg.optim_wrapper.optimizer.fused = True
    demo_cfg.train_cfg.max_epochs = 1
    runner, steps = train(demo_cfg)
    assert len(steps.losses) == 2
    assert runner.optim_wrapper.loss_scaler.get_scale() == 64
    before, *_, after = steps.weights
    assert all(not torch.equal(before[k], after[k]) for k in before)
