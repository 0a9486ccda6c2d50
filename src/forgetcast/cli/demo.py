"""``forgetcast demo``: forecast a model the predictor has not seen, then check the forecast by unlearning."""

from __future__ import annotations

from pathlib import Path

import click

from forgetcast.cli.options import FOLDER, quiet_option

__all__ = ["demo"]


@click.command()
@click.option("--out", type=FOLDER, default="demo-report", show_default=True, help="The folder for the report.")
@click.option("--samples", type=click.IntRange(min=8), default=40, show_default=True, help="Samples to unlearn.")
@click.option("--jobs", type=click.IntRange(min=1), help="Parallel processes; default: one per core.")
@quiet_option
def demo(out: Path, samples: int, jobs: int | None, quiet: bool) -> None:
    """Forecast a small model, then check the forecast by unlearning.

    Trains a classifier of handwritten digits that the predictor has not seen, forecasts every sample,
    unlearns some of them for real and compares. Takes a few minutes on two cores and needs no network. The
    report is OUT/report.html.

    \b
    EXAMPLES
      forgetcast demo
      forgetcast demo --out /tmp/report --samples 20
    """
    from forgetcast.cli.self_check import run

    run(out, samples=samples, jobs=jobs, progress=not quiet, say=click.echo)
