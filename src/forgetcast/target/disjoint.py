"""Whether data that counts as held out was trained on."""

from __future__ import annotations

import numpy as np

from forgetcast.errors import DatasetError
from forgetcast.target.data import Data

__all__ = ["shared_samples"]

MOST = 0.05
"""Share of the held-out samples that may be training samples, beyond what equal rows among the latter explain."""


def shared_samples(data: Data, heldout: Data) -> str:
    """What is to be said of held-out samples whose inputs are those of a training sample; empty where there are none.

    Samples are the same if all their numbers are, whatever the label. Some tables hold equal rows of different people;
    a fair split of such a table shares as many rows as a training sample shares with the other training samples. That
    share, of the training samples, is granted on top of ``MOST``, of the held-out samples.

    Raises:
        DatasetError: more are shared than that.
    """
    trained, held = data.content_hashes(), heldout.content_hashes()
    shared = np.flatnonzero(np.isin(held, trained))
    if not len(shared):
        return ""
    _, inverse, counts = np.unique(trained, return_inverse=True, return_counts=True)
    repeated = float((counts[inverse] > 1).mean())
    first = ", ".join(map(str, shared[:4].tolist()))
    said = f"{len(shared)} of {len(held)} samples of the {heldout.role} are training samples too (the first: {first})"
    if len(shared) / len(held) - repeated > MOST:
        raise DatasetError(
            f"{said}; more than a twentieth: what the model has seen is not held out. Leave them out: with "
            "forgetcast.target.data.Data, numpy.isin(Data(heldout).content_hashes(), Data(dataset).content_hashes()) "
            "is True where they are"
        )
    return said
