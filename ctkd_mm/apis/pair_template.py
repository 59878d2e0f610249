"""The text of a pair's config."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

BASES = Path(__file__).parents[2] / 'configs' / '_base_'
EPOCHS_1X = 12  # the schedule that the methods' ramps are made for


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
    own = Config.fromfile(BASES / 'methods' / f'{method}.py')
    is_read = bool(own.keys() & student_cfg.keys())
    source = 'method' if is_read else '_base_'
    method_path = _relative(BASES / 'methods' / f'{method}.py', folder)
    bases = [
        student if '::' in student else _relative(student, folder),
        *([] if is_read else [method_path]),
        _relative(BASES / 'hooks.py', folder),
    ]
    loop = bare(student_cfg.train_cfg.type).replace('Resumable', '')
    arguments = dict(
        _delete_=True,
        type=repr(distiller),
        architecture='_base_.model',
        teacher=_found_from_anywhere(teacher, '::', folder),
        teacher_ckpt=_found_from_anywhere(teacher_ckpt, '://', folder),
        loss_kd=f'{source}.loss_kd',
    )
    if 'distiller' in own:
        arguments['distiller'] = f'{source}.distiller'
    lines = [
        '# Written by tools/new_pair.py.',
        '_base_ = [',
        *(f'    {base!r},' for base in bases),
        ']',
        *(_reading(method_path) if is_read else ()),
        *_adapted(own, student_cfg, source),
        'model = dict(',
        *(f'    {key}={value},' for key, value in arguments.items()),
        ')',
        f"train_cfg = dict(type='ctkd_mm.Resumable{loop}')",
        "default_hooks = _base_.pop('ctkd_hooks')",
    ]
    if is_read and 'custom_hooks' in own:
        theirs = '*_base_.custom_hooks, ' if student_cfg.get('custom_hooks') else ''
        lines.append(f'custom_hooks = [{theirs}*method.custom_hooks]')
    if 'paramwise_cfg' in own:
        lines += [
            'optim_wrapper = dict(',
            f'    paramwise_cfg={source}.paramwise_cfg,',
            "    constructor='ctkd_mm.MergedOptimWrapperConstructor',",
            ')',
        ]
    if is_read:
        lines.append('del Config, method')
    return '\n'.join([*lines, ''])


def _relative(path: str | Path, folder: Path) -> str:
    path, folder = os.path.abspath(path), os.path.abspath(folder)
    # Behind a link, '..' is one folder to the system and another to MMEngine's checks.
    if os.path.realpath(folder) == folder:
        path = os.path.relpath(path, folder)
    return Path(path).as_posix()


def _found_from_anywhere(path: str, mark: str, folder: Path) -> str:
    # MMEngine takes a path in a model as relative to the process, not to the config.
    if mark not in path:
        path = _relative(path, folder)
        path = path if os.path.isabs(path) else f'{{{{fileDirname}}}}/{path}'
    return repr(path)


def bare(name: str | type | None) -> str:
    """A registered name or class, without its scope."""
    return getattr(name, '__name__', str(name).rpartition('.')[2])


def _reading(method_path: str) -> list[str]:
    if not os.path.isabs(method_path):
        method_path = f'{{{{fileDirname}}}}/{method_path}'
    return [
        'from mmengine.config import Config  # noqa: E402',
        '',
        '# No base, as the student has keys of its own of the same names.',
        'method = Config.fromfile(',
        f'    {method_path!r},',
        ')',
    ]


def _adapted(method: Config, student: Config, source: str) -> Iterator[str]:
    """Set what a method config leaves to the pair: classes, and ramps in iterations.

    A ramp in epochs stays, however many follow: 5 in the paper's ImageNet runs of 120.
    In iterations, which have no epochs, it takes the share that it has of 12.
    """
    model = student.model
    head = (model.get('bbox_head') or model.roi_head.get('bbox_head')) or {}
    head = head[0] if isinstance(head, list) else head
    num_classes = head.get('num_classes', 80)  # MMDetection's default
    for path, found in _class_counts(f'{source}.loss_kd', method.loss_kd):
        if found != num_classes:
            yield f'{path}.num_classes = {num_classes}'
    if not student.train_cfg.type.endswith('IterBasedTrainLoop'):
        return
    for i, hook in enumerate(method.get('custom_hooks', [])):
        if 'end' in hook:
            end = round(student.train_cfg.max_iters * hook.end / EPOCHS_1X)
            yield f'# {hook.end} of {EPOCHS_1X} epochs, as a share of the iterations.'
            yield f'{source}.custom_hooks[{i}].update(by_epoch=False, end={end})'


def _class_counts(path: str, cfg: dict) -> Iterator[tuple[str, int]]:
    if 'num_classes' in cfg:
        yield path, cfg['num_classes']
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from _class_counts(f'{path}.{key}', value)
