"""A hash of every sample's numbers, by which equal samples are known."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from forgetcast.target.inputs import Inputs, leaves, named_leaves

__all__ = ["row_hashes"]

EXACT = 1 << 24
"""From here on not every integer is a float32."""


def row_hashes(x: Inputs) -> np.ndarray:
    """A 64-bit hash of every sample's numbers, shape (n,), uint64; the type that they are stored in does not matter.

    Real numbers count as float32, as models take them; rows of integers that float32 cannot hold count in full. Zeros
    at the end of a row do not count: they are what padding to a longer sample adds.
    """
    found = [hashlib.blake2b(digest_size=8) for _ in range(len(leaves(x)[0]))]
    for _, leaf in named_leaves(x):
        flat = (torch.view_as_real(leaf) if leaf.is_complex() else leaf).reshape(len(leaf), -1)
        row = flat.float().add(0.0).numpy()  # -0.0 becomes 0.0
        content, size = row.tobytes(), 4 * row.shape[1]
        for k, hashed in enumerate(found):
            own = content[k * size : (k + 1) * size].rstrip(b"\0")
            hashed.update(len(own).to_bytes(8, "little") + own)
        if not (flat.is_floating_point() or flat.dtype == torch.bool):
            for k in np.flatnonzero((abs(row) >= EXACT).any(1)).tolist():
                found[k].update(flat[k].numpy().astype(np.int64).tobytes())
    return np.frombuffer(b"".join([one.digest() for one in found]), dtype="<u8").astype(np.uint64)
