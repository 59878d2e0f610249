"""The temperature doctor: verdicts from the logged temperatures of a run."""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Any, Sequence

from ctkd_mm.analysis.doctor import rules
from ctkd_mm.analysis.doctor.rules import Finding, Track
from ctkd_mm.analysis.run_log import PathLike, read_config, read_scalars
from ctkd_mm.utils.config import bare, walk

LEARNED = ('GlobalTemperature', 'InstanceTemperature')
DEFAULTS = dict(tau_init=1.0, tau_range=20.0)  # of a learned temperature


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
    - ``overweight``: in the last third of the log the distillation loss, as weighted,
      is on average 2 times the student's ``loss_cls`` or more; after 3 epochs, or when
      the training has ended.
    - ``climbing``: x ends at least 0.1 above its start, and the distillation loss is
      on average no lower in the last third of the log than in the first; judged when
      ``overweight`` is.
    - ``no ramp``: after 3 epochs or more lambda has not changed, or is not logged; or,
      when the training has ended, is below 0.5 and still grows. Not judged in a log
      that lacks the first epoch.

    Lines after the last distillation loss other than 0 are not judged: there MMRazor's
    ``StopDistillHook`` has stopped the distillation, and tau has nothing to learn from.

    Args:
        lines: What was logged, as ``run_log.read_scalars`` returns it: ``step``,
            ``tau`` and, where logged, ``epoch``, ``lambda``, ``distill.loss_kd`` and
            ``student.loss_cls``. Without ``epoch``, 5000 iterations count as one;
            without ``lambda``, it counts as 1.
        tau_init: Floor of tau.
        tau_range: Width of the range of tau.
        ended: Whether the training has ended.

    Returns:
        The findings; one, healthy, if nothing is wrong.

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
    distilled = [i for i, line in enumerate(lines, 1) if line.get(rules.LOSSES[0])]
    lines = lines[: max(distilled, default=None)]
    finite = list(takewhile(lambda line: math.isfinite(line['tau']), lines))
    findings = [rules.non_finite(line) for line in lines[len(finite) :][:1]]
    if finite:
        track = Track(finite, tau_init, tau_range, ended)
        findings += [found for rule in rules.RULES if (found := rule(track))]
    return findings or [rules.healthy(track)]


def diagnose_each(
    lines: Sequence[dict[str, float]],
    bounds: dict[str, tuple[float, float]],
    by_epoch: bool,
    ended: bool,
) -> dict[str, list[Finding]]:
    """Judge several temperatures, each by :func:`diagnose`.

    Args:
        lines: What was logged.
        bounds: ``tau_init`` and ``tau_range`` of each, by the suffix of its keys in
            the log: empty, or ``.0``.
        by_epoch: Whether the training counts epochs. Otherwise those in the log mean
            nothing: with ``LogProcessor(by_epoch=True)`` every line is of epoch 1.
        ended: Whether the training has ended.

    Returns:
        The findings by that suffix, of those temperatures that were logged.
    """
    shared = {k: k for k in ('step', 'lambda', *rules.LOSSES, *['epoch'][:by_epoch])}
    findings = {}
    for suffix, (tau_init, tau_range) in bounds.items():
        keys = {f'tau{suffix}': 'tau', f'tau_min{suffix}': 'tau_min', **shared}
        own = [{keys[k]: v for k, v in line.items() if k in keys} for line in lines]
        if any('tau' in line for line in own):
            findings[suffix] = diagnose(own, tau_init, tau_range, ended)
    return findings


def diagnose_run(run: PathLike) -> dict[str, list[Finding]]:
    """Judge every learnable temperature of a run from its log and config.

    Of a temperature for each sample the mean is judged.

    Args:
        run: A work directory or ``scalars.json``, with MMEngine's ``config.py``.

    Returns:
        The findings of :func:`diagnose` by the suffix of the temperature's key in the
        log: empty, or with several temperatures in the model ``.0`` and so on. They
        are taken to be numbered in the order in which ``model`` of the config has them.

    Raises:
        FileNotFoundError: If there is no JSON log or no config.
        ValueError: If the log has no tau of a learned temperature.
    """
    lines, cfg = read_scalars(run), read_config(run)
    train_cfg = cfg.get('train_cfg') or {}
    by_epoch = 'max_iters' not in train_cfg
    unit, end = ('epoch', 'max_epochs') if by_epoch else ('step', 'max_iters')
    ended = any(line.get(unit, 0) >= (train_cfg.get(end) or 0) for line in lines)
    findings = diagnose_each(lines, _bounds(cfg.get('model')), by_epoch, ended)
    if not findings:
        raise ValueError(
            f'the log of {run} has no learned tau: it takes CurriculumHook and CTKDLoss'
        )
    return findings


def _bounds(model: Any) -> dict[str, tuple[float, float]]:
    """``tau_init`` and ``tau_range`` of each learned temperature, by its suffix."""
    named = [part for key, part in walk(model) if key.split('.')[-1] == 'temperature']
    bounds = {}
    for i, part in enumerate(part for part in named if isinstance(part, dict)):
        if bare(part.get('type')) in LEARNED or 'tau_range' in part:
            own = {**DEFAULTS, **part}
            bounds[f'.{i}'] = own['tau_init'], own['tau_range']
    if '.0' in bounds:
        bounds[''] = bounds['.0']  # a single one has no number in the log
    return bounds
