"""Random draws as a function of progress, so that a resumed run repeats them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .registry import HOOKS


@HOOKS.register_module()
class ReseedHook(Hook):
    """Seeds Python, NumPy and PyTorch before each training iteration.

    The seed is drawn from (the run's seed, rank, iteration) alone. MMEngine stores no
    generator state in a checkpoint; with this hook none is needed: which RoIs the
    samplers pick in iteration i no longer depends on what ran before it. Worker
    processes, which augment images, are not reached.

    Source: extends :class:`mmengine.hooks.Hook`.
    """

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Seed for iteration ``runner.iter``."""
        sequence = np.random.SeedSequence([runner.seed, get_rank(), runner.iter])
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
