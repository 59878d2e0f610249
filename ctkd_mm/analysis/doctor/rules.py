"""What can be wrong with a temperature, each with its threshold and its cure."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Shares are of tau_range; "full epochs" are lambda, summed over the epochs.
FROZEN_SHARE = 0.01
FROZEN_FULL_EPOCHS = 2.0
FROZEN_ITERATIONS = 200  # an epoch of a small set is a few steps
SATURATED_SHARE = 0.02
SATURATED_FULL_EPOCHS = 1.0
SPAN_SHARE = 0.2
SWING_OF_SPAN = 0.6
SWINGS = 8
AGAINST_SHARE = 0.75
AGAINST_Z = 3.0
RAMP_EPOCHS = 3.0
RAMPED_LAMBDA = 0.5
# Where the log of an iteration-based training has no epochs.
ITERATIONS_PER_EPOCH = 5000

RATE = "the temperature's lr_mult in optim_wrapper.paramwise_cfg.custom_keys"
ADVICE = {
    'non-finite': (
        f'Lower optim_wrapper.optimizer.lr or {RATE}; with AMP, take '
        "optim_wrapper.dtype='bfloat16' or no AMP; default_hooks.finite = "
        "dict(type='ctkd_mm.FiniteHook') stops before the weights are harmed"
    ),
    'floor': (
        f'If it fell there within a few epochs, lower {RATE}, or lambda_max of '
        'CurriculumHook. If it falls again, the best tau is lower: lower '
        'temperature.tau_init, or take a constant temperature'
    ),
    'ceiling': (
        'Raise temperature.tau_range: the best tau grows with the scale of the logits. '
        f'If it rose there within a few epochs, lower {RATE}, or start lower with '
        'temperature.tau_start'
    ),
    'frozen': (
        f'Raise {RATE} tenfold, with decay_mult=0, and check that the key there is '
        "part of the parameter's name; check that the distillation loss is logged and "
        "is not 0; with float16 AMP, try optim_wrapper.dtype='bfloat16'"
    ),
    'oscillating': f'Divide {RATE} by ten, or lower lambda_max of CurriculumHook',
    'descending': (
        'The reversal is missing or has the wrong sign: a temperature of your own must '
        'pass its raw value through self.to_tau(), and nothing but CurriculumHook may '
        'set lambda, which must be >= 0. If the reversal is right, weight decay pulls: '
        f'decay_mult=0 beside {RATE}'
    ),
    'no lambda': "Add dict(type='ctkd_mm.CurriculumHook', end=5) to custom_hooks",
    'no ramp': (
        'Set end of CurriculumHook in custom_hooks to a part of the training, in '
        'epochs or, with by_epoch=False, in iterations (the paper: 5 of 120 epochs), '
        'with lambda_min=0, lambda_max=1. If end=1 was meant, ignore this'
    ),
}


@dataclass(frozen=True)
class Finding:
    """One verdict on a temperature.

    Args:
        verdict: ``healthy``, ``frozen``, ``floor``, ``ceiling``, ``oscillating``,
            ``non-finite``, ``descending`` or ``no ramp``.
        seen: What was seen, with figures and the epoch.
        advice: Which key of the config to change, and how; empty if healthy.
    """

    verdict: str
    seen: str
    advice: str


class Track:
    """A trajectory of finite tau.

    Args:
        lines: Logged lines, at least one, as ``diagnose`` takes them.
        tau_init: Floor of tau.
        tau_range: Width of the range of tau.

    Attributes:
        is_mean: Whether tau is the mean over samples.
        x: ``(tau - tau_init) / tau_range`` of each line, in (0, 1).
        time: Epochs since the start of the training, in fractions.
        lambda_: Lambda; 1 where it is not logged.
    """

    def __init__(self, lines: list[dict], tau_init: float, tau_range: float) -> None:
        self.lines, self.bounds = lines, (tau_init, tau_init + tau_range)
        # Which moves with the samples too, whatever the temperature learns.
        self.is_mean = any('tau_min' in line for line in lines)
        self.name = 'mean tau' if self.is_mean else 'tau'
        self.x = [(line['tau'] - tau_init) / tau_range for line in lines]
        # Largest at the end of an epoch, where it is exact.
        per_epoch = max(
            line['step'] / line['epoch'] if 'epoch' in line else ITERATIONS_PER_EPOCH
            for line in lines
        )
        self.time = [line['step'] / per_epoch for line in lines]
        self.lambda_ = [line.get('lambda', 1.0) for line in lines]

    def full_epochs(self, begin: int = 0) -> float:
        """Lambda, summed over the epochs since a line."""
        times = self.time[begin:]
        spans = [end - start for start, end in zip(times, times[1:])]
        return sum(abs(v) * s for v, s in zip(self.lambda_[begin + 1 :], spans))

    def is_young(self) -> bool:
        """Whether it is too early to call it frozen."""
        few = self.lines[-1]['step'] < FROZEN_ITERATIONS
        return few or self.full_epochs() < FROZEN_FULL_EPOCHS

    def way(self) -> str:
        """Describe it in a sentence."""
        low, high = self.bounds
        taus = [line['tau'] for line in self.lines]
        return (
            f'{self.name} went from {taus[0]:.4g} to {taus[-1]:.4g}, between '
            f'{min(taus):.4g} and {max(taus):.4g} of its range {low:g} to {high:g}, '
            f'until {when(self.lines[-1])}'
        )


def when(line: dict) -> str:
    """Name the epoch of a line, or its iteration."""
    return f'epoch {line["epoch"]}' if 'epoch' in line else f'iteration {line["step"]}'


def healthy(track: Track) -> Finding:
    """Nothing was found."""
    seen = track.way()
    if max(track.x) - min(track.x) < FROZEN_SHARE and track.is_young():
        seen += (
            '; too early to tell whether it is frozen (lambda adds up to '
            f'{track.full_epochs():.2g} epochs of {FROZEN_FULL_EPOCHS:g}, in '
            f'{track.lines[-1]["step"]} iterations of {FROZEN_ITERATIONS})'
        )
    return Finding('healthy', seen, '')


def non_finite(line: dict) -> Finding:
    """A tau that is no number."""
    seen = f'tau is {line["tau"]} in {when(line)}, iteration {line["step"]}'
    return Finding('non-finite', seen, ADVICE['non-finite'])


def saturated(track: Track) -> Finding | None:
    """Look for a temperature that stays at an end of its range."""
    depths = dict(floor=track.x, ceiling=[1 - x for x in track.x])
    for bound, (verdict, depth) in zip(track.bounds, depths.items()):
        inside = [i for i, d in enumerate(depth) if d >= SATURATED_SHARE]
        since = inside[-1] + 1 if inside else 0
        if since < len(depth) and track.full_epochs(since) >= SATURATED_FULL_EPOCHS:
            seen = (
                f'{track.name} is at its {verdict}, {bound:g}, since '
                f'{when(track.lines[since])}: {track.way()}'
            )
            return Finding(verdict, seen, ADVICE[verdict])
    return None


def frozen(track: Track) -> Finding | None:
    """Look for a temperature that does not move, elsewhere than at an end."""
    span = max(track.x) - min(track.x)
    at_an_end = not SATURATED_SHARE <= track.x[-1] <= 1 - SATURATED_SHARE
    if span >= FROZEN_SHARE or at_an_end or track.is_young():
        return None
    seen = (
        f'{track.way()}: {span:.2%} of the range, while lambda added up to '
        f'{track.full_epochs():.3g} epochs'
    )
    return Finding('frozen', seen, ADVICE['frozen'])


def oscillating(track: Track) -> Finding | None:
    """Look for wide swings to and fro in the second half."""
    half = len(track.x) // 2
    x = track.x[half:]
    span = max(x) - min(x)
    turns = _turns(x, SWING_OF_SPAN * span)
    if span < SPAN_SHARE or turns < SWINGS:
        return None
    taus = [line['tau'] for line in track.lines[half:]]
    seen = (
        f'{track.name} swung {turns} times between {min(taus):.4g} and '
        f'{max(taus):.4g}, {span:.0%} of its range, from {when(track.lines[half])} to '
        f'{when(track.lines[-1])}'
    )
    return Finding('oscillating', seen, ADVICE['oscillating'])


def _turns(x: list[float], size: float) -> int:
    """How often x moves by ``size`` from its last extreme, the other way each time."""
    low = high = x[0]
    count = direction = 0
    for value in x:
        low, high = min(low, value), max(high, value)
        moved = {-1: high - value, 1: value - low}
        for way, distance in moved.items():
            if direction != way and distance >= size > 0:
                count, direction, low, high = count + 1, way, value, value
                break
    return count


def descending(track: Track) -> Finding | None:
    """Look for a temperature that goes where the loss is lower."""
    if track.is_mean:
        return None
    climbs = []  # tau's changes, positive where the loss grows with them
    for i, (line, following) in enumerate(zip(track.lines, track.lines[1:])):
        sign, next_sign = _sign(line), _sign(following)
        learns = track.lambda_[i] and track.lambda_[i + 1]
        if learns and sign == next_sign != 0:
            climbs.append((following['tau'] - line['tau']) * sign)
    way = sum(map(abs, climbs))
    if not way:
        return None
    against = -sum(climb for climb in climbs if climb < 0) / way
    z = sum(climbs) / math.sqrt(sum(climb**2 for climb in climbs))
    if against < AGAINST_SHARE or z > -AGAINST_Z:
        return None
    seen = (
        f'{against:.0%} of the way of {track.name}, in {len(climbs)} intervals between '
        f'logged lines, lowered the loss (z = {z:.1f}): {track.way()}'
    )
    return Finding('descending', seen, ADVICE['descending'])


def _sign(line: dict) -> float:
    slope = line.get('tau_slope', 0.0)
    return math.copysign(1.0, slope) if slope and math.isfinite(slope) else 0.0


def no_ramp(track: Track, ended: bool) -> Finding | None:
    """Look for a lambda that did not grow in its time."""
    if track.time[-1] < RAMP_EPOCHS or track.time[0] > 1:  # without its beginning
        return None
    last, until = track.lambda_[-1], when(track.lines[-1])
    before = [v for v, t in zip(track.lambda_, track.time) if t <= track.time[-1] - 1]
    if not any('lambda' in line for line in track.lines):
        return Finding('no ramp', 'the log has no lambda', ADVICE['no lambda'])
    # While it is 0, its ramp may be still to come.
    if len(set(track.lambda_)) == 1 and (ended or last):
        seen = f'lambda is {last:g} from the start to {until}'
    elif ended and before and before[-1] < last < RAMPED_LAMBDA:
        seen = f'lambda is only {last:.3g} at the end, {until}'
    else:
        return None
    return Finding('no ramp', seen, ADVICE['no ramp'])
