"""A queue of deletion requests that was screened, on a real small model: forecasts and reasons are real.

Costs and interactions are stand-ins, told apart from measurements by their round numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from forgetcast.predict import DifficultyReport, predict_difficulty
from small_targets import shared_mlp

OBJECTIVE = "retrain"
RETRAINING_SECONDS = 40.0
UNLEARNING_SECONDS = {"trivial": 0.0, "quick": 0.5, "careful": 2.0, "retrain": RETRAINING_SECONDS}
PREPARING_SECONDS = 1.0
ROUTES = tuple(UNLEARNING_SECONDS)


@dataclass(frozen=True)
class SamplePolicy:
    """The thresholds a page shows; chosen so that the small model's requests take every route."""

    trivial_from: float = 0.9
    quick_to: float = 0.0022
    retrain_from: float = 0.003
    unlearners: tuple[str, ...] | None = None
    level: float = 0.9
    retrain_epochs: int = 20
    retrain_seconds: float | None = None
    interaction_from: float = 0.05
    step_margin: float = 1.5

    @property
    def fingerprint(self) -> str:
        """A stand-in of the right length."""
        return "ef" * 32

    def to_dict(self) -> dict[str, Any]:
        """Thresholds by name."""
        return asdict(self)


@dataclass(frozen=True)
class SampleTriage:
    """What screening a queue returns."""

    table: pd.DataFrame
    problems: pd.DataFrame
    interactions: pd.DataFrame
    batch: dict[str, Any]
    report: DifficultyReport
    policy: SamplePolicy = field(default_factory=SamplePolicy)
    objective: str = OBJECTIVE
    provenance: dict[str, Any] = field(default_factory=dict)


@cache
def small_report() -> DifficultyReport:
    """Forecast of the perceptron that has memorized four wrong labels of the digits, by the shipped predictor."""
    return predict_difficulty(shared_mlp(), objective=OBJECTIVE)


def sample_triage(
    indices: Sequence[int] = tuple(range(0, 120, 3)),
    *,
    report: DifficultyReport | None = None,
    ids: Sequence[str] | None = None,
    extra: Mapping[str, Sequence[Any]] | None = None,
    route: str | None = None,
    problems: Sequence[tuple[int, str, str]] = (),
    pairs: Sequence[tuple[int, int]] = ((0, 3), (3, 9), (30, 33)),
    timed: bool = True,
    unfamiliar: Sequence[int] = (6,),
    alike: Sequence[int] = (3, 9),
) -> SampleTriage:
    """Requests for ``indices``, routed by a policy, or all to one ``route``.

    Args:
        indices: samples, in request order; rows count from 1.
        report: forecasts of those samples; default: the small model's.
        ids: how the requests name them; default: ``s0``, ``s1`` and so on.
        extra: further columns of the requests.
        route: for all requests; default: by the policy's thresholds.
        problems: row, id and sentence of requests that could not be served.
        pairs: samples that interact, the stand-ins for measured pairs.
        timed: whether seconds are known.
        unfamiliar: samples outside what the predictor knows.
        alike: samples that share a neighbourhood and label.
    """
    report = small_report() if report is None else report
    policy = SamplePolicy()
    forecast = report.table[report.table["objective"] == OBJECTIVE].set_index("index").loc[list(indices)]
    features = report.factors.values.loc[list(indices), list(report.predictor.features)]
    under = report.predictor.predict_unlearners(features, OBJECTIVE)
    known = len(under.columns) > 0
    harm = under.min(axis=1).to_numpy() if known else forecast["difficulty"].to_numpy()
    best = under.columns.to_numpy(dtype=object)[under.to_numpy().argmin(axis=1)] if known else "gradient_ascent"
    trivial = forecast["p_trivial"].to_numpy() >= policy.trivial_from
    routes = np.select(
        [trivial, harm >= policy.retrain_from, harm <= policy.quick_to], ["trivial", "retrain", "quick"], "careful"
    )
    routes = np.full(len(indices), route) if route else routes
    unlearns = np.isin(routes, ["quick", "careful"])
    seconds = pd.Series(routes).map(UNLEARNING_SECONDS).to_numpy(dtype=float) * (1.0 if timed else np.nan)
    groups = _groups([pair for pair in pairs if set(pair) <= set(indices)])
    table = pd.DataFrame({"row": np.arange(1, len(indices) + 1), "index": np.asarray(indices, dtype=np.int64)})
    table.insert(1, "id", list(ids) if ids is not None else [f"s{index}" for index in indices])
    table = table.assign(**(extra or {}))
    table["label"] = forecast["label"].to_numpy()
    table["order"] = np.lexsort((harm, [ROUTES.index(name) for name in routes])).argsort() + 1
    table["group"] = [groups.get(index, 0) for index in indices]
    table["alike"] = [1 if index in alike else 0 for index in indices]
    table["person_rows"] = 0
    table["route"] = routes
    table["unlearner"] = np.where(unlearns, best, "")
    table["steps"] = forecast["steps"].to_numpy() if "steps" in forecast else np.nan
    table["step_limit"] = np.maximum(1.0, table["steps"] * policy.step_margin)
    table.loc[~unlearns, ["steps", "step_limit"]] = np.nan
    spread = forecast["upper"].to_numpy() - forecast["lower"].to_numpy()
    table["harm"] = harm
    table["harm_lower"], table["harm_upper"] = np.maximum(0, harm - spread / 2), np.minimum(1, harm + spread / 2)
    for name in ("collateral_test", "collateral_neighbours"):
        table[name] = forecast[name].to_numpy() if name in forecast else np.nan
    shared = ["p_trivial", "percentile", "percentile_lower", "percentile_upper", "difficulty", "lower", "upper", "tier"]
    table[shared] = forecast[shared].to_numpy()
    table = table.astype(dict.fromkeys(shared[:-1], float))
    table["seconds"] = seconds
    table["share_of_retraining"] = seconds / RETRAINING_SECONDS
    table["unfamiliar"] = table["index"].isin(list(unfamiliar))
    table["why"] = [f"Sent to {name}: forecast harm is {value:.4f}." for name, value in zip(routes, harm, strict=True)]
    table["reasons"] = forecast["reasons"].to_numpy()
    return SampleTriage(
        table=table,
        problems=pd.DataFrame(list(problems), columns=["row", "id", "problem"]),
        interactions=_interactions(groups, pairs, indices),
        batch=_batch(table, len(problems), timed),
        report=report,
        policy=policy,
        provenance={
            "version": "0.1.0",
            "predictor": report.predictor.fingerprint,
            "model": report.provenance["model"],
            "data": report.provenance["data"],
            "policy": policy.fingerprint,
            "time": "2030-01-02T03:04:05Z",
            "requests": "12" * 32,
            "settings": {"seed": 0},
        },
    )


def _groups(pairs: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Number of the connected group of each sample in ``pairs``, in order of first mention."""
    sets: list[set[int]] = []
    for pair in pairs:
        joined = [known for known in sets if known & set(pair)]
        sets = [known for known in sets if known not in joined] + [set(pair).union(*joined)]
    return {index: number for number, members in enumerate(sets, start=1) for index in members}


def _interactions(groups: Mapping[int, int], pairs: Sequence[tuple[int, int]], indices: Sequence[int]) -> pd.DataFrame:
    rows = [
        (first, second, 0.1 + 0.05 * place, 2 + place, groups[first])
        for place, (first, second) in enumerate(pairs)
        if {first, second} <= set(indices)
    ]
    return pd.DataFrame(rows, columns=["first", "second", "effect", "shared_neighbours", "group"])


def _batch(table: pd.DataFrame, problems: int, timed: bool) -> dict[str, Any]:
    served = table[table["route"] != "retrain"]
    seconds = PREPARING_SECONDS + float(served["seconds"].sum())
    unlearned = int(table["route"].isin(["quick", "careful"]).sum())
    sizes = table.loc[table["group"] > 0, "group"].value_counts()
    strange = int(table["unfamiliar"].sum())
    return {
        "requests": len(table) + problems,
        "served": len(table),
        "problems": problems,
        "routes": {name: int((table["route"] == name).sum()) for name in ROUTES},
        "unlearning_seconds": seconds if timed else None,
        "retraining_seconds": RETRAINING_SECONDS if timed else None,
        "retraining_basis": "timed: one training by the target's own train" if timed else "",
        "alike": int((table["alike"] > 0).sum()),
        "share_of_retraining": seconds / RETRAINING_SECONDS if timed else None,
        "break_even": RETRAINING_SECONDS * unlearned / seconds if timed and unlearned else None,
        "advice": "unlearn the quick and careful requests one by one; retrain once for the others",
        "notes": ["one unlearner was left out"],
        "groups": len(sizes),
        "largest_group": int(sizes.max()) if len(sizes) else 0,
        "unfamiliar": f"The predictor does not know the like of {strange} of these samples." if strange else "",
    }
