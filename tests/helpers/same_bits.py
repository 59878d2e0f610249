"""Equality to the bit, shared by the tests."""

from __future__ import annotations

from typing import Any

import torch


def assert_same_bits(a: Any, b: Any, path: str = '') -> None:
    """Bitwise equality of nested containers of tensors and numbers."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same_bits(a[key], b[key], f'{path}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, pair in enumerate(zip(a, b)):
            assert_same_bits(*pair, f'{path}[{i}]')
    else:
        assert a == b, path
