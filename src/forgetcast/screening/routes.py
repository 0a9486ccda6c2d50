"""From the forecast of a deletion request to what should be done about it, by the thresholds of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forgetcast.screening.policy import Policy

__all__ = ["ROUTE", "ROUTES", "ROUTE_MEANINGS", "Route", "routes", "why"]


@dataclass(frozen=True)
class Route:
    """What terminals, pages and totals have to know of a route."""

    meaning: str
    """What to do with a request, in words."""
    tier: str
    """The tier of difficulty whose colour it takes."""
    unlearns: bool = False
    """Whether its requests are unlearned, which costs the queue time and harm."""
    explained: bool = False
    """Whether the page explains its requests one by one."""


ROUTE = {
    "trivial": Route("the goal is very probably met already: delete the record, and check", "trivial"),
    "quick": Route(
        "unlearn with the unlearner and strength named; the harm is very probably negligible", "easy", unlearns=True
    ),
    "careful": Route(
        "unlearn with the unlearner and strength named, then check what it did before the model is used",
        "medium",
        unlearns=True,
        explained=True,
    ),
    "retrain": Route(
        "unlearning is forecast to do so much harm that the model should be trained again without the sample",
        "hard",
        explained=True,
    ),
}
"""Every route, from the least effort to the most. A new one has its line here, its condition in :func:`routes` and its
sentence in :func:`why`."""

ROUTES = tuple(ROUTE)
ROUTE_MEANINGS = {name: route.meaning for name, route in ROUTE.items()}


def routes(
    forecast: pd.DataFrame, policy: Policy, *, unfamiliar: bool = False, person_rows: np.ndarray | None = None
) -> np.ndarray:
    """Route of every request, shape (m,).

    "trivial" where the goal is met already with a probability of at least ``policy.trivial_from``; else "retrain" where
    the forecast harm is at least ``policy.retrain_from``; else "quick" where even the upper bound of the harm is at
    most ``policy.quick_to``; else "careful". Where the forecast is an extrapolation, what would be trivial or quick is
    careful unless the policy says ``trust_unfamiliar``; so is what has no upper bound. Where a person asks for more
    than one row, or it is not known whose row it is, what would be trivial or quick by itself is careful.

    Args:
        forecast: columns p_trivial, harm and harm_upper, all in [0, 1]; one row per request.
        policy: the thresholds.
        unfamiliar: whether model and data are unlike those that the predictor knows.
        person_rows: how many rows each request's person asks for, (m,); 0: not known. None: people are not asked about.

    >>> forecast = pd.DataFrame({"p_trivial": [0.95, 0.1, 0.1, 0.1], "harm": [0, 0.01, 0.05, 0.3],
    ...                          "harm_upper": [0.1, 0.015, 0.09, 0.5]})
    >>> routes(forecast, Policy()).tolist()
    ['trivial', 'quick', 'careful', 'retrain']
    >>> routes(forecast, Policy(), unfamiliar=True).tolist()
    ['careful', 'careful', 'careful', 'retrain']
    >>> routes(forecast, Policy(), person_rows=np.array([1, 2, 2, 0])).tolist()
    ['trivial', 'careful', 'careful', 'retrain']
    """
    trivial = forecast["p_trivial"].to_numpy() >= policy.trivial_from
    retrain = ~trivial & (forecast["harm"].to_numpy() >= policy.retrain_from)
    quick = ~trivial & ~retrain & (forecast["harm_upper"].to_numpy() <= policy.quick_to)
    if unfamiliar and not policy.trust_unfamiliar:
        trivial, quick = np.zeros_like(trivial), np.zeros_like(quick)
    if person_rows is not None:
        trivial, quick = trivial & (person_rows == 1), quick & (person_rows == 1)
    return np.select([trivial, retrain, quick], ["trivial", "retrain", "quick"], "careful").astype(object)


def why(row: Mapping[Any, Any], policy: Policy, *, unfamiliar: bool = False, person_rows: int | None = None) -> str:
    """One sentence on why a request has its route.

    Args:
        row: route, p_trivial, harm, harm_upper and unlearner of the request.
        policy: the thresholds.
        unfamiliar: whether model and data are unlike those that the predictor knows.
        person_rows: how many rows the request's person asks for; 0: not known. None: people are not asked about.

    >>> why({"route": "trivial", "p_trivial": 0.97}, Policy())
    'the goal is met before anything is unlearned, with a probability of 97% (trivial from 90%)'
    """
    if person_rows is not None and person_rows != 1 and row["route"] == "careful":
        alone = routes(pd.DataFrame([row]), policy, unfamiliar=unfamiliar)[0]
        own = why({**row, "route": alone}, policy, unfamiliar=unfamiliar)
        whose = (
            f"one of {person_rows} rows of this person: together they may not be what each is alone"
            if person_rows
            else "it is not known whose row this is, and so not whether it is the only one"
        )
        return f"{whose}; by itself {alone}: {own}"
    upper = float(row.get("harm_upper", np.nan))
    who = row.get("unlearner") or "unlearning"
    bound = "" if np.isnan(upper) else f", at most {_number(upper)} at the {policy.level:.0%} level"
    if row["route"] == "trivial":
        return (
            f"the goal is met before anything is unlearned, with a probability of {row['p_trivial']:.0%} "
            f"(trivial from {policy.trivial_from:.0%})"
        )
    if row["route"] == "retrain":
        return f"{who} is forecast to do a harm of {_number(row['harm'])}, {_number(policy.retrain_from)} or more"
    if row["route"] == "quick":
        limit = _number(policy.quick_to)
        return f"{who} is forecast to do little harm ({_number(row['harm'])}{bound}; quick up to {limit})"
    if unfamiliar and not policy.trust_unfamiliar:
        forecast = f"{who}'s forecast harm of {_number(row['harm'])} may be off"
        return f"model and data are unlike those the predictor knows: {forecast}"
    if np.isnan(upper):
        return (
            f"{who} is forecast to do a harm of {_number(row['harm'])}, and this predictor gives no upper bound for it"
        )
    return f"{who}'s forecast harm ({_number(row['harm'])}{bound}) is not surely below {_number(policy.quick_to)}"


def _number(value: float) -> str:
    """Two significant digits, and "0" for what rounds to nothing.

    >>> _number(0.0123), _number(0.00001), _number(0.5)
    ('0.012', '0', '0.5')
    """
    return f"{value:.2g}" if value >= 5e-5 else "0"
