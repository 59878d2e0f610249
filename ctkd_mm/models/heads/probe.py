"""One image through a detector, to compare what it computes with its config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.model import BaseModel
from torch import Tensor

PROBE_SIZE = 384  # pixels: three places of the largest stride in use, 128


@contextmanager
def probe(model: BaseModel, size: int = PROBE_SIZE) -> Iterator[Sequence[Tensor]]:
    """Run a detector on a made-up image, in eval mode and without gradient.

    Args:
        model: The detector; its mode is restored afterwards.
        size: Height and width of the image in pixels.

    Yields:
        Its features, what ``extract_feat`` returns for (1, 3, size, size).
    """
    training, device = model.training, next(model.parameters()).device
    # Not zeros: an untrained head without biases would give zeros, as sigmoids might.
    image = torch.linspace(-2, 2, 3 * size**2, device=device).view(1, 3, size, size)
    model.eval()  # a probe must not move BatchNorm's statistics
    try:
        with torch.no_grad():
            yield model.extract_feat(image)
    finally:
        model.train(training)


def check_strides(
    key: str, strides: Sequence[int], levels: Sequence[Tensor], size: int = PROBE_SIZE
) -> None:
    """Check that maps of the probe are as wide as the config's strides say.

    Args:
        key: The key of the strides in the config.
        strides: Pixels from one place of a level to the next.
        levels: Maps of the probe's image, (1, channels, H, W).
        size: Width of that image in pixels.

    Raises:
        ValueError: If a level has another stride, or there are more or fewer.
    """
    widths = [level.shape[-1] for level in levels]
    # Not equal: SSD's strides of 100 and 300 are rounded ones.
    if len(widths) != len(strides) or any(
        abs(size / stride - width) >= 1 for stride, width in zip(strides, widths)
    ):
        found = [round(size / width) for width in widths]
        raise ValueError(
            f'{key}={strides}, but the levels are {widths} wide for an image of {size} '
            f'pixels, so they have the strides {found}: set it to those'
        )
