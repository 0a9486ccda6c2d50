"""What would change the verdict: forecasts with one family of a sample's factors made typical for its class.

These are statements about the forecast, not about the world. Nobody can give a sample another neighbourhood and leave
its loss as it is: factors hang together, and the predictor then answers for a sample that may not exist. They say which
family the forecast hangs on, by asking the predictor instead of dividing credit as SHAP values do.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from forgetcast.predictor.tiers import tiers
from forgetcast.report.explain import Explainer

__all__ = ["sentences", "what_would_change"]

VISIBLE = 0.005
"""Changes of the percentile below it cannot be seen in two decimals and are not reported."""

WORDS = {
    "boundary": "its distance to the decision boundary were",
    "confidence": "the model's confidence in it were",
    "context": "the size of its class were",
    "entanglement": "its entanglement with other samples were",
    "gradients": "its gradients were",
    "neighbours": "its neighbourhood were",
    "rehearsal": "its rehearsal on the last layer were",
    "retraining": "retrained models gave its label a probability",
    "stein": "its ties to other samples (Stein kernel) were",
    "surrogates": "simple models gave its label a probability",
    "trajectory": "its course during training were",
}
"""Conditions by family, which "typical for its class" completes; a family of a plugin is called by its name."""


def what_would_change(explainer: Explainer, index: int, objective: str | None = None) -> pd.DataFrame:
    """Forecast a sample anew, once per family, with that family's columns at the medians of its class.

    It is a statement about the forecast, not about the world: the other families stay as they are, which no real sample
    would do. Columns are the factors and their quantiles; where the class has fewer than 10 samples in the table's
    population, or labels are not known, the medians are those of all samples of the model. Families in which the sample
    already has these values are left out, so that what holds for the target as a whole never appears.

    Args:
        explainer: explains the forecasts of a target.
        index: a sample that it can explain.
        objective: "retrain" or "erase"; the predictor's first where it is None.

    Returns:
        One row per family, the largest change of the percentile first: family, percentile, change (of the percentile),
        tier and p_trivial then; percentile_now, tier_now and p_trivial_now; sentence.

    Raises:
        IndexError: no such sample.
        UnknownNameError: no such objective.
    """
    objective = explainer.predictor.objectives[0] if objective is None else objective
    now, (usual, where) = explainer.features(index), explainer.typical(index)
    changed = {family: now.assign(**usual[columns]) for family, columns in explainer.columns.items()}
    changed = {family: row for family, row in changed.items() if not row.equals(now)}
    rows = pd.concat([now, *changed.values()], ignore_index=True)
    forecast = explainer.predictor.predict(rows, objective)
    percentile, p_trivial = forecast["percentile"].to_numpy(), forecast["p_trivial"].to_numpy()
    tier = tiers(percentile, p_trivial, explainer.tier_bounds(objective))
    table = pd.DataFrame(
        {
            "family": list(changed),
            "percentile": percentile[1:],
            "change": percentile[1:] - percentile[0],
            "tier": tier[1:],
            "p_trivial": p_trivial[1:],
            "percentile_now": percentile[0],
            "tier_now": tier[0],
            "p_trivial_now": p_trivial[0],
        }
    )
    typical = "typical for its class" if where == "class" else "typical for this model"
    table["sentence"] = [_sentence(row, typical) for _, row in table.iterrows()]
    return table.iloc[np.argsort(-table["change"].abs().to_numpy(), kind="stable")].reset_index(drop=True)


def sentences(changes: pd.DataFrame, most: int) -> list[str]:
    """Sentences of ``what_would_change`` that report a change, ``most`` at most; none if no family alone makes one."""
    return list(changes.loc[changes["change"].abs() >= VISIBLE, "sentence"].head(most))


def _sentence(row: pd.Series, typical: str) -> str:
    family = str(row["family"])
    condition = WORDS.get(family, f"its {family.replace('_', ' ')} factors were")
    now, then = (f"{row[f'percentile{when}']:.2f}" for when in ("_now", ""))
    if row["tier"] != row["tier_now"]:
        verb = f"would be {then} ({row['tier']}) instead of {now} ({row['tier_now']})"
    elif now != then:
        verb = f"would be {then} instead of {now}, still {row['tier']}"
    else:
        verb = f"would stay {now} ({row['tier']})"
    return f"if {condition} {typical}, the forecast {verb}"
