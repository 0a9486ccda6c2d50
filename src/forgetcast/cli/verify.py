"""``forgetcast verify``: unlearn some requests for real, and compare with what was predicted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forgetcast.cli.options import FILE, queue_options
from forgetcast.cli.output import TABLE_SUFFIXES, check_distinct, check_output, put_table, table_json
from forgetcast.cli.requests import request_options, screened, shown_id

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["verify"]


@click.command()
@request_options
@queue_options
@click.option("--samples", type=click.IntRange(min=1), default=20, show_default=True, help="Requests to unlearn.")
@click.option("--unlearner", default="", help="For requests without a recommended one; default: the most frequent.")
@click.option("--oracle-groups", type=click.IntRange(min=2), default=20, show_default=True, help="For retrain.")
@click.option("--oracle-seeds", type=click.IntRange(min=1), default=4, show_default=True, help="For retrain.")
@click.option("--jobs", type=click.IntRange(min=1), help="Parallel processes; default: 1.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--out", type=FILE, help="A .csv, .parquet or .json file to write instead of printing the rows.")
def verify(
    samples: int,
    unlearner: str,
    oracle_groups: int,
    oracle_seeds: int,
    jobs: int | None,
    form: str,
    out: Path | None,
    **inputs: Any,
) -> None:
    """Check our forecasts on your own model: unlearn some of the requests for real.

    Some requests of every route are drawn; the recommended unlearner runs on each until its goal is met, on copies of
    the model, and what it did is compared with the forecast. This needs --heldout. For the objective retrain, models
    are trained without the samples (groups times seeds of them): give a --target whose factory passes train= to
    forgetcast.Target.

    \b
    EXAMPLES
      forgetcast verify --requests requests.csv --model mymodels:mlp --weights mlp.pt --dataset train.npz \\
          --heldout test.npz --objective erase --samples 30
      forgetcast verify --requests requests.csv --target mytargets:mlp --oracle-groups 10 --oracle-seeds 2 --jobs 2
    """
    from forgetcast.predict import target_of
    from forgetcast.screening.verification import verify_triage

    check_output(out, TABLE_SUFFIXES)
    check_distinct({"--out": out}, {f"--{name}": inputs[name] for name in ("requests", "ids", "policy")})
    queue, loaded = screened(**inputs, timed=False)
    target = target_of(
        loaded["model"],
        loaded.get("dataset"),
        loaded.get("heldout"),
        loaded.get("trajectory"),
        None,
        inputs["batch_size"],
    )
    found = verify_triage(
        target,
        queue,
        samples=samples,
        unlearner=unlearner,
        oracle_groups=oracle_groups,
        oracle_seeds=oracle_seeds,
        seed=inputs["seed"],
        n_jobs=jobs,
        progress=not inputs["quiet"],
    )
    put_table(found.table, out, queue.provenance)
    if form == "table":
        click.echo("\n".join([*(readable(found.table) if out is None else []), *found.summary()]))
    elif out is None and form == "json":
        click.echo(table_json(found.table, queue.provenance | {"summary": found.summary()}))
    elif out is None:
        click.echo(found.table.to_csv(index=False), nl=False)


def readable(table: pd.DataFrame) -> list[str]:
    """Predicted beside measured, a line per request."""
    wide = max(2, *(len(shown_id(name)) for name in table["id"]))
    lines = [
        f"{'id':<{wide}}  route    unlearner          p trivial  trivial  harm predicted            measured  inside  "
        "steps predicted  measured"
    ]
    for row in table.to_dict("records"):
        harm = f"{row['harm']:.4f} [{row['harm_lower']:.4f}, {row['harm_upper']:.4f}]"
        inside = {True: click.style("yes", fg="green"), False: click.style("no ", fg="red")}.get(row["inside"], "-  ")
        lines.append(
            f"{shown_id(row['id']):<{wide}}  {row['route']:<7}  {row['unlearner']:<17}  {row['p_trivial']:>9.0%}  "
            f"{'yes' if row['trivial'] else 'no':<7}  {harm:<24}  {row['measured_harm']:>8.4f}  {inside}     "
            f"{row['steps']:>15.1f}  {row['measured_steps']:>8.1f}"
        )
    return [*lines, ""]
