"""``forgetcast evaluate``: how well a predictor does on targets it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from forgetcast.cli.options import FOLDER, corpus_option, quiet_option, read_corpora

__all__ = ["evaluate"]

GROUPS = ("target", "architecture", "dataset")
SHOWN = ["group", "objective", "subset", "method", "rho", "low", "high", "worst", "targets"]


@click.command()
@corpus_option
@click.option("--out", type=FOLDER, required=True, help="The folder for tables, plots and the summary.")
@click.option(
    "--by",
    type=click.Choice(GROUPS),
    multiple=True,
    default=GROUPS,
    show_default="all three",
    help="What is held out whole, one at a time; may be repeated.",
)
@click.option("--quick", is_flag=True, help="Without learning curves and left-out unlearners (half of the time).")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Fits run at a time.")
@click.option("--seed", type=int, default=0, show_default=True)
@quiet_option
def evaluate(
    corpora: tuple[str, ...], out: Path, by: tuple[Any, ...], quick: bool, jobs: int, seed: int, quiet: bool
) -> None:
    """Test forecasts on held-out targets, architectures or datasets.

    Each is held out whole, forecast by a predictor fitted to the others, and compared with what was measured. Next to
    the rank correlation stand its interval, the best single factors, true memorization, and the noise ceiling: how
    well the measurement agrees with itself. OUT/evaluation.md has it all.

    \b
    EXAMPLES
      forgetcast evaluate --corpus my-corpus --out evaluation
      forgetcast evaluate --corpus published --out evaluation --by architecture --quick
    """
    from forgetcast.corpus.corpus import Corpus
    from forgetcast.evaluation.evaluate import evaluate as run

    corpus = Corpus.join(read_corpora(corpora))
    evaluation = run(corpus, groups=by, extras=not quick, seed=seed, n_jobs=jobs, progress=not quiet)
    evaluation.write(out)
    click.echo(evaluation.summary[SHOWN].to_string(index=False, float_format="{:.2f}".format))
    click.echo(f"wrote {out / 'evaluation.md'}", err=True)
