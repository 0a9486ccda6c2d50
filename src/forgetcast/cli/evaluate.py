"""``forgetcast evaluate``: how well a predictor does on targets it has not seen."""

from __future__ import annotations

from pathlib import Path

import click

from forgetcast.cli.options import FOLDER

__all__ = ["evaluate"]


@click.command()
@click.option("--corpus", type=FOLDER, required=True, help="A folder made by 'forgetcast generate'.")
@click.option("--out", type=FOLDER, required=True, help="The folder for tables, plots and the summary.")
@click.option(
    "--by",
    type=click.Choice(["target", "architecture", "dataset"]),
    default="target",
    show_default=True,
    help="What is held out whole, one at a time.",
)
@click.option("--seed", type=int, default=0, show_default=True)
def evaluate(corpus: Path, out: Path, by: str, seed: int) -> None:
    """Test forecasts on held-out targets, architectures or datasets.

    Each is held out whole, forecast by a predictor fitted to the others, and compared with what was
    measured. Next to the rank correlation stand its interval, the best single factors, true memorization,
    and the noise ceiling: how well the measurement agrees with itself.

    \b
    EXAMPLES
      forgetcast evaluate --corpus my-corpus --out evaluation
      forgetcast evaluate --corpus training_data/published --out evaluation --by architecture
    """
    from forgetcast.corpus import Corpus
    from forgetcast.evaluate import evaluate as run

    evaluation = run(Corpus.read(corpus), group=by, seed=seed)
    evaluation.write(out)
    click.echo(evaluation.summary.to_string(index=False))
    click.echo(f"wrote {out}", err=True)
