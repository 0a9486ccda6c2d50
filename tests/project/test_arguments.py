"""Arguments of a wrong type: one line that names the argument, what was expected and what came, before any work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch

import forgetcast as fc
from forgetcast import factors, registry
from forgetcast._arguments import checked
from forgetcast.adapters import loading
from forgetcast.corpus import refresh
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.errors import ForgetcastError, InputError, UnknownNameError
from forgetcast.evaluation import evaluate
from forgetcast.evaluation import table as evaluation_table
from forgetcast.screening import decisions, record, requests
from small_targets import clouds
from synthetic import FEATURES
from synthetic import corpus as synthetic_corpus

CORPUS = synthetic_corpus(2, 24, unlearners=CONSENSUS)
TARGET = clouds()
X = torch.zeros(6, 4)
Y = torch.arange(6) % 3


@lru_cache(maxsize=1)
def queue() -> fc.Triage:
    """A screened queue, with its report."""
    return fc.triage(TARGET, requests=[1, 2, 3], objective="erase", timed=False)


CALLS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "predict_difficulty": (fc.predict_difficulty, lambda: {"model": TARGET}),
    "triage": (fc.triage, lambda: {"model": TARGET, "requests": [1]}),
    "verify_triage": (fc.verify_triage, lambda: {"target": TARGET, "triage": queue()}),
    "measure": (fc.measure, lambda: {"target": TARGET, "indices": [1]}),
    "generate_corpus": (fc.generate_corpus, lambda: {"targets": [TARGET], "folder": "corpus"}),
    "refresh_factors": (refresh.refresh_factors, lambda: {"folder": "corpus"}),
    "train_predictor": (fc.train_predictor, lambda: {"corpora": CORPUS}),
    "evaluate": (evaluate.evaluate, lambda: {"corpus": CORPUS}),
    "training_table": (evaluation_table.training_table, lambda: {"corpus": CORPUS}),
    "factor_table": (factors.factor_table, lambda: {"target": TARGET}),
    "Corpus.read": (fc.Corpus.read, lambda: {"folder": "corpus"}),
    "Corpus.write": (fc.Corpus.write, lambda: {"self": CORPUS, "folder": "corpus"}),
    "Corpus.join": (fc.Corpus.join, lambda: {"corpora": [CORPUS]}),
    "Target": (fc.Target, lambda: {"model": torch.nn.Linear(4, 3), "dataset": (X, Y)}),
    "Target.logits": (fc.Target.logits, lambda: {"self": TARGET}),
    "Trajectory.from_checkpoints": (fc.Trajectory.from_checkpoints, lambda: {"checkpoints": [{}, {}]}),
    "Trajectory.from_outputs": (fc.Trajectory.from_outputs, lambda: {"outputs": [[0.1], [0.2]]}),
    "DifficultyPredictor.load": (fc.DifficultyPredictor.load, lambda: {"folder": "predictor"}),
    "DifficultyPredictor.save": (
        fc.DifficultyPredictor.save,
        lambda: {"self": queue().report.predictor, "folder": "predictor"},
    ),
    "DifficultyPredictor.fit": (fc.DifficultyPredictor.fit, lambda: {"table": pd.DataFrame(), "features": FEATURES}),
    "DifficultyPredictor.predict": (
        fc.DifficultyPredictor.predict,
        lambda: {"self": queue().report.predictor, "features": pd.DataFrame(), "objective": "erase"},
    ),
    "DifficultyReport.explain": (fc.DifficultyReport.explain, lambda: {"self": queue().report, "index": 1}),
    "DifficultyReport.explanations": (fc.DifficultyReport.explanations, lambda: {"self": queue().report}),
    "DifficultyReport.what_would_change": (
        fc.DifficultyReport.what_would_change,
        lambda: {"self": queue().report, "index": 1},
    ),
    "DifficultyReport.movers": (fc.DifficultyReport.movers, lambda: {"self": queue().report, "index": 1}),
    "DifficultyReport.images": (fc.DifficultyReport.images, lambda: {"self": queue().report, "indices": [1]}),
    "DifficultyReport.measured": (
        fc.DifficultyReport.measured,
        lambda: {"self": queue().report, "frame": pd.DataFrame()},
    ),
    "DifficultyReport.to_html": (fc.DifficultyReport.to_html, lambda: {"self": queue().report, "path": "page.html"}),
    "Triage.to_html": (fc.Triage.to_html, lambda: {"self": queue(), "path": "page.html"}),
    "Policy": (fc.Policy, dict),
    "Policy.load": (fc.Policy.load, lambda: {"path": "policy.json"}),
    "Policy.save": (fc.Policy.save, lambda: {"self": fc.Policy(), "path": "policy.json"}),
    "Policy.from_dict": (fc.Policy.from_dict, lambda: {"settings": {}}),
    "load_dataset": (loading.load_dataset, lambda: {"spec": "digits"}),
    "load_model": (loading.load_model, lambda: {"spec": "a:b", "weights": None}),
    "load_target": (loading.load_target, lambda: {"spec": "a:b"}),
    "load_checkpoints": (loading.load_checkpoints, lambda: {"pattern": "*.pt"}),
    "append": (record.append, lambda: {"path": "record.jsonl", "entries": []}),
    "check": (record.check, lambda: {"path": "record.jsonl"}),
    "unlearner": (registry.unlearner, lambda: {"name": "ssd"}),
    "decisions": (decisions.decisions, lambda: {"triage": queue()}),
    "checked_requests": (requests.checked_requests, lambda: {"source": [1], "n": 5}),
    "read_requests": (requests.read_requests, lambda: {"path": "requests.csv"}),
}
ARGUMENTS = [
    (name, parameter.name)
    for name, (function, _) in CALLS.items()
    for parameter in inspect.signature(function).parameters.values()
    if parameter.name != "self" and parameter.kind is not parameter.VAR_KEYWORD
]


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_what_nobody_takes_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, argument: str
) -> None:
    """For every argument of every function: an error of ours in one line, and nothing written."""
    monkeypatch.chdir(tmp_path)
    function, sound = CALLS[name]
    with pytest.raises(ForgetcastError) as caught:
        function(**{**sound(), argument: object()})
    assert "\n" not in str(caught.value)
    assert "object" in str(caught.value) or argument in ("model", "dataset", "heldout")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        ("predict_difficulty", "factors", 3, "factors: expected FactorTable or text or a path or None; got int '3'"),
        ("predict_difficulty", "factors", pd.DataFrame(), "factors: expected FactorTable .*; got DataFrame"),
        ("predict_difficulty", "seed", "7", "seed: expected a whole number; got str '7'"),
        ("train_predictor", "tune", True, "tune: expected a whole number; got bool 'True'"),
        ("predict_difficulty", "trajectory", ["a.pt"], "trajectory: expected Trajectory or None; got list"),
        ("predict_difficulty", "objective", 3, "objective: expected 'retrain' or 'erase' or 'both'; got int"),
        ("triage", "policy", "policy.json", "policy: expected Policy or None; got str 'policy.json'"),
        ("triage", "policy", {"quick_to": 0.1}, "policy: expected Policy or None; got dict"),
        ("verify_triage", "triage", pd.DataFrame(), "triage: expected Triage; got DataFrame"),
        (
            "generate_corpus",
            "targets",
            TARGET,
            "targets: expected a list of Target or Recipe or a function; got Target",
        ),
        ("generate_corpus", "targets", ["digits"], "targets: expected a list of .*; got list"),
        ("generate_corpus", "unlearners", "ssd", "unlearners: expected a list of text or None; got str 'ssd'"),
        ("train_predictor", "corpora", "my-corpus", "corpora: expected Corpus or a list of Corpus; got str"),
        ("train_predictor", "corpora", ["my-corpus"], "corpora: expected Corpus or a list of Corpus; got list"),
        ("train_predictor", "against", {"old": "folder"}, "against: expected a dict or None; got dict"),
        ("evaluate", "corpus", Path("my-corpus"), "corpus: expected Corpus; got PosixPath 'my-corpus'"),
        ("Corpus.read", "folder", None, "folder: expected text or a path or UPath; got NoneType"),
        ("Corpus.join", "corpora", CORPUS, "corpora: expected a list of Corpus; got Corpus"),
        ("DifficultyPredictor.load", "folder", TARGET, "folder: expected text or a path; got Target"),
        ("measure", "indices", 3, "indices: expected a list of a whole number; got int"),
        ("Target", "info", "mine", "Target: info: expected a dict or None; got str 'mine'"),
    ],
)
def test_what_people_bring_is_told_in_words(name: str, argument: str, value: Any, message: str) -> None:
    """A name where the thing is wanted, one where a list is, a table, a number as text."""
    function, sound = CALLS[name]
    with pytest.raises(InputError, match=message):
        function(**{**sound(), argument: value})


def test_groups_of_an_evaluation_are_known_by_name() -> None:
    """A mistyped one is told with the nearest."""
    with pytest.raises(UnknownNameError, match="did you mean 'dataset'"):
        evaluate.evaluate(CORPUS, groups=["datasets"], progress=False)  # type: ignore[list-item]


# -- the check itself -------------------------------------------------------------------------------------------------


@checked("free")
def example(
    count: int = 1,
    share: float = 0.5,
    names: Sequence[str] = (),
    numbers: Sequence[int] = (),
    choice: Literal["a", "b"] = "a",
    table: Mapping[str, int] | None = None,
    made: Callable[[], int] | None = None,
    free: int = 0,
    folder: str | Path = "",
    flag: bool = False,
) -> str:
    """Say that it was called."""
    return "called"


def generated() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "sound",
    [
        {"count": np.int64(3)}, {"share": 1}, {"share": np.float32(0.5)}, {"names": ["a"]}, {"names": np.array(["a"])},
        {"names": pd.Index(["a"])}, {"numbers": range(3)}, {"numbers": torch.arange(3)}, {"numbers": np.arange(3)},
        {"numbers": pd.Series([1])}, {"choice": "c"}, {"table": {"a": 1}}, {"made": len}, {"free": "anything"},
        {"folder": Path("x")}, {"flag": np.bool_(True)}, {"flag": 1}, {"table": None},
    ],
)  # fmt: skip
def test_what_does_as_well_passes(sound: dict[str, Any]) -> None:
    """Numbers and lists of numpy, torch and pandas stand for Python's; what a name means is no matter of type."""
    assert example(**sound) == "called"


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 1.0}, {"count": True}, {"count": None}, {"share": "1"}, {"share": True}, {"names": "ab"},
        {"names": {"a"}}, {"names": {"a": 1}}, {"names": [1]}, {"names": np.ones(2)}, {"numbers": generated()},
        {"numbers": pd.DataFrame({"a": [1]})}, {"numbers": ["1"]}, {"numbers": torch.nn.Sequential()},
        {"numbers": np.array(3)}, {"choice": 1}, {"table": [("a", 1)]}, {"table": {"a": "1"}}, {"made": 3},
        {"folder": b"x"}, {"folder": None}, {"flag": "no"},
    ],
)  # fmt: skip
def test_what_does_not_is_refused(wrong: dict[str, Any]) -> None:
    """Text is no list, a generator has no length, truth is no number."""
    (name,) = wrong
    with pytest.raises(InputError, match=rf"^example: {name}: expected .*; got "):
        example(**wrong)


def test_a_missing_or_unknown_argument_is_told_by_python() -> None:
    """As for any function."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'cuont'"):
        example(cuont=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        fc.Corpus.read()  # type: ignore[call-arg]
