"""Checks of a checkpoint that is loaded: its weights, and the run that it resumes."""

from __future__ import annotations

import re
from typing import Any

from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from ctkd_mm.utils.config import walk
from ctkd_mm.utils.messages import some
from ctkd_mm.utils.model import load_from, resumes, teaching, trains, unwrapped
from ctkd_mm.utils.weights import state_dict_of

# Settings of a distillation loss, a temperature or classes, wherever in the model.
LOSS = re.compile(r'.*\.(loss_kd|loss_ld|distill_losses|temperature|teacher_classes)\b')


def loss_settings(cfg: Config) -> dict[str, Any]:
    """Return the settings of the distillation losses and temperatures, by key."""
    return {
        key: value
        for key, value in walk(cfg.get('model'), 'model')
        if LOSS.match(key) and isinstance(value, (str, float, int))
    }


def check_resumed(runner: Runner, checkpoint: dict) -> None:
    """Compare a checkpoint's state, losses and teacher with those of the resumed run.

    What a checkpoint lacks, MMEngine would start anew. The checkpoint has tau's raw
    value, the config its range: with an option forgotten, the same raw value would
    mean another tau.

    Args:
        runner: The runner.
        checkpoint: What was read; ``meta`` with what :func:`note_run` wrote.

    Raises:
        ValueError: If a part of the state is missing, or if a distillation loss, a
            temperature or the teacher differs.
    """
    owns = dict(
        param_schedulers=runner.param_schedulers,
        loss_scaler=hasattr(runner.optim_wrapper, 'loss_scaler'),
        ema_state_dict=any(isinstance(hook, EMAHook) for hook in runner.hooks),
    )
    needed = 'optimizer', 'message_hub', 'seed', *filter(owns.get, owns)
    meta = checkpoint.get('meta') or {}
    found = {**checkpoint, **meta, **(checkpoint.get('optimizer') or {})}
    lacking = [part for part in needed if part not in found]
    if lacking:
        raise ValueError(
            f'{load_from(runner) or runner.work_dir} cannot be resumed: it has no '
            f'{some(lacking)}. Resume an epoch_*.pth or iter_*.pth of this run '
            '(best_*.pth are weights alone), or start a new run with load_from'
        )
    model, teacher, key = teaching(runner), meta.get('teacher') or {}, 'teacher sha256'
    now = {**loss_settings(runner.cfg), key: model and model.teacher_sha256}
    before = {**meta.get('distillation_loss', {}), key: teacher.get('sha256')}
    changed = [
        f'{key}={now.get(key)!r}, was {before.get(key)!r}'
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f'cannot resume with another distillation: {some(changed)}. Give the '
            'options and teacher of the first start, or start a new run with load_from'
        )


def note_run(runner: Runner, meta: dict) -> None:
    """Write into a checkpoint's ``meta`` what :func:`check_resumed` compares."""
    meta['distillation_loss'] = loss_settings(runner.cfg)
    model = teaching(runner)
    if model is not None:
        meta['teacher'] = dict(ckpt=model.teacher_ckpt, sha256=model.teacher_sha256)


def check_weights(runner: Runner, checkpoint: dict) -> None:
    """Check that a checkpoint, about to be loaded, holds what the model needs.

    Weights that the file lacks stay random in MMEngine, which only logs that. For the
    start of a training (``load_from``) a part of the weights is enough.

    Args:
        runner: The runner.
        checkpoint: What was read.

    Raises:
        ValueError: If no weight fits; on a resume or an evaluation of a
            distillation, if any is missing or of another shape.
    """
    model = unwrapped(runner)
    source = load_from(runner) or runner.work_dir
    found = state_dict_of(checkpoint, source)
    own = {k: v for k, v in model.state_dict().items() if 'num_batches' not in k}
    lost = [k for k in own if getattr(found.get(k), 'shape', None) != own[k].shape]
    needs_all = teaching(runner) and (resumes(runner) or not trains(runner))
    if len(lost) == len(own) or (lost and needs_all):
        prefixes = sorted({key.split('.')[0] for key in found})
        raise ValueError(
            f'{source}: {len(lost)} of {len(own)} weights of the model are missing or '
            f'of another shape, {lost[0]} for example; the file has {some(prefixes)}. '
            "Give the run's config (extracted students: configs/baseline)"
        )
