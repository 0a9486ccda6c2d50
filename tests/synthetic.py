"""Synthetic training tables whose relation between factors and difficulty is known."""

from __future__ import annotations

import numpy as np
import pandas as pd

FEATURES = [
    "loss",
    "loss_quantile",
    "margin",
    "margin_quantile",
    "neighbour_share",
    "neighbour_share_quantile",
    "noise",
    "noise_quantile",
    "train_accuracy",
]


def training_table(targets: int = 6, rows: int = 60, seed: int = 0, noise: float = 0.05) -> pd.DataFrame:
    """Targets whose scales differ while quantiles keep one relation to difficulty; a third is trivial.

    Difficulty grows with the quantile of loss and with that of neighbour_share, and ``retrain`` is trivial
    below its lower third; ``erase`` runs the other way and is never trivial.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(targets):
        raw = {name: rng.normal(size=rows) for name in ("loss", "margin", "neighbour_share", "noise")}
        frame = pd.DataFrame({"target": f"target {number}", "index": np.arange(rows) * 3})
        frame["dataset"] = f"data {number % 3}"
        frame["architecture"] = f"net {number % 2}"
        frame["weight"] = rng.uniform(0.5, 8, size=rows)
        for name, values in raw.items():
            frame[name] = values * rng.uniform(0.2, 5) + rng.normal()
            frame[f"{name}_quantile"] = (values.argsort().argsort() + 0.5) / rows
        frame["train_accuracy"] = rng.uniform(0.7, 1)
        signal = 0.7 * frame["loss_quantile"] + 0.3 * frame["neighbour_share_quantile"] ** 2
        signal += noise * rng.normal(size=rows)
        frame["memorization"] = np.clip(signal + 0.3 * rng.normal(size=rows), 0, 1)
        frame["p_out"] = 1 - frame["memorization"]
        rank = (signal.rank().to_numpy() - 0.5) / rows
        frame["percentile_retrain"] = rank
        frame["trivial_retrain"] = rank < 1 / 3
        frame["difficulty_retrain"] = np.where(rank < 1 / 3, 0, 0.3 * rank**2)
        frame["percentile_erase"] = 1 - rank
        frame["trivial_erase"] = False
        frame["difficulty_erase"] = 0.1 + 0.2 * (1 - rank)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)
