"""Training a predictor on measured difficulty: fresh or continued, tuned, and compared with what it would replace."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from forgetcast._arguments import checked
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.errors import FileFormatError, ForgetcastWarning, InputError, PathError, SchemaError, shortened
from forgetcast.evaluation.comparison import Comparison, compare
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.evaluation.tuning import choose_params, validation_targets
from forgetcast.predictor.folder import check_folder, holds_predictor
from forgetcast.predictor.predictor import DifficultyPredictor

__all__ = ["ADDED_ROUNDS", "Replace", "TrainedPredictor", "train_predictor"]

Replace = Literal["if-better", "always", "never"]

TOGETHER = "fit to the published corpus as well (--corpus published, Corpus.published()), or "
UNTESTED = "measure more targets, or fit to the published corpus as well (--corpus published, Corpus.published())"
ADDED_ROUNDS = 25
"""Trees that a continuation adds to each head, unless ``params`` or the search say otherwise: with more of them it
loses more on targets like the old ones (benchmarks/README.md)."""


@dataclass(frozen=True)
class TrainedPredictor:
    """What ``train_predictor`` made, and why it may be trusted."""

    predictor: DifficultyPredictor
    """The new predictor; where ``kept`` is set, the old one at ``out``."""
    kept: bool
    """Whether the predictor at ``out`` was left as it was."""
    params: dict[str, Any]
    """LightGBM parameters of the new one, over the defaults."""
    comparisons: tuple[Comparison, ...]
    """New against old, one for each predictor it was compared with."""
    tried: pd.DataFrame
    """Every trial of the search (see ``tuning.choose_params``); no rows without one."""
    validated_on: tuple[str, ...]
    """Targets that the parameters were chosen on; no comparison counts them."""
    notes: tuple[str, ...]
    """What else its user should know."""
    worse_than: tuple[str, ...] = ()
    """Predictors that it forecasts held-out targets worse than, for some objective, by the whole interval."""


@checked()
def train_predictor(
    corpora: Corpus | Sequence[Corpus],
    out: str | Path | None = None,
    *,
    continue_from: DifficultyPredictor | None = None,
    against: Mapping[str, DifficultyPredictor] | None = None,
    replace: Replace = "if-better",
    tune: int = 0,
    validate_on: Sequence[str] = (),
    params: Mapping[str, Any] | None = None,
    unlearners: Sequence[str] = CONSENSUS,
    training_run: bool = False,
    seed: int = 0,
    n_jobs: int = 2,
    progress: bool = False,
) -> TrainedPredictor:
    """Train a predictor, compare it with an old one on held-out targets, and save it unless the old one is to stay.

    Three ways: from corpora of one's own; from these together with ``Corpus.published()``; or with ``continue_from``,
    which keeps the trees of a saved predictor and adds more, fitted to new targets alone.

    Where ``out`` holds none, the new one is saved even if it turns out worse than what it is compared with; a
    ``ForgetcastWarning`` says so and how to fix it, and ``worse_than`` names them.

    Args:
        corpora: one or more, without a target in common; all with the same factors, or at least those of
            ``continue_from``.
        out: the folder to save in, together with comparison.csv and tuning.csv; None saves nothing.
        continue_from: the predictor to go on from. Targets that it was fitted to are left out.
        against: predictors to compare with, by the name they are reported under; one that ``out`` holds is always
            compared. Default: if ``out`` holds none, ``continue_from``, else the published one.
        replace: what becomes of a predictor that ``out`` holds: replaced if the new one is better
            (``Comparison.better``), always, or never. One that is to stay saves the time of the final fit.
        tune: how many parameter candidates to try (see ``tuning.choose_params``); 0 for none.
        validate_on: targets to choose them on; default ``tuning.validation_targets``. They are not compared.
        params: LightGBM parameters over the defaults, or over those of ``continue_from``, with 25 more trees.
        unlearners: whose consensus is the label.
        training_run: also fit to factors of the training run, for targets that come with a trajectory.
        seed: of fits, search and bootstrap.
        n_jobs: fits run at a time.
        progress: bars on stderr.

    Raises:
        InputError: no corpus, corpora that share a target, no new target to continue on, too few targets to tune,
            ``validate_on`` without ``tune``, or labels that nothing can be learned from.
        SchemaError: the corpora hold other factors than each other, or lack some of ``continue_from``.
        UnknownNameError: a target in ``validate_on`` that no corpus has.
        PathError: ``out`` cannot hold a predictor.
        FileFormatError: the predictor in ``out`` cannot be read (``replace="always"`` writes over it).
    """
    corpora = [corpora] if isinstance(corpora, Corpus) else list(corpora)
    if replace not in ("if-better", "always", "never"):
        raise InputError(f"expected replace to be 'if-better', 'always' or 'never'; got {replace!r}")
    if validate_on and not tune:
        raise InputError("validation targets serve the search for parameters: set the number of trials (tune) as well")
    existing, unread = _existing_predictor(out, replace)
    table, features, notes = _training_data(corpora, unlearners, continue_from, training_run)
    if against is None:
        against = {} if existing is not None else _default_rivals(continue_from)
    rivals = dict(against)
    if existing is not None:
        rivals[str(out)] = existing
    settings = dict(params or {})
    if continue_from is not None:
        settings = {**continue_from.manifest["params"], "num_boost_round": ADDED_ROUNDS, **settings}
    fits = FitSettings(features, settings, seed, n_jobs)
    tried, validated_on = pd.DataFrame(), tuple(dict.fromkeys(validate_on))
    if tune:
        seen = {name for rival in rivals.values() for name in rival.manifest["training"]["rows"]}
        validated_on = validated_on or tuple(validation_targets(table, prefer=seen))
        init = {} if continue_from is None else {name: continue_from.heads(name) for name in continue_from.objectives}
        settings, tried = choose_params(table, fits, validated_on, trials=tune, init=init, progress=progress)
        fits = FitSettings(features, settings, seed, n_jobs)
    shared: dict[str, Any] = {"continue_from": continue_from, "progress": progress}
    comparisons = {
        name: compare(old, table, fits, against=name, tuned_on=validated_on, **shared) for name, old in rivals.items()
    }
    if unread:
        comparisons[str(out)] = Comparison(str(out), reasons=(unread,))
    record = settings, tuple(comparisons.values()), tried, validated_on, tuple(notes)
    if existing is not None and (replace == "never" or (replace == "if-better" and not comparisons[str(out)].better)):
        return TrainedPredictor(existing, True, *record)
    provenance = {
        "corpora": [corpus.digest for corpus in corpora],
        "targets": sorted(table["target"].astype(str).unique()),
        "tuning": {"trials": len(tried), "validated_on": list(validated_on)},
    }
    summaries = {name: one.summary.to_dict(orient="records") for name, one in comparisons.items()}
    worse = tuple(name for name, one in comparisons.items() if "worse" in set(one.summary["verdict"]))
    for name in worse:
        warnings.warn(
            _how_to_improve(comparisons[name], rivals[name], table, name == str(out)), ForgetcastWarning, stacklevel=3
        )
    if rivals and not any(len(one.summary) for one in comparisons.values()):
        notes.append(f"nothing shows that the new predictor is as good as {shortened(list(rivals))}: {UNTESTED}")
    shared |= {"params": settings, "seed": seed, "n_jobs": n_jobs}
    new = DifficultyPredictor.fit(table, features, metrics={"compared": summaries}, provenance=provenance, **shared)
    if out is not None:
        new.save(out, _records(comparisons, tried))
    return TrainedPredictor(new, False, *record[:-1], tuple(notes), worse)


def _how_to_improve(comparison: Comparison, rival: DifficultyPredictor, table: pd.DataFrame, replaced: bool) -> str:
    """That the new predictor is worse, and what helps."""
    summary = comparison.summary
    lost = [
        f"{row['objective']} ({row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}])"
        for row in summary[summary["verdict"] == "worse"].to_dict(orient="records")
    ]
    name = comparison.against
    together = "" if set(rival.manifest["training"]["rows"]) <= set(table["target"]) else TOGETHER
    message = f"the new predictor forecasts held-out targets worse than {name} for {' and '.join(lost)}"
    if replaced:
        return f"{message}, which it replaces as asked: to improve it, {together}measure more targets"
    return (
        f"{message}: use {name}, or {together}measure more targets; {name} can also be adapted to a model "
        "(predict --calibrate 40, calibrate=40)"
    )


def _existing_predictor(out: str | Path | None, replace: Replace) -> tuple[DifficultyPredictor | None, str]:
    """The predictor that ``out`` holds, or why it cannot be read where it may be written over all the same."""
    if out is None:
        return None, ""
    check_folder(Path(out))
    if not holds_predictor(Path(out)):
        return None, ""
    try:
        return DifficultyPredictor.load(out), ""
    except FileFormatError as error:
        if replace == "always":
            return None, str(error)
        raise type(error)(f"{str(error).rstrip('.')}; replace 'always' writes over it") from error


def _default_rivals(continue_from: DifficultyPredictor | None) -> dict[str, DifficultyPredictor]:
    if continue_from is not None:
        return {"the continued predictor": continue_from}
    try:
        return {"published": DifficultyPredictor.published()}
    except PathError:
        return {}


def _training_data(
    corpora: Sequence[Corpus], unlearners: Sequence[str], continue_from: DifficultyPredictor | None, training_run: bool
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Training table, feature columns, and notes on targets that were left out."""
    joined = Corpus.join(corpora)
    table = training_table(joined, unlearners).astype({"target": str})
    notes = []
    if silent := [name for name in map(str, joined.targets["target"]) if name not in set(table["target"])]:
        notes.append(f"nothing is learned from {shortened(silent)}: not measured under all of {', '.join(unlearners)}")
    if continue_from is None:
        for corpus in corpora[1:]:
            first, other = (set(one.factors.columns) for one in (corpora[0], corpus))
            if first != other:
                raise SchemaError(
                    f"the corpus of {_called(corpus)} holds other factors than that of {_called(corpora[0])}: "
                    f"missing {sorted(first - other)}, extra {sorted(other - first)}; make both with the same plugins "
                    "installed, or their factors anew with 'forgetcast generate --factors-only'"
                )
        return table, feature_columns(joined, training_run=training_run), notes
    features = list(continue_from.features)
    for corpus in corpora:
        missing = [name for name in features if name not in corpus.factors]
        if missing:
            raise SchemaError(
                f"the corpus of {_called(corpus)} lacks factors of the predictor to continue from: "
                f"{shortened(missing)}; add them with 'forgetcast generate --factors-only', or fit afresh"
            )
    known = continue_from.manifest["training"]["rows"]
    seen = [name for name in dict.fromkeys(table["target"]) if name in known]
    table = table[~table["target"].isin(seen)].reset_index(drop=True)
    if table.empty:
        raise InputError(
            f"the predictor to continue from was fitted to {shortened(seen)} already, and there is no other target: "
            "measure new ones, or fit afresh to learn from new measurements of these"
        )
    note = f"left out of the continuation, whose predictor was fitted to them before: {shortened(seen)}"
    return table, features, [*notes, note] if seen else notes


def _called(corpus: Corpus) -> str:
    return shortened([str(target["target"]) for target in corpus.manifest["targets"]], most=2)


def _records(comparisons: Mapping[str, Comparison], tried: pd.DataFrame) -> dict[str, bytes]:
    """The tables beside a predictor: every comparison target by target, and every trial."""
    compared = [one.per_target.assign(against=name) for name, one in comparisons.items() if len(one.per_target)]
    frames = {"comparison.csv": pd.concat(compared) if compared else pd.DataFrame(), "tuning.csv": tried}
    return {name: frame.to_csv(index=False).encode() for name, frame in frames.items() if len(frame)}
