"""One training step of Faster R-CNN pairs: ours, its peers and the limit.

    python benchmarks/step.py [--short] [--pair r101-to-r50] [--size 480x800]
        [--batch 1] [--rounds 11]

Sides, all in one process, one step of each in turn:

- ``student``: the student alone.
- ``mmrazor``: MMRazor's SingleTeacherDistill; the teacher runs whole and first, and its
  sampled proposals are delivered to the student. The teacher is the plain one.
- ``mdistiller``: the step of the DKD authors' detection code: the student's RoI head
  runs a second time for its logits, the plain teacher's on the same RoIs.
- ``kd``, ``ctkd``, ``ctkd-instance``: ours, with the shipped configs.
- ``ctkd bf16``: with ``teacher_dtype='bfloat16'``.
- ``features``, ``roi head``: what of our teacher must run at least; added to
  ``student`` it is the limit.

Weights are random, images are noise, the proposals the same for all (see ``pairs.py``)
and the learning rate is 0, so every step is like the last. Peak memory is that of a
process of its own, on a CPU above what the imports take. The short form, one case,
takes 5 minutes on 2 cores. On a GPU (``--device cuda``), --batch 8 --size 800x1333 is
a realistic case.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys

import torch
from mmengine.utils import track_iter_progress
from sides import OURS, PEERS, SIDES, Shared, make, parts, stepper
from step_tables import tables
from timing import interleaved, parser, report, resident

# Each tensor in pages of its own, or the peak would depend on glibc's heap's past.
MAPPED = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536'}
MEMORY = ('student', 'mmrazor', 'ctkd')


def peak_memory(side: str, args: argparse.Namespace) -> None:
    """Print the MiB of three steps of one side, and of the teacher that it has."""
    before = resident('VmRSS')
    shared = Shared(args)
    model = make(side, shared)
    step = stepper(model, shared)
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


def memory(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run :func:`peak_memory` of some sides, each in a process of its own."""
    found = {}
    size = 'x'.join(map(str, args.size))
    sides = [side for side in MEMORY if not (args.short and side in PEERS)]
    for side in track_iter_progress(sides):
        options = ['--pair', args.pair, '--size', size, '--batch', str(args.batch)]
        options += ['--device', args.device]
        options += ['--dtype', args.dtype] if args.dtype else []
        command = [sys.executable, '-W', 'ignore', __file__, '--memory', side, *options]
        run = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=MAPPED
        )
        found[side] = json.loads(run.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure one case, or the short form of it."""
    arguments = parser(__doc__)
    arguments.add_argument('--pair', default='r101-to-r50')
    arguments.add_argument('--size', default='480x800', help='height x width')
    arguments.add_argument('--batch', type=int, default=1, help='images')
    arguments.add_argument('--rounds', type=int, default=11)
    arguments.add_argument('--device', default='cpu')
    arguments.add_argument(
        '--dtype', choices=['bfloat16', 'float16'], help='of mixed precision'
    )
    arguments.add_argument('--trace', help='.json of a ctkd step, for chrome://tracing')
    arguments.add_argument('--memory', choices=SIDES, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    args.size = tuple(map(int, args.size.split('x')))
    logging.disable(logging.INFO)
    if args.memory:
        peak_memory(args.memory, args)
        return
    shared = Shared(args)
    models = {side: make(side, shared) for side in SIDES}
    steps = {side: stepper(model, shared) for side, model in models.items()}
    steps.update(parts(models['ctkd'], args))
    if args.trace:
        steps['ctkd']()
        with torch.profiler.profile() as profile:
            steps['ctkd']()
        profile.export_chrome_trace(args.trace)
    seconds = interleaved(steps, 3 if args.short else args.rounds)
    mib = memory(args)
    case = f'{args.pair}, {args.size[0]} x {args.size[1]}, batch {args.batch}'
    found = tables(seconds, mib, args.batch)
    found = {f'{title}: {case}': rows for title, rows in found.items()}
    name = 'step_{}_{}x{}_{}'.format(args.pair, *args.size, args.batch)
    report(name, found, dict(seconds=seconds, mib=mib), args.out)


if __name__ == '__main__':
    main()
