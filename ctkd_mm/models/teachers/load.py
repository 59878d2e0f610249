"""Teachers and students: built from a config, and loaded whole or refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.hub import get_model
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.runner import CheckpointLoader
from torch import nn

from ctkd_mm.models.teachers.preprocessor import pixels_of
from ctkd_mm.registry import built
from ctkd_mm.utils.messages import some
from ctkd_mm.utils.weights import state_dict_of, student_weights, weights_sha256

# What BatchNorm counts but no evaluation reads; files older than it lack it.
TOLERATED = (r'num_batches_tracked$',)


def build_detector(model: BaseModel | dict | str) -> BaseModel:
    """Build a model of its config, the path of a config file, or itself.

    ``dict(cfg_path='mmdet::...', pretrained=False)`` is how MMRazor's configs write it.
    """
    if isinstance(model, dict) and 'cfg_path' in model:
        return get_model(**model)
    if isinstance(model, str):
        model = Config.fromfile(model).model
    return built(model)


def build_student(model: dict, checkpoint: str | Path) -> BaseModel:
    """Build the student of a distillation, or a detector, with its weights.

    Args:
        model: ``model`` of the config. As in the training its ``data_preprocessor``
            comes before the student's own.
        checkpoint: See :func:`load_student`.

    Raises:
        ValueError: See there.
    """
    model = copy.deepcopy(model)
    model.pop('teacher_ckpt', None)  # MMDetection's distillation is evaluated alone
    student = build_detector(model.get('architecture', model))
    if model.get('data_preprocessor'):
        student.data_preprocessor = built(model['data_preprocessor'])
    load_student(student, checkpoint)
    return student


def load_teacher(
    teacher: nn.Module, teacher_ckpt: str, ignore_keys: Sequence[str] = ()
) -> dict:
    """Load a checkpoint that covers all of the teacher, and nothing else.

    Where a key is missing or has another shape, MMEngine keeps random weights and only
    logs it. Here both are refused, on every process, and so are
    weights in the file that the teacher has no place for; tolerated is only
    BatchNorm's counter ``num_batches_tracked``.

    Args:
        teacher: The model; its weights are replaced.
        teacher_ckpt: Path or URL, as MMEngine takes them.
        ignore_keys: Regular expressions, searched for in the keys: what matches may
            be missing, unexpected or of another shape. Unexpected weights of a mask
            head, for example, are ``mask_head``.

    Returns:
        The checkpoint's ``meta``, empty where it has none.

    Raises:
        ValueError: If the file cannot be read or does not fit; the message has the
            keys and the cure.
    """
    try:
        loaded = CheckpointLoader.load_checkpoint(
            teacher_ckpt, map_location='cpu', logger='current'
        )
        weights = state_dict_of(loaded, teacher_ckpt)
    except Exception as error:  # damaged files fail in any way
        raise ValueError(
            f'teacher_ckpt={teacher_ckpt!r} could not be loaded '
            f'({type(error).__name__}: {error}): give the path or URL of a checkpoint'
        ) from error
    misfits = load_matching(teacher, weights, ignore_keys)
    if misfits:
        raise ValueError(
            f'teacher_ckpt={teacher_ckpt!r} does not fit the teacher '
            f'({type(teacher).__name__}, {len(teacher.state_dict())} weights). '
            f'{misfits}. Give the checkpoint of the config in `teacher` '
            '(distilled: ctkd_mm extract), or name the keys in '
            'teacher_ignore_keys'
        )
    return loaded.get('meta') or {}


def load_student(student: BaseModel, checkpoint: str | Path) -> None:
    """Load a trained student, all of it but a temperature in its own head.

    Args:
        student: The model; its weights are replaced.
        checkpoint: Path or URL of a student's checkpoint, or of a distillation's.

    Raises:
        ValueError: If a weight is missing, unexpected or of another shape.
        OSError: If there is no such file.
        pickle.UnpicklingError: If it is damaged or holds more than weights.
    """
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint), 'cpu')
    weights = state_dict_of(loaded, checkpoint)
    weights = student_weights(weights) or weights
    given = {k: weights[k] for k in weights if '.temperature.' not in k}
    misfits = load_matching(student, given, [r'\.temperature\.'])
    if misfits:
        raise ValueError(f'{checkpoint} does not fit the student. {misfits}')


def teacher_of(model: BaseModel) -> BaseModel | None:
    """Find the frozen teacher of a distillation: ours, MMRazor's or MMDetection's."""
    if getattr(model, 'teacher_trainable', False):
        return None
    teacher = getattr(model, 'teacher', getattr(model, 'teacher_model', None))
    return teacher if isinstance(teacher, BaseModel) else None


def load_teacher_of(
    model: BaseModel, teacher_ckpt: str | None, ignore_keys: Sequence[str] = ()
) -> None:
    """Load the frozen teacher of a distillation by :func:`load_teacher`.

    Args:
        model: The algorithm or detector. It gets ``teacher_ckpt``, ``teacher_meta``
            and ``teacher_sha256``, the hash of the teacher's weights.
        teacher_ckpt: ``model.teacher_ckpt`` of the config.
        ignore_keys: See :func:`load_teacher`.

    Raises:
        ValueError: If there is no file, or as :func:`load_teacher`.
    """
    if teacher_ckpt is None:
        raise ValueError(
            'model.teacher_ckpt is None: the teacher would be random. Give the path or '
            'URL of the checkpoint that was trained with the config in model.teacher'
        )
    teacher = teacher_of(model)
    model.teacher_ckpt = teacher_ckpt
    model.teacher_meta = load_teacher(teacher, teacher_ckpt, ignore_keys)
    model.teacher_sha256 = weights_sha256(teacher)


def adopt_teacher(model: BaseModel, teacher_ckpt: str | None) -> None:
    """Load the teacher of a distillation that is not ours again, strictly.

    MMRazor's ``SingleTeacherDistill`` and MMDetection's
    ``KnowledgeDistillationSingleStageDetector`` load whatever keys fit, and show the
    teacher the student's pixels.

    Args:
        model: See :func:`load_teacher_of`.
        teacher_ckpt: See there.

    Raises:
        ValueError: As :func:`load_teacher_of`, or if the teacher's
            ``data_preprocessor``, where its model has one, gives other pixels than the
            student's.
    """
    own = teacher_of(model).data_preprocessor
    # A classifier's config has it outside the model, which then knows no mean.
    known = isinstance(own, ImgDataPreprocessor) or hasattr(own, 'mean')
    if known and pixels_of(own) != pixels_of(model.data_preprocessor):
        raise ValueError(
            f'{type(model).__name__} shows the teacher the pixels of the student, but '
            "the teacher's data_preprocessor differs from model.data_preprocessor "
            "(mean, std, channel order or padding): give the student the teacher's"
        )
    load_teacher_of(model, teacher_ckpt)


def load_matching(model: nn.Module, weights: dict, ignore_keys: Sequence[str]) -> str:
    """Load what fits; name what does not and is not in ``ignore_keys``."""
    own = model.state_dict()
    misshaped = {}
    for key in [key for key in weights if key in own]:
        if weights[key].shape != own[key].shape:
            here, there = tuple(weights.pop(key).shape), tuple(own[key].shape)
            misshaped[key] = f'{key} {here} in the file, {there} in the model'
    keys = model.load_state_dict(weights, strict=False)
    misfits = {
        'missing': [key for key in keys.missing_keys if key not in misshaped],
        'unexpected': keys.unexpected_keys,
        'of another shape': misshaped.values(),
    }
    # --cfg-options makes a string of a single one; its letters would match all keys.
    ignored = [ignore_keys] if isinstance(ignore_keys, str) else ignore_keys
    tolerated = [re.compile(key) for key in (*TOLERATED, *ignored)]
    found = []
    for what, keys in misfits.items():
        bad = [key for key in keys if not any(t.search(key) for t in tolerated)]
        if bad:
            found.append(f'{len(bad)} {what}: {some(bad, shown=5)}')
    return '. '.join(found)
