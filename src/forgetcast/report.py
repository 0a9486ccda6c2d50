"""Report: one self-contained HTML file that a person can read, print, sort and keep as a record.

Nothing in the file is loaded from elsewhere: pictures are inline SVG whose text takes the page's own colour, so they
follow the reader's light or dark theme. A content security policy inside the file forbids all network access and
every script but the one that sorts tables.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import os
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forgetcast import plots
from forgetcast.agreement import spearman_interval
from forgetcast.errors import InputError, PathError
from forgetcast.factors import quantile_column

if TYPE_CHECKING:
    from forgetcast.predict import DifficultyReport

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
ENLARGED = 1.4
"""Pixels per point of a picture at its largest, so that its text is about as large as the page's."""
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
INK = "#0a0b0c"
"""Drawn wherever a picture should take the page's own text colour."""
CROSSFITTED = "percentile_crossfitted"
GLOBAL_SAMPLES = 2_000
"""Most samples in the view over all samples; more are drawn from at random."""
MEASURED_ROWS = 200
"""Most rows in a table of measured samples."""
REASONS = 6
"""Most sentences for one explained sample."""
LONGEST_LIST = 12
"""Longer lists of the provenance are counted, not spelled out."""


def render_html(
    report: DifficultyReport, *, rows: int = 25, waterfalls: int = 6, explain: Sequence[int] | None = None
) -> str:
    """The report as one HTML page, the same text for the same report.

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
    environment = Environment(
        loader=PackageLoader("forgetcast"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "sentences": _sentences,
        "sha256": _sha256,
        "count": _count,
    }
    return environment.get_template("report.html.j2").render(
        target=str(report.provenance.get("target", "")),
        model=str(report.provenance.get("model", ""))[:12],
        training_samples=report.provenance["n"],
        forecasts=report.table["index"].nunique(),
        level=manifest.get("intervals", {}).get("level"),
        calibrated=bool(report.calibrated),
        unlike=str(report.familiarity) if report.familiarity.out_of_distribution else "",
        objectives=[_objective(report, name, rows, waterfalls, explain) for name in objectives],
        not_applicable=[
            {"factor": _title(report, name), "reason": reason}
            for name, reason in sorted(report.factors.not_applicable.items())
        ],
        notes=[{"factor": _title(report, name), "note": note} for name, note in sorted(report.factors.notes.items())],
        factors=len(report.factors.factors),
        provenance=list(_flat(report.provenance)),
        predictor=list(_flat({k: manifest[k] for k in MANIFEST_SHOWN if k in manifest})),
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


def write_html(report: DifficultyReport, path: str | os.PathLike[str], **options: Any) -> Path:
    """Write the report as one HTML file; missing parent folders are made. ``options`` are those of ``render_html``.

    The text goes to a temporary sibling first, so that a failure leaves no half-written file and an existing report
    as it was.

    Raises:
        PathError: the path is a folder or cannot be written.
        InputError: as for ``render_html``.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise PathError(f"expected a file for the report; {path} is a folder: try {path / 'report.html'}")
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.touch()  # an unwritable place is told before the work, not after it
        try:
            scratch.write_text(render_html(report, **options), encoding="utf-8")
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise PathError(f"the report cannot be written to {path}: {error.strerror or error}") from error
    return path


# -- one objective ------------------------------------------------------------------------------------------


def _objective(
    report: DifficultyReport, objective: str, rows: int, waterfalls: int, explain: Sequence[int] | None
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
        "histogram": _svg(
            lambda: plots.difficulty_histogram(table, objective),
            f"{objective}-histogram",
            f"Histogram of predicted difficulty for {objective}: {len(table):,} samples, "
            f"median {_number(difficulty.median())}, from {_number(difficulty.min())} to {_number(difficulty.max())}",
        ),
        "lists": [(title, _rows(part)) for title, part in lists if len(part)],
        "waterfalls": [_waterfall(report, objective, row) for row in _rows(explained)],
        "overview": _overview(report, objective, table),
        "measured": _measured(report, objective, table),
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _waterfall(report: DifficultyReport, objective: str, row: dict[str, Any]) -> dict[str, Any]:
    """One sample's explanation: picture and sentences."""
    index = int(row["index"])
    explanation = report.explain(index, objective)
    names = [str(name) for name in explanation.by_factor.index]
    strongest = _title(report, str(explanation.by_factor.astype(float).abs().idxmax())) if names else "none"
    return row | {
        "reasons": list(explanation.reasons[:REASONS]),
        "svg": _svg(
            lambda: plots.waterfall(
                explanation, titles=_titles(report), values=_values(report, index, names), max_reasons=9
            ),
            f"{objective}-waterfall-{index}",
            f"Waterfall for {objective}, sample {index}, from the average forecast {explanation.base:.2f} to "
            f"{np.clip(explanation.prediction, 0, 1):.2f}; the largest shift comes from: {strongest}",
        ),
    }


def _values(report: DifficultyReport, index: int, names: Sequence[str]) -> dict[str, str]:
    """The sample's value of each factor, with its place among all samples where there is one."""
    values: dict[str, float] = report.factors.worked_out.loc[index].to_dict()  # type: ignore[assignment]
    texts = {}
    for name in names:
        value, quantile = values.get(name, np.nan), values.get(quantile_column(name), np.nan)
        place = "" if np.isnan(quantile) else f" (above {int(100 * quantile)}%)"
        texts[name] = "not applicable" if np.isnan(value) else f"{_number(value)}{place}"
    return texts


def _overview(report: DifficultyReport, objective: str, table: pd.DataFrame) -> dict[str, Any] | None:
    """What moves the forecast over all samples, or over a random draw of them."""
    if len(table) < 2:
        return None
    some = table.sample(min(len(table), GLOBAL_SAMPLES), random_state=0)
    explanations = dataclasses.replace(report, table=some).explanations(objective)
    families = explanations.by_family.astype(float).abs().mean().sort_values(ascending=False)
    factors = explanations.contributions.astype(float).abs().mean().sort_values(ascending=False)
    return {
        "samples": len(some),
        "beeswarm": _svg(
            lambda: plots.beeswarm(explanations, titles=_titles(report)),
            f"{objective}-beeswarm",
            f"Beeswarm of SHAP values for {objective} by factor, the strongest first: "
            + ", ".join(_title(report, str(name)) for name in factors.index[:5]),
        ),
        "importance": _svg(
            lambda: plots.family_importance(explanations),
            f"{objective}-families",
            f"Bars of the mean size of each family's shift for {objective}: "
            + ", ".join(f"{str(name).replace('_', ' ')} {size:.3f}" for name, size in families.items()),
        ),
    }


def _measured(report: DifficultyReport, objective: str, table: pd.DataFrame) -> dict[str, Any] | None:
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
        "svg": _svg(
            lambda: plots.measured_scatter(both, objective),
            f"{objective}-measured",
            f"Scatter of measured against predicted percentile for {objective}: {agreement}",
        ),
    }


# -- words, numbers and pictures ----------------------------------------------------------------------------


def _titles(report: DifficultyReport) -> dict[str, str]:
    return {name: factor.title for name, factor in report.factors.factors.items()}


def _title(report: DifficultyReport, name: str) -> str:
    factor = report.factors.factors.get(name)
    return plots.first_sentence(factor.title if factor else name.replace("_", " "))


def _number(value: Any) -> str:
    """Two decimals for what lies in [-1, 1], else three digits; a dash for what is missing."""
    if isinstance(value, float):  # numpy's float64 is one
        if np.isnan(value):
            return "–"
        return (f"{value:.2f}" if abs(value) <= 1 else f"{value:.3g}").replace("-", "−")
    return str(value)


def _sentences(reasons: str) -> list[str]:
    """The sentences that a row's reasons were joined from; a sentence may hold a "; " of its own."""
    return re.split(r"; (?=harder: |easier: )", reasons) if reasons else []


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _flat(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as lines (name, value); long lists and tables are counted."""
    for name, value in mapping.items():
        label = f"{path}{name}".replace("_", " ")
        if isinstance(value, Mapping) and 0 < len(value) <= LONGEST_LIST:
            yield from _flat(value, f"{label} · ")
        elif isinstance(value, (Mapping, list, tuple)):
            yield label, f"{len(value):,} values" if len(value) > LONGEST_LIST else ", ".join(map(str, value)) or "none"
        else:
            yield label, f"{value:.4g}" if isinstance(value, float) else str(value)


def _sha256(text: str) -> str:
    """As a content security policy writes it."""
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def _svg(draw: Callable[[], Axes], name: str, alt: str) -> Markup:
    """A picture as inline SVG: text as text, in the page's own colour, with identifiers of its own.

    matplotlib's file is parsed and written again without namespaces, metadata and style sheet, which the page has.
    """
    style: dict[Any, Any] = dict.fromkeys(INKED, INK) | {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "legend.framealpha": 0,
    }
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's browser has its own fonts
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        file = io.StringIO()
        cast(Figure, draw().figure).savefig(file, format="svg", transparent=True, dpi=200)
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            elif key in ("style", "clip-path", "fill", "stroke"):
                value = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
            element.set(key, value)
    root.set("style", f"max-width: {float(root.attrib['viewBox'].split()[2]) * ENLARGED:.0f}px")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": alt})
    return Markup(ElementTree.tostring(root, encoding="unicode", method="html"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]
