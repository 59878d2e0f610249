"""The temperature doctor: from a run's logged temperatures to verdicts."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any, Iterable, Iterator, Sequence

from ctkd_mm.analysis.doctor.rules import (
    Finding,
    Track,
    descending,
    frozen,
    healthy,
    no_ramp,
    non_finite,
    oscillating,
    saturated,
)
from ctkd_mm.analysis.run_log import PathLike, read_config, read_scalars
from ctkd_mm.models.temperatures.learned import LearnedTemperature

NOT_CHECKED = 'Not checked: whether tau climbs on the loss, as the log has no tau_slope'


def diagnose(
    lines: Sequence[dict[str, float]],
    tau_init: float,
    tau_range: float,
    ended: bool = True,
) -> list[Finding]:
    """Judge how one temperature moved.

    With x = (tau - tau_init) / tau_range, epochs in fractions, and full epochs being
    lambda summed over the epochs (the thresholds are in
    :mod:`ctkd_mm.analysis.doctor.rules`):

    - ``non-finite``: a tau is NaN or infinite; what follows is not judged.
    - ``floor``, ``ceiling``: x < 0.02, or x > 0.98, from some line to the last, for
      at least 1 full epoch.
    - ``frozen``: max x - min x < 0.01 over at least 2 full epochs and 200 iterations;
      not at an end.
    - ``oscillating``: in the second half of the log x spans at least 0.2 and goes to
      and fro, each time by at least 0.6 of that span, 8 times or more.
    - ``descending``: let d be tau's change between two neighbouring lines that agree
      on the sign s of the loss's slope in tau, lambda not 0. The share of tau's way
      sum(abs(d)) with d s < 0 is at least 0.75, and sum(d s) / sqrt(sum(d²)) is at
      most -3, which takes 9 changes or more. Not judged of the mean over samples,
      which moves with the samples too.
    - ``no ramp``: after 3 epochs or more lambda has not changed, or is not logged; or,
      when the training has ended, is below 0.5 and still grows. Not judged in a log
      that lacks the first epoch.

    Args:
        lines: What was logged, as ``run_log.read_scalars`` returns it:
            ``step``, ``tau`` and, where logged, ``epoch``, ``lambda``, ``tau_slope``
            (its sign is read). Without ``epoch``, 5000 iterations count as one;
            without ``lambda``, it counts as 1.
        tau_init: Floor of tau.
        tau_range: Width of the range of tau.
        ended: Whether the training has ended.

    Returns:
        The findings; one, healthy, if nothing is wrong. The first one says so if the
        log has no ``tau_slope``.

    Raises:
        ValueError: If no line has a ``tau``.

    Source: ours.

    Example:
        >>> lines = [dict(step=90 * i, epoch=i, tau=15.62) for i in range(1, 5)]
        >>> [finding.verdict for finding in diagnose(lines, tau_init=1, tau_range=20)]
        ['frozen', 'no ramp']
    """
    lines = [line for line in lines if 'tau' in line]
    if not lines:
        raise ValueError('no logged line has a tau, so there is nothing to diagnose')
    bad = [i for i, line in enumerate(lines) if not math.isfinite(line['tau'])]
    sound = lines[: bad[0]] if bad else lines
    findings = [non_finite(lines[bad[0]])] if bad else []
    if sound:
        track = Track(sound, tau_init, tau_range)
        found = [rule(track) for rule in (saturated, frozen, oscillating, descending)]
        findings += [finding for finding in (*found, no_ramp(track, ended)) if finding]
        findings = findings or [healthy(track)]
    if not any('tau_slope' in line for line in lines):
        seen = f'{findings[0].seen}. {NOT_CHECKED}'
        findings[0] = replace(findings[0], seen=seen)
    return findings


def diagnose_run(run: PathLike) -> list[Finding] | dict[str, list[Finding]]:
    """Judge every learnable temperature of a run from its log and config.

    Of a temperature for each sample the mean is judged.

    Args:
        run: A work directory or ``scalars.json``, with MMEngine's ``config.py``.

    Returns:
        The findings of :func:`diagnose`; with several temperatures in the model, by
        the suffix of their key in the log, such as ``.0``. They are taken to be
        numbered in the order in which ``model`` of the config has them.

    Raises:
        FileNotFoundError: If there is no JSON log or no config.
        ValueError: If the log has no tau, or none that is learned.
    """
    lines = read_scalars(run)
    keys = {key: None for line in lines for key in line if key.split('.')[0] == 'tau'}
    if not keys:
        raise ValueError(
            f'the log of {run} has no tau: it was trained without a temperature or '
            'without CurriculumHook, or its first logged iteration is still to come'
        )
    cfg = read_config(run)
    if 'max_iters' in (cfg.get('train_cfg') or {}):
        # With LogProcessor(by_epoch=True) every line is of epoch 1.
        lines = [{k: v for k, v in line.items() if k != 'epoch'} for line in lines]
    bounds = [_tau_bounds(found) for found in _temperatures(cfg.get('model'))]
    findings = {}
    for suffix in (key[len('tau') :] for key in keys):
        number = int(''.join(filter(str.isdigit, suffix)) or 0)
        if number < len(bounds) and bounds[number]:
            own = of_temperature(lines, suffix)
            ended = _ended(lines[-1], cfg.get('train_cfg') or {})
            findings[suffix] = diagnose(own, *bounds[number], ended=ended)
    if not findings:
        raise ValueError(
            f'no tau of {run} is learned: model in its config has no temperature with '
            "tau_init and tau_range (type='ctkd_mm.GlobalTemperature')"
        )
    return findings[''] if list(findings) == [''] else findings


def of_temperature(lines: Iterable[dict], suffix: str) -> list[dict[str, float]]:
    """Pick the lines of one of several temperatures, as :func:`diagnose` takes them.

    Args:
        lines: What was logged.
        suffix: That of its keys: empty, or ``.0``.

    Returns:
        The lines in which it has a tau, under keys without the suffix.
    """
    keys = {key: key for key in ('step', 'epoch', 'lambda')}
    keys.update({f'{k}{suffix}': k for k in ('tau', 'tau_min', 'tau_slope')})
    return [
        {keys[key]: value for key, value in line.items() if key in keys}
        for line in lines
        if f'tau{suffix}' in line
    ]


def _ended(last: dict, train_cfg: dict) -> bool:
    if 'epoch' in last:
        return last['epoch'] >= (train_cfg.get('max_epochs') or 0)
    return last['step'] >= (train_cfg.get('max_iters') or 0)


def _temperatures(cfg: Any) -> Iterator[dict]:
    """Every temperature in a config of a model, in its order."""
    items = cfg.items() if isinstance(cfg, dict) else enumerate(cfg or ())
    for key, value in items:
        if key == 'temperature' and isinstance(value, dict):
            yield value
        elif isinstance(value, (dict, list, tuple)):
            yield from _temperatures(value)


def _tau_bounds(cfg: dict) -> tuple[float, float] | None:
    """``tau_init`` and ``tau_range`` of a temperature's config, if it is learned."""
    names = ('GlobalTemperature', 'InstanceTemperature')
    if not str(cfg.get('type')).endswith(names) and 'tau_range' not in cfg:
        return None
    defaults = inspect.signature(LearnedTemperature).parameters
    init, width = (cfg.get(k, defaults[k].default) for k in ('tau_init', 'tau_range'))
    return init, width
