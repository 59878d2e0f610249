"""Rules about what a training starts from: weights, and the run that it resumes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctkd_mm.utils.config import walk
from ctkd_mm.utils.messages import some, warn
from ctkd_mm.utils.model import (
    has_loaded,
    load_from,
    resumes,
    teaching,
    trains,
    unwrapped,
)
from ctkd_mm.utils.weights import state_dict_of

# Settings of a distillation loss or a temperature, wherever in the model.
LOSS = re.compile(r'model\.(.+\.)?(loss_kd|loss_ld|distill_losses|temperature)\.')


def frozen_random_backbone(runner: Runner) -> Iterator[str]:
    """Find a backbone that loads no weights and yet is frozen, if only in parts."""
    model = unwrapped(runner)
    detector = getattr(model, 'architecture', model)
    backbone = getattr(detector, 'backbone', None)
    if has_loaded(runner) or backbone is None:
        return
    if any(map(_loads, (model, detector, *backbone.modules()))):
        return
    backbone.train()  # some freeze their weights in it alone
    frozen = sum(not p.requires_grad for p in backbone.parameters())
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    fixed = sum(not norm.training for norm in norms)
    if frozen or fixed:
        yield (
            f'the backbone loads no weights, but {frozen} of its parameters and the '
            f'statistics of {fixed} of its {len(norms)} BatchNorm layers are frozen '
            "and stay random. Set init_cfg=dict(type='Pretrained', ...), or "
            'frozen_stages=-1, norm_eval=False, norm_cfg.requires_grad=True'
        )


def _loads(module: nn.Module) -> bool:
    # DetectoRS' ResNet keeps the path alone.
    own = isinstance(getattr(module, 'pretrained', None), str)
    return own or 'Pretrained' in str(getattr(module, 'init_cfg', None))


def loss_settings(cfg: Config) -> dict[str, Any]:
    """Return the settings of the distillation losses and temperatures, by key."""
    settings = walk(cfg.get('model'), 'model')
    return {
        key: value if isinstance(value, (str, float, int)) else repr(value)
        for key, value in settings
        if LOSS.match(key) and not isinstance(value, (dict, list, tuple))
    }


def check_resumed(runner: Runner, meta: dict) -> None:
    """Compare the losses and the teacher with those of the run that is resumed.

    The raw value of tau is resumed, but its range is the config's: an option that was
    forgotten gives the same weights another meaning.

    Args:
        runner: The runner.
        meta: The checkpoint's, with what :func:`note_run` wrote.

    Raises:
        ValueError: If a distillation loss, a temperature or the teacher differs.
    """
    model = teaching(runner)
    now = loss_settings(runner.cfg)
    before = meta.get('distillation_loss', now)
    if now and 'distillation_loss' not in meta:  # as PreflightHook notes it
        warn('the checkpoint does not tell its distillation loss: it is not compared')
    changed = [
        f'{key}={now.get(key)!r}, was {before.get(key)!r}'
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f'cannot resume with another distillation loss: {some(changed)}. Give the '
            'options of the first start again, or start a new run with load_from'
        )
    teacher = meta.get('teacher')
    if model and teacher and teacher['sha256'] != model.teacher_sha256:
        raise ValueError(
            f'the run was trained with the teacher {teacher["ckpt"]} (sha256 '
            f'{teacher["sha256"]}), now model.teacher_ckpt={model.teacher_ckpt!r} has '
            f'{model.teacher_sha256}. Resume with the same teacher, or start a new '
            'run with load_from'
        )


def note_run(runner: Runner, meta: dict) -> None:
    """Write into a checkpoint's ``meta`` what :func:`check_resumed` compares."""
    meta['distillation_loss'] = loss_settings(runner.cfg)
    model = teaching(runner)
    if model is not None:
        meta['teacher'] = dict(ckpt=model.teacher_ckpt, sha256=model.teacher_sha256)


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
    weights = state_dict_of(checkpoint)
    found = {re.sub(r'^module\.', '', k): v for k, v in weights.items()}
    own = {k: v for k, v in model.state_dict().items() if 'num_batches' not in k}
    lost = [k for k in own if getattr(found.get(k), 'shape', None) != own[k].shape]
    fits_partly = trains(runner) and not resumes(runner)
    if not lost or (len(lost) < len(own) and (fits_partly or not teaching(runner))):
        return lost
    prefixes = sorted({key.split('.')[0] for key in found})
    raise ValueError(
        f'{load_from(runner) or runner.work_dir}: {len(lost)} of {len(own)} weights of '
        f'the model are missing or of another shape, {lost[0]} for example; the file '
        f'has {", ".join(prefixes)}. Give the config of the run; an extracted student '
        'has its own (configs/baseline)'
    )
