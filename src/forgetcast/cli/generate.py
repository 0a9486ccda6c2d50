"""``forgetcast generate``: measure difficulty on targets and keep it as a corpus."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from forgetcast.cli.interrupted import kept
from forgetcast.cli.options import OBJECTIVES, quiet_option
from forgetcast.errors import InputError
from forgetcast.wording import count

__all__ = ["generate"]


@click.command()
@click.option(
    "--target",
    "specs",
    multiple=True,
    metavar="MODULE:FACTORY",
    help="Makes a forgetcast.Target with a train callable; may be repeated.",
)
@click.option(
    "--recipe",
    "names",
    multiple=True,
    metavar="NAME",
    help="A target of the published corpus, trained afresh; may be repeated. 'published': all.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    required=True,
    help="The corpus folder, or a URL such as s3://bucket/corpus; finished parts in it are not done again.",
)
@click.option("--instances", type=click.IntRange(min=1), default=180, show_default=True, help="Samples per target.")
@click.option(
    "--unlearners",
    metavar="A,B",
    help="Names, comma between, or all; default: those that agree with each other, and exact retraining.",
)
@click.option("--objective", type=OBJECTIVES, default="both", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Runs of every unlearner.")
@click.option("--oracle-groups", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--oracle-seeds", type=click.IntRange(min=1), default=6, show_default=True)
@click.option(
    "--screen-models",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Models on random 70 % of the data that choose half of the samples; 0: their neighbours' labels do.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Parallel processes.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--factors-only",
    is_flag=True,
    help="Measure nothing: compute the factors of the corpus in --out anew, after a new factor was installed.",
)
@quiet_option
def generate(
    specs: tuple[str, ...],
    names: tuple[str, ...],
    out: str,
    instances: int,
    unlearners: str | None,
    objective: str,
    seeds: int,
    oracle_groups: int,
    oracle_seeds: int,
    screen_models: int,
    jobs: int,
    seed: int,
    factors_only: bool,
    quiet: bool,
) -> None:
    """Measure how hard samples are to unlearn, by unlearning them.

    Every target is retrained groups x seeds times for its oracle, and every chosen sample goes through
    every unlearner: minutes for a small model, hours for a large one. Ctrl-C loses at most the part under
    way; the same command takes up the work where it stopped. An unlearner of a plugin that fails is named
    and left out; if --unlearners named it, the command fails once everything else is measured and written.

    Other targets that --out holds stay, each with the settings it was measured with. One that is measured anew
    with another model, data or settings replaces its rows, with a warning; where these could not come back
    from shards in --out, it is refused.

    \b
    EXAMPLES
      forgetcast generate --target mytargets:resnet --out my-corpus --jobs 4
      forgetcast generate --recipe digits-mlp --recipe digits-cnn --instances 60 --out small-corpus
      forgetcast generate --recipe published --out training_data/published --jobs 2
      forgetcast generate --factors-only --out my-corpus --target mytargets:resnet
    """
    if not specs and not names and not factors_only:
        raise InputError("nothing to measure: give --target module:factory or --recipe name")
    from forgetcast.adapters.loading import load_object, load_target
    from forgetcast.corpus.generate import generate_corpus
    from forgetcast.corpus.zoo.recipes import PUBLISHED, published

    targets: list[Any] = []
    for spec in specs:
        load_object(spec)  # a wrong name must not come to light hours later
        targets.append(partial(load_target, spec))
    for name in names:
        targets += PUBLISHED if name == "published" else [published(name)]
    if factors_only:
        from forgetcast.corpus.refresh import refresh_factors

        corpus = refresh_factors(out, targets, seed=seed, n_jobs=jobs, progress=not quiet)
        click.echo(
            f"{out}: {count(corpus.factors.shape[1] - 2, 'factor column')} of {count(len(corpus.factors), 'sample')}"
        )
        return
    with kept(f"what is finished stays in {out}"):
        corpus = generate_corpus(
            targets,
            out,
            instances=instances,
            unlearners=None if unlearners is None else [name.strip() for name in unlearners.split(",")],
            objectives=("retrain", "erase") if objective == "both" else (objective,),
            seeds=seeds,
            oracle_groups=oracle_groups,
            oracle_seeds=oracle_seeds,
            screen_models=screen_models,
            n_jobs=jobs,
            progress=not quiet,
            seed=seed,
        )
    stayed = len(corpus.targets) - len(targets)
    click.echo(
        f"{out}: {count(corpus.targets['target'].nunique(), 'target')}, "
        f"{count(len(corpus.instances), 'sample')}, {count(len(corpus.outcomes), 'outcome')}"
        + (f"; {stayed} of the targets were there before and stay" if stayed > 0 else "")
    )
