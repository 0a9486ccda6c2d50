"""An evaluation as one Markdown page: the tables a reader needs, in the order they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from forgetcast.wording import count

__all__ = ["page"]

Cell = Callable[[Mapping[str, Any]], str]


def page(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """The page as Markdown.

    Args:
        tables: by name, with the columns that the fields of ``evaluate.Evaluation`` have.
        settings: of the evaluation, as its field of that name.
        pictures: file names beside the page.
    """
    parts = [
        "# How good the forecast is on what it has not seen",
        f"{count(settings['targets'], 'target')}, {count(settings['rows'], 'measured instance')}, "
        f"{count(settings['features'], 'column')}. "
        f"The label is the consensus of {', '.join(settings['unlearners'])}. "
        "ρ is Spearman's correlation of forecast and measured difficulty inside a target over its measured instances, "
        "unweighted, mean over targets. Intervals are 95 %: the first redraws instances (these targets, "
        f"{settings['resamples']:,} paired resamples), the second redraws targets as well (targets like these).",
        *[f"Note: {note}." for note in settings["notes"]],
    ]
    if settings["tuned_on"]:
        parts.append(f"Parameters were chosen on {', '.join(settings['tuned_on'])}; these are not scored.")
    parts += [f"![{name.removesuffix('.png').replace('-', ' ')}]({name})" for name in pictures]
    for group, rows in tables["summary"].groupby("group", sort=False):
        parts.append(f"## Left out: one {group} at a time")
        for (objective, subset), own in rows.groupby(["objective", "subset"], sort=False):
            parts.append(f"### {objective}, {_samples(str(subset))}")
            parts.append(_methods(own))
            keys = "group == @group and objective == @objective and subset == @subset"
            parts.append(_differences(tables["differences"].query(keys)))
    parts.append("## Each unseen target")
    parts.append(_per_target(tables["per_target"]))
    if len(tables["parts"]):
        parts.append("## Parts of the outcome")
        parts.append(
            "Order within unseen targets of what people act on: total variation of predictions on held-out data and on "
            "the sample's neighbours, steps, distance of the parameters."
        )
        parts.append(_outcome_parts(tables["parts"]))
    parts.append("## How near to the ceiling")
    parts.append(
        "A correlation with a noisy label cannot exceed the root of the label's reliability. Ties: what a perfect "
        "order reaches when samples that tie (the trivial ones) are ordered at random. Seeds: the same "
        "unlearners run again. Unlearners: other unlearners. Oracle: halves of the retrained models behind "
        "p_out (noise of a part of the label, for reading only)."
    )
    parts.append(
        table(
            tables["ceilings"],
            {
                "objective": "objective",
                "kind": "kind",
                "reliability": _number("reliability"),
                "ceiling": _number("ceiling"),
                "ρ": _number("rho"),
                "ρ / ceiling": _number("share"),
                "targets": "targets",
            },
        )
    )
    parts.append("## Intervals, trivial samples, the hardest tenth, absolute difficulty")
    for objective, rows in tables["metrics"].groupby("objective", sort=False):
        parts.append(f"{objective!s}: mean over targets, in brackets the lowest and the highest target.")
        parts.append(_metrics(rows))
    parts.append("Mean difficulty in deciles of the forecast (one target left out at a time, weighted):")
    parts.append(_deciles(tables["calibration"]))
    if len(tables["learning"]):
        parts.append("## What more data brings")
        parts.append(
            "Kind targets: ρ on an unseen target against the number of targets fitted to. Kind samples: measured "
            "samples of the target itself join the fit to all others, scored on its remaining samples. "
            "Low and high: 5 % and 95 % quantile over targets."
        )
        parts.append(
            table(
                tables["learning"],
                {
                    "kind": "kind",
                    "objective": "objective",
                    "size": "size",
                    "ρ": _number("rho"),
                    "low": _number("low"),
                    "high": _number("high"),
                },
            )
        )
    if len(tables["unlearners"]):
        parts.append("## Unseen unlearners on unseen targets")
        columns = {"objective": "objective", "left-out unlearner": "unlearner", "targets": "targets"}
        parts.append(table(tables["unlearners"], columns | {"ρ": _rho}))
    if len(tables["choice"]):
        parts.append("## Naming an unlearner")
        parts.append(
            "Mean measured difficulty of unseen targets' samples that are not trivial, under the unlearner that the "
            "forecast names for each; under the one that was best on the training targets; under the best for each "
            "sample, known afterwards; and under any (the mean). Interval: targets redrawn."
        )
        parts.append(_choice(tables["choice"]))
    parts.append("## Single factors, one target left out at a time")
    parts.append("The sign of each factor is chosen on the training targets. The ten best of each objective.")
    parts.append(_factors(tables["factors"]))
    return "\n\n".join(parts) + "\n"


def table(frame: pd.DataFrame, columns: Mapping[str, str | Cell]) -> str:
    """A Markdown table: heading -> column name, or a function from row to text.

    >>> print(table(pd.DataFrame({"a": [1, 2]}), {"n": "a", "twice": lambda row: str(2 * row["a"])}))
    | n | twice |
    | --- | --- |
    | 1 | 2 |
    | 2 | 4 |
    """
    lines = [list(columns), ["---"] * len(columns)]
    for row in _rows(frame):
        lines.append([cell(row) if callable(cell) else str(row[cell]) for cell in columns.values()])
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def _number(column: str, digits: int = 2) -> Cell:
    return lambda row: "" if pd.isna(row[column]) else f"{row[column]:.{digits}f}"


def _rho(row: Mapping[str, Any]) -> str:
    if pd.isna(row["rho"]):
        return ""
    return (
        f"{row['rho']:.2f} [{row['low']:.2f}, {row['high']:.2f}], [{row['low_targets']:.2f}, {row['high_targets']:.2f}]"
    )


def _samples(subset: str) -> str:
    return "all samples" if subset == "all" else f"samples that are {subset}"


def _methods(rows: pd.DataFrame) -> str:
    def name(row: Mapping[str, Any]) -> str:
        return f"{row['method']} (not known beforehand)" if row["measured"] else str(row["method"])

    return table(
        rows,
        {
            "method": name,
            "ρ [instances], [targets]": _rho,
            "worst target": lambda row: "" if pd.isna(row["worst"]) else f"{row['worst']:.2f} ({row['worst_target']})",
            "targets": "targets",
            "factor": "uses",
        },
    )


def _differences(rows: pd.DataFrame) -> str:
    return table(rows, {"forecast minus": "against", "difference [instances], [targets]": _rho})


def _per_target(rows: pd.DataFrame) -> str:
    own = rows[rows["group"] == rows["group"].iloc[0]]
    return table(
        own,
        {
            "objective": "objective",
            "target": "target",
            "instances": "n",
            "not trivial": "nontrivial",
            "ρ": lambda row: "" if pd.isna(row["rho"]) else f"{row['rho']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            "ρ, not trivial": _number("rho_nontrivial"),
            "best single factor": _number("baseline"),
            "ceiling": _number("ceiling"),
            "partial ρ given memorization": _number("partial"),
            "AUC trivial": _number("auc"),
            "pairs ordered rightly": _number("concordance"),
            "recall of hardest tenth": _number("recall"),
            "coverage": _number("coverage"),
        },
    )


def _outcome_parts(rows: pd.DataFrame) -> str:
    return table(
        rows,
        {
            "left out": "group",
            "objective": "objective",
            "samples": "subset",
            "part": "part",
            "ρ [instances], [targets]": _rho,
            "worst target": lambda row: "" if pd.isna(row["worst"]) else f"{row['worst']:.2f} ({row['worst_target']})",
        },
    )


def _choice(rows: pd.DataFrame) -> str:
    return table(
        rows,
        {
            "objective": "objective",
            "unlearners": "unlearners",
            "named": _number("named", 4),
            "single best": lambda row: f"{row['single_best']:.4f} ({row['best']})",
            "hindsight": _number("hindsight", 4),
            "any": _number("any", 4),
            "named minus single best": lambda row: f"{row['difference']:.4f} [{row['low']:.4f}, {row['high']:.4f}]",
            "least harmful named": _number("hit"),
            "targets": "targets",
        },
    )


def _metrics(rows: pd.DataFrame) -> str:
    def value(row: Mapping[str, Any]) -> str:
        spread = "" if pd.isna(row["lowest"]) else f" [{row['lowest']:.2f}, {row['highest']:.2f}]"
        return "" if pd.isna(row["value"]) else f"{row['value']:.3f}{spread}"

    texts = pd.Series([value(row) for row in _rows(rows)], index=rows.index)
    wide = rows.assign(text=texts).pivot(index="metric", columns="group", values="text").fillna("")
    wide = wide.loc[list(dict.fromkeys(rows["metric"])), list(dict.fromkeys(rows["group"]))].reset_index()
    return table(wide, {"metric": "metric"} | {f"{name} left out": name for name in wide.columns[1:]})


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


def _deciles(rows: pd.DataFrame) -> str:
    own = rows[rows["group"] == rows["group"].iloc[0]]
    return table(
        own,
        {
            "objective": "objective",
            "decile": "decile",
            "predicted": _number("predicted", 3),
            "measured": _number("measured", 3),
            "rows": "rows",
        },
    )


def _factors(rows: pd.DataFrame) -> str:
    own = rows[(rows["group"] == rows["group"].iloc[0]) & (rows["subset"] == "all")]
    best = own.sort_values("rho", ascending=False, kind="stable").groupby("objective", sort=False).head(10)
    return table(
        best.sort_values("objective", kind="stable", ascending=False),
        {
            "objective": "objective",
            "factor": "factor",
            "ρ": _number("rho"),
            "worst target": _number("worst"),
        },
    )
