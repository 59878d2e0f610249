"""What can be wrong with a temperature: the rules, their thresholds and the advice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Shares are of tau_range; "full epochs" are lambda, summed over the epochs.
FROZEN_SHARE = 0.01
FROZEN_FULL_EPOCHS = 2.0
FROZEN_ITERATIONS = 200  # an epoch of a small set is a few steps
SATURATED_SHARE = 0.02
SATURATED_FULL_EPOCHS = 1.0
CLIMB_SHARE = 0.1
RAMP_EPOCHS = 3.0
RAMPED_LAMBDA = 0.5
LOSSES = 'distill.loss_kd', 'student.loss_cls'
OVERWEIGHT_RATIO = 2.0
# Where the log of an iteration-based training has no epochs.
ITERATIONS_PER_EPOCH = 5000

RATE = "the temperature's lr_mult in optim_wrapper.paramwise_cfg.custom_keys"
ADVICE = {
    'non-finite': f'Lower optim_wrapper.optimizer.lr or {RATE}. With AMP, set '
    "optim_wrapper.dtype='bfloat16'. FiniteHook stops before the weights are harmed",
    'floor': f'If it fell there within a few epochs, lower {RATE}, or lambda_max of '
    'CurriculumHook. If it falls again, the best tau is lower: lower '
    'temperature.tau_init, or take a constant temperature',
    'ceiling': 'Raise temperature.tau_range: the best tau grows with the logits. If it '
    f'rose there within a few epochs, lower {RATE}, or temperature.tau_start',
    'frozen': f'Raise {RATE} tenfold, with decay_mult=0. Check that the key there is '
    "part of the parameter's name, and that the logged distillation loss is not 0. "
    "With float16 AMP, try optim_wrapper.dtype='bfloat16'",
    'climbing': 'Lower loss_weight of loss_kd and temperature.tau_range: ctkd_mm '
    'suggest proposes both. Compare the mAP with that of the student alone, and with a '
    'constant temperature',
    'overweight': 'Lower loss_weight of loss_kd: ctkd_mm suggest proposes one. '
    'Compare the mAP with that of the student alone',
    'no ramp': "custom_hooks needs dict(type='ctkd_mm.CurriculumHook', end=5). Its end "
    'is a part of the training: in epochs, or with by_epoch=False in iterations',
}


class Finding(NamedTuple):
    """One verdict on a temperature.

    Attributes:
        verdict: ``healthy``, ``non-finite``, ``floor``, ``ceiling``, ``frozen``,
            ``climbing``, ``overweight`` or ``no ramp``.
        seen: What was seen, with figures and the epoch.
    """

    verdict: str
    seen: str

    @property
    def advice(self) -> str:
        """Which key of the config to change, and how; empty if healthy."""
        return ADVICE.get(self.verdict, '')


class Track:
    """The values of one tau over a training, all of them finite.

    Args:
        lines: Logged lines, at least one, as ``diagnose`` takes them.
        tau_init: Floor of tau.
        tau_range: Width of the range of tau.
        ended: Whether the training has ended.

    Attributes:
        name: ``tau``, or ``mean tau`` where each sample has its own.
        x: ``(tau - tau_init) / tau_range`` of each line, in (0, 1).
        time: Epochs since the start of the training, in fractions.
        lambda_: Lambda; 1 where it is not logged.
    """

    def __init__(
        self, lines: list[dict], tau_init: float, tau_range: float, ended: bool = True
    ) -> None:
        self.lines, self.ended = lines, ended
        self.low, self.high = tau_init, tau_init + tau_range
        self.name = 'mean tau' if any('tau_min' in one for one in lines) else 'tau'
        self.tau = np.array([line['tau'] for line in lines])
        self.x = (self.tau - tau_init) / tau_range
        # Largest at the end of an epoch, where it is exact.
        sizes = [line['step'] / line['epoch'] for line in lines if 'epoch' in line]
        per_epoch = max(sizes, default=ITERATIONS_PER_EPOCH)
        self.time = np.array([line['step'] / per_epoch for line in lines])
        self.lambda_ = np.array([line.get('lambda', 1.0) for line in lines])

    def full_epochs(self, begin: int = 0) -> float:
        """Lambda, summed over the epochs since a line."""
        lambdas = np.abs(self.lambda_[begin + 1 :])
        return sum((lambdas * np.diff(self.time[begin:])).tolist())

    def is_young(self) -> bool:
        """Whether it is too early to call it frozen."""
        few = self.lines[-1]['step'] < FROZEN_ITERATIONS
        return few or self.full_epochs() < FROZEN_FULL_EPOCHS

    def is_early(self) -> bool:
        """Whether it is too early to judge the losses."""
        return self.time[-1] < RAMP_EPOCHS and not self.ended

    def thirds(self, key: str) -> tuple[float, float]:
        """Mean of a logged loss in the first and in the last third; 0 if not logged."""
        values = [line.get(key, 0.0) for line in self.lines]
        count = max(len(values) // 3, 1)
        return float(np.mean(values[:count])), float(np.mean(values[-count:]))

    def summary(self) -> str:
        """Describe in a sentence how tau moved."""
        return (
            f'{self.name} went from {self.tau[0]:.4g} to {self.tau[-1]:.4g}, between '
            f'{self.tau.min():.4g} and {self.tau.max():.4g} of its range {self.low:g} '
            f'to {self.high:g}, until {when(self.lines[-1])}'
        )


def when(line: dict) -> str:
    """Name the epoch of a line, or its iteration."""
    return f'epoch {line["epoch"]}' if 'epoch' in line else f'iteration {line["step"]}'


def healthy(track: Track) -> Finding:
    """Say that nothing was found."""
    seen = track.summary()
    if np.ptp(track.x) < FROZEN_SHARE and track.is_young():
        seen += '; too early to tell whether it is frozen'
    return Finding('healthy', seen)


def non_finite(line: dict) -> Finding:
    """Report a tau that is NaN or infinite."""
    seen = f'tau is {line["tau"]} in {when(line)}, iteration {line["step"]}'
    return Finding('non-finite', seen)


def saturated(track: Track) -> Finding | None:
    """Look for a temperature that stays at an end of its range."""
    ends = dict(floor=(track.low, track.x), ceiling=(track.high, 1 - track.x))
    for verdict, (bound, distance) in ends.items():
        since = np.flatnonzero(distance >= SATURATED_SHARE).max(initial=-1) + 1
        if track.full_epochs(since) >= SATURATED_FULL_EPOCHS:
            first = when(track.lines[since])
            seen = f'{track.name} is at its {verdict}, {bound:g}, since {first}'
            return Finding(verdict, f'{seen}: {track.summary()}')
    return None


def frozen(track: Track) -> Finding | None:
    """Look for a temperature that stays in one place, but not at an end."""
    span = np.ptp(track.x)
    if span >= FROZEN_SHARE or saturated(track) or track.is_young():
        return None
    seen = f'{span:.2%} of the range while lambda adds up to {track.full_epochs():.3g}'
    return Finding('frozen', f'{track.summary()}: {seen} epochs')


def no_ramp(track: Track) -> Finding | None:
    """Look for a lambda that is constant, or still small when the training ends."""
    if track.time[-1] < RAMP_EPOCHS or track.time[0] > 1:  # its beginning is missing
        return None
    first, last = track.lambda_[[0, -1]]
    an_epoch_before = track.lambda_[track.time <= track.time[-1] - 1][-1]
    # While it is 0, its ramp may still begin.
    constant = np.ptp(track.lambda_) == 0 and (track.ended or last)
    if not constant and not (track.ended and an_epoch_before < last < RAMPED_LAMBDA):
        return None
    logged = any('lambda' in line for line in track.lines)
    name = 'lambda' if logged else 'lambda, which is not logged and counts as 1,'
    seen = f'{name} went from {first:.3g} to {last:.3g} until {when(track.lines[-1])}'
    return Finding('no ramp', seen)


def overweight(track: Track) -> Finding | None:
    """Look for a distillation loss that dwarfs the student's own classification."""
    if track.is_early():
        return None
    kd, own = (track.thirds(key)[1] for key in LOSSES)
    if not kd >= OVERWEIGHT_RATIO * own > 0:
        return None
    seen = f'{kd:.3g}, {kd / own:.2g} times that of {LOSSES[1]}, {own:.3g}'
    return Finding('overweight', f'mean {LOSSES[0]} of the last third is {seen}')


def climbing(track: Track) -> Finding | None:
    """Look for a temperature that raises the loss faster than the student lowers it."""
    begin, end = track.thirds(LOSSES[0])
    climbed = track.x[-1] - track.x[0] >= CLIMB_SHARE
    if track.is_early() or not (climbed and 0 < begin <= end):
        return None
    seen = f'from {begin:.3g} in the first third to {end:.3g} in the last'
    return Finding('climbing', f'{track.summary()}; mean {LOSSES[0]} rose {seen}')


RULES = (saturated, frozen, overweight, climbing, no_ramp)
