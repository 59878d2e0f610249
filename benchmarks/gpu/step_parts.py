"""Speed and memory of a training step at full size, and where its time goes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from types import SimpleNamespace

import pairs
import step_tables
import teacher as teachers
import torch
from idle_gaps import gaps_of
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from sides import OURS, SIDES, Shared, make, optimizer_of, parts, stepper
from timing import interleaved, median, ratio

from ctkd_mm.engine.hooks.finite_hook import FiniteHook

ROUNDS = 15


def begin(args: argparse.Namespace) -> int:
    """Prepare this process; return how often to time each side."""
    logging.disable(logging.INFO)
    init_default_scope('mmdet')
    if args.pair == 'digits':
        pairs.NUM_CLASSES, pairs.PROPOSALS, teachers.ROIS = 10, 100, 64
    return 1 if args.short else ROUNDS


def step(args: argparse.Namespace) -> dict:
    """Time a step of each side in turn; then measure the memory of each."""
    rounds = begin(args)
    shared = Shared(args)
    models = {side: make(side, shared) for side in SIDES}
    steps = {side: stepper(model, shared) for side, model in models.items()}
    limit = parts(models['ctkd'], args)
    seconds = interleaved({**steps, **limit}, rounds, warm_up=3 if rounds > 1 else 1)
    level = limit['features']()[0]
    mib = {side: memory(models[side], steps[side], args.device) for side in SIDES}
    for side in OURS:
        mib[side].update(level=level.nbytes / 2**20)
    tables = step_tables.tables(seconds, mib, args.batch)
    if args.short:
        del tables['Goals']  # of full-size models
    return dict(tables=tables, seconds=seconds, mib=mib)


def memory(model: BaseModel, run: Callable, device: str) -> dict[str, float]:
    """MiB of a model's step: its own weights and momentum, and what the step adds.

    Returns:
        ``peak``, and ``teacher``, what of it are the teacher's weights. On a CPU the
        weights and momentum alone.
    """
    own = {id(t): t.nbytes for t in model.state_dict(keep_vars=True).values()}
    frozen = getattr(model, 'teacher', None)
    weights = frozen.state_dict(keep_vars=True).values() if frozen else ()
    own.update({id(t): t.nbytes for t in weights})
    peak = sum(own.values())
    peak += sum(p.nbytes for p in model.parameters() if p.requires_grad)
    if device == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        idle = torch.cuda.memory_allocated()
        run()
        peak += torch.cuda.max_memory_allocated() - idle
    held = sum(t.nbytes for t in weights)
    return dict(peak=peak / 2**20, teacher=held / 2**20)


def teacher(args: argparse.Namespace) -> dict:
    """Time the teacher plain, folded, channels-last, and with weights in bfloat16."""
    rounds = begin(args)
    plain = pairs.plain_teacher(pairs.config('kd', args.pair)).to(args.device)
    plain.requires_grad_(False)
    images = plain.data_preprocessor(pairs.batch(*args.size, args.batch))['inputs']
    crops, layers = teachers.head_ways(plain, images)
    tables = {
        'Features': teachers.rows(teachers.ways(plain, images, short=True), rounds),
        'RoI head, crops': teachers.rows(crops, rounds),
        'RoI head, layers': teachers.rows(layers, rounds),
        'Logits': teachers.logit_errors(plain, images),
    }
    return dict(tables=tables)


def waits(args: argparse.Namespace) -> dict:
    """Time steps without and with FiniteHook, which waits for the device in each.

    As in a training, the losses are read after each step and nothing else is waited
    for: what the hook costs is what the host could have launched meanwhile.
    """
    rounds = begin(args)
    shared = Shared(args)
    model, hook = make('ctkd', shared), FiniteHook()
    wrapper = optimizer_of(model, shared)
    runner = SimpleNamespace(
        model=model, optim_wrapper=wrapper, iter=0, epoch=0, work_dir='.'
    )
    hook.before_train(runner)  # watches this optimizer alone
    checked = stepper(model, shared, wrapper, read)

    def with_hook() -> None:
        hook.before_train_iter(runner)
        checked()
        hook.after_train_iter(runner)

    sides = {'plain': stepper(model, shared, None, read), 'FiniteHook': with_hook}
    seconds = interleaved(sides, 2 * rounds, warm_up=2)
    rows = [
        {'side': name, 'seconds': f'{value:.4f}', 'over plain': f'{over:.3f}'}
        for (name, value), over in zip(
            median(seconds).items(), [1, ratio(seconds, 'FiniteHook', 'plain')]
        )
    ]
    return dict(tables={'A step': rows}, seconds=seconds)


def read(losses: dict[str, torch.Tensor]) -> None:
    """Read every loss, as MMEngine does for its log."""
    for value in losses.values():
        value.item()


def trace(args: argparse.Namespace) -> dict:
    """Trace one step and list when the device had nothing to do."""
    begin(args)
    shared = Shared(args)
    run = stepper(make('ctkd', shared), shared)
    for _ in range(2):
        run()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.profiler.ProfilerActivity.CUDA in torch.profiler.supported_activities():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        run()
    path = args.out / 'step_trace.json'
    profile.export_chrome_trace(str(path))
    return dict(tables=gaps_of(path), trace=str(path))
