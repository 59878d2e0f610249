"""What every logit distillation shares: the frozen teacher beside it, and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ctkd_mm.compat import stack as _stack

_stack.require_openmmlab()

import mmrazor.models  # noqa: E402, F401  registers recorders, distillers, losses
from mmengine.config import Config  # noqa: E402
from mmengine.hub import get_model  # noqa: E402
from mmengine.logging import print_log  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.structures import BaseDataElement  # noqa: E402
from mmrazor.models.algorithms import SingleTeacherDistill  # noqa: E402
from mmrazor.models.task_modules import ModuleOutputsRecorder  # noqa: E402
from mmrazor.models.utils import add_prefix  # noqa: E402
from mmrazor.registry import MODELS as MMRAZOR_MODELS  # noqa: E402

from ctkd_mm.models.algorithms.distiller_config import join, takes_labels  # noqa: E402
from ctkd_mm.models.teachers.load import Beside, load_teacher  # noqa: E402
from ctkd_mm.models.teachers.preprocessor import PairDataPreprocessor  # noqa: E402
from ctkd_mm.models.teachers.speed_up import speed_up  # noqa: E402
from ctkd_mm.models.temperatures.learned import InstanceTemperature  # noqa: E402
from ctkd_mm.utils.precision import HALVES, low_precision  # noqa: E402
from ctkd_mm.utils.weights import weights_sha256  # noqa: E402


class LogitDistill(SingleTeacherDistill):
    """A student learns from a teacher's class logits for the same places.

    One training step: the teacher's features; the student's usual losses, while
    recorders keep what the teacher needs; the teacher's logits for the same places,
    without gradient; ``loss_kd(preds_S, preds_T)``, row i of both being the same
    place. Which places, and which module gives the logits, is the subclass's:
    :meth:`check_pair`, :meth:`records`, :meth:`run_teacher` and :meth:`check_heads`.

    The teacher is frozen, stays in eval mode and sees the pixels of its own
    ``data_preprocessor``. It stands beside the module tree: no checkpoint, optimizer,
    DDP bucket or moving average carries it. ``init_weights()``, which ``Runner.train``
    calls, loads it from ``teacher_ckpt`` and speeds it up
    (:func:`ctkd_mm.models.teachers.speed_up.speed_up`); evaluation does not need the
    file.

    Args:
        architecture: The student: a model, its config, or the path of a config file
            with a ``model`` in it (``'mmdet::...'`` for one that MMDetection ships).
        teacher: The teacher, with the same classes, in any of these forms. A model
            stays as it is.
        loss_kd: Config of a loss with ``forward(preds_S, preds_T)``, such as
            ``dict(type='ctkd_mm.CTKDLoss', ...)`` or
            ``dict(type='mmrazor.KLDivergence', tau=1)``.
        teacher_ckpt: Path or URL of the teacher's checkpoint, which must fit it; see
            :func:`ctkd_mm.models.teachers.load.load_teacher`. Needed unless ``teacher``
            is a model.
        distiller: Further recorders, connectors, losses and their mappings to
            compute beside ``loss_kd``: arguments of MMRazor's
            ``ConfigurableDistiller``.
        data_preprocessor: None takes the student's.
        init_cfg: See MMEngine's ``BaseModule``.
        teacher_ignore_keys: Regular expressions of keys of weights that
            ``teacher_ckpt`` may lack, have in addition or in another shape.
        teacher_dtype: ``'bfloat16'`` or ``'float16'`` runs the teacher alone in mixed
            precision. Faster, and its logits are off by about 1 percent of their
            size (docs/performance.md); mmcv's deformable convolutions cannot. None: it
            computes as the student does.

    Attributes:
        teacher: The teacher.
        teacher_ckpt: As given.
        teacher_sha256: Hash of its weights; None as long as it has none.
        teacher_meta: ``meta`` of its checkpoint.

    Raises:
        ValueError: If the two are no pair (:meth:`check_pair`), the pixels cannot be
            reconciled
            (:class:`ctkd_mm.models.teachers.preprocessor.PairDataPreprocessor`), or
            ``distiller`` claims a name used here, compares features of batches that are
            padded differently, or asks for deliveries (they bring the teacher's data to
            the student, but here the student's places are the teacher's).

    Source: extends MMRazor's ``SingleTeacherDistill``, which runs the teacher first
    and whole, and stores it.
    """

    def __init__(
        self,
        architecture: BaseModel | dict | str,
        teacher: BaseModel | dict | str,
        loss_kd: dict,
        teacher_ckpt: str | None = None,
        distiller: dict | None = None,
        data_preprocessor: nn.Module | dict | None = None,
        init_cfg: dict | list[dict] | None = None,
        teacher_ignore_keys: Sequence[str] = (),
        teacher_dtype: str | None = None,
    ) -> None:
        if teacher_dtype not in (None, *HALVES):
            raise ValueError(
                f'model.teacher_dtype={teacher_dtype!r} must be None or one of '
                f'{list(HALVES)}'
            )
        has_weights = isinstance(teacher, BaseModel)
        student = build_detector(architecture)
        teacher = build_detector(teacher)
        num_classes = self.check_pair(student, teacher)
        self._beside = Beside(teacher)
        distiller = distiller or {}
        ours = self.records(student, teacher, takes_labels(loss_kd))
        super().__init__(
            distiller=join(distiller, ours, loss_kd),
            architecture=student,
            teacher=teacher,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
            # A recorder must see its layer's own output; ours record no such layer.
            module_inplace=not distiller.get('student_recorders'),
            teacher_module_inplace=not distiller.get('teacher_recorders'),
        )
        del self._modules['teacher']
        self.data_preprocessor = PairDataPreprocessor(
            self.data_preprocessor, teacher.data_preprocessor
        )
        # A recorder that is entered again forgets what it saw before.
        self._watched = bool(distiller.get('teacher_recorders'))
        if self._watched:
            self.data_preprocessor.require_equal_padding()
        self.teacher_ckpt = teacher_ckpt
        self.teacher_ignore_keys = teacher_ignore_keys
        self.teacher_dtype = teacher_dtype
        self.teacher_meta: dict = {}
        self.teacher_sha256 = weights_sha256(teacher) if has_weights else None
        self._check_temperatures(num_classes)

    def check_pair(self, student: BaseModel, teacher: BaseModel) -> int:
        """Check that the two can be a pair.

        Args:
            student: The built student.
            teacher: The built teacher.

        Returns:
            How many classes both know, background not counted.

        Raises:
            ValueError: If they cannot.
        """
        raise NotImplementedError

    def records(self, student: BaseModel, teacher: BaseModel, labels: bool) -> dict:
        """Say what to record of both models, and what of it ``loss_kd`` gets.

        Args:
            student: The built student.
            teacher: The built teacher.
            labels: Whether ``loss_kd`` wants the labels of the places too.

        Returns:
            Arguments of ``ConfigurableDistiller``: recorders, connectors and
            ``loss_forward_mappings`` for ``loss_kd``.
        """
        raise NotImplementedError

    def run_teacher(self, feats: Sequence[Tensor]) -> None:
        """Make the teacher score the student's places of this step; no gradient.

        Args:
            feats: The teacher's features, what its ``extract_feat`` returns.
        """
        raise NotImplementedError

    def check_heads(self) -> list[str]:
        """Compare what both models compute for a blank image with their configs.

        Returns:
            Lines for the log.

        Raises:
            ValueError: If it is something else.
        """
        raise NotImplementedError

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
        if self.teacher_ckpt is None:
            raise ValueError(
                'model.teacher_ckpt is None: the teacher would be random. Give the '
                'path or URL of the checkpoint that was trained with the config in '
                'model.teacher'
            )
        self.teacher_meta = load_teacher(
            self.teacher, self.teacher_ckpt, self.teacher_ignore_keys
        )
        self.teacher_sha256 = weights_sha256(self.teacher)
        recorders = self.distiller.teacher_recorders.recorders.values()
        # One of a function or method does not show in the modules that it looks into.
        if all(isinstance(recorder, ModuleOutputsRecorder) for recorder in recorders):
            print_log(speed_up(self.teacher), 'current')

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'tensor',
        teacher_inputs: Tensor | None = None,
    ) -> dict[str, Tensor] | list[BaseDataElement] | tuple[Tensor]:
        """Run in MMEngine's modes; 'loss' is :meth:`loss`, the others the student's."""
        if mode == 'loss':
            return self.loss(inputs, data_samples, teacher_inputs)
        return super().forward(inputs, data_samples, mode)

    def loss(
        self,
        batch_inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        teacher_inputs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the student's losses and, beside them, the distillation losses.

        Args:
            batch_inputs: Images preprocessed for the student, (B, 3, H, W).
            data_samples: Their annotations.
            teacher_inputs: The same images preprocessed for the teacher,
                (B, 3, H', W'), from ``data_preprocessor`` in training.

        Returns:
            Scalars: ``student.*`` as MMDetection names them, and ``distill.loss_kd``
            with any further ``distill.*`` of the config.

        Raises:
            RuntimeError: If the teacher's weights or images are missing.
        """
        if self.teacher_sha256 is None or teacher_inputs is None:
            raise RuntimeError(
                'the teacher has no weights: call init_weights() first'
                if self.teacher_sha256 is None
                else 'teacher_inputs is None: pass what data_preprocessor(data, '
                'training=True) returns'
            )
        # A hook may stop it; DDP then wants find_unused_parameters.
        distilling = not self.distillation_stopped
        feats = None
        if distilling and not self._watched:
            # Before the student's activations fill the memory.
            with self._teaching():
                feats = self.teacher.extract_feat(teacher_inputs)
        with self.distiller.student_recorders:
            losses = self.student(batch_inputs, data_samples, mode='loss')
        losses = add_prefix(losses, 'student')
        if distilling:
            with self.distiller.teacher_recorders, self._teaching():
                # The student's places are known now.
                if feats is None:
                    feats = self.teacher.extract_feat(teacher_inputs)
                self.run_teacher(feats)
            distill_losses = self.distiller.compute_distill_losses()
            losses.update(add_prefix(distill_losses, 'distill'))
        self._release_records()
        return losses

    def train(self, mode: bool = True) -> LogitDistill:
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @contextmanager
    def _teaching(self) -> Iterator[None]:
        device = next(self.teacher.parameters()).device
        with torch.no_grad(), low_precision(device, self.teacher_dtype):
            yield

    def _check_temperatures(self, num_classes: int) -> None:
        for name, module in self.distiller.distill_losses.named_modules():
            if (
                isinstance(module, InstanceTemperature)
                and module.num_classes != num_classes
            ):
                raise ValueError(
                    f'{name}.num_classes must be that of student and teacher, '
                    f'{num_classes}, got {module.num_classes}'
                )

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> LogitDistill:
        if self._beside.owns:
            self.teacher._apply(fn, *args, **kwargs)  # .to(), .cuda(), ...
        return super()._apply(fn, *args, **kwargs)

    def _release_records(self) -> None:
        # Recorders would hold the step's activations until the next step.
        for manager in (
            self.distiller.student_recorders,
            self.distiller.teacher_recorders,
        ):
            for recorder in manager.recorders.values():
                recorder.reset_data_buffer()


def build_detector(model: BaseModel | dict | str) -> BaseModel:
    """Build a model of its config, the path of a config file, or itself."""
    if isinstance(model, str):
        model = get_model(model) if '::' in model else Config.fromfile(model).model
    return MMRAZOR_MODELS.build(model) if isinstance(model, dict) else model
