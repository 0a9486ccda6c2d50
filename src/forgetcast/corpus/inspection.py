"""What a corpus holds, in tables: its targets, what every unlearner did, how well the labels agree with themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from forgetcast.corpus import labels
from forgetcast.corpus.corpus import Corpus
from forgetcast.errors import InputError, UnknownNameError

__all__ = ["NO_RELIABILITY", "agreement_table", "reliability_table", "targets_table", "unlearners_table"]


NO_RELIABILITY = (
    "unknown: it is how well two halves agree, of at least two unlearners or of the runs of one, on at least 4 samples "
    "of a target that all of them served; measure more (--instances, --unlearners, --seeds)"
)


def targets_table(corpus: Corpus) -> pd.DataFrame:
    """One row per target.

    Returns:
        target, dataset, architecture, n, classes, parameters, train_accuracy, heldout_accuracy, instances (measured),
        and for every objective nontrivial_<objective>: the share of the target's samples that are not trivial,
        estimated with the sampling weights.
    """
    columns = ["target", "dataset", "architecture", "n", "classes", "parameters", "train_accuracy", "heldout_accuracy"]
    table = corpus.targets.reindex(columns=columns)
    table["instances"] = table["target"].map(corpus.instances.groupby("target").size())
    weight = corpus.instances.set_index(["target", "index"])["weight"]
    for objective, rows in corpus.outcomes.groupby("objective", sort=False):
        trivial = rows.groupby(["target", "index"])["trivial"].all()
        own = weight.reindex(trivial.index)
        share = (own * ~trivial).groupby(level="target").sum() / own.groupby(level="target").sum()
        table[f"nontrivial_{objective}"] = table["target"].map(share)
    return table


def unlearners_table(corpus: Corpus) -> pd.DataFrame:
    """One row per objective and unlearner, over all targets.

    Returns:
        objective, unlearner, runs (seeds), rows; over the rows that are not trivial: reached (share that met the
        goal), median steps and shift, mean tv_retain, tv_test and tv_neighbours; and ``rho``: Spearman correlation
        of its difficulty with the mean percentile of the other consensus unlearners among samples that are not
        trivial, mean over targets; NaN where they cannot be compared.
    """
    records = []
    recorded = corpus.outcomes.columns
    parts = [name for name in ("reached", "steps", "shift", "tv_neighbours") if name not in recorded]
    for objective, everything in corpus.outcomes.reindex(columns=[*recorded, *parts]).groupby("objective", sort=False):
        moved = everything[~everything["trivial"]]
        for name, rows in everything.groupby("unlearner"):
            own = rows[~rows["trivial"]]
            record = {
                "objective": objective,
                "unlearner": name,
                "runs": rows["seed"].nunique(),
                "rows": len(rows),
                "reached": own["reached"].mean(),
                "steps": own["steps"].median(),
                "shift": own["shift"].median(),
            }
            record |= {column: own[column].mean() for column in ("tv_retain", "tv_test", "tv_neighbours")}
            records.append(record | {"rho": _with_others(moved, str(objective), str(name))})
    return pd.DataFrame(records)


def _with_others(outcomes: pd.DataFrame, objective: str, name: str) -> float:
    """Mean over targets of the rank correlation between one unlearner and the consensus of the others."""
    present = set(outcomes["unlearner"])
    others = [other for other in labels.CONSENSUS if other != name and other in present]
    if not others or name not in present:
        return np.nan
    table = labels.per_unlearner(outcomes, objective, [name, *others]).dropna()
    rhos = []
    for _, rows in table.groupby(level="target"):
        if len(rows) >= 8:
            rest = rows[others].rank().mean(axis=1)
            rhos.append(rows[name].corr(rest, method="spearman"))
    return float(np.nanmean(rhos)) if rhos and not np.isnan(rhos).all() else np.nan


def agreement_table(corpus: Corpus, objective: str, unlearners: Sequence[str], *, nontrivial: bool) -> pd.DataFrame:
    """Spearman correlation between unlearners within targets, averaged over targets: a square table.

    Args:
        corpus: with outcomes of the objective.
        objective: "retrain" or "erase".
        unlearners: rows and columns.
        nontrivial: only samples that are not trivial; trivial ones tie at 0 under every unlearner.
    """
    outcomes = corpus.outcomes[~corpus.outcomes["trivial"]] if nontrivial else corpus.outcomes
    return labels.agreement(outcomes, objective, unlearners)


def reliability_table(corpus: Corpus, unlearners: Sequence[str] = labels.CONSENSUS) -> pd.DataFrame:
    """Split-half reliability of the label (Spearman-Brown corrected): mean and worst over targets.

    Returns:
        objective, samples ("all" or "not trivial"), kind (unlearners, seeds, oracle), reliability, worst, targets.
        The oracle's reliability is that of p_out, over all samples. No rows where none can be estimated.
    """
    parts = []
    for objective in corpus.outcomes["objective"].unique():
        for samples, outcomes in (
            ("all", corpus.outcomes),
            ("not trivial", corpus.outcomes[~corpus.outcomes["trivial"]]),
        ):
            try:
                frame = labels.reliability(outcomes, corpus.instances, objective, unlearners)
            except (InputError, UnknownNameError):  # no sample that all of them served
                continue
            if samples != "all":
                frame = frame[frame["kind"] != "oracle"]
            parts.append(frame.assign(samples=samples))
    if not parts:
        return pd.DataFrame(columns=["objective", "samples", "kind", "reliability", "worst", "targets"])
    grouped = pd.concat(parts).dropna().groupby(["objective", "samples", "kind"], sort=False)["reliability"]
    return grouped.agg(reliability="mean", worst="min", targets="size").reset_index()
