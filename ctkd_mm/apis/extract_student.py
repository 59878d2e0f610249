"""Gets the student out of the checkpoint of a distillation."""

from __future__ import annotations

from pathlib import Path

from mmengine.runner import CheckpointLoader, save_checkpoint

from ctkd_mm.utils.files import ATOMIC
from ctkd_mm.utils.weights import STUDENT_PREFIX, state_dict_of, student_weights


def extract_student(checkpoint: str | Path, out: str | Path | None = None) -> Path:
    """Write a checkpoint of the student alone, as MMDetection itself would save it.

    Keeps the weights below ``architecture.`` under their plain names, and the meta
    data (classes, epoch, versions, which teacher) except for the distiller's config.
    The optimizer stays behind. Of a run with ``EMAHook`` these are the averaged
    weights, which validation measured. Everything is loaded to the CPU.

    Args:
        checkpoint: A checkpoint of a distillation run.
        out: Where to write; None is ``STEM_student.pth`` beside it.

    Returns:
        The path written.

    Raises:
        ValueError: If the checkpoint holds no student, for example because it is
            a plain detector's, or ``out`` is the checkpoint.
        OSError: If there is no such file.
        pickle.UnpicklingError: If it is damaged or holds more than weights.
    """
    checkpoint = Path(checkpoint)
    out = Path(out or checkpoint.with_name(f'{checkpoint.stem}_student.pth'))
    if out.resolve() == checkpoint.resolve():
        raise ValueError(f'out is {checkpoint} itself, whose training could not resume')
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
    weights = state_dict_of(loaded, checkpoint)
    student = student_weights(weights)
    if not student:
        tops = sorted({key.split('.')[0] for key in weights})
        raise ValueError(
            f'{checkpoint} holds no student: expected weights named '
            f'"{STUDENT_PREFIX}*", found {tops}. Give a checkpoint of a distillation; '
            "a plain detector's is used as it is"
        )
    # The config in it is the distiller's. From this file alone, MMEngine would build
    # that, load none of the student's weights, and only log it.
    meta = {k: v for k, v in (loaded.get('meta') or {}).items() if k != 'cfg'}
    save_checkpoint(dict(meta=meta, state_dict=student), str(out), backend_args=ATOMIC)
    return out
