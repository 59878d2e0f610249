"""The frozen teacher of a distiller, which stands beside its module tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmrazor.models.task_modules import ModuleOutputsRecorder
from torch import nn

from ctkd_mm.models.teachers.load import load_teacher_of
from ctkd_mm.models.teachers.speed_up import speed_up
from ctkd_mm.utils.precision import keep_weights, low_precision


class Beside:
    """Holds a model out of the module tree.

    Copies of the holder share the model, as an EMA copy does, without owning it: what
    moves or casts a copy leaves the model where it is.

    Args:
        model: The model.
        owns: Whether the model follows the holder's module to other devices.
    """

    def __init__(self, model: nn.Module, owns: bool = True) -> None:
        self.model = model
        self.owns = owns

    def __deepcopy__(self, memo: dict) -> Beside:
        return Beside(self.model, owns=False)


class FrozenTeacher:
    """Mix-in before MMRazor's ``SingleTeacherDistill``: the teacher is no submodule.

    So no checkpoint, optimizer, DDP bucket or moving average carries it. It stays in
    eval mode, moves with the model, and is loaded and sped up by :meth:`init_weights`;
    evaluation does not need its file.

    Attributes:
        teacher: The teacher.
        teacher_ckpt: Path or URL of its checkpoint.
        teacher_ignore_keys: Regular expressions of keys that may not fit.
        teacher_dtype: Type that it computes in, see
            :func:`ctkd_mm.utils.precision.low_precision`; its weights, once loaded, are
            kept in it, see :func:`ctkd_mm.utils.precision.keep_weights`.
        teacher_sha256: Hash of its weights; None as long as it has none.
        teacher_meta: ``meta`` of its checkpoint.
    """

    _beside: Beside

    @property
    def teacher(self) -> BaseModel:
        """The teacher, no submodule."""
        return self._beside.model

    def init_weights(self) -> None:
        """Initialise the student as its config says; load the teacher.

        Raises:
            ValueError: If there is no ``teacher_ckpt`` or it does not fit.
        """
        super().init_weights()
        if self.teacher_sha256 is not None:
            return
        load_teacher_of(self, self.teacher_ckpt, self.teacher_ignore_keys)
        recorders = self.distiller.teacher_recorders.recorders.values()
        # One of a function or method does not show in the modules that it looks into.
        if all(isinstance(recorder, ModuleOutputsRecorder) for recorder in recorders):
            print_log(speed_up(self.teacher, self.teacher_dtype), 'current')
        keep_weights(self.teacher, self.teacher_dtype)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """Compute what the teacher does meanwhile without gradient, in its type.

        Nothing else may run a teacher whose weights are kept in that type.
        """
        device = next(self.teacher.parameters()).device
        with torch.no_grad(), low_precision(device, self.teacher_dtype):
            yield

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> FrozenTeacher:
        if self._beside.owns:
            self.teacher._apply(fn, *args, **kwargs)  # .to(), .cuda(), ...
        return super()._apply(fn, *args, **kwargs)
