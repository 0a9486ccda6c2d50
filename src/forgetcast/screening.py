"""Pre-screening of deletion requests: what to do about each, in which order, and what it costs against retraining."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import nn

from forgetcast._arguments import checked
from forgetcast.costs import Costs, measure_costs
from forgetcast.errors import InputError, UnknownNameError
from forgetcast.factors import FactorTable
from forgetcast.interactions import interactions
from forgetcast.policy import Policy
from forgetcast.predict import DifficultyReport, predict_difficulty, target_of
from forgetcast.predictor import OBJECTIVES, DifficultyPredictor
from forgetcast.queue_columns import COLUMNS
from forgetcast.queue_totals import processing_order, queue_totals, route_seconds
from forgetcast.requests import Requests, checked_requests
from forgetcast.routes import routes, why
from forgetcast.target import Target
from forgetcast.trajectory import Trajectory

__all__ = ["Triage", "triage"]

RUN = ("harm", "harm_lower", "harm_upper", "steps", "collateral_test", "collateral_neighbours")


@dataclass(frozen=True)
class Triage:
    """What to do about every request of a queue, and everything needed to say why."""

    table: pd.DataFrame
    """One row per request that could be served, in their order: ``COLUMNS``, and the requests' own after id. order is
    the place in which to process it (from 1), group the number of its group of interacting requests (0: none).
    unlearner, with the predicted steps along its path and the limit beyond which to stop and look, is empty where
    nothing should be unlearned. harm is the forecast difficulty under that unlearner with its interval, collateral_test
    and collateral_neighbours the forecast total variation under it, all in [0, 1], should the request not be trivial;
    seconds the wall time of the route, NaN where it was not timed, and share_of_retraining the same over one
    retraining."""
    problems: pd.DataFrame
    """Requests that could not be served: row, id, problem."""
    interactions: pd.DataFrame
    """Pairs of requests that interact: first, second, effect, shared_neighbours, group; see ``interactions``."""
    batch: dict[str, Any]
    """Of the whole queue: requests, served, problems, routes (counts), unlearning_seconds (all that are quick or
    careful, one after another), retraining_seconds (one retraining without all of them), share_of_retraining,
    break_even (how many requests of this queue's mean cost take as long as one retraining), groups, largest_group,
    advice, unfamiliar and notes; None where nothing was timed."""
    policy: Policy
    report: DifficultyReport
    """The forecasts behind it: ``report.explain(index)`` says why a sample is hard."""
    objective: str
    provenance: dict[str, Any]
    """As of the report, with the policy's fingerprint, the SHA-256 of the file of requests (else of those served) and
    the time (UTC)."""
    costs: Costs | None = field(default=None, repr=False)

    @checked()
    def to_html(self, path: str | Path) -> Path:
        """Write the queue as one self-contained HTML file and return its path.

        Raises:
            PathError: the file cannot be written.
        """
        from forgetcast.triage_page import write_triage_html

        return write_triage_html(self, path)


@checked("model", "objective")
def triage(
    model: nn.Module | Target,
    dataset: Any = None,
    *,
    requests: Any,
    ids: Sequence[Any] | None = None,
    id_column: str | None = None,
    policy: Policy | None = None,
    objective: Literal["retrain", "erase"] = "retrain",
    heldout: Any = None,
    trajectory: Trajectory | None = None,
    predictor: DifficultyPredictor | str | Path | None = None,
    factors: FactorTable | str | Path | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    timed: bool = True,
    progress: bool = False,
) -> Triage:
    """Say for each deletion request what to do: nothing, unlearn, unlearn and check, or retrain; and for all, in which
    order and whether one retraining would be cheaper.

    Nothing is unlearned: of the recommended unlearners a few steps are timed on one sample, and thrown away.

    Args:
        model, dataset, heldout, trajectory, predictor, collate_fn, batch_size: as for ``predict_difficulty``.
        requests: a .csv, .parquet or .jsonl file, a table, or sample indices: see ``requests.checked_requests``.
        ids: of all training samples, (n,), where requests name samples by id.
        id_column: the column of the requests that holds the ids; default: id or sample_id.
        policy: thresholds and assumptions; default ``Policy()``.
        objective: "retrain": afterwards the sample is treated as if it had never been trained on; "erase": it is no
            longer recognised.
        factors: the factors of this model and data, worked out before, or a folder of them, as for
            ``predict_difficulty``; default: work them out for the requests.
        seed: of the factors, and of the sample of training data that interactions are looked for in.
        timed: False leaves all wall times out.
        progress: bars on stderr.

    Raises:
        InputError: no usable request; or as for ``predict_difficulty``.
        UnknownNameError: no such objective, or the policy names an unlearner that the predictor does not know.
        NotApplicableError, ModelError, DatasetError, SchemaError, FileFormatError, PathError: as for
            ``predict_difficulty``, or the file of the requests cannot be read.
    """
    policy = Policy() if policy is None else policy
    if objective not in OBJECTIVES:
        raise UnknownNameError.of("objective", str(objective), OBJECTIVES)
    target = target_of(model, dataset, heldout, trajectory, collate_fn, batch_size)
    queue = checked_requests(requests, len(target), ids=ids, id_column=id_column)
    if queue.table.empty:
        first = f"; the first: row {queue.problems.iloc[0]['row']}: {queue.problems.iloc[0]['problem']}"
        raise InputError(f"none of the {len(queue.problems)} requests can be served{first}")
    index = queue.table["index"].to_numpy(dtype=np.int64)
    report = predict_difficulty(
        target,
        indices=index,
        objective=objective,
        predictor=predictor,
        factors=factors,
        seed=seed,
        progress=progress,
    )
    unfamiliar = report.familiarity.out_of_distribution
    forecast = report.table.set_index("index")
    run, measured, failed = _recommended(target, report, index, objective, policy, seed)
    costs = measured if timed else None
    table = queue.table.reset_index(drop=True)
    own = [name for name in COLUMNS if name in forecast.columns and name not in (*RUN, "index")]
    table = table.join(forecast.loc[index, own].reset_index(drop=True)).join(run)
    table["unfamiliar"] = unfamiliar
    table["route"] = routes(table, policy, unfamiliar=unfamiliar)
    table["why"] = [why(row, policy, unfamiliar=unfamiliar) for row in table.to_dict("records")]
    untouched = table["route"].isin(["trivial", "retrain"])
    table["seconds"] = route_seconds(table, costs)
    table["share_of_retraining"] = table["seconds"] / (np.nan if costs is None else costs.retraining)
    table["step_limit"] = np.ceil((table["steps"] * policy.step_margin).clip(lower=1))
    table.loc[untouched, "unlearner"] = ""
    table.loc[untouched, ["steps", "step_limit"]] = np.nan
    related = interactions(target, index, objective, effect_from=policy.interaction_from, seed=seed)
    table["group"] = related.group
    table["order"] = processing_order(table)
    extra = [name for name in queue.table.columns if name not in COLUMNS]
    table = table[[*COLUMNS[:3], *extra, *COLUMNS[3:]]]
    provenance = report.provenance | {
        "policy": policy.fingerprint,
        "requests": _digest(requests, queue),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    notes = [f"interactions are unknown: {related.reason}"] if related.reason else []
    notes += [f"{name} was left out: {reason}" for name, reason in failed.items()]
    if (run["unlearner"] == "").all():
        notes.append("no unlearner can be named: harm is the mean over those that the label averages")
    batch = queue_totals(table, queue.problems, costs, report, notes)
    return Triage(table, queue.problems, related.pairs, batch, policy, report, objective, provenance, costs)


def _digest(requests: Any, queue: Requests) -> str:
    """SHA-256 of the file of requests, or of the table of those that can be served."""
    if isinstance(requests, (str, Path)):
        return hashlib.sha256(Path(requests).read_bytes()).hexdigest()
    return hashlib.sha256(queue.table.to_csv(index=False).encode()).hexdigest()


def run_forecast(
    predictor: DifficultyPredictor, features: pd.DataFrame, objective: str, unlearners: Sequence[str], level: float
) -> pd.DataFrame:
    """What each sample's own unlearner will take and do, as ``predict_under`` says it, in the columns of a queue."""
    run = predictor.predict_under(features, objective, unlearners, level=level)
    return run.rename(columns={"difficulty": "harm", "lower": "harm_lower", "upper": "harm_upper"})


def _recommended(
    target: Target,
    report: DifficultyReport,
    index: np.ndarray,
    objective: str,
    policy: Policy,
    seed: int,
) -> tuple[pd.DataFrame, Costs, dict[str, str]]:
    """For every request the allowed unlearner that is forecast to do the least harm on this model, what it takes and
    does; the costs of those that were chosen; and those that would have been but cannot serve this model, with why.

    Raises:
        UnknownNameError: the policy names an unlearner that the predictor does not know.
    """
    predictor = report.predictor
    features = report.factors.values.loc[index, list(predictor.features)]
    under = predictor.predict_unlearners(features, objective)
    allowed = [name for name in under.columns if policy.unlearners is None or name in policy.unlearners]
    for name in policy.unlearners or ():
        if name not in allowed:
            raise UnknownNameError.of("unlearner of this predictor", name, under.columns)
    middle = int(index[len(index) // 2])
    failed: dict[str, str] = {}
    while allowed:
        named = under[allowed].columns.to_numpy(dtype=object)[under[allowed].to_numpy().argmin(axis=1)]
        chosen = list(dict.fromkeys(named))
        costs = measure_costs(
            target, chosen, middle, epochs=policy.retrain_epochs, retraining=policy.retrain_seconds, seed=seed
        )
        failed |= costs.failed
        if not costs.failed:
            run = run_forecast(predictor, features, objective, list(named), policy.level)
            run.insert(0, "unlearner", named)
            return run.reindex(columns=["unlearner", *RUN]).reset_index(drop=True), costs, failed
        allowed = [name for name in allowed if name not in costs.failed]
    # No unlearner is told apart, or none can serve this model: the mean over those of the label stands in.
    forecast = predictor.predict(features, objective, level=policy.level)
    parts = predictor.predict_parts(features, objective).reindex(columns=list(RUN[3:]))
    run = forecast[["difficulty", "lower", "upper"]].set_axis(list(RUN[:3]), axis=1).join(parts)
    run.insert(0, "unlearner", "")
    costs = measure_costs(target, [], middle, epochs=policy.retrain_epochs, retraining=policy.retrain_seconds)
    return run.reset_index(drop=True), costs, failed
