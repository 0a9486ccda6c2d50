"""Grouped leave-out retraining: fair groups, models that miss exactly their group, and what their answers add up to."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from forgetcast.corpus.oracle import deal_groups, leave_groups_out, subset_screen, summarise
from forgetcast.errors import InputError, NotApplicableError
from forgetcast.target.target import Target
from small_targets import MISLABELLED, shared_mlp


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 12), st.integers(0, 3))
def test_groups_are_spread_over_the_classes(labels: list[int], groups: int, seed: int) -> None:
    """Groups differ in size by one at most, in size within a class by one at most, and none is empty."""
    group = deal_groups(np.array(labels), groups, seed)
    assert group.shape == (len(labels),)
    present = min(groups, len(labels))
    sizes = np.bincount(group, minlength=present)
    assert len(sizes) == present
    assert sizes.min() >= 1
    assert np.ptp(sizes) <= 1
    for label in set(labels):
        within = np.bincount(group[np.array(labels) == label], minlength=present)
        assert np.ptp(within) <= 1
    assert (group == deal_groups(np.array(labels), groups, seed)).all()


def test_groups_are_drawn_by_the_seed() -> None:
    """Another seed deals other groups, else its halves would share their mistakes."""
    labels = np.arange(60) % 3
    assert (deal_groups(labels, 10, 0) != deal_groups(labels, 10, 1)).any()


def recording(n: int = 24) -> tuple[Target, list[tuple[tuple[int, ...], int]]]:
    """A target whose ``train`` writes down what it is given and answers by the seed."""
    calls: list[tuple[tuple[int, ...], int]] = []
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))

    def train(indices: np.ndarray, seed: int) -> nn.Module:
        calls.append((tuple(int(index) for index in indices), seed))
        model = nn.Linear(2, 3)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        model.bias.data[0] = float(seed)
        return model

    with torch.random.fork_rng(devices=[]):
        model = nn.Linear(2, 3)
    return Target(model, (x, torch.arange(n) % 3), train=train, name="recording"), calls


def test_every_model_misses_exactly_its_group() -> None:
    """All other samples are trained on, also those that are not measured; answers say who was seen."""
    target, calls = recording()
    instances = np.array([20, 3, 5, 11, 14, 7])
    group = deal_groups(target.labels.numpy()[instances], 3)
    for left_out in range(3):
        answers = leave_groups_out(target, instances, group, [left_out], [2])
        missing = set(instances[group == left_out].tolist())
        trained, seed = calls[-1]
        assert set(trained) == set(range(24)) - missing
        assert len(trained) == 24 - len(missing)
        assert seed == 2
        assert answers["index"].tolist() == instances.tolist()
        assert (answers["seen"] == ~answers["index"].isin(missing)).all()
        assert (answers["left_out"] == left_out).all()
        assert (answers["group"] == group).all()
        assert (answers["seed"] == 2).all()
        first = np.exp(2.0) / (np.exp(2.0) + 2)
        expected = np.where(target.labels.numpy()[instances] == 0, first, (1 - first) / 2)
        np.testing.assert_allclose(answers["p"], expected, rtol=1e-5)
    assert len(calls) == 3


def test_a_target_that_cannot_retrain_has_no_oracle() -> None:
    """The error says what to pass."""
    target = Target(nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1])))
    with pytest.raises(NotApplicableError, match="pass train=function"):
        leave_groups_out(target, [0, 1], np.array([0, 1]), [0], [0])


def test_answers_are_averaged_by_whether_the_sample_was_seen() -> None:
    """p_out over models that did not see it, p_in over the others, halves over even and odd seeds."""
    rows = []
    for seed, (out_a, in_a, out_b, in_b) in enumerate(
        [(0.1, 0.9, 0.5, 0.6), (0.3, 0.8, 0.7, 0.6), (0.2, 1.0, 0.6, 0.9)]
    ):
        for left_out in (0, 1):
            rows.append((7, 0, left_out, 1000 + seed, out_a if left_out == 0 else in_a, left_out != 0))
            rows.append((4, 1, left_out, 1000 + seed, out_b if left_out == 1 else in_b, left_out != 1))
    answers = pd.DataFrame(rows, columns=["index", "group", "left_out", "seed", "p", "seen"])
    table = summarise(answers.sample(frac=1, random_state=0)).set_index("index")
    assert table.index.tolist() == [4, 7]
    expected = {
        "p_out": (0.6, 0.2),
        "p_in": (0.7, 0.9),
        "memorization": (0.1, 0.7),
        "p_out_half_a": (0.55, 0.15),
        "p_out_half_b": (0.7, 0.3),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, err_msg=name)


def test_one_seed_has_no_halves() -> None:
    """Split-half reliability needs two; NaN says that there is none."""
    answers = pd.DataFrame(
        {"index": [1, 2, 1, 2], "left_out": [0, 0, 1, 1], "seed": 1000, "p": [0.2, 0.9, 0.8, 0.4]}
    ).assign(group=[0, 1, 0, 1], seen=[False, True, True, False])
    table = summarise(answers)
    assert table["p_out"].tolist() == [0.2, 0.4]
    assert table["p_out_half_b"].isna().all()
    assert table["p_out_half_a"].tolist() == [0.2, 0.4]


def test_a_wrong_label_is_memorized_and_a_typical_sample_is_not() -> None:
    """On real digits: without the sample nobody believes its wrong label; a sure sample is as sure without it."""
    target = shared_mlp()
    p = target.logits().softmax(1).gather(1, target.labels[:, None])[:, 0]
    typical = [int(index) for index in p.argsort(descending=True)[:8] if int(index) not in MISLABELLED]
    instances = np.array([*MISLABELLED, *typical])
    group = deal_groups(target.labels.numpy()[instances], 3)
    answers = [leave_groups_out(target, instances, group, range(3), [seed] * 3) for seed in (0, 1)]
    table = summarise(pd.concat(answers, ignore_index=True)).set_index("index")
    wrong, sure = table.loc[list(MISLABELLED)], table.loc[typical]
    assert (wrong["p_out"] < 0.5).all()
    assert (wrong["p_out"] < 0.01).sum() >= 3
    assert wrong["memorization"].mean() > 0.4
    assert sure["memorization"].abs().max() < 0.2
    assert (table["memorization"] == table["p_in"] - table["p_out"]).all()
    assert np.corrcoef(table["p_out_half_a"], table["p_out_half_b"])[0, 1] > 0.9


# -- the screen ------------------------------------------------------------------------------------------------------


def test_every_model_of_the_screen_sees_its_share() -> None:
    """Each is trained on 70 % of the data drawn for it, and every sample is asked of every model."""
    target, calls = recording(30)
    table = subset_screen(target, models=24, share=0.7, seed=3)
    assert table["index"].tolist() == list(range(30))
    assert len(calls) == 24
    assert {len(set(trained)) for trained, _ in calls} == {21}
    assert len({seed for _, seed in calls}) == 24
    assert len({trained for trained, _ in calls}) == 24
    again = subset_screen(recording(30)[0], models=24, share=0.7, seed=3)
    pd.testing.assert_frame_equal(table, again)
    assert (table["memorization"] == table["p_in"] - table["p_out"]).all()


def test_the_screen_finds_wrong_labels() -> None:
    """Wrong labels are among the most suspected, though no sample was singled out."""
    table = subset_screen(shared_mlp(), models=12)
    rank = table.set_index("index")["memorization"].rank(ascending=False)
    assert rank.loc[list(MISLABELLED)].median() <= 15, "of 120 samples"


@pytest.mark.parametrize(("models", "share"), [(1, 0.7), (4, 0.0), (4, 1.0)])
def test_a_screen_that_says_nothing_is_refused(models: int, share: float) -> None:
    """One model, or all of the data, compares nothing."""
    with pytest.raises(InputError, match="at least 2 models and a share between 0 and 1"):
        subset_screen(shared_mlp(), models=models, share=share)
