"""What a training starts from: its weights, and a learning rate that it can reach."""

from __future__ import annotations

import re

from mmengine.model import BaseModel
from mmengine.optim import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    LinearParamScheduler,
    PolyParamScheduler,
    _ParamScheduler,
)
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctkd_mm.utils.messages import warn
from ctkd_mm.utils.model import teaching, unwrapped

DECAYS = CosineAnnealingParamScheduler, PolyParamScheduler


def check_start(runner: Runner) -> None:
    """Warn of a start that MMEngine makes without a word, and nobody means.

    These are ``resume`` without a checkpoint, random weights that stay frozen, a
    warm-up that the training does not reach the end of, and a decay that ends
    before it.

    Args:
        runner: The runner, before its first iteration.
    """
    if runner._resume and not runner._has_loaded:
        warn(
            f'resume=True, but there is nothing to resume in {runner.work_dir}: the '
            'training starts from iteration 0. Correct work_dir, unless it is a first '
            'start; the first start of a config with load_from wants no --resume, '
            'which sets load_from=None'
        )
    if not runner._has_loaded:
        _check_frozen(unwrapped(runner))
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, list):  # of one optimizer, not of several
        for scheduler in schedulers:
            _check_warm_up(scheduler, runner)
        _check_decay(schedulers, runner)


def _check_frozen(model: BaseModel) -> None:
    key, detector = 'model', model
    if hasattr(model, 'architecture'):
        key, detector = 'model.architecture', model.architecture
    backbone = getattr(detector, 'backbone', None)
    if backbone is None or any(
        map(_is_pretrained, (model, detector, *backbone.modules()))
    ):
        return
    backbone.train()  # some freeze their weights in it alone
    frozen = [not p.requires_grad for p in backbone.parameters()]
    norms = [not m.training for m in backbone.modules() if isinstance(m, _BatchNorm)]
    if any(frozen) or any(norms):
        warn(
            f'{key}.backbone loads no weights (load_from=None, no init_cfg is '
            f'Pretrained), but {sum(frozen)} of its {len(frozen)} parameters and the '
            f'statistics of {sum(norms)} of its {len(norms)} BatchNorm layers are '
            'frozen: unless its own code loads them, they stay random. Set init_cfg to '
            "dict(type='Pretrained', checkpoint=...), or frozen_stages=-1, "
            'norm_eval=False and norm_cfg.requires_grad=True'
        )


def _is_pretrained(module: nn.Module) -> bool:
    init_cfg = getattr(module, 'init_cfg', None) or []
    init_cfg = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
    # DetectoRS' ResNet keeps the path alone.
    return isinstance(getattr(module, 'pretrained', None), str) or any(
        'Pretrained' in str(cfg.get('type')) for cfg in init_cfg
    )


def _unit(scheduler: _ParamScheduler, runner: Runner) -> tuple[str, int]:
    """In what a scheduler counts, and how many of it the training has."""
    unit = 'epoch' if scheduler.by_epoch else 'iter'
    return unit, getattr(runner, f'max_{unit}s')


def _check_decay(schedulers: list[_ParamScheduler], runner: Runner) -> None:
    ends = [(s.end / _unit(s, runner)[1], s) for s in schedulers]
    share, latest = max(ends, key=lambda end: end[0], default=(1, None))
    if share < 1 and isinstance(latest, DECAYS):
        unit, last = _unit(latest, runner)
        warn(
            f'{type(latest).__name__} of param_scheduler ends at {unit} {latest.end}, '
            f'but the training at {unit} {last}: the rest of it keeps the last '
            f'{latest.param_name}. Set end, and T_max where it has one, to the end of '
            'the training (train_cfg)'
        )


def _check_warm_up(scheduler: _ParamScheduler, runner: Runner) -> None:
    unit, last = _unit(scheduler, runner)
    if scheduler.end <= last or not _is_warm_up(scheduler):
        return
    warn(
        f'{type(scheduler).__name__} of param_scheduler warms up until {unit} '
        f'{scheduler.end}, but the training ends at {unit} {last}, before '
        f'{scheduler.param_name} is what optim_wrapper says. Set end well below '
        f'{last}, or train longer (train_cfg)'
    )


def _is_warm_up(scheduler: _ParamScheduler) -> bool:
    if isinstance(scheduler, LinearParamScheduler):
        return scheduler.start_factor < scheduler.end_factor
    if isinstance(scheduler, ConstantParamScheduler):
        return scheduler.factor < 1
    return 'Warmup' in type(scheduler).__name__


def check_weights(runner: Runner, checkpoint: dict) -> list[str]:
    """Check that a checkpoint, about to be loaded, holds what the model needs.

    MMEngine leaves random what it lacks, with no more than a log line. To start a
    training from (``load_from``) a part is enough.

    Args:
        runner: The runner.
        checkpoint: What was read.

    Returns:
        The model's weights that are missing or of another shape.

    Raises:
        ValueError: If no weight fits; on a resume or an evaluation of a
            distillation, if any is missing or of another shape.
    """
    model = unwrapped(runner)
    weights = checkpoint.get('state_dict', checkpoint)
    found = {re.sub(r'^module\.', '', k): v for k, v in weights.items()}
    own = {k: v for k, v in model.state_dict().items() if 'num_batches' not in k}
    lost = [k for k in own if getattr(found.get(k), 'shape', None) != own[k].shape]
    fits_partly = isinstance(runner._train_loop, BaseLoop) and not runner._resume
    if not lost or (len(lost) < len(own) and (fits_partly or not teaching(runner))):
        return lost
    prefixes = sorted({key.split('.')[0] for key in found})
    raise ValueError(
        f'{runner._load_from or runner.work_dir}: {len(lost)} of {len(own)} weights of '
        f'the model are missing or of another shape, {lost[0]} for example; the file '
        f'has {", ".join(prefixes)}. Resume with the config of the run'
        + (
            '; a distillation run has architecture and distiller: evaluate the '
            'extracted student with its own config (configs/baseline)'
            if 'architecture' in {key.split('.')[0] for key in [*own, *found]}
            else ''
        )
    )
