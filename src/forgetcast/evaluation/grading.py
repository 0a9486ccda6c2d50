"""Forecasts of held-out groups, graded: order, rivals, ceilings, intervals, deciles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.labels import reliability
from forgetcast.evaluation.baselines import ridge, single_columns, single_factors
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.holdout import Group
from forgetcast.evaluation.scores import (
    Bootstrap,
    auc,
    bootstrap_rho,
    concordance,
    partial_rho,
    tie_ceiling,
    top_recall,
)
from forgetcast.objectives import PARTS
from forgetcast.predictor.familiarity import ODD_BELOW, contexts, familiarity

__all__ = ["against_ceilings", "grade", "noise_ceilings"]

BINS = 10
NAMED = {"KSD score": "stein_", "averaged confidence": "training_confidence"}
"""Scores of the literature, and what their columns begin with; of several the best on the other groups is taken."""
BASELINES = ("ridge", "best single factor", *NAMED, "best factor in hindsight", "memorization", "distance to the goal")
MEASURED = {"memorization", "best factor in hindsight", "distance to the goal"}
"""Rivals that use what is not known before unlearning: they bound, they do not forecast."""


def grade(
    predicted: pd.DataFrame,
    table: pd.DataFrame,
    group: Group,
    settings: FitSettings,
    *,
    tuned_on: Sequence[str],
    ceilings: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
    """All tables of one kind of group.

    Args:
        predicted: what ``holdout.leave_one_group_out`` returned.
        table: the training table that it was made of.
        group: what was left out at a time.
        settings: features, and seed and resamples of the bootstrap.
        tuned_on: targets that are not scored.
        ceilings: what :func:`noise_ceilings` returned.
    """
    features, bootstrap = settings.features, {"resamples": settings.resamples, "seed": settings.seed}
    out: dict[str, list[Any]] = {
        name: [] for name in ("summary", "differences", "parts", "factors", "metrics", "calibration")
    }
    per_target = []
    for objective, own in predicted.groupby("objective", sort=False):
        label = f"percentile_{objective}"
        rows = table.dropna(subset=[label]).reset_index(drop=True)
        rows["target"] = rows["target"].astype(str)
        own = own.reset_index(drop=True)
        groups = own["group"].to_numpy(dtype=object)
        columns = single_columns(rows, features)
        linear = ridge(rows, features, label, groups)
        scored = ~own["target"].isin(tuned_on).to_numpy()
        nontrivial = ~own["trivial_measured"].to_numpy(dtype=bool)
        boots: dict[str, Bootstrap] = {}
        for subset, kept in {"all": np.ones(len(own), dtype=bool), "not trivial": nontrivial}.items():
            if subset != "all" and (kept.all() or not kept.any()):
                continue
            singles, factors, chosen = single_factors(rows[kept], columns, label, groups[kept])
            scores = {"forecast": own["percentile"].to_numpy(float)[kept], "ridge": linear[kept]} | singles
            for name, prefix in NAMED.items():
                known = single_columns(rows, [str(column) for column in rows if str(column).startswith(prefix)])
                if known:
                    scores[name] = single_factors(rows[kept], known, label, groups[kept])[0]["best single factor"]
            if own["memorization"].notna().any():
                scores["memorization"] = _memorization(own[kept], group)
            if objective == "retrain" and "goal_distance" in rows:
                scores["distance to the goal"] = rows["goal_distance"].to_numpy(float)[kept]
            at = scored[kept]
            boot = bootstrap_rho(
                {name: score[at] for name, score in scores.items()},
                own["percentile_measured"].to_numpy(float)[kept][at],
                own["target"].to_numpy(dtype=object)[kept][at],
                **bootstrap,
            )
            boots[subset] = boot
            keys = {"group": group, "objective": objective, "subset": subset}
            for method in scores:
                worst_target, worst = boot.worst(method)
                out["summary"].append(
                    {**keys, "method": method}
                    | boot.mean(method)
                    | {"worst": worst, "worst_target": worst_target, "targets": len(boot.targets)}
                    | {"uses": _uses(method, chosen), "measured": method in MEASURED}
                )
            for rival in BASELINES:
                if rival in scores:
                    out["differences"].append({**keys, "against": rival} | boot.mean("forecast", rival))
            out["parts"].extend({**keys, **part} for part in _parts(own[kept & scored], bootstrap))
            out["factors"].extend((factors.assign(**keys)[[*keys, *factors.columns]]).to_dict(orient="records"))
            if subset == "all":
                best = singles["best single factor"]
        likeness = _familiarity(rows, features, groups)
        rows_of = _per_target(own, boots, group, str(objective), ceilings, scored, best, likeness)
        per_target.append(rows_of)
        out["metrics"].extend(_metrics(own[scored], rows_of, group, str(objective)))
        out["calibration"].append(_deciles(own[scored], group, str(objective)))
    return {
        "summary": pd.DataFrame(out["summary"]),
        "differences": pd.DataFrame(out["differences"]),
        "parts": pd.DataFrame(out["parts"]),
        "per_target": pd.concat(per_target, ignore_index=True),
        "metrics": pd.DataFrame(out["metrics"]),
        "factors": pd.DataFrame(out["factors"]),
        "calibration": pd.concat(out["calibration"], ignore_index=True),
        "predictions": predicted.assign(held_out=group),
    }


def _parts(own: pd.DataFrame, bootstrap: Mapping[str, int]) -> list[dict[str, Any]]:
    """How well every part of the outcome is ordered: part, rho with intervals, worst, worst_target, targets."""
    records = []
    for part in PARTS:
        if f"{part}_measured" in own:
            scores, measured = {part: own[part].to_numpy(float)}, own[f"{part}_measured"].to_numpy(float)
            boot = bootstrap_rho(scores, measured, own["target"].to_numpy(dtype=object), **bootstrap)
            name, worst = boot.worst(part)
            records.append(
                {"part": part, **boot.mean(part), "worst": worst, "worst_target": name, "targets": len(boot.targets)}
            )
    return records


def _memorization(own: pd.DataFrame, group: Group) -> np.ndarray:
    """True memorization as a score, its sign chosen on the other groups like that of any factor."""
    label = "percentile_measured"
    scores, _, _ = single_factors(own, ["memorization"], label, own["group"].to_numpy(dtype=object))
    return scores["best single factor"]


def _uses(method: str, chosen: Mapping[str, str]) -> str:
    if method == "best factor in hindsight":
        return chosen["hindsight"]
    if method != "best single factor":
        return ""
    names = [name for group, name in chosen.items() if group != "hindsight"]
    return ", ".join(f"{name} ({names.count(name)})" for name in sorted(set(names), key=names.count, reverse=True))


def _per_target(
    own: pd.DataFrame,
    boots: Mapping[str, Bootstrap],
    group: Group,
    objective: str,
    ceilings: pd.DataFrame,
    scored: np.ndarray,
    best: np.ndarray,
    likeness: Mapping[str, float],
) -> pd.DataFrame:
    records = []
    for target, rows in own[scored].groupby("target", sort=False):
        at = rows.index.to_numpy()
        nontrivial = ~rows["trivial_measured"].astype(bool)
        rho, low, high = boots["all"].of_target("forecast", str(target))
        gain, gain_low, _ = boots["all"].of_target("forecast", str(target), "best single factor")
        known = ceilings.query("objective == @objective and target == @target and kind != 'oracle'")["ceiling"]
        measured, score = rows["percentile_measured"].to_numpy(float), rows["percentile"].to_numpy(float)
        memorization = rows["memorization"].to_numpy(float)
        records.append(
            {
                "group": group,
                "objective": objective,
                "target": target,
                "n": len(rows),
                "nontrivial": int(nontrivial.sum()),
                "rho": rho,
                "low": low,
                "high": high,
                "baseline": boots["all"].of_target("best single factor", str(target))[0],
                "gain": gain,
                "gain_low": gain_low,
                "familiarity": likeness[str(target)],
                "ceiling": float(known.min()) if known.notna().any() else np.nan,
                "rho_nontrivial": boots.get("not trivial", boots["all"]).of_target("forecast", str(target))[0],
                "partial": np.nan if np.isnan(memorization).any() else partial_rho(score, measured, memorization),
                "auc": auc(rows["p_trivial"].to_numpy(float), rows["trivial_measured"].to_numpy()),
                "auc_baseline": auc(-best[at], rows["trivial_measured"].to_numpy()),
                "concordance": concordance(score, measured),
                "recall": top_recall(score, measured),
                "coverage": float(
                    rows["percentile_placed"].between(rows["percentile_lower"], rows["percentile_upper"]).mean()
                ),
                "coverage_difficulty": float(rows["difficulty_measured"].between(rows["lower"], rows["upper"]).mean()),
                "width": float((rows["percentile_upper"] - rows["percentile_lower"]).mean()),
                "width_difficulty": float((rows["upper"] - rows["lower"]).mean()),
                "mae": float(
                    np.average((rows["difficulty"] - rows["difficulty_measured"]).abs(), weights=rows["weight"])
                ),
                "difficulty": float(np.average(rows["difficulty"], weights=rows["weight"])),
                "difficulty_measured": float(np.average(rows["difficulty_measured"], weights=rows["weight"])),
            }
        )
    return pd.DataFrame(records)


def _familiarity(rows: pd.DataFrame, features: Sequence[str], groups: np.ndarray) -> dict[str, float]:
    """The p-value of every target against the targets of the other groups (``forgetcast.predictor.familiarity``)."""
    found = {}
    for group in dict.fromkeys(groups):
        known = contexts(rows[groups != group], features)
        for target, own in rows[groups == group].groupby("target", sort=False):
            found[str(target)] = familiarity(known, own).p_value
    return found


METRICS = {
    "partial": "partial rho given memorization",
    "auc": "AUC, trivial against not",
    "auc_baseline": "AUC, trivial against not, best single factor",
    "concordance": "pairs ordered rightly (chance 0.50)",
    "recall": "recall of the hardest tenth (chance 0.10)",
    "coverage": "coverage of 90 % intervals, percentile",
    "coverage_difficulty": "coverage of 90 % intervals, difficulty",
    "width": "width of 90 % intervals, percentile",
    "width_difficulty": "width of 90 % intervals, difficulty",
    "mae": "mean absolute error of difficulty (weighted)",
}


def _metrics(own: pd.DataFrame, per_target: pd.DataFrame, group: Group, objective: str) -> list[dict[str, Any]]:
    """Means over targets with their extremes, and what is read over all targets at once."""
    keys = {"group": group, "objective": objective}
    records = []
    for column, name in METRICS.items():
        values = per_target[column].dropna()
        if len(values):
            records.append(
                {**keys, "metric": name, "value": values.mean(), "lowest": values.min(), "highest": values.max()}
                | {"targets": len(values)}
            )
    targets = {"targets": len(per_target)}
    gains = per_target["gain_low"].dropna()
    if len(gains):
        name = "share of targets with a gain over the best single factor (95 %)"
        records.append({**keys, "metric": name, "value": float((gains > 0).mean())} | targets)
    strange = per_target[per_target["familiarity"] < ODD_BELOW]
    records.append({**keys, "metric": "targets flagged as unlike the others", "value": float(len(strange))} | targets)
    if len(strange):
        value = float(strange["coverage"].mean())
        records.append({**keys, "metric": "coverage on flagged targets, percentile", "value": value} | targets)
    pooled = _correlation(own["difficulty"], own["difficulty_measured"])
    records.append({**keys, "metric": "rho of difficulty over all targets' instances", "value": pooled} | targets)
    between = _correlation(per_target["difficulty"], per_target["difficulty_measured"])
    records.append({**keys, "metric": "rho of mean difficulty between targets", "value": between} | targets)
    naive = [
        np.average((rows["difficulty_measured"] - others.median()).abs(), weights=rows["weight"])
        for (name, _), rows in own.groupby(["group", "target"], sort=False)
        if len(others := own.loc[own["group"] != name, "difficulty_measured"])
    ]
    if naive:
        name = "mean absolute error of the other groups' median (weighted)"
        records.append({**keys, "metric": name, "value": float(np.mean(naive))} | targets)
    return records


def _deciles(own: pd.DataFrame, group: Group, objective: str) -> pd.DataFrame:
    """Predicted and measured mean difficulty in deciles of the prediction, over all targets, weighted."""
    bins = pd.qcut(own["difficulty"].rank(method="first"), min(BINS, len(own)), labels=False)
    records = [
        {
            "group": group,
            "objective": objective,
            "decile": int(number) + 1,
            "predicted": np.average(rows["difficulty"], weights=rows["weight"]),
            "measured": np.average(rows["difficulty_measured"], weights=rows["weight"]),
            "rows": len(rows),
        }
        for number, rows in own.groupby(bins)
    ]
    return pd.DataFrame(records)


def _correlation(a: pd.Series, b: pd.Series) -> float:
    return float(spearmanr(a, b).statistic) if min(a.nunique(), b.nunique()) > 1 else np.nan


def noise_ceilings(corpus: Corpus, unlearners: Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """target, objective, kind, reliability, ceiling.

    For noise the ceiling is the root of the reliability (correction for attenuation, Spearman 1904), which no
    correlation with the noisy label can exceed but by chance; for kind "ties" it is that of ``tie_ceiling``.
    """
    objectives = [name.removeprefix("percentile_") for name in table.columns if name.startswith("percentile_")]
    frame = pd.concat(
        [reliability(corpus.outcomes, corpus.instances, objective, unlearners) for objective in objectives],
        ignore_index=True,
    )
    frame = frame.assign(ceiling=np.sqrt(frame["reliability"].clip(0, 1)))
    ties = [
        {"target": target, "objective": objective, "kind": "ties", "ceiling": tie_ceiling(values)}
        for objective in objectives
        for target, rows in table.groupby("target", sort=False)
        if len(values := rows[f"percentile_{objective}"].dropna().to_numpy(dtype=float))
    ]
    frame = pd.concat([frame, pd.DataFrame(ties)], ignore_index=True)
    return frame.assign(target=frame["target"].astype(str))


def against_ceilings(ceilings: pd.DataFrame, per_target: pd.DataFrame) -> pd.DataFrame:
    """Ceilings and what share of them the forecast reaches on unseen targets, means over targets."""
    own = per_target[per_target["group"] == per_target["group"].iloc[0]]
    joined = ceilings.merge(own[["objective", "target", "rho"]], on=["objective", "target"])
    joined = joined.dropna(subset=["ceiling", "rho"])
    mean = joined.groupby(["objective", "kind"], sort=False)[["reliability", "ceiling", "rho"]].mean()
    mean["share"] = mean["rho"] / mean["ceiling"]
    mean["targets"] = joined.groupby(["objective", "kind"], sort=False).size()
    return mean.reset_index()
