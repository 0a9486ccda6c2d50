"""``forgetcast train``: fit a predictor to one or more corpora."""

from __future__ import annotations

from pathlib import Path

import click

from forgetcast.cli.options import FOLDER
from forgetcast.errors import SchemaError

__all__ = ["train"]


@click.command()
@click.option(
    "--corpus",
    "folders",
    type=FOLDER,
    multiple=True,
    required=True,
    help="A folder made by 'forgetcast generate'; may be repeated.",
)
@click.option("--out", type=FOLDER, required=True, help="The predictor folder to write.")
@click.option("--seed", type=int, default=0, show_default=True)
def train(folders: tuple[Path, ...], out: Path, seed: int) -> None:
    """Fit a difficulty predictor to measured difficulty.

    Give the published corpus together with your own: a few measured samples of models like yours go far.

    \b
    EXAMPLES
      forgetcast train --corpus my-corpus --out my-predictor
      forgetcast train --corpus training_data/published --corpus my-corpus --out my-predictor
      forgetcast predict --predictor my-predictor --model mymodels:resnet --dataset train.npz
    """
    from forgetcast.corpus import Corpus, feature_columns, training_table
    from forgetcast.predictor import DifficultyPredictor

    corpora = [Corpus.read(folder) for folder in folders]
    features = feature_columns(corpora[0])
    for folder, corpus in zip(folders, corpora, strict=True):
        if "partial" in corpus.manifest:
            click.echo(f"note: {folder} is partial, {corpus.manifest['partial']}", err=True)
        others = feature_columns(corpus)
        if set(others) != set(features):
            missing, extra = sorted(set(features) - set(others)), sorted(set(others) - set(features))
            raise SchemaError(
                f"{folder} holds other factors than {folders[0]}: missing {missing}, extra {extra}; "
                "generate both with the same plugins installed"
            )
    table = training_table(Corpus.join(corpora))
    provenance = {"corpora": [corpus.digest for corpus in corpora], "targets": sorted(table["target"].unique())}
    predictor = DifficultyPredictor.fit(table, features, seed=seed, provenance=provenance)
    predictor.save(out)
    click.echo(f"{out}: {len(table)} samples of {table['target'].nunique()} targets, {len(features)} features")
