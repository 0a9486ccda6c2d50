"""Fitting the heads and intervals of a predictor to a training table, and the manifest that says how."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from forgetcast.errors import InputError, SchemaError, shortened
from forgetcast.objectives import OBJECTIVES
from forgetcast.predictor.columns import (
    HEADS,
    INTERVAL_HEADS,
    UNLEARNER,
    UNLEARNER_HEADS,
    as_features,
    head_weights,
    labelled,
    labels_of,
    objectives_of,
    recorded_parts,
    recorded_unlearner_heads,
    residuals_under,
    under_column,
    unlearners_of,
)
from forgetcast.predictor.familiarity import contexts, extended
from forgetcast.predictor.folder import Heads, Residuals, seal
from forgetcast.predictor.heads import DEFAULT_PARAMS, Head, fit_head, fit_without
from forgetcast.predictor.intervals import residual_groups
from forgetcast.predictor.unlearner_heads import fit_unlearner_head, known_unlearners, unlearner_errors

__all__ = ["Fit"]

LEVEL = 0.9
MINIMUM_ROWS = 10


@dataclass(frozen=True)
class Fit:
    """How predictors are fitted: columns, parameters and seed; arguments as for ``DifficultyPredictor.fit``."""

    features: list[str]
    params: Mapping[str, Any]
    seed: int
    n_jobs: int
    progress: bool

    def run(
        self,
        table: pd.DataFrame,
        start: tuple[Heads, Residuals, Mapping[str, Any]] | None,
        metrics: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> tuple[Heads, Residuals, dict[str, Any]]:
        """Heads, residuals and manifest of a predictor.

        Args:
            table: what it is fitted to.
            start: those of the predictor that the fit goes on from.
            metrics: kept in the manifest.
            provenance: kept in the manifest.

        Raises:
            SchemaError, InputError: as ``DifficultyPredictor.fit``.
        """
        objectives = _check_table(table, self.features)
        heads: Heads = {}
        residuals: Residuals = {}
        unlearners: dict[str, list[str]] = {}
        if start is not None:
            _check_continuation(table, self.features, start[2])
            heads, residuals, unlearners = dict(start[0]), dict(start[1]), known_unlearners(start[0], start[2])
        table = table.reset_index(drop=True)
        folds = ""
        for objective in objectives:
            rows, init = labelled(table, objective), heads.get(objective, {})
            known = unlearners.get(objective) or unlearners_of(rows, objective)
            if len(known) > 1:
                unlearners[objective] = known
            heads[objective] = {**init, **self._heads(rows, objective, unlearners.get(objective, []), init)}
            groups, folds = residual_groups(rows, self.seed, by_target=bool(init))
            residuals[objective] = self._residuals(rows, objective, unlearners.get(objective, []), groups, init)
        manifest = self._manifest(table, objectives, unlearners, folds)
        manifest["metrics"] = _jsonable(metrics, "metrics")
        manifest["provenance"] = _jsonable(provenance, "provenance")
        if start is not None:
            _record_continuation(manifest, table, start[2])
        seal(manifest, heads, residuals)
        return heads, residuals, manifest

    def _heads(
        self, rows: pd.DataFrame, objective: str, unlearners: list[str], init: Mapping[str, Head]
    ) -> dict[str, Head]:
        """Every head that the rows have labels for, going on from those of ``init``."""
        X = as_features(rows, self.features)
        heads = {
            head: fit_head(
                X,
                labels_of(rows, objective, head),
                head_weights(rows, objective, head),
                self.features,
                head,
                self.params,
                self.seed,
                init.get(head),
            )
            for head in (*HEADS, *recorded_parts(rows, objective))
        }
        for head in recorded_unlearner_heads(rows, objective, unlearners):
            heads[head] = fit_unlearner_head(
                rows,
                self.features,
                objective,
                unlearners,
                self.params,
                self.seed,
                init.get(head),
                UNLEARNER_HEADS[head],
            )
        return heads

    def _residuals(
        self,
        rows: pd.DataFrame,
        objective: str,
        unlearners: list[str],
        groups: np.ndarray,
        init: Mapping[str, Head],
    ) -> dict[str, dict[str, list[float]]]:
        """By head and group, the errors that intervals rest on: of fits that had not seen the group."""
        predicted = fit_without(
            rows,
            self.features,
            objective,
            groups,
            heads=INTERVAL_HEADS,
            params=self.params,
            seed=self.seed,
            n_jobs=self.n_jobs,
            init=init,
            title=f"intervals, {objective}" if self.progress else "",
        ).clip(0, 1)
        residuals = {
            head: {
                str(group): (labels_of(rows, objective, head) - predicted[head])[groups == group].tolist()
                for group in pd.unique(pd.Series(groups))
            }
            for head in INTERVAL_HEADS
        }
        if not unlearners:
            return residuals
        errors = unlearner_errors(
            rows,
            self.features,
            objective,
            unlearners,
            groups,
            params=self.params,
            seed=self.seed,
            n_jobs=self.n_jobs,
            init=init.get(UNLEARNER),
        )
        return residuals | {residuals_under(name): values for name, values in errors.items()}

    def _manifest(
        self, table: pd.DataFrame, objectives: list[str], unlearners: dict[str, list[str]], folds: str
    ) -> dict[str, Any]:
        return {
            "features": self.features,
            "typical": _typical(table, self.features),
            "contexts": contexts(table, self.features),
            "unlearners": unlearners,
            "intervals": {
                "method": "conformal, symmetric and of constant width on the head's own scale (crepes "
                "ConformalRegressor) from the errors of fits that left out "
                + ("one whole target at a time" if folds == "target" else "a random fifth of the rows"),
                "folds": folds,
                "level": LEVEL,
                "scale": {"percentile": "identity", "difficulty": "logarithmic (heads.log_scale)"},  # fingerprinted
                "pooling": "every target counts the same, whatever its number of rows",
                "population": "the measured instances, without their sampling weights",
                "ties": "trivial samples of retrain are placed within their band of percentiles by memorization"
                if "memorization" in table.columns
                else "trivial samples of retrain share the middle of their band of percentiles",
            },
            "params": {**DEFAULT_PARAMS, **self.params},
            "seed": self.seed,
            "versions": {name: version(name) for name in ("forgetcast", "lightgbm", "crepes", "numpy")}
            | {"python": platform.python_version()},
            "training": {
                "rows": {
                    str(target): int(count) for target, count in table.groupby("target", sort=True).size().items()
                },
                "sha256": _table_hash(table, self.features, objectives),
            },
        }


def _check_table(table: pd.DataFrame, features: list[str]) -> list[str]:
    """The objectives that the table has labels for, after checking everything a fit relies on."""
    if not features or len(set(features)) != len(features):
        raise SchemaError(f"expected at least one feature column and none twice; got {features}")
    odd = [name for name in features if not (isinstance(name, str) and name.isidentifier())]
    if odd:
        raise SchemaError(f"feature names must be Python identifiers; these are not: {odd}")
    missing = [name for name in ["target", "weight", *features] if name not in table.columns]
    found = objectives_of(table)
    if missing or not found:
        wanted = [] if found else ["percentile_o, difficulty_o and trivial_o for o in " + " or ".join(OBJECTIVES)]
        raise SchemaError(f"the training table lacks columns: {', '.join(missing + wanted)}")
    as_features(table, features)
    weight = table["weight"].to_numpy(dtype=float)
    if not (np.isfinite(weight) & (weight > 0)).all():
        raise InputError("weights of the training table must be finite and above 0")
    enough = []
    for objective in found:
        rows = labelled(table, objective)
        for head in HEADS:
            y = rows[f"{head}_{objective}"].to_numpy(dtype=float)
            if ((y < 0) | (y > 1)).any():
                raise InputError(f"{head}_{objective} must lie in [0, 1]; got {y.min():g} to {y.max():g}")
        for part in recorded_parts(table, objective):
            if not (rows[f"{part}_{objective}"].to_numpy(dtype=float) >= 0).all():
                raise InputError(
                    f"{part}_{objective} must be numbers of at least 0; got {rows[f'{part}_{objective}'].min()}"
                )
        if len(rows) >= MINIMUM_ROWS:
            enough.append(objective)
    if not enough:
        raise InputError(f"expected at least {MINIMUM_ROWS} labelled rows of an objective; got {len(table)} rows")
    return enough


def _check_continuation(table: pd.DataFrame, features: list[str], start: Mapping[str, Any]) -> None:
    """Check that a predictor with the manifest ``start`` can be continued on the table."""
    if features != start["features"]:
        raise SchemaError(
            f"a continued predictor keeps its {len(start['features'])} features, in their order; got {len(features)} "
            "others: pass continue_from.features"
        )
    seen = sorted({str(name) for name in table["target"]} & set(start["training"]["rows"]))
    if seen:
        raise InputError(
            f"the predictor to continue from was fitted to {shortened(seen)} already: leave out their rows, "
            "or fit afresh"
        )


def _record_continuation(manifest: dict[str, Any], table: pd.DataFrame, start: Mapping[str, Any]) -> None:
    """All targets in the trees, what they are like, what was continued, and typical values of the older part."""
    manifest["training"]["rows"] = start["training"]["rows"] | manifest["training"]["rows"]
    manifest["training"]["continued_from"] = {
        "fingerprint": start["fingerprint"],
        "training": start["training"],
        "params": start["params"],
    }
    manifest["contexts"] = extended(start.get("contexts", {}), table)
    manifest["typical"] |= {name: value for name, value in start["typical"].items() if value is not None}
    manifest["intervals"]["method"] += ", going on from the same trees"


def _typical(table: pd.DataFrame, features: list[str]) -> dict[str, float | None]:
    """Median over the training targets of each column's median: what context factors are compared with."""
    medians = table.groupby("target")[features].median().median()
    return {str(name): None if np.isnan(value) else float(value) for name, value in medians.items()}


def _table_hash(table: pd.DataFrame, features: list[str], objectives: list[str]) -> str:
    sha = hashlib.sha256("\n".join(table["target"].astype(str)).encode())
    optional = ["memorization"] if "memorization" in table.columns else []
    labels = [f"{head}_{o}" for o in objectives for head in (*HEADS, *recorded_parts(table, o))]
    for o in objectives:
        columns = [under_column(name, o, part) for part in UNLEARNER_HEADS.values() for name in unlearners_of(table, o)]
        labels += [name for name in columns if name in table.columns]
    for name in ["weight", *optional, *features, *labels]:
        sha.update(name.encode() + table[name].to_numpy(dtype="<f8", na_value=np.nan).tobytes())
    return sha.hexdigest()


def _jsonable(value: Mapping[str, Any], role: str) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(value), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{role} must be JSON values (text, finite numbers, lists, dicts): {error}") from error
