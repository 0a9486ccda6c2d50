"""Make the published corpus: every target of ``corpus.zoo.recipes.PUBLISHED`` under eleven unlearners, both objectives.

    python training_data/make.py --jobs 2           # some hours on 2 cores; resumable, a target at a time

Half of the samples of a target are drawn from those suspected of being memorized: by the labels of their neighbours
(the 16 first targets, and the second training runs on their data, so that both runs measure the same samples), or by
twenty models on random 70 % of the data (all others). Factors are made last, with the trajectory of every training run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from forgetcast import Corpus, generate_corpus
from forgetcast.corpus.refresh import refresh_factors
from forgetcast.corpus.zoo.recipes import PUBLISHED

HERE = Path(__file__).parent
UNLEARNERS = (
    "gradient_ascent",
    "neggrad_plus",
    "random_relabelling",
    "bad_teaching",
    "influence",
    "scrub",
    "boundary_shrink",
    "woodfisher",
    "certified_removal",
    "ssd",
    "retraining",
)
BY_NEIGHBOURS = {recipe.name for recipe in PUBLISHED[:16]} | {"digits-mlp-again", "fashion-cnn-again"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "published")
    parser.add_argument("--parts", type=Path, default=HERE / "parts", help="a corpus per target, kept to resume from")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    corpora = []
    for recipe in PUBLISHED:
        folder = arguments.parts / recipe.name
        if (folder / "manifest.json").is_file():
            corpora.append(Corpus.read(folder))
            continue
        screened = recipe.name not in BY_NEIGHBOURS
        made = generate_corpus(
            [recipe],
            folder,
            unlearners=UNLEARNERS,
            seeds=2,
            instances=150 if screened else 180,
            screen_models=20 if screened else 0,
            n_jobs=arguments.jobs,
        )
        corpora.append(made)
    Corpus.join(corpora).write(arguments.out)
    refresh_factors(arguments.out, trajectory=True)


if __name__ == "__main__":
    main()
