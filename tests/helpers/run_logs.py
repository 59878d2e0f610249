"""Logs as MMEngine writes them, for the tests of what reads them."""

from __future__ import annotations

import json


def write_log(work_dir, start, lines):
    log = work_dir / start / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return log


def train_line(step, **scalars):
    return dict(step=step, lr=0.02, loss=1.0, **scalars)
