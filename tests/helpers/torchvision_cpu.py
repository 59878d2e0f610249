"""torchvision's own operators beside a CPU build of PyTorch.

The usual wheel is linked with CUDA's libraries of PyTorch, which a CPU build has not.
Empty ones with their names, and with the symbols that its CUDA code would call, let its
CPU operators load.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import tempfile
from pathlib import Path

import torch


def load() -> None:
    """Import torchvision with its operators."""
    if torch.version.cuda is None:
        wheel = Path(importlib.util.find_spec('torchvision').origin).parent
        needed = _undefined(wheel / '_C.so')
        lines = [
            f'char symbol{i}[64] __asm__("{name}");'
            for i, name in enumerate(sorted(needed))
            if name.startswith(('_ZN2at4cuda', '_ZN3c104cuda', '_ZNK3c104cuda'))
        ]
        with tempfile.TemporaryDirectory() as folder:
            _preload(Path(folder, 'libc10_cuda.so'), '\n'.join(lines))
            _preload(Path(folder, 'libtorch_cuda.so'), '')
    import torchvision

    assert torchvision.extension._has_ops()


def _undefined(library: Path) -> set[str]:
    command = ['nm', '-D', '--undefined-only', library]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {line.split()[-1].split('@')[0] for line in shown.stdout.splitlines()}


def _preload(library: Path, source: str) -> None:
    """Compile a library and load it: what needs one of this name finds it."""
    subprocess.run(
        ['cc', '-shared', '-fPIC', f'-Wl,-soname,{library.name}', '-x', 'c', '-']
        + ['-o', library],
        input=source,
        text=True,
        check=True,
    )
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
