"""Pre-screening of deletion requests: what to do about each, in which order, and what it costs against retraining."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import nn
from tqdm import tqdm

from forgetcast._arguments import checked
from forgetcast.errors import UnknownNameError
from forgetcast.factors import FactorTable
from forgetcast.objectives import OBJECTIVES
from forgetcast.predict import DifficultyReport, predict_difficulty, target_of
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.screening.columns import COLUMNS
from forgetcast.screening.costs import Costs, measure_costs, timed_retraining
from forgetcast.screening.interactions import interactions
from forgetcast.screening.policy import Policy
from forgetcast.screening.requests import Requests, checked_requests
from forgetcast.screening.routes import routes, why
from forgetcast.screening.totals import processing_order, queue_totals, requests_text, route_seconds
from forgetcast.target.target import Target
from forgetcast.target.trajectory import Trajectory

__all__ = ["Triage", "triage"]

RUN = ("harm", "harm_lower", "harm_upper", "steps", "collateral_test", "collateral_neighbours")


@dataclass(frozen=True)
class Triage:
    """What to do about every request of a queue, and everything needed to say why."""

    table: pd.DataFrame
    """One row per request that could be served, in their order: ``COLUMNS``, and the requests' own after id. order is
    the place in which to process it (from 1), group the number of its group of interacting requests (0: none), alike
    that of the set that shares its neighbourhood and label (0: none; see ``interactions``), person_rows how many rows
    its person asks for (0: not known, or not asked).
    unlearner, with the predicted steps along its path and the limit beyond which to stop and look, is empty where
    nothing should be unlearned. Forecasts hold should the request not be trivial: harm is the difficulty under that
    unlearner with its interval, collateral_test and collateral_neighbours the total variation under it, all in [0, 1];
    seconds the wall time of the route, NaN where it was not timed, and share_of_retraining the same over one
    retraining."""
    problems: pd.DataFrame
    """Requests that could not be served: row, id, problem."""
    interactions: pd.DataFrame
    """Pairs of requests that interact: first, second, effect, shared_neighbours, group; see ``interactions``."""
    batch: dict[str, Any]
    """Of the whole queue: requests, served, problems, routes (counts); unlearning_seconds (all that are quick or
    careful, one after another), retraining_seconds (one retraining without all of them), share_of_retraining;
    break_even (how many requests of this queue's mean cost take as long as one retraining), groups, largest_group,
    advice, unfamiliar and notes; None where nothing was timed. retraining_basis says where retraining_seconds comes
    from (known, timed, extrapolated or assumed), alike how many requests share a neighbourhood and label."""
    policy: Policy
    report: DifficultyReport
    """The forecasts behind it: ``report.explain(index)`` says why a sample is hard."""
    objective: str
    provenance: dict[str, Any]
    """As of the report, with the policy's fingerprint, person_column, the SHA-256 of the file of requests (else of
    those served) and the time (UTC)."""
    costs: Costs | None = field(default=None, repr=False)

    @checked()
    def to_html(self, path: str | Path) -> Path:
        """Write the queue as one self-contained HTML file and return its path.

        Raises:
            PathError: the file cannot be written.
        """
        from forgetcast.screening.page import write_triage_html

        return write_triage_html(self, path)


@checked("model", "objective")
def triage(
    model: nn.Module | Target,
    dataset: Any = None,
    *,
    requests: Any,
    ids: Sequence[Any] | None = None,
    id_column: str | None = None,
    person_column: str | None = None,
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

    Nothing is unlearned: of the recommended unlearners a few steps are timed on one sample, and thrown away. Where the
    target has a ``train`` callable a training is timed as well, see ``costs.timed_retraining``.

    Every forecast is of one row by itself. Rows of one person vouch for each other: without one of them the model may
    still know what it knows from all, and not without all. So a person with more than one row in the queue is careful
    at least; rows of theirs that are in the data but not in the queue cannot be known.

    Args:
        model: a classifier that returns logits (n, classes); it is copied, never changed. Or a ``Target``.
        dataset: its training data, as ``Target`` takes it; None if ``model`` is a ``Target``.
        requests: a .csv, .parquet or .jsonl file, a table, or sample indices: see ``requests.checked_requests``.
        ids: of all training samples, (n,), where requests name samples by id.
        id_column: the column of the requests that holds the ids; default: id or sample_id.
        person_column: the column of the requests that says whose row each is about. What would be trivial or quick by
            itself is then careful where the person asks for more than one row, or is not named.
        policy: thresholds and assumptions; default ``Policy()``.
        objective: "retrain": afterwards the sample is treated as if it had never been trained on; "erase": it is no
            longer recognised.
        heldout: data of the same kind that the model was not trained on; some factors need it.
        trajectory: checkpoints of the training run, or outputs recorded during it, for predictors that use them.
        predictor: a fitted predictor or the folder of one; default: the one that comes with forgetcast.
        factors: the factors of this model and data, computed before, or the folder that keeps them; default: compute
            them for the requests.
        collate_fn: for datasets whose items need one.
        batch_size: samples per forward pass.
        seed: of the factors, and of the sample of training data that interactions are looked for in.
        timed: False leaves all wall times out, and trains nothing.
        progress: bars on stderr, and a word before trainings are timed.

    Returns:
        The queue: one row per request that can be served, those that cannot, what interacts, and totals.

    Raises:
        InputError: no request at all, or a ``Target`` together with a dataset. If none of them can be served the queue
            is empty, and ``problems`` says why.
        UnknownNameError: no such objective, or the policy names an unlearner that the predictor does not know.
        NotApplicableError, ModelError, DatasetError, SchemaError, FileFormatError, PathError: as for
            ``predict_difficulty``, or the file of the requests cannot be read.
    """
    policy = Policy() if policy is None else policy
    if objective not in OBJECTIVES:
        raise UnknownNameError.of("objective", str(objective), OBJECTIVES)
    target = target_of(model, dataset, heldout, trajectory, collate_fn, batch_size)
    queue = checked_requests(requests, len(target), ids=ids, id_column=id_column, person_column=person_column)
    served = len(queue.table)
    if not served:  # the forecast of any sample says of what model and data, and is dropped
        queue = replace(queue, table=queue.table.reindex([0]).assign(row=0, id="", index=0))
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
    if costs is not None and served and policy.retrain_seconds is None and target.can_train:
        costs = timed_retraining(target, costs, seed=seed, say=_say if progress else None)
    table = queue.table.reset_index(drop=True)
    own = [name for name in COLUMNS if name in forecast.columns and name not in (*RUN, "index")]
    table = table.join(forecast.loc[index, own].reset_index(drop=True)).join(run)
    table["unfamiliar"] = unfamiliar
    people = queue.person_rows if served else None
    table["person_rows"] = 0 if people is None else people
    table["route"] = routes(table, policy, unfamiliar=unfamiliar, person_rows=people)
    table["why"] = [
        why(row, policy, unfamiliar=unfamiliar, person_rows=None if people is None else row["person_rows"])
        for row in table.to_dict("records")
    ]
    untouched = table["route"].isin(["trivial", "retrain"])
    table["seconds"] = route_seconds(table, costs)
    table["share_of_retraining"] = table["seconds"] / (np.nan if costs is None else costs.retraining)
    table["step_limit"] = np.ceil((table["steps"] * policy.step_margin).clip(lower=1))
    table.loc[untouched, "unlearner"] = ""
    table.loc[untouched, ["steps", "step_limit"]] = np.nan
    related = interactions(target, index, objective, effect_from=policy.interaction_from, seed=seed)
    table["group"], table["alike"] = related.group, related.alike
    table["order"] = processing_order(table)
    extra = [name for name in queue.table.columns if name not in COLUMNS]
    table = table[[*COLUMNS[:3], *extra, *COLUMNS[3:]]]
    if not served:
        table, queue = table.iloc[:0], replace(queue, table=queue.table.iloc[:0])
        report = replace(report, table=report.table.iloc[:0])
    provenance = report.provenance | {
        "person_column": person_column,
        "policy": policy.fingerprint,
        "requests": _digest(requests, queue),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    notes = [*target.notes, *_together(table, people is not None)]
    if related.reason:
        notes.append(f"interactions are unknown: {related.reason}")
        notes.append(
            "which requests share a neighbourhood and label is unknown too: together they may not be what each is alone"
        )
    notes += [f"{name} was left out: {reason}" for name, reason in failed.items()]
    if served and (run["unlearner"] == "").all():
        notes.append("no unlearner can be named: harm is the mean over those that the label averages")
    batch = queue_totals(table, queue.problems, costs, report, notes)
    return Triage(table, queue.problems, related.pairs, batch, policy, report, objective, provenance, costs)


def _together(table: pd.DataFrame, people: bool) -> list[str]:
    """Notes on rows that may not be together what each is alone."""
    notes = []
    several, unknown = int((table["person_rows"] > 1).sum()), int((table["person_rows"] == 0).sum())
    if several:
        notes.append(
            f"{requests_text(several)} are of people who ask for more than one row: careful at least, for together "
            "their rows may not be what each is alone"
        )
    if people and unknown:
        notes.append(
            f"of {requests_text(unknown)} it is not known whose row it is (empty, or no exact value): careful at least"
        )
    left = table[(table["alike"] > 0) & (table["person_rows"] < 2)]
    if len(left):
        sets = [
            ", ".join(map(str, part["row"].iloc[:8])) + ", …" * (len(part) > 8) for _, part in left.groupby("alike")
        ]
        more = f"; and {len(sets) - 5:,} more" if len(sets) > 5 else ""
        notes.append(
            f"{requests_text(len(left))} share a neighbourhood and label with others of this queue (rows "
            f"{'; '.join(sets[:5])}{more}): together they may not be what each is alone"
        )
        if not people:
            notes.append("a column that says whose row each is (--person-column) makes rows of one person careful")
    return notes


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


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
    # The predictor distinguishes none, or none can serve this model: the mean over those of the label stands in.
    forecast = predictor.predict(features, objective, level=policy.level)
    parts = predictor.predict_parts(features, objective).reindex(columns=list(RUN[3:]))
    run = forecast[["difficulty", "lower", "upper"]].set_axis(list(RUN[:3]), axis=1).join(parts)
    run.insert(0, "unlearner", "")
    costs = measure_costs(target, [], middle, epochs=policy.retrain_epochs, retraining=policy.retrain_seconds)
    return run.reset_index(drop=True), costs, failed
