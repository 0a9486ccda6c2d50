"""The oracle against exact leave-one-out, and what groups and seeds buy.

    python benchmarks/oracle_check.py              # about 8 minutes on 2 cores; resumable, shards in --work

For two targets, 24 instances each: of 180 the ones that an ensemble of its own suspects most of being memorized, so
that no estimate compared here has chosen them. Exact leave-one-out trains one model without each, with six seeds.
Against it stand grouped leave-out with 5, 10, 20 and 40 groups of the same 180 instances and 1, 2, 4 and 6 seeds, and
the usual ensemble of models on random 70 % subsets (Feldman & Zhang 2020) with 120 models. Reported: bias (mean of
estimate minus exact), Pearson correlation with exact, split-half reliability over all 180 instances, models trained.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from forgetcast.corpus.labels import spearman_brown
from forgetcast.corpus.oracle import TOGETHER, deal_groups, leave_groups_out, subset_answers, subset_screen, summarise
from forgetcast.corpus.sampling import draw_instances
from forgetcast.corpus.zoo.recipes import published
from forgetcast.parallel import run_tasks
from forgetcast.target.target import Target

TARGETS = ("digits-mlp-noise", "satellite-mlp")
SEEDS = 6
EXACT = 24


def grouped(target: Target, indices: np.ndarray, groups: int, seed: int) -> pd.DataFrame:
    """All models of one seed."""
    group = deal_groups(target.labels.numpy()[indices], groups, 0)
    parts = np.array_split(np.arange(groups), max(1, groups // TOGETHER))
    return pd.concat(leave_groups_out(target, indices, group, part, [1000 + seed] * len(part)) for part in parts)


def subsets(target: Target, indices: np.ndarray, models: int, seed: int) -> pd.DataFrame:
    """Models on random 70 % of the data, as many as one seed of 20 groups takes; answers on the instances."""
    answers = subset_answers(target, range(models), 0.7, 1 + seed)
    return answers[answers["index"].isin(indices)]


def kept(path: Path, function, *arguments) -> pd.DataFrame:
    """The table at ``path``, computed if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = function(*arguments)
        draft = path.with_suffix(".part")
        frame.to_parquet(draft, index=False)
        draft.replace(path)
    return pd.read_parquet(path)


def row(estimate: pd.Series, exact: pd.Series, halves: pd.DataFrame) -> dict[str, float]:
    own = estimate.reindex(exact.index)
    complete = halves.dropna()
    return {
        "bias": float((own - exact).mean()),
        "worst": float((own - exact).abs().max()),
        "correlation": float(own.corr(exact)),
        "reliability": spearman_brown(float(complete.corr().iloc[0, 1])) if len(complete) > 3 else np.nan,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("oracle-check"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("oracle_check.csv"))
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    records = []
    for name in TARGETS:
        target = published(name).build()
        indices = draw_instances(target, 180, 0)["index"].to_numpy()
        work = arguments.work / name
        tasks = [
            (work / f"grouped-{groups}-{seed}.parquet", grouped, target, indices, groups, seed)
            for groups in (20, 40, 10, 5)
            for seed in range(SEEDS)
        ]
        tasks += [(work / f"subsets-{seed}.parquet", subsets, target, indices, 20, seed) for seed in range(SEEDS)]
        frames = run_tasks(kept, tasks, n_jobs=arguments.jobs, title=f"{name}: estimates")
        answers = {(task[4], task[5]): frame for task, frame in zip(tasks, frames, strict=True) if task[1] is grouped}
        screen = kept(work / "screen.parquet", partial(subset_screen, models=80, seed=99), target).set_index("index")
        chosen = screen.loc[indices, "memorization"].nlargest(EXACT).index.to_numpy()
        singles = [(work / f"exact-{s}.parquet", grouped, target, chosen, EXACT, s) for s in range(SEEDS)]
        exact_answers = pd.concat(run_tasks(kept, singles, n_jobs=arguments.jobs, title=f"{name}: exact"))
        exact_table = summarise(exact_answers).set_index("index")
        exact = exact_table["p_out"]
        for groups in (5, 10, 20, 40):
            for seeds in (1, 2, 4, 6):
                table = summarise(pd.concat([answers[groups, s] for s in range(seeds)])).set_index("index")
                found = row(table["p_out"], exact, table[["p_out_half_a", "p_out_half_b"]])
                records.append({"target": name, "method": "grouped", "groups": groups, "seeds": seeds} | found)
                records[-1]["models"] = groups * seeds
        ensemble = pd.concat(frame for task, frame in zip(tasks, frames, strict=True) if task[1] is subsets)
        table = summarise(ensemble).set_index("index")
        found = row(table["p_out"], exact, table[["p_out_half_a", "p_out_half_b"]])
        records.append({"target": name, "method": "70 % subsets", "seeds": SEEDS, "models": 20 * SEEDS} | found)
        found = row(exact, exact, exact_table[["p_out_half_a", "p_out_half_b"]])
        records.append({"target": name, "method": "exact", "seeds": SEEDS, "models": EXACT * SEEDS} | found)
    frame = pd.DataFrame(records)
    frame.to_csv(arguments.out, index=False, float_format="%.4f")
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
