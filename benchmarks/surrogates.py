"""Which cheap learners follow the oracle's p_out, what each seed adds, and how to mix them.

    python benchmarks/surrogates.py           # about 10 minutes on 2 cores

Every target of the published corpus is trained again; p_out is that of its leave-group-out oracle. Learners and weights
of the mixture were chosen on the validation targets alone. Writes ``surrogates.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from forgetcast import Corpus
from forgetcast.corpus.zoo.recipes import PUBLISHED, Recipe
from forgetcast.errors import NotApplicableError
from forgetcast.evaluation.page import table as markdown
from forgetcast.factors.probes.probes import Probes
from forgetcast.parallel import run_tasks

HERE = Path(__file__).parent
VALIDATION = (
    *("digits-mlp-noise", "digits-resnet", "fashion-mlp"),
    *("fashion-cnn", "fashion-attention", "satellite-mlp"),
)
LEARNERS = {
    "votes": ("input_vote", "middle_vote", "feature_vote"),
    "regressions": ("input_logistic", "early_logistic", "middle_logistic"),
    "last layer": ("leave_one_out_probability",),
}
MIXTURES = {
    "thirds": {"votes": 1, "regressions": 1, "last layer": 1},
    "votes a fifth (surrogate_confidence)": {"votes": 1, "regressions": 2, "last layer": 2},
    "no votes": {"votes": 0, "regressions": 1, "last layer": 1},
    "no last layer": {"votes": 1, "regressions": 2, "last layer": 0},
}


def answers(probes: Probes) -> dict[str, np.ndarray]:
    """What every learner and mixture that applies says, by name, each of shape (n,)."""
    single: dict[str, np.ndarray] = {}
    for name in (name for names in LEARNERS.values() for name in names):
        try:
            single[name] = getattr(probes, name).numpy()
        except NotApplicableError:
            continue
    kinds = {kind: [single[name] for name in names if name in single] for kind, names in LEARNERS.items()}
    means = {kind: np.mean(values, axis=0) for kind, values in kinds.items() if values}
    mixed = {
        name: np.average([means[k] for k in weights], axis=0, weights=list(weights.values()))
        for name, all_weights in MIXTURES.items()
        for weights in ({kind: all_weights[kind] for kind in means},)
    }
    return single | means | mixed


def rows_of(recipe: Recipe, instances: pd.DataFrame) -> list[dict[str, object]]:
    """Agreement with p_out, and how far two seeds are apart, a row per candidate."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        target = recipe.build()
        first, second = (answers(Probes(target, seed=seed)) for seed in (0, 1))
        own = Probes(target).true_probability.numpy()
    index, p_out = instances["index"].to_numpy(), instances["p_out"].to_numpy()
    chosen = {
        "all": np.ones(len(index), dtype=bool),
        "not trivial": own[index] > p_out + 0.05,
        "memorized": instances["memorization"].to_numpy() > 0.25,
    }
    rows = []
    for name, values in first.items():
        found = values[index]
        row: dict[str, object] = {"candidate": name, "target": recipe.name}
        for what, kept in chosen.items():
            row[what] = spearmanr(found[kept], p_out[kept])[0] if kept.sum() >= 10 else np.nan
        rows.append(row | {"error": np.abs(found - p_out).mean(), "seeds": np.abs(values - second[name]).mean()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=HERE.parent / "training_data" / "published")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    instances = Corpus.read(arguments.corpus).instances.groupby("target")
    tasks = [(recipe, instances.get_group(recipe.name)) for recipe in PUBLISHED]
    found = run_tasks(rows_of, tasks, n_jobs=arguments.jobs, title="targets", progress=True, in_turn=True)
    table = pd.DataFrame([row for rows in found for row in rows])
    table["targets"] = np.where(table["target"].isin(VALIDATION), "validation", "others")
    means = table.drop(columns="target").groupby(["targets", "candidate"], sort=False).mean().round(3).reset_index()
    means.insert(2, "n", table.groupby(["targets", "candidate"], sort=False).size().to_numpy())
    shown = markdown(means.astype(str), {name: name for name in means})
    (HERE / "surrogates.md").write_text(
        "# Cross-fitted surrogates\n\n"
        "Made by `python benchmarks/surrogates.py`. Spearman correlation with the oracle's p_out within targets (over\n"
        "all samples, those that are not trivial, those with memorization above 0.25), mean absolute error, and mean\n"
        "absolute difference of two seeds. Means over the targets on which a candidate applies.\n\n" + shown + "\n",
        encoding="utf-8",
    )
    print(means.to_string())


if __name__ == "__main__":
    main()
