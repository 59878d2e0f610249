"""Fills the template ``pair.py.j2`` of a pair's config."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Template  # PyTorch depends on jinja2
from mmengine.config import Config

from ctkd_mm.compat.patches import CONFIGS
from ctkd_mm.engine.optim.merged_constructor import OF_ANY_MODEL
from ctkd_mm.utils.config import bare

BASES = CONFIGS / '_base_'
TEMPLATE = Path(__file__).with_name('pair.py.j2')
# For paths in a model, which MMEngine takes as relative to the process otherwise.
HERE = '{{fileDirname}}/'
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
    folder: Path | None,
) -> str:
    """Write the text of a config that inherits the student's, a method and our hooks.

    Bases may not share a key: where the student has ``custom_hooks`` of its own, the
    method is not inherited but read, and its hooks are added to the student's. Paths
    of files are relative to the config. An optimizer constructor of the student's own
    gets the student alone. Where its pipeline switches, the distillation ends.

    Args:
        student: Path or ``pkg::`` path of the student's config.
        student_cfg: That config.
        teacher: Path or ``pkg::`` path of the teacher's config.
        teacher_ckpt: Path or URL of its weights.
        method: Name of a method config.
        distiller: Registered name of the distiller.
        folder: Where the config will lie; None makes every path absolute.

    Returns:
        The config's text.
    """
    path = BASES / 'methods' / f'{method}.py'
    method_cfg = Config.fromfile(path)
    shared = method_cfg.keys() & student_cfg.keys()
    own_hooks = student_cfg.get('custom_hooks') or []
    # Of MMDetection's PipelineSwitchHook.
    stop_epoch = next((h.switch_epoch for h in own_hooks if 'switch_epoch' in h), None)
    constructor = student_cfg.optim_wrapper.get('constructor', OF_ANY_MODEL[0])
    teacher_cfg = Config.fromfile(teacher)
    text = TEMPLATE.read_text()
    template = Template(text, trim_blocks=True, keep_trailing_newline=True)
    return template.render(
        repr=repr,
        student=_path(student, folder),
        hooks=_path(BASES / 'hooks.py', folder),
        method=method_cfg,
        method_path=_path(path, folder, HERE if shared else ''),
        shared=sorted(shared),
        own_hooks=own_hooks,
        stop_epoch=stop_epoch,
        constructor=None if bare(constructor) in OF_ANY_MODEL else constructor,
        distiller=distiller,
        teacher=_path(teacher, folder, HERE),
        teacher_ckpt=_path(teacher_ckpt, folder, HERE),
        loop=_loop(student_cfg.train_cfg),
        by_epoch='by_epoch' in student_cfg.train_cfg,
        num_classes=_num_classes(method_cfg, student_cfg.model),
        by_name=_classes(student_cfg.model) < _classes(teacher_cfg.model),
        ramps=_ramps(method_cfg, student_cfg.train_cfg),
        epochs=EPOCHS_1X,
    )


def _path(path: str | Path, folder: Path | None, start: str = '') -> str:
    """Write a path relative to a folder; names in packages and URLs stay."""
    if '::' in str(path) or '://' in str(path):
        return path
    # Behind a link the system and MMEngine resolve '..' to different folders.
    if folder is None or os.path.realpath(folder) != os.path.abspath(folder):
        return Path(os.path.abspath(path)).as_posix()
    return start + Path(os.path.relpath(path, folder)).as_posix()


def _loop(train_cfg: dict) -> str:
    """Name of MMEngine's loop; ``by_epoch`` stands for it where there is no type."""
    kind = 'EpochBasedTrainLoop' if train_cfg.get('by_epoch') else 'IterBasedTrainLoop'
    return bare(train_cfg.get('type', kind)).replace('Resumable', '')


def _num_classes(method: Config, student: dict) -> int | None:
    """Number of classes for the method's temperature, None where it fits already."""
    found = method.loss_kd.get('temperature', {}).get('num_classes')
    num_classes = _classes(student)
    return None if found in (None, num_classes) else num_classes


def _classes(model: dict) -> int:
    """Number of classes of a detector's config."""
    head = model.get('bbox_head') or model.get('roi_head', {}).get('bbox_head', {})
    head = head[0] if isinstance(head, list) else head
    return head.get('num_classes', 80)  # MMDetection's default


def _ramps(method: Config, train_cfg: dict) -> list[tuple[int, int, int]]:
    """Ramps of a training in iterations: the hook's index, epochs, iterations.

    A ramp in epochs stays as it is: the paper ramps over 5 of ImageNet's 120 epochs. A
    training in iterations has no epochs: there the ramp takes the same share of the
    iterations as of 12 epochs.
    """
    if not _loop(train_cfg).endswith('IterBasedTrainLoop'):
        return []
    return [
        (i, hook.end, round(train_cfg.max_iters * hook.end / EPOCHS_1X))
        for i, hook in enumerate(method.get('custom_hooks', []))
        if 'end' in hook
    ]
