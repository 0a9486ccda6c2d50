"""``predict_difficulty``: from a model and its training data to a forecast for every sample, with reasons."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import nn

from forgetcast._arguments import checked
from forgetcast.errors import (
    ForgetcastWarning,
    InputError,
    NotApplicableError,
    SchemaError,
    UnknownNameError,
)
from forgetcast.factors import FactorTable, factor_table
from forgetcast.objectives import OBJECTIVES
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.predictor.tiers import tier_bounds, tiers
from forgetcast.registry import FACTOR_GROUP, found, load_factors
from forgetcast.report.explain import Explainer, factor_of
from forgetcast.report.forecast import Forecast
from forgetcast.target.target import Target
from forgetcast.target.trajectory import Trajectory

__all__ = ["DifficultyReport", "needed_factors", "predict_difficulty", "target_of", "tier_bounds", "tiers"]


@dataclass(frozen=True)
class DifficultyReport(Forecast):
    """Forecasts for samples of one model, and everything needed to explain them."""

    @checked()
    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML file and return its path.

        Raises:
            PathError: the file cannot be written.
        """
        from forgetcast.report.page import write_html

        return write_html(self, path)


@checked("model", "calibrate")
def predict_difficulty(
    model: nn.Module | Target,
    dataset: Any = None,
    *,
    indices: Any = None,
    objective: Literal["retrain", "erase", "both"] = "retrain",
    heldout: Any = None,
    trajectory: Trajectory | None = None,
    predictor: DifficultyPredictor | str | Path | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
    calibrate: int = 0,
    n_jobs: int | None = None,
    factors: FactorTable | str | Path | None = None,
) -> DifficultyReport:
    """Forecast how hard each training sample is to unlearn, without unlearning anything.

    With ``calibrate=40`` that many samples, chosen to teach the most, are unlearned for real first, and the forecast
    and its intervals are adapted to them. ``report.measurements`` holds what was measured; ``report.predictor`` is the
    adapted predictor, which can be saved and serves this model and data alone.

    Args:
        model: a classifier that returns logits (n, classes); it is copied, never changed. Or a ``Target``.
        dataset: its training data: a map-style dataset of (x, y), a pair of tensors, or a DataLoader over
            such a dataset. None if ``model`` is a ``Target``.
        indices: samples to forecast, in the order wanted; default all. A few of a large model's samples take a
            fraction of the time of all, with quantiles within a reference sample (see ``factor_table``).
        objective: "retrain": after unlearning the sample is treated as if it had never been trained on;
            "erase": it is no longer recognised; or "both".
        heldout: data of the same kind that the model was not trained on; some factors need it.
        trajectory: checkpoints of the training run, or outputs recorded during it, for predictors that were fitted
            with the factors of the training run. The one that comes with forgetcast was not: a ``ForgetcastWarning``
            and ``report.provenance["trajectory"]`` say that it changes nothing.
        predictor: a fitted predictor or the folder of one; default: the one that comes with forgetcast.
        collate_fn: for datasets whose items need one.
        batch_size: samples per forward pass.
        seed: of the random projections and features inside factors, and of a calibration.
        progress: bars on stderr.
        calibrate: how many samples to unlearn, at least 10; 0: none. Needs held-out data, and for "retrain" a
            ``Target`` with a ``train`` callable: 80 models are trained without a twentieth of the data each.
        n_jobs: processes that calibrating uses, as in joblib; None obeys ``joblib.parallel_config``.
        factors: the factors of this model and data, computed before (``factor_table``), or a folder: its table is
            used where it is of this model and data, else one of all samples is made and kept there, as ``--factors``
            does. Default: compute them.

    Returns:
        The report; ``report.table`` has one row per objective and sample. Tiers: "trivial" where the goal is
        probably (p_trivial >= 0.5) met before any unlearning. Else "easy", "medium" and "hard": thirds, by predicted
        percentile, of the model's samples (of the reference sample, with ``indices``) that are not trivial.

    Raises:
        UnknownNameError: no such objective.
        NotApplicableError: the predictor was not fitted for the objective, or calibrating lacks held-out data or a
            ``train`` callable.
        IndexRangeError: indices outside the data or the given factors, repeated, or not integers.
        ModelError, DatasetError: see ``Target``.
        InputError: a ``Target`` together with a dataset, a trajectory of other data, a predictor that was calibrated on
            another target, or too few or too many samples to calibrate on.
        SchemaError: the predictor needs factors that are not installed or not among those given, or has another format
            version.
        FileFormatError, PathError: the predictor cannot be read.
    """
    if objective not in (*OBJECTIVES, "both"):
        raise UnknownNameError.of("objective", str(objective), (*OBJECTIVES, "both"))
    wanted = OBJECTIVES if objective == "both" else (objective,)
    fitted = _predictor(predictor)
    absent = [name for name in wanted if name not in fitted.objectives]
    if absent:
        raise NotApplicableError(
            f"this predictor was fitted for {', '.join(fitted.objectives)}, not for {', '.join(absent)}: "
            "choose another objective or another predictor"
        )
    names = needed_factors(fitted)
    target = target_of(model, dataset, heldout, trajectory, collate_fn, batch_size)
    if calibrate:
        from forgetcast import calibration  # the measuring side, for this request alone

        calibration.check(target, wanted, calibrate)
    elif fitted.calibration is not None:
        fitted.calibration.check_target(target)
    run = _training_run(names, target)
    if isinstance(factors, str | Path):
        from forgetcast.factors.store import factors_of

        factors = factors_of(target, names, factors, seed=seed, progress=progress, say=_warn)
    if factors is None:
        factors = factor_table(target, names=names, indices=indices, seed=seed, progress=progress)
    else:
        factors = _given(factors, names, target, indices, seed)
    if calibrate:
        fitted = calibration.calibrate(
            fitted, target, factors, wanted, calibrate, seed=seed, n_jobs=n_jobs, progress=progress
        )
    measurements, calibrated = None, {}
    if fitted.calibration is not None:
        own = fitted.calibration
        factors = own.complete(factors)
        measurements = own.measurements[own.measurements["objective"].isin(wanted)].reset_index(drop=True)
        calibrated = {name: own.gain(name) for name in wanted if name in own.measured}
    index = factors.values.index.to_numpy()
    explainer = Explainer(fitted, factors, target.labels.numpy())
    parts = []
    for name in wanted:
        everyone = fitted.predict(factors.population[list(fitted.features)], name)
        bounds = tier_bounds(everyone["percentile"].to_numpy(), everyone["p_trivial"].to_numpy())
        forecast = everyone if indices is None else fitted.predict(factors.values[list(fitted.features)], name)
        forecast = forecast.reset_index(drop=True)
        forecast.insert(0, "index", index)
        forecast.insert(1, "objective", name)
        forecast.insert(2, "label", target.labels.numpy()[index])
        forecast["tier"] = tiers(forecast["percentile"].to_numpy(), forecast["p_trivial"].to_numpy(), bounds)
        described = factors.values[list(fitted.features)]
        parts_of = fitted.predict_parts(described, name)
        forecast[parts_of.columns] = parts_of.to_numpy()
        under = fitted.predict_unlearners(described, name)
        if len(under.columns):
            forecast["best_unlearner"] = under.columns.to_numpy(dtype=object)[under.to_numpy().argmin(axis=1)]
        forecast["reasons"] = explainer.sentences(index, name)
        parts.append(forecast)
    likeness = fitted.familiarity(factors.population[list(fitted.features)])
    provenance = {
        "forgetcast": version("forgetcast"),
        **({"target": model.name} if isinstance(model, Target) else {}),
        "predictor": fitted.fingerprint,
        "model": target.model_hash,
        "data": target.data_hash,
        "n": len(target),
        "familiarity": str(likeness),
        **({"notes": "; ".join(target.notes)} if target.notes else {}),
        **({"trajectory": run} if run else {}),
        "settings": {
            "objective": objective,
            "samples": len(index),
            "heldout": target.heldout is not None,
            "level": fitted.manifest["intervals"]["level"],
            "seed": seed,
            "calibrate": calibrate,
        },
    }
    return DifficultyReport(
        pd.concat(parts, ignore_index=True),
        factors,
        fitted,
        provenance,
        likeness,
        measurements,
        calibrated,
        _explainer=explainer,
        _target=target,
    )


def _predictor(predictor: DifficultyPredictor | str | Path | None) -> DifficultyPredictor:
    if predictor is None:
        return DifficultyPredictor.published()
    if isinstance(predictor, DifficultyPredictor):
        return predictor
    if isinstance(predictor, (str, Path)):
        return DifficultyPredictor.load(predictor)
    raise InputError(
        f"predictor: expected a DifficultyPredictor, the folder of one, or None; got {type(predictor).__name__}"
    )


def _warn(text: str) -> None:
    warnings.warn(text, ForgetcastWarning, stacklevel=5)


def _training_run(names: Sequence[str], target: Target) -> str:
    """What becomes of the training run of a target, or of the lack of one; warned of where that may surprise."""
    known = load_factors()
    wanted = any(known[name].family == "trajectory" for name in names)
    if wanted == (target.trajectory is not None):
        return "used" if wanted else ""
    if wanted:
        _warn(
            "this predictor was fitted with factors of the training run, which this model comes without: the forecast "
            "is worse for it; pass trajectory=, or --checkpoints"
        )
        return "missing: the predictor was fitted with factors of the training run"
    _warn(
        "trajectory= or --checkpoints changes nothing: this predictor was fitted without factors of the training run; "
        "one made by train_predictor(training_run=True), or 'forgetcast train --training-run', uses them"
    )
    return "not used: the predictor was fitted without factors of the training run"


def _given(factors: FactorTable, names: list[str], target: Target, indices: Any, seed: int) -> FactorTable:
    """Of a table computed before, the factors and samples that are asked for."""
    missing = [name for name in names if name not in factors.factors]
    if missing:
        raise SchemaError(f"factors: this predictor needs {', '.join(missing)} too: compute all that are registered")
    if len(factors.values) == 0 or factors.population.index.max() >= len(target):
        raise InputError(f"factors: expected a table of the {len(target)} samples of this data; got another")
    if factors.of is not None and factors.of is not target:
        other = [
            what for what in ("model", "data") if getattr(factors.of, f"{what}_hash") != getattr(target, f"{what}_hash")
        ]
        if other:
            raise InputError(f"factors: this table is of another {' and '.join(other)}: compute them for this one")
    if indices is None and len(factors.values) == len(target):
        return factors
    return factors.take(target.data.check_indices(range(len(target)) if indices is None else indices).numpy(), seed)


def needed_factors(predictor: DifficultyPredictor) -> list[str]:
    """Names of the factors behind the predictor's columns, or those of the predictor that was adapted.

    Raises:
        SchemaError: some are not installed.
    """
    known = load_factors()
    owners = {column: factor_of(column, known) for column in predictor.uncalibrated.features}
    missing = [column for column, owner in owners.items() if owner is None]
    if missing:
        left_out = "; ".join(f"{plugin}: {plugin.reason}" for plugin in found(FACTOR_GROUP).plugins if plugin.reason)
        raise SchemaError(
            f"the predictor needs factor columns that nothing installed provides: {', '.join(missing)}; "
            f"install the plugin they come from, or retrain. Installed factors: {', '.join(known) or 'none'}"
            + (f". Left out: {left_out}" if left_out else "")
        )
    return list(dict.fromkeys(owner for owner in owners.values() if owner is not None))


def target_of(
    model: nn.Module | Target,
    dataset: Any,
    heldout: Any,
    trajectory: Trajectory | None,
    collate_fn: Callable[[list[Any]], Any] | None,
    batch_size: int,
) -> Target:
    """The target itself, or one of a model and its data; arguments as for ``predict_difficulty``.

    Raises:
        InputError: a ``Target`` together with data, or a model without.
        ModelError, DatasetError: see ``Target``.
    """
    if isinstance(model, Target):
        if any(given is not None for given in (dataset, heldout, trajectory, collate_fn)):
            raise InputError(
                "a Target already has its data: leave out dataset, heldout, trajectory and collate_fn, or pass the "
                "model itself"
            )
        return model
    if dataset is None:
        raise InputError("expected the model's training data as dataset; got None")
    return Target(model, dataset, heldout=heldout, trajectory=trajectory, collate_fn=collate_fn, batch_size=batch_size)
