"""One training step of Faster R-CNN pairs: ours, its peers and the limit.

    python benchmarks/step.py [--short] [--pair r101-to-r50] [--size 480x800]
        [--batch 1] [--rounds 11]

Sides, all in one process, one step of each in turn:

- ``student``: the student alone.
- ``mmrazor``: MMRazor's SingleTeacherDistill; the teacher runs whole and first, and its
  sampled proposals are delivered to the student.
- ``mdistiller``: the step of the DKD authors' detection code: the student's RoI head
  runs a second time for its logits, the teacher's on the same RoIs.
- ``kd``, ``ctkd``, ``ctkd-instance``: ours, with the shipped configs.
- ``ctkd bf16``: with ``teacher_dtype='bfloat16'``.
- ``features``, ``roi head``: what of our teacher must run at least; added to
  ``student`` it is the limit.

Weights are random, images are noise, the proposals the same for all (see ``pairs.py``)
and the learning rate is 0, so every step is like the last. Peak memory: of a process of
its own, on a CPU above that after the imports.
Short form, one case: 5 minutes on 2 cores. ``--device cuda`` for a GPU, where --batch 8
--size 800x1333 is a realistic case and ``--dtype bfloat16`` trains in mixed precision.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import save_checkpoint
from mmengine.utils import track_iter_progress
from pairs import batch, config, plain_teacher
from timing import goal, interleaved, median, parser, ratio, report

from ctkd_mm.amp import AmpOptimWrapper, CPUAmpOptimWrapper
from ctkd_mm.distill import RoILogitDistill
from ctkd_mm.two_stage import box_forward

PEERS = ('mmrazor', 'mdistiller')
OURS = ('kd', 'ctkd', 'ctkd-instance', 'ctkd bf16')
SIDES = ('student', *PEERS, *OURS)
LIMIT = ('student', 'features', 'roi head')
GOALS = (
    ('ctkd', 'kd', 1.01),
    ('ctkd-instance', 'kd', 1.01),
    ('ctkd', 'limit', 1.03),
    ('ctkd', 'mmrazor', 0.98),
    ('ctkd', 'mdistiller', 0.98),
    ('ctkd bf16', 'mmrazor', 0.85),
    ('ctkd bf16', 'mdistiller', 0.85),
)
# Each tensor in pages of its own, or the peak would depend on glibc's heap's past.
MAPPED = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536'}
MEMORY = ('student', 'mmrazor', 'ctkd')


@MODELS.register_module()
class MDistillerStep(RoILogitDistill):
    """RoILogitDistill as mdistiller does it: the student's RoI head runs twice."""

    def run_teacher(self, feats: Sequence[torch.Tensor]) -> None:
        """Score the RoIs once more with the student, then with the teacher."""
        records = self.distiller.student_recorders.recorders
        feats_S, rois = records['rois'].data_buffer[-1]
        with self.distiller.student_recorders, torch.enable_grad():
            box_forward(self.student, feats_S, rois, 0)
        box_forward(self.teacher, feats, rois, 0)


def mmrazor_config(student: BaseModel, teacher: BaseModel, images: int) -> dict:
    """Configure MMRazor's own algorithm for a pair, at a constant temperature."""
    logits = dict(
        logits=dict(type='mmrazor.ModuleOutputs', source='roi_head.bbox_head.fc_cls')
    )
    sample = 'mmdet.models.task_modules.samplers.random_sampler.RandomSampler.sample'
    return dict(
        type='mmrazor.SingleTeacherDistill',
        architecture=student,
        teacher=teacher,
        distiller=dict(
            type='mmrazor.ConfigurableDistiller',
            student_recorders=logits,
            teacher_recorders=logits,
            distill_deliveries=dict(
                proposals=dict(
                    type='MethodOutputs',
                    max_keep_data=2 * images,  # the RPN's, then the RoI head's
                    method_path=sample,
                )
            ),
            distill_losses=dict(loss_kd=dict(type='mmrazor.KLDivergence', tau=1)),
            loss_forward_mappings=dict(
                loss_kd=dict(
                    preds_S=dict(from_student=True, recorder='logits'),
                    preds_T=dict(from_student=False, recorder='logits'),
                )
            ),
        ),
    )


def make(side: str, args: argparse.Namespace, folder: Path) -> BaseModel:
    """Build one side's model; the teacher's weights go through a file in ``folder``."""
    init_default_scope('mmdet')
    cfg = config(side.split()[0] if side in OURS else 'kd', args.pair)
    teacher = plain_teacher(cfg)
    model = cfg.model
    if side == 'student':
        model = model.architecture
    elif side == 'mmrazor':
        model = mmrazor_config(MODELS.build(model.architecture), teacher, args.batch)
    elif side == 'mdistiller':
        model.update(type='MDistillerStep', teacher=teacher)
    else:
        model.teacher_ckpt = str(folder / 'teacher.pth')
        save_checkpoint(dict(state_dict=teacher.state_dict()), model.teacher_ckpt)
    if side == 'ctkd bf16':
        model.teacher_dtype = 'bfloat16'
    # MMRazor finds its deliveries under its own scope only.
    with DefaultScope.overwrite_default_scope('mmrazor' if side == 'mmrazor' else None):
        built = MODELS.build(model)
    torch.manual_seed(0)
    built.init_weights()
    built.to(args.device).train()
    return built


def stepper(model: BaseModel, args: argparse.Namespace) -> Callable[[], None]:
    """Make a function that trains one step, the same one every time."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0, momentum=0.9)
    wrapper = CPUAmpOptimWrapper if args.device == 'cpu' else AmpOptimWrapper
    optim_wrapper = (
        wrapper(optimizer=optimizer, dtype=args.dtype)
        if args.dtype
        else OptimWrapper(optimizer)
    )
    data = batch(*args.size, args.batch)

    def step() -> None:
        torch.manual_seed(0)  # the sampler's choice of RoIs
        np.random.seed(0)
        model.train_step(copy.deepcopy(data), optim_wrapper)
        finish(args.device)

    return step


def parts(model: RoILogitDistill, args: argparse.Namespace) -> dict[str, Callable]:
    """Make functions that run what the limit has of the teacher."""
    data = model.data_preprocessor(batch(*args.size, args.batch), training=True)
    with model.distiller.student_recorders:
        model.student(data['inputs'], data['data_samples'], mode='loss')
    rois = model.distiller.student_recorders.recorders['rois'].data_buffer[-1][1]
    model._release_records()

    @torch.no_grad()
    def features() -> Any:
        feats = model.teacher.extract_feat(data['teacher_inputs'])
        finish(args.device)
        return feats

    feats = features()

    @torch.no_grad()
    def roi_head() -> None:
        box_forward(model.teacher, feats, rois, 0)
        finish(args.device)

    return {'features': features, 'roi head': roi_head}


def finish(device: str) -> None:
    """Wait for a GPU; a CPU is done when the call returns."""
    if device != 'cpu':
        torch.cuda.synchronize()


def peak_memory(side: str, args: argparse.Namespace) -> None:
    """Print the MiB of three steps of one side, and of the teacher that it has."""
    before = resident('VmRSS')
    with tempfile.TemporaryDirectory() as folder:
        model = make(side, args, Path(folder))
    step = stepper(model, args)
    for _ in range(3):
        step()
    found = dict(peak=resident('VmHWM') - before)
    if args.device != 'cpu':
        found = dict(peak=torch.cuda.max_memory_allocated() / 2**20)
    if side in OURS:
        level = parts(model, args)['features']()[0]
        weights = sum(value.nbytes for value in model.teacher.state_dict().values())
        found.update(teacher=weights / 2**20, level=level.nbytes / 2**20)
    print(json.dumps(found))


def resident(key: str) -> float:
    """Return the MiB of this process now (VmRSS) or at most so far (VmHWM); Linux."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(key)) / 1024


def memory(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run :func:`peak_memory` of some sides, each in a process of its own."""
    found = {}
    size = 'x'.join(map(str, args.size))
    for side in track_iter_progress(list(MEMORY)):
        options = ['--pair', args.pair, '--size', size, '--batch', str(args.batch)]
        options += ['--device', args.device]
        options += ['--dtype', args.dtype] if args.dtype else []
        command = [sys.executable, '-W', 'ignore', __file__, '--memory', side, *options]
        run = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=MAPPED
        )
        found[side] = json.loads(run.stdout.splitlines()[-1])
    return found


def tables(seconds: dict, mib: dict, images: int) -> dict[str, list[dict[str, str]]]:
    """Format the sides and the goals."""
    middle = median(seconds)
    limit = [sum(x) for x in zip(*(seconds[part] for part in LIMIT))]
    seconds, middle = {**seconds, 'limit': limit}, {**middle, 'limit': np.median(limit)}
    sides = [
        {
            'side': side,
            'seconds': f'{value:.3f}',
            'images/s': '' if side in LIMIT[1:] else f'{images / value:.2f}',
            'over limit': f'{ratio(seconds, side, "limit"):.3f}',
            'peak MiB': f'{mib[side]["peak"]:.0f}' if side in mib else '',
        }
        for side, value in middle.items()
    ]
    ours = mib['ctkd']
    needed = mib['student']['peak'] + ours['teacher'] + ours['level']
    goals = [
        goal(f'{side} over {over}', ratio(seconds, side, over), at_most)
        for side, over, at_most in GOALS
    ]
    goals.append(
        goal('peak memory over student and teacher', ours['peak'] / needed, 1.05)
    )
    return {'One training step': sides, 'Goals': goals}


def main() -> None:
    """Measure one case, or the short form of it."""
    arguments = parser(__doc__)
    arguments.add_argument('--pair', default='r101-to-r50')
    arguments.add_argument('--size', default='480x800', help='height x width')
    arguments.add_argument('--batch', type=int, default=1, help='images')
    arguments.add_argument('--rounds', type=int, default=11)
    arguments.add_argument('--device', default='cpu')
    arguments.add_argument('--dtype', choices=['bfloat16', 'float16'])
    arguments.add_argument('--memory', choices=SIDES, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    args.size = tuple(map(int, args.size.split('x')))
    logging.disable(logging.INFO)
    if args.memory:
        peak_memory(args.memory, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        models = {side: make(side, args, Path(folder)) for side in SIDES}
    steps = {side: stepper(model, args) for side, model in models.items()}
    steps.update(parts(models['ctkd'], args))
    seconds = interleaved(steps, 3 if args.short else args.rounds)
    mib = memory(args)
    case = f'{args.pair}, {args.size[0]} x {args.size[1]}, batch {args.batch}'
    found = tables(seconds, mib, args.batch)
    found = {f'{title}: {case}': rows for title, rows in found.items()}
    name = 'step_{}_{}x{}_{}'.format(args.pair, *args.size, args.batch)
    report(name, found, dict(seconds=seconds, mib=mib), args.out)


if __name__ == '__main__':
    main()
