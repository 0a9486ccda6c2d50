"""Make the published predictor and its evaluation from the published corpus.

    python benchmarks/publish.py            # about 25 minutes on 2 cores; --quick leaves the learning curves out

1. LightGBM parameters are searched on four validation targets (``forgetcast.evaluation.tuning``), the
   defaults kept unless they are clearly beaten; every trial goes to ``tuning.csv``.
2. Targets, architectures and datasets are left out whole, and all but the validation targets are scored.
3. One predictor is fitted to all targets, and saved with the headline figures in its manifest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from forgetcast import Corpus, DifficultyPredictor
from forgetcast.evaluation.evaluate import evaluate
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.evaluation.tuning import choose_params

ROOT = Path(__file__).resolve().parents[1]
VALIDATION = ("digits-cnn", "digits-wide-mlp", "fashion-deep-mlp", "satellite-mlp")
"""Named before the first evaluation: two datasets with images and one without, four architectures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "training_data" / "published")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "published")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "evaluation")
    parser.add_argument("--quick", action="store_true", help="without learning curves and left-out unlearners")
    parser.add_argument("--trials", type=int, default=20, help="of the search for parameters")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()

    corpus = Corpus.read(arguments.corpus)
    table, features = training_table(corpus), feature_columns(corpus)
    params, tried = choose_params(
        table, FitSettings(features, n_jobs=arguments.jobs), VALIDATION, trials=arguments.trials, progress=True
    )
    print(tried.to_string(), flush=True)
    evaluation = evaluate(
        corpus,
        params=params,
        tuned_on=VALIDATION,
        extras=not arguments.quick,
        n_jobs=arguments.jobs,
        progress=True,
    )
    evaluation.write(arguments.results)
    tried.to_csv(arguments.results / "tuning.csv", index=False)
    predictor = DifficultyPredictor.fit(
        table,
        features,
        params=params,
        metrics={"unseen targets": evaluation.headline()},
        provenance={
            "corpora": [corpus.digest],
            "targets": sorted(table["target"].unique()),
            "tuning": {"trials": len(tried), "validated_on": list(VALIDATION)},
        },
        n_jobs=arguments.jobs,
    )
    predictor.save(arguments.model)
    print(evaluation.summary.to_string(), predictor, sep="\n")


if __name__ == "__main__":
    main()
