"""What every logit distillation shares: the two models and the training step."""

# ruff: noqa: E402
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ctkd_mm.compat import stack

stack.require_openmmlab()

import mmrazor.models  # noqa: F401  registers recorders, distillers, losses
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.utils import add_prefix

from ctkd_mm.models.heads.classes import TeacherClasses
from ctkd_mm.models.losses.kinds import check_loss_fits_head, takes_labels
from ctkd_mm.models.teachers.frozen_teacher import Beside, FrozenTeacher
from ctkd_mm.models.teachers.load import build_detector
from ctkd_mm.models.teachers.preprocessor import PairDataPreprocessor
from ctkd_mm.utils.config import bare
from ctkd_mm.utils.precision import HALVES
from ctkd_mm.utils.weights import weights_sha256


class LogitDistill(FrozenTeacher, SingleTeacherDistill):
    """A student learns from a teacher's class logits for the same places.

    One training step: the teacher's features; the student's usual losses, while
    recorders keep what the teacher needs; the teacher's logits for the same places,
    without gradient; ``loss_kd(preds_S, preds_T)``, row i of both being the same
    place. Which places, and which module gives the logits, is the subclass's:
    :meth:`check_pair`, :meth:`records`, :meth:`run_teacher` and :meth:`check_heads`.

    The teacher sees the pixels of its own ``data_preprocessor``. ``init_weights()``
    loads it; see :class:`ctkd_mm.models.teachers.frozen_teacher.FrozenTeacher`.

    Args:
        architecture: The student: a model, its config, or the path of a config file
            with a ``model`` in it (``'mmdet::...'`` for one that MMDetection ships).
        teacher: The teacher in any of these forms. A model stays as it is.
        loss_kd: Config of a loss with ``forward(preds_S, preds_T)``, for example
            ``dict(type='mmrazor.KLDivergence', tau=1)``.
        teacher_ckpt: Path or URL of its checkpoint, needed unless it is a model; see
            :func:`ctkd_mm.models.teachers.load.load_teacher`.
        distiller: What to compute beside ``loss_kd``: recorders, connectors, losses
            and their mappings, arguments of MMRazor's ``ConfigurableDistiller``.
        data_preprocessor: None takes the student's.
        init_cfg: See MMEngine's ``BaseModule``.
        teacher_ignore_keys: Regular expressions of its keys that need not fit.
        teacher_dtype: ``'bfloat16'`` or ``'float16'``, in which the teacher alone runs
            and its weights are kept (docs/performance.md). None: as the student.
        teacher_classes: Which of its classes a student of fewer has: ``'by name'`` or
            a list, see :class:`ctkd_mm.models.heads.classes.TeacherClasses`.

    Raises:
        ValueError: If the two are no pair (:meth:`check_pair`), ``loss_kd`` is for
            other classes, the pixels cannot be reconciled, or ``distiller`` claims a
            name used here or asks for deliveries, from the teacher to the student.

    Source: extends MMRazor's ``SingleTeacherDistill``, whose teacher runs first.
    """

    compares_maps = False  # place by place, so that they must have one size

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
        teacher_classes: str | Sequence[int | str] | None = None,
    ) -> None:
        if teacher_dtype not in (None, *HALVES):
            raise ValueError(
                f'model.teacher_dtype={teacher_dtype!r} must be None or one of '
                f'{list(HALVES)}'
            )
        has_weights = isinstance(teacher, BaseModel)
        student, teacher = build_detector(architecture), build_detector(teacher)
        head, head_T = self.check_pair(student, teacher)
        self._beside = Beside(teacher)
        distiller = distiller or {}
        ours = self.records(student, teacher, takes_labels(loss_kd))
        super().__init__(
            distiller=_join(distiller, ours, loss_kd),
            architecture=student,
            teacher=teacher,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
            # A recorder must see its layer's own output; ours record no such layer.
            module_inplace=not distiller.get('student_recorders'),
            teacher_module_inplace=not distiller.get('teacher_recorders'),
        )
        self.teacher_classes = TeacherClasses(teacher_classes, head, head_T)
        if teacher_classes:
            self.distiller.connectors['teacher_classes'].append(self.teacher_classes)
        del self._modules['teacher']
        check_loss_fits_head(self.distiller.distill_losses['loss_kd'], head)
        self.data_preprocessor = PairDataPreprocessor(
            self.data_preprocessor, teacher.data_preprocessor
        )
        # A recorder that is entered again forgets what it saw before.
        self._watched = bool(distiller.get('teacher_recorders'))
        if self._watched or self.compares_maps:
            self.data_preprocessor.require_equal_padding()
        self.teacher_ckpt = teacher_ckpt
        self.teacher_ignore_keys = teacher_ignore_keys
        self.teacher_dtype = teacher_dtype
        self.teacher_meta: dict = {}
        self.teacher_sha256 = weights_sha256(teacher) if has_weights else None

    def check_pair(self, student: BaseModel, teacher: BaseModel) -> list[nn.Module]:
        """Check that both score the same places.

        Returns:
            Both heads, whose class logits ``loss_kd`` gets, the student's first.

        Raises:
            ValueError: If they do not.
        """
        raise NotImplementedError

    def records(self, student: BaseModel, teacher: BaseModel, labels: bool) -> dict:
        """Say what to record of both models, and what of it ``loss_kd`` gets.

        Args:
            student: The student.
            teacher: The teacher.
            labels: Whether ``loss_kd`` takes the labels of the places too.

        Returns:
            Arguments of ``ConfigurableDistiller``: recorders, connectors (the teacher's
            as a list, ``teacher_classes``) and ``loss_forward_mappings``.
        """
        raise NotImplementedError

    def run_teacher(self, feats: Sequence[Tensor]) -> bool:
        """Make the teacher score the student's places of this step; no gradient.

        Args:
            feats: What the teacher's ``extract_feat`` returns.

        Returns:
            False if the student has none.
        """
        raise NotImplementedError

    def check_heads(self) -> list[str]:
        """Compare features and logits with both configs; return lines for the log."""
        raise NotImplementedError

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
            with any further ``distill.*`` of the config. The latter are 0 in a step
            without any place, and, without a teacher's step, after ``StopDistillHook``.

        Raises:
            RuntimeError: If the teacher has no weights.
        """
        if self.teacher_sha256 is None:
            raise RuntimeError('the teacher has no weights: call init_weights() first')
        distilling = not self.distillation_stopped
        feats, compared = None, False
        if distilling and not self._watched:
            # Before the student's activations fill the memory.
            with self.teaching():
                feats = self.teacher.extract_feat(teacher_inputs)
        with self.distiller.student_recorders:
            losses = self.student(batch_inputs, data_samples, mode='loss')
        losses = add_prefix(losses, 'student')
        if distilling:
            with self.distiller.teacher_recorders, self.teaching():
                # The student's places are known now.
                if feats is None:
                    feats = self.teacher.extract_feat(teacher_inputs)
                compared = self.run_teacher(feats) is not False
        if compared:
            distill_losses = self.distiller.compute_distill_losses()
        else:
            # DDP waits for every parameter; MMEngine logs old values of missing keys.
            idle = self if distilling else self.distiller  # no place, no last layers
            zeros = ((0 * p).sum() for p in idle.parameters())
            zero = sum(zeros, batch_inputs.new_zeros(()))
            distill_losses = dict.fromkeys(self.distiller.distill_losses, zero)
        # Recorders would hold the step's activations until the next step.
        parts = self.distiller.student_recorders, self.distiller.teacher_recorders
        for recorder in (r for part in parts for r in part.recorders.values()):
            recorder.reset_data_buffer()
        return {**losses, **add_prefix(distill_losses, 'distill')}


def _join(distiller: dict, ours: dict, loss_kd: dict) -> dict:
    """Join the user's distiller config with what ``loss_kd`` needs, both by name."""
    if distiller.get('distill_deliveries'):
        raise ValueError(
            'distiller.distill_deliveries must be empty: the teacher scores the '
            f"student's own places, got {list(distiller['distill_deliveries'])}"
        )
    kind = distiller.get('type', 'ConfigurableDistiller')
    if bare(kind) != 'ConfigurableDistiller':
        raise ValueError(
            f'model.distiller.type={kind!r} must be ConfigurableDistiller: drop it'
        )
    joined = {**distiller, 'type': 'mmrazor.ConfigurableDistiller'}
    for key, entries in {**ours, 'distill_losses': dict(loss_kd=loss_kd)}.items():
        theirs = distiller.get(key) or {}
        taken = sorted(entries.keys() & theirs.keys())
        if taken:
            raise ValueError(
                f'distiller.{key} may not use the names {taken}: they belong to '
                'loss_kd; rename them'
            )
        joined[key] = {**entries, **theirs}  # the doctor counts temperatures in order
    return joined
