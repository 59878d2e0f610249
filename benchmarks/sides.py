"""The sides of a training step: ours, its peers and the parts of the limit."""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from pairs import batch, config, plain_teacher
from peers import mmrazor_config

from ctkd_mm.engine.optim.amp_wrapper import AmpOptimWrapper, CPUAmpOptimWrapper
from ctkd_mm.models.algorithms.roi_logit_distill import RoILogitDistill
from ctkd_mm.models.heads.roi_head import box_forward
from ctkd_mm.models.teachers.speed_up import speed_up
from ctkd_mm.utils.precision import keep_weights, low_precision

PEERS = ('mmrazor', 'mdistiller')
OURS = ('kd', 'ctkd', 'ctkd-instance', 'ctkd bf16')
SIDES = ('student', *PEERS, *OURS)


class Shared:
    """What the sides have in common: memory that lies idle may leave the machine's.

    Attributes:
        student: The detector that all sides train.
        plain: The peers' teacher.
        fast: Ours, as ``init_weights()`` leaves it.
        half: Ours with ``teacher_dtype='bfloat16'``.
        momentum: The optimizers' state of the student.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        init_default_scope('mmdet')
        self.args = args
        self.momentum: dict = defaultdict(dict)

    @cached_property
    def student(self) -> BaseModel:
        model = MODELS.build(config('kd', self.args.pair).model.architecture)
        torch.manual_seed(0)
        model.init_weights()
        return model.to(self.args.device)

    @cached_property
    def plain(self) -> BaseModel:
        return plain_teacher(config('kd', self.args.pair)).to(self.args.device)

    @cached_property
    def fast(self) -> BaseModel:
        return self._ours(None)

    @cached_property
    def half(self) -> BaseModel:
        return self._ours('bfloat16')

    def _ours(self, dtype: str | None) -> BaseModel:
        teacher = plain_teacher(config('kd', self.args.pair)).to(self.args.device)
        print(speed_up(teacher, dtype))
        keep_weights(teacher, dtype)
        return teacher


def make(side: str, shared: Shared) -> BaseModel:
    """Build one side's model in training mode."""
    args = shared.args
    if side == 'student':
        return shared.student.train()
    model = config(side.split()[0] if side in OURS else 'kd', args.pair).model
    model.architecture = shared.student
    kind = 'plain' if side in PEERS else 'half' if side == 'ctkd bf16' else 'fast'
    model.teacher = getattr(shared, kind)
    if side == 'mmrazor':
        model = mmrazor_config(model, args.batch)
    elif side == 'mdistiller':
        model.type = 'MDistillerStep'
    elif side == 'ctkd bf16':
        model.teacher_dtype = 'bfloat16'
    # MMRazor finds its deliveries under its own scope only.
    with DefaultScope.overwrite_default_scope('mmrazor' if side == 'mmrazor' else None):
        built = MODELS.build(model)
    built.to(args.device).train()
    return built


def optimizer_of(model: BaseModel, shared: Shared) -> OptimWrapper:
    """Make an optimizer whose steps change nothing."""
    args = shared.args
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0, momentum=0.9)
    optimizer.state = shared.momentum
    wrapper = CPUAmpOptimWrapper if args.device == 'cpu' else AmpOptimWrapper
    if args.dtype:
        return wrapper(optimizer=optimizer, dtype=args.dtype)
    return OptimWrapper(optimizer)


def stepper(
    model: BaseModel,
    shared: Shared,
    optim_wrapper: OptimWrapper | None = None,
    after: Callable | None = None,
) -> Callable[[], None]:
    """Make a function that trains one step, the same one every time.

    Args:
        model: From :func:`make`.
        shared: What it was made from.
        optim_wrapper: None makes one.
        after: What to do with the losses; None waits for a GPU.
    """
    args = shared.args
    optim_wrapper = optim_wrapper or optimizer_of(model, shared)
    data = batch(*args.size, args.batch)

    def step() -> None:
        torch.manual_seed(0)  # the sampler's choice of RoIs
        np.random.seed(0)
        losses = model.train_step(copy.deepcopy(data), optim_wrapper)
        after(losses) if after else finish(args.device)

    return step


def parts(model: RoILogitDistill, args: argparse.Namespace) -> dict[str, Callable]:
    """Make functions that run what the limit has of the teacher."""
    data = model.data_preprocessor(batch(*args.size, args.batch), training=True)
    with model.distiller.student_recorders:
        model.student(data['inputs'], data['data_samples'], mode='loss')
    recorders = model.distiller.student_recorders.recorders
    rois = recorders['rois'].data_buffer[-1][1]
    for recorder in recorders.values():  # they would hold the step's activations
        recorder.reset_data_buffer()

    device = torch.device(args.device)

    @torch.no_grad()
    def features() -> Any:
        with low_precision(device, args.dtype):
            feats = model.teacher.extract_feat(data['teacher_inputs'])
        finish(args.device)
        return feats

    feats = features()

    @torch.no_grad()
    def roi_head() -> None:
        with low_precision(device, args.dtype):
            box_forward(model.teacher, feats, rois, 0)
        finish(args.device)

    return {'features': features, 'roi head': roi_head}


def finish(device: str) -> None:
    """Wait for a GPU; a CPU is done when the call returns."""
    if device != 'cpu':
        torch.cuda.synchronize()
