"""Our forecasts checked on the user's own model: unlearn some of the requests for real, and compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forgetcast._arguments import checked
from forgetcast.corpus.labels import difficulty
from forgetcast.corpus.measuring import measure
from forgetcast.errors import InputError
from forgetcast.predictor.agreement import RankAgreement, spearman_interval
from forgetcast.screening.routes import ROUTES
from forgetcast.screening.triage import Triage, run_forecast
from forgetcast.target.target import Target
from forgetcast.wording import count, significant

__all__ = ["Verified", "verify_triage"]

RESAMPLES = 2000
"""Of the bootstrap over samples."""


@dataclass(frozen=True)
class Verified:
    """Forecast against measurement of some requests of a queue."""

    table: pd.DataFrame
    """One row per request that was unlearned: row, id, index, route, unlearner, trivial (measured), p_trivial, harm,
    harm_lower, harm_upper, measured_harm, inside, steps, measured_steps, collateral_test, measured_collateral_test,
    collateral_neighbours, measured_collateral_neighbours and reached (whether the goal was met). Of requests that were
    trivial from the start, measured harm, steps and collateral are 0, and inside is None: the forecast is of those that
    are not."""
    level: float
    """Share of the requests whose measured harm should lie in the interval."""

    @property
    def unlearned(self) -> pd.DataFrame:
        """The requests that were not trivial from the start."""
        return self.table[~self.table["trivial"].astype(bool)]

    @property
    def coverage(self) -> tuple[int, int]:
        """How many measured harms lie in their interval, of how many that have one."""
        inside = self.unlearned["inside"].dropna()
        return int(inside.sum()), len(inside)

    @property
    def agreement(self) -> RankAgreement:
        """Spearman correlation of forecast and measured harm."""
        rows = self.unlearned
        return spearman_interval(rows["harm"], rows["measured_harm"])

    def summary(self) -> list[str]:
        """What was found, in sentences."""
        rows, (inside, of) = self.unlearned, self.coverage
        lines = []
        said = self.table["route"] == "trivial"
        if said.any():
            right = int(self.table.loc[said, "trivial"].sum())
            lines.append(f"{right} of {count(int(said.sum()), 'request')} called trivial are")
        if of:
            lines.append(
                f"the measured harm of {inside} of {count(of, 'request')} lies in its {self.level:.0%} interval"
            )
        if len(rows):
            lines.append(
                f"harm of {count(len(rows), 'request')}: forecast {rows['harm'].mean():.2g} on average, measured "
                f"{_mean(rows['measured_harm'])}; steps: forecast {significant(rows['steps'].mean())}, measured "
                f"{_mean(rows['measured_steps'])}"
            )
            lines.append(f"order of harm: {self.agreement}")
            quick = rows[rows["route"] == "quick"]
            if len(quick):
                worst = quick["measured_harm"].max()
                lines.append(f"the largest measured harm of {count(len(quick), 'quick request')} is {worst:.2g}")
            left = int((~rows["reached"].astype(bool)).sum())
            if left:
                lines.append(
                    f"the goal was not met within the unlearner's path for {left} of {count(len(rows), 'request')}"
                )
        else:
            lines.append("every request was trivial from the start: nothing to unlearn")
        return lines


@checked("samples")
def verify_triage(
    target: Target,
    triage: Triage,
    *,
    samples: int = 20,
    unlearner: str = "",
    oracle_groups: int = 20,
    oracle_seeds: int = 4,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Verified:
    """Run the recommended unlearner on some requests of a queue and measure what the forecast is about.

    The requests are drawn at random from each route in proportion, at least one of each. Those that are trivial or to
    be retrained by the forecast have no recommended unlearner; they are measured under the one that the queue
    recommends most often.

    Args:
        target: what the queue is about, with held-out data; for ``retrain`` with a ``train`` callable, for what a model
            without the sample would say has to be known (``oracle_groups`` times ``oracle_seeds`` models are trained).
        triage: the pre-screened queue.
        samples: how many requests to unlearn, at least 1; all of them if there are fewer.
        unlearner: a registered name to use where the queue recommends none; default: its most frequent one.
        oracle_groups: how many groups of samples the oracle leaves out, a group at a time.
        oracle_seeds: models that the oracle trains without each group.
        seed: of the draw, the unlearners and the oracle.
        n_jobs: processes, as in joblib; None obeys ``joblib.parallel_config``.
        progress: bars on stderr.

    Returns:
        Forecast against measurement of each of these requests.

    Raises:
        InputError: ``samples`` is below 1, the queue is empty or of another model or data, or it names no unlearner at
            all.
        NotApplicableError: held-out data or the ``train`` callable is missing.
    """
    if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)) or samples < 1:
        raise InputError(f"samples: expected a whole number of at least 1; got {samples!r}")
    if (target.model_hash, target.data_hash) != (triage.provenance["model"], triage.provenance["data"]):
        raise InputError("the queue was screened for another model or other data: screen it for this one")
    if triage.table.empty:
        raise InputError("no request of the queue can be served: nothing to verify")
    rows = triage.table.iloc[_drawn(triage.table["route"].to_numpy(), samples, seed)].reset_index(drop=True)
    names = triage.table.loc[triage.table["unlearner"] != "", "unlearner"]
    usual = unlearner or (str(names.mode().iloc[0]) if len(names) else _least_harmful(triage))
    rows["unlearner"] = rows["unlearner"].where(rows["unlearner"] != "", usual)
    rows = _as_forecast(triage, rows)
    outcomes = []
    oracle = None
    for name, part in rows.groupby("unlearner", sort=False):
        found, instances = measure(
            target,
            # What retrained models say is asked once, for all rows.
            (rows if triage.objective == "retrain" and oracle is None else part)["index"].tolist(),
            unlearners=[str(name)],
            objectives=[triage.objective],  # type: ignore[list-item]
            oracle_groups=oracle_groups,
            oracle_seeds=oracle_seeds,
            n_jobs=n_jobs,
            progress=progress,
            seed=seed,
            oracle=oracle,
        )
        if triage.objective == "retrain" and oracle is None:
            oracle = instances.drop(columns=["target", "label", "weight"])
        outcomes.append(found[found["index"].isin(part["index"])])
    return Verified(_compared(rows, pd.concat(outcomes, ignore_index=True)), triage.policy.level)


def _drawn(route: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Positions of the requests to measure, in order: of every route its share, at least one."""
    rng = np.random.default_rng(seed)
    samples = min(samples, len(route))
    chosen: list[int] = []
    for name in ROUTES:
        own = rng.permutation(np.flatnonzero(route == name))
        chosen += own[: max(1, int(samples * len(own) / len(route)))].tolist()
    rest = rng.permutation(np.setdiff1d(np.arange(len(route)), chosen))
    return np.sort(np.array([*chosen, *rest[: max(0, samples - len(chosen))].tolist()]))


def _least_harmful(triage: Triage) -> str:
    """The unlearner that is forecast to do the least harm to the queue's samples on average."""
    predictor = triage.report.predictor
    features = triage.report.factors.values[list(predictor.features)]
    under = predictor.predict_unlearners(features, triage.objective)
    if under.shape[1] == 0:
        raise InputError("this predictor names no unlearner: give one (--unlearner)")
    return str(under.mean().idxmin())


def _as_forecast(triage: Triage, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the forecast for their unlearner, where the queue names none."""
    predictor = triage.report.predictor
    unnamed = rows["steps"].isna()
    if not unnamed.any() or not len(predictor.predict_unlearners(_features(triage, rows), triage.objective).columns):
        return rows
    part = rows[unnamed]
    named = part["unlearner"].tolist()
    run = run_forecast(predictor, _features(triage, part), triage.objective, named, triage.policy.level)
    rows.loc[unnamed, run.columns] = run.to_numpy()
    return rows


def _features(triage: Triage, rows: pd.DataFrame) -> pd.DataFrame:
    return triage.report.factors.values.loc[rows["index"], list(triage.report.predictor.features)]


def _compared(rows: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    outcomes = outcomes.assign(measured_harm=difficulty(outcomes))
    measured = outcomes.groupby("index").agg(
        trivial=("trivial", "all"),
        measured_harm=("measured_harm", "mean"),
        measured_steps=("steps", "mean"),
        measured_collateral_test=("tv_test", "mean"),
        measured_collateral_neighbours=("tv_neighbours", "mean"),
        reached=("reached", "all"),
    )
    table = rows.join(measured, on="index")
    inside = table["measured_harm"].between(table["harm_lower"], table["harm_upper"]).astype(object)
    table["inside"] = inside.where(~table["trivial"].astype(bool) & table["harm_lower"].notna(), None)
    columns: Sequence[str] = [
        *("row", "id", "index", "route", "unlearner", "trivial", "p_trivial"),
        *("harm", "harm_lower", "harm_upper", "measured_harm", "inside", "steps", "measured_steps"),
        *("collateral_test", "measured_collateral_test"),
        *("collateral_neighbours", "measured_collateral_neighbours", "reached"),
    ]
    return table[list(columns)]


def _mean(values: pd.Series) -> str:
    """Mean with a bootstrap interval (95 %, samples redrawn)."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values.to_numpy(dtype=float)[drawn].mean(axis=1), [0.025, 0.975])
    return f"{significant(values.mean())} [{significant(low)}, {significant(high)}]"
