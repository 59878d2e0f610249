"""Keys of a config that nothing would read: what they say would not be done."""

from __future__ import annotations

import ast
import difflib
import inspect
import os.path as osp
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from ctkd_mm.checks.explain import walk
from ctkd_mm.utils.messages import some, value_of, warn

# No key of a config that MMDetection or MMRazor ships is this near to another.
NEAR, NEAR_OPTION = 0.9, 0.8
VARIABLES = {'models'}  # near to an argument, and a name that people give to others
# What a method's config has for the model or the optimizer to take over.
SECTIONS = dict(loss_kd='model', distiller='model', paramwise_cfg='optim_wrapper')
CONSTRUCTORS = 'DefaultOptimWrapperConstructor', 'MergedOptimWrapperConstructor'
# Options that are read with get(), so that a misspelt one is no error.
OPTIONS = dict(
    auto_scale_lr=('enable', 'base_batch_size'),
    env_cfg=('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    filter_cfg=('filter_empty_gt', 'min_size'),
    paramwise_cfg=(
        'custom_keys',
        'bias_lr_mult',
        'bias_decay_mult',
        'norm_decay_mult',
        'flat_decay_mult',
        'dwconv_decay_mult',
        'dcn_offset_lr_mult',
        'bypass_duplicate',
    ),
    train_cfg=('rpn', 'rpn_proposal', 'rcnn', 'assigner', 'sampler'),
    test_cfg=(
        'rpn',
        'rcnn',
        'nms_pre',
        'nms',
        'score_thr',
        'max_per_img',
        'max_per_image',
    ),
    rpn_proposal=('nms_pre', 'nms', 'max_per_img', 'min_bbox_size'),
    rcnn=('assigner', 'sampler', 'nms', 'score_thr', 'max_per_img'),
    rpn=('assigner', 'sampler', 'nms_pre', 'nms', 'max_per_img'),
)


def check_top_level(cfg: Config) -> None:
    """Look for misspelt arguments of ``Runner``, which MMEngine takes for variables.

    Args:
        cfg: A complete config.

    Raises:
        ValueError: If a key is all but that of an argument.
    """
    known = set(inspect.signature(Runner.__init__).parameters)
    for key in cfg:
        near = difflib.get_close_matches(key, known, 1, NEAR)
        if near and key not in known and key not in VARIABLES:
            raise ValueError(
                f'{key}={value_of(cfg[key])} is no key that MMEngine reads, and would '
                f'do nothing. Write {near[0]!r}, or name your variable otherwise'
            )


def check_variables(cfg: Config) -> None:
    """Look for variables of a config that were changed after it had been read.

    ``loss_kd`` in a method's config is one, copied by ``model = dict(loss_kd=...)``
    when the file is read: ``--cfg-options loss_kd...`` comes too late for the model,
    and so does ``loss_kd = ...`` in a config that inherits the model.

    Args:
        cfg: A complete config; one that was read from no file, or whose file was
            edited since, passes.

    Raises:
        ValueError: If a variable of the file differs now, or a dict was added, and no
            setting of its name has its value; of anything else that was added, a
            warning says so. If the file itself sets a part of the method that the
            model or the optimizer does not have.
    """
    if not cfg.filename or not osp.isfile(cfg.filename):
        return
    file = Config.fromfile(cfg.filename)
    if file.text != cfg.text:
        return
    now, written = cfg.to_dict(), file.to_dict()
    _check_own(cfg.filename, written)
    known = inspect.signature(Runner.__init__).parameters
    settings = dict(walk({key: now[key] for key in now if key in known}))
    for key, value in now.items():
        if key in known or (key in written and value == written[key]):
            continue
        used = [path for path in settings if path.split('.')[-1] == key]
        if not used or any(settings[path] == value for path in used):
            continue
        option = f'{used[0]}.NAME' if isinstance(value, dict) else used[0]
        message = (
            f'{key}={value_of(value)} was set after {cfg.filename} had been read, '
            f'and would do nothing: no {key} is read at the top level. Set '
            f'{some(used)} instead, for example with --cfg-options {option}=...'
        )
        if key in written or isinstance(value, dict):
            raise ValueError(message)
        warn(message)  # a script may keep a number or a name of its own in a config


def _check_own(filename: str, written: dict) -> None:
    if not filename.endswith('.py'):
        return
    text = Path(filename).read_text(encoding='utf-8')
    own: dict[str, str] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
            for target in getattr(node, 'targets', None) or [node.target]:
                name = getattr(target, 'id', '')
                own[name] = own.get(name, '') + ast.get_source_segment(text, node.value)
    for key, section in SECTIONS.items():
        # A section of the file's own may have anything, but not the base's.
        late = key in own and f'_base_.{key}' in own.get(section, f'_base_.{key}')
        used = (written.get(section) or {}).get(key)
        if late and used is not None and used != written[key]:
            raise ValueError(
                f'{key} is set in {filename}, but {section}.{key} is what a file in '
                f'_base_ has for it, {value_of(used)}: the new one would do nothing. '
                f'Write {section} = dict({key}=dict(...))'
            )


def check_options(cfg: Config) -> None:
    """Look for misspelt options in the dicts that nothing holds to a signature.

    Args:
        cfg: A complete config.

    Raises:
        ValueError: If a key is all but one that is read there. Where classes of your
            own may read others, in the model, the data and an optimizer with another
            constructor, a warning says so.
    """
    known = inspect.signature(Runner.__init__).parameters
    optimizer = cfg.get('optim_wrapper') or {}
    constructor = str(optimizer.get('constructor', CONSTRUCTORS[0])).split('.')[-1]
    for path, value in walk({key: cfg[key] for key in cfg if key in known}):
        options = OPTIONS.get(path.split('.')[-1], ())
        for key in map(str, value if options and isinstance(value, dict) else ()):
            near = difflib.get_close_matches(key, options, 1, NEAR_OPTION)
            # A longer name, such as ga_assigner, is meant.
            if not near or set(near[0].split('_')) <= set(key.split('_')):
                continue
            message = (
                f'{path}.{key}={value_of(value[key])} is not read, and would do '
                f'nothing. Write {near[0]!r}'
            )
            if '.' not in path or (
                path == 'optim_wrapper.paramwise_cfg' and constructor in CONSTRUCTORS
            ):
                raise ValueError(message)
            warn(f'{message}, unless a class of your own reads it')


def check_method(cfg: Config) -> None:
    """Look for a part of the method that the config inherits and does not use.

    Args:
        cfg: A complete config.

    Raises:
        ValueError: If ``distiller`` or ``paramwise_cfg`` stands at the top level alone.
    """
    for key in ('distiller', 'paramwise_cfg'):
        section = SECTIONS[key]
        if cfg.get(key) and not (cfg.get(section) or {}).get(key):
            raise ValueError(
                f'{key} of the method is inherited, but nothing uses it: add '
                f'{section} = dict({key}=_base_.{key}), as the shipped configs of that '
                f'method do, or {key} = None to do without'
            )
