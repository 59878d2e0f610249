"""Makes a config for two of MMDetection's detectors: a file, or for one training."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ctkd_mm.apis.model_zoo import find_config, zoo_weights
from ctkd_mm.apis.pair_template import methods, render

RECOMMENDED = 'ctkd-zscore'  # of softmax classes, by docs/results.md


def new_pair(
    teacher: str,
    student: str,
    out: str,
    method: str | None = None,
    teacher_ckpt: str | None = None,
) -> list[str]:
    """Write the config of a pair, after all checks that need neither weights nor data.

    The config inherits the student's whole config (data, schedule, hooks) and the
    method's, and adds our hooks and training loop. The structure of the student
    decides the distiller. A dense head with sigmoid classes gets the ``-dense`` form of
    the method, if there is one. A teacher of more classes gets
    ``teacher_classes='by name'``. Both models are built as in a training, and run on a
    made-up image.

    Args:
        teacher: A config's path, ``mmdet::...`` path, or name in MMDetection's zoo.
        student: Likewise.
        out: Where to write; must not exist yet.
        method: One of :func:`ctkd_mm.apis.pair_template.methods`. None is
            ``ctkd-zscore`` (docs/results.md), and for sigmoid classes, of which the
            z-score is not made, ``ctkd``.
        teacher_ckpt: Path or URL; None takes the model zoo's.

    Returns:
        What was found and how to go on, a line each.

    Raises:
        ValueError: If there is no such config or checkpoint; if the two are no pair, or
            the student's config is a distillation; if ``out`` is no ``.py``.
        FileExistsError: If ``out`` exists.
    """
    folder = Path(out).parent
    if Path(out).suffix != '.py':
        raise ValueError(f'{out} must end in .py: MMEngine reads no other such config')
    if Path(out).exists():  # known now, not after both models are built
        raise FileExistsError(f'{out} exists: give another name, or remove it first')
    text, distiller, method = _make(teacher, student, method, teacher_ckpt, folder)
    with DefaultScope.overwrite_default_scope('mmdet'):
        report = [f'{distiller}, method {method}', *_build(text, folder)]
    with open(out, 'x') as file:
        file.write(text)
    config, work_dir = shlex.quote(out), shlex.quote(f'work_dirs/{Path(out).stem}')
    return [
        *report,
        f'{out} is written. Check, then train:',
        f'  python -m ctkd_mm check {config}',
        f'  python -m ctkd_mm train {config} --work-dir {work_dir}',
    ]


@contextmanager
def pair_config(
    config: str,
    teacher: str | None = None,
    method: str | None = None,
    teacher_ckpt: str | None = None,
) -> Iterator[str]:
    """Make the config that :func:`new_pair` would write, for as long as it is read.

    Args:
        config: The student; without a teacher any config, which stays as it is.
        teacher: See :func:`new_pair`.
        method: See there.
        teacher_ckpt: See there.

    Yields:
        The path of the config, whose name is made of the method and both detectors:
        MMEngine names work directories after it.

    Raises:
        ValueError: As :func:`new_pair`, or if there is no teacher for the others.
    """
    if teacher is None:
        if method or teacher_ckpt:
            raise ValueError('--method and --teacher-ckpt need --teacher: give it too')
        yield config
        return
    text, _, method = _make(teacher, config, method, teacher_ckpt, None)
    with TemporaryDirectory() as folder:
        path = Path(folder, f'{method}_{_stem(teacher)}_to_{_stem(config)}.py')
        path.write_text(text)
        yield str(path)


def _stem(config: str) -> str:
    name = Path(config.rpartition('::')[2]).name
    return name[:-3] if name.endswith('.py') else name  # not regnetx-3.2GF's end


def _make(
    teacher: str,
    student: str,
    method: str | None,
    ckpt: str | None,
    folder: Path | None,
) -> tuple[str, str, str]:
    """Return the text of a pair's config, and which distiller and method it has."""
    teacher, student = find_config(teacher), find_config(student)
    student_cfg = Config.fromfile(student)
    if 'teacher_ckpt' in student_cfg.model:
        raise ValueError(
            f'student is a {student_cfg.model.type}, a distillation itself: give the '
            "detector's own config"
        )
    with DefaultScope.overwrite_default_scope('mmdet'):
        distiller, method = _fitting(method, student_cfg)
    ckpt = ckpt or zoo_weights(teacher)
    text = render(student, student_cfg, teacher, ckpt, method, distiller, folder)
    return text, distiller, method


def _fitting(method: str | None, student: Config) -> tuple[str, str]:
    """Choose the distiller and the form of the method for the student's classes."""
    from ctkd_mm.models.heads.classes import has_sigmoid
    from ctkd_mm.models.heads.dense_head import dense_head
    from ctkd_mm.models.teachers.load import build_detector

    if 'roi_head' in student.model:
        return 'ctkd_mm.RoILogitDistill', method or RECOMMENDED
    sigmoid = has_sigmoid(dense_head('student', build_detector(student.model)))
    method = method or ('ctkd' if sigmoid else RECOMMENDED)
    if sigmoid and f'{method}-dense' in methods():
        method = f'{method}-dense'
    return 'ctkd_mm.DenseLogitDistill', method


def _build(text: str, folder: Path) -> list[str]:
    """Build and probe the pair from the text of its config."""
    from ctkd_mm.registry import MODELS

    with NamedTemporaryFile('w', suffix='.py', dir=folder) as file:
        file.write(text)
        file.flush()
        model = MODELS.build(Config.fromfile(file.name).model)
    shared = model.data_preprocessor.shared
    pixels = 'the same for both' if shared else "each model's own"
    return [*model.check_heads(), f'pixels: {pixels}', model.teacher_classes.summary()]
