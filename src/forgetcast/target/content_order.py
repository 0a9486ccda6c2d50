"""An order of samples and classes that hangs on what the samples hold, not on places or numbers of classes.

What is drawn or dealt out by place in this order comes out the same for the same samples, however they are shuffled.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from forgetcast.target.data import Data

__all__ = ["content_order", "copies"]


def content_order(data: Data, classes: int) -> tuple[Tensor, Tensor]:
    """Sample numbers ordered by class and then by content, (n,), and the place of every class, (classes,), both int64.

    Classes are ordered by what their samples hold; those without samples come last. Copies stand side by side.

    >>> x, y = torch.eye(3), torch.tensor([0, 2, 0])
    >>> order, place = content_order(Data((x, y)), 3)
    >>> shuffled, place_of_renumbered = content_order(Data((x[[2, 0, 1]], torch.tensor([1, 1, 0]))), 3)
    >>> torch.equal(torch.tensor([2, 0, 1])[shuffled], order), place.tolist()[1], place_of_renumbered.tolist()[2]
    (True, 2, 2)
    """
    hashes, labels = data.content_hashes(), data.labels.numpy()
    by_class = np.split(hashes[np.lexsort((hashes, labels))], np.bincount(labels, minlength=classes).cumsum()[:-1])
    keys = [(len(own) == 0, hashlib.blake2b(own.tobytes()).digest(), label) for label, own in enumerate(by_class)]
    place = np.empty(classes, dtype=np.int64)
    place[[label for _, _, label in sorted(keys)]] = np.arange(classes)
    return torch.from_numpy(np.lexsort((hashes, place[labels]))), torch.from_numpy(place)


def copies(data: Data) -> np.ndarray:
    """The number of every sample's kind, shape (n,): samples with the same content and label are of one kind."""
    table = np.stack([data.content_hashes(), data.labels.numpy().astype(np.uint64)], 1)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
