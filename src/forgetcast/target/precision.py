"""Convolutions on a GPU as exact and repeatable as on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["exact_convolutions"]


@contextmanager
def exact_convolutions(*, cudnn: bool = True) -> Iterator[None]:
    """A block, or a function that is decorated with it, in which cuDNN rounds as it should and the same every time.

    By default PyTorch lets cuDNN round the inputs of a convolution to TF32 (10 bits of mantissa) and sum gradients in
    any order. Both move what is differentiated here more than single samples differ; see ``benchmarks/gpu.md``.

    Args:
        cudnn: False leaves cuDNN out altogether.
    """
    with torch.backends.cudnn.flags(enabled=cudnn, benchmark=False, deterministic=True, allow_tf32=False):
        yield
