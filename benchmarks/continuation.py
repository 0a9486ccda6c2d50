"""Is a predictor continued on new targets better than the old one, and than fits with the old corpus or without it?

    python benchmarks/continuation.py          # about 5 minutes on 2 cores; writes continuation.csv

The published corpus is split in old and new targets: every second target is new, or all of a dataset. Each new target
is held out in turn and forecast by

- the predictor of the old targets, as it is;
- that predictor, continued on the other new targets by 25 to 250 trees;
- a fit to the other new targets alone;
- a fit to old and new targets together.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forgetcast import Corpus
from forgetcast.evaluation.scores import within_target_rho
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.predictor.columns import head_weights, labels_of
from forgetcast.predictor.heads import fit_head, fit_without

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = (25, 50, 100, 250)


def forecasts(
    table: pd.DataFrame, features: list[str], objective: str, new: list[str], n_jobs: int
) -> dict[str, float]:
    """Mean rank correlation on held-out new targets, by how they were forecast."""
    rows = table.dropna(subset=[f"percentile_{objective}"]).reset_index(drop=True)
    own = rows["target"].isin(new).to_numpy()
    old, recent = rows[~own], rows[own]
    y, weight = labels_of(old, objective, "percentile"), head_weights(old, objective, "percentile")
    base = fit_head(old[features].to_numpy(), y, weight, features, "percentile", {}, 0)

    def held_out(table: pd.DataFrame, **settings: Any) -> np.ndarray:
        targets = table["target"].to_numpy(dtype=object)
        found = fit_without(
            table, features, objective, targets, heads=("percentile",), only=new, n_jobs=n_jobs, **settings
        )
        return found.loc[recent.index, "percentile"].to_numpy()

    scores = {"old as it is": base.raw(recent[features].to_numpy()), "new alone": held_out(recent)}
    for rounds in ROUNDS:
        params = {"num_boost_round": rounds}
        scores[f"continued by {rounds}"] = held_out(recent, params=params, init={"percentile": base})
    scores["old and new together"] = held_out(rows)
    stacked = np.column_stack(list(scores.values())).clip(0, 1)
    measured, targets = recent[f"percentile_{objective}"].to_numpy(dtype=float), recent["target"].to_numpy(dtype=object)
    rho = np.nanmean(within_target_rho(stacked, measured, targets, new), axis=0)
    return dict(zip(scores, rho.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "training_data" / "published")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    corpus = Corpus.read(arguments.corpus)
    table, features = training_table(corpus), feature_columns(corpus)
    names = table.drop_duplicates("target").set_index("target")["dataset"]
    splits = {"every second target": names.index[1::2].tolist()}
    splits |= {f"all of {name}": own.index.tolist() for name, own in names.groupby(names) if len(own) > 2}
    records = []
    for split, new in splits.items():
        for objective in ("retrain", "erase"):
            found = forecasts(table, features, objective, new, arguments.jobs)
            records += [{"new": split, "targets": len(new), "objective": objective, "forecast": k, "rho": v}
                        for k, v in found.items()]  # fmt: skip
            print(split, len(new), objective, {name: round(rho, 3) for name, rho in found.items()}, flush=True)
    pd.DataFrame(records).round(4).to_csv(ROOT / "benchmarks" / "continuation.csv", index=False)


if __name__ == "__main__":
    main()
