"""The label protocol: goal, crossing, control and outcome, against a slow plain rendering of the same words."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from forgetcast.errors import IndexRangeError, InputError, NotApplicableError, UnknownNameError
from forgetcast.registry import unlearner as registered
from forgetcast.target.data import Data
from forgetcast.target.example import module_state, same_state
from forgetcast.target.logits import margin as margins
from forgetcast.target.target import Target
from forgetcast.unlearn import Protocol, run_unlearner
from forgetcast.unlearn.algorithms.gradient_ascent import GradientAscent
from forgetcast.unlearn.base import Samples, Unlearner
from forgetcast.unlearn.protocol import OUTCOME_COLUMNS
from forgetcast.unlearn.stack import Params, combine, distance, map_models, mix, norm, repeat, rows, size
from forgetcast.unlearn.workbench import Workbench
from small_targets import MISLABELLED, clouds, digits, mlp, shared_cnn, shared_mlp

pytestmark = pytest.mark.slow

SMALL = Protocol(utility_samples=60, neighbours=7, relearn_most=4)
INDICES = [3, 5, 17, 30, 77]
P_OUT = np.array([0.4, 0.05, 0.2, 0.99, 0.0])
FAST = {"first_step": 0.02, "growth": 1.25}
"""Coarser steps than the defaults, so that paths cross their goals after a handful."""
METHODS = ("gradient_ascent", "influence", "neggrad_plus", "random_relabelling")
MEASURED = [name for name in OUTCOME_COLUMNS if name not in ("target", "unlearner", "objective")]


def quick(name: str) -> Unlearner:
    """A registered unlearner with coarse steps."""
    return registered(name) if name == "retraining" else registered(name, **FAST)


def run(target: Target, method: str | Unlearner, indices: Any = INDICES, p_out: Any = P_OUT, **kw: Any) -> pd.DataFrame:
    """Outcomes with the small protocol."""
    unlearner = quick(method) if isinstance(method, str) else method
    return run_unlearner(target, unlearner, indices, p_out, **{"protocol": SMALL, **kw})


def same(a: pd.DataFrame, b: pd.DataFrame, rtol: float = 1e-3, atol: float = 2e-5) -> None:
    """Outcomes are equal up to rounding."""
    assert a[["target", "unlearner", "objective"]].equals(b[["target", "unlearner", "objective"]])
    for name in MEASURED:
        np.testing.assert_allclose(a[name].to_numpy(float), b[name].to_numpy(float), rtol, atol, err_msg=name)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, pd.DataFrame]:
    """Some samples of the perceptron under some unlearners."""
    return {name: run(shared_mlp(), name, seed=2) for name in METHODS}


# -- rows -----------------------------------------------------------------------------------------------------------


def test_rows_come_in_the_order_of_samples_and_objectives(outcomes: dict[str, pd.DataFrame]) -> None:
    """One row per sample and objective, with every column and no gaps."""
    for name, frame in outcomes.items():
        assert tuple(frame.columns) == OUTCOME_COLUMNS
        assert frame["index"].tolist() == [index for index in INDICES for _ in range(2)]
        assert frame["objective"].tolist() == ["retrain", "erase"] * len(INDICES)
        assert (frame["unlearner"] == name).all()
        assert (frame["target"] == "mlp").all()
        assert (frame["seed"] == 2).all()
        assert np.isfinite(frame[MEASURED].to_numpy(float)).all()
    turned = run(shared_mlp(), "influence", [30, 3], [0.1, 0.1], objectives=("erase", "retrain"))
    assert turned["index"].tolist() == [30, 30, 3, 3]
    assert turned["objective"].tolist() == ["erase", "retrain"] * 2
    alone = run(shared_mlp(), "influence", [30, 3], [0.1, 0.1], objectives=("erase",))
    same(alone, turned[turned["objective"] == "erase"].reset_index(drop=True))


def test_bounds_hold(outcomes: dict[str, pd.DataFrame]) -> None:
    """Shares and probabilities lie in [0, 1], lengths are not negative."""
    for frame in outcomes.values():
        for name in ("forgetting", "p_before", "p_after", "mia_before", "mia_after", *TV):
            assert frame[name].between(0, 1).all(), name
        assert (frame[["steps", "shift", "relearn_steps"]] >= 0).all(axis=None)


TV = ("tv_retain", "tv_test", "tv_neighbours")
STILL = (*TV, "steps", "shift", "relearn_steps", "accuracy_change_retain", "accuracy_change_test")


def test_a_goal_that_is_met_from_the_start_costs_nothing(outcomes: dict[str, pd.DataFrame]) -> None:
    """A trivial sample is reached after no step, with no damage."""
    for frame in outcomes.values():
        trivial = frame[frame["trivial"]]
        expected = [[30, "retrain"], [77, "erase"]]  # p_out of one is high, the other is misclassified
        assert trivial[["index", "objective"]].to_numpy().tolist() == expected
        assert trivial["reached"].all()
        assert (trivial["forgetting"] == 1).all()
        assert (trivial[list(STILL)] == 0).all(axis=None)
        for name in ("p", "margin", "mia"):
            assert (trivial[f"{name}_before"] == trivial[f"{name}_after"]).all()


def test_all_goals_met_from_the_start_need_no_walk() -> None:
    """Where nothing has to be forgotten the unlearner is not even asked."""

    @dataclass(frozen=True)
    class Forbidden(GradientAscent):
        def walk(self, *_: Any) -> Any:
            raise AssertionError("nothing to forget, yet asked to walk")

    wrong = (shared_mlp().logits().argmax(1) != shared_mlp().labels).nonzero().flatten().tolist()
    assert wrong, "the example needs a misclassified sample"
    frame = run(shared_mlp(), Forbidden(), wrong, np.ones(len(wrong)))
    assert frame["trivial"].all()
    assert (frame[list(STILL)] == 0).all(axis=None)


def value_of(target: Target, objective: str, params: Params, index: int) -> float:
    """What an objective's goal is about, by a plain forward pass of a copy of the model."""
    x, y = target.data.fetch([index])
    with torch.no_grad():
        logits = loaded(target, params)(x)[0]
    label = int(y[0])
    if objective == "retrain":
        return float(logits.softmax(0)[label])
    return float(logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max())


def loaded(target: Target, params: Params) -> nn.Module:
    """A copy of the target's model with other parameters (and buffers, where given)."""
    model = copy.deepcopy(target.module)
    model.load_state_dict({**model.state_dict(), **params})
    return model.eval()


def at(target: Target, path: list[tuple[Params, Params]], steps: float) -> tuple[Params, Params]:
    """The point and the control at a fractional step, step 0 being the target."""
    whole = [(target.params, target.params), *path]
    before, fraction = math.floor(steps), steps - math.floor(steps)
    if fraction == 0:
        return whole[before]
    pairs = zip(whole[before], whole[before + 1], strict=True)
    first, second = ({name: a[name] + fraction * (b[name] - a[name]) for name in a} for a, b in pairs)
    return first, second


def path_alone(target: Target, method: str, index: int, seed: int, steps: float) -> list[tuple[Params, Params]]:
    """One sample's path as far as it is needed."""
    unlearner = quick(method)
    points = unlearner.path(target, unlearner.prepare(target), Samples.of(target, torch.tensor([index])), seed)
    return [next(points) for _ in range(math.ceil(steps))]


@pytest.mark.parametrize("method", METHODS)
def test_the_goal_is_met_at_the_crossing_and_not_before(outcomes: dict[str, pd.DataFrame], method: str) -> None:
    """Eight bisections place the crossing within 1/256 of a step."""
    target = shared_mlp()
    frame = outcomes[method]
    open_rows = frame[~frame["trivial"] & frame["reached"]]
    assert len(open_rows) >= 8
    assert (open_rows["steps"] % 1 != 0).any()
    for row in open_rows.itertuples():
        path = path_alone(target, method, row.index, 2, row.steps)
        assert row.goal == pytest.approx(0 if row.objective == "erase" else P_OUT[INDICES.index(row.index)] + 0.05)
        assert value_of(target, row.objective, at(target, path, row.steps)[0], row.index) <= row.goal + 1e-4
        earlier = at(target, path, row.steps - 1 / 256)[0]
        assert value_of(target, row.objective, earlier, row.index) > row.goal - 1e-4
        after = row.p_after if row.objective == "retrain" else row.margin_after
        assert after <= row.goal
        assert row.goal - after < (0.01 if row.objective == "retrain" else 0.1)
        assert row.forgetting == 1


def test_more_bisections_come_nearer_to_the_goal() -> None:
    """Each halves the distance; without any, the whole step is taken."""
    gaps = []
    for bisections in (0, 4, 16):
        frame = run(shared_mlp(), "gradient_ascent", protocol=replace(SMALL, bisections=bisections))
        crossed = frame[(frame["objective"] == "erase") & ~frame["trivial"]]
        if bisections == 0:
            assert (crossed["steps"] % 1 == 0).all()
        gaps.append(float(-crossed["margin_after"].mean()))
    assert gaps[0] > 3 * gaps[1] > 30 * gaps[2] >= 0


@pytest.mark.parametrize("method", METHODS)
def test_outcomes_equal_a_slow_plain_reference(outcomes: dict[str, pd.DataFrame], method: str) -> None:
    """Every measured column again, from the path of the sample alone and forward passes of copies of the model."""
    target = shared_mlp()
    (x, y), (x_test, y_test) = digits()
    bench = Workbench(target, SMALL)
    assert len(bench.retain) == len(bench.test) == 60
    features = F.normalize(target.module[:-1](x), dim=1)
    for row in outcomes[method].itertuples():
        index = row.index
        path = path_alone(target, method, index, 2, row.steps)
        params, control = at(target, path, row.steps)
        model, reference = loaded(target, params), loaded(target, control)
        kept = [j for j in bench.retain.tolist() if j != index]
        order = (features @ features[index]).argsort(descending=True).tolist()
        near = [j for j in order if j != index][:7]
        held_x, held_y = x_test[bench.test], y_test[bench.test]
        with torch.no_grad():
            expected = {
                "tv_retain": variation(model(x[kept]), reference(x[kept])),
                "tv_test": variation(model(held_x), reference(held_x)),
                "tv_neighbours": variation(model(x[near]), reference(x[near])),
                "accuracy_change_retain": accuracy(model(x[kept]), y[kept]) - accuracy(reference(x[kept]), y[kept]),
                "accuracy_change_test": accuracy(model(held_x), held_y) - accuracy(reference(held_x), held_y),
                "p_before": value_of(target, "retrain", {}, index),
                "p_after": value_of(target, "retrain", params, index),
                "margin_before": value_of(target, "erase", {}, index),
                "margin_after": value_of(target, "erase", params, index),
                "mia_before": membership(target.module, x[index], int(y[index]), held_x, held_y),
                "mia_after": membership(model, x[index], int(y[index]), held_x, held_y),
                "shift": math.sqrt(sum(float((params[n] - control[n]).square().sum()) for n in target.params)),
            }
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, rel=2e-3, abs=5e-5), (name, row.objective, index)


def variation(a: Tensor, b: Tensor) -> float:
    """Mean total-variation distance, a sample at a time."""
    pairs = zip(a.softmax(1).tolist(), b.softmax(1).tolist(), strict=True)
    return float(np.mean([sum(abs(p - q) for p, q in zip(one, two, strict=True)) / 2 for one, two in pairs]))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    return float(np.mean([int(one.argmax()) == label for one, label in zip(logits, labels.tolist(), strict=True)]))


def membership(model: nn.Module, x: Tensor, label: int, held_x: Tensor, held_y: Tensor) -> float:
    """Share of held-out samples of the class with a higher loss than the sample; of all when fewer than five."""
    loss = float(-model(x[None]).log_softmax(1)[0, label])
    chosen = [j for j, other in enumerate(held_y.tolist()) if other == label]
    chosen = chosen if len(chosen) >= 5 else list(range(len(held_y)))
    losses = [float(-model(held_x[j][None]).log_softmax(1)[0, held_y[j]]) for j in chosen]
    return float(np.mean([1.0 if other > loss else 0.5 if other == loss else 0.0 for other in losses]))


@pytest.mark.parametrize(("held", "pool"), [(30, "all"), (60, "class")])
def test_membership_evidence_compares_with_held_out_samples_of_the_class(held: int, pool: str) -> None:
    """With fewer than five of the class at hand, with all of them."""
    target = shared_mlp()
    protocol = replace(SMALL, utility_samples=held)
    bench = Workbench(target, protocol)
    (x, y), (x_test, y_test) = digits()
    counts = torch.bincount(y_test[bench.test], minlength=10)
    found = [j for j in range(len(y)) if (int(counts[y[j]]) < 5) == (pool == "all")][:4]
    assert found, "the example needs such a class"
    frame = run(target, "gradient_ascent", found, np.full(len(found), 0.3), protocol=protocol)
    for row in frame.itertuples():
        with torch.no_grad():
            plain = membership(target.module, x[row.index], int(y[row.index]), x_test[bench.test], y_test[bench.test])
        assert row.mia_before == pytest.approx(plain, abs=1e-6)
        assert row.mia_after <= row.mia_before + 1e-6, "unlearning takes membership evidence away"


def test_an_equal_loss_is_half_an_evidence() -> None:
    """A held-out copy of the sample says nothing about whether it was trained on."""
    (x, y), (x_test, y_test) = digits()
    chosen = [3, 30]
    copies = (torch.cat([x[chosen].repeat(4, 1, 1, 1), x_test[:2]]), torch.cat([y[chosen].repeat(4), y_test[:2]]))
    target = Target(shared_mlp().module, (x, y), heldout=(x_test, y_test))
    target.heldout = Data(copies)
    with torch.no_grad():
        losses = F.cross_entropy(target.module(copies[0]), copies[1], reduction="none")
    frame = run(target, GradientAscent(steps=1), chosen, [1.0, 1.0], objectives=("retrain",))
    for row in frame.itertuples():
        own = losses[chosen.index(row.index)]
        expected = float(((losses > own + 1e-7).float() + 0.5 * ((losses - own).abs() < 1e-7).float()).mean())
        assert row.mia_before == pytest.approx(expected, abs=1e-6)


def test_relearning_is_counted_in_plain_gradient_steps() -> None:
    """Steps on the sample alone until its probability has regained half of what it lost, the last one in part."""
    target = shared_mlp()
    protocol = replace(SMALL, relearn_lr=3e-3, relearn_most=40)
    frame = run(target, "gradient_ascent", INDICES, P_OUT, protocol=protocol)
    expected = []
    for row in frame.itertuples():
        path = path_alone(target, "gradient_ascent", row.index, 0, row.steps)
        model = loaded(target, at(target, path, row.steps)[0]).requires_grad_()
        x, y = target.data.fetch([row.index])
        goal, steps = (row.p_before + row.p_after) / 2, 0.0
        last = p = float(model(x).softmax(1)[0, y[0]].detach())
        while p < goal and steps < 40:
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            for parameter in model.parameters():
                parameter.data.sub_(3e-3 * parameter.grad)
            last, p, steps = p, float(model(x).softmax(1)[0, y[0]].detach()), steps + 1
        if p >= goal and steps:
            odds = [math.log(value / (1 - value)) for value in (last, goal, p)]
            steps += (odds[1] - odds[0]) / (odds[2] - odds[0]) - 1
        expected.append(steps)
    assert len(set(expected)) > 4, "the example tells the samples apart"
    np.testing.assert_allclose(frame["relearn_steps"], expected, rtol=1e-2, atol=1e-2)
    given_up = run(target, "gradient_ascent", INDICES, P_OUT, protocol=replace(protocol, relearn_most=2))
    assert given_up["relearn_steps"].max() == 2


# -- goals that are not reached -------------------------------------------------------------------------------------


def test_a_goal_that_is_not_reached_keeps_its_row() -> None:
    """The best point of the path counts, and says how far it came."""
    target = shared_mlp()
    frame = run(target, GradientAscent(steps=2))
    missed = frame[~frame["reached"]]
    assert len(missed) >= 6
    assert not missed["trivial"].any()
    assert (missed["steps"] == 2).all()
    for row in missed.itertuples():
        path = list(GradientAscent(steps=2).path(target, None, Samples.of(target, torch.tensor([row.index])), 0))
        start, end = (value_of(target, row.objective, params, row.index) for params in ({}, path[1][0]))
        assert row.forgetting == pytest.approx((start - end) / (start - row.goal), rel=1e-3)
        assert 0 < row.forgetting < 1
        assert row.p_after == pytest.approx(value_of(target, "retrain", path[1][0], row.index), rel=1e-3)
        assert row.shift > 0
    assert frame[frame["trivial"]]["reached"].all()


@dataclass(frozen=True)
class Scripted(Unlearner):
    """Moves the bias of the sample's own class by a given amount at every step; what is not listed stays."""

    name: ClassVar[str] = "scripted"
    by_sample: tuple[tuple[int, tuple[float, ...]], ...] = ()

    def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
        for shift in dict(self.by_sample)[int(samples.index[0])]:
            bias = target.params["3.bias"].clone()
            bias[samples.y[0]] += shift
            yield {**target.params, "3.bias": bias}, target.params


def test_the_best_point_of_a_path_counts_not_the_last() -> None:
    """A path that forgets and then learns again is measured where it had forgotten most."""
    target = shared_mlp()
    script = Scripted(((3, (-0.1, -0.4, -0.3, 0.2)), (17, (-0.2, -0.1, 0.0, 0.1))))
    frame = run(target, script, [3, 17], [0.0, 0.0])
    assert not frame["reached"].any()
    assert frame["steps"].tolist() == [2, 2, 1, 1]
    moved = [0.4, 0.4, 0.2, 0.2]
    np.testing.assert_allclose(frame["shift"], moved, rtol=1e-5)
    lost = (frame["margin_before"] - frame["margin_after"]).tolist()
    np.testing.assert_allclose(lost, moved, rtol=1e-3)
    np.testing.assert_allclose(frame["forgetting"][1::2], (lost / frame["margin_before"])[1::2], rtol=1e-3)


@pytest.mark.parametrize("order", [[3, 17], [17, 3]])
def test_a_sample_that_nothing_is_forgotten_of_is_measured_at_the_target(order: list[int]) -> None:
    """A path that only teaches it better leaves it with no forgetting and no damage, whoever walks beside it."""
    script = Scripted(((3, (0.5, 1.0)), (17, (-0.1, -0.2))))
    frame = run(shared_mlp(), script, order, [0.0, 0.0]).set_index("index")
    taught = frame.loc[3]
    assert not taught["reached"].any()
    assert taught[["forgetting", *STILL]].abs().max(axis=None) < 1e-6
    np.testing.assert_allclose(taught["p_after"], taught["p_before"], rtol=1e-6)
    assert (frame.loc[17, "forgetting"] > 0).all()
    assert (frame.loc[17, "tv_test"] > 0).all()


def test_numbers_that_overflow_are_no_crossing() -> None:
    """A path that ends in NaN never met its goal, and its last sound point is kept."""

    @dataclass(frozen=True)
    class Exploding(Scripted):
        name: ClassVar[str] = "exploding"

        def path(self, *arguments: Any) -> Iterator[tuple[Params, Params]]:
            for t, (params, control) in enumerate(super().path(*arguments)):
                yield {name: value / (0 if t == 2 else 1) for name, value in params.items()}, control

    frame = run(shared_mlp(), Exploding(((3, (-0.1, -0.2, -0.3)),)), [3], [0.0])
    assert not frame["reached"].any()
    assert (frame["steps"] == 2).all()
    assert np.isfinite(frame[MEASURED].to_numpy(float)).all()


# -- what must not matter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["influence", "neggrad_plus", "random_relabelling"])
def test_a_sample_does_not_notice_the_others(outcomes: dict[str, pd.DataFrame], method: str) -> None:
    """Alone, two at a time, in another order, or together: the same outcome."""
    target, frame = shared_mlp(), outcomes[method]
    same(run(target, method, seed=2, protocol=replace(SMALL, most_together=2)), frame)
    same(run(target, method, seed=2, protocol=replace(SMALL, memory_bytes=1)), frame)
    back = run(target, method, INDICES[::-1], P_OUT[::-1], seed=2)
    order = np.concatenate([[2 * k, 2 * k + 1] for k in range(len(INDICES))][::-1])
    same(back.iloc[order].reset_index(drop=True), frame)
    alone = run(target, method, [17], [0.2], seed=2)
    same(alone, frame[frame["index"] == 17].reset_index(drop=True))


def test_memory_decides_how_many_walk_together() -> None:
    """Stacks of so many models stay within the bound, and one sample is always walked."""
    target = shared_mlp()
    weights = sum(value.nbytes for value in target.params.values())
    for room, together in ((0, [1] * 5), (12 * 3, [3, 2]), (12 * 100, [5])):
        finished: list[int] = []
        protocol = replace(SMALL, memory_bytes=room * weights)
        run(target, GradientAscent(steps=1), protocol=protocol, advance=finished.append)
        assert finished == together


@pytest.mark.parametrize("method", ["bad_teaching", "influence", "neggrad_plus"])
@pytest.mark.parametrize("make", [shared_mlp, shared_cnn])
def test_stacked_and_looped_models_give_the_same_outcomes(
    monkeypatch: pytest.MonkeyPatch, make: Any, method: str
) -> None:
    """Vectorised calls are only faster."""
    target = make()
    indices, p_out = INDICES[1:3], P_OUT[1:3]
    frames = []
    for stacked in (True, False):
        for name, module in list(sys.modules.items()):
            if name.startswith("forgetcast.unlearn") and hasattr(module, "stackable"):
                monkeypatch.setattr(module, "stackable", lambda *_, stacked=stacked, **__: stacked)
        frames.append(run(target, method, indices, p_out, seed=1))
    same(*frames, rtol=5e-3, atol=1e-4)


def test_the_same_call_gives_the_same_bits_and_another_seed_others() -> None:
    """Corpora are byte for byte repeatable, and seeds are told apart."""
    target = shared_mlp()
    first, again, other = (run(target, "random_relabelling", seed=seed) for seed in (4, 4, 5))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert (first["steps"] != other["steps"]).any()


def test_prepared_parts_may_be_handed_over() -> None:
    """A workbench and a state made before save time and change nothing."""
    target = shared_mlp()
    unlearner = quick("influence")
    state, bench = unlearner.prepare(target), Workbench(target, SMALL)
    finished: list[int] = []
    frame = run(
        target,
        unlearner,
        state=state,
        workbench=bench,
        advance=finished.append,
        protocol=replace(SMALL, most_together=2),
    )
    same(frame, run(target, unlearner))
    assert finished == [2, 2, 1]
    same(run_unlearner(target, unlearner, INDICES, P_OUT, state=state, workbench=bench), frame)  # with its settings


@pytest.mark.parametrize("method", ["gradient_ascent", "neggrad_plus", "bad_teaching", "influence", "retraining"])
def test_the_target_and_the_users_model_are_untouched(method: str) -> None:
    """Weights, batch-norm statistics, mode, gradients, hooks and the global random state are as before."""
    target = shared_cnn()
    users = target.train(np.arange(100), 3).train()
    ours = Target(users, digits()[0], heldout=digits()[1], train=target._train, name="cnn")
    before, users_before, random = module_state(ours.module), module_state(users), torch.random.get_rng_state()
    run(ours, method, [3, 5], [0.1, 0.1])
    for old, module in ((before, ours.module), (users_before, users)):
        now = module_state(module)
        for what, value in old.items():
            assert same_state(value, now[what]), what
    assert torch.equal(random, torch.random.get_rng_state())
    assert users.training


def test_batch_norm_and_dropout_are_frozen() -> None:
    """Outcomes on a network with both are those of plain forward passes in evaluation mode."""
    target = shared_cnn()
    frame = run(target, "neggrad_plus", [3, 17], [0.2, 0.2], seed=2)
    for row in frame.itertuples():
        path = path_alone(target, "neggrad_plus", row.index, 2, row.steps)
        params = at(target, path, row.steps)[0]
        assert set(params) == set(target.params), "batch-norm statistics are no part of the path"
        assert row.p_after == pytest.approx(value_of(target, "retrain", params, row.index), abs=2e-4)
        assert row.p_before == pytest.approx(value_of(target, "retrain", {}, row.index), abs=1e-6)


# -- exact retraining -----------------------------------------------------------------------------------------------


def test_retraining_is_one_step_with_statistics_of_its_own() -> None:
    """No bisection: the outcome is that of the retrained model, against one retrained with the same seed on all."""
    target = shared_cnn()
    (x, y), (x_test, _) = digits()
    bench = Workbench(target, SMALL)
    frame = run(target, "retraining", [5, 77, 30], [0.01, 0.01, 0.5], seed=7)
    control = target.train(np.arange(len(y)), 7)
    open_rows = frame[~frame["trivial"]]
    assert (open_rows["steps"].isin([1, 0])).all()
    assert open_rows["steps"].any()
    for row in open_rows[open_rows["steps"] == 1].itertuples():
        model = target.train(np.delete(np.arange(len(y)), row.index), 7)
        with torch.no_grad():
            p = float(model(x[row.index][None]).softmax(1)[0, y[row.index]])
            held = x_test[bench.test]
            assert row.tv_test == pytest.approx(variation(model(held), control(held)), abs=1e-5)
        assert row.p_after == pytest.approx(p, abs=1e-5)
        assert row.reached == ((p if row.objective == "retrain" else row.margin_after) <= row.goal)


# -- errors ---------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named() -> None:
    """Held-out data, a train callable, a sample that is not there."""
    with pytest.raises(NotApplicableError, match=r"'mlp' has no held-out data: pass heldout"):
        run(mlp(heldout=False), "gradient_ascent")
    with pytest.raises(NotApplicableError, match="no train callable"):
        run(mlp(train=False), "retraining")
    with pytest.raises(IndexRangeError, match="120 is out of range"):
        run(shared_mlp(), "gradient_ascent", [0, 120], [0.1, 0.1])
    with pytest.raises(IndexRangeError, match="0 is given more than once"):
        run(shared_mlp(), "gradient_ascent", [0, 0], [0.1, 0.1])
    with pytest.raises(UnknownNameError, match="unknown objective 'retrian': did you mean 'retrain'"):
        run(shared_mlp(), "gradient_ascent", objectives=("retrian",))


def test_an_oracle_that_says_nothing_is_no_goal() -> None:
    """NaN is below no limit, so a sample without an oracle would pass for trivial; ``erase`` needs no oracle."""
    with pytest.raises(InputError, match="finite numbers for the objective 'retrain'; entry 1 is nan"):
        run(shared_mlp(), "gradient_ascent", [3, 5], [0.1, np.nan])
    with pytest.raises(InputError, match=r"one probability for each of the 2 samples; got shape \(1,\)"):
        run(shared_mlp(), "gradient_ascent", [3, 5], [0.1])
    frame = run(shared_mlp(), "gradient_ascent", [3, 5], [np.nan, np.nan], objectives=("erase",))
    assert frame["reached"].all()
    assert not frame["trivial"].any()


# -- parts ----------------------------------------------------------------------------------------------------------


def test_neighbours_are_the_nearest_others() -> None:
    """A sample is not its own neighbour; features of the last layer decide, or inputs where there is none."""
    target = shared_mlp()
    chosen = torch.tensor([5, 0, 119])
    (x, y), held = digits()
    near = Workbench(target, SMALL).neighbours(chosen)
    features = F.normalize(target.module[:-1](x), dim=1)
    for row, index in zip(near.tolist(), chosen.tolist(), strict=True):
        order = (features @ features[index]).argsort(descending=True).tolist()
        assert row == [j for j in order if j != index][:7]

    class Headless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)) / 8)

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight.T

    headless = Workbench(Target(Headless(), (x, y), heldout=held), SMALL).neighbours(chosen)
    flat = F.normalize(x.flatten(1), dim=1)
    assert headless[0].tolist() == [j for j in (flat @ flat[5]).argsort(descending=True).tolist() if j != 5][:7]


def test_the_margin_is_over_the_best_other_class() -> None:
    """True-label logit minus the largest other, whether the label is right or not."""
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [-1.0, -1.0, -2.0]])
    assert margins(logits, torch.tensor([0, 1, 0])).tolist() == [1.0, -2.0, 0.0]


def test_mislabelled_samples_are_memorized_by_the_example() -> None:
    """The tests above unlearn something: the perceptron has learned most of its wrong labels by heart."""
    chosen = torch.tensor(MISLABELLED)
    right = shared_mlp().logits()[chosen].argmax(1) == shared_mlp().labels[chosen]
    assert int(right.sum()) >= 3


@st.composite
def stacks(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Two stacks of the same few models with parameters of several shapes, and one number per model."""
    m = draw(st.integers(1, 4))
    shapes = draw(st.lists(st.sampled_from([(), (3,), (2, 3), (2, 1, 2)]), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    a, b = (
        {f"p{k}": torch.randn(m, *shape, generator=generator, dtype=torch.float64) for k, shape in enumerate(shapes)}
        for _ in range(2)
    )
    return a, b, torch.rand(m, generator=generator, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(stacks())
def test_stack_arithmetic_equals_plain_loops(given_stacks: tuple[Params, Params, Tensor]) -> None:
    """combine, mix, norm, distance, rows and size, model by model and tensor by tensor."""
    a, b, scale = given_stacks
    m = size(a)
    assert m == len(scale)
    added, halfway, blended = combine(a, b, scale), combine(a, b, 0.5), mix(a, b, scale)
    lengths, apart = norm(a), distance(a, b, a)
    assert lengths.shape == apart.shape == (m,)
    for k in range(m):
        s = float(scale[k])
        squares = gaps = 0.0
        for name in a:
            one, two = a[name][k], b[name][k]
            torch.testing.assert_close(added[name][k], one + s * two)
            torch.testing.assert_close(halfway[name][k], one + 0.5 * two)
            torch.testing.assert_close(blended[name][k], (1 - s) * one + s * two)
            squares += float(sum(v**2 for v in one.flatten().tolist()))
            gaps += float(sum(v**2 for v in (one - two).flatten().tolist()))
        assert float(lengths[k]) == pytest.approx(math.sqrt(squares), rel=1e-6)
        assert float(apart[k]) == pytest.approx(math.sqrt(gaps), rel=1e-6)
    chosen = torch.arange(m).flip(0)[:2]
    taken = rows(a, chosen)
    assert size(taken) == len(chosen)
    assert all(torch.equal(taken[name][0], a[name][m - 1]) for name in a)
    torch.testing.assert_close(mix(a, b, torch.zeros(m)), a)
    torch.testing.assert_close(mix(a, b, torch.ones(m)), b)
    first = next(iter(a))
    torch.testing.assert_close(distance(a, b, [first]), norm({first: a[first] - b[first]}))


@settings(max_examples=15, deadline=None)
@given(stacks())
def test_mapping_over_models_equals_a_loop(given_stacks: tuple[Params, Params, Tensor]) -> None:
    """With and without vectorising, over nested arguments and results."""
    a, b, scale = given_stacks

    def function(one: Params, rest: tuple[Params, Tensor]) -> dict[str, Any]:
        other, s = rest
        return {"sum": {name: value + s * other[name].sum() for name, value in one.items()}, "s": (s * 2, s)}

    for stacked in (True, False):
        out = map_models(function, a, (b, scale), stacked=stacked)
        for k in range(size(a)):
            plain = function({n: v[k] for n, v in a.items()}, ({n: v[k] for n, v in b.items()}, scale[k]))
            torch.testing.assert_close({n: v[k] for n, v in out["sum"].items()}, plain["sum"])
            torch.testing.assert_close(out["s"][0][k], plain["s"][0])


def test_repeated_parameters_are_copies() -> None:
    """Writing into a stack leaves the model it was made from alone."""
    params = {"w": torch.ones(2, 2), "b": torch.zeros(())}
    stack = repeat(params, 3)
    assert size(stack) == 3
    assert stack["b"].shape == (3,)
    stack["w"][1] += 1
    assert params["w"].sum() == 4
    assert stack["w"][0].sum() == 4


def test_a_retain_rate_that_tears_the_network_apart_is_lowered() -> None:
    """Scaled inputs make the usual rate too long: steps at the rate chosen leave the control's loss low, and a
    network that survives the usual one keeps it."""
    calm = clouds()
    method = registered("neggrad_plus")
    assert method.prepare(calm) == method.retain_lr
    x, y = calm.data.fetch(torch.arange(len(calm)))
    model = copy.deepcopy(calm.module)
    first = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        first.weight /= 100
    steep = Target(model, (100 * x, y))
    rate = method.prepare(steep)
    assert rate < method.retain_lr
    walk = method.walk(steep, rate, Samples.of(steep, torch.tensor([0])), 0)
    for _ in range(method.steps):
        _, control = walk.step()
    with torch.no_grad():
        losses = [float(torch.nn.functional.cross_entropy(steep.call(p, 100 * x), y)) for p in (steep.params, control)]
    assert losses[1] < 2 * losses[0] + 0.2
