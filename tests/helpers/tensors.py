"""Tensors of a device that is not there."""

from __future__ import annotations

import torch


class OnDevice(torch.Tensor):
    """A tensor that says of itself that it is on a GPU, until it is moved."""

    @property
    def device(self) -> torch.device:
        return torch.device('cuda:0')

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)
