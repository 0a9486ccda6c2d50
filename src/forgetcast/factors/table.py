"""The factor table: every registered factor over all samples of a target."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from forgetcast._arguments import checked
from forgetcast.errors import IndexRangeError, NotApplicableError, PluginWarning
from forgetcast.factors.factor import Factor
from forgetcast.factors.probes.probes import Probes
from forgetcast.files.exact_values import sample_numbers
from forgetcast.registry import FACTOR_GROUP, Plugin, load_factors, not_found, raised, third_party
from forgetcast.target.content_order import content_order, copies
from forgetcast.target.seeding import sample_positions
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target

__all__ = ["FactorTable", "factor_table", "quantile_column"]

RECORDED = frozenset({"training_dynamics", "checkpoint_gradient_norms"})
"""Probes that differ between copies of a sample: the training run visited each by itself."""

REFERENCE = 2000
"""Samples that quantiles are taken among where not all are computed: a standard error of at most 0.011."""


def quantile_column(name: str) -> str:
    """Name of the column that holds a factor's quantile within the target.

    >>> quantile_column("margin")
    'margin_quantile'
    """
    return f"{name}_quantile"


@dataclass(frozen=True)
class FactorTable:
    """Factors of samples of one target."""

    values: pd.DataFrame
    """One row per sample asked for, in the order asked; index: sample numbers, named "index". One float64 column per
    factor, and for every per-sample factor one named ``<factor>_quantile``: its mid-rank / n within the target, in
    (0, 1). Where a factor does not apply: all NaN."""
    not_applicable: dict[str, str]
    """Reason for every factor that does not apply to this target."""
    factors: dict[str, Factor]
    """The factors of the table, by name."""
    notes: dict[str, str] = field(default_factory=dict)
    """What a factor left out although it applies (for instance parameters of unsupported layers), by factor."""
    reference: pd.DataFrame | None = None
    """The same columns for the samples that quantiles are taken among; None where ``values`` has all samples."""
    failed: tuple[str, ...] = ()
    """Factors of plugins that raised an error; ``not_applicable`` says which plugin and what."""
    of: Target | None = field(default=None, repr=False, compare=False)
    """The model and data that the factors are of; None where that is not known."""

    @property
    def population(self) -> pd.DataFrame:
        """Rows that stand for the whole target: all samples, or the reference sample."""
        return self.values if self.reference is None else self.reference

    @property
    def worked_out(self) -> pd.DataFrame:
        """All rows there are: those asked for, then what else the reference sample has."""
        if self.reference is None:
            return self.values
        return pd.concat([self.values, self.reference[~self.reference.index.isin(self.values.index)]])

    def take(self, indices: Sequence[int] | np.ndarray, seed: int = 0) -> FactorTable:
        """The rows of some samples, with a reference sample of at most 2000 others.

        Args:
            indices: samples of the table, in the order wanted.
            seed: of the reference sample.

        Raises:
            IndexRangeError: not integers, or a sample that the table does not have.
        """
        index = sample_numbers(indices)
        strangers = index[~np.isin(index, self.values.index)]
        if len(strangers):
            raise IndexRangeError(
                f"the factor table has no sample {strangers[0]}: work the factors out for it, or for all samples"
            )
        population = self.population
        drawn = population.iloc[sample_positions(len(population), REFERENCE, seed).numpy()]
        return replace(self, values=self.values.loc[index], reference=drawn)


@own_settings()
@checked()
def factor_table(
    target: Target,
    *,
    names: Sequence[str] | None = None,
    indices: Any = None,
    seed: int = 0,
    progress: bool = False,
) -> FactorTable:
    """Compute factors of the target's samples.

    With ``indices`` the values are those of the whole table, for less: one forward pass over all data (and what
    follows from it: features, last-layer factors, fits of the surrogates), but gradients, neighbours, rehearsals and
    Stein kernels only for the samples asked for and for a reference sample: all samples up to 2000, and beyond that
    2000 drawn by ``seed``. A quantile is the rank within the whole target where the factor's value is known of all
    samples; else it is the rank within the reference sample and the sample itself. So up to 2000 samples every row
    equals that of the whole table, and beyond that all but the quantiles of the factors named above.

    A factor of a plugin that raises, or returns a wrong shape, does not apply, with the error as its reason, and is
    warned of; all others are computed. An error in a built-in factor, or in a probe, is raised.

    Args:
        target: the model and its training data; stays as it is.
        names: which factors; default all that are registered.
        indices: which samples, in the order wanted; default all.
        seed: of projections, random features and the reference samples.
        progress: bars on stderr.

    Raises:
        UnknownNameError: a name in ``names`` that no factor has.
        IndexRangeError: indices outside the data, repeated, or not integers.
        PluginError: a built-in factor returned a wrong shape, or a name in ``names`` is of a plugin that cannot be
            used.
    """
    known = load_factors()
    for name in names or ():
        if name not in known:
            raise not_found(FACTOR_GROUP, name)
    chosen: dict[str, Factor] = {name: known[name] for name in (known if names is None else names)}
    n = len(target)
    wanted = torch.arange(n) if indices is None else target.data.check_indices(indices)
    by_content = content_order(target.data, target.num_classes)[0]
    order = by_content if target.data.in_memory else torch.arange(n)  # what is streamed is read as it lies
    kind = copies(target.data)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(n))
    reference = by_content[sample_positions(n, REFERENCE, seed)].sort().values
    rows = torch.arange(n)
    if indices is not None:
        asked = torch.cat([wanted, reference]).unique()
        rows = torch.from_numpy(np.flatnonzero(np.isin(kind, kind[asked.numpy()])))
    probes = Probes(
        target.in_order(order),
        seed=seed,
        progress=progress,
        expected={probe for item in chosen.values() for probe in item.probes},
        rows=None if len(rows) == n else place[rows].sort().values,
    )
    columns: dict[str, np.ndarray] = {}
    not_applicable: dict[str, str] = {}
    not_computed: dict[str, str] = {}
    failed: list[str] = []
    for name, item in tqdm(chosen.items(), desc="factors", unit="factor", disable=not progress, leave=False):
        try:
            values = _computed(item, probes)[place.numpy()]
            values[~np.isfinite(values)] = np.nan
            if not item.per_target and not RECORDED.intersection(item.probes):
                values = _shared(values, kind)
            not_computed[name] = _not_finite(values, rows)
        except NotApplicableError as reason:
            not_applicable[name] = str(reason)
            values = np.full(n, np.nan)
            if isinstance(reason, _FailedFactorError):
                failed.append(name)
                warnings.warn(str(reason), PluginWarning, stacklevel=2)
        columns[name] = values[rows.numpy()]
        if not item.per_target:
            columns[quantile_column(name)] = _quantiles(values, reference.numpy())[rows.numpy()]
    notes = {
        name: "; ".join(filter(None, [not_computed[name], *(probes.notes.get(probe, "") for probe in item.probes)]))
        for name, item in chosen.items()
        if name not in not_applicable
    }
    notes = {name: note for name, note in notes.items() if note}
    table = pd.DataFrame(columns, index=pd.RangeIndex(n) if len(rows) == n else pd.Index(rows.numpy()))
    table.index.name = "index"
    if indices is None:
        return FactorTable(table, not_applicable, chosen, notes, failed=tuple(failed), of=target)
    return FactorTable(
        table.loc[wanted.numpy()], not_applicable, chosen, notes, table.loc[reference.numpy()], tuple(failed), target
    )


def _shared(values: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """The mean over the copies of every sample, as far as they have values; copies differ by chance alone."""
    known = np.isfinite(values)
    count = np.bincount(kind[known], minlength=kind.max() + 1)
    if count.max() < 2:
        return values
    total = np.bincount(kind[known], weights=values[known], minlength=len(count))
    return np.where(known & (count[kind] > 1), total[kind] / np.maximum(count[kind], 1), values)


def _not_finite(values: np.ndarray, rows: Tensor) -> str:
    """Which of the samples ``rows`` have no value, in words; empty where all have one.

    Raises:
        NotApplicableError: none has.
    """
    bad = rows[np.isnan(values[rows.numpy()])]
    if len(bad) == 0:
        return ""
    found = f"not finite for {len(bad)} of {len(rows)} samples, the first is sample {int(bad[0])}"
    if len(bad) == len(rows):
        raise NotApplicableError(found)
    return f"{found}; they have no value, all others have"


class _FailedFactorError(NotApplicableError):
    """A factor of a plugin raised an error."""


def _computed(item: Factor, probes: Probes) -> np.ndarray:
    """The factor's values; an error of a plugin's factor becomes a reason why it does not apply.

    Its probes are computed before, for an error in one of those is not the plugin's.
    """
    plugin: Plugin | None = third_party(FACTOR_GROUP, item.name)
    if plugin is None:
        return item.compute(probes)
    for probe in item.probes:
        getattr(probes, probe)
    try:
        return item.compute(probes)
    except NotApplicableError:
        raise
    except Exception as error:
        raise _FailedFactorError(f"factor {item.name!r} of {plugin} raised {raised(error)}") from error


def _quantiles(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(average rank - 1/2) / n, in (0, 1): of n samples, or where some are NaN of the reference and the sample itself.

    Values that agree to six digits tie: they differ by the rounding of float32. NaN stays NaN.
    """
    values = _rounded(values)
    known = np.isfinite(values)
    if known.all() or not known.any():
        return ((pd.Series(values).rank(method="average") - 0.5) / len(values)).to_numpy()
    reference = reference[known[reference]]
    among = np.sort(values[reference])
    middle = (np.searchsorted(among, values) + np.searchsorted(among, values, side="right")) / 2
    outside = np.ones(len(values))
    outside[reference] = 0
    return np.where(known, (middle + outside / 2) / (len(among) + outside), np.nan)


def _rounded(values: np.ndarray, digits: int = 6) -> np.ndarray:
    """Values to so many significant digits."""
    size = np.abs(values)
    with np.errstate(divide="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.where(size > 0, size, 1))) - digits + 1)
    return np.round(values / unit) * unit
