"""The quick self-check: forecast a model the predictor has not seen, unlearn some samples, compare."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from forgetcast.corpus.labels import consensus, reliability
from forgetcast.corpus.measuring import measure
from forgetcast.corpus.zoo.training import Trainer
from forgetcast.objectives import OBJECTIVES
from forgetcast.predict import DifficultyReport, predict_difficulty
from forgetcast.predictor.agreement import RankAgreement, spearman_interval
from forgetcast.report.page import OBJECTIVE_MEANINGS
from forgetcast.target.seeding import seeded
from forgetcast.target.target import Target

__all__ = ["DemoResult", "build_target", "choose", "run"]

SHOWN = 5


@dataclass(frozen=True)
class DemoResult:
    """What the self-check found."""

    report: DifficultyReport
    """Forecasts of all samples, with the measurements attached."""
    agreement: dict[str, RankAgreement]
    """Objective -> Spearman correlation of predicted and measured percentile, unlearned samples only."""
    chosen: np.ndarray
    """Indices of the samples that were unlearned, sorted."""
    html: Path


def make_model(seed: int) -> nn.Module:
    """Layers of 80 and 40 units, GELU, one layer normalisation: not in the published corpus."""
    with seeded(seed):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 80),
            nn.GELU(),
            nn.LayerNorm(80),
            nn.Linear(80, 40),
            nn.GELU(),
            nn.Linear(40, 10),
        )


def build_target(seed: int = 2024, n: int = 900, wrong: float = 0.05) -> Target:
    """A classifier of scikit-learn's digits with its own architecture, split and seed; it can be retrained.

    A share ``wrong`` of its training labels is another digit, as in data that people labelled. Such samples can only
    be memorized; among clean digits nearly every sample is trivial under ``retrain``. ``info["mislabelled"]`` lists
    them; the forecast does not see it.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(raw.target))
    x = torch.tensor(raw.images[order, None] / 16.0, dtype=torch.float32)
    y = torch.tensor(raw.target[order], dtype=torch.long)
    mislabelled = np.sort(rng.choice(n, round(wrong * n), replace=False))
    y[mislabelled] = (y[mislabelled] + torch.tensor(rng.integers(1, 10, len(mislabelled)))) % 10
    trainer = Trainer(make_model, x[:n], y[:n], epochs=40, lr=8e-3, batch_size=64)
    return Target(
        trainer(np.arange(n), seed),
        (x[:n], y[:n]),
        heldout=(x[n:], y[n:]),
        train=trainer,
        name="demo",
        info={"dataset": "digits", "architecture": "gelu-mlp", "mislabelled": mislabelled.tolist()},
    )


def choose(table: pd.DataFrame, count: int, seed: int) -> np.ndarray:
    """Indices to unlearn, sorted: half at random, the rest spread evenly over each objective's forecasts.

    Spread evenly means: for equal steps from the lowest to the highest predicted percentile, the nearest
    sample not yet taken. A random draw alone could miss the few hard samples altogether.
    """
    everything = np.unique(table["index"].to_numpy())
    taken = list(np.random.default_rng(seed).choice(everything, count // 2, replace=False))
    objectives = list(table["objective"].unique())
    for k, objective in enumerate(objectives):
        forecast = table[table["objective"] == objective].set_index("index")["percentile"]
        share = (count - count // 2 + k) // len(objectives)
        for goal in np.linspace(forecast.min(), forecast.max(), share):
            taken.append(int((forecast.drop(taken) - goal).abs().idxmin()))
    return np.sort(np.array(taken, dtype=np.int64))


def run(
    out: Path,
    *,
    samples: int = 40,
    jobs: int | None = None,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> DemoResult:
    """Train, forecast, unlearn ``samples`` samples, compare, and write ``out/report.html``.

    Args:
        out: folder of the report, made if need be.
        samples: how many samples are unlearned.
        jobs: parallel processes; None: one per core.
        seed: of the draw of samples and of the unlearners.
        progress: show progress bars on standard error.
        say: receives the text, a paragraph at a time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for a model this small more threads only wait for one another
    try:
        return _run(out, samples, jobs or os.cpu_count() or 1, seed, progress, say)
    finally:
        torch.set_num_threads(threads)


def _run(out: Path, samples: int, jobs: int, seed: int, progress: bool, say: Callable[[str], object]) -> DemoResult:
    began = time.perf_counter()
    target = build_target()
    wrong = target.info["mislabelled"]
    say(
        f"Target: a GELU network with layer normalisation, trained on {len(target)} handwritten digits, {len(wrong)} "
        f"of them\nmislabelled on purpose (held-out accuracy {_accuracy(target):.1%}). The predictor has seen digits, "
        "but neither this\narchitecture nor this model, and does not know which labels are wrong.\n"
    )
    report = predict_difficulty(target, None, objective="both", seed=seed, progress=progress)
    say(f"Forecast for all {len(target)} samples after {time.perf_counter() - began:.0f} s.\n")
    for objective in OBJECTIVES:
        say(extremes(report, objective, wrong))
    top = report.table[report.table["objective"] == "retrain"].nlargest(len(wrong), "percentile")["index"]
    say(
        f"Of the {len(wrong)} mislabelled samples, {top.isin(wrong).sum()} are among the {len(wrong)} that retrain "
        "is forecast to be hardest for.\n"
    )

    chosen = choose(report.table, samples, seed)
    outcomes, instances = measure(target, chosen.tolist(), n_jobs=jobs, progress=progress, seed=seed)
    measured = pd.concat([consensus(outcomes, instances, objective) for objective in OBJECTIVES])
    report = report.measured(measured[["index", "objective", "difficulty", "percentile"]])
    agreement = {objective: _agreement(report, objective) for objective in OBJECTIVES}
    html = report.to_html(out / "report.html")
    repeatability = {objective: _repeatability(outcomes, instances, objective) for objective in OBJECTIVES}
    say(summary(outcomes, agreement, repeatability, len(chosen)))
    say(f"Report: {html} (everything took {time.perf_counter() - began:.0f} s)")
    return DemoResult(report, agreement, chosen, html)


def _accuracy(target: Target) -> float:
    assert target.heldout is not None
    return float((target.logits(target.heldout).argmax(1) == target.heldout.labels).float().mean())


def _agreement(report: DifficultyReport, objective: str) -> RankAgreement:
    assert report.measurements is not None
    measured = report.measurements[report.measurements["objective"] == objective]
    both = report.table[report.table["objective"] == objective].merge(
        measured, on="index", suffixes=("", "_measured"), validate="one_to_one"
    )
    return spearman_interval(both["percentile"], both["percentile_measured"])


def extremes(report: DifficultyReport, objective: str, mislabelled: Sequence[int]) -> str:
    """The hardest and the easiest samples with their reasons, as text."""
    table = report.table[report.table["objective"] == objective].sort_values(["percentile", "index"])
    lines = [textwrap.fill(f"Objective {objective}: {OBJECTIVE_MEANINGS[objective]}", 100)]
    for title, rows in (("hardest", table.iloc[::-1][:SHOWN]), ("easiest", table[:SHOWN])):
        lines.append(f"  The {title} {len(rows)}:")
        for row in rows.to_dict("records"):
            label = f"labelled {row['label']}{', wrongly' if row['index'] in mislabelled else ''}"
            lines.append(f"    sample {row['index']} ({label}), percentile {row['percentile']:.2f}, {row['tier']}")
            for reason in report.explain(row["index"], objective).reasons[:2]:
                lines.append(f"      {reason.sentence}")
    return "\n".join(lines) + "\n"


def _repeatability(outcomes: pd.DataFrame, instances: pd.DataFrame, objective: str) -> float:
    """Split-half reliability of the measurement, of its least reliable part: unlearners, seeds or oracle."""
    return float(reliability(outcomes, instances, objective)["reliability"].min())


def summary(
    outcomes: pd.DataFrame, agreement: dict[str, RankAgreement], repeatability: dict[str, float], count: int
) -> str:
    """What the self-check measured and how well the forecast agrees with it, as text."""
    unlearners = sorted(outcomes["unlearner"].unique())
    lines = [
        f"Check: {count} samples unlearned for real by {len(unlearners)} unlearners:",
        f"{', '.join(unlearners)}.",
        f"{count // 2} samples were drawn at random, {count - count // 2} spread evenly from the easiest to the "
        "hardest forecast so that hard ones",
        "are among them; the spread makes the correlation higher than among random samples alone.",
        "Predicted against measured percentile, 95 % interval:",
    ]
    for objective, found in agreement.items():
        lines.append(f"  {objective:<8} {found}: {_verdict(found)}")
    lines.append("Split-half reliability of the measurement itself (unlearners, seeds, oracle; the least of them):")
    lines.append("  " + ", ".join(f"{objective} {value:.2f}" for objective, value in repeatability.items()))
    return "\n".join(lines) + "\n"


def _verdict(found: RankAgreement) -> str:
    if not np.isfinite(found.rho):
        return "all samples measured alike, nothing to compare"
    if found.low <= 0:
        return "on this many samples no agreement beyond chance"
    return "the forecast orders the samples better than chance"
