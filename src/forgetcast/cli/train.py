"""``forgetcast train``: fit a predictor to one or more corpora, or continue one, if that makes it better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forgetcast.cli.options import FOLDER, corpus_option, quiet_option, read_corpora, read_predictor
from forgetcast.wording import count

if TYPE_CHECKING:
    from forgetcast.evaluation.training import TrainedPredictor

__all__ = ["train"]

KEPT = 3
"""Exit code when the predictor at --out was left as it was."""
WORSE = 4
"""Exit code when a predictor was written that is worse than one it was compared with, and nobody asked for that."""


@click.command()
@corpus_option
@click.option("--out", type=FOLDER, required=True, help="The predictor folder to write.")
@click.option(
    "--continue-from",
    metavar="FOLDER",
    help="Keep the trees of this predictor (or of 'published') and add more, fitted to the corpus.",
)
@click.option(
    "--tune",
    type=click.IntRange(min=1),
    metavar="TRIALS",
    help="Search for parameters; every trial is kept in OUT/tuning.csv.",
)
@click.option(
    "--validate-on",
    metavar="TARGET",
    multiple=True,
    help="Choose parameters on this target; may be repeated. Default: a quarter of the targets, four at most.",
)
@click.option(
    "--against",
    metavar="FOLDER",
    multiple=True,
    help="Compare with this predictor (or 'published') as well; may be repeated. Default, if OUT holds none: "
    "the one that is continued, else 'published'.",
)
@click.option(
    "--replace",
    type=click.Choice(["if-better", "always", "never"]),
    default="if-better",
    show_default=True,
    help="What to do with a predictor that OUT holds.",
)
@click.option("--training-run", is_flag=True, help="Also use factors of the training run (targets with checkpoints).")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Fits run at a time.")
@click.option("--seed", type=int, default=0, show_default=True)
@quiet_option
def train(
    corpora: tuple[str, ...],
    out: Path,
    continue_from: str | None,
    tune: int | None,
    validate_on: tuple[str, ...],
    against: tuple[str, ...],
    replace: Any,
    training_run: bool,
    jobs: int,
    seed: int,
    quiet: bool,
) -> int:
    """Fit a difficulty predictor to measured difficulty, and compare it with the one that is there.

    From your own corpus, or from the published one together with yours: a few measured samples of models like yours go
    far. Or continue a saved predictor on new targets, without the corpus that it came from.

    Old and new forecast targets that neither was fitted to: the new one leaves each out in turn. A predictor at OUT is
    replaced if the new one is better for one objective and at least no worse for the other. The whole 95 % interval of
    the difference decides: above 0, and above -0.02. Targets that parameters were chosen on are not compared.
    OUT/comparison.csv has every target.

    Where OUT holds none, the new one is written in any case. If it turns out worse than the one that comes with
    forgetcast, as one from a few targets may, a warning says so; mostly it helps to fit to both corpora.

    Exit codes: 0 written; 4 written, though worse than one it was compared with (--replace always: 0); 3 the
    predictor at OUT was kept; 2 bad input, nothing was changed.

    \b
    EXAMPLES
      forgetcast train --corpus my-corpus --out my-predictor
      forgetcast train --corpus published --corpus my-corpus --tune 30 --out my-predictor
      forgetcast train --corpus new-corpus --continue-from my-predictor --out my-predictor
      forgetcast train --corpus my-corpus --out my-predictor --replace never
    """
    from forgetcast.evaluation.training import train_predictor

    trained = train_predictor(
        read_corpora(corpora),
        out,
        continue_from=None if continue_from is None else read_predictor(continue_from),
        against={name: read_predictor(name) for name in against} if against else None,
        replace=replace,
        tune=tune or 0,
        validate_on=validate_on,
        training_run=training_run,
        seed=seed,
        n_jobs=jobs,
        progress=not quiet,
    )
    _say(trained)
    for note in trained.notes:
        click.echo(f"note: {note}", err=True)
    if trained.kept:
        click.echo(
            f"kept {out} as it is: "
            + ("--replace is never" if replace == "never" else "the new predictor is not shown to be better")
            + "; --replace always writes over it, another --out keeps both"
        )
        return KEPT
    rows = trained.predictor.manifest["training"]["rows"]
    features = len(trained.predictor.features)
    click.echo(
        f"{out}: {count(sum(rows.values()), 'sample')} of {count(len(rows), 'target')}, {count(features, 'feature')}"
    )
    return WORSE if trained.worse_than and replace != "always" else 0


def _say(trained: TrainedPredictor) -> None:
    """The search and every comparison, for people."""
    if len(trained.tried):
        chosen = trained.tried[trained.tried["chosen"]].index[0]
        click.echo(
            f"{len(trained.tried)} trials on {', '.join(trained.validated_on)}: "
            + ("none is better for certain than the first" if chosen == 0 else f"trial {chosen} is better: ")
            + ("" if chosen == 0 else str(trained.params))
        )
    for one in trained.comparisons:
        if len(one.summary):
            click.echo(f"\nRank correlation on held-out targets, against {one.against}")
            click.echo(one.summary.to_string(index=False, float_format="{:.3f}".format))
        for sentence in one.sentences():
            click.echo(sentence)
