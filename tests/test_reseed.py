from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import torch

from ctkd_mm.reseed import ReseedHook


def draws(seed: int, iteration: int) -> tuple:
    ReseedHook().before_train_iter(SimpleNamespace(seed=seed, iter=iteration), 0)
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_draws_depend_on_seed_and_iteration_alone():
    first = draws(0, 7)
    torch.rand(10)
    assert draws(0, 7) == first
    assert draws(0, 8) != first
    assert draws(1, 7) != first
