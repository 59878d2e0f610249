"""The text of a pair's config, from ``pair.py.j2``."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, StrictUndefined  # PyTorch needs it, so it is there
from mmengine.config import Config

BASES = Path(__file__).parents[2] / 'configs' / '_base_'
TEMPLATE = Path(__file__).with_name('pair.py.j2')
EPOCHS_1X = 12  # the schedule that the methods' ramps are made for


def methods() -> list[str]:
    """Names of the method configs for detectors' class logits."""
    names = [path.stem for path in (BASES / 'methods').glob('*.py')]
    return sorted(n for n in names if not n.endswith(('-classification', '-ld')))


def render(
    student: str,
    student_cfg: Config,
    teacher: str,
    teacher_ckpt: str,
    method: str,
    distiller: str,
    folder: Path,
) -> str:
    """Write the config of a pair, inheriting the student's, a method and our hooks.

    Bases may not share a key: where the student has ``custom_hooks`` of its own, the
    method is not inherited but read, and its hooks are added to the student's. Paths
    of files are written relative to the config.

    Args:
        student: Path or ``pkg::`` path of the student's config.
        student_cfg: That config.
        teacher: Path or ``pkg::`` path of the teacher's config.
        teacher_ckpt: Path or URL of its weights.
        method: Name of a method config.
        distiller: Registered name of the distiller.
        folder: Where the config will lie.

    Returns:
        The config's text.
    """
    path = BASES / 'methods' / f'{method}.py'
    method_cfg = Config.fromfile(path)
    shared = method_cfg.keys() & student_cfg.keys()
    environment = Environment(
        trim_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters['repr'] = repr
    return environment.from_string(TEMPLATE.read_text()).render(
        student=student if '::' in student else _relative(student, folder),
        hooks=_relative(BASES / 'hooks.py', folder),
        method=method_cfg,
        method_path=(_beside if shared else _relative)(path, folder),
        is_read=bool(shared),
        source='method' if shared else '_base_',
        shared=sorted(shared - {'custom_hooks'}),
        own_hooks=student_cfg.get('custom_hooks'),
        distiller=distiller,
        teacher=teacher if '::' in teacher else _beside(teacher, folder),
        teacher_ckpt=(
            teacher_ckpt if '://' in teacher_ckpt else _beside(teacher_ckpt, folder)
        ),
        loop=student_cfg.train_cfg.type.rpartition('.')[2].replace('Resumable', ''),
        num_classes=_num_classes(method_cfg, student_cfg.model),
        ramps=_ramps(method_cfg, student_cfg.train_cfg),
        epochs=EPOCHS_1X,
    )


def _relative(path: str | Path, folder: Path) -> str:
    path, folder = os.path.abspath(path), os.path.abspath(folder)
    # Behind a link, '..' is one folder to the system and another to MMEngine's checks.
    if os.path.realpath(folder) == folder:
        path = os.path.relpath(path, folder)
    return Path(path).as_posix()


def _beside(path: str | Path, folder: Path) -> str:
    # MMEngine takes a path in a model as relative to the process, not to the config.
    path = _relative(path, folder)
    return path if os.path.isabs(path) else f'{{{{fileDirname}}}}/{path}'


def _num_classes(method: Config, student: dict) -> int | None:
    """How many classes the method's temperature must know, where that is not said."""
    found = method.loss_kd.get('temperature', {}).get('num_classes')
    if found is None:
        return None
    head = student.get('bbox_head') or student.roi_head.bbox_head
    head = head[0] if isinstance(head, list) else head
    num_classes = head.get('num_classes', 80)  # MMDetection's default
    return None if num_classes == found else num_classes


def _ramps(method: Config, train_cfg: dict) -> list[tuple[int, int, int]]:
    """Ramps of a training in iterations: the hook's index, epochs, iterations.

    A ramp in epochs stays, however many follow: 5 in the paper's ImageNet runs of 120.
    In iterations, which have no epochs, it takes the share that it has of 12.
    """
    if not train_cfg.type.endswith('IterBasedTrainLoop'):
        return []
    ends = [
        (i, hook.get('end')) for i, hook in enumerate(method.get('custom_hooks', []))
    ]
    return [
        (i, end, round(train_cfg.max_iters * end / EPOCHS_1X)) for i, end in ends if end
    ]
