"""Gives every Python that starts with this folder on its path the emulated device."""

from __future__ import annotations

import atexit
import os

from emulated_cuda import device

device.load()

from emulated_cuda import mmcv_ops  # noqa: E402

mmcv_ops.install()
# Leave before PyTorch's thread for the device meets a Python that has ended.
atexit.register(os._exit, 0)
