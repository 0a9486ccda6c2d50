"""``forgetcast explain``: why single samples are forecast to be hard or easy, and what would change that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forgetcast.cli.options import FILE, forecast, forecast_options
from forgetcast.cli.output import check_output
from forgetcast.errors import NotApplicableError
from forgetcast.files.atomic import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forgetcast.predict import DifficultyReport
    from forgetcast.report.explain import Explanation

__all__ = ["explain"]

SHOWN = 10
CHANGES = 5
MOVERS = 8
TIER_COLOURS = {"easy": "blue", "medium": "yellow", "hard": "red"}


@click.command()
@forecast_options
@click.option("--index", "indices", type=int, multiple=True, required=True, help="A sample; may be repeated.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--plot", type=FILE, help="Also draw the contributions as a waterfall (.png, .svg or .pdf).")
@click.option("--html", type=FILE, help="Also write a report on these samples, one self-contained HTML file.")
def explain(indices: tuple[int, ...], form: str, plot: Path | None, html: Path | None, **inputs: Any) -> None:
    """Explain the forecast for single samples.

    The contributions are SHAP values of the predicted percentile: together with the base value (the mean
    forecast over the predictor's training data) they add up to the forecast. Factors that carry the same
    information share the credit between them; the sum of a family is what to rely on.

    Below them stands what the forecast would be if one family of factors were typical for the sample's class. Then come
    the training samples that would move with it if the last layer unlearned it. --format json has more of both.

    \b
    EXAMPLES
      forgetcast explain --model mymodels:resnet --weights resnet.safetensors --dataset train.npz --index 17
      forgetcast explain --model mymodels:mlp --weights mlp.pt --dataset mydata:train --index 3 --index 17 \\
          --objective both --plot waterfall.png --html samples.html
      forgetcast explain --target mytargets:mlp --objective erase --index 17 --format json
    """
    from forgetcast.report.page import write_html

    check_output(plot, (".png", ".svg", ".pdf"))
    check_output(html, (".html", ".htm"))
    report = forecast(**inputs, indices=list(indices))
    objectives = list(dict.fromkeys(report.table["objective"]))
    explanations = [report.explain(index, objective) for index in indices for objective in objectives]
    if plot is not None:
        draw(explanations, plot)
        click.echo(f"wrote {plot}", err=True)
    if html is not None:
        write_html(report, html, explain=indices)
        click.echo(f"wrote {html}", err=True)
    if form == "json":
        click.echo(json.dumps([as_dict(report, explanation) for explanation in explanations], indent=2))
    else:
        click.echo("\n\n".join(readable(report, explanation) for explanation in explanations))


def readable(report: DifficultyReport, explanation: Explanation) -> str:
    """Sentences, the contributions by family, what would change the verdict, and what would move along.

    Styled for a terminal; ``click.echo`` takes the styles away where the output is no terminal.
    """
    from forgetcast.report.counterfactual import sentences
    from forgetcast.report.explain import SHARED_CREDIT

    index, objective = explanation.index, explanation.objective
    changes = report.what_would_change(index, objective)
    tier = _tier(report, explanation)
    lines = [
        f"{click.style(f'sample {index}', bold=True)}, objective {objective}: "
        f"percentile {explanation.prediction:.2f} (mean forecast {explanation.base:.2f}), "
        f"{click.style(tier, fg=TIER_COLOURS.get(tier), bold=True)}"
    ]
    shown, rest = explanation.reasons[:SHOWN], explanation.reasons[SHOWN:]
    lines += [f"  {_signed(reason.contribution)}  {reason.sentence}" for reason in shown]
    if rest:
        lines.append(f"  {_signed(sum(reason.contribution for reason in rest))}  {len(rest)} smaller ones together")
    lines.append(_heading("by family:"))
    by_family = explanation.by_family.sort_values(key=abs, ascending=False)
    lines += [f"  {_signed(value)}  {family}" for family, value in by_family.items()]
    lines.append(click.style(f"  {SHARED_CREDIT}", dim=True))
    lines.append(_heading("what would change the verdict (of the forecast, not of the world):"))
    lines += [f"  {sentence}" for sentence in sentences(changes, CHANGES)] or ["  no family of factors alone"]
    lines.append(_heading("training samples that would move with it, were it unlearned on the last layer:"))
    rows, why = _movers(report, explanation)
    moving = [f"{row['index']} (label {row['label']}, {row['change']:+.3f})" for row in rows]
    lines.append(f"  {', '.join(moving) or why}")
    return "\n".join(lines)


def _tier(report: DifficultyReport, explanation: Explanation) -> str:
    same = (report.table["index"] == explanation.index) & (report.table["objective"] == explanation.objective)
    return str(report.table.loc[same, "tier"].iloc[0])


def _movers(report: DifficultyReport, explanation: Explanation) -> tuple[list[dict[str, Any]], str]:
    """The samples that would move along, and where there are none why."""
    from forgetcast.report.movers import NOTHING_MOVES

    try:
        found = report.movers(explanation.index, explanation.objective, count=MOVERS)
    except NotApplicableError as reason:
        return [], f"none: {reason}"
    rows = [{str(name): value for name, value in row.items()} for row in found.to_dict("records")]
    return rows, f"none: {NOTHING_MOVES[explanation.objective]}"


def _heading(text: str) -> str:
    return click.style(f"  {text}", bold=True)


def _signed(value: float) -> str:
    return click.style(f"{value:+.3f}", fg="red" if value > 0 else "blue")


def as_dict(report: DifficultyReport, explanation: Explanation) -> dict[str, Any]:
    """The explanation as plain numbers and strings; what is not a number becomes null."""
    changes = report.what_would_change(explanation.index, explanation.objective)
    return {
        "index": int(explanation.index),
        "objective": explanation.objective,
        "percentile": float(explanation.prediction),
        "base": float(explanation.base),
        "tier": _tier(report, explanation),
        "reasons": [
            {
                "factor": reason.factor,
                "family": reason.family,
                "contribution": float(reason.contribution),
                "value": _number(reason.value),
                "quantile": _number(reason.quantile),
                "direction": reason.direction,
                "sentence": reason.sentence,
            }
            for reason in explanation.reasons
        ],
        "by_factor": {name: float(value) for name, value in explanation.by_factor.items()},
        "by_family": {name: float(value) for name, value in explanation.by_family.items()},
        "what_would_change": changes.to_dict("records"),
        "movers": _movers(report, explanation)[0],
    }


def _number(value: float) -> float | None:
    return float(value) if value == value else None


def draw(explanations: Sequence[Explanation], path: Path) -> None:
    """One waterfall per explanation, one below the other, in one picture file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from forgetcast.report.plots import waterfall

    figure = Figure(figsize=(9, 5 * len(explanations)), layout="constrained")
    FigureCanvasAgg(figure)
    for explanation, ax in zip(explanations, figure.subplots(len(explanations), squeeze=False)[:, 0], strict=True):
        waterfall(explanation, ax=ax)
    with whole_file(path, "picture") as draft:
        figure.savefig(draft, dpi=150)
