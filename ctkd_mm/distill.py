"""RoI-logit distillation for two-stage detectors: the step on one screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _compat

_compat.require_openmmlab()

import mmrazor.models  # noqa: E402, F401  registers recorders, distillers, losses
from mmengine.model import BaseModel  # noqa: E402
from mmengine.structures import BaseDataElement  # noqa: E402
from mmrazor.models.algorithms import SingleTeacherDistill  # noqa: E402
from mmrazor.models.utils import add_prefix  # noqa: E402

from .pair import build_two_stage, check_classes  # noqa: E402
from .preprocess import PairDataPreprocessor  # noqa: E402
from .registry import MODELS  # noqa: E402
from .teacher import Beside, load_teacher, weights_sha256  # noqa: E402
from .temperature import InstanceTemperature  # noqa: E402


@MODELS.register_module()
class RoILogitDistill(SingleTeacherDistill):
    """The teacher scores the student's own RoIs; ``loss_kd`` compares the logits.

    One training step: the student's usual losses, while recorders keep the RoIs
    that its sampler chose and its class logits for them; the teacher's features and
    its box head on *those RoIs*, without gradient; ``loss_kd(preds_S, preds_T)``.
    Row i of both logit matrices is the same box, foreground and background alike.
    The student's RoI head runs once; the teacher's RPN, sampler and losses never.

    The teacher is frozen, stays in eval mode and sees the pixels of its own
    ``data_preprocessor``. It stands beside the module tree: no checkpoint, optimizer,
    DDP bucket or moving average carries it. ``init_weights()``, which ``Runner.train``
    calls, loads it from ``teacher_ckpt``; evaluation does not need the file.

    Args:
        architecture: The student, a two-stage detector with one box head: a model,
            its config, or the path of a config file with a ``model`` in it
            (``'mmdet::...'`` for one that MMDetection ships).
        teacher: The teacher, with the same classes, in any of these forms. A model
            keeps the weights that it has.
        loss_kd: Config of a loss with ``forward(preds_S, preds_T)`` on logits of
            (N, num_classes + 1), such as ``dict(type='ctkd_mm.CTKDLoss', ...)`` or
            ``dict(type='mmrazor.KLDivergence', tau=1)``.
        teacher_ckpt: Path or URL of the teacher's checkpoint, which must fit it; see
            :func:`ctkd_mm.teacher.load_teacher`. Needed unless ``teacher`` is a
            model.
        distiller: Further recorders, connectors, losses and their mappings to
            compute beside ``loss_kd``: arguments of MMRazor's
            ``ConfigurableDistiller``.
        data_preprocessor: None takes the student's.
        init_cfg: See MMEngine's ``BaseModule``.
        teacher_ignore_keys: Regular expressions of keys of weights that
            ``teacher_ckpt`` may lack, have in addition or in another shape.

    Attributes:
        teacher: The teacher.
        teacher_ckpt: As given.
        teacher_sha256: Hash of its weights; None as long as it has none.
        teacher_meta: ``meta`` of its checkpoint.

    Raises:
        ValueError: If a model has no RoI head with one box head and softmax classes,
            the numbers of classes differ, the pixels cannot be reconciled
            (:class:`ctkd_mm.preprocess.PairDataPreprocessor`), or ``distiller``
            claims a name used here, compares features of batches that are padded
            differently, or asks for deliveries (they bring the teacher's data to
            the student, but here the student runs first).

    Source: the step of B. Zhao et al., *Decoupled Knowledge Distillation*, CVPR
    2022, with CTKD's temperature; extends MMRazor's ``SingleTeacherDistill``.
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
    ) -> None:
        has_weights = isinstance(teacher, BaseModel)
        student = build_two_stage('architecture', architecture)
        teacher = build_two_stage('teacher', teacher)
        check_classes(student, teacher)
        self._beside = Beside(teacher)
        distiller = distiller or {}
        super().__init__(
            distiller=_distiller_with_loss_kd(distiller, loss_kd),
            architecture=student,
            teacher=teacher,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        del self._modules['teacher']
        self.data_preprocessor = PairDataPreprocessor(
            self.data_preprocessor, teacher.data_preprocessor
        )
        if distiller.get('teacher_recorders'):
            self.data_preprocessor.require_equal_padding()
        self.teacher_ckpt = teacher_ckpt
        self.teacher_ignore_keys = teacher_ignore_keys
        self.teacher_meta: dict = {}
        self.teacher_sha256 = weights_sha256(teacher) if has_weights else None
        self._check_temperatures()

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
        # Student first: its sampler decides the RoIs that both models score.
        with self.distiller.student_recorders:
            losses = self.student(batch_inputs, data_samples, mode='loss')
        losses = add_prefix(losses, 'student')
        # A hook may stop it; DDP then wants find_unused_parameters.
        if not self.distillation_stopped:
            losses.update(add_prefix(self._distill_losses(teacher_inputs), 'distill'))
        self._release_records()
        return losses

    def train(self, mode: bool = True) -> RoILogitDistill:
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def set_module_inplace_false(self, architecture: nn.Module, varstr: str) -> None:
        """Switch in-place modules off: a recorder must see a layer's own output.

        MMRazor's version walks ``OrderedDict`` children only and so changes nothing
        on PyTorch >= 2.5, where they are plain dicts.
        """
        for module in architecture.modules():
            if hasattr(module, 'inplace'):
                module.inplace = False

    def _check_temperatures(self) -> None:
        num_classes = self.student.roi_head.bbox_head.num_classes
        for module in self.distiller.modules():
            if (
                isinstance(module, InstanceTemperature)
                and module.num_classes != num_classes
            ):
                raise ValueError(
                    'loss_kd.temperature.num_classes must be that of student and '
                    f'teacher, {num_classes}, got {module.num_classes}'
                )

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> RoILogitDistill:
        if self._beside.owns:
            self.teacher._apply(fn, *args, **kwargs)  # .to(), .cuda(), ...
        return super()._apply(fn, *args, **kwargs)

    def _distill_losses(self, teacher_inputs: Tensor) -> dict[str, Tensor]:
        rois = self.distiller.get_record('rois', from_student=True, data_idx=1)
        with self.distiller.teacher_recorders, torch.no_grad():
            feats = self.teacher.extract_feat(teacher_inputs)
            self.teacher.roi_head._bbox_forward(feats, rois)
        return self.distiller.compute_distill_losses()

    def _release_records(self) -> None:
        # Recorders would hold the step's activations until the next step.
        for manager in (
            self.distiller.student_recorders,
            self.distiller.teacher_recorders,
        ):
            for recorder in manager.recorders.values():
                recorder.reset_data_buffer()


def _distiller_with_loss_kd(distiller: dict, loss_kd: dict) -> dict:
    """Add what ``loss_kd`` needs to the config of a ``ConfigurableDistiller``."""
    if distiller.get('distill_deliveries'):
        raise ValueError(
            'distiller.distill_deliveries must be empty: RoILogitDistill runs the '
            f'student first, got {list(distiller["distill_deliveries"])}'
        )
    logits = dict(type='mmrazor.ModuleOutputs', source='roi_head.bbox_head')
    rois = dict(type='mmrazor.ModuleInputs', source='roi_head.bbox_roi_extractor')
    preds = dict(recorder='roi_logits', data_idx=0)
    ours = dict(
        student_recorders=dict(rois=rois, roi_logits=logits),
        teacher_recorders=dict(roi_logits=logits),
        distill_losses=dict(loss_kd=loss_kd),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(from_student=True, **preds),
                preds_T=dict(from_student=False, **preds),
            )
        ),
    )
    merged = dict(type='mmrazor.ConfigurableDistiller', **distiller)
    for key, entries in ours.items():
        theirs = distiller.get(key) or {}
        taken = sorted(entries.keys() & theirs.keys())
        if taken:
            raise ValueError(
                f'distiller.{key} may not use the names {taken}: they are '
                "RoILogitDistill's own; rename them"
            )
        merged[key] = {**theirs, **entries}
    return merged
