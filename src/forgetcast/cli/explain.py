"""``forgetcast explain``: why single samples are forecast to be hard or easy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forgetcast.cli.options import FILE, forecast, forecast_options
from forgetcast.cli.output import check_output, whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forgetcast.explain import Explanation

__all__ = ["explain"]

SHOWN = 10


@click.command()
@forecast_options
@click.option("--index", "indices", type=int, multiple=True, required=True, help="A sample; may be repeated.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--plot", type=FILE, help="Also draw the contributions as a waterfall (.png, .svg or .pdf).")
@click.option("--html", type=FILE, help="Also write a report on these samples, one self-contained HTML file.")
def explain(indices: tuple[int, ...], form: str, plot: Path | None, html: Path | None, **inputs: Any) -> None:
    """Explain the forecast for single samples.

    The contributions are SHAP values of the predicted percentile: together with the base value (the mean
    forecast over the predictor's training data) they add up to the forecast.

    \b
    EXAMPLES
      forgetcast explain --model mymodels:resnet --weights resnet.safetensors --dataset train.npz --index 17
      forgetcast explain --model mymodels:mlp --weights mlp.pt --dataset mydata:train --index 3 --index 17 \\
          --objective both --plot waterfall.png --html samples.html
    """
    from forgetcast.report import write_html

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
        click.echo(json.dumps([as_dict(explanation) for explanation in explanations], indent=2))
    else:
        click.echo("\n\n".join(readable(explanation) for explanation in explanations))


def readable(explanation: Explanation) -> str:
    """Sentences, then the contributions by family."""
    lines = [
        f"sample {explanation.index}, objective {explanation.objective}: "
        f"percentile {explanation.prediction:.2f} (mean forecast {explanation.base:.2f})"
    ]
    lines += [f"  {reason.contribution:+.3f}  {reason.sentence}" for reason in explanation.reasons[:SHOWN]]
    rest = explanation.reasons[SHOWN:]
    if rest:
        lines.append(f"  {sum(reason.contribution for reason in rest):+.3f}  {len(rest)} smaller ones together")
    lines.append("  by family:")
    by_family = explanation.by_family.sort_values(key=abs, ascending=False)
    lines += [f"  {value:+.3f}  {family}" for family, value in by_family.items()]
    return "\n".join(lines)


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """The explanation as plain numbers and strings; what is not a number becomes null."""
    return {
        "index": int(explanation.index),
        "objective": explanation.objective,
        "percentile": float(explanation.prediction),
        "base": float(explanation.base),
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
    }


def _number(value: float) -> float | None:
    return float(value) if value == value else None


def draw(explanations: Sequence[Explanation], path: Path) -> None:
    """One waterfall per explanation, one below the other, in one picture file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from forgetcast.plots import waterfall

    figure = Figure(figsize=(9, 5 * len(explanations)), layout="constrained")
    FigureCanvasAgg(figure)
    for explanation, ax in zip(explanations, figure.subplots(len(explanations), squeeze=False)[:, 0], strict=True):
        waterfall(explanation, ax=ax)
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=150)
