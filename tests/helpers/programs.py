"""Programs that must succeed, run by the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def call(root: Path, env: dict, *line: Any) -> str:
    """Run a program in the checkout and return what it printed."""
    done = subprocess.run(
        [str(word) for word in line],
        cwd=root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout
