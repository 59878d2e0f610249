"""Runs each module of these tests in a pytest of its own that has the device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from emulated_cuda import device

TESTS = Path(__file__).parents[1]
# In CI a PyTorch that the device does not work with is a failure, elsewhere a skip.
REQUIRED = 'CTKD_MM_REQUIRE_EMULATED_CUDA'
_ran: dict[Path, list] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Show the reports of the other process in the place of running a test here."""
    if device.loaded() or not item.get_closest_marker('emulated_cuda'):
        return None
    if item.path not in _ran:
        _ran[item.path] = run_elsewhere(
            [x for x in item.session.items if x.path == item.path]
        )
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports_of(item, _ran[item.path]):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def run_elsewhere(items: list[pytest.Item]) -> list:
    """Run tests in one process that has the device.

    Returns:
        Their reports as dicts; a last entry is text if that process ended otherwise.
    """
    with TemporaryDirectory() as folder:
        reports = Path(folder, 'reports')
        paths = [str(TESTS), str(TESTS.parent), os.environ.get('PYTHONPATH', '')]
        env = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')}
        env['PYTHONPATH'] = os.pathsep.join(paths)
        env['CTKD_MM_EMULATED_CUDA_REPORTS'] = str(reports)
        line = ['-W', 'ignore', '-m', 'pytest', '-p', 'emulated_cuda.plugin']
        done = subprocess.run(
            [
                sys.executable,
                *line,
                '-p',
                'no:cacheprovider',
                *[x.nodeid for x in items],
            ],
            cwd=items[0].config.rootpath,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = reports.read_text().splitlines() if reports.exists() else []
        return [*map(json.loads, lines), f'{done.returncode}: {done.stdout[-4000:]}']


def reports_of(item: pytest.Item, ran: list) -> list[pytest.TestReport]:
    """The reports of one test: its own, or why it has none."""
    config = item.config
    own = [x for x in ran if isinstance(x, dict) and x['nodeid'] == item.nodeid]
    if own:
        return [
            config.hook.pytest_report_from_serializable(config=config, data=data)
            for data in own
        ]
    outcome, why = 'failed', f'no report of this test: {ran[-1]}'
    if isinstance(ran[0], str) and len(ran) > 1:  # the plugin could not load it
        why: Any = f'no emulated device: {ran[0]}'
        if not os.environ.get(REQUIRED):
            outcome, why = 'skipped', (str(item.path), 0, why)
    return [pytest.TestReport(item.nodeid, item.location, {}, outcome, why, 'call')]
