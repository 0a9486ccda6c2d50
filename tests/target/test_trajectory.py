"""The training run: factors against slow references, checkpoints against outputs, and what is refused."""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from forgetcast import Trajectory, predict_difficulty
from forgetcast.adapters.loading import load_checkpoints
from forgetcast.corpus.zoo.architectures import build
from forgetcast.corpus.zoo.recipes import Recipe
from forgetcast.corpus.zoo.training import train_classifier
from forgetcast.errors import FileFormatError, InputError, ModelError, NotApplicableError, PathError
from forgetcast.factors import FactorTable, factor_table
from forgetcast.factors.probes.probes import Probes
from forgetcast.registry import load_factors
from forgetcast.target.target import Target
from forgetcast.testing import check_factor

NAMES = [name for name, item in load_factors().items() if item.family == "trajectory"]
RATES = (0.02, 0.01, 0.01, 0.005, 0.0)
State = Mapping[str, Tensor]


@lru_cache(maxsize=1)
def run() -> tuple[nn.Module, Tensor, Tensor, list[State]]:
    """A network with batch norm, 30 images with wrong labels among them, and its states after 5 epochs."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(30) % 3
    x = torch.randn(30, 1, 8, 8, generator=generator)
    x[torch.arange(30), 0, 2 * y, 2 * y] += 4
    y[::7] = (y[::7] + 1) % 3
    states: list[State] = []
    keep = lambda epoch, model, lr: states.append(copy.deepcopy(model.state_dict()))  # noqa: E731
    model = build("cnn", (1, 8, 8), 3, dropout=0.2)
    train_classifier(model, x, y, epochs=5, lr=0.04, batch_size=5, record=keep)
    return model, x, y, states


@lru_cache(maxsize=1)
def outputs() -> Tensor:
    """Logits after every epoch, shape (5, 30, 3), float64."""
    model, x, _, states = run()
    model = copy.deepcopy(model).eval()
    rows = []
    for state in states:
        model.load_state_dict(state)
        with torch.no_grad():
            rows.append(model(x).double())
    return torch.stack(rows)


def table(trajectory: Trajectory | None, **settings: Any) -> FactorTable:
    """The family's factors."""
    model, x, y, _ = run()
    return factor_table(Target(model, (x, y), trajectory=trajectory, **settings), names=NAMES)


def checkpoints() -> Trajectory:
    """The run by its states."""
    return Trajectory.from_checkpoints(run()[3], lr=RATES)


# -- factors against references ---------------------------------------------------------------------------------


def reference(name: str, i: int) -> float:
    """A factor of sample i, counted out point by point."""
    model, x, y, states = run()
    label = int(y[i])
    logits = outputs()[:, i].tolist()
    probabilities = [math.exp(row[label]) / sum(map(math.exp, row)) for row in logits]
    margins = [row[label] - max(value for k, value in enumerate(row) if k != label) for row in logits]
    right = [margin > 0 for margin in margins]
    mean = sum(probabilities) / 5
    if name == "training_confidence":
        return mean
    if name == "training_variability":
        return math.sqrt(sum((p - mean) ** 2 for p in probabilities) / 5)
    if name == "training_correctness":
        return sum(right) / 5
    if name == "forgetting_events":
        return sum(before and not after for before, after in itertools.pairwise(right))
    if name == "learning_time":
        return next(k for k in range(6) if all(right[k:])) / 5
    if name == "area_under_margin":
        return sum(margins) / 5
    if name == "early_loss":
        return -math.log(probabilities[0])
    assert name == "tracin_self_influence"
    model, total = copy.deepcopy(model).eval(), 0.0
    for state, rate in zip(states, RATES, strict=True):
        model.load_state_dict(state)
        gradients = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        total += rate * sum(float(part.square().sum()) for part in gradients)
    return total


@pytest.mark.parametrize("name", NAMES)
def test_every_factor_equals_a_plain_reference(name: str) -> None:
    """From checkpoints, sample by sample and point by point."""
    values = table(checkpoints()).values[name]
    assert np.allclose(values, [reference(name, i) for i in range(30)], rtol=1e-4, atol=1e-6)
    assert values.nunique() > 1


@pytest.mark.parametrize("name", NAMES)
def test_the_laws_hold_for_outputs_and_for_probabilities(name: str) -> None:
    """Permuted samples take their recorded outputs along; what needs the most likely class says so."""
    model, x, y, _ = run()
    for recorded in (outputs(), probabilities_of_labels()):
        check_factor(load_factors()[name], Target(model, (x, y), trajectory=Trajectory.from_outputs(recorded)))


def probabilities_of_labels() -> Tensor:
    """What the model gave the label after every epoch, shape (5, 30)."""
    return outputs().softmax(2)[:, torch.arange(30), run()[2]]


def test_a_sample_that_is_lost_and_found_again() -> None:
    """Right, wrong, right, wrong, right: forgotten twice, learned for good after four of five points."""
    logits = torch.zeros(5, 3, 2)
    logits[:, 0, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    logits[:, 1, 0] = 2.0  # never wrong
    logits[:, 2, 0] = -2.0  # never right
    target = Target(nn.Linear(2, 2), (torch.eye(3)[:, :2], torch.zeros(3).long()), trajectory=recorded(logits))
    values = factor_table(target, names=NAMES).values
    assert values["forgetting_events"].tolist() == [2, 0, 0]
    assert values["learning_time"].tolist() == [0.8, 0, 1]
    assert values["training_correctness"].tolist() == pytest.approx([0.6, 1, 0])
    assert values["area_under_margin"].tolist() == pytest.approx([0.2, 2, -2])


def recorded(values: Any) -> Trajectory:
    """A run by its outputs."""
    return Trajectory.from_outputs(values)


def test_a_recorded_probability_of_zero_is_a_large_finite_loss() -> None:
    """Softmax underflows to 0 in single precision; the loss is then 87 nats, not infinity."""
    target = Target(nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1])), trajectory=recorded([[0.0, 1.0], [1, 0.5]]))
    values = factor_table(target, names=["early_loss", "training_confidence"]).values
    assert values["early_loss"].tolist() == pytest.approx([87.498, 0], abs=1e-3)
    assert values["training_confidence"].tolist() == pytest.approx([0.5, 0.75])


# -- the same run, given in several ways --------------------------------------------------------------------------


def test_outputs_and_checkpoints_say_the_same() -> None:
    """But for TracIn, which needs gradients; logits of any precision in a tensor, an array or a file on disk."""
    expected = table(checkpoints()).values
    logits = outputs()
    for given, precision in ((logits, 1e-4), (logits.float().numpy(), 1e-4), (logits.bfloat16(), 0.05)):
        found = table(recorded(given))
        assert set(found.not_applicable) == {"tracin_self_influence"}
        assert "gradients need checkpoints" in found.not_applicable["tracin_self_influence"]
        for name in ("training_confidence", "area_under_margin", "early_loss"):
            assert np.allclose(found.values[name], expected[name], rtol=precision, atol=precision)


def test_a_memory_mapped_array_stays_on_disk(tmp_path: Path) -> None:
    """Outputs larger than memory are read piece by piece."""
    np.save(tmp_path / "logits.npy", outputs().numpy())
    trajectory = recorded(np.load(tmp_path / "logits.npy", mmap_mode="r"))
    assert trajectory.outputs is not None
    assert isinstance(trajectory.outputs.base, np.memmap)
    pd.testing.assert_frame_equal(table(trajectory, batch_size=7).values, table(recorded(outputs())).values)


def test_probabilities_of_the_label_give_what_they_can() -> None:
    """Confidence, its spread and the early loss; margins and the most likely class stay unknown, and say so."""
    found, expected = table(recorded(probabilities_of_labels())), table(checkpoints()).values
    there = ["early_loss", "training_confidence", "training_variability"]
    assert sorted(set(NAMES) - set(found.not_applicable)) == there
    assert "which class was the most likely" in found.not_applicable["forgetting_events"]
    assert np.allclose(found.values[there], expected[there], rtol=1e-4, atol=1e-5)


def test_files_give_what_states_in_memory_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors, plain and wrapped state dicts; one checkpoint is in memory at a time, whatever their number."""
    states, paths = run()[3], []
    for k, state in enumerate(states):
        paths.append(tmp_path / f"{k}.{'safetensors' if k % 2 else 'pt'}")
        if k % 2:
            save_file(dict(state), paths[-1])
        else:
            torch.save({"state_dict": state} if k else state, paths[-1])
    expected = table(checkpoints()).values
    visited: list[weakref.ref[nn.Module]] = []
    visit = Target.at

    def watched(target: Target, point: int) -> Target:
        assert sum(module() is not None for module in visited) <= 1
        there = visit(target, point)
        visited.append(weakref.ref(there.module))
        return there

    monkeypatch.setattr(Target, "at", watched)
    found = table(Trajectory.from_checkpoints([str(paths[0]), *paths[1:]], lr=RATES))
    pd.testing.assert_frame_equal(found.values, expected)
    assert len(visited) == 3 * 5  # to check that they fit, forward, and forward and backward


def test_a_pattern_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    """Epoch 2 comes before epoch 10."""
    for k in (0, 1, 2, 10, 11):
        save_file({"x": torch.ones(1)}, tmp_path / f"run-3-epoch-{k}.safetensors")
    states = load_checkpoints(f"{tmp_path}/*.safetensors").states
    assert [Path(str(state)).stem.split("-")[-1] for state in states] == ["0", "1", "2", "10", "11"]
    with pytest.raises(PathError, match="no file matches"):
        load_checkpoints(f"{tmp_path}/*.pt")


def test_batch_size_and_rates_act_as_they_should() -> None:
    """Batches do not matter; TracIn is linear in the rates, which are 1 unless given."""
    expected = table(checkpoints()).values
    assert np.allclose(table(checkpoints(), batch_size=4).values, expected, rtol=1e-4, atol=1e-6)
    name = "tracin_self_influence"
    twice = Trajectory.from_checkpoints(run()[3], lr=[2 * rate for rate in RATES])
    assert np.allclose(table(twice).values[name], 2 * expected[name])
    plain, ones = (table(Trajectory.from_checkpoints(run()[3], *lr)).values[name] for lr in ((), ([1.0] * 5,)))
    assert np.array_equal(plain, ones)


# -- what is refused, and what is left alone ----------------------------------------------------------------------


def test_without_a_trajectory_every_factor_says_how_to_give_one() -> None:
    """All columns are NaN with one reason."""
    found = table(None)
    assert set(found.not_applicable) == set(NAMES)
    assert all("Trajectory.from_checkpoints" in reason for reason in found.not_applicable.values())
    assert found.values.isna().all(axis=None)
    model, x, y, _ = run()
    with pytest.raises(NotApplicableError, match="nothing of the training run was given"):
        _ = Probes(Target(model, (x, y))).checkpoint_rates


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.1, 0.2]], "at least two points of the training run; got 1"),
        ([0.1, 0.2], r"shape \(points, n, C\)"),
        ([["a"], ["b"]], "expected logits"),
        ([[0.1], [0.1, 0.2]], "expected an array"),
        (torch.tensor([[0.1, 0.2], [0.3, torch.nan]]), "point 1 holds NaN"),
        ([[0.1, 0.2], [0.3, 1.5]], r"probabilities of the label.*point 1 holds 1\.5"),
        (torch.full((2, 4, 5), 0.2), "point 0 holds probabilities"),
        (torch.ones(2, 3, dtype=torch.bool), "got .* of bool"),
    ],
)
def test_outputs_that_cannot_be_meant_are_refused(values: Any, message: str) -> None:
    """One line that says what is expected and what came."""
    with pytest.raises(InputError, match=message):
        recorded(values)


@pytest.mark.parametrize("shape", [(5, 29, 3), (5, 30, 4), (5, 31)])
def test_outputs_of_other_data_are_refused(shape: tuple[int, ...]) -> None:
    """The number of samples and of classes is checked when the target is made."""
    with pytest.raises(InputError, match=r"expected outputs for 30 samples, shape \(points, 30, 3\)"):
        table(recorded(torch.full(shape, 0.5)))


def test_checkpoints_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    """A single state, a missing file, another kind of object, one point, rates that do not fit."""
    state = run()[3][0]
    for given, kind, message in (
        (state, InputError, "a list of checkpoints"),
        ([state], InputError, "at least two points"),
        ([state, tmp_path / "none.pt"], PathError, "no file"),
        ([state, 3], InputError, "a state dict or a path; got int"),
    ):
        with pytest.raises(kind, match=message):
            Trajectory.from_checkpoints(given)  # type: ignore[arg-type]
    for lr in ([0.1], -1.0, float("nan")):
        with pytest.raises(InputError, match="lr: expected a number >= 0"):
            Trajectory.from_checkpoints([state, state], lr=lr)


def test_checkpoints_of_another_model_are_refused(tmp_path: Path) -> None:
    """Names, shapes and NaN are found when the target is made; the checkpoint is named by number and file."""
    state = dict(run()[3][0])
    name = next(iter(state))
    other = [
        ({k: v for k, v in state.items() if k != name}, f"checkpoint 1 does not fit the model; missing: {name}"),
        (state | {"extra": torch.ones(1)}, "unexpected: extra"),
        (state | {name: torch.ones(2)}, f"of another shape: {name}"),
        (state | {name: state[name] * torch.nan}, f"checkpoint 1's weights are not finite: {name}"),
    ]
    for bad, message in other:
        with pytest.raises(ModelError, match=message):
            table(Trajectory.from_checkpoints([state, bad]))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not weights")
    with pytest.raises(FileFormatError, match=r"damaged\.safetensors"):
        table(Trajectory.from_checkpoints([state, damaged]))


def test_a_trajectory_of_another_kind_is_refused() -> None:
    """An array must say what it is; a target already has its own."""
    model, x, y, _ = run()
    with pytest.raises(InputError, match=r"expected a forgetcast\.Trajectory; got Tensor"):
        table(outputs())  # type: ignore[arg-type]
    target = Target(model, (x, y), trajectory=checkpoints())
    with pytest.raises(InputError, match="leave out dataset, heldout, trajectory"):
        predict_difficulty(target, trajectory=checkpoints())


def test_the_target_stays_as_it_was() -> None:
    """Neither its weights nor those of the checkpoints change; a visit elsewhere has hash and head of its own."""
    model, x, y, states = run()
    before = copy.deepcopy(states)
    target = Target(model, (x, y), trajectory=checkpoints())
    digest = target.model_hash
    there = target.at(1)
    assert there.model_hash != digest
    assert target.head is not None
    assert there.head is not None
    assert torch.equal(there.head.weight, states[1][f"{target.head.name}.weight"])
    assert torch.equal(target.head.weight, states[-1][f"{target.head.name}.weight"])
    factor_table(target, names=NAMES)
    again = Target(target.module, (x, y))
    assert again.model_hash == digest
    for old, new in zip(before, states, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_a_forecast_takes_a_trajectory_that_its_predictor_does_not_use() -> None:
    """The published predictor was fitted without; its forecast is the same with and without."""
    model, x, y, _ = run()
    with_run = predict_difficulty(model, (x, y), trajectory=checkpoints())
    pd.testing.assert_frame_equal(with_run.table, predict_difficulty(model, (x, y)).table)


# -- recording ----------------------------------------------------------------------------------------------------


def test_a_recipe_keeps_its_training_run_on_request() -> None:
    """The weights after every epoch with the falling rate; the model is the same to the bit, and so is the recipe."""
    recipe = Recipe("short", "digits", "cnn", 60, 3, dropout=0.3)
    plain, kept = recipe.build(), recipe.build(trajectory=True)
    assert plain.trajectory is None
    assert kept.trajectory is not None
    assert kept.model_hash == plain.model_hash
    assert kept.info == plain.info
    assert kept.trajectory.points == 3
    assert kept.trajectory.lr == pytest.approx([2e-3, 1.5e-3, 0.5e-3])
    assert kept.at(2).model_hash == kept.model_hash
    assert kept.at(1).model_hash != kept.model_hash
    assert not factor_table(kept, names=NAMES).not_applicable
