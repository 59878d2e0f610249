"""Correctness: the demo's CTKD in each precision, stopped, in a group, compiled."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path

import torch
from demo_runs import BATCH, demo_config, distance, losses_on_cpu, train
from timing import goal
from torch.utils._pytree import tree_leaves

# Of losses, relative. An untrained detector's proposals differ little in score: what
# rounds otherwise chooses other ones.
CLOSE, LOSSY = 0.05, 0.2


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
    left_out = ['float16'] * (args.device == 'cpu')
    if args.short:
        left_out += ['bfloat16', 'teacher in bfloat16', 'teacher in float16']
    runs = {name: run for name, run in runs.items() if name not in left_out}
    rows, goals, figures = [], [], {}
    for name, (changes, at_most) in runs.items():
        cfg = demo_config(args, name.replace(' ', '_'))
        cfg.merge_from_dict(changes)
        steps, _ = train(cfg)
        figures[name] = steps.losses
        first = steps.losses[0]
        off = distance([first], [losses_on_cpu(cfg, steps.first)])
        kd = [losses['distill.loss_kd'] for losses in steps.losses]
        rows.append(
            {
                'run': name,
                'off the CPU, first loss': f'{off:.1e}',
                'losses': ' '.join(f'{losses["loss"]:.3f}' for losses in steps.losses),
                'loss_kd': ' '.join(f'{value:.3f}' for value in kd),
                'last step, s': f'{steps.seconds[-1]:.3f}',
            }
        )
        goals.append(goal(f'{name}: first loss off the CPU', off, at_most))
        values = [value for losses in steps.losses for value in losses.values()]
        bad = sum(not math.isfinite(value) for value in values)
        bad += sum(not value > 0 for value in kd)
        goals.append(goal(f'{name}: losses not finite, loss_kd not > 0', bad, 0))
    return dict(tables={'Precisions': rows, 'Goals': goals}, losses=figures)


def resume(args: argparse.Namespace) -> dict:
    """Compare a run that is told to stop, and resumed, with an uninterrupted one."""
    cfg = demo_config(args, 'whole', validates=True)
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
    want, _ = train(demo_config(args, 'plain'))
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
        cfg = demo_config(args, 'ddp')
        cfg.merge_from_dict(dict(launcher='pytorch', **changes))
        if on_cpu:
            wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
            cfg.model_wrapper_cfg = wrapper
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
        cfg = demo_config(args, name)
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
