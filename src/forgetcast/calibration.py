"""Calibration on the user's own model: really unlearn a few samples of it, and adapt the forecast to them.

The measuring side of ``predict_difficulty(..., calibrate=40)``, and the only thing there that unlearns or retrains.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from joblib import effective_n_jobs
from tqdm import tqdm

from forgetcast.corpus.labels import CONSENSUS, consensus
from forgetcast.corpus.measuring import measure, retrained_answers
from forgetcast.corpus.tasks import runs_per_sample
from forgetcast.errors import InputError, NotApplicableError
from forgetcast.factors import FactorTable, quantile_column
from forgetcast.predictor.adaptation import adapt
from forgetcast.predictor.calibrated import Calibration
from forgetcast.predictor.columns import as_features, labels_of, log_scale
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.predictor.retrained import GAP, RETRAINED_COLUMNS, met_before, with_retrained
from forgetcast.predictor.tiers import TRIVIAL_FROM
from forgetcast.target.logits import true_probability
from forgetcast.target.target import Target
from forgetcast.wording import duration

__all__ = ["FEWEST", "calibrate", "check", "choose"]

FEWEST = 10
"""Samples below which neither an order nor an interval can be learned."""

GROUPS, SEEDS = 20, 4
"""Models that are retrained for ``retrain``: without each of 20 parts of the data, with 4 seeds, so that every sample
is left out by 4. One seed is too noisy near the goal (``benchmarks/calibration.md``)."""

NOT_TRIVIAL = 0.8
"""Share of the measured samples that are probably not trivial, for ``retrain``: trivial ones are all alike."""

FIRST, BLOCK = 4, 12
"""Samples measured before the first word on how long it takes, and then at a time."""


def check(target: Target, objectives: Sequence[str], samples: int) -> None:
    """Fail before any work where a calibration is not possible.

    Raises:
        InputError: too few samples, or more than the data has.
        NotApplicableError: held-out data is missing, or, for ``retrain``, the ``train`` callable.
    """
    if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)) or not FEWEST <= samples <= len(target):
        raise InputError(
            f"calibrate: expected a number of samples from {FEWEST} to {len(target)}, or 0; got {samples!r}"
        )
    if target.heldout is None:
        raise NotApplicableError(
            "calibrate measures the damage of unlearning on data that the model was not trained on: pass heldout=(x, y)"
        )
    if "retrain" in objectives and not target.can_train:
        raise NotApplicableError(
            "calibrate for the objective 'retrain' trains the model again without some of its samples: pass a "
            "forgetcast.Target(model, data, heldout=..., train=function(indices, seed) -> trained model) in place of "
            "the model, or choose objective='erase'"
        )


def calibrate(
    predictor: DifficultyPredictor,
    target: Target,
    factors: FactorTable,
    objectives: Sequence[str],
    samples: int,
    *,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: bool = False,
) -> DifficultyPredictor:
    """Unlearn some samples of the target and adapt the predictor to what was measured.

    Args:
        predictor: what to adapt; one that was adapted before is adapted afresh.
        target: with held-out data, and for ``retrain`` with a ``train`` callable.
        factors: the factors that the predictor needs; samples are chosen from its population.
        objectives: what is measured, the same samples for all.
        samples: how many are unlearned.
        seed: of the choice of samples, the unlearners and the retraining.
        n_jobs: as in joblib; None obeys ``joblib.parallel_config``.
        progress: say on stderr what will be done and how long it takes, with bars.

    Raises:
        InputError, NotApplicableError: see :func:`check`.
    """
    check(target, objectives, samples)
    base = predictor.uncalibrated
    oracle = _retrained(target, seed, n_jobs, progress) if "retrain" in objectives else None
    answers = None if oracle is None else _answers(target, oracle)
    measured_on = {"name": target.name, "model": target.model_hash, "data": target.data_hash, "n": len(target)}
    names = [*base.features]
    if answers is not None:
        factors, names = with_retrained(factors, answers), [*names, *RETRAINED_COLUMNS]
    columns = factors.population[names]
    first = "retrain" if "retrain" in objectives else objectives[0]
    forecast = base.predict(columns[list(base.features)], first)
    order, trivial = forecast["percentile"].to_numpy(), np.zeros(len(columns), dtype=bool)
    if answers is not None:
        gap = columns[GAP].to_numpy()
        order = order + columns[quantile_column(GAP)].to_numpy()
        trivial = met_before(gap, forecast["p_trivial"].to_numpy()) >= TRIVIAL_FROM
    places, weights = choose(order, trivial, min(samples, len(columns)), seed)
    rows = columns.iloc[places].sort_index()
    outcomes, instances = _measured(target, rows.index.to_numpy(), objectives, oracle, seed, n_jobs, progress)
    instances["weight"] = instances["index"].map(dict(zip(columns.index[places], weights, strict=True)))
    adaptations, parts = {}, []
    for objective in objectives:
        label = consensus(outcomes, instances, objective).merge(instances[["index", "memorization"]], on="index")
        label = label.set_index("index").loc[rows.index].reset_index()
        shipped = base.heads(objective)["percentile"].raw(as_features(rows, base.features))
        features = rows if objective == "retrain" else rows[list(base.features)]
        named = label.rename(columns={name: f"{name}_{objective}" for name in ("percentile", "trivial", "difficulty")})
        adapted, crossfitted = adapt(
            shipped,
            features,
            labels_of(named, objective, "percentile"),
            log_scale(label["difficulty"].to_numpy(dtype=float)),
            label["weight"].to_numpy(dtype=float),
        )
        adaptations[objective] = adapted
        label["percentile_before"], label["percentile_crossfitted"] = np.clip([shipped, crossfitted], 0, 1)
        parts.append(label)
    measurements = pd.concat(parts, ignore_index=True).drop(columns=["target", "memorization"])
    return base.with_calibration(Calibration(adaptations, measured_on, measurements, answers))


def choose(order: np.ndarray, trivial: np.ndarray, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions to measure, spread over the forecast, and their inverse sampling probabilities.

    Systematic sampling: a stratum is cut into as many parts of equal size as it gets samples, in the forecast's
    order, and one is drawn from each. Where some are trivial, four fifths come from the others, or all of them.

    Args:
        order: forecast of every sample, (n,).
        trivial: which are probably trivial, (n,).
        samples: how many, at most n.
        seed: of the draws.

    >>> places, weights = choose(np.arange(100.0), np.arange(100) < 90, 10, seed=0)
    >>> int((places >= 90).sum()), weights.round(1).tolist()[:2], weights.round(1).tolist()[-2:]
    (8, [45.0, 45.0], [1.0, 1.0])
    """
    rng = np.random.default_rng(seed)
    others = min(int((~trivial).sum()), round(NOT_TRIVIAL * samples) if trivial.any() else samples)
    others = max(others, samples - int(trivial.sum()))
    places, weights = [], []
    for stratum, size in ((np.flatnonzero(trivial), samples - others), (np.flatnonzero(~trivial), others)):
        if size:
            ordered = stratum[np.lexsort((rng.random(len(stratum)), order[stratum]))]
            pieces = np.array_split(ordered, size)
            places += [int(rng.choice(piece)) for piece in pieces]
            weights += [float(len(piece)) for piece in pieces]
    return np.array(places, dtype=np.int64), np.array(weights)


def _retrained(target: Target, seed: int, n_jobs: int | None, progress: bool) -> pd.DataFrame:
    """What retrained models say of every sample, with a word on how long it will take."""
    if progress:
        began = time.perf_counter()
        target.train(np.arange(len(target)), seed)
        models, once = GROUPS * SEEDS, time.perf_counter() - began
        _say(
            f"calibrate: {models} models are trained, without 1/{GROUPS} of the data each; one took {once:.1f} s, "
            f"all take about {duration(models * once / effective_n_jobs(n_jobs))}"
        )
    return retrained_answers(target, groups=GROUPS, seeds=SEEDS, n_jobs=n_jobs, progress=progress, seed=seed)


def _answers(target: Target, oracle: pd.DataFrame) -> pd.DataFrame:
    before = true_probability(target.logits().double(), target.labels).numpy()
    return pd.DataFrame({"p_before": before, "p_out": oracle.set_index("index")["p_out"].to_numpy()})


def _measured(
    target: Target,
    index: np.ndarray,
    objectives: Sequence[str],
    oracle: pd.DataFrame | None,
    seed: int,
    n_jobs: int | None,
    progress: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Outcomes and instances of the samples ``index``; the first few show how long the others will take."""
    index = np.random.default_rng(seed).permutation(index)  # any beginning is like the whole
    frames, began = [], time.perf_counter()
    with tqdm(total=len(index), desc="calibrate", unit="sample", disable=not progress) as bar:
        bounds = [0, *range(FIRST, len(index), BLOCK), len(index)]
        for start, stop in pairwise(bounds):
            part = index[start:stop].tolist()
            frames.append(
                measure(target, part, objectives=objectives, oracle=oracle, n_jobs=n_jobs, progress=False, seed=seed)
            )
            bar.update(len(part))
            if start == 0 and progress:
                left = (time.perf_counter() - began) / len(part) * (len(index) - len(part))
                runs = runs_per_sample(CONSENSUS)
                _say(f"calibrate: {len(index)} samples are unlearned {runs} times each; at most {duration(left)} more")
    outcomes, instances = (pd.concat(tables, ignore_index=True) for tables in zip(*frames, strict=True))
    return outcomes, instances


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
