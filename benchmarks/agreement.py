"""Do all unlearners agree on what is hard? Three targets, every registered unlearner, both objectives.

    python benchmarks/agreement.py                 # about 20 minutes on 2 cores; resumable, shards in --work

Writes ``agreement.md``: share of goals reached and cost per unlearner, agreement between unlearners, reliability over
seeds and halves of the unlearners, trivial samples apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from forgetcast import generate_corpus
from forgetcast.corpus.inspection import agreement_table, reliability_table, targets_table, unlearners_table
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.corpus.zoo.recipes import published
from forgetcast.evaluation.page import table

TARGETS = ("digits-mlp", "satellite-mlp", "fashion-cnn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("agreement-corpus"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("agreement.md"))
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    corpus = generate_corpus(
        [published(name) for name in TARGETS], arguments.work, unlearners=("all",), n_jobs=arguments.jobs
    )
    names = sorted(corpus.outcomes["unlearner"].unique())
    approximate = [name for name in names if name != "retraining"]
    parts = [
        "# Agreement between unlearners",
        f"Made by `python benchmarks/agreement.py`: {', '.join(TARGETS)}, {len(corpus.instances)} samples, "
        f"{len(corpus.outcomes)} outcomes.",
        _table(targets_table(corpus)),
        "## What each unlearner did (samples that are not trivial)",
        "rho: Spearman correlation of its difficulty with the mean rank under the other consensus unlearners.",
        _table(unlearners_table(corpus)),
        "## Reliability of the label, Spearman-Brown corrected",
        f"Consensus of {', '.join(CONSENSUS)}. Halves of the unlearners, of the seeds, of the oracle.",
        _table(reliability_table(corpus)),
    ]
    for objective in ("retrain", "erase"):
        for nontrivial in (False, True):
            square = agreement_table(corpus, objective, approximate, nontrivial=nontrivial)
            kind = "samples that are not trivial" if nontrivial else "all samples"
            parts += [f"## {objective}, {kind}: Spearman correlation between unlearners, mean over targets"]
            parts += [_table(square.rename_axis(columns=None).reset_index())]
    arguments.out.write_text("\n\n".join(parts) + "\n")


def _table(frame) -> str:
    text = frame.map(lambda value: f"{value:.3g}" if isinstance(value, float) else str(value))
    return table(text, {str(name): str(name) for name in text.columns})


if __name__ == "__main__":
    main()
