"""A program of a user who checks types strictly: mypy reads it against the installed package, nothing runs it.

``WRONG`` marks the lines that mypy has to refuse, with the code of the error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from forgetcast import (
    Corpus,
    DifficultyPredictor,
    DifficultyReport,
    ForgetcastError,
    Policy,
    Target,
    Trajectory,
    Triage,
    generate_corpus,
    measure,
    predict_difficulty,
    train_predictor,
    triage,
    verify_triage,
)
from forgetcast.adapters import DifficultyRegressor, from_transformers
from forgetcast.errors import PathError
from forgetcast.factors import Factor, factor
from forgetcast.registry import load_factors, plugins
from forgetcast.report.explain import Explanation, Reason
from forgetcast.report.plots import waterfall
from forgetcast.screening.decisions import decisions
from forgetcast.screening.record import append, check
from forgetcast.screening.requests import Requests, checked_requests
from forgetcast.sections import Section
from forgetcast.testing import CONTRACT_VERSION, check_factor
from forgetcast.unlearn.base import IterativeUnlearner, Unlearner


def forecast(model: Any, data: Any, heldout: Any) -> Path:
    """The predict path, from model to page."""
    target: Target = Target(model, data, heldout=heldout, trajectory=None, name="mine")
    report: DifficultyReport = predict_difficulty(target, objective="both", indices=[0, 3])
    explanation: Explanation = report.explain(3, head="difficulty")
    reasons: list[Reason] = list(explanation.reasons)
    waterfall(explanation, max_reasons=len(reasons))
    factors: dict[str, Factor] = load_factors()
    check_factor(factors["margin"], target)
    report.explain("three")  # WRONG arg-type
    predict_difficulty(target, objectives="both")  # WRONG call-arg
    return report.to_html("report.html")


def screen(target: Target, folder: Path) -> Triage:
    """The queue of deletion requests, its record and its check."""
    policy = Policy(quick_to=0.01, unlearners=("influence",))
    queue: Triage = triage(target, requests=[1, 2], policy=policy, objective="erase")
    last: str = append(folder / "decisions.jsonl", decisions(queue))
    entries: int = check(folder / "decisions.jsonl", expected=last).entries
    requests: Requests = checked_requests([1, 2], 10)
    print(entries, len(requests.table), verify_triage(target, queue, samples=2).summary())
    check(folder).entries = 3  # WRONG misc
    entries = append(folder, [])  # WRONG assignment
    return queue


def learn(make: Any, folder: Path) -> DifficultyPredictor:
    """The measuring path, from targets to a predictor."""
    corpus: Corpus = generate_corpus([make], folder, instances=40)
    trained = train_predictor([Corpus.published(), corpus], "predictor", tune=3)
    predictor: DifficultyPredictor = trained.predictor
    predictor.save(folder)
    return corpus  # WRONG return-value


def others(trajectory: Trajectory, unlearner: Unlearner, step: IterativeUnlearner) -> Section:
    """Names that the functions above did not need."""
    try:
        print(trajectory.points, unlearner.name, step.steps, CONTRACT_VERSION, [plugin.name for plugin in plugins()])
    except PathError as error:
        caught: ForgetcastError = error
        print(caught, measure, factor, DifficultyRegressor, from_transformers)
    table: pd.DataFrame = pd.DataFrame()
    return Section("Mine", ["A sentence.", table])
