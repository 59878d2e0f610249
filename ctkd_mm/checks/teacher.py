"""Compares the class names of the teacher with those of the data."""

from __future__ import annotations

from itertools import zip_longest

from mmengine.model import BaseModel

from ctkd_mm.models.heads.classes import class_names


def match_classes(model: BaseModel, metas: dict[str, dict]) -> list[str]:
    """Compare class names; find the student's among those of a teacher that knows more.

    Args:
        model: A distillation with ``teacher_meta``. One with ``teacher_classes`` finds
            them; to one with ``bbox_head.loss_ld`` the teacher's names do not matter.
        metas: Of data and resumed checkpoint, see :func:`check_class_names`.

    Returns:
        Lines for the log.

    Raises:
        ValueError: See :func:`check_class_names`, and
            :class:`ctkd_mm.models.heads.classes.TeacherClasses`.
    """
    part = getattr(model, 'teacher_classes', None)
    if hasattr(getattr(model, 'bbox_head', None), 'loss_ld'):
        return [check_class_names(metas)]  # only its box edges are learned
    if part is None or not part.classes:
        return [check_class_names({'teacher_ckpt': model.teacher_meta, **metas})]
    names = max(map(class_names, metas.values()), key=len)  # the same, where known
    return [check_class_names(metas), part.find(class_names(model.teacher_meta), names)]


def check_class_names(metas: dict[str, dict]) -> str:
    """Compare the class names of checkpoints and data, and their order.

    Args:
        metas: ``meta`` of checkpoints, of MMDetection 3 or 2, and ``metainfo`` of data
            sets, by where they come from.

    Returns:
        A line for the log.

    Raises:
        ValueError: At the first class that differs, or if their number does.
    """
    names = {key: class_names(meta) for key, meta in metas.items()}
    known = {key: value for key, value in names.items() if value}
    if not known:
        return 'no class names to compare'
    (first, want), *others = known.items()
    for key, found in others:
        for i, (a, b) in enumerate(zip_longest(want, found)):
            if a != b:
                raise ValueError(
                    f'class {i} is {a!r} in {first} ({len(want)} classes) and {b!r} in '
                    f'{key} ({len(found)} classes): names and order must agree. Set '
                    "metainfo.classes, or for a teacher model.teacher_classes='by name'"
                )
    line = f'{len(want)} classes, the same in {", ".join(known)}'
    unnamed = [key for key in names if key not in known]
    return line + (f'; no names to compare in {", ".join(unnamed)}' if unnamed else '')
