"""How good the forecast is on targets it has not seen, next to what it has to beat and what noise allows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit
from tqdm import tqdm

from forgetcast._arguments import checked
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.errors import InputError, UnknownNameError
from forgetcast.evaluation.choice import choice_table
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.grading import against_ceilings, grade, noise_ceilings
from forgetcast.evaluation.holdout import Group, leave_one_group_out
from forgetcast.evaluation.learning_curve import few_samples_curve, targets_curve, unseen_unlearners
from forgetcast.evaluation.page import page
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.files.atomic import naming, whole_file
from forgetcast.files.canonical_json import json_value
from forgetcast.files.parquet import write_parquet
from forgetcast.objectives import SLACK
from forgetcast.predictor.heads import DEFAULT_PARAMS

__all__ = ["Evaluation", "evaluate"]

GROUPS: tuple[Group, ...] = ("target", "architecture", "dataset")
LEVEL = 0.9


@dataclass(frozen=True)
class Evaluation:
    """Results in tables; ``write`` puts them in a folder. Correlations are Spearman's, within targets.

    Two kinds of 95 % interval: low and high redraw instances (these targets), low_targets and high_targets redraw
    targets as well (targets like these).
    """

    summary: pd.DataFrame
    """One row per group, objective, subset and method: rho (mean over targets) with intervals, worst, worst_target,
    targets (how many say something), uses (the factor chosen), measured (uses what only a measurement shows)."""
    differences: pd.DataFrame
    """Forecast minus each rival, paired: group, objective, subset, against, rho with both intervals."""
    per_target: pd.DataFrame
    """One row per group, objective and target: n, nontrivial, rho, low, high, baseline (best single factor), gain over
    it with gain_low; familiarity (p-value against the other groups), ceiling, rho_nontrivial, partial (given
    memorization), auc, concordance, recall; coverage (of the percentile with ties placed as in the fit),
    coverage_difficulty, mae."""
    metrics: pd.DataFrame
    """Means over targets of the per-target numbers, and numbers over all rows: group, objective, metric, value."""
    parts: pd.DataFrame
    """Order of the parts of the outcome: group, objective, subset, part, rho with both intervals, worst, worst_target,
    targets."""
    factors: pd.DataFrame
    """Every single factor: group, objective, subset, factor, rho, worst, hindsight."""
    calibration: pd.DataFrame
    """Deciles of forecast difficulty over all targets: predicted and measured mean (weighted), rows."""
    ceilings: pd.DataFrame
    """By objective and kind (noise, ties), means over targets: reliability, ceiling, rho, share (rho / ceiling)."""
    learning: pd.DataFrame
    """Rank correlation on unseen targets against the number of targets, or of measured samples: kind, objective, size,
    rho, low, high."""
    unlearners: pd.DataFrame
    """Left-out unlearners on left-out targets: objective, unlearner, rho with intervals, targets."""
    choice: pd.DataFrame
    """Naming an unlearner per sample against always taking one: see ``choice.unlearner_choice``."""
    predictions: pd.DataFrame
    """Every forecast behind the numbers: see ``leave_one_group_out``, with a column held_out."""
    settings: dict[str, Any]
    """Versions, parameters, number of features and resamples, corpus hash, targets, notes."""

    def headline(self) -> dict[str, Any]:
        """The few numbers that a predictor's manifest keeps: rho on unseen targets, by objective."""
        rows = self.summary.query("group == 'target' and subset == 'all' and method == 'forecast'")
        columns = ["rho", "low", "high", "worst", "targets"]
        return {
            str(row["objective"]): {name: json_value(row[name]) for name in columns}
            for row in rows.to_dict(orient="records")
        }

    def write(self, folder: str | Path) -> Path:
        """Write evaluation.json, evaluation.md, one CSV per table (predictions as Parquet) and pictures.

        Raises:
            PathError: the folder cannot be written, or is a file.
        """
        folder = Path(folder)
        with naming("evaluation", folder):
            folder.mkdir(parents=True, exist_ok=True)
            frames = {
                item.name: getattr(self, item.name)
                for item in fields(self)
                if isinstance(getattr(self, item.name), pd.DataFrame)
            }
            write_parquet(frames["predictions"], folder / "predictions.parquet")
            for name, frame in frames.items():
                if name != "predictions":
                    _put(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n").encode())
            pictures = self._draw(folder)
            record = {"settings": self.settings} | {
                name: [
                    {key: json_value(value) for key, value in row.items()} for row in frame.to_dict(orient="records")
                ]
                for name, frame in frames.items()
                if name != "predictions"
            }
            _put(folder / "evaluation.md", page(frames, self.settings, pictures).encode())
            _put(folder / "evaluation.json", (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
        return folder

    def _draw(self, folder: Path) -> list[str]:
        """Pictures of rho per unseen target, and of forecast against measured; their file names."""
        from forgetcast.report import plots

        names = []
        for objective, rows in self.per_target[self.per_target["group"] == "target"].groupby("objective"):
            ordered = rows.sort_values("rho", ascending=False)
            names.append(_save(plots.evaluation_bars(ordered), folder / f"unseen-targets-{objective}.png"))
            scored = (self.predictions["held_out"] == "target") & self.predictions["target"].isin(ordered["target"])
            predicted = self.predictions.loc[scored, ["objective", "percentile", "percentile_measured"]]
            axes = plots.measured_scatter(predicted, str(objective))
            names.append(_save(axes, folder / f"forecast-and-measured-{objective}.png"))
        return names


@checked()
def evaluate(
    corpus: Corpus,
    *,
    features: Sequence[str] | None = None,
    groups: Sequence[Group] = GROUPS,
    unlearners: Sequence[str] = CONSENSUS,
    params: Mapping[str, Any] | None = None,
    tuned_on: Sequence[str] = (),
    extras: bool = True,
    resamples: int = 1000,
    seed: int = 0,
    n_jobs: int = 2,
    progress: bool = False,
) -> Evaluation:
    """Leave whole targets, architectures and datasets out, and compare with baselines and noise ceilings.

    Order is judged by Spearman's correlation inside each target over its measured instances, unweighted; what is meant
    for the population (errors and deciles of the absolute difficulty) uses the instances' sampling weights.
    For ``retrain`` the order is also judged among samples that are not trivial, the hard part of that objective.

    Args:
        corpus: at least two targets.
        features: feature columns; default all of the corpus.
        groups: what is left out at a time; a kind with fewer than two groups is skipped and noted.
        unlearners: whose consensus is the label.
        params: LightGBM parameters over the defaults.
        tuned_on: targets that ``params`` were chosen on: fitted to, but not scored.
        extras: also learning curves and left-out unlearners (more than half of the time).
        resamples: of the bootstrap.
        seed: of fits and resampling.
        n_jobs: fits run at a time.
        progress: a bar on stderr.

    Raises:
        InputError: fewer than two targets, or all of them tuned on.
        UnknownNameError: a target in ``tuned_on`` that the corpus does not have, or no such group.
    """
    table = training_table(corpus, unlearners)
    table = _with_goal_distance(table, corpus)
    columns = list(feature_columns(corpus) if features is None else features)
    names = list(dict.fromkeys(table["target"].astype(str)))
    for name in tuned_on:
        if name not in names:
            raise UnknownNameError.of("target", name, names)
    if len(names) < 2 or set(names) <= set(tuned_on):
        raise InputError(f"expected at least two targets, one of them not tuned on; the corpus has {len(names)}")
    for group in groups:
        if group not in ("target", "architecture", "dataset"):
            raise UnknownNameError.of("group", group, ("target", "architecture", "dataset"))
    used = [group for group in groups if table[group].nunique() > 1]
    notes = [f"only one {group}: none could be left out" for group in groups if group not in used]
    ceilings = noise_ceilings(corpus, unlearners, table)
    fits = FitSettings(columns, params, seed, n_jobs, resamples)
    collected: dict[str, list[pd.DataFrame]] = {}
    bar = tqdm(total=len(used) + 3 * extras, desc="evaluation", disable=not progress, leave=False)
    for group in used:
        predicted = leave_one_group_out(table, columns, group, params=params, level=LEVEL, seed=seed, n_jobs=n_jobs)
        for name, frame in grade(predicted, table, group, fits, tuned_on=tuned_on, ceilings=ceilings).items():
            collected.setdefault(name, []).append(frame)
        bar.update()
    frames = {name: pd.concat(parts, ignore_index=True) for name, parts in collected.items()}
    curves, left_out, choice = [], pd.DataFrame(), pd.DataFrame()
    if extras:
        curves.append(targets_curve(table, fits).assign(kind="targets"))
        bar.update()
        curves.append(few_samples_curve(table, fits).assign(kind="samples"))
        bar.update()
        if len(unlearners) > 1:
            left_out = unseen_unlearners(corpus, unlearners, fits)
        choice = choice_table(table, fits)
        bar.update()
    bar.close()
    settings = {
        "versions": {name: version(name) for name in ("forgetcast", "lightgbm", "scikit-learn", "scipy")},
        "corpus": corpus.digest,
        "targets": len(names),
        "tuned_on": list(tuned_on),
        "rows": len(table),
        "features": len(columns),
        "unlearners": list(unlearners),
        "params": {**DEFAULT_PARAMS, **(params or {})},
        "level": LEVEL,
        "resamples": resamples,
        "seed": seed,
        "notes": notes,
    }
    return Evaluation(
        **frames,
        ceilings=against_ceilings(ceilings, frames["per_target"]),
        learning=pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
        unlearners=left_out,
        choice=choice,
        settings=settings,
    )


def _with_goal_distance(table: pd.DataFrame, corpus: Corpus) -> pd.DataFrame:
    """The table with a column goal_distance: how far the logit of the true label has to fall to meet the ``retrain``
    goal, logit p - logit(p_out + slack). It needs the oracle's p_out and shows what knowing it would bring."""
    if "p_before" not in corpus.outcomes:
        return table
    keys = ["target", "index"]
    before = corpus.outcomes.groupby(keys, sort=False)["p_before"].first()
    probability = before.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy(dtype=float)
    goal = table["p_out"].to_numpy(dtype=float) + SLACK
    bound = np.finfo(np.float32).eps
    return table.assign(
        goal_distance=logit(np.clip(probability, bound, 1 - bound)) - logit(np.clip(goal, bound, 1 - bound))
    )


# -- files ------------------------------------------------------------------------------------------------


def _put(path: Path, content: bytes) -> None:
    with whole_file(path, "evaluation") as draft:
        draft.write_bytes(content)


def _save(axes: Any, path: Path) -> str:
    with whole_file(path, "picture") as draft:
        axes.figure.savefig(draft, dpi=130, bbox_inches="tight")
    return path.name
