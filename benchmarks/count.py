"""What one training step does, counted: the same on every machine.

    python benchmarks/count.py [--short] [--pair r101-to-r50] [--size 320x480]
        [--batch 1]

Operators dispatched, floating-point operations, bytes of the tensors that operators
return, and reads by the host: values, or sizes that depend on values, for each of which
a GPU's host waits. Forward, backward and optimizer. Sides as in ``step.py``; ``sum`` is
the student's step, the teacher's features and its RoI head. Half a minute on 2 cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from sides import Shared, make, parts, stepper
from timing import goal, parser, report
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

SIDES = ('student', 'kd', 'ctkd', 'ctkd-instance', 'mmrazor')
READS = {
    '_local_scalar_dense',
    *('nonzero', 'masked_select', 'equal', '_unique2', 'unique_dim'),
}
MASKABLE = {'index', 'index_put', 'index_put_', '_index_put_impl_'}
# Operators more than kd, and the share of them more than the sum.
LOSS_GOAL, SUM_GOAL = 25, 1.02


class Counter(TorchDispatchMode):
    """Counts what runs meanwhile.

    Attributes:
        operators: How many were dispatched.
        bytes: Of the tensors that they returned, views counted as 0.
        reads: How many values, or sizes that depend on values, the host read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.bytes = self.reads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = {_memory(x) for x in tree_leaves((args, kwargs or {}))}
        new = {_memory(x): x for x in tree_leaves(result)}
        self.operators += 1
        self.bytes += sum(x.nbytes for k, x in new.items() if k and k not in given)
        masks = args[1] if name in MASKABLE else ()
        masked = any(x is not None and x.dtype == torch.bool for x in masks)
        self.reads += name in READS or masked
        return result


def _memory(value: Any) -> int:
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else 0


def count(step: Callable[[], Any]) -> dict[str, int]:
    """Run a step once before, for what is built on first use, and count another."""
    step()
    with FlopCounterMode(display=False) as flops, Counter() as counter:
        step()
    return dict(
        operators=counter.operators,
        flops=flops.get_total_flops(),
        bytes=counter.bytes,
        reads=counter.reads,
    )


def count_sides(args: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Count a step of every side."""
    shared, counts = Shared(args), {}
    for side in SIDES:
        model = make(side, shared)
        counts[side] = count(stepper(model, shared))
        if side == 'kd':
            counts.update({k: count(run) for k, run in parts(model, args).items()})
    summed = [counts['student'], counts['features'], counts['roi head']]
    counts['sum'] = {key: sum(c[key] for c in summed) for key in counts['kd']}
    return counts


def tables(counts: dict[str, dict[str, int]]) -> dict[str, list[dict[str, str]]]:
    """Make the table of the sides and that of the goals."""
    base = counts['sum']['operators']
    rows = [
        {
            'side': side,
            'operators': f'{found["operators"]:,}',
            'over the sum': f'{found["operators"] / base:.3f}',
            'GFLOP': f'{found["flops"] / 1e9:.1f}',
            'MiB': f'{found["bytes"] / 2**20:,.0f}',
            'reads by the host': str(found['reads']),
        }
        for side, found in counts.items()
    ]
    operators = {side: found['operators'] for side, found in counts.items()}
    more = operators['ctkd'] - operators['kd']
    return {
        'One training step': rows,
        'Goals': [
            goal('operators of ctkd more than of kd', more, LOSS_GOAL),
            goal('operators of kd over the sum', operators['kd'] / base, SUM_GOAL),
            goal('operators of ctkd over the sum', operators['ctkd'] / base, SUM_GOAL),
        ],
    }


def main() -> None:
    """Count, print the tables, write ``count.json``."""
    arguments = parser(__doc__)
    arguments.add_argument('--pair', default='r101-to-r50')
    arguments.add_argument('--size', default='320x480')
    arguments.add_argument('--batch', type=int, default=1)
    args = arguments.parse_args()
    args.size = tuple(map(int, ('128x192' if args.short else args.size).split('x')))
    args.device, args.dtype = 'cpu', None
    counts = count_sides(args)
    report('count', tables(counts), dict(counts=counts), args.out)


if __name__ == '__main__':
    main()
