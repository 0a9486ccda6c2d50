"""A screened queue of deletion requests as one self-contained HTML page: what to do with each, in which order, and why.

Like ``report`` it loads nothing from elsewhere and allows no script but its own, which sorts and filters the queue;
without scripts everything is still there to read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from forgetcast.errors import InputError
from forgetcast.report.forecast import Forecast
from forgetcast.report.page_parts import factor_title, factor_titles, factor_values, svg, template, write_whole
from forgetcast.report.plots import waterfall
from forgetcast.report.sections import sections_of
from forgetcast.screening import plots
from forgetcast.screening.columns import COLUMNS
from forgetcast.screening.routes import ROUTE, ROUTE_MEANINGS
from forgetcast.wording import duration, flat

__all__ = ["Screened", "render_triage_html", "write_triage_html"]

POLICY_MEANINGS = {
    "trivial_from": "P(trivial) from which a request is trivial",
    "quick_to": "harm up to which a request is quick, if even the upper bound of its forecast is no greater",
    "retrain_from": "forecast harm from which a request is sent to retraining",
    "unlearners": "unlearners that may be named; where not given, all that the predictor knows",
    "level": "what the intervals are made to cover",
    "retrain_epochs": "epochs of one retraining, from which its wall time is reckoned where none is known or timed",
    "retrain_seconds": "wall time of one retraining, in seconds, where it is known; then none is timed",
    "interaction_from": "change of each other's true-label probability from which two requests interact",
    "step_margin": "the step limit is the predicted number of steps times this",
    "trust_unfamiliar": "whether these thresholds hold where the forecast is an extrapolation; else careful at least",
}
ONE_ROW_EACH = (
    "Every forecast is of one row by itself. Rows of one person vouch for each other: without one of them the model "
    "may still know what it knows from all of them, and not without all. So together they may not be what each is "
    "alone."
)
"""What a forecast of single rows cannot show."""
EXPLAINED_ROUTES = tuple(name for name, route in ROUTE.items() if route.explained)
EXPLAINED_BARS = 9
EXTRA_COLUMNS = 6
"""Most columns of the requests in the table of the queue; the details have them all."""
LONGEST_CELL = 40
"""Most characters of such a column or an id in the table of the queue; the details have the whole text."""
LISTED_PAIRS = 20
"""Most pairs listed per group, the strongest first."""


class Policy(Protocol):
    """Thresholds that route requests."""

    @property
    def fingerprint(self) -> str:
        """Hash of the thresholds."""

    def to_dict(self) -> dict[str, Any]:
        """Thresholds by name."""


class Screened(Protocol):
    """What the page shows of a screened queue."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per request that can be served: ``COLUMNS`` and those that came with the requests."""

    @property
    def problems(self) -> pd.DataFrame:
        """Requests that cannot: row, id, problem."""

    @property
    def interactions(self) -> pd.DataFrame:
        """Pairs of samples: first, second, effect, shared_neighbours, group."""

    @property
    def batch(self) -> dict[str, Any]:
        """Counts, costs and advice for the queue as a whole."""

    @property
    def policy(self) -> Policy:
        """The thresholds that routed it."""

    @property
    def report(self) -> Forecast:
        """The forecast behind it."""

    @property
    def objective(self) -> str:
        """``retrain`` or ``erase``."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, fingerprints and settings."""


def render_triage_html(triage: Screened, *, explained: int = 25) -> str:
    """The screened queue as one HTML page, the same text for the same queue; sections of plugins, which are about the
    forecast behind it, stand at the end.

    Args:
        triage: what screening returned.
        explained: how many of the requests that are careful or go to retraining are explained by a picture, the first
            in processing order.

    Raises:
        InputError: ``explained`` is negative.
    """
    if explained < 0:
        raise InputError(f"explained: expected a count of at least 0; got {explained}")
    table = triage.table.sort_values("order")
    extra = [str(name) for name in table.columns if name not in COLUMNS]
    requests = [_request(row, extra) for row in table.to_dict("records")]
    ids = {request["index"]: request for request in requests}
    groups = _groups(triage, requests, ids)
    hard = [request for request in requests if request["route"] in EXPLAINED_ROUTES]
    for request in hard[:explained]:
        request |= _waterfall(triage, request["index"])
    policy = triage.policy.to_dict()
    routes = triage.batch["routes"]
    whole = triage.batch["retraining_seconds"]
    preparing = _preparing(table, triage.batch["unlearning_seconds"])
    filters: dict[str, Callable[..., Any]] = {
        "fine": _fine,
        "duration": duration,
        "percent": _percent,
        "about": _about,
        "short": _short,
        "sentence": _sentence,
    }
    return template("triage.html.j2", **filters).render(
        target=str(triage.report.provenance.get("target", "")),
        objective=triage.objective,
        level=policy.get("level"),
        batch=triage.batch,
        preparing=preparing,
        routes=[
            {"name": name, "count": int(routes.get(name, 0)), "meaning": meaning, "place": place}
            for place, (name, meaning) in enumerate(ROUTE_MEANINGS.items())
        ],
        requests=requests,
        explained=min(explained, len(hard)),
        extra=extra,
        shown=extra[:EXTRA_COLUMNS],
        groups=groups,
        sets=[
            [request for request in requests if request["alike"] == number]
            for number in sorted({request["alike"] for request in requests} - {0})
        ],
        alone=ONE_ROW_EACH,
        person_column=triage.provenance.get("person_column"),
        problems=triage.problems.to_dict("records"),
        policy=[(name, POLICY_MEANINGS.get(name, ""), _setting(value)) for name, value in policy.items()],
        provenance=[*flat(triage.provenance)],
        factors=[
            (factor_title(triage.report.factors, k), why)
            for k, why in sorted(triage.report.factors.not_applicable.items())
        ],
        costs=svg(
            lambda: plots.queue_costs(table, whole, preparing_seconds=preparing),
            "queue-costs",
            f"Area of seconds summed up in processing order: {duration(triage.batch['unlearning_seconds'])} in all, "
            f"one retraining {duration(whole)}",
        ),
        map=svg(
            lambda: plots.queue_map(table, quick_to=policy.get("quick_to"), retrain_from=policy.get("retrain_from")),
            "queue-map",
            "Dots of forecast harm with intervals, by route: "
            + ", ".join(f"{name} {routes.get(name, 0)}" for name in ROUTE_MEANINGS),
        ),
        sections=sections_of(triage.report),
    )


def write_triage_html(triage: Screened, path: str | os.PathLike[str], **options: Any) -> Path:
    """Write the page as one HTML file, whole or not at all; missing parent folders are made.

    ``options`` are those of ``render_triage_html``.

    Raises:
        PathError: the path is a folder or cannot be written.
        InputError: as for ``render_triage_html``.
    """
    return write_whole(path, lambda: render_triage_html(triage, **options), "triage")


# -- parts of the page --------------------------------------------------------------------------------------


def _request(row: Mapping[Any, Any], extra: list[str]) -> dict[str, Any]:
    """One request as the template needs it."""
    return {
        **{str(name): value for name, value in row.items()},
        "place": list(ROUTE_MEANINGS).index(str(row["route"])) if row["route"] in ROUTE_MEANINGS else "",
        "unfamiliar": bool(row["unfamiliar"]),
        "group": int(row["group"]),
        "alike": int(row["alike"]),
        "person_rows": int(row["person_rows"]),
        "extra": {name: _text(row[name]) for name in extra},
        "svg": None,
        "partners": [],
    }


def _groups(
    triage: Screened, requests: list[dict[str, Any]], by_index: Mapping[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The groups of requests that interact, each with its strongest pairs; requests learn their partners."""
    pairs = triage.interactions.sort_values(["effect", "first", "second"], ascending=[False, True, True])
    pairs = pairs[pairs["first"].isin(by_index) & pairs["second"].isin(by_index)]
    known: dict[int, list[dict[str, Any]]] = {}
    for pair in pairs.to_dict("records"):
        first, second = by_index[pair["first"]], by_index[pair["second"]]
        first["partners"].append((second, pair["effect"]))
        second["partners"].append((first, pair["effect"]))
        known.setdefault(int(pair["group"]), []).append(
            {str(k): v for k, v in pair.items()} | {"ends": (first, second)}
        )
    numbers = sorted({request["group"] for request in requests if request["group"] > 0})
    return [
        {
            "number": number,
            "members": [request for request in requests if request["group"] == number],
            "pairs": known.get(number, [])[:LISTED_PAIRS],
            "left_out": max(0, len(known.get(number, [])) - LISTED_PAIRS),
        }
        for number in numbers
    ]


def _waterfall(triage: Screened, index: int) -> dict[str, Any]:
    """Picture and signed sentences of one request's forecast."""
    report = triage.report
    explanation = report.explain(index, triage.objective)
    table, names = report.factors, [str(name) for name in explanation.by_factor.index]
    strongest = factor_title(table, str(explanation.by_factor.astype(float).abs().idxmax())) if names else "none"
    return {
        "svg": svg(
            lambda: waterfall(
                explanation,
                titles=factor_titles(table),
                values=factor_values(table, index, names),
                max_reasons=EXPLAINED_BARS,
            ),
            f"waterfall-{index}",
            f"Waterfall of sample {index}, from the average forecast {explanation.base:.2f} to "
            f"{np.clip(explanation.prediction, 0, 1):.2f}; the largest shift comes from: {strongest}",
        )
    }


def _preparing(table: pd.DataFrame, total: float | None) -> float:
    """Seconds of the total that belong to no request: what unlearners compute once."""
    alone = table.loc[table["route"] != "retrain", "seconds"].sum()
    return 0.0 if _missing(total) or total is None else max(0.0, float(total) - float(alone))


# -- words and numbers --------------------------------------------------------------------------------------


def _fine(value: Any) -> str:
    """Three decimals, for what is often near 0; a dash for what is missing.

    >>> [_fine(value) for value in (0.0214, 0.0001, 0.0, float("nan"), None)]
    ['0.021', '<0.001', '0', '–', '–']
    """
    if _missing(value):
        return "–"
    if 0 < value < 0.0005:
        return "<0.001"
    return f"{value:.3f}".replace("-", "−") if value else "0"


def _percent(share: Any) -> str:
    """A share as a percentage, or how many times the whole.

    >>> [_percent(value) for value in (0.0, 0.0004, 0.034, 0.5, 1.2, 142.7, float("nan"))]
    ['0%', '<0.1%', '3.4%', '50%', '120%', '143 times', '–']
    """
    if _missing(share):
        return "–"
    if 0 < share < 0.001:
        return "<0.1%"
    if share >= 10:
        return f"{share:,.0f} times"
    return f"{100 * share:.1f}%" if 0 < share < 0.1 else f"{100 * share:,.0f}%"


def _about(number: Any) -> str:
    """A number of requests that need not be whole.

    >>> [_about(value) for value in (0.336, 4.25, 37.2, 1234.5, None)]
    ['0.34', '4.2', '37', '1,234', '–']
    """
    return "–" if _missing(number) else f"{number:.2g}" if number < 10 else f"{number:,.0f}"


def _short(text: str) -> str:
    """Enough of a long text for a cell.

    >>> len(_short("x" * 500)), _short("some words")
    (40, 'some words')
    """
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _sentence(clause: str) -> str:
    """A clause with a capital and a full stop.

    >>> _sentence("unlearn one request"), _sentence("As it is.")
    ('Unlearn one request.', 'As it is.')
    """
    return clause[:1].upper() + clause[1:] + ("" if clause.endswith((".", "!", "?")) else ".")


def _text(value: Any) -> str:
    """A value that came with a request, as it came; nothing where there is none."""
    return "" if _missing(value) else str(value)


def _setting(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "not given" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
