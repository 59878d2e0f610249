"""Teachers: built from a config, and loaded whole or refused."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_model
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ctkd_mm.models.teachers.preprocessor import pixels_of
from ctkd_mm.registry import MODELS
from ctkd_mm.utils.messages import some
from ctkd_mm.utils.weights import state_dict_of, weights_sha256

# What BatchNorm counts but no evaluation reads; files older than it lack it.
TOLERATED = (r'num_batches_tracked$',)
SHOWN = 5


def build_detector(model: BaseModel | dict | str) -> BaseModel:
    """Build a model of its config, the path of a config file, or itself."""
    if isinstance(model, str):
        model = get_model(model) if '::' in model else Config.fromfile(model).model
    return MODELS.build(model) if isinstance(model, dict) else model


def load_teacher(
    teacher: nn.Module, teacher_ckpt: str, ignore_keys: Sequence[str] = ()
) -> dict:
    """Load a checkpoint that covers all of the teacher, and nothing else.

    MMEngine's own loading keeps random weights where a key is missing or has another
    shape, with no more than a log line. Here both refuse, on every process, and so do
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
        ValueError: If the file cannot be read, is not safe to load, holds no
            weights, or does not fit; the message has the keys and the cure.
    """
    loaded = _read_checkpoint(teacher_ckpt)
    weights = state_dict_of(loaded) if isinstance(loaded, dict) else None
    tensors = weights.values() if isinstance(weights, dict) else ()
    if not any(isinstance(value, Tensor) for value in tensors):
        found = some(map(str, loaded)) if isinstance(loaded, dict) else type(loaded)
        raise ValueError(
            f'teacher_ckpt={teacher_ckpt!r} holds no weights: expected a checkpoint '
            f'with a state_dict, found {found}'
        )
    tolerated = [re.compile(key) for key in (*TOLERATED, *ignore_keys)]
    problems = []
    for what, keys in _load_matching(teacher, weights).items():
        bad = [key for key in keys if not any(t.search(key) for t in tolerated)]
        if bad:
            problems.append(f'{len(bad)} {what}: {some(bad, SHOWN)}')
    if problems:
        raise ValueError(
            f'teacher_ckpt={teacher_ckpt!r} does not fit the teacher '
            f'({type(teacher).__name__}, {len(teacher.state_dict())} weights). '
            + '. '.join(problems)
            + f'. {_advice(weights)}'
        )
    return loaded.get('meta') or {}


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


def _read_checkpoint(teacher_ckpt: str) -> Any:
    try:
        return CheckpointLoader.load_checkpoint(
            teacher_ckpt, map_location='cpu', logger='current'
        )
    except Exception as error:  # damaged files fail in any way
        raise ValueError(
            f'teacher_ckpt={teacher_ckpt!r} {_file_fault(teacher_ckpt, error)} '
            f'({type(error).__name__}: {error})'
        ) from error


def _file_fault(teacher_ckpt: str, error: Exception) -> str:
    """Say what is wrong with a file that could not be read, and the cure."""
    if isinstance(error, pickle.UnpicklingError) and 'more than weights' in str(error):
        return 'is not safe to load: it asks to run code'
    if '://' in teacher_ckpt:
        return (
            'could not be fetched: check the address and the network, or download it '
            'elsewhere and give the path'
        )
    path = Path(teacher_ckpt).expanduser()
    if path.is_dir():
        return 'is a folder: give the checkpoint file in it'
    if not path.is_file():
        return 'does not exist: train or download the teacher first, or correct it'
    with path.open('rb') as file:
        head = file.read(64).lstrip()
    if not head:
        return 'is an empty file: get it again'
    if head.startswith(b'<'):
        return 'is a web page, not a checkpoint: download the file itself'
    size = path.stat().st_size
    return f'is no checkpoint, damaged or cut short ({size} bytes): get it again'


def _load_matching(teacher: nn.Module, weights: dict) -> dict[str, list[str]]:
    """Load what fits; return what does not, by kind."""
    named = OrderedDict((re.sub(r'^module\.', '', k), v) for k, v in weights.items())
    own = teacher.state_dict()
    misshaped = [
        f'{key} {tuple(value.shape)} in the file, {tuple(own[key].shape)} in the model'
        for key, value in named.items()
        if key in own and getattr(value, 'shape', None) != own[key].shape
    ]
    wrong = {line.split(' ')[0] for line in misshaped}
    fitting = OrderedDict((k, v) for k, v in named.items() if k not in wrong)
    # Modules read their version there, to convert older files.
    fitting._metadata = getattr(weights, '_metadata', None)
    keys = teacher.load_state_dict(fitting, strict=False)
    missing = [key for key in keys.missing_keys if key not in wrong]
    return {
        'missing': missing,
        'unexpected': list(keys.unexpected_keys),
        'of another shape': misshaped,
    }


def _advice(weights: Iterable[str]) -> str:
    tops = {key.split('.')[0] for key in weights}
    if 'architecture' in tops:
        return (
            'It is the checkpoint of a distillation run: get the detector out of it '
            'with tools/extract_student.py'
        )
    return (
        'Give the checkpoint that was trained with the config in `teacher`, or name '
        'the keys that may differ in teacher_ignore_keys'
    )
