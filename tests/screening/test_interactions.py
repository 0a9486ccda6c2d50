"""Which requests of a queue interact: what is forecast is what happens when one of them is really unlearned."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from forgetcast.screening import interactions as module
from forgetcast.screening.interactions import interactions
from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.certified_removal import CertifiedRemoval
from forgetcast.unlearn.base import Samples
from small_targets import clouds, digits, shared_cnn, shared_mlp

COLUMNS = {
    "first": "int64",
    "second": "int64",
    "effect": "float64",
    "neighbours": "bool",
    "shared_neighbours": "int64",
    "group": "int64",
}


def predicted(target: Target, index: np.ndarray) -> np.ndarray:
    """Effects as they are forecast for ``erase``, (m, m)."""
    everyone = np.concatenate([index, np.setdiff1d(np.arange(len(target)), index)])
    z, logits = module._outputs(target, everyone)
    return module._effects(z, logits, target.labels[torch.as_tensor(everyone)], len(index), "erase", 1.0)


def measured(target: Target, index: np.ndarray) -> np.ndarray:
    """Change of each other's true-label probability when certified removal stops at the crossing of ``erase``."""
    unlearner, samples = CertifiedRemoval(), Samples.of(target, torch.as_tensor(index))
    moves = unlearner.displacement(target, unlearner.prepare(target), samples, 0)
    model = deepcopy(target.module).eval()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    places = torch.arange(len(index))

    @torch.no_grad()
    def logits(k: int, strength: float) -> torch.Tensor:
        moved = {name: value + strength * moves[name][k] if name in moves else value for name, value in start.items()}
        model.load_state_dict(moved)
        return model(samples.x)

    before = logits(0, 0.0).softmax(1)[places, samples.y]
    change = np.zeros((len(index), len(index)))
    for k in range(len(index)):
        if logits(k, 0.0)[k].argmax() != samples.y[k]:
            continue
        low, high = 0.0, 0.25
        while logits(k, high)[k].argmax() == samples.y[k]:
            high *= 2
        for _ in range(25):
            middle = (low + high) / 2
            low, high = (middle, high) if logits(k, middle)[k].argmax() == samples.y[k] else (low, middle)
        change[k] = (logits(k, high).softmax(1)[places, samples.y] - before).abs().numpy()
    np.fill_diagonal(change, 0)
    return np.maximum(change, change.T)


@pytest.mark.parametrize(
    ("make", "ranks", "correlation"), [(shared_mlp, 0.6, 0.85), (shared_cnn, 0.55, 0.85), (clouds, 0.75, 0.95)]
)
def test_effects_are_those_of_really_unlearning(make: Callable[[], Target], ranks: float, correlation: float) -> None:
    """Over all pairs: their order, their size, and not several times too large."""
    target = make()
    index = np.arange(0, len(target), 2)
    pairs = np.triu_indices(len(index), 1)
    forecast, real = predicted(target, index)[pairs], measured(target, index)[pairs]
    assert spearmanr(forecast, real).statistic > ranks
    assert np.corrcoef(forecast, real)[0, 1] > correlation
    assert 0.7 < forecast.mean() / real.mean() < 2.5
    strongest = np.argsort(-forecast)[:20]
    assert real[strongest].mean() > 0.85 * np.sort(real)[-20:].mean()


def test_pairs_that_interact_do() -> None:
    """Most pairs that are said to interact do, and few of those that do are missed."""
    target = shared_mlp()
    index = np.arange(0, 120, 2)
    pairs = np.triu_indices(len(index), 1)
    forecast, real = predicted(target, index)[pairs] >= 0.05, measured(target, index)[pairs] >= 0.05
    assert (forecast & real).sum() > 0.55 * forecast.sum()
    assert (forecast & real).sum() > 0.8 * real.sum()
    assert real.sum() > 30


@lru_cache(maxsize=1)
def doubled() -> Target:
    """The digits with sample 3 once more, as sample 120, and the perceptron."""
    (x, y), held = digits()
    x, y = torch.cat([x, x[3:4]]), torch.cat([y, y[3:4]])
    return Target(shared_mlp().module, (x, y), heldout=held, name="doubled")


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_two_of_a_kind_interact(objective: str) -> None:
    """Two copies of one sample are neighbours in one group; for erase nothing interacts more strongly."""
    index = np.array([120, *range(0, 60, 3)])
    found = interactions(doubled(), index, objective)  # type: ignore[arg-type]
    pair = found.pairs[(found.pairs["first"] == 3) & (found.pairs["second"] == 120)]
    assert len(pair) == 1
    assert pair["neighbours"].item()
    assert pair["group"].item() == found.group[0] == found.group[2] > 0
    if objective == "erase":
        assert pair["effect"].item() > 0.3
        assert pair["effect"].item() == pytest.approx(found.pairs["effect"].max())


def test_the_table_of_pairs() -> None:
    """The largest effects first, smaller numbers first, one row per pair, and groups that are those of both."""
    index = np.random.default_rng(0).permutation(120)[:60]
    found = interactions(shared_mlp(), index, "erase", effect_from=0.1)
    pairs = found.pairs
    assert {name: str(kind) for name, kind in pairs.dtypes.items()} == COLUMNS
    assert (pairs["first"] < pairs["second"]).all()
    assert not pairs.duplicated(["first", "second"]).any()
    assert set(pairs["first"]) | set(pairs["second"]) <= set(index.tolist())
    assert pairs["effect"].is_monotonic_decreasing
    assert pairs["effect"].between(0, 1).all()
    assert (pairs["effect"] >= 0.1).sum() > 10
    near = pairs[pairs["effect"] < 0.1]
    assert near["neighbours"].all()
    group = pd.Series(found.group, index=index)
    first, second = group[pairs["first"]].to_numpy(), group[pairs["second"]].to_numpy()
    assert (pairs["group"] == np.where(first == second, first, 0)).all()
    sizes = np.bincount(found.group)
    assert (sizes[1:] >= 2).all()
    firsts = [int(np.flatnonzero(found.group == number)[0]) for number in range(1, len(sizes))]
    assert firsts == sorted(firsts)
    again = interactions(shared_mlp(), index, "erase", effect_from=0.1)
    pd.testing.assert_frame_equal(again.pairs, pairs)


def test_the_order_of_the_requests_changes_nothing_but_names() -> None:
    """The same pairs, effects and groups, whichever request comes first."""
    index = np.arange(0, 120, 3)
    one, other = (interactions(shared_mlp(), order, "erase") for order in (index, index[::-1].copy()))
    names = ["first", "second", "effect", "neighbours", "shared_neighbours"]
    by = ["first", "second"]
    left, right = (found.pairs[names].sort_values(by).reset_index(drop=True) for found in (one, other))
    pd.testing.assert_frame_equal(left, right, rtol=1e-6, atol=1e-9)
    a, b = one.group, other.group[::-1]
    together = (a[:, None] == a) & (a > 0) & (a[:, None] > 0)
    assert (together == ((b[:, None] == b) & (b > 0) & (b[:, None] > 0))).all()


def test_a_chain_of_effects_joins_no_strangers() -> None:
    """Each of six interacts with the next alone: pairs, not one group of six. Three that all interact are one."""
    chain = np.zeros((6, 6))
    for k in range(5):
        chain[k, k + 1] = chain[k + 1, k] = 0.06
    group = module._groups(chain, 0.05)
    assert np.bincount(group).max() == 2
    clique = np.full((3, 3), 0.2)
    np.fill_diagonal(clique, 0)
    whole = np.zeros((5, 5))
    whole[1:4, 1:4] = clique
    assert module._groups(whole, 0.05).tolist() == [0, 1, 1, 1, 0]
    exact = np.array([[0, 0.05], [0.05, 0]])
    assert module._groups(exact, 0.05).tolist() == [1, 1]
    assert module._groups(exact, 0.0501).tolist() == [0, 0]


def test_groups_are_clusters() -> None:
    """The mean effect within a group of the real queue is at least the threshold, neighbours counted with it."""
    index = np.arange(0, 120, 2)
    found = interactions(shared_mlp(), index, "erase", effect_from=0.05)
    effect = predicted(shared_mlp(), index)
    position = {number: place for place, number in enumerate(index.tolist())}
    for row in found.pairs[found.pairs["effect"] < 0.05].itertuples():
        a, b = position[row.first], position[row.second]
        effect[a, b] = effect[b, a] = 0.05
    assert found.group.max() > 3
    for number in range(1, found.group.max() + 1):
        own = np.flatnonzero(found.group == number)
        within = effect[np.ix_(own, own)][np.triu_indices(len(own), 1)]
        assert within.mean() >= 0.05 * 0.99 if len(own) == 2 else within.mean() > 0.03


def test_a_queue_of_one_and_of_none() -> None:
    """Nothing to interact with, and no reason needed."""
    for index in (np.array([7]), np.zeros(0, dtype=np.int64)):
        found = interactions(shared_mlp(), index, "retrain")
        assert found.group.tolist() == [0] * len(index)
        assert found.reason == ""
        assert found.pairs.empty
        assert {name: str(kind) for name, kind in found.pairs.dtypes.items()} == COLUMNS


def test_a_queue_of_all_samples() -> None:
    """No other sample is left to stand for the rest."""
    found = interactions(clouds(), np.arange(45), "erase")
    assert len(found.group) == 45
    assert np.isfinite(found.pairs["effect"]).all()


class Pooled(nn.Module):
    """Ends in a mean, not in a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).reshape(-1, 3, 2).mean(2)


def test_a_model_without_last_layer_gives_a_reason() -> None:
    """Nothing is known, and that is said."""
    torch.manual_seed(0)
    known = clouds()
    target = Target(Pooled(), known.data.fetch(torch.arange(45)))
    assert target.head is None
    found = interactions(target, np.arange(10), "erase")
    assert found.reason == target.head_missing != ""
    assert found.group.tolist() == [0] * 10
    assert found.pairs.empty


def test_too_long_a_queue_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says how to go on."""
    monkeypatch.setattr(module, "MOST", 20)
    found = interactions(clouds(), np.arange(21), "erase")
    assert "at most 20 requests, and there are 21: split the queue" in found.reason
    assert found.group.tolist() == [0] * 21
    assert interactions(clouds(), np.arange(20), "erase").reason == ""


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_memory_limits_change_nothing(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few pairs at a time, and nothing kept, give what all at once give."""
    index = np.arange(0, 120, 3)
    whole = interactions(shared_mlp(), index, objective)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "CHUNK", 70)
    monkeypatch.setattr(module, "KEPT", 0)
    parts = interactions(shared_mlp(), index, objective)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(parts.pairs, whole.pairs, rtol=1e-9)
    assert (parts.group == whole.group).all()


def test_requests_that_meet_their_goal_move_nothing() -> None:
    """A misclassified sample is erased already: whatever effect a pair has comes from its other member."""
    target = shared_mlp()
    (x, y), held = digits()
    wrong = y.clone()
    wrong[[10, 20, 30]] = (wrong[[10, 20, 30]] + 1) % 10
    target = Target(shared_mlp().module, (x, wrong), heldout=held)
    found = interactions(target, np.array([10, 20, 30]), "erase", effect_from=0.0001)
    assert (found.pairs["effect"] == 0).all()


def test_nothing_of_the_target_changes() -> None:
    """Weights, mode and global random numbers."""
    target = shared_cnn()
    before, state = target.model_hash, torch.get_rng_state()
    interactions(target, np.arange(0, 120, 4), "retrain", seed=3)
    assert target.model_hash == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not target.module.training


def test_few_samples_and_many_features_give_the_same_step() -> None:
    """(S - s z zᵀ + λI)⁻¹ z, in the space of samples as in that of features, and as it is written."""
    generator = torch.Generator().manual_seed(0)
    for n, d in ((30, 12), (12, 30)):
        z = torch.randn(n, d, generator=generator, dtype=torch.float64)
        c = torch.rand(n, generator=generator, dtype=torch.float64) / 4
        solved, own = module._newton(z, c, 5, 0.1, 2.0)
        S = (z * c[:, None]).T @ z + 0.1 * torch.eye(d, dtype=torch.float64)
        for k in range(5):
            wanted = torch.linalg.solve(S - c[k] / 2 * torch.outer(z[k], z[k]), z[k])
            assert torch.allclose(solved[k], wanted)
            assert own[k] == pytest.approx(float(wanted @ z[k]))


@pytest.mark.parametrize("objective", ["retrain", "erase"])
@pytest.mark.parametrize(("features", "sure"), [(0.0, 5.0), (1.0, 1e4), (1e-20, 1.0), (1e8, 1.0)])
def test_extreme_models_give_finite_effects(objective: str, features: float, sure: float) -> None:
    """Dead features, logits beyond what a softmax tells apart, tiny and huge features."""
    generator = torch.Generator().manual_seed(0)
    z = features * torch.randn(50, 5, generator=generator, dtype=torch.float64)
    logits = sure * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    effect = module._effects(z, logits, logits.argmax(1), 20, objective, 1.0)
    assert np.isfinite(effect).all()
    assert ((effect >= 0) & (effect <= 1)).all()
    if objective == "erase":
        assert (effect.max() > 0) == (features > 0)


# -- rows that share a neighbourhood and label ------------------------------------------------------------------------


def test_who_leans_on_the_queue() -> None:
    """At least a third of the nearest samples with its label are requested; others count as often as they stand for."""
    near = np.array([[1, 3, 4], [0, 3, 4], [3, 4, 5]])  # three requests, then three other samples
    labels = np.array([0, 0, 0, 0, 0, 0])
    assert module._sharing_surroundings(near, labels, 3, 1.0).tolist() == [1, 1, 0]  # one of three
    assert module._sharing_surroundings(near, labels, 3, 1.1).tolist() == [0, 0, 0]
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert module._sharing_surroundings(near, labels, 3, 100.0).tolist() == [1, 1, 0]  # nobody else has the label
    labels = np.array([0, 1, 0, 0, 0, 0])
    assert module._sharing_surroundings(near, labels, 3, 1.0).tolist() == [0, 0, 0]  # two labels


@pytest.mark.parametrize("requested", [30, 12, 3])
def test_rows_with_a_label_of_their_own_share_their_neighbourhood(requested: int) -> None:
    """Thirty near copies of one digit under another label: those asked for, if that is a third of them, among strangers
    that are not; the queue's order does not matter."""
    (x, y), _ = digits()
    generator = torch.Generator().manual_seed(0)
    own = x[:1] + 0.03 * torch.randn(30, *x.shape[1:], generator=generator)
    label = (int(y[0]) + 3) % 10
    target = Target(shared_mlp().module, (torch.cat([x, own]), torch.cat([y, torch.full((30,), label)])))
    strangers = np.flatnonzero(y.numpy() != label)[[5, 40, 77, 101]]
    index = np.concatenate([strangers[:2], 120 + np.arange(requested), strangers[2:]])
    index = index[np.random.default_rng(0).permutation(len(index))]
    found = interactions(target, index, "retrain")
    together = found.alike > 0
    assert not together[index < 120].any()
    assert together[index >= 120].mean() >= (0.9 if requested == 30 else 0.5 if requested == 12 else 0)
    assert requested > 3 or not together.all()
