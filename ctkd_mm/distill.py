"""RoI-logit distillation for two-stage detectors: the step on one screen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _compat

_compat.require_openmmlab()

import mmrazor.models  # noqa: E402, F401  registers recorders, distillers, losses
from mmengine.config import Config  # noqa: E402
from mmengine.hub import get_model  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.structures import BaseDataElement  # noqa: E402
from mmrazor.models.algorithms import SingleTeacherDistill  # noqa: E402
from mmrazor.models.utils import add_prefix  # noqa: E402
from mmrazor.registry import MODELS as MMRAZOR_MODELS  # noqa: E402

from .registry import MODELS  # noqa: E402
from .temperature import InstanceTemperature  # noqa: E402


@MODELS.register_module()
class RoILogitDistill(SingleTeacherDistill):
    """The teacher scores the student's own RoIs; ``loss_kd`` compares the logits.

    One training step: the student's usual losses, while recorders keep the RoIs
    that its sampler chose and its class logits for them; the teacher's features and
    its box head on *those RoIs*, without gradient; ``loss_kd(preds_S, preds_T)``.
    Row i of both logit matrices is the same box, foreground and background alike.
    The student's RoI head runs once; the teacher's RPN, sampler and losses never.
    The teacher is frozen and stays in eval mode.

    Args:
        architecture: The student, a two-stage detector with one box head: a model,
            its config, or the path of a config file with a ``model`` in it
            (``'mmdet::...'`` for one that MMDetection ships).
        teacher: The teacher, with the same classes, in any of these forms. A model
            keeps the weights that it has.
        loss_kd: Config of a loss with ``forward(preds_S, preds_T)`` on logits of
            (N, num_classes + 1), such as ``dict(type='ctkd_mm.CTKDLoss', ...)`` or
            ``dict(type='mmrazor.KLDivergence', tau=1)``.
        teacher_ckpt: Path or URL of the teacher's checkpoint. Without it, a teacher
            built from a config has random weights.
        distiller: Further recorders, connectors, losses and their mappings to
            compute beside ``loss_kd``: arguments of MMRazor's
            ``ConfigurableDistiller``.
        data_preprocessor: None takes the student's.
        init_cfg: See MMEngine's ``BaseModule``.

    Raises:
        ValueError: If a model has no RoI head with one box head, the numbers of
            classes differ, or ``distiller`` claims a name used here or asks for
            deliveries (they bring the teacher's data to the student, but here the
            student runs first).

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
    ) -> None:
        keep_weights = isinstance(teacher, BaseModel)
        student = _build_two_stage('architecture', architecture)
        teacher = _build_two_stage('teacher', teacher)
        classes_S, classes_T = (
            m.roi_head.bbox_head.num_classes for m in (student, teacher)
        )
        if classes_S != classes_T:
            raise ValueError(
                'student and teacher must know the same classes, got num_classes='
                f'{classes_S} in architecture and num_classes={classes_T} in teacher'
            )
        super().__init__(
            distiller=_distiller_with_loss_kd(distiller or {}, loss_kd),
            architecture=student,
            teacher=teacher,
            teacher_ckpt=teacher_ckpt,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        if keep_weights:
            self.teacher._is_init = True  # or Runner's init_weights() overwrites them
        for module in self.distiller.modules():
            if isinstance(module, InstanceTemperature):
                _check_num_classes(module, classes_S)

    def loss(
        self,
        batch_inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the student's losses and, beside them, the distillation losses.

        Args:
            batch_inputs: Preprocessed images, (B, 3, H, W).
            data_samples: Their annotations.

        Returns:
            Scalars: ``student.*`` as MMDetection names them, and ``distill.loss_kd``
            with any further ``distill.*`` of the config.
        """
        # Student first: its sampler decides the RoIs that both models score.
        with self.distiller.student_recorders:
            losses = self.student(batch_inputs, data_samples, mode='loss')
        losses = add_prefix(losses, 'student')
        # A hook may stop it; DDP then wants find_unused_parameters.
        if not self.distillation_stopped:
            losses.update(add_prefix(self._distill_losses(batch_inputs), 'distill'))
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

    def _distill_losses(self, batch_inputs: Tensor) -> dict[str, Tensor]:
        rois = self.distiller.get_record('rois', from_student=True, data_idx=1)
        with self.distiller.teacher_recorders, torch.no_grad():
            feats = self.teacher.extract_feat(batch_inputs)
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


def _build_two_stage(key: str, model: BaseModel | dict | str) -> BaseModel:
    if isinstance(model, str):
        model = get_model(model) if '::' in model else Config.fromfile(model).model
    if isinstance(model, dict):
        model = MMRAZOR_MODELS.build(model)
    bbox_head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    if not hasattr(bbox_head, 'num_classes'):
        raise ValueError(
            f'{key} must be a two-stage detector whose roi_head has one bbox_head, '
            f'got {type(model).__name__} with bbox_head={type(bbox_head).__name__}'
        )
    return model


def _check_num_classes(temperature: InstanceTemperature, num_classes: int) -> None:
    if temperature.num_classes != num_classes:
        raise ValueError(
            'loss_kd.temperature.num_classes must be that of student and teacher, '
            f'{num_classes}, got {temperature.num_classes}'
        )


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
