"""A CUDA device without a GPU, and the tests that run on it.

``device`` builds ``cpp/device.cpp`` and loads it before PyTorch; ``mmcv_ops`` stands
for mmcv's CUDA operators; ``waits`` counts where the host waits for the device.
``conftest`` runs each module of these tests in a process of its own, with ``plugin``,
because the device cannot be taken away again. What it shows, and what it does not, is
in docs/reliability.md.
"""
