"""Factors against slow, plain references on tiny cases; registration; the factor table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional as F

from forgetcast.errors import NotApplicableError, PluginError, UnknownNameError
from forgetcast.factors import Factor, factor, factor_table, quantile_column
from forgetcast.factors.confidence import mia_likelihood_ratio, mia_resistance
from forgetcast.factors.entanglement import class_entanglement, entanglement, other_class_entanglement
from forgetcast.factors.probes.damage import Pool, damage, erase_move
from forgetcast.factors.probes.neighbour_vote import neighbour_vote
from forgetcast.factors.probes.probes import Probes
from forgetcast.factors.probes.recorder import HeldOut
from forgetcast.registry import load_factors
from forgetcast.target.target import Target
from forgetcast.target.trajectory import Trajectory

pytestmark = pytest.mark.slow

FAMILIES = (
    "confidence",
    "gradients",
    "boundary",
    "neighbours",
    "entanglement",
    "stein",
    "rehearsal",
    "surrogates",
    "context",
    "trajectory",
)


def clouds(n: int = 40, classes: int = 3, width: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around class centres, every ninth label wrong."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = 2 * torch.randn(classes, width, generator=generator)
    x = centres[y] + torch.randn(n, width, generator=generator)
    y = y.clone()
    y[::9] = (y[::9] + 1) % classes
    return x, y


def fitted(model: nn.Module, x: Tensor, y: Tensor, steps: int = 60) -> nn.Module:
    """The model after a few steps of Adam on all the data."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def perceptron(width: int = 4, classes: int = 3, bias: bool = True) -> nn.Module:
    """One hidden layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, classes, bias=bias))


def small_target(bias: bool = True, **settings: Any) -> Target:
    """Forty points, three classes, one hidden layer, thirty held-out points, three checkpoints."""
    x, y = clouds(70)
    model = fitted(perceptron(bias=bias), x[:40], y[:40])
    states = [fitted(perceptron(bias=bias), x[:40], y[:40], steps).state_dict() for steps in (0, 10, 60)]
    run = Trajectory.from_checkpoints(states)
    return Target(model, (x[:40], y[:40]), heldout=(x[40:], y[40:]), trajectory=run, **settings)


def untrained_run() -> Trajectory:
    """Two checkpoints of a perceptron that has not begun to train."""
    return Trajectory.from_checkpoints([perceptron().state_dict()] * 2)


def value(name: str, probes: Probes) -> Tensor:
    """A registered factor, computed."""
    return torch.from_numpy(load_factors()[name].compute(probes))


# -- registration -----------------------------------------------------------------------------------------------


def make(function: Callable[..., Any], **changes: Any) -> Factor:
    """Register ``function`` with everything else in order."""
    arguments: dict[str, Any] = {"family": "test", "source": "a test", "high": "it is {value:.1f}", "low": "it is low"}
    return factor(**(arguments | changes))(function)


def test_a_factor_knows_its_parts() -> None:
    """Name, title, probes and settings come from the function."""

    def scaled(margin: Tensor, loss: Tensor, *, by: float = 2.0) -> Tensor:
        """Margin and loss.

        More text.
        """
        return by * margin + loss

    made = make(scaled, unit="logits")
    assert (made.name, made.title, made.probes, dict(made.settings)) == (
        "scaled",
        "Margin and loss.",
        ("margin", "loss"),
        {"by": 2.0},
    )
    assert made(1.0, 0.5, by=4.0) == 4.5


def test_an_unknown_probe_is_refused_with_the_known_ones() -> None:
    """A typing mistake is noticed when the factor is registered, not when it is computed."""

    def typo(margn: Tensor) -> Tensor:
        """A typing mistake."""
        return margn

    with pytest.raises(PluginError, match=r"'typo' takes an unknown probe 'margn': did you mean 'margin'\?.*logits"):
        make(typo)


def test_a_factor_needs_a_title() -> None:
    """Without a docstring there is nothing for a person to read."""

    def mute(margin: Tensor) -> Tensor:
        return margin

    with pytest.raises(PluginError, match="no docstring"):
        make(mute)


@pytest.mark.parametrize("clause", ["{other}", "{value:.1q}", "{", "{value.name}", "{0}"])
def test_a_sentence_that_cannot_be_filled_in_is_refused(clause: str) -> None:
    """Only {value} is filled in."""

    def fine(margin: Tensor) -> Tensor:
        """Fine."""
        return margin

    with pytest.raises(PluginError, match="cannot be formatted"):
        make(fine, low=clause)


def test_arguments_must_be_probes_or_settings() -> None:
    """A keyword without default and a catch-all are neither."""

    def demanding(margin: Tensor, *, k: int) -> Tensor:
        """Demanding."""
        return margin

    def greedy(*probes: Tensor) -> Tensor:
        """Greedy."""
        return probes[0]

    for function, name in ((demanding, "'k'"), (greedy, "'probes'")):
        with pytest.raises(PluginError, match=f"argument {name} must be a probe"):
            make(function)


def test_a_wrong_shape_is_an_error_of_the_plugin() -> None:
    """A factor must return one value per sample, or one number when it is per target."""

    def whole(loss: Tensor) -> Tensor:
        """Mean loss."""
        return loss.mean()

    def words(loss: Tensor) -> str:
        """Not a number."""
        return "much"

    probes = Probes(small_target())
    with pytest.raises(PluginError, match=r"expected shape \(40,\), one number per sample; got shape \(\)"):
        make(whole).compute(probes)
    with pytest.raises(PluginError, match="expected numbers; got str"):
        make(words).compute(probes)
    assert make(whole, per_target=True).compute(probes).shape == (40,)


def test_every_built_in_factor_reads_well() -> None:
    """Every family is there; titles end with a full stop; sentences are plain clauses without one."""
    factors = load_factors()
    assert {item.family for item in factors.values()} == set(FAMILIES)
    for item in factors.values():
        assert item.title.endswith((".", "]")), item.name
        assert item.source
        for clause in (item.high, item.low):
            text = clause.format(value=0.25)
            assert text[0].islower() or text[0].isdigit(), item.name
            assert not text.endswith("."), item.name
        assert item.per_target == (item.family == "context" and item.name != "class_share")


# -- the table --------------------------------------------------------------------------------------------------


def test_the_table_holds_values_and_mid_rank_quantiles() -> None:
    """Quantiles are (mean rank - 1/2)/n, ties share one, and context has none."""
    table = factor_table(small_target(), names=["margin", "correct", "classes"])
    assert list(table.values) == ["margin", quantile_column("margin"), "correct", "correct_quantile", "classes"]
    assert table.values.index.name == "index"
    assert list(table.values.index) == list(range(40))
    ranks = table.values["margin"].argsort().argsort()
    assert np.allclose(table.values["margin_quantile"], (ranks + 0.5) / 40)
    wrong = int((table.values["correct"] == 0).sum())
    assert 0 < wrong < 40
    assert np.allclose(table.values.loc[table.values["correct"] == 0, "correct_quantile"], wrong / 80)
    assert (table.values["classes"] == 3).all()
    assert not table.not_applicable


def test_the_whole_table_is_finite_where_it_applies() -> None:
    """With held-out data, checkpoints and a last layer every registered factor has a finite value for every sample."""
    table = factor_table(small_target())
    assert set(table.factors) == set(load_factors())
    assert not table.not_applicable
    assert np.isfinite(table.values.to_numpy()).all()
    quantiles = table.values.filter(like="_quantile")
    assert ((quantiles > 0) & (quantiles < 1)).all(axis=None)


def test_an_unknown_factor_is_refused_with_the_known_ones() -> None:
    """The nearest name is suggested."""
    with pytest.raises(UnknownNameError, match="unknown factor 'margins': did you mean 'margin'"):
        factor_table(small_target(), names=["margins"])


def test_without_held_out_data_only_what_needs_it_does_not_apply() -> None:
    """The columns are all NaN and the reason is stated."""
    x, y = clouds()
    table = factor_table(Target(perceptron(), (x, y), trajectory=untrained_run()))
    assert set(table.not_applicable) == {
        "accuracy_gap",
        "heldout_accuracy",
        "mia_likelihood_ratio",
        "mia_resistance",
        "rehearsed_ascent_heldout_damage",
        "rehearsed_erase_heldout_damage",
        "rehearsed_retrain_heldout_damage",
    }
    assert set(table.not_applicable.values()) == {"no held-out data was given"}
    for name in table.not_applicable:
        assert table.values[name].isna().all()
    assert table.values["mia_resistance_quantile"].isna().all()


def test_without_a_last_linear_layer_the_other_families_are_there() -> None:
    """A fully convolutional classifier has no features: neighbours in features and rehearsals do not apply."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, y = clouds(30, width=64)
    run = Trajectory.from_checkpoints([model.state_dict()] * 2)
    target = Target(model, (x.reshape(30, 1, 8, 8), y), heldout=(1 + x.reshape(30, 1, 8, 8), y), trajectory=run)
    table = factor_table(target)
    families = {name: table.factors[name].family for name in table.not_applicable}
    assert set(families.values()) == {
        "gradients",
        "boundary",
        "neighbours",
        "entanglement",
        "rehearsal",
        "surrogates",
    }
    assert {name for name, family in families.items() if family == "rehearsal"} == {
        name for name, item in table.factors.items() if item.family == "rehearsal"
    }
    assert set(table.not_applicable.values()) == {target.head_missing}
    there = table.values.drop(columns=[c for c in table.values if c.removesuffix("_quantile") in table.not_applicable])
    assert np.isfinite(there.to_numpy()).all()
    for name in ("loss", "gradient_norm", "boundary_distance", "input_same_label_share", "surrogate_middle_logistic"):
        assert name in there


def test_token_numbers_in_a_dict_work_without_the_input_families() -> None:
    """Inputs that are not real numbers have no input neighbours and no input gradients; the rest applies."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.hidden, self.head = nn.Embedding(20, 6), nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, tokens: Tensor, weight: Tensor) -> Tensor:
            mixed = (self.words(tokens) * weight[..., None]).sum(1)
            return self.head(torch.relu(self.hidden(mixed)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tokens()
    generator = torch.Generator().manual_seed(0)
    x = {"tokens": torch.randint(0, 20, (25, 5), generator=generator), "weight": torch.rand(25, 5, generator=generator)}
    table = factor_table(Target(model, (x, torch.arange(25) % 3)))
    missing = ("held-out", "training run")
    reasons = {k: reason for k, reason in table.not_applicable.items() if not any(part in reason for part in missing)}
    assert set(reasons) == {
        "boundary_distance",
        "input_neighbour_similarity",
        "input_same_label_share",
        "input_similarity_gap",
        "margin_input_gradient_norm",
        "stein_entropy_weighted_mean",
        "stein_expansion",
        "stein_mean",
        "stein_normalised_mean",
        "stein_score_norm",
        "surrogate_input_logistic",
        "surrogate_input_vote",
    }
    assert set(reasons.values()) == {"the inputs are not one tensor of real numbers per sample"}
    assert table.values["gradient_norm"].notna().all()
    assert table.values["surrogate_confidence"].notna().all()


def test_a_sample_that_cannot_be_computed_costs_no_other_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinity for one sample is no value, and is noted; ranks are among the others. Without any value it says so."""
    whole = Probes(small_target()).margin.numpy()

    def endless(margin: Tensor) -> Tensor:
        """Infinite where the margin is largest."""
        return torch.where(margin == margin.max(), torch.inf, margin)

    def nothing(margin: Tensor) -> Tensor:
        """Nowhere a number."""
        return margin * torch.nan

    found = {"endless": make(endless), "nothing": make(nothing)}
    monkeypatch.setattr("forgetcast.factors.table.load_factors", lambda: found)
    table = factor_table(small_target())
    worst = int(whole.argmax())
    others = np.delete(np.arange(40), worst)
    note = f"not finite for 1 of 40 samples, the first is sample {worst}; they have no value, all others have"
    assert table.notes == {"endless": note}
    assert table.not_applicable == {"nothing": "not finite for 40 of 40 samples, the first is sample 0"}
    assert table.values.loc[worst].isna().all()
    assert np.allclose(table.values["endless"][others], whole[others])
    ranks = pd.Series(whole[others]).rank().to_numpy()
    assert np.allclose(table.values["endless_quantile"][others], (ranks - 0.5) / 39)


def test_parameters_left_out_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note of a probe reaches the table under the factors that used it."""
    monkeypatch.setattr("forgetcast.factors.probes.plain_gradients.CHUNK", 3)  # four numbers are too many

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.offset)

    run = Trajectory.from_checkpoints([Positions().state_dict()] * 2)
    names = ["gradient_norm", "margin", "tracin_self_influence"]
    table = factor_table(Target(Positions(), clouds(), trajectory=run), names=names)
    note = "leaves out 21.1% of the parameters: offset"
    assert table.notes == {"gradient_norm": note, "tracin_self_influence": note}


@pytest.mark.parametrize(
    ("n", "labels"),
    [(1, [0]), (2, [0, 1]), (2, [1, 1]), (5, [0, 1, 2, 2, 2]), (6, [2, 2, 2, 2, 2, 2])],
)
def test_tiny_and_one_sided_data_give_numbers_or_reasons(n: int, labels: list[int]) -> None:
    """One sample, classes with one sample or none, and a single class: never a quiet NaN."""
    x, _ = clouds(n)
    y = torch.tensor(labels)
    table = factor_table(Target(perceptron(), (x, y), heldout=(x + 1, y), trajectory=untrained_run()))
    for name in table.factors:
        assert table.values[name].notna().all() == (name not in table.not_applicable)
    needs_two = "neighbours need at least two samples"
    assert (needs_two in table.not_applicable.values()) == (n == 1)
    if n > 1:
        assert not table.not_applicable


def test_extreme_logits_stay_finite() -> None:
    """A model that is sure to the last bit still gets finite factors, and its gradients still rank."""
    target = small_target()
    x, y = target.data.fetch(torch.arange(40))
    model = target.module
    with torch.no_grad():
        model[2].weight *= 300
        model[2].bias *= 300
    run = Trajectory.from_checkpoints([model.state_dict()] * 2)
    table = factor_table(Target(model, (x, y), heldout=(1.01 * x, y), trajectory=run))
    assert not table.not_applicable
    assert np.isfinite(table.values.to_numpy()).all()
    assert table.values["last_layer_gradient_norm"].nunique() == 40


def test_identical_samples_stay_finite() -> None:
    """Copies of one sample have no spread, and no factor divides by it."""
    x = torch.ones(8, 4)
    y = torch.arange(8) % 3
    table = factor_table(Target(perceptron(), (x, y), heldout=(x, y), trajectory=untrained_run()))
    assert not table.not_applicable
    assert np.isfinite(table.values.to_numpy()).all()


# -- confidence, gradients, boundary ------------------------------------------------------------------------------


def test_confidence_factors_follow_their_formulas() -> None:
    """Probability, loss, margin, entropy, EL2N and top confidence from softmax, written out."""
    probes = Probes(small_target())
    logits, y = probes.target.logits().double(), probes.labels
    p = torch.softmax(logits, 1)
    rows = torch.arange(40)
    others = logits.clone()
    others[rows, y] = -torch.inf
    expected = {
        "true_probability": p[rows, y],
        "loss": F.cross_entropy(logits, y, reduction="none"),
        "margin": logits[rows, y] - others.max(1).values,
        "entropy": -(p * p.log()).sum(1),
        "el2n": (p - F.one_hot(y, 3)).norm(dim=1),
        "top_confidence": p.max(1).values,
        "correct": (p.argmax(1) == y).double(),
    }
    for name, reference in expected.items():
        assert torch.allclose(value(name, probes), reference, atol=1e-6), name


def test_mia_resistance_counts_unseen_losses_of_its_class() -> None:
    """A share of smaller losses among the held-out samples of the class; ties half; all if the class has none."""
    held = HeldOut(torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0, 0]), None)
    unseen = F.cross_entropy(held.logits.double(), held.labels, reduction="none")
    loss = torch.tensor([0.0, float(unseen[1]), 9.0, float(unseen[1]) + 1e-3], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1])
    assert torch.allclose(mia_resistance(loss, labels, held), torch.tensor([0, 0.5, 1, 2 / 3], dtype=torch.float64))


def scaled_logit(logits: Tensor, y: int) -> float:
    """log(p/(1 - p)) of one label, from the softmax."""
    p = float(logits.softmax(0)[y])
    return float(np.log(p / (1 - p)))


def test_mia_likelihood_ratio_equals_gaussians_fitted_one_sample_at_a_time() -> None:
    """Training samples leave themselves out; every fit has ten more samples that look like all classes together."""
    probes = Probes(small_target())
    seen = np.array([scaled_logit(probes.logits[i], int(probes.labels[i])) for i in range(40)])
    held = probes.heldout
    unseen = np.array([scaled_logit(held.logits[i].double(), int(held.labels[i])) for i in range(30)])
    found = value("mia_likelihood_ratio", probes)
    for i in range(40):
        others = np.arange(40) != i
        densities = []
        for values, classes in ((seen[others], probes.labels.numpy()[others]), (unseen, held.labels.numpy())):
            own = values[classes == int(probes.labels[i])]
            total = len(own) + 10
            mean = (own.sum() + 10 * values.mean()) / total
            square = ((own**2).sum() + 10 * (values.var() + values.mean() ** 2)) / total
            densities.append(norm(mean, max(0.1, (square - mean**2) ** 0.5)).logpdf(seen[i]))
        assert float(found[i]) == pytest.approx(densities[0] - densities[1], rel=1e-6, abs=1e-8)


def test_mia_likelihood_ratio_tells_members_from_strangers() -> None:
    """Confidence like that of training samples speaks for membership, also in a class without held-out samples."""
    generator = torch.Generator().manual_seed(0)
    trained = 6 + torch.randn(300, generator=generator, dtype=torch.float64)
    trained[::50] = 0.0
    strange = 1 + torch.randn(200, generator=generator, dtype=torch.float64)
    held = HeldOut(torch.stack([strange, torch.zeros(200, dtype=torch.float64)], 1), torch.zeros(200).long(), None)
    labels = torch.zeros(300, dtype=torch.long)
    labels[1::50] = 1
    logits = torch.zeros(300, 2, dtype=torch.float64).scatter(1, labels[:, None], trained[:, None])
    ratio = mia_likelihood_ratio(logits, labels, held)
    assert (ratio[::50] < 0).all()
    assert (ratio[trained > 5] > 1).all()
    assert ratio[1::50].isfinite().all()


def test_mia_likelihood_ratio_does_not_apply_without_others() -> None:
    """One training sample cannot be left out of its own Gaussian, and no held-out samples make no second one."""
    held = HeldOut(torch.zeros(2, 2), torch.tensor([0, 1]), None)
    logits, labels = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([0, 1, 0])
    with pytest.raises(NotApplicableError, match="at least two samples"):
        mia_likelihood_ratio(logits[:1], labels[:1], held)
    with pytest.raises(NotApplicableError, match="held-out data is empty"):
        mia_likelihood_ratio(logits, labels, HeldOut(torch.zeros(0, 2), torch.zeros(0).long(), None))


def last_layer_gradients(target: Target) -> Tensor:
    """Gradients of each sample's loss in the last layer, one at a time, shape (n, parameters)."""
    model = target.module
    rows = []
    x, y = target.data.fetch(torch.arange(len(target)))
    weight = model[2].weight.detach().clone().double().requires_grad_()
    bias = None if model[2].bias is None else model[2].bias.detach().clone().double().requires_grad_()
    for i in range(len(y)):
        hidden = model[:2](x[i : i + 1]).double()
        loss = F.cross_entropy(F.linear(hidden, weight, bias), y[i : i + 1])
        found = torch.autograd.grad(loss, [weight] if bias is None else [weight, bias])
        rows.append(torch.cat([part.flatten() for part in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("bias", [True, False])
def test_last_layer_gradient_factors_equal_explicit_gradients(bias: bool) -> None:
    """Norm, cosine with the mean of the others and self-influence from a matrix of gradients."""
    target = small_target(bias)
    probes, g = Probes(target), last_layer_gradients(target)
    assert torch.allclose(value("last_layer_gradient_norm", probes), g.norm(dim=1), rtol=1e-4)
    rest = (g.sum(0) - g) / 39
    assert torch.allclose(value("last_layer_gradient_cosine", probes), F.cosine_similarity(g, rest), atol=1e-4)
    fisher = g.square().mean(0)
    fisher = fisher + 1e-3 * fisher.mean()
    assert torch.allclose(value("last_layer_self_influence", probes), (g.square() / fisher).sum(1), rtol=1e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_kernel_factors_equal_explicit_gradients(bias: bool) -> None:
    """Expansion and performance tolerance from the kernel of explicit gradients."""
    target = small_target(bias)
    probes, g = Probes(target), last_layer_gradients(target)
    kernel = g @ g.T
    expansion = kernel.abs().sum(1).square() / kernel.square().sum(1)
    assert torch.allclose(value("expansion", probes), expansion, rtol=1e-3)
    assert (expansion < 40).all()
    tolerance = (kernel.abs().mean(1) / kernel.diagonal()).log10()
    assert torch.allclose(value("performance_tolerance", probes), tolerance, atol=1e-3)


def test_boundary_distance_is_exact_for_a_linear_model() -> None:
    """Two classes, one linear layer: the distance of a point to a plane, in inputs and in features alike."""
    model = nn.Linear(4, 2)
    x, y = clouds(classes=2)
    normal = (model.weight[0] - model.weight[1]).detach()
    signed = (x @ normal + model.bias[0].detach() - model.bias[1].detach()) / normal.norm()
    expected = torch.where(y == 0, signed, -signed).double()
    probes = Probes(Target(model, (x, y)))
    assert torch.allclose(value("boundary_distance", probes), expected, atol=1e-4)
    assert torch.allclose(value("feature_boundary_distance", probes), expected, atol=1e-4)


def test_moving_features_by_the_boundary_distance_reaches_the_boundary() -> None:
    """Along the nearest pair's normal the margin becomes 0; no other pair is nearer."""
    target = small_target()
    probes = Probes(target)
    distance = value("feature_boundary_distance", probes)
    weight, bias = probes.head.weight, probes.head.bias
    for i in (probes.margin > 0).nonzero()[:, 0].tolist():
        own = int(probes.labels[i])
        reached = []
        for c in {0, 1, 2} - {own}:
            normal = weight[own] - weight[c]
            moved = probes.features[i].double() - distance[i] * normal / normal.norm()
            logits = weight @ moved + bias
            reached.append(float(logits[own] - logits[c]))
        assert min(reached) == pytest.approx(0, abs=1e-4)


# -- neighbours -----------------------------------------------------------------------------------------------------


def test_label_shares_and_similarities_are_those_of_sorted_pairs() -> None:
    """Counted sample by sample in features; the gap is nearest same minus nearest other."""
    probes = Probes(small_target())
    z, y = probes.features, probes.labels
    similarity = F.cosine_similarity(z[:, None], z[None], dim=-1).fill_diagonal_(-2)
    for i in range(0, 40, 7):
        order = similarity[i].argsort(descending=True)
        for k in (5, 20):
            share = float((y[order[:k]] == y[i]).double().mean())
            assert float(value(f"same_label_share_{k}", probes)[i]) == pytest.approx(share)
        assert float(value("same_label_share_100", probes)[i]) == pytest.approx(
            float((y[order[:39]] == y[i]).double().mean())
        )
        assert float(value("neighbour_similarity", probes)[i]) == pytest.approx(
            float(similarity[i][order[:20]].mean()), abs=1e-5
        )
        gap = similarity[i][(y == y[i])].max() - similarity[i][y != y[i]].max()
        assert float(value("similarity_gap", probes)[i]) == pytest.approx(float(gap), abs=1e-5)


def test_centroid_distances_leave_the_sample_out() -> None:
    """Means computed one sample at a time; the ratio is in [0, 1]."""
    probes = Probes(small_target())
    z, y = probes.features.double(), probes.labels
    spread = (z - z.mean(0)).square().sum(1).mean().sqrt()
    own, other = value("own_centroid_distance", probes), value("other_centroid_distance", probes)
    for i in range(40):
        mates = (y == y[i]) & (torch.arange(40) != i)
        assert float(own[i]) == pytest.approx(float((z[i] - z[mates].mean(0)).norm() / spread))
        nearest = min(float((z[i] - z[y == c].mean(0)).norm() / spread) for c in {0, 1, 2} - {int(y[i])})
        assert float(other[i]) == pytest.approx(nearest)
    assert torch.allclose(value("centroid_ratio", probes), own / (own + other))


def test_local_outlier_ratio_stands_out_for_an_outlier() -> None:
    """A point far from two tight bundles has the largest ratio, and points inside have about 1."""
    generator = torch.Generator().manual_seed(0)
    bundle = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])[torch.arange(60) % 2]
    x = bundle + 0.02 * torch.randn(60, 4, generator=generator)
    x[17] = torch.tensor([0.5, 0.5, 0.5, 0.0])
    ratio = value("local_outlier_ratio", Probes(Target(nn.Linear(4, 2), (x, torch.arange(60) % 2))))
    assert int(ratio.argmax()) == 17
    assert float(ratio[17]) > 3
    assert 0.8 < float(ratio.median()) < 1.2


# -- entanglement ---------------------------------------------------------------------------------------------------


def entanglement_score(r: Tensor, s: Tensor) -> float:
    """The Entanglement Score of two sets in feature space, as its authors define it."""
    means = [part.mean(0) for part in (r, s)]
    both = torch.cat([r, s]).mean(0)
    within = sum((part - mean).square().sum(1).mean() for part, mean in zip((r, s), means, strict=True))
    return float(within / (sum((mean - both).square().sum() for mean in means) / 2))


def test_entanglement_is_the_score_of_a_forget_set_of_one() -> None:
    """Against all others, the rest of its class, and the other class that it is most entangled with."""
    probes = Probes(small_target())
    z, y = probes.features.double(), probes.labels
    whole, own, other = (value(f"{part}entanglement", probes) for part in ("", "class_", "other_class_"))
    for i in range(40):
        rest, single = torch.arange(40) != i, z[i : i + 1]
        assert float(whole[i]) == pytest.approx(entanglement_score(z[rest], single))
        assert float(own[i]) == pytest.approx(entanglement_score(z[rest & (y == y[i])], single))
        scores = [entanglement_score(z[y == c], single) for c in range(3) if c != y[i]]
        assert float(other[i]) == pytest.approx(max(scores))


def test_entanglement_of_lone_samples_and_of_a_single_class_is_with_all_others() -> None:
    """An only sample has no class to be entangled with, and a single class has no other."""
    z = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    lone = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2, 4])
    assert float(class_entanglement(z, lone)[8]) == float(entanglement(z)[8])
    assert float(class_entanglement(z, lone)[0]) != float(entanglement(z)[0])
    assert (other_class_entanglement(z, lone) > 0).all()
    assert torch.equal(other_class_entanglement(z, torch.full((9,), 3)), entanglement(z))


def test_entanglement_in_the_very_middle_is_large_and_finite() -> None:
    """A sample at the mean of the others has a finite score, and copies of one point have none."""
    z = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
    score = entanglement(z)
    assert score.isfinite().all()
    assert int(score.argmax()) == 4
    assert (entanglement(torch.ones(5, 2)) == 0).all()


# -- rehearsal ------------------------------------------------------------------------------------------------------


def moved_logits(target: Target, i: int, direction: Tensor, strength: float, x: Tensor) -> Tensor:
    """Logits of ``x`` after the last layer's weights really moved along direction ⊗ z̃_i by ``strength``."""
    model = target.module
    own = model[:2](target.data.fetch([i])[0]).double()[0]
    weight, bias = model[2].weight.double(), model[2].bias
    z = own if bias is None else torch.cat([own, torch.ones(1)])
    change = strength * direction[:, None] * z[None] / (direction.norm() * z.norm())
    hidden = model[:2](x).double()
    if bias is None:
        return hidden @ (weight + change).T
    return hidden @ (weight + change[:, :-1]).T + bias.double() + change[:, -1]


def variation(before: Tensor, after: Tensor) -> Tensor:
    """Total variation between softmax rows."""
    return (before.softmax(1) - after.softmax(1)).abs().sum(1) / 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["erase", "ascent", "retrain"])
def test_rehearsals_are_what_happens_when_the_weights_really_move(kind: str, bias: bool) -> None:
    """Goal reached, shift and damage on training, held-out and neighbouring samples, one sample at a time."""
    target = small_target(bias)
    probes = Probes(target)
    found = getattr(probes, f"{kind}_rehearsal")
    x, y = target.data.fetch(torch.arange(40))
    assert target.heldout is not None
    unseen, _ = target.heldout.fetch(torch.arange(30))
    before, outside = probes.logits, target.logits(target.heldout).double()
    size = sum(float(p.double().square().sum()) for p in target.module[2].parameters()) ** 0.5
    moves = 0
    for i in range(40):
        p = before[i].softmax(0)
        own = int(y[i])
        sink = int(before[i].masked_fill(torch.arange(3) == own, -torch.inf).argmax())
        if kind == "ascent":
            direction = p.clone()
            direction[own] -= 1
        else:
            direction = F.one_hot(torch.tensor(sink), 3).double() - F.one_hot(torch.tensor(own), 3)
        strength = float(found.strength[i])
        after = moved_logits(target, i, direction, strength, x)
        goal = float(probes.surrogate_confidence[i]) + 0.05
        trivial = float(p[own]) <= goal if kind == "retrain" else float(probes.margin[i]) <= 0
        if trivial:
            assert strength == 0
        elif kind == "retrain":
            assert float(after[i].softmax(0)[own]) == pytest.approx(goal, abs=1e-4)
        else:
            assert float(after[i][own] - after[i][torch.arange(3) != own].max()) == pytest.approx(0, abs=1e-4)
        moves += not trivial
        assert float(found.shift[i]) == pytest.approx(strength / size, rel=1e-4)
        others = torch.arange(40) != i
        assert float(found.reference[i]) == pytest.approx(float(variation(before, after)[others].mean()), abs=1e-5)
        near = probes.feature_neighbours.index[i, :20]
        assert float(found.neighbours[i]) == pytest.approx(float(variation(before, after)[near].mean()), abs=1e-5)
        held = moved_logits(target, i, direction, strength, unseen)
        assert float(found.heldout[i]) == pytest.approx(float(variation(outside, held).mean()), abs=1e-5)
        if kind == "erase":
            change = (after.argmax(1) == y).double() - (before.argmax(1) == y).double()
            assert float(probes.erase_accuracy_change[i]) == pytest.approx(float(change[others].mean()), abs=1e-9)
    assert moves > 5


def test_on_two_classes_both_directions_of_erasing_are_one() -> None:
    """With two classes the runner-up is the only other class, so ascent and pairwise moves coincide."""
    x, y = clouds(classes=2)
    probes = Probes(Target(fitted(perceptron(classes=2), x, y), (x, y)))
    one, two = probes.erase_rehearsal, probes.ascent_rehearsal
    for name in ("strength", "reference", "neighbours"):
        assert torch.allclose(getattr(one, name), getattr(two, name), atol=1e-7), name


def test_damage_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time or all at once."""
    target = small_target()
    whole = Probes(target).ascent_rehearsal
    monkeypatch.setattr("forgetcast.factors.probes.damage.CHUNK", 300)
    parts = Probes(target).ascent_rehearsal
    assert torch.allclose(whole.reference, parts.reference)
    assert torch.allclose(whole.neighbours, parts.neighbours)


def test_a_large_training_set_is_represented_by_a_drawn_reference() -> None:
    """Up to 3162 samples all are taken; of more, so many are drawn by seed that pairs stay at ten millions."""
    x, y = clouds(4000)
    target = Target(perceptron(), (x, y))
    drawn = Probes(target, seed=3).reference
    assert len(drawn) == len(drawn.unique()) == 2500
    assert torch.equal(drawn, Probes(target, seed=3).reference)
    assert not torch.equal(drawn, Probes(target, seed=4).reference)
    assert torch.equal(Probes(Target(perceptron(), (x[:3100], y[:3100]))).reference, torch.arange(3100))


def test_leave_one_out_margin_is_the_newton_step_for_two_classes() -> None:
    """With the explicit damped Hessian of all the data but one sample, two classes."""
    x, y = clouds(classes=2)
    probes = Probes(Target(fitted(perceptron(classes=2), x, y, steps=15), (x, y)))
    z, p = probes.augmented_features, probes.probabilities
    w = p[:, 0] * p[:, 1]  # of the binary logistic model in the difference of the two logits
    hessian = (z * w[:, None]).T @ z
    ridge = 1e-2 * hessian.diagonal().mean()
    sign = torch.where(y == 0, 1.0, -1.0).double()
    expected = []
    for i in range(40):
        rest = hessian + ridge * torch.eye(len(hessian), dtype=torch.float64) - w[i] * torch.outer(z[i], z[i])
        step = torch.linalg.solve(rest, z[i]) @ z[i] * (1 - probes.true_probability[i])
        expected.append(float(probes.margin[i] - step))
    got = value("leave_one_out_margin", probes)
    leverage = w * (z * torch.linalg.solve(hessian + ridge * torch.eye(len(hessian)).double(), z.T).T).sum(1)
    assert (leverage < 0.85).all()
    assert torch.allclose(got, torch.tensor(expected).double(), rtol=0.03, atol=0.03)  # the damping of A
    assert torch.allclose(value("leave_one_out_drop", probes), probes.margin - got)
    assert (sign * (probes.logits[:, 0] - probes.logits[:, 1]) - probes.margin).abs().max() < 1e-9


# -- surrogates -----------------------------------------------------------------------------------------------------


def test_neighbour_votes_are_counted_one_by_one() -> None:
    """Similarity-weighted share of the 20 nearest with the class share of the others as prior."""
    probes = Probes(small_target())
    found, y = probes.feature_neighbours, probes.labels
    got = neighbour_vote(found, y)
    for i in range(40):
        weights = [max(0.0, float(s)) for s in found.similarity[i, :20]]
        prior = float(((y == y[i]).sum() - 1) / 39)
        votes = sum(w for w, j in zip(weights, found.index[i, :20], strict=True) if y[j] == y[i])
        assert float(got[i]) == pytest.approx((votes + prior) / (sum(weights) + 1), abs=1e-6)


def test_surrogates_doubt_wrong_labels_that_the_model_has_memorised() -> None:
    """A model that fits noise is sure of it; learners that never saw the sample are not."""
    x, y = clouds(120, width=6)
    model = nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model:
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    probes = Probes(Target(fitted(model, x, y, steps=300), (x, y)))
    wrong = torch.arange(120) % 9 == 0
    assert (probes.true_probability[wrong] > 0.9).all()
    drop = value("surrogate_drop", probes)
    assert float((probes.true_probability - probes.input_logistic)[wrong].median()) > 0.5
    assert float(drop[wrong].median()) > 0.35
    assert float(drop[~wrong].median()) < 0.2
    assert ((probes.surrogate_confidence >= 0) & (probes.surrogate_confidence <= 1)).all()
    assert torch.equal(value("surrogate_confidence", probes), probes.surrogate_confidence)


# -- context --------------------------------------------------------------------------------------------------------


def test_context_describes_the_target() -> None:
    """Counts, accuracies and balance as one would write them down."""
    target = small_target()
    table = factor_table(target, names=[n for n, f in load_factors().items() if f.family == "context"]).values
    y = target.labels
    assert target.heldout is not None
    seen = float((target.logits().argmax(1) == y).double().mean())
    unseen = float((target.logits(target.heldout).argmax(1) == target.heldout.labels).double().mean())
    first = table.iloc[0]
    assert first["training_samples"] == 40
    assert first["classes"] == 3
    assert first["log_parameters"] == pytest.approx(np.log10(4 * 8 + 8 + 8 * 3 + 3))
    assert first["log_parameters_per_sample"] == pytest.approx(np.log10(67 / 40))
    assert first["train_accuracy"] == pytest.approx(seen)
    assert first["heldout_accuracy"] == pytest.approx(unseen)
    assert first["accuracy_gap"] == pytest.approx(seen - unseen)
    shares = np.bincount(y) / 40
    assert first["class_balance"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(3))
    assert np.allclose(table["class_share"], shares[y])
    pd.testing.assert_frame_equal(
        table.drop(columns=["class_share", "class_share_quantile"]).drop_duplicates().iloc[:1],
        table.drop(columns=["class_share", "class_share_quantile"]).iloc[:1],
    )


def test_not_applicable_is_raised_not_returned() -> None:
    """A single factor asked for directly raises the reason that the table would state."""
    x, y = clouds()
    with pytest.raises(NotApplicableError, match="no held-out data was given"):
        load_factors()["heldout_accuracy"].compute(Probes(Target(perceptron(), (x, y))))


def test_damage_is_right_for_sure_models_and_long_moves() -> None:
    """Moves of a hundred logits between classes at odds of e^-100 agree with a plain softmax of the moved logits."""
    generator = torch.Generator().manual_seed(0)
    logits = 60 * torch.randn(30, 5, generator=generator, dtype=torch.float64)
    z = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    y = logits.argmax(1)
    move, pool = erase_move(logits, y), Pool(z, logits, y, torch.arange(30))
    found = damage(move, z, pool, torch.arange(30))
    for i in range(30):
        reach = z @ z[i] / z[i].square().sum() * move.step[i]
        moved = logits.clone()
        moved[:, move.source[i]] -= reach
        moved[:, move.sink[i]] += reach
        others = torch.arange(30) != i
        assert float(found[i]) == pytest.approx(float(variation(logits, moved)[others].mean()), abs=1e-7)
