"""Are the oracle's models trained faster side by side than one after another, and by how much?

    python benchmarks/oracle_speed.py              # about 2 minutes

One thread, for the generator runs as many processes as there are cores. Both ways train the same models; the largest
difference between their predictions on the training data is reported. Networks with convolutions, batch normalisation
or dropout are trained one after another (see ``forgetcast.corpus.zoo.training.trains_stacked``) and are not listed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from forgetcast.corpus.zoo.recipes import PUBLISHED
from forgetcast.corpus.zoo.training import train_classifier, train_stacked, trains_stacked

MANY = (5, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("oracle_speed.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = []
    for recipe in PUBLISHED:
        target = recipe.build()
        if not trains_stacked(target.module):
            continue
        trainer = target._train
        settings = {name: getattr(trainer, name) for name in ("epochs", "lr", "batch_size", "weight_decay")}
        x, y, n = trainer.x, trainer.y, len(target)
        rng = np.random.default_rng(0)
        kept = [np.setdiff1d(np.arange(n), rng.choice(n, 5, replace=False)) for _ in range(max(MANY))]
        began = time.perf_counter()
        alone = [train_classifier(trainer.make(k), x, y, indices=kept[k], seed=k, **settings) for k in range(MANY[0])]
        loop = (time.perf_counter() - began) / MANY[0]
        for many in MANY:
            models = [trainer.make(k) for k in range(many)]
            began = time.perf_counter()
            made = train_stacked(models, x, y, indices=kept[:many], seeds=range(many), **settings)
            each = (time.perf_counter() - began) / many
            with torch.no_grad():
                pairs = [(a(x).softmax(1) - b(x).softmax(1)).abs() for a, b in zip(alone, made, strict=False)]
            record = {"target": recipe.name, "parameters": sum(p.numel() for p in target.params.values())}
            record |= {"models": many, "seconds_alone": loop, "seconds_stacked": each, "times": loop / each}
            record |= {"mean_difference": float(torch.stack(pairs).mean()), "largest": float(torch.stack(pairs).max())}
            records.append(record)
            print(record, flush=True)
    pd.DataFrame(records).to_csv(arguments.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
