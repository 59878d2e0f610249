"""When the device had nothing to do in a trace of torch.profiler."""

from __future__ import annotations

import json
from bisect import bisect_right
from pathlib import Path

DEVICE = {'kernel', 'gpu_memcpy', 'gpu_memset'}
HOST = {'cpu_op', 'cuda_runtime', 'user_annotation'}
BOUNDS = (0.02, 0.1, 1.0)  # ms; launching a kernel takes 0.005 to 0.01
LONGEST = 12


def gaps_of(path: Path) -> dict[str, list[dict[str, str]]]:
    """Read a Chrome trace and make tables of the device's idle time.

    Args:
        path: The .json file.

    Returns:
        ``Device``: busy and idle, milliseconds from its first work to its last.
        ``Idle``: the gaps by length. ``Longest gaps``: with what the host did the
        longest part of each.
    """
    events = json.loads(path.read_text())['traceEvents']
    events = [x for x in events if x.get('ph') == 'X']
    work = [span(x) for x in events if x.get('cat') in DEVICE]
    if not work:
        return {'Device': [{'trace': str(path), 'found': 'no work of a device'}]}
    host = [(*span(x), x['name']) for x in events if x.get('cat') in HOST]
    gaps = idle(work)
    first, last = min(work)[0], max(end for _, end in work)
    total = sum(end - begin for begin, end in gaps)
    device = {
        'kernels and copies': str(len(work)),
        'span, ms': f'{last - first:.2f}',
        'busy, ms': f'{last - first - total:.2f}',
        'idle': f'{total / (last - first):.1%}',
    }
    longest = sorted(gaps, key=lambda gap: gap[0] - gap[1])[:LONGEST]
    rows = [
        {
            'at, ms': f'{begin - first:.2f}',
            'ms': f'{end - begin:.3f}',
            'the host meanwhile': doing(host, begin, end),
        }
        for begin, end in longest
    ]
    found = {'Device': [device], 'Idle': by_length(gaps)}
    return {**found, 'Longest gaps': rows} if rows else found


def span(event: dict) -> tuple[float, float]:
    """Begin and end of an event, milliseconds."""
    begin = float(event['ts']) / 1000
    return begin, begin + float(event.get('dur', 0)) / 1000


def idle(work: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The times between pieces of work, on whatever stream; they may overlap."""
    gaps, busy_until = [], None
    for begin, end in sorted(work):
        if busy_until is not None and begin > busy_until:
            gaps.append((busy_until, begin))
        busy_until = end if busy_until is None else max(busy_until, end)
    return gaps


def by_length(gaps: list[tuple[float, float]]) -> list[dict[str, str]]:
    """Count the gaps between ``BOUNDS``, and add them up."""
    names = [f'up to {bound:g} ms' for bound in BOUNDS] + ['longer']
    lengths: dict[str, list[float]] = {name: [] for name in names}
    for begin, end in gaps:
        lengths[names[bisect_right(BOUNDS, end - begin)]].append(end - begin)
    return [
        {'gaps': name, 'number': str(len(found)), 'ms': f'{sum(found):.2f}'}
        for name, found in lengths.items()
    ]


def doing(host: list[tuple[float, float, str]], begin: float, end: float) -> str:
    """Name the host's operation that fills most of a gap; of nested ones the inner."""
    overlaps = [
        (min(stop, end) - max(start, begin), start - stop, name)
        for start, stop, name in host
        if start < end and stop > begin
    ]
    if not overlaps:
        return 'Python'
    most, _, name = max(overlaps)
    return f'{name}, {most / (end - begin):.0%} of it'
