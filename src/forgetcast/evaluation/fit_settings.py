"""How the fits of an evaluation are made: one bundle that its functions hand on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import joblib

__all__ = ["FitSettings"]

T = TypeVar("T")


@dataclass(frozen=True)
class FitSettings:
    """Columns, parameters and seed that all fits of a run have in common."""

    features: Sequence[str]
    """Feature columns of the training table."""
    params: Mapping[str, Any] | None = None
    """LightGBM parameters over ``heads.DEFAULT_PARAMS``."""
    seed: int = 0
    """Of row and column sampling, of subsets and of the bootstrap."""
    n_jobs: int = 2
    """Fits run at a time."""
    resamples: int = 1000
    """Of the bootstrap."""

    def in_threads(self, function: Callable[..., T], tasks: Iterable[Sequence[Any]]) -> list[T]:
        """``[function(*task) for task in tasks]``, ``n_jobs`` at a time: fits release the interpreter's lock."""
        calls = (joblib.delayed(function)(*task) for task in tasks)
        return list(joblib.Parallel(n_jobs=self.n_jobs, prefer="threads")(calls))
