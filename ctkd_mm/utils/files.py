"""Writes files completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

# What saves whole files through MMEngine: save_checkpoint(..., backend_args=ATOMIC).
ATOMIC = dict(backend='ctkd_mm.atomic')


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that its name never stands for half of it.

    The bytes go to a hidden neighbour, to the disk, and then take the name.

    Args:
        path: The file; its folder is made where it is missing.
        data: The whole content.

    Raises:
        OSError: If the disk is full or the folder cannot be written; what was at
            ``path`` is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f'.{path.name}.tmp')
    try:
        with new.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


@register_backend('ctkd_mm.atomic')
class AtomicBackend(LocalBackend):
    """MMEngine's local file backend, its binary writes by :func:`write_atomically`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj``, all or nothing."""
        write_atomically(filepath, obj)
