"""A CUDA device without a GPU, and the tests that run on it.

``device`` builds ``device.cpp`` and loads it before PyTorch; ``mmcv_ops`` stands for
mmcv's CUDA operators; ``waits`` counts where the host waits for the device;
``own_process`` runs each module of these tests in a process of its own, because the
device cannot be taken away again. docs/reliability.md says what it shows and what not.
"""
