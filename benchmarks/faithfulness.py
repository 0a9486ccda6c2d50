"""Do explanations name what the forecast hangs on? A deletion test on unseen targets.

    python benchmarks/faithfulness.py       # one to two minutes on one thread

Every target of the corpus is forecast by a percentile head that was fitted to all others. For 13 samples of each (507
in all, drawn by a seed) the columns of one family are replaced by those of 20 other samples of the same target, one
after the other, and the mean size of the change of the predicted percentile is taken:

- top: the family whose SHAP values sum up to the largest size, as explanations and pages show it;
- other: every other family; their mean is what a family drawn at random gives in the long run;
- as many columns: factors drawn at random from all other families, as many columns as the top family has;
- second and below: the family that comes second by SHAP values, and the mean of those after it. The top family is
  nearly always the same, so that naming it for every sample would pass the test above; this one asks more;
- usual: the family that is on top for most samples of the target, for the samples where another one is.

The family ``context`` is in none of them, for most of it is the same for all samples of a target, and so are families
that do not apply. Intervals are of 95 %, targets redrawn. Writes ``faithfulness.csv`` (per target), ``.md`` and
``.png``. Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from forgetcast import Corpus, DifficultyPredictor
from forgetcast.evaluation.page import table as markdown
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.objectives import OBJECTIVES
from forgetcast.predictor.columns import head_weights, labels_of
from forgetcast.predictor.heads import Head, fit_head
from forgetcast.registry import load_factors
from forgetcast.report import plots
from forgetcast.report.explain import factor_of
from forgetcast.report.plots.drawing import NEUTRAL

HERE = Path(__file__).parent
DONORS = 20
DRAWS = 10_000
KINDS = {"top": "top family", "other": "other families, mean", "matched": "as many columns of others"}
COLOURS = {"top": plots.HARDER, "other": plots.EASIER, "matched": NEUTRAL}
PAIRS = [("top", "other"), ("top", "matched"), ("second", "below")]
NAMES = {**KINDS, "second": "second family", "below": "families after the second, mean"}


def changes(head: Head, row: np.ndarray, donors: np.ndarray, columns: Sequence[np.ndarray]) -> np.ndarray:
    """Mean size of the change of the clipped percentile, (k,).

    Args:
        head: the percentile.
        row: one sample's features, (F,).
        donors: features of others, (m, F).
        columns: k sets of columns to replace: numbers, or a list of m such sets for the m donors.
    """
    mixed = np.tile(row, (len(columns), len(donors), 1))
    for k, chosen in enumerate(columns):
        for m in range(len(donors)):
            at = chosen[m] if isinstance(chosen, list) else chosen
            mixed[k, m, at] = donors[m, at]
    forecast = head.raw(np.concatenate([row[None], mixed.reshape(-1, len(row))])).clip(0, 1)
    return np.abs(forecast[1:] - forecast[0]).reshape(len(columns), len(donors)).mean(1)


def test_target(
    head: Head, X: np.ndarray, owners: np.ndarray, families: np.ndarray, samples: int, rng: np.random.Generator
) -> pd.DataFrame:
    """One row per sample: what replacing does, and which family it was.

    Args:
        head: the percentile, fitted without the target.
        X: features of the target's samples, (n, F).
        owners: factor of each column, (F,).
        families: family of each column, (F,).
        samples: how many to test.
        rng: draws samples, donors and columns.
    """
    usable = (families != "context") & ~np.isnan(X).all(axis=0)
    names = [name for name in dict.fromkeys(families) if usable[families == name].any()]
    columns = [np.flatnonzero(usable & (families == name)) for name in names]
    sums = np.stack([np.abs(head.contributions(X)[0][:, own].sum(1)) for own in columns], axis=1)
    usual = int(np.bincount(sums.argmax(1)).argmax())
    records = []
    for index in rng.choice(len(X), samples, replace=False):
        donors = X[rng.choice(np.delete(np.arange(len(X)), index), DONORS, replace=False)]
        order = np.argsort(-sums[index], kind="stable")
        top = int(order[0])
        outside = np.flatnonzero(usable & (families != names[top]))
        drawn = []
        for _ in range(DONORS):
            factors = rng.permutation(np.unique(owners[outside]))
            shuffled = np.concatenate([outside[owners[outside] == factor] for factor in factors])
            drawn.append(shuffled[: len(columns[top])])
        *change, matched = changes(head, X[index], donors, [*columns, drawn])
        change = np.array(change)
        others = np.delete(change, top)
        records.append(
            {
                "family": names[top],
                "top": change[top],
                "other": others.mean(),
                "matched": matched,
                "second": change[order[1]],
                "below": change[order[2:]].mean(),
                "usual": np.nan if usual == top else change[usual],
                "top where not usual": np.nan if usual == top else change[top],
                "found": float(change[top] >= others.max()),
                "chance": 1 / len(names),
                "rank correlation": spearmanr(sums[index], change).statistic,
            }
        )
    return pd.DataFrame(records)


def intervals(per_target: pd.DataFrame, seed: int) -> dict[str, str]:
    """The means, and top against each rival as difference and ratio, with intervals when targets are redrawn."""
    draws = np.random.default_rng(seed).integers(len(per_target), size=(DRAWS, len(per_target)))
    record = {text: f"{per_target[name].mean():.4f}" for name, text in NAMES.items()}
    for first, second in PAIRS:
        a, b = per_target[first].to_numpy(), per_target[second].to_numpy()
        for word, function in (("minus", np.subtract), ("over", np.divide)):
            low, high = np.quantile(function(a[draws].mean(1), b[draws].mean(1)), [0.025, 0.975])
            shown = ".4f" if word == "minus" else ".2f"
            value = function(a.mean(), b.mean())
            record[f"{NAMES[first]} {word} {NAMES[second]}"] = f"{value:{shown}} [{low:{shown}}, {high:{shown}}]"
        record[f"targets where {NAMES[first]} is larger than {NAMES[second]}"] = f"{(a > b).sum()} of {len(a)}"
    record["top family is the one that changes most"] = f"{per_target['found'].mean():.0%}"
    record["by chance"] = f"{per_target['chance'].mean():.0%}"
    correlation = per_target["rank correlation"].to_numpy()
    low, high = np.quantile(correlation[draws].mean(1), [0.025, 0.975])
    record["ρ of SHAP sum and change over a sample's families, mean"] = (
        f"{correlation.mean():.2f} [{low:.2f}, {high:.2f}]"
    )
    return record


def unusual(samples: pd.DataFrame) -> str:
    """What the samples show whose top family is not their target's usual one."""
    rows = samples.dropna(subset="usual")
    parts = []
    for objective, own in rows.groupby("objective", sort=False):
        larger = (own["top where not usual"] > own["usual"]).mean()
        parts.append(
            f"`{objective}`: {len(own)} samples of {own['target'].nunique()} targets have another top family than most "
            f"of their target; replacing it changes the forecast by {own['top where not usual'].mean():.4f}, replacing "
            f"the usual one by {own['usual'].mean():.4f}; it is the larger change in {larger:.0%} of them."
        )
    return "\n".join(f"- {part}" for part in parts)


def picture(frame: pd.DataFrame) -> Figure:
    """Three marks per target and objective."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(1, len(OBJECTIVES), sharey=True)
    order = frame.groupby("target")["top"].mean().sort_values().index
    for ax, objective in zip(axes, OBJECTIVES, strict=True):
        rows = frame[frame["objective"] == objective].set_index("target").loc[order]
        for kind, text in KINDS.items():
            ax.scatter(rows[kind], np.arange(len(rows)), s=26, color=COLOURS[kind], label=text, zorder=3)
        ax.set_yticks(np.arange(len(rows)), rows.index, fontsize=8)
        ax.set_xlim(left=0)
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set_title(objective, loc="left")
        ax.set_xlabel("mean size of the change of the predicted percentile")
        ax.grid(color=NEUTRAL, alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("One family of a sample's factors replaced by another sample's, unseen targets", x=0.01, ha="left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=HERE.parent / "training_data" / "published")
    parser.add_argument("--out", type=Path, default=HERE / "faithfulness.csv")
    parser.add_argument("--samples", type=int, default=13, help="per target")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    corpus = Corpus.read(arguments.corpus)
    rows, features = training_table(corpus), feature_columns(corpus)
    known = load_factors()
    owners = np.array([factor_of(column, known) for column in features], dtype=object).astype(str)
    families = np.array([known[name].family for name in owners])
    params = DifficultyPredictor.published().manifest["params"]
    target, X = rows["target"].to_numpy(dtype=object), rows[features].to_numpy(dtype=float)
    parts = []
    for objective in OBJECTIVES:
        y, weight = labels_of(rows, objective, "percentile"), head_weights(rows, objective, "percentile")
        for number, name in enumerate(dict.fromkeys(target)):
            out = target == name
            head = fit_head(X[~out], y[~out], weight[~out], features, "percentile", params, 0)
            rng = np.random.default_rng([arguments.seed, number])
            found = test_target(head, X[out], owners, families, arguments.samples, rng)
            parts.append(found.assign(objective=objective, target=name))
    samples = pd.concat(parts, ignore_index=True)
    columns = [*NAMES, "found", "chance", "rank correlation"]
    frame = samples.groupby(["objective", "target"], sort=False)[columns].mean().reset_index()
    frame.insert(2, "samples", arguments.samples)
    frame.to_csv(arguments.out, index=False, float_format="%.5f")
    picture(frame).savefig(arguments.out.with_suffix(".png"), dpi=110)
    summary = pd.DataFrame(
        {objective: intervals(frame[frame["objective"] == objective], arguments.seed) for objective in OBJECTIVES}
    )
    shares = samples.groupby("objective")["family"].value_counts(normalize=True).unstack(0).fillna(0)[list(OBJECTIVES)]
    shares = shares.loc[shares.mean(axis=1).sort_values(ascending=False).index].map(lambda share: f"{share:.0%}")
    sizes = {name: int((families == name).sum()) for name in shares.index}
    shares.insert(0, "columns", [str(sizes[name]) for name in shares.index])
    text = "\n\n".join(
        [
            "# Deletion test",
            f"Made by `python benchmarks/faithfulness.py`: {len(samples) // len(OBJECTIVES)} samples of "
            f"{frame['target'].nunique()} targets, each forecast by a fit to the other targets, {DONORS} donors a "
            "sample. Means over targets of the size of the change of the predicted percentile; 95 % intervals in "
            "brackets, targets redrawn.",
            markdown(summary.reset_index(names="what"), {name: name for name in ("what", *OBJECTIVES)}),
            unusual(samples),
            "How often a family is on top, and how many columns it has:",
            markdown(shares.reset_index(), {name: name for name in ("family", "columns", *OBJECTIVES)}),
            f"![Per target]({arguments.out.with_suffix('.png').name})",
        ]
    )
    arguments.out.with_suffix(".md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
