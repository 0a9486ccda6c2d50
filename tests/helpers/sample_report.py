"""A real report on synthetic factors: fitted predictor, forecasts, explanations; no model and no data needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import MappingProxyType

import numpy as np
import pandas as pd

from forgetcast.factors import Factor, FactorTable
from forgetcast.predict import DifficultyReport, tier_bounds, tiers
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.report.explain import Explainer
from synthetic import FEATURES, training_table

FAMILIES = {
    "loss": "confidence",
    "margin": "confidence",
    "neighbour_share": "neighbours",
    "noise": "gradients",
    "train_accuracy": "context",
}
ABSENT = "noise"


@cache
def predictor() -> DifficultyPredictor:
    """Fitted once to four synthetic targets."""
    params = {"num_boost_round": 40, "learning_rate": 0.1, "min_data_in_leaf": 5}
    return DifficultyPredictor.fit(training_table(targets=4), FEATURES, params=params, n_jobs=1)


def sample_report(
    n: int = 120,
    objectives: Sequence[str] = ("retrain", "erase"),
    indices: Sequence[int] | None = None,
    measured: int = 0,
    title: str = "Loss of the sample's own label.",
    target: str = "a target",
) -> DifficultyReport:
    """Forecasts for a target of ``n`` samples whose gradient factor does not apply; ``measured`` of them measured."""
    values = training_table(targets=1, rows=n, seed=9)[FEATURES].rename_axis("index")
    values[[ABSENT, f"{ABSENT}_quantile"]] = np.nan
    factors = {
        name: Factor(
            name=name,
            family=family,
            title=title if name == "loss" else f"Title of {name.replace('_', ' ')}. Shape (n,).",
            source="ours",
            unit="nats" if name == "loss" else "",
            high=f"its {name} is high",
            low=f"its {name} is low",
            function=lambda: None,
            probes=(),
            settings=MappingProxyType({}),
            per_target=family == "context",
        )
        for name, family in FAMILIES.items()
    }
    table = FactorTable(values, {ABSENT: "no checkpoints were given"}, factors, {"margin": "one layer was left out"})
    explainer = Explainer(predictor(), table)
    index = np.arange(n) if indices is None else np.asarray(indices, dtype=np.int64)
    parts = []
    for objective in objectives:
        forecast = predictor().predict(values.iloc[index], objective).reset_index(drop=True)
        forecast.insert(0, "index", index)
        forecast.insert(1, "objective", objective)
        forecast.insert(2, "label", index % 3)
        percentile, p_trivial = forecast["percentile"].to_numpy(), forecast["p_trivial"].to_numpy()
        forecast["tier"] = tiers(percentile, p_trivial, tier_bounds(percentile, p_trivial))
        forecast["reasons"] = explainer.sentences(index, objective)
        parts.append(forecast)
    provenance = {
        "forgetcast": "0.1.0",
        "predictor": predictor().fingerprint,
        "target": target,
        "model": "ab" * 32,
        "data": "cd" * 32,
        "n": n,
        "settings": {"seed": 0, "level": 0.9},
    }
    report = DifficultyReport(pd.concat(parts, ignore_index=True), table, predictor(), provenance)
    return report.measured(measurements(report, measured)) if measured else report


def measurements(report: DifficultyReport, count: int) -> pd.DataFrame:
    """The forecast of ``count`` samples with noise, as if it had been measured."""
    rng = np.random.default_rng(5)
    chosen = rng.choice(report.table["index"].unique(), count, replace=False)
    rows = report.table[report.table["index"].isin(chosen)]
    return pd.DataFrame(
        {
            "index": rows["index"],
            "objective": rows["objective"],
            "difficulty": (rows["difficulty"] + rng.normal(0, 0.02, len(rows))).clip(0, 1),
            "percentile": (rows["percentile"] + rng.normal(0, 0.1, len(rows))).clip(0, 1),
        }
    )
