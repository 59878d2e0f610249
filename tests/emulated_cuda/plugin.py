"""Pytest with the emulated device; the reports go to a file for conftest.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

# Before anything imports PyTorch and mmcv.
from emulated_cuda import device

REPORTS = Path(os.environ['CTKD_MM_EMULATED_CUDA_REPORTS'])
_config: list[pytest.Config] = []


def _write(line: object) -> None:
    with REPORTS.open('a') as file:
        file.write(json.dumps(line) + '\n')


try:
    device.load()
except RuntimeError as error:
    _write(str(error))
    os._exit(0)

from emulated_cuda import mmcv_ops  # noqa: E402

mmcv_ops.install()


def pytest_configure(config: pytest.Config) -> None:
    """Keep what turns reports into JSON."""
    _config.append(config)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write a report of a test's set-up, call or tear-down."""
    (config,) = _config
    _write(config.hook.pytest_report_to_serializable(config=config, report=report))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Leave before PyTorch's thread for the device meets a Python that has ended."""
    sys.stdout.flush()
    os._exit(0)
