"""The factor table: every registered factor over all samples of a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from tqdm import tqdm

from forgetcast.errors import NotApplicableError, UnknownNameError
from forgetcast.factors._factor import Factor
from forgetcast.probes import Probes
from forgetcast.registry import load_factors
from forgetcast.target import Target

__all__ = ["FactorTable", "factor_table", "quantile_column"]


def quantile_column(name: str) -> str:
    """Name of the column that holds a factor's quantile within the target.

    >>> quantile_column("margin")
    'margin_quantile'
    """
    return f"{name}_quantile"


@dataclass(frozen=True)
class FactorTable:
    """Factors of every sample of one target."""

    values: pd.DataFrame
    """Index 0..n-1 named "index". One float64 column per factor, and for every per-sample factor one named
    ``<factor>_quantile``: its mid-rank / n within the target, in (0, 1). Where a factor does not apply: all NaN."""
    not_applicable: dict[str, str]
    """Reason for every factor that does not apply to this target."""
    factors: dict[str, Factor]
    """The factors of the table, by name."""
    notes: dict[str, str] = field(default_factory=dict)
    """What a factor left out although it applies (for instance parameters of unsupported layers), by factor."""


def factor_table(
    target: Target, *, names: Sequence[str] | None = None, seed: int = 0, progress: bool = False
) -> FactorTable:
    """Compute factors for all samples of the target's data.

    Args:
        target: the model and its training data; stays as it is.
        names: which factors; default all that are registered.
        seed: of projections, random features and the reference sample.
        progress: bars on stderr.

    Raises:
        UnknownNameError: a name in ``names`` that no factor has.
        PluginError: a factor returned a wrong shape.
    """
    known = load_factors()
    for name in names or ():
        if name not in known:
            raise UnknownNameError.of("factor", name, known)
    chosen: dict[str, Factor] = {name: known[name] for name in (known if names is None else names)}
    expected = {probe for item in chosen.values() for probe in item.probes}
    probes = Probes(target, seed=seed, progress=progress, expected=expected)
    n = len(target)
    columns: dict[str, np.ndarray] = {}
    not_applicable: dict[str, str] = {}
    for name, item in tqdm(chosen.items(), desc="factors", unit="factor", disable=not progress, leave=False):
        try:
            values = item.compute(probes)
            if not np.isfinite(values).all():
                bad = np.flatnonzero(~np.isfinite(values))
                raise NotApplicableError(f"not finite for {len(bad)} of {n} samples, the first is sample {bad[0]}")
        except NotApplicableError as reason:
            not_applicable[name] = str(reason)
            values = np.full(n, np.nan)
        columns[name] = values
        if not item.per_target:
            columns[quantile_column(name)] = _mid_rank(values)
    notes = {
        name: "; ".join(probes.notes[probe] for probe in item.probes if probe in probes.notes)
        for name, item in chosen.items()
        if name not in not_applicable and any(probe in probes.notes for probe in item.probes)
    }
    index = pd.RangeIndex(n, name="index")
    return FactorTable(pd.DataFrame(columns, index=index), not_applicable, chosen, notes)


def _mid_rank(values: np.ndarray) -> np.ndarray:
    """(average rank - 1/2) / n, in (0, 1); NaN stays NaN."""
    return ((pd.Series(values).rank(method="average") - 0.5) / len(values)).to_numpy()
