"""How each factor alone orders samples by difficulty: three targets, both objectives, with confidence intervals.

    python benchmarks/factor_correlations.py       # about 2 minutes on 2 cores

Targets are trained again from their recipes, with their checkpoints, and must be the corpus's own: the model's hash is
compared, and where another machine rounds otherwise, the samples' probabilities. Measured difficulty is the corpus's
consensus percentile. Writes ``factor_correlations.csv`` (all samples, and those that are not trivial), ``.md`` and one
plot per objective. Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from forgetcast import Corpus
from forgetcast.corpus.labels import consensus
from forgetcast.corpus.zoo.recipes import published
from forgetcast.evaluation.page import table
from forgetcast.factors import factor_table
from forgetcast.predictor.agreement import spearman_interval
from forgetcast.report import plots
from forgetcast.target.logits import true_probability

HERE = Path(__file__).parent
TARGETS = ("digits-mlp-noise", "satellite-mlp", "fashion-cnn")


def correlations(corpus: Corpus, name: str) -> pd.DataFrame:
    """One row per factor, objective and set of samples."""
    target = published(name).build(trajectory=True)
    outcomes = corpus.outcomes[corpus.outcomes["target"] == name]
    instances = corpus.instances[corpus.instances["target"] == name]
    known = outcomes.drop_duplicates("index").set_index("index")["p_before"]
    own = true_probability(target.logits(), target.labels).numpy()[known.index]
    recorded = corpus.targets.set_index("target").loc[name, "model_hash"]
    if target.model_hash != recorded and not np.allclose(own, known, atol=0.02):
        raise SystemExit(f"{name} trained here is another model than the corpus's: its probabilities differ")
    factors = factor_table(target)
    records = []
    for objective in ("retrain", "erase"):
        label = consensus(outcomes, instances, objective).set_index("index")
        trivial = outcomes[outcomes["objective"] == objective].groupby("index")["trivial"].first()
        for samples, chosen in (("all", label.index), ("not trivial", label.index[~trivial[label.index]])):
            for factor, item in factors.factors.items():
                if item.per_target:
                    continue
                values = factors.values.loc[chosen, factor]
                found = spearman_interval(values, label.loc[chosen, "percentile"])
                records.append((name, objective, samples, factor, item.family, *found))
    columns = ["target", "objective", "samples", "factor", "family", "rho", "low", "high", "n"]
    return pd.DataFrame(records, columns=columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=HERE.parent / "training_data" / "published")
    parser.add_argument("--out", type=Path, default=HERE / "factor_correlations.csv")
    arguments = parser.parse_args()
    corpus = Corpus.read(arguments.corpus)
    frame = pd.concat([correlations(corpus, name) for name in TARGETS], ignore_index=True)
    frame.to_csv(arguments.out, index=False, float_format="%.4f")
    parts = [
        "# Factors against measured difficulty",
        "Made by `python benchmarks/factor_correlations.py`. Spearman correlation within the target with the consensus "
        "percentile, 95 % bootstrap intervals; strongest mean first. Factors of whole targets are not listed.",
    ]
    for (objective, samples), rows in frame.groupby(["objective", "samples"], sort=False):
        parts += [f"## {objective}, {samples} samples", _table(rows)]
    for objective in ("retrain", "erase"):
        picture = arguments.out.with_name(f"factor-correlations-{objective}.png")
        rows = frame[(frame["objective"] == objective) & (frame["samples"] == "all")]
        plots.factor_correlations(rows).figure.savefig(picture, dpi=110)
        parts.append(f"![{objective}]({picture.name})")
    arguments.out.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


def _table(rows: pd.DataFrame) -> str:
    text = rows.assign(
        value=[
            "" if np.isnan(r.rho) else f"{r.rho:+.2f} [{r.low:+.2f}, {r.high:+.2f}]"
            for r in rows.itertuples(index=False)
        ]
    )
    wide = text.pivot(index=["factor", "family"], columns="target", values="value")[list(TARGETS)]
    order = rows.groupby("factor")["rho"].mean().abs().sort_values(ascending=False).index
    wide = wide.reset_index().set_index("factor").loc[order].reset_index()
    return table(wide, {name: name for name in wide.columns})


if __name__ == "__main__":
    main()
