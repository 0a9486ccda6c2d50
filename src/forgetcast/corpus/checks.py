"""Do the tables of a corpus hold what everything that reads them relies on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forgetcast.errors import FileFormatError
from forgetcast.files.stores import Place

__all__ = ["check_tables", "unsound"]

TEXT = ("target", "unlearner", "objective")
WHOLE = ("index", "seed", "label")
SHARES = ("forgetting", "tv_retain", "tv_test", "tv_neighbours", "p_out", "p_in", "p")
"""Columns of numbers from 0 to 1, with some slack for rounding."""
LARGEST = 1e30
"""Beyond what any column of numbers holds: its square is still a number."""


def check_tables(frames: Mapping[str, pd.DataFrame], targets: Sequence[Mapping[str, Any]], folder: Place) -> None:
    """Check kinds and ranges of all columns, and that a sample has one row in instances and in factors.

    Args:
        frames: outcomes, instances and factors.
        targets: entries of the manifest.
        folder: of the corpus, for messages.

    Raises:
        FileFormatError: something does not hold.
    """

    def need(holds: object, file: str, what: str) -> None:
        if not holds:
            raise FileFormatError(f"{folder / file}: expected {what}; generate the corpus again, or get a sound copy")

    names = [target["target"] for target in targets]
    need(all(map(_text, names)), "manifest.json", "text as names of targets")
    need(len(set(names)) == len(names), "manifest.json", "every target once")
    for target in targets:
        texts = all(_text(target.get(key, "")) for key in ("dataset", "architecture"))
        need(texts, "manifest.json", "text as dataset and architecture of every target")
        numbers = (target.get(key) for key in ("n", "classes", "parameters", "train_accuracy", "heldout_accuracy"))
        good = all(v is None or (isinstance(v, (int, float)) and abs(v) <= LARGEST) for v in numbers)
        need(good, "manifest.json", "numbers that describe the targets")
    for name, frame in frames.items():
        file = f"{name}.parquet"
        for column in frame.columns:
            expected = unsound(frame[column])
            need(expected is None, file, f"{expected} in the column {column!r}")
        if name != "outcomes":
            once = not frame.duplicated(["target", "index"]).any()
            need(once, file, "one row for every sample of a target")
    weight = frames["instances"]["weight"]
    need((weight > 0).all(), "instances.parquet", "weights above 0")
    outcomes = frames["outcomes"]
    objectives = set(outcomes["objective"].unique())
    need(objectives <= {"retrain", "erase"}, "outcomes.parquet", "the objectives retrain and erase")
    once = not outcomes.duplicated(["target", "unlearner", "seed", "objective", "index"]).any()
    need(once, "outcomes.parquet", "one row for every sample, objective and run of an unlearner")
    known = outcomes[["target", "index"]].drop_duplicates().merge(frames["instances"][["target", "index"]])
    need(
        len(known) == len(outcomes[["target", "index"]].drop_duplicates()),
        "outcomes.parquet",
        "outcomes of samples in instances.parquet alone",
    )


def unsound(values: pd.Series) -> str | None:
    """What a column of that name must hold; None where it does."""
    column = values.name
    if column in TEXT:
        return None if values.map(lambda value: isinstance(value, str)).all() else "text"
    if column in WHOLE:
        whole = pd.api.types.is_integer_dtype(values.dtype) and (values.abs() <= 2**53).all()
        return None if whole else "whole numbers"
    if column == "trivial":
        return None if values.dtype == bool else "true or false"
    if not _numbers(values):
        return "finite numbers, or none,"
    if column in SHARES and ((values < -1e-6) | (values > 1 + 1e-6)).any():
        return "numbers from 0 to 1"
    return None


def _text(value: object) -> bool:
    """Whether a value is text that a file can hold: without halves of surrogate pairs."""
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode()


def _numbers(values: pd.Series) -> bool:
    """Whether a column holds numbers (or truth values) that can be reckoned with, or NaN."""
    if values.dtype == object:  # of nulls alone
        return bool(values.isna().all())
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_complex_dtype(values.dtype):
        return False
    return not bool((np.abs(values.to_numpy(dtype=float, na_value=np.nan)) > LARGEST).any())
