"""The distillation loss, forward and backward, and how it grows.

    python benchmarks/loss.py [--short] [--out work_dirs/benchmarks]

- ``loop``: a temperature for each row and one row after the other in Python, as the
  CTKD authors' instance-wise loss does it; up to 2048 rows.
- ``mmrazor``: MMRazor's ``KLDivergence``, one constant temperature.
- ``global``: ``CTKDLoss`` with one learnable temperature.
- ``instance``: ``CTKDLoss`` with a temperature for each row.

Growth is the slope of each size's fastest round in a double logarithm; 1 is linear. At
the usual sizes a fixed cost flattens it, least between the two largest; at the large
ones the step out of the caches steepens it. The goals are about both. No tensor has
32 MiB: from there on glibc asks the kernel for fresh memory in every call, which costs
three times as much, once more in proportion to the size. Half a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from mmengine.registry import MODELS
from timing import goal, interleaved, median, parser, report
from torch import Tensor, nn
from torch.nn.functional import kl_div

from ctkd_mm import CTKDLoss, GlobalTemperature, InstanceTemperature

# What grows: usual and large sizes, (rows, columns). Columns of VOC, COCO, Objects365
# and LVIS.
SIZES = dict(
    rows=(
        [(n, 81) for n in (128, 512, 2048, 8192)],
        [(n, 81) for n in (16384, 32768, 49152)],
    ),
    columns=(
        [(512, c) for c in (21, 81, 366, 1204)],
        [(512, c) for c in (2400, 4800, 8000)],
    ),
)
LOOP_ROWS = 2048  # beyond, the loop would take most of the time
SIDES = ('loop', 'mmrazor', 'global', 'instance')


class Loop(nn.Module):
    """``CTKDLoss`` computed one row after the other."""

    def __init__(self, temperature: nn.Module) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, (1,), for logits of (N, C)."""
        total = 0
        for z_S, z_T, tau in zip(preds_S, preds_T, self.temperature(preds_S, preds_T)):
            log_S, p_T = (z_S / tau).log_softmax(0), (z_T / tau).softmax(0)
            total = total + tau.square() * kl_div(log_S, p_T, reduction='sum')
        return total / len(preds_S)


def losses(columns: int) -> tuple[nn.Module, ...]:
    """Build every side for so many columns."""
    return (
        Loop(InstanceTemperature(columns - 1)),
        MODELS.build(dict(type='mmrazor.KLDivergence', tau=2)),
        CTKDLoss(GlobalTemperature()),
        CTKDLoss(InstanceTemperature(columns - 1)),
    )


def step(loss: nn.Module, preds_S: Tensor, preds_T: Tensor) -> None:
    """Run forward and backward."""
    preds_S.grad = None
    loss(preds_S, preds_T).backward()


def steps() -> dict[tuple, Callable[[], None]]:
    """Make the steps of all sides at all sizes, by side, rows and columns."""
    found = {}
    for usual, large in SIZES.values():
        for rows, columns in (*usual, *large):
            preds_S, preds_T = 3 * torch.randn(2, rows, columns)
            for side, loss in zip(SIDES, losses(columns)):
                if side != 'loop' or ((rows, columns) in usual and rows <= LOOP_ROWS):
                    run = partial(step, loss, preds_S.requires_grad_(), preds_T)
                    found[side, rows, columns] = run
    return found


def growth(sizes: list[tuple[int, int]], seconds: list[float]) -> float:
    """Slope of log seconds over log size, by least squares."""
    return float(np.polyfit(np.log(np.prod(sizes, axis=1)), np.log(seconds), 1)[0])


def time_rows(times: dict[tuple, float]) -> list[dict[str, str]]:
    """One row a size: milliseconds of every side."""
    table = []
    for rows, columns in dict.fromkeys(key[1:] for key in times):
        ms = {s: 1e3 * times.get((s, rows, columns), np.nan) for s in SIDES}
        row = {
            **{f'{side}, ms': f'{ms[side]:.2f}' for side in SIDES},
            'loop / instance': f'{ms["loop"] / ms["instance"]:.0f}',
            'instance, ns a logit': f'{1e6 * ms["instance"] / rows / columns:.0f}',
        }
        shown = {key: value.replace('nan', '-') for key, value in row.items()}
        table.append({'rows x columns': f'{rows} x {columns}', **shown})
    return table


def main() -> None:
    """Time all sides at all sizes in turn, print the tables, write ``loss.json``."""
    args = parser(__doc__).parse_args()
    seconds = interleaved(steps(), repeats=5 if args.short else 15)
    least = {key: min(runs) for key, runs in seconds.items()}
    growths, goals = [], []
    for side in SIDES[1:]:
        slopes = {
            f'{kind} {what}': growth(sizes, [least[(side, *size)] for size in sizes])
            for what, both in SIZES.items()
            for kind, sizes in zip(('usual', 'large'), both)
        }
        growths.append(
            {'exponents': side, **{k: f'{v:.2f}' for k, v in slopes.items()}}
        )
        if side != 'mmrazor':
            for what, (usual, large) in SIZES.items():
                for sizes in (usual[-2:], large):
                    times = [least[(side, *size)] for size in sizes]
                    name = f'{side}: exponent in {what}, {sizes[0]} to {sizes[-1]}'
                    goals.append(goal(name, growth(sizes, times), 1.1))
    tables = {
        'Forward and backward': time_rows(median(seconds)),
        'Growth': growths,
        'Goals: linear in N and C': goals,
    }
    results = dict(seconds=[[*key, *runs] for key, runs in seconds.items()])
    report('loss', tables, results, args.out)


if __name__ == '__main__':
    main()
