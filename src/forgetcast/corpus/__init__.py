"""Measured difficulty: which targets and samples, the oracle, labels, and the files that hold them."""

from __future__ import annotations

from forgetcast._former_paths import found_in

__getattr__ = found_in(
    __name__,
    ("corpus.corpus", "evaluation.table", "files.parquet"),
    (
        "Corpus",
        "training_table",
        "feature_columns",
        "write_parquet",
    ),
)
