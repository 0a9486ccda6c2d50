"""Is a newly trained predictor better than an old one? Both forecast targets that neither was fitted to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from forgetcast.errors import shortened
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.scores import bootstrap_rho
from forgetcast.predictor.columns import objectives_of
from forgetcast.predictor.heads import Head, fit_without
from forgetcast.predictor.predictor import DifficultyPredictor

__all__ = ["TOLERANCE", "Comparison", "compare"]

TOLERANCE = 0.02
"""How much lower a rank correlation may turn out and still be called no worse."""

SUMMARY = ["objective", "targets", "old", "new", "difference", "low", "high", "verdict"]
PER_TARGET = ["objective", "target", "rows", "old", "new", "old_fit"]


@dataclass(frozen=True)
class Comparison:
    """New predictor against an old one, by the rank correlation of forecast and measurement on held-out targets."""

    against: str
    """What the old one is called."""
    summary: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SUMMARY))
    """One row per objective: targets (how many were compared), old and new (mean rho), difference with its 95 %
    interval (paired bootstrap, instances and targets redrawn), verdict: "better" (the whole interval is above 0),
    "worse" (below 0), "no worse" (above -0.02) or "unclear"."""
    per_target: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PER_TARGET))
    """One row per objective and target: rows, old, new, and old_fit: the old one "as saved", or "refitted without it"
    where it was fitted to the target."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Targets that were not compared, and why."""
    reasons: tuple[str, ...] = ()
    """Why objectives, or everything, could not be compared."""
    undecided: tuple[str, ...] = ()
    """Objectives of the old one that were not compared, though the new one's forecasts are other ones or none."""

    @property
    def better(self) -> bool:
        """The new one is better for an objective, and at least no worse for every other that the old one forecasts."""
        verdicts = set(self.summary["verdict"])
        return "better" in verdicts and verdicts <= {"better", "no worse"} and not self.undecided

    def sentences(self) -> list[str]:
        """The verdict in plain words."""
        said = [
            f"for {row['objective']} the new predictor is "
            f"{'not clearly better or worse' if row['verdict'] == 'unclear' else row['verdict']}: "
            f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            for row in self.summary.to_dict(orient="records")
        ]
        for reason in dict.fromkeys(self.left_out.values()):
            names = [name for name, why in self.left_out.items() if why == reason]
            said.append(f"not compared on {shortened(names)}: {reason}")
        return [*said, *self.reasons]


def compare(
    old: DifficultyPredictor,
    table: pd.DataFrame,
    settings: FitSettings,
    *,
    against: str = "old",
    continue_from: DifficultyPredictor | None = None,
    tuned_on: Collection[str] = (),
    progress: bool = False,
) -> Comparison:
    """Compare a predictor with the one that would be fitted to a table.

    The new one forecasts each target by a fit to all others. The old one is taken as it is on targets it was not fitted
    to. On those it was fitted to its forecasts are no test; if the table holds just what it was fitted to, it is fitted
    again without each of them (by this version of forgetcast), else they are left out.

    Args:
        old: the predictor that is there.
        table: training table of the new one (``evaluation.table.training_table``).
        settings: of the fits of the new one, and of the bootstrap.
        against: what the old one is called.
        continue_from: what the new one goes on from (see ``DifficultyPredictor.fit``).
        tuned_on: targets that the parameters were chosen on: fitted to, but not compared.
        progress: a bar on stderr.
    """
    table = table.astype({"target": str}).reset_index(drop=True)
    objectives = objectives_of(table)
    same = [name for name in old.objectives if continue_from and continue_from.heads(name) == old.heads(name)]
    changed = [name for name in old.objectives if name in objectives or name not in same]
    reasons = [f"for {name} the corpus has no labels to compare by" for name in changed if name not in objectives]
    names = list(dict.fromkeys(table["target"]))
    missing = [name for name in old.features if name not in table]
    if missing:
        reason = f"{against} needs factors that the corpus lacks: {shortened(missing)}"
        return Comparison(against, reasons=(reason,), undecided=tuple(changed))
    if len(names) < 2:
        reason = f"there is only one target to learn from, {names[0]}: none can be held out; measure more of them"
        return Comparison(against, reasons=(reason,), undecided=tuple(changed))
    seen = set(old.manifest["training"]["rows"]) & set(names)
    refitted = seen if _holds_what_it_was_fitted_to(old, table) else set()
    left_out = {name: f"{against} was fitted to it" for name in names if name in seen - refitted}
    suited = refitted & _tuned_on(old)
    left_out |= {name: f"parameters of {against} were chosen on it" for name in names if name in suited}
    left_out |= {name: "parameters were chosen on it" for name in names if name in tuned_on}
    scored = [name for name in names if name not in left_out]
    summary, per_target = [], []
    for objective in [name for name in objectives if name in old.objectives]:
        rows = table.dropna(subset=[f"percentile_{objective}"]).reset_index(drop=True)
        own = rows[rows["target"].isin(scored)]
        init = None if continue_from is None else continue_from.heads(objective)
        new = _held_out(rows, objective, scored, settings, init, progress and "comparing")
        fresh = own[~own["target"].isin(refitted)]
        forecasts = [old.predict(fresh[list(old.features)], objective)["percentile"]]
        if refitted:
            mine = rows[rows["target"].isin(refitted)]
            its = FitSettings(old.features, old.manifest["params"], int(old.manifest["seed"]), settings.n_jobs)
            forecasts.append(_held_out(mine, objective, scored, its, None, progress and "refitting"))
        both = pd.DataFrame({"old": pd.concat(forecasts), "new": new}).loc[own.index].dropna()
        own = own.loc[both.index]
        boot = bootstrap_rho(
            {name: both[name].to_numpy() for name in ("old", "new")},
            own[f"percentile_{objective}"].to_numpy(dtype=float),
            own["target"].to_numpy(dtype=object),
            resamples=settings.resamples,
            seed=settings.seed,
        )
        if not boot.targets:
            reasons.append(f"for {objective} no target is left with enough samples to compare on")
            continue
        gain = boot.mean("new", "old")
        interval = gain["low_targets"], gain["high_targets"]
        means = [boot.mean(name)["rho"] for name in ("old", "new")]
        summary.append([objective, len(boot.targets), *means, gain["rho"], *interval, _verdict(*interval)])
        for name, *rho in zip(boot.targets, *boot.rho.tolist(), strict=True):
            fit = "refitted without it" if name in refitted else "as saved"
            per_target.append([objective, name, int((own["target"] == name).sum()), *rho, fit])
    frames = pd.DataFrame(summary, columns=SUMMARY), pd.DataFrame(per_target, columns=PER_TARGET)
    undecided = tuple(name for name in changed if name not in set(frames[0]["objective"]))
    return Comparison(against, *frames, left_out, tuple(reasons), undecided)


def _held_out(
    rows: pd.DataFrame,
    objective: str,
    scored: Sequence[str],
    settings: FitSettings,
    init: Mapping[str, Head] | None,
    title: str | bool,
) -> pd.Series:
    """Percentiles of the scored targets' rows, each target forecast by a fit to the others; NaN for other rows, and
    where there are no others to fit to. Index of ``rows``."""
    targets = rows["target"].to_numpy(dtype=object)
    only = [name for name in dict.fromkeys(targets) if name in scored]
    if not only or (not init and len(set(targets)) < 2):
        return pd.Series(np.nan, index=rows.index)
    forecast = fit_without(
        rows,
        settings.features,
        objective,
        targets,
        heads=("percentile",),
        params=settings.params,
        seed=settings.seed,
        n_jobs=settings.n_jobs,
        only=only,
        init=init,
        title=f"{title}, {objective}" if title else "",
    )
    return forecast["percentile"].clip(0, 1)


def _holds_what_it_was_fitted_to(old: DifficultyPredictor, table: pd.DataFrame) -> bool:
    """Whether a fit to the table's rows of the old one's targets would be the old one's fit."""
    training = old.manifest["training"]
    counts = table.groupby("target").size()
    return (
        len(training["rows"]) > 1
        and "continued_from" not in training
        and "seed" in old.manifest
        and "params" in old.manifest
        and all(counts.get(name, 0) == count for name, count in training["rows"].items())
    )


def _tuned_on(old: DifficultyPredictor) -> set[str]:
    """The targets that the old one's parameters were chosen on, as ``train_predictor`` records them."""
    tuning = old.manifest["provenance"].get("tuning")
    return set(map(str, tuning.get("validated_on", ()))) if isinstance(tuning, dict) else set()


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "no worse" if low > -TOLERANCE else "unclear"
