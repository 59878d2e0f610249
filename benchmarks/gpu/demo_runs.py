"""Trainings of the demo's CTKD, a few iterations each, and what they gave."""

from __future__ import annotations

import argparse
import copy
import functools
import os
import signal
import tempfile
import time
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, save_checkpoint

from ctkd_mm.demo.digits import make_demo_data

CONFIG = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
SCENES, BATCH = 6, 2  # 3 iterations an epoch


class Steps(Hook):
    """Keeps the losses and seconds of each iteration, and what the first one had."""

    priority = 'VERY_LOW'  # before PreemptionHook leaves

    def __init__(self, signal_in: int | None = None) -> None:
        self.signal_in = signal_in  # the iteration, from 0
        self.losses: list[dict[str, float]] = []
        self.seconds: list[float] = []
        self.first: dict = {}

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Note the start; ask the run to stop, as a scheduler does."""
        if not self.first:
            model = getattr(runner.model, 'module', runner.model)
            weights = {k: v.cpu().clone() for k, v in model.state_dict().items()}
            draws = torch.get_rng_state(), np.random.get_state()
            data = copy.deepcopy(data_batch)
            self.first = dict(data=data, weights=weights, draws=draws)
        if runner.iter == self.signal_in:
            os.kill(os.getpid(), signal.SIGUSR1)
        self.start = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, *_: Any, outputs: dict | None = None, **__: Any
    ) -> None:
        """Keep what the iteration gave; reading it waits for the device."""
        values = {k: v.item() for k, v in outputs.items() if 'loss' in k}
        self.losses.append(values)
        self.seconds.append(time.perf_counter() - self.start)


@functools.lru_cache(None)
def read_config() -> Config:
    """The demo's config, with the teacher's in it; reading one takes a second."""
    cfg = Config.fromfile(CONFIG, format_python_code=False)
    cfg.model.teacher = Config.fromfile(cfg.model.teacher).model
    return cfg


def demo_config(
    args: argparse.Namespace, folder: str, validates: bool = False
) -> Config:
    """Configure the demo's CTKD on a few scenes: one epoch."""
    init_default_scope('mmdet')
    data, teacher = args.out / 'digits', args.out / 'teacher.pth'
    if not teacher.exists():
        make_demo_data(data, num_train=SCENES, num_val=2)
    cfg = copy.deepcopy(read_config())
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=BATCH)
        loader.dataset.data_root = f'{data}/'
    for split in ('val', 'test'):
        cfg[f'{split}_evaluator'].ann_file = str(data / 'annotations' / 'val.json')
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    if not validates:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        del cfg.train_cfg['val_interval']
    cfg.model.teacher_ckpt = str(teacher)
    cfg.work_dir = cfg.visualizer.name = tempfile.mkdtemp(f'_{folder}', dir=args.out)
    if not teacher.exists():
        torch.manual_seed(0)
        model = MODELS.build(copy.deepcopy(cfg.model.teacher))
        model.init_weights()
        meta = dict(dataset_meta=dict(classes=tuple('0123456789')))
        save_checkpoint(dict(meta=meta, state_dict=model.state_dict()), str(teacher))
    return cfg


def train(cfg: Config, signal_in: int | None = None) -> tuple[Steps, int | None]:
    """Train; return what was seen and the code that the run exited with."""
    runner, steps = Runner.from_cfg(cfg), Steps(signal_in)
    runner.register_hook(steps)
    try:
        runner.train()
    except SystemExit as error:
        return steps, error.code
    return steps, None


def losses_on_cpu(cfg: Config, first: dict) -> dict[str, float]:
    """The first iteration again, on the CPU in float32."""
    model = MODELS.build(copy.deepcopy({**cfg.model, 'teacher_dtype': None}))
    model.init_weights()
    model.load_state_dict(first['weights'])
    data = model.train().data_preprocessor(copy.deepcopy(first['data']), True)
    torch.set_rng_state(first['draws'][0])
    np.random.set_state(first['draws'][1])
    total, values = model.parse_losses(model(**data, mode='loss'))
    return {k: v.item() for k, v in values.items() if 'loss' in k}


def distance(found: list[dict], want: list[dict]) -> float:
    """The largest relative distance of two runs' sums of losses."""
    assert len(found) == len(want)
    return max(abs(a['loss'] / b['loss'] - 1) for a, b in zip(found, want))
