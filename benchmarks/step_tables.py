"""The tables of a step's sides, and the goals."""

from __future__ import annotations

import numpy as np
from timing import goal, median, ratio

LIMIT = ('student', 'features', 'roi head')
GOALS = (
    ('ctkd', 'kd', 1.01),
    ('ctkd-instance', 'kd', 1.01),
    ('ctkd', 'limit', 1.03),
    ('ctkd', 'mmrazor', 0.98),
    ('ctkd', 'mdistiller', 0.98),
    ('ctkd bf16', 'mmrazor', 0.85),
    ('ctkd bf16', 'mdistiller', 0.85),
)


def tables(seconds: dict, mib: dict, images: int) -> dict[str, list[dict[str, str]]]:
    """Format the sides and the goals."""
    middle = median(seconds)
    limit = [sum(x) for x in zip(*(seconds[part] for part in LIMIT))]
    seconds, middle = {**seconds, 'limit': limit}, {**middle, 'limit': np.median(limit)}
    sides = [
        {
            'side': side,
            'seconds': f'{value:.3f}',
            'images/s': '' if side in LIMIT[1:] else f'{images / value:.2f}',
            'over limit': f'{ratio(seconds, side, "limit"):.3f}',
            'peak MiB': f'{mib[side]["peak"]:.0f}' if side in mib else '',
        }
        for side, value in middle.items()
    ]
    ours = mib['ctkd']
    needed = mib['student']['peak'] + ours['teacher'] + ours['level']
    goals = [
        goal(f'{side} over {over}', ratio(seconds, side, over), at_most)
        for side, over, at_most in GOALS
    ]
    goals.append(
        goal('peak memory over student and teacher', ours['peak'] / needed, 1.05)
    )
    return {'One training step': sides, 'Goals': goals}
