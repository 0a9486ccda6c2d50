"""``forgetcast predict``: the difficulty of unlearning each sample, as a table, a file or a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forgetcast.cli.options import FILE, FOLDER, forecast, forecast_options, parse_indices
from forgetcast.cli.output import (
    TABLE_SUFFIXES,
    check_output,
    first_reason,
    put_page,
    put_table,
    table_json,
    write_each,
)
from forgetcast.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["predict"]

SHOWN = 20


@click.command()
@forecast_options
@click.option("--indices", help="Samples to forecast: 3,17,100-120, or a file of them. Default: all.")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Only the N hardest of each objective.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--out", type=FILE, help="A .csv, .parquet or .json file to write instead of printing.")
@click.option("--html", type=FILE, help="Also write a report, one self-contained HTML file.")
@click.option(
    "--calibrate",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="First unlearn N samples for real, 40 say, and adapt the forecast to them.",
)
@click.option("--save-predictor", type=FOLDER, help="Keep the calibrated predictor, for --predictor.")
@click.option("--jobs", type=click.IntRange(min=1), help="Parallel processes for --calibrate; default: 1.")
def predict(
    indices: str | None,
    top: int | None,
    form: str,
    out: Path | None,
    html: Path | None,
    save_predictor: Path | None,
    **inputs: Any,
) -> None:
    """Forecast how hard each training sample is to unlearn.

    Nothing is unlearned and nothing is retrained: the model is only probed, and never changed. Percentiles
    place a sample among all samples of this model (0 easiest, 1 hardest).

    With --calibrate some samples are unlearned for real first (on copies of the model), which needs --heldout.
    For the objective retrain, 80 models are trained as well, each without a twentieth of the data: give a
    --target whose factory passes train= to forgetcast.Target.

    \b
    EXAMPLES
      forgetcast predict --model mymodels:resnet --weights resnet.safetensors --dataset train.npz --top 10
      forgetcast predict --model mymodels:mlp --weights mlp.pt --dataset mydata:train --heldout mydata:test \\
          --objective both --indices 3,17,100-120 --out difficulty.parquet --html report.html
      forgetcast predict --model mymodels:mlp --weights mlp.pt --dataset mydata:train --heldout mydata:test \\
          --objective erase --calibrate 40 --save-predictor calibrated
      forgetcast predict --target mytargets:mlp --calibrate 40 --jobs 2 --html report.html
    """
    if save_predictor is not None:
        from forgetcast.predictor.calibrated import check_folder

        if not inputs["calibrate"]:
            raise InputError("--save-predictor keeps a calibrated predictor: give --calibrate too")
        check_folder(save_predictor)
    check_output(out, TABLE_SUFFIXES)
    check_output(html, (".html", ".htm"))
    chosen = None if indices is None else parse_indices(indices)
    report = forecast(**inputs, indices=chosen)
    if "notes" in report.provenance:
        click.echo(f"note: {report.provenance['notes']}", err=True)
    if report.familiarity.out_of_distribution:
        click.echo(f"warning: {report.familiarity}; intervals may not hold", err=True)
    for gain in report.calibrated.values():
        click.echo(gain, err=True)
    table = report.table if top is None else hardest(report.table, top)

    def keep_predictor() -> None:
        if save_predictor is not None:
            report.predictor.save(save_predictor)
            click.echo(f"wrote {save_predictor}", err=True)

    write_each(
        keep_predictor,
        lambda: put_page(report.to_html, html),
        lambda: put_table(table, out, report.provenance),
    )
    if out is not None:
        return
    if form == "json":
        click.echo(table_json(table, report.provenance))
    elif form == "csv":
        click.echo(table.to_csv(index=False), nl=False)
    else:
        shown = hardest(table, SHOWN) if top is None and chosen is None else table
        click.echo(readable(shown))
        if len(shown) < len(table):
            left = len(table) - len(shown)
            click.echo(f"{left} easier rows not shown; --out FILE or --format csv gives all", err=True)


def hardest(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """The ``count`` hardest rows of every objective, hardest first, objectives in the table's order."""
    import pandas as pd

    return (
        table.assign(_order=pd.factorize(table["objective"])[0])
        .sort_values(["_order", "percentile", "index"], ascending=[True, False, True], kind="stable")
        .groupby("_order", sort=False)
        .head(count)
        .drop(columns="_order")
    )


def readable(table: pd.DataFrame) -> str:
    """The table as text for a person: percentile and difficulty with intervals, and one reason."""
    lines = []
    for objective, rows in table.groupby("objective", sort=False):
        lines.append(f"objective: {objective}")
        lines.append(
            "  index  label  percentile           difficulty           trivial  tier     best unlearner      why"
        )
        for row in rows.to_dict("records"):
            percentile = "{percentile:.2f} [{percentile_lower:.2f}, {percentile_upper:.2f}]".format_map(row)
            difficulty = "{difficulty:.2f} [{lower:.2f}, {upper:.2f}]".format_map(row)
            why = first_reason(row["reasons"])
            lines.append(
                f"{row['index']:>7}  {row['label']:>5}  {percentile:<19}  {difficulty:<19}  "
                f"{row['p_trivial']:>6.0%}   {row['tier']:<7}  {row.get('best_unlearner', '-'):<18}  {why}"
            )
        lines.append("")
    return "\n".join(lines).rstrip()
