"""Synthetic training tables whose relation between factors and difficulty is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from forgetcast.corpus.corpus import Corpus

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
        for objective in ("retrain", "erase"):
            harm = frame[f"difficulty_{objective}"]
            frame[f"collateral_neighbours_{objective}"] = np.minimum(3 * harm, 1)
            frame[f"steps_{objective}"] = 20 * harm
            late = frame["noise_quantile"] > 0.5  # the noise column decides which of the two does less harm
            frame[f"under_gentle_{objective}"] = harm * np.where(late, 2, 0.5)
            frame[f"under_rough_{objective}"] = harm
            frame[f"steps_under_gentle_{objective}"] = 40 * harm
            frame[f"steps_under_rough_{objective}"] = 4 * harm
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


UNLEARNERS = ("gradient_ascent", "influence", "random_relabelling")


def corpus(
    targets: int = 4,
    rows: int = 40,
    seed: int = 0,
    noise: float = 0.05,
    unlearners: Sequence[str] = UNLEARNERS,
    name: str = "target",
) -> Corpus:
    """A corpus whose consensus difficulty follows ``training_table``, each unlearner with noise of its own."""
    table = training_table(targets, rows, seed, noise)
    table["target"] = table["target"].str.replace("target", name)
    rng = np.random.default_rng(seed)
    parts = []
    for objective in ("retrain", "erase"):
        for unlearner in unlearners:
            for run in (0, 1):
                part = table[["target", "index"]].assign(unlearner=unlearner, seed=run, objective=objective)
                trivial = table[f"trivial_{objective}"].to_numpy()
                damage = np.abs(table[f"difficulty_{objective}"] * (1 + 0.2 * rng.normal(size=len(table))))
                part["trivial"] = trivial
                part["forgetting"] = 1.0
                part["p_before"] = 0.99
                part["tv_retain"] = part["tv_test"] = np.where(trivial, 0, damage)
                part["steps"] = 20 * part["tv_test"]
                parts.append(part)
    instances = table[["target", "index", "weight", "memorization", "p_out"]].copy()
    instances["label"] = 0
    instances["p_in"] = 1.0
    for half in ("a", "b"):
        instances[f"p_out_half_{half}"] = instances["p_out"] + 0.02 * rng.normal(size=len(table))
    described = table.drop_duplicates("target")[["target", "dataset", "architecture"]]
    manifest = {"format": 1, "targets": described.to_dict(orient="records"), "files": {}}
    return Corpus(pd.concat(parts, ignore_index=True), instances, table[["target", "index", *FEATURES]], manifest)
