"""Teachers of MMDetection's and MMRazor's own distillation, held to the same rules."""

from __future__ import annotations

from mmengine.model import BaseModel, ImgDataPreprocessor

from ctkd_mm.models.teachers.load import load_teacher
from ctkd_mm.models.teachers.preprocessor import pixels_of
from ctkd_mm.utils.weights import weights_sha256


def teacher_of(model: BaseModel) -> BaseModel | None:
    """Find the frozen teacher of a distillation, ours, MMRazor's or MMDetection's."""
    if getattr(model, 'teacher_trainable', False):
        return None
    teacher = getattr(model, 'teacher', getattr(model, 'teacher_model', None))
    return teacher if isinstance(teacher, BaseModel) else None


def adopt_teacher(model: BaseModel, teacher_ckpt: str | None) -> None:
    """Load the teacher of a distillation that is not ours again, strictly.

    MMRazor's ``SingleTeacherDistill`` and MMDetection's
    ``KnowledgeDistillationSingleStageDetector`` load whatever keys fit, and show the
    teacher the student's pixels.

    Args:
        model: The algorithm or detector with a frozen teacher; it gets
            ``teacher_ckpt``, ``teacher_meta`` and ``teacher_sha256``, as our own
            distillers have them.
        teacher_ckpt: ``model.teacher_ckpt`` of the config.

    Raises:
        ValueError: If there is no file or it does not fit
            (:func:`ctkd_mm.models.teachers.load.load_teacher`), or the teacher's
            ``data_preprocessor``, if its model has one, gives other pixels than the
            student's.
    """
    teacher = teacher_of(model)
    if teacher_ckpt is None:
        raise ValueError(
            'model.teacher_ckpt is None: the teacher would be random. Give the path or '
            'URL of the checkpoint that the teacher was trained to'
        )
    own = teacher.data_preprocessor
    # A classifier's config has it outside the model, which then knows no mean.
    known = isinstance(own, ImgDataPreprocessor) or hasattr(own, 'mean')
    if known and pixels_of(own) != pixels_of(model.data_preprocessor):
        raise ValueError(
            f'{type(model).__name__} shows the teacher the pixels of the student, but '
            "the teacher's data_preprocessor differs from model.data_preprocessor "
            "(mean, std, channel order or padding): make the student's that of the "
            'teacher'
        )
    model.teacher_ckpt = teacher_ckpt
    model.teacher_meta = load_teacher(teacher, teacher_ckpt)
    model.teacher_sha256 = weights_sha256(teacher)
