"""Random changes of training inputs that keep their labels: small shifts of images, noise on rows of a table."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["augmented"]

SHIFT = 1 / 14
"""Farthest shift, as a share of an image's width, at least one pixel."""
NOISE = 0.2
"""Standard deviation of what is added to a table's columns, which are standardised."""


def augmented(x: Tensor) -> Tensor:
    """Inputs changed at random, by torch's global generator; shape, type and memory layout are those of ``x``.

    Images (b, channels, height, width) are moved by up to one pixel in fourteen in both directions, their edges
    repeated; other inputs (b, ...) get Gaussian noise.
    """
    if x.ndim != 4:
        return x + NOISE * torch.randn_like(x)
    reach = max(1, round(SHIFT * x.shape[-1]))
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * reach + 1, (2, len(x), 1))
    rows = (down + torch.arange(x.shape[2]))[:, :, None]
    columns = (right + torch.arange(x.shape[3]))[:, None, :]
    moved = padded.permute(0, 2, 3, 1)[torch.arange(len(x))[:, None, None], rows, columns]
    return torch.empty_like(x).copy_(moved.permute(0, 3, 1, 2))
