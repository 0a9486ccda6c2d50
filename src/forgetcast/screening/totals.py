"""A pre-screened queue as a whole: what it costs, in which order it is processed, and what to do with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from forgetcast.predict import DifficultyReport
from forgetcast.screening.costs import Costs
from forgetcast.screening.routes import ROUTE, ROUTES

__all__ = ["processing_order", "queue_totals", "requests_text", "route_seconds"]

UNLEARNING = tuple(name for name, route in ROUTE.items() if route.unlearns)


def route_seconds(table: pd.DataFrame, costs: Costs | None) -> list[float]:
    """Wall time of every request's route: nothing, an unlearner's start and steps, or one retraining."""
    if costs is None:
        return [np.nan] * len(table)
    fixed = {"trivial": 0.0, "retrain": costs.retraining}
    rows = zip(table["route"], table["unlearner"], table["steps"], strict=True)
    return [fixed.get(route, costs.seconds(unlearner, steps)) for route, unlearner, steps in rows]


def processing_order(table: pd.DataFrame) -> np.ndarray:
    """Place of every request, from 1: trivial ones first, then by route from the least to the most. Interacting ones
    stand together, with the one that takes the most; within that the least harm comes first."""
    rank = table["route"].map({route: place for place, route in enumerate(ROUTES)})
    group = table["group"].where(rank > 0, 0)  # nothing is unlearned of a trivial one, so it need not wait for others
    whole = rank.where(group == 0, rank.groupby(group).transform("max"))
    keys = [table["row"], table["harm"], rank, group, whole]
    order = np.lexsort([key.to_numpy(dtype=float) for key in keys])
    places = np.empty(len(table), dtype=np.int64)
    places[order] = np.arange(1, len(table) + 1)
    return places


def queue_totals(
    table: pd.DataFrame, problems: pd.DataFrame, costs: Costs | None, report: DifficultyReport, notes: list[str]
) -> dict[str, Any]:
    """The queue as a whole."""
    counts = {route: int((table["route"] == route).sum()) for route in ROUTES}
    groups = table.loc[table["group"] > 0, "group"].value_counts()
    unlearned = table[table["route"].isin(UNLEARNING)]
    found: dict[str, Any] = {
        "requests": len(table) + len(problems),
        "served": len(table),
        "problems": len(problems),
        "routes": counts,
        "unlearning_seconds": None,
        "retraining_seconds": None,
        "retraining_basis": "",
        "share_of_retraining": None,
        "break_even": None,
        "groups": len(groups),
        "largest_group": int(groups.max()) if len(groups) else 0,
        "alike": int((table["alike"] > 0).sum()),
        "unfamiliar": str(report.familiarity) if report.familiarity.out_of_distribution else "",
        "notes": notes,
    }
    if costs is not None:
        found["retraining_seconds"], found["retraining_basis"] = costs.retraining, costs.basis
        total = float(unlearned["seconds"].sum(skipna=False) + costs.prepare(unlearned["unlearner"].tolist()))
        if len(unlearned) and not np.isnan(total):
            found["unlearning_seconds"] = total
            found["share_of_retraining"] = total / costs.retraining
            found["break_even"] = float(costs.retraining / (total / len(unlearned)))
        elif not len(unlearned):
            found["unlearning_seconds"], found["share_of_retraining"] = 0.0, 0.0
    found["advice"] = _advice(found)
    return found


def _advice(batch: dict[str, Any]) -> str:
    """What to do with the queue as a whole, in a sentence."""
    counts, share = batch["routes"], batch["share_of_retraining"]
    unlearned = sum(counts[route] for route in UNLEARNING)
    if counts["retrain"]:
        joined = f"; the other {unlearned} that are not trivial can join it" if unlearned else ""
        return f"one retraining is needed for {requests_text(counts['retrain'])}{joined}"
    if not batch["served"]:
        return "no request can be served: fix the rows that are named"
    if not unlearned:
        return "nothing has to be unlearned: delete the records, and check a sample of them"
    if share is None:
        return f"unlearn {requests_text(unlearned)} in the order given"
    if share >= 1:
        return (
            f"retrain once without all of them: unlearning {requests_text(unlearned)} one after another takes "
            f"{share:.1f} times as long"
        )
    return f"unlearn {requests_text(unlearned)} in the order given: that takes {share:.0%} of one retraining"


def requests_text(count: int) -> str:
    """So many requests, in words.

    >>> requests_text(1), requests_text(2000)
    ('1 request', '2,000 requests')
    """
    return f"{count:,} request{'' if count == 1 else 's'}"
