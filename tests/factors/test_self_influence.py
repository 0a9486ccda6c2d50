"""Self-influence over all parameters against gradients of single samples written out one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forgetcast.factors import factor_table
from forgetcast.factors.probes.passes import DAMPING
from forgetcast.factors.probes.probes import Probes
from forgetcast.target.logits import cross_entropy, loss_slope
from forgetcast.target.target import Target
from gradient_cases import CASES, Sneaky, Tokens, data, relative_error, seeded


def written_out(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of every sample's loss in all parameters, one backward pass each, in double precision, (n, p)."""
    model = model.eval().double()
    x = x.double() if x.is_floating_point() else x
    parameters, rows = list(model.parameters()), []
    for row in range(len(y)):
        loss = F.cross_entropy(model(x[row : row + 1]), y[row : row + 1])
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    model.float()
    return torch.stack(rows)


def self_influence(g: Tensor) -> Tensor:
    """gᵀF⁻¹g with F the mean of g² over the rows plus a thousandth of its mean, shape (n,)."""
    fisher = g.square().mean(0)
    return (g.square() / (fisher + DAMPING * fisher.mean())).sum(1)


@pytest.mark.parametrize("case", CASES)
def test_self_influence_equals_gradients_written_out(case: str) -> None:
    """Every kind of layer, whatever the batch size."""
    make, shape = CASES[case]
    model, (x, y) = seeded(make), data(shape)
    expected = self_influence(written_out(model, x, y))
    for batch_size in (5, 64):
        probes = Probes(Target(model, (x, y), batch_size=batch_size))
        assert relative_error(probes.self_influence, expected) < 1e-3
    assert not probes.notes


class Attention(nn.Module):
    """Multi-head attention with learned positions and a class token over sequences (b, 4, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 5, 6))
        self.mix = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.mix(x, x, x)[0][:, 0])


class Scaled(nn.Module):
    """Parameters with a first dimension of 1 that do more than meet the batch by broadcasting."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.mixed = nn.Parameter(torch.randn(1, 6)), nn.Parameter(torch.randn(1, 24))
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(torch.cat([F.linear(x, self.mixed), x[:, :6] * self.scale.sum()], 1))


@pytest.mark.parametrize("make", [Attention, Scaled])
def test_parameters_outside_the_layers_count(make: Callable[[], nn.Module]) -> None:
    """Broadcast over the batch, or differentiated plainly."""
    model, (x, y) = seeded(make), data((4, 6))
    g = written_out(model, x, y)
    probes = Probes(Target(model, (x, y), batch_size=5))
    assert relative_error(probes.gradient_norm, g.norm(dim=1)) < 1e-4
    assert relative_error(probes.self_influence, self_influence(g)) < 1e-3


def test_parameters_that_only_broadcast_need_no_pass_of_their_own() -> None:
    """Class tokens and positions are told from parameters that must be differentiated plainly."""
    x, y = data((4, 6))
    found = Probes(Target(seeded(Attention), (x, y)))._parameters
    assert found.broadcast == ["token", "positions"]
    assert found.plain == ["mix.in_proj_weight", "mix.in_proj_bias", "mix.out_proj.weight", "mix.out_proj.bias"]
    found = Probes(Target(seeded(Scaled), (x, y)))._parameters
    assert found.broadcast == []
    assert found.plain == ["scale", "mixed"]


def test_rows_of_an_embedding_count_once_per_sample() -> None:
    """Gradients of the same token add up before they are squared; the padding token has none."""
    model = seeded(Tokens)
    tokens = torch.randint(0, 11, (12, 9), generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % 3
    expected = self_influence(written_out(model, tokens, y))
    assert relative_error(Probes(Target(model, (tokens, y))).self_influence, expected) < 1e-3


@pytest.mark.parametrize("case", ["depthwise and grouped convolutions", "layer norm on sequences"])
def test_chunks_change_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splitting a batch to save memory gives the same values."""
    make, shape = CASES[case]
    model, (x, y) = seeded(make), data(shape)
    whole = Probes(Target(model, (x, y))).self_influence
    monkeypatch.setattr("forgetcast.factors.probes.gradient_norms.CHUNK", 1000)
    assert torch.allclose(Probes(Target(model, (x, y))).self_influence, whole, rtol=1e-4)


def test_the_mean_is_at_most_the_number_of_parameters() -> None:
    """Every parameter's g²/F has mean 1 over the samples, less what the damping takes."""
    make, shape = CASES["our cnn"]
    probes = Probes(Target(seeded(make), data(shape)))
    assert 0 < float(probes.self_influence.mean()) < probes.parameter_count


def passes(target: Target, names: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What every pass over the data was called while the factors ``names`` were computed."""
    seen: list[str] = []
    batches = Probes._batches

    def counted(self: Probes, data: Any, size: int, what: str, *rest: Any) -> Any:
        seen.append(what)
        return batches(self, data, size, what, *rest)

    monkeypatch.setattr(Probes, "_batches", counted)
    factor_table(target, names=names)
    return seen


def test_only_what_is_asked_for_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass for all gradients of a table and its logits, and a second one only for self-influence."""
    target = Target(seeded(CASES["perceptron"][0]), data((5,)))
    assert passes(target, ["gradient_norm"], monkeypatch) == ["gradients"]
    together = ["gradient_norm", "margin_input_gradient_norm", "stein_score_norm"]
    assert passes(target, together, monkeypatch) == ["gradients"]
    assert passes(target, ["self_influence", *together], monkeypatch) == ["gradients", "gradients"]


def test_what_is_left_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the gradient norm: parameters too large for a gradient per sample."""
    monkeypatch.setattr("forgetcast.factors.probes.plain_gradients.CHUNK", 100)
    model, (x, y) = seeded(Attention), data((4, 6))
    table = factor_table(Target(model, (x, y)), names=["self_influence"])
    assert table.notes["self_influence"].endswith("of the parameters: mix.in_proj_weight")
    assert table.values["self_influence"].notna().all()


def test_a_weight_that_is_also_used_outside_its_layer_is_differentiated_plainly() -> None:
    """Its layer does not explain its gradients, so they are written out."""
    model, (x, y) = seeded(Sneaky), data((5,))
    expected = self_influence(written_out(model, x, y))
    assert relative_error(Probes(Target(model, (x, y))).self_influence, expected) < 1e-3


def test_sure_predictions_keep_their_digits() -> None:
    """Where 1 - p is less than single precision tells from 0, gradients made of p - 1 would be noise."""
    make, shape = CASES["perceptron"]
    model, (x, _) = seeded(make), data(shape)
    with torch.no_grad():
        model[-1].weight *= 50
        y = model(x).argmax(1)
    norms = written_out(model, x, y).norm(dim=1)
    assert float(norms.min()) < 1e-7
    assert relative_error(Probes(Target(model, (x, y))).gradient_norm, norms) < 1e-3


def test_the_slope_of_the_loss_does_not_cancel() -> None:
    """It is the loss's gradient in the logits, in single precision too where the model is all but sure."""
    logits = torch.tensor([[0.3, -1.0, 2.0], [30.0, 1.0, -2.0]])
    labels = torch.tensor([1, 0])
    leaf = logits.double().requires_grad_()
    (expected,) = torch.autograd.grad(cross_entropy(leaf, labels).sum(), leaf)
    assert torch.allclose(loss_slope(logits, labels).double(), expected, rtol=1e-5, atol=0)
