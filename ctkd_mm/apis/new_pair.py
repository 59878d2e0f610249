"""A config for any two of MMDetection's detectors, checked without their weights."""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ctkd_mm.apis.model_zoo import find_config, load_config, zoo_weights
from ctkd_mm.apis.pair_template import methods, render

# They read no names of parameters but paramwise_cfg's.
CONSTRUCTORS = ('DefaultOptimWrapperConstructor', 'MergedOptimWrapperConstructor')


def new_pair(
    teacher: str, student: str, method: str, out: str, teacher_ckpt: str | None = None
) -> list[str]:
    """Write the config of a pair, after all checks that need neither weights nor data.

    The config inherits the student's whole config (data, schedule, hooks) and the
    method's, and adds our hooks and training loop. The structure of the student
    decides the distiller, and for sigmoid classes of a dense head the method's
    ``-dense`` counterpart. Both models are built as a training builds them, and run on
    a made-up image.

    Args:
        teacher: A config's path, ``mmdet::...`` path, or name in MMDetection's zoo.
        student: Likewise.
        method: One of :func:`ctkd_mm.apis.pair_template.methods`.
        out: Where to write; must not exist.
        teacher_ckpt: Path or URL; None takes the model zoo's.

    Returns:
        What was found, a line each.

    Raises:
        ValueError: If there is no such config, method or checkpoint; if the two are
            no pair, or the student's config cannot train under a distiller.
    """
    path = Path(out)
    if path.exists():
        raise ValueError(f'{out} exists: give another name, or remove it first')
    teacher, student = find_config(teacher), find_config(student)
    student_cfg = load_config(student)
    _check_student(student_cfg)
    with DefaultScope.overwrite_default_scope('mmdet'):
        distiller, method = _fitting(method, student_cfg)
        text = render(
            student=student,
            student_cfg=student_cfg,
            teacher=teacher,
            teacher_ckpt=teacher_ckpt or zoo_weights(teacher),
            method=method,
            distiller=distiller,
            folder=path.parent,
        )
        report = [f'{distiller}, method {method}', *_build(text, path.parent)]
    with path.open('x') as file:
        file.write(text)
    return report


def _check_student(cfg: Config) -> None:
    """Refuse what a distiller would train otherwise than the detector, silently."""
    if 'teacher_ckpt' in cfg.model:
        raise ValueError(
            f'student is a {cfg.model.type}, a distillation itself: give the '
            "detector's own config"
        )
    if cfg.get('load_from'):
        raise ValueError(
            f'load_from={cfg.load_from!r} of the student has the weights of a detector '
            'alone: in a copy of the config set load_from=None and '
            "model=dict(init_cfg=dict(type='Pretrained', checkpoint=...))"
        )
    constructor = cfg.optim_wrapper.get('constructor', CONSTRUCTORS[0])
    if not constructor.endswith(CONSTRUCTORS):
        raise ValueError(
            f'optim_wrapper.constructor={constructor!r} of the student knows the '
            "parameters by a detector's names, which begin with architecture. here: "
            'take the default one, with paramwise_cfg.custom_keys'
        )


def _fitting(method: str, student: Config) -> tuple[str, str]:
    """Choose the distiller and the form of the method for the student's classes."""
    from ctkd_mm.models.heads.classes import has_sigmoid
    from ctkd_mm.models.heads.dense_head import dense_head
    from ctkd_mm.models.teachers.load import build_detector

    if method not in methods():
        raise ValueError(f'--method {method} is none of {", ".join(methods())}')
    if 'roi_head' in student.model:
        return 'ctkd_mm.RoILogitDistill', method
    head = dense_head('student', build_detector(student.model))
    if has_sigmoid(head) and f'{method}-dense' in methods():
        method = f'{method}-dense'
    return 'ctkd_mm.DenseLogitDistill', method


def _build(text: str, folder: Path) -> list[str]:
    """Build and probe the pair from what will be written, in its place."""
    from ctkd_mm.registry import MODELS

    with NamedTemporaryFile('w', suffix='.py', dir=folder) as file:
        file.write(text)
        file.flush()
        model = MODELS.build(Config.fromfile(file.name).model)
    shared = model.data_preprocessor.shared
    pixels = 'the same for both' if shared else "each model's own"
    return [*model.check_heads(), f'pixels: {pixels}']
