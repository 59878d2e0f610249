"""Correctness: trainings of the demo's CTKD, a few iterations each."""

from __future__ import annotations

import argparse
import copy
import math
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, save_checkpoint
from timing import goal
from torch.utils._pytree import tree_leaves

from ctkd_mm.demo.digits import make_demo_data

CONFIG = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
SCENES, BATCH = 6, 2  # 3 iterations an epoch
# Of losses, relative. An untrained detector's proposals differ little in score: what
# rounds otherwise chooses other ones.
CLOSE, LOSSY = 0.05, 0.2


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


def demo_config(args: argparse.Namespace, folder: str) -> Config:
    """Configure the demo's CTKD on a few scenes: one epoch, no validation."""
    init_default_scope('mmdet')
    data, teacher = args.out / 'digits', args.out / 'teacher.pth'
    if not teacher.exists():
        make_demo_data(data, num_train=SCENES, num_val=2)
    cfg = Config.fromfile(CONFIG, format_python_code=False)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=BATCH)
        loader.dataset.data_root = f'{data}/'
    for split in ('val', 'test'):
        cfg[f'{split}_evaluator'].ann_file = str(data / 'annotations' / 'val.json')
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.model.teacher_ckpt = str(teacher)
    cfg.work_dir = cfg.visualizer.name = tempfile.mkdtemp(f'_{folder}', dir=args.out)
    if not teacher.exists():
        torch.manual_seed(0)
        model = MODELS.build(Config.fromfile(cfg.model.teacher).model)
        model.init_weights()
        meta = dict(dataset_meta=dict(classes=tuple('0123456789')))
        save_checkpoint(dict(meta=meta, state_dict=model.state_dict()), str(teacher))
    return cfg


def unvalidated(cfg: Config) -> Config:
    """The same training without its validations."""
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.train_cfg.pop('val_interval')
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
    pairs = list(zip(found, want, strict=True))
    return max(abs(a['loss'] - b['loss']) / abs(b['loss']) for a, b in pairs)


def precisions(args: argparse.Namespace) -> dict:
    """Compare trainings in each precision with the CPU's float32."""
    amp = f'ctkd_mm.{"CPU" * (args.device == "cpu")}AmpOptimWrapper'
    half = dict(optim_wrapper=dict(type=amp, dtype='float16'))
    brain = dict(optim_wrapper=dict(type=amp, dtype='bfloat16'))
    runs = {
        'float32': ({}, CLOSE),
        'float16': (half, LOSSY),
        'bfloat16': (brain, LOSSY),
        'teacher in bfloat16': (dict(model=dict(teacher_dtype='bfloat16')), LOSSY),
        'teacher in float16': (dict(model=dict(teacher_dtype='float16')), LOSSY),
        'all in bfloat16': ({**brain, 'model': dict(teacher_dtype='bfloat16')}, LOSSY),
    }
    if args.device == 'cpu':
        del runs['float16']  # bfloat16 alone
    rows, goals, figures = [], [], {}
    for name, (changes, at_most) in runs.items():
        cfg = unvalidated(demo_config(args, name.replace(' ', '_')))
        cfg.merge_from_dict(changes)
        steps, _ = train(cfg)
        figures[name] = steps.losses
        first = steps.losses[0]
        off = distance([first], [losses_on_cpu(cfg, steps.first)])
        values = [value for losses in steps.losses for value in losses.values()]
        row = {'run': name, 'off the CPU, first loss': f'{off:.1e}'}
        row['losses'] = ' '.join(f'{x["loss"]:.3f}' for x in steps.losses)
        row['loss_kd'] = ' '.join(f'{x["distill.loss_kd"]:.3f}' for x in steps.losses)
        rows.append({**row, 'last step, s': f'{steps.seconds[-1]:.3f}'})
        goals.append(goal(f'{name}: first loss off the CPU', off, at_most))
        bad = sum(not math.isfinite(value) for value in values)
        bad += sum(not x['distill.loss_kd'] > 0 for x in steps.losses)
        goals.append(goal(f'{name}: losses not finite, loss_kd not > 0', bad, 0))
    return dict(tables={'Precisions': rows, 'Goals': goals}, losses=figures)


def resume(args: argparse.Namespace) -> dict:
    """Compare a run that is told to stop, and resumed, with an uninterrupted one."""
    cfg = demo_config(args, 'whole')
    cfg.train_cfg.max_epochs = 2
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.25))
    whole, _ = train(cfg)
    cfg.work_dir = cfg.visualizer.name = tempfile.mkdtemp('_stopped', dir=args.out)
    stopped, code = train(cfg, signal_in=3)  # within the second epoch
    # What a host without the device could not read: storages keep their place.
    saved = torch.load(Path(cfg.work_dir) / 'preempted.pth')
    tensors = [x for x in tree_leaves(saved) if isinstance(x, torch.Tensor)]
    elsewhere = sum(tensor.device.type != 'cpu' for tensor in tensors)
    cfg.resume, cfg.visualizer.name = True, cfg.work_dir + '_again'
    resumed, _ = train(cfg)
    losses = [*stopped.losses, *resumed.losses]
    off = distance(losses, whole.losses)
    goals = [
        goal('exit code off 75', abs((code or 0) - 75), 0),
        goal('losses of the stopped and resumed run off the whole one', off, CLOSE),
        goal(f'of {len(tensors)} tensors saved, EMA too, off the host', elsewhere, 0),
        goal('no averaged weights saved', 'ema_state_dict' not in saved, 0),
    ]
    rows = [
        {
            'iterations': f'{len(stopped.losses)} + {len(resumed.losses)}',
            'same bits': 'yes' if losses == whole.losses else 'no',
            'largest distance': f'{off:.1e}',
        }
    ]
    return dict(tables={'Preempted and resumed': rows, 'Goals': goals}, losses=losses)


def nccl(args: argparse.Namespace) -> dict:
    """Compare a process group of one process, then with SyncBN, with a plain run."""
    on_cpu = args.device == 'cpu'
    if not on_cpu and not torch.distributed.is_nccl_available():
        return dict(tables={}, not_here='this PyTorch has no NCCL')
    want, _ = train(unvalidated(demo_config(args, 'plain')))
    os.environ['LOCAL_RANK'] = '0'
    torch.distributed.init_process_group(
        'gloo' if on_cpu else 'nccl',
        init_method=f'file://{tempfile.mkdtemp()}/store',
        rank=0,
        world_size=1,
    )
    runs = {'DDP': {}} if on_cpu else {'DDP': {}, 'DDP, SyncBN': dict(sync_bn='torch')}
    rows, goals = [], []
    for name, changes in runs.items():
        cfg = unvalidated(demo_config(args, 'ddp'))
        cfg.merge_from_dict(dict(launcher='pytorch', **changes))
        if on_cpu:
            cfg.model_wrapper_cfg = dict(
                type='MMDistributedDataParallel', device_ids=None
            )
        steps, _ = train(cfg)
        off = distance(steps.losses, want.losses)
        rows.append({'run': name, 'last step, s': f'{steps.seconds[-1]:.3f}'})
        goals.append(goal(f'{name}: losses off one without a group', off, CLOSE))
    torch.distributed.destroy_process_group()
    return dict(tables={'One process': rows, 'Goals': goals})


def compiled(args: argparse.Namespace) -> dict:
    """Compare a compiled training with a plain one."""
    steps = {}
    for name in ('plain', 'compiled'):
        cfg = unvalidated(demo_config(args, name))
        if args.short:
            cfg.train_dataloader.dataset.indices = BATCH  # each step is traced anew
        if name == 'compiled':
            cfg.compile = dict(backend='eager') if args.short else True
        steps[name], _ = train(cfg)
    off = distance(steps['compiled'].losses, steps['plain'].losses)
    rows = [
        {'run': k, 'seconds of each step': ' '.join(f'{s:.2f}' for s in v.seconds)}
        for k, v in steps.items()
    ]
    goals = [goal('compiled: losses off plain', off, CLOSE)]
    return dict(tables={'compile=True': rows, 'Goals': goals})
