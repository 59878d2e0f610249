"""``compile=True``, by the back end that traces and leaves the computing as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ctkd_mm.engine.hooks.finite_hook import FiniteHook
from ctkd_mm.models.temperatures.base import find_temperatures


class Seen(Hook):
    """Keeps the losses, tau and its raw value, and whether FiniteHook saw the step."""

    def after_train_iter(self, runner, *args, outputs=None, **kwargs) -> None:
        (temperature,) = find_temperatures(runner.model).values()
        (finite,) = (hook for hook in runner.hooks if isinstance(hook, FiniteHook))
        self.values = {k: float(v) for k, v in outputs.items() if 'loss' in k}
        self.values['tau'] = temperature.tau.item()
        self.values['raw_tau'] = temperature.raw_tau.item()
        self.stepped = finite.stepped


def train(cfg, name: str) -> Seen:
    cfg = copy.deepcopy(cfg)
    cfg.work_dir += name
    cfg.visualizer.name += name
    runner = Runner.from_cfg(cfg)
    seen = Seen()
    runner.register_hook(seen)
    runner.train()
    return seen


@pytest.mark.start
def test_a_compiled_step_is_the_same_and_its_hooks_see_it(demo_cfg):
    demo_cfg.val_cfg = demo_cfg.val_dataloader = demo_cfg.val_evaluator = None
    demo_cfg.train_cfg = dict(type=demo_cfg.train_cfg.type, max_epochs=1)
    demo_cfg.train_dataloader.dataset.indices = 2  # one step: each is traced anew
    want = train(demo_cfg, '_plain')
    demo_cfg.compile = dict(backend='eager')
    try:
        found = train(demo_cfg, '_compiled')
    finally:
        torch.compiler.reset()
    assert found.values == pytest.approx(want.values, rel=1e-4)
    assert found.stepped
