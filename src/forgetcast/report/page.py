"""Report: one self-contained HTML file that a person can read, print, sort and keep as a record.

Nothing in the file is loaded from elsewhere: pictures are inline SVG whose text takes the page's own colour, so they
follow the reader's light or dark theme. A content security policy inside the file forbids all network access and
every script but the one that sorts tables.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forgetcast.errors import InputError, NotApplicableError
from forgetcast.predictor.agreement import spearman_interval
from forgetcast.report import plots
from forgetcast.report.counterfactual import sentences
from forgetcast.report.explain import SHARED_CREDIT
from forgetcast.report.forecast import Forecast
from forgetcast.report.movers import NOTHING_MOVES
from forgetcast.report.page_parts import (
    factor_title,
    factor_titles,
    factor_values,
    svg,
    template,
    write_whole,
)
from forgetcast.report.sections import sections_of
from forgetcast.wording import count, flat, number, signed

__all__ = ["render_html", "write_html"]

OBJECTIVE_MEANINGS = {
    "retrain": "After unlearning, the model should treat the sample as if it had never been trained on it. "
    "Memorised samples are hard; samples that a model trained without them classifies just as well are trivial.",
    "erase": "After unlearning, the model should no longer recognise the sample. "
    "Typical samples deep inside their class are hard, because their neighbours have to move with them.",
}
TIER_MEANINGS = {
    "trivial": "goal probably met before any unlearning",
    "easy": "the easier third of the others",
    "medium": "the third between",
    "hard": "the harder third",
}
CROSSFITTED = "percentile_crossfitted"
GLOBAL_SAMPLES = 2_000
"""Most samples in the view over all samples; more are drawn from at random."""
MEASURED_ROWS = 200
"""Most rows in a table of measured samples."""
MOVERS = 11
"""Most training samples shown that would move with an explained one: with it two rows of pictures."""
DEPENDENCES = 3
"""Factors whose effect is drawn against their value."""
REASONS = 6
"""Most sentences for one explained sample."""


def render_html(report: Forecast, *, rows: int = 25, waterfalls: int = 6, explain: Sequence[int] | None = None) -> str:
    """The report as one HTML page, the same text for the same report; sections of plugins stand at the end.

    Args:
        report: what ``predict_difficulty`` returned.
        rows: how many of the hardest and how many of the easiest samples are listed per objective; where there are
            at most twice as many samples, all of them are.
        waterfalls: how many of the hardest samples per objective are explained by a picture.
        explain: indices to explain in their place; they are listed too.

    Raises:
        InputError: ``rows`` or ``waterfalls`` is negative, or ``explain`` names a sample that the report lacks.
    """
    if rows < 0 or waterfalls < 0:
        raise InputError(f"rows and waterfalls: expected counts of at least 0; got {rows} and {waterfalls}")
    strangers = [index for index in explain or () if index not in set(report.table["index"])]
    if strangers:
        raise InputError(f"explain: the report has no forecast for sample {', '.join(map(str, strangers))}")
    objectives = list(dict.fromkeys(report.table["objective"]))
    manifest = report.predictor.manifest
    return template("report.html.j2").render(
        target=str(report.provenance.get("target", "")),
        model=str(report.provenance.get("model", ""))[:12],
        training_samples=report.provenance["n"],
        forecasts=report.table["index"].nunique(),
        level=manifest.get("intervals", {}).get("level"),
        calibrated=bool(report.calibrated),
        unlike=str(report.familiarity) if report.familiarity.out_of_distribution else "",
        objectives=[_objective(report, name, rows, waterfalls, explain) for name in objectives],
        not_applicable=[
            {"factor": factor_title(report.factors, name), "reason": reason}
            for name, reason in sorted(report.factors.not_applicable.items())
        ],
        notes=[
            {"factor": factor_title(report.factors, name), "note": note}
            for name, note in sorted(report.factors.notes.items())
        ],
        factors=len(report.factors.factors),
        shared_credit=SHARED_CREDIT,
        provenance=list(flat(report.provenance)),
        predictor=list(flat({k: manifest[k] for k in MANIFEST_SHOWN if k in manifest})),
        sections=sections_of(report),
    )


MANIFEST_SHOWN = (
    "fingerprint",
    "format_version",
    "versions",
    "intervals",
    "training",
    "metrics",
    "provenance",
    "seed",
)
"""What an auditor needs of a predictor's manifest; the rest (features, parameters, files) is in its folder."""


def write_html(report: Forecast, path: str | os.PathLike[str], **options: Any) -> Path:
    """Write the report as one HTML file; missing parent folders are made. ``options`` are those of ``render_html``.

    The text goes to a temporary sibling first, so that a failure leaves no half-written file and an existing report
    as it was.

    Raises:
        PathError: the path is a folder or cannot be written.
        InputError: as for ``render_html``.
    """
    return write_whole(path, lambda: render_html(report, **options), "report")


# -- one objective ------------------------------------------------------------------------------------------


def _objective(
    report: Forecast, objective: str, rows: int, waterfalls: int, explain: Sequence[int] | None
) -> dict[str, Any]:
    """Everything the template shows of one objective."""
    table = report.table[report.table["objective"] == objective]
    table = table.sort_values(["percentile", "difficulty", "index"], ascending=[False, False, True])
    explained = table.head(waterfalls) if explain is None else table[table["index"].isin(list(explain))]
    counts = table["tier"].value_counts()
    difficulty = table["difficulty"].astype(float)
    if len(table) <= 2 * rows:
        lists, listed = [("All samples, the hardest first", table)], table
    else:
        hardest, easiest = table.head(rows), table.tail(rows).iloc[::-1]
        others = explained[~explained["index"].isin([*hardest["index"], *easiest["index"]])]
        lists = [
            (f"The {rows:,} hardest samples", hardest),
            (f"The {rows:,} easiest samples", easiest),
            ("Other samples explained below", others),
        ]
        listed = pd.concat([hardest, easiest, others])
    return {
        "name": objective,
        "meaning": OBJECTIVE_MEANINGS.get(objective, ""),
        "samples": len(table),
        "left_out": len(table) - len(listed),
        "tiers": [
            {"name": tier, "count": int(counts.get(tier, 0)), "meaning": meaning}
            for tier, meaning in TIER_MEANINGS.items()
        ],
        "histogram": svg(
            lambda: plots.difficulty_histogram(table, objective),
            f"{objective}-histogram",
            f"Histogram of predicted difficulty for {objective}: {len(table):,} samples, "
            f"median {number(difficulty.median())}, from {number(difficulty.min())} to {number(difficulty.max())}",
        ),
        "lists": [(title, _rows(part)) for title, part in lists if len(part)],
        "waterfalls": [_waterfall(report, objective, row) for row in _rows(explained)],
        "overview": _overview(report, objective, table),
        "measured": _measured(report, objective, table),
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _waterfall(report: Forecast, objective: str, row: dict[str, Any]) -> dict[str, Any]:
    """One sample's explanation: picture and sentences."""
    index = int(row["index"])
    explanation = report.explain(index, objective)
    table, names = report.factors, [str(name) for name in explanation.by_factor.index]
    strongest = factor_title(table, str(explanation.by_factor.astype(float).abs().idxmax())) if names else "none"
    return row | {
        "reasons": list(explanation.reasons[:REASONS]),
        "changes": sentences(report.what_would_change(index, objective), REASONS),
        "movers": _movers(report, objective, row),
        "svg": svg(
            lambda: plots.waterfall(
                explanation, titles=factor_titles(table), values=factor_values(table, index, names), max_reasons=9
            ),
            f"{objective}-waterfall-{index}",
            f"Waterfall for {objective}, sample {index}, from the average forecast {explanation.base:.2f} to "
            f"{np.clip(explanation.prediction, 0, 1):.2f}; the largest shift comes from: {strongest}",
        ),
    }


def _movers(report: Forecast, objective: str, row: dict[str, Any]) -> dict[str, Any] | None:
    """The training samples that would move with one, and their pictures where inputs are images.

    None for a report without its model and data; without rows where nothing moves or the model has no last layer.
    """
    if report._target is None:
        return None
    index = int(row["index"])
    try:
        found = report.movers(index, objective, count=MOVERS)
    except NotApplicableError as reason:
        return {"rows": [], "svg": "", "why": str(reason)}
    if found.empty:
        return {"rows": [], "svg": "", "why": NOTHING_MOVES[objective]}
    try:
        images = report.images([index, *found["index"]])
    except NotApplicableError:
        return {"rows": _rows(found), "svg": "", "why": ""}
    first = found.iloc[0]
    pictures = svg(
        lambda: plots.mover_pictures(images, found, index, row["label"]),
        f"{objective}-movers-{index}",
        f"Pictures of sample {index} and of {count(len(found), 'training sample')} that would move with it, the first "
        f"sample {first['index']:.0f}, whose label would get {signed(first['change'])} of the probability",
    )
    return {"rows": _rows(found), "svg": pictures, "why": ""}


def _overview(report: Forecast, objective: str, table: pd.DataFrame) -> dict[str, Any] | None:
    """What moves the forecast over all samples, or over a random draw of them."""
    if len(table) < 2:
        return None
    some = table.sample(min(len(table), GLOBAL_SAMPLES), random_state=0)
    explanations = dataclasses.replace(report, table=some).explanations(objective)
    families = explanations.by_family.astype(float).abs().mean().sort_values(ascending=False)
    factors = explanations.contributions.astype(float).abs().mean().sort_values(ascending=False)
    varying = [name for name in factors.index if explanations.values[name].nunique() > 1]
    return {
        "samples": len(some),
        "dependences": [
            svg(
                partial(plots.dependence, explanations, str(name), titles=factor_titles(report.factors)),
                f"{objective}-dependence-{name}",
                f"SHAP values for {objective} against the value of a factor: {factor_title(report.factors, str(name))}",
            )
            for name in varying[:DEPENDENCES]
        ],
        "beeswarm": svg(
            lambda: plots.beeswarm(explanations, titles=factor_titles(report.factors)),
            f"{objective}-beeswarm",
            f"Beeswarm of SHAP values for {objective} by factor, the strongest first: "
            + ", ".join(factor_title(report.factors, str(name)) for name in factors.index[:5]),
        ),
        "importance": svg(
            lambda: plots.family_importance(explanations),
            f"{objective}-families",
            f"Bars of the mean size of each family's shift for {objective}: "
            + ", ".join(f"{str(name).replace('_', ' ')} {size:.3f}" for name, size in families.items()),
        ),
    }


def _measured(report: Forecast, objective: str, table: pd.DataFrame) -> dict[str, Any] | None:
    """Measured against predicted, where samples were measured."""
    if report.measurements is None:
        return None
    keys = ["index", "objective"]
    measured = report.measurements[report.measurements["objective"] == objective]
    both = table.merge(measured[[*keys, "difficulty", "percentile"]], on=keys, suffixes=("", "_measured"))
    adapted_to = CROSSFITTED in measured
    if adapted_to:  # the forecast of the table has seen the measurement
        shift = both["index"].map(measured.set_index("index")[CROSSFITTED]) - both["percentile"]
        for name in ("percentile", "percentile_lower", "percentile_upper"):
            both[name] = (both[name] + shift).clip(0, 1)
    if both.empty:
        return None
    agreement = spearman_interval(both["percentile"], both["percentile_measured"])
    inside = both["percentile_measured"].between(both["percentile_lower"], both["percentile_upper"]).mean()
    return {
        "agreement": agreement,
        "gain": report.calibrated.get(objective, "") if adapted_to else "",
        "inside": float(inside),
        "samples": len(both),
        "rows": _rows(both.sort_values("percentile_measured", ascending=False).head(MEASURED_ROWS)),
        "svg": svg(
            lambda: plots.measured_scatter(both, objective),
            f"{objective}-measured",
            f"Scatter of measured against predicted percentile for {objective}: {agreement}",
        ),
    }
