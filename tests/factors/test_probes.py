"""Probes against slow, plain references; what they leave behind; what they say when they do not apply."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forgetcast.errors import ModelError, NotApplicableError
from forgetcast.factors.probes.probes import PROBES, Probes
from forgetcast.target.target import Target
from forgetcast.target.trajectory import Trajectory
from gradient_cases import CASES, Sneaky, Tokens, data, per_sample_squares, relative_error, seeded


@pytest.mark.parametrize("case", CASES)
def test_parameter_gradient_norms_equal_plain_per_sample_gradients(case: str) -> None:
    """Layer by layer or one sample at a time: the same norm up to 1e-4, whatever the batch size."""
    make, shape = CASES[case]
    model, (x, y) = seeded(make), data(shape)
    expected = sum(per_sample_squares(model, x, y).values()).sqrt()
    for batch_size in (5, 64):
        probes = Probes(Target(model, (x, y), batch_size=batch_size))
        assert relative_error(probes.gradient_norm, expected) < 1e-4
    assert not probes.notes


def test_large_layers_take_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splitting a batch to save memory changes nothing."""
    make, shape = CASES["depthwise and grouped convolutions"]
    model, (x, y) = seeded(make), data(shape)
    whole = Probes(Target(model, (x, y))).gradient_norm
    monkeypatch.setattr("forgetcast.factors.probes.gradient_norms.CHUNK", 2000)
    assert torch.allclose(Probes(Target(model, (x, y))).gradient_norm, whole, rtol=1e-5)


def test_embeddings_count_repeated_tokens_once_and_padding_never() -> None:
    """Gradients of the same token add up before the norm; the padding token has none."""
    model = seeded(Tokens)
    tokens = torch.randint(0, 11, (12, 9), generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % 3
    expected = []
    for row in range(12):
        loss = F.cross_entropy(model(tokens[row : row + 1]), y[row : row + 1])
        found = torch.autograd.grad(loss, list(model.parameters()))
        expected.append(torch.stack([part.square().sum() for part in found]).sum().sqrt())
    probes = Probes(Target(model, (tokens, y)))
    assert relative_error(probes.gradient_norm, torch.stack(expected)) < 1e-4
    with pytest.raises(NotApplicableError, match="not one tensor of real numbers"):
        _ = probes.margin_input_gradient_norm


class Attention(nn.Module):
    """Multi-head attention, whose packed projection belongs to no layer that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x, x, x)[0].mean(1))


class Gated(nn.Module):
    """A recurrent layer that adds in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(6, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


class Doubled(torch.autograd.Function):
    """Twice the input, with a backward pass in the style that ``torch.func`` refuses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Tensor:
        return 2 * delta


class Custom(nn.Module):
    """Bare parameters, one of them without any use, behind a backward pass of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.idle = nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Doubled.apply(x * self.scale).mean(1))


@pytest.mark.parametrize("make", [Attention, Gated, Custom])
def test_parameters_without_a_rule_are_differentiated_plainly(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many samples at a time, few, or one after the other: the norm over all parameters."""
    model, (x, y) = seeded(make), data((4, 6))
    expected = []
    for row in range(13):
        loss = F.cross_entropy(model(x[row : row + 1]), y[row : row + 1])
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        expected.append(torch.stack([part.square().sum() for part in found if part is not None]).sum().sqrt())
    for chunk in (1 << 24, 500):
        monkeypatch.setattr("forgetcast.factors.probes.plain_gradients.CHUNK", chunk)
        probes = Probes(Target(model, (x, y)))
        assert relative_error(probes.gradient_norm, torch.stack(expected)) < 1e-4
        assert not probes.notes


def test_parameters_too_large_for_a_gradient_per_sample_are_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The packed projection (108 numbers) is named in a note; everything smaller counts."""
    monkeypatch.setattr("forgetcast.factors.probes.plain_gradients.CHUNK", 100)
    model, (x, y) = seeded(Attention), data((4, 6))
    squares = per_sample_squares(model, x, y)
    del squares["mix.in_proj_weight"]
    probes = Probes(Target(model, (x, y)))
    assert relative_error(probes.gradient_norm, sum(squares.values()).sqrt()) < 1e-4
    assert probes.notes == {"gradient_norm": "leaves out 57.1% of the parameters: mix.in_proj_weight"}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_stock_transformer_layer_takes_its_slow_path() -> None:
    """The fused inference kernel would hide the layers inside; they are measured all the same."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x).mean(1))

    model, (x, y) = seeded(Encoder), data((4, 8))
    probes = Probes(Target(model, (x, y)))
    assert relative_error(probes.gradient_norm, sum(per_sample_squares(model, x, y).values()).sqrt()) < 1e-4
    assert not probes.notes
    assert probes.middle.shape[0] == 13


def test_a_weight_shared_by_two_layers_counts_with_its_cross_terms() -> None:
    """Two layers that share a weight have one gradient, not one each."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.two(torch.relu(self.one(x)))))

    model, (x, y) = seeded(Tied), data((5,))
    expected = sum(per_sample_squares(model, x, y).values()).sqrt()
    assert relative_error(Probes(Target(model, (x, y))).gradient_norm, expected) < 1e-4


def test_a_layer_that_sees_no_row_per_sample_is_differentiated_plainly() -> None:
    """Windows folded into the batch dimension are not mistaken for samples."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(3, 4), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.inner(x.reshape(-1, 3))).reshape(len(x), -1))

    model, (x, y) = seeded(Windows), data((6,))
    expected = sum(per_sample_squares(model, x, y).values()).sqrt()
    assert relative_error(Probes(Target(model, (x, y))).gradient_norm, expected) < 1e-4


def test_a_weight_that_is_also_used_outside_its_layer_counts_with_both_uses() -> None:
    """Noticed by plain differentiation of a few samples; what the layer does not explain is differentiated plainly."""
    model, (x, y) = seeded(Sneaky), data((5,))
    probes = Probes(Target(model, (x, y)))
    expected = sum(per_sample_squares(model, x, y).values()).sqrt()
    assert relative_error(probes.gradient_norm, expected) < 1e-4
    assert probes._parameters.plain == ["one.weight", "one.bias"]


def test_a_model_that_cannot_be_differentiated_says_so() -> None:
    """No gradient flows through a model that runs without gradients; everything else is still there."""

    class Numb(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 3)

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)

    probes = Probes(Target(seeded(Numb), data((5,))))
    for name in ("gradient_norm", "margin_input_gradient_norm"):
        with pytest.raises(NotApplicableError, match="cannot be differentiated"):
            getattr(probes, name)
    assert probes.loss.shape == (13,)


def test_margin_input_gradients_equal_plain_differentiation() -> None:
    """‖∇x (logit_y - max other)‖ for every sample, one at a time."""
    make, shape = CASES["convolutions with batch norm"]
    model, (x, y) = seeded(make), data(shape)
    model.eval()
    expected = []
    for row in range(len(y)):
        leaf = x[row : row + 1].clone().requires_grad_()
        logits = model(leaf * 1)[0]
        others = torch.cat([logits[: y[row]], logits[y[row] + 1 :]])
        expected.append(torch.autograd.grad(logits[y[row]] - others.max(), leaf)[0].norm())
    probes = Probes(Target(model, (x, y), batch_size=4))
    assert relative_error(probes.margin_input_gradient_norm, torch.stack(expected)) < 1e-4


def test_features_are_what_the_last_layer_sees() -> None:
    """features @ weight.T + bias gives the logits."""
    make, shape = CASES["convolutions with batch norm"]
    probes = Probes(Target(seeded(make), data(shape), batch_size=4))
    logits = probes.features.double() @ probes.head.weight.T + probes.head.bias
    assert torch.allclose(logits, probes.logits, atol=1e-4)


def test_the_middle_layer_is_nearest_to_half_of_the_depth() -> None:
    """Of three layers the first (the earlier of two equally near) and of five the second is taken."""
    x, y = data((5,))
    three = seeded(lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)))
    assert Probes(Target(three, (x, y))).middle.shape == (13, 7)
    widths = (5, 7, 6, 9, 8, 3)
    five = seeded(lambda: nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(widths)]))
    expected = x
    for layer in five[:2]:
        expected = layer(expected)
    middle = Probes(Target(five, (x, y))).middle
    assert torch.allclose(middle, (expected - expected.mean(0)) / expected.std(0, unbiased=False), atol=1e-4)


def test_a_linear_model_has_no_middle_layer() -> None:
    """Logistic regression has inputs and a last layer, nothing between."""
    probes = Probes(Target(seeded(lambda: nn.Linear(5, 3)), data((5,))))
    with pytest.raises(NotApplicableError, match="no hidden layer"):
        _ = probes.middle
    assert torch.allclose(probes.features, data((5,))[0])
    assert probes.surrogate_confidence.shape == (13,)


def test_wide_inputs_are_sketched_and_keep_their_inner_products() -> None:
    """512 sketched columns keep cosines to within a few hundredths, with the same seed the same ones."""
    from forgetcast.factors.probes.recorder import narrow

    x = torch.randn(40, 5000, generator=torch.Generator().manual_seed(0))
    x[20:] = 0.7 * x[:20] + 0.7 * x[20:]
    sketched = narrow(x, seed=1)
    assert sketched.shape == (40, 512)
    assert torch.equal(sketched, narrow(x, seed=1))
    assert not torch.equal(sketched, narrow(x, seed=2))
    error = F.normalize(sketched) @ F.normalize(sketched).T - F.normalize(x) @ F.normalize(x).T
    assert error.abs().max() < 0.2
    assert error.square().mean().sqrt() < 1.5 / 512**0.5


def test_the_sketch_does_not_depend_on_how_images_lie_in_memory() -> None:
    """Channels last or not, a batch of images has one sketch: that of its gradients, which may lie the other way."""
    from forgetcast.factors.probes.recorder import narrow

    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    signs = 2 * torch.randint(0, 2, (768,), generator=torch.Generator().manual_seed(5)) - 1
    signed = x.permute(0, 2, 3, 1).flatten(1) * signs
    expected = signed[:, :512].clone()
    expected[:, :256] += signed[:, 512:]
    assert torch.allclose(narrow(x, seed=5), expected)
    assert torch.allclose(narrow(x.contiguous(memory_format=torch.channels_last), seed=5), expected)


def test_constant_columns_do_not_break_standardising() -> None:
    """Dead pixels become zeros, not noise or NaN."""
    x, y = data((5,))
    x[:, 2] = 0.1
    inputs = Probes(Target(seeded(lambda: nn.Linear(5, 3)), (x, y))).inputs
    assert torch.equal(inputs[:, 2], torch.zeros(13))
    assert torch.allclose(inputs[:, 0].std(unbiased=False), torch.tensor(1.0))


@pytest.mark.parametrize("space", ["feature", "input", "middle"])
def test_neighbours_are_the_exact_nearest_others(space: str) -> None:
    """Chunked search equals sorting all pairs, and nobody is their own neighbour."""
    model, (x, y) = seeded(CASES["perceptron"][0]), data((5,), n=30)
    probes = Probes(Target(model, (x, y)))
    z = {"feature": probes.features, "input": probes.inputs, "middle": probes.middle}[space]
    found = getattr(probes, f"{space}_neighbours")
    similarity = F.cosine_similarity(z[:, None], z[None], dim=-1).fill_diagonal_(-2)
    k = 29 if space == "feature" else 20
    assert torch.allclose(found.similarity, similarity.sort(1, descending=True).values[:, :k], atol=1e-5)
    assert torch.allclose(similarity.gather(1, found.index), found.similarity, atol=1e-5)
    assert all(len(set(row) - {own}) == k for own, row in enumerate(found.index.tolist()))
    assert torch.equal(found.same, y[found.index] == y[:, None])
    alike = y[:, None] == y[None]
    assert torch.allclose(found.nearest_same, similarity.masked_fill(~alike, -1).amax(1), atol=1e-5)
    assert torch.allclose(found.nearest_other, similarity.masked_fill(alike, -1).amax(1), atol=1e-5)


def test_neighbours_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows at a time or all at once."""
    target = Target(seeded(CASES["perceptron"][0]), data((5,), n=30))
    whole = Probes(target).feature_neighbours.index
    monkeypatch.setattr("forgetcast.factors.probes.nearest.CHUNK", 100)
    assert torch.equal(Probes(target).feature_neighbours.index, whole)


def test_probing_leaves_the_target_as_it_was() -> None:
    """No hooks, no gradients, same weights, same mode, and the caller's random numbers untouched."""
    make, shape = CASES["convolutions with batch norm"]
    run = Trajectory.from_checkpoints([seeded(make, seed).state_dict() for seed in (1, 2)])
    target = Target(seeded(make), data(shape), heldout=(data(shape)[0] + 1, data(shape)[1]), trajectory=run)
    before = {name: value.clone() for name, value in target.module.state_dict().items()}
    state = torch.random.get_rng_state()
    probes = Probes(target)
    for name in PROBES:
        getattr(probes, name)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in target.module.state_dict().items())
    for module in target.module.modules():
        assert not module.training
        assert not module._forward_hooks
        assert not module._backward_hooks
    assert all(not p.requires_grad and p.grad is None for p in target.module.parameters())


def test_hooks_are_removed_when_the_model_fails_midway() -> None:
    """An error in the model leaves no hook behind and does not come again for every factor."""

    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise RuntimeError("no gradients today")
            return self.head(self.hidden(x))

    target = Target(seeded(Moody), data((5,)))
    with pytest.raises(NotApplicableError, match="no gradients today"):
        _ = Probes(target).gradient_norm
    assert not any(module._forward_hooks for module in target.module.modules())


def test_a_model_without_a_last_linear_layer_has_no_features() -> None:
    """The reason of the target is passed on; logits and gradients are still there."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    target = Target(model, data((1, 6, 6)))
    probes = Probes(target)
    with pytest.raises(NotApplicableError) as raised:
        _ = probes.features
    assert str(raised.value) == target.head_missing
    assert probes.gradient_norm.shape == probes.logits[:, 0].shape == (13,)


def test_a_head_called_twice_by_keyword_has_the_features_of_its_last_call() -> None:
    """An auxiliary output of the same layer does not shift the features, and hooks are told of keywords."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.hidden(x))
            self.head(input=-h)
            return self.head(input=h)

    probes = Probes(Target(seeded(Auxiliary), data((5,)), batch_size=4))
    logits = probes.features.double() @ probes.head.weight.T + probes.head.bias
    assert torch.allclose(logits, probes.logits, atol=1e-6)


def test_infinite_logits_are_an_error_and_no_quiet_nan() -> None:
    """A model that overflows for one sample is refused; the sample is named."""

    class Overflow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x).masked_fill(x[:, :1] > 50, torch.inf)

    x, y = data((5,))
    x[7, 0] = 99
    with pytest.raises(ModelError, match="infinite logits for sample 7 of the dataset"):
        _ = Probes(Target(seeded(Overflow), (x, y), batch_size=4)).loss


def test_every_probe_is_described() -> None:
    """The list of probes carries one line each, for error messages and documentation."""
    assert len(PROBES) > 30
    assert all(len(text) > 15 for text in PROBES.values())
    assert not [name for name in PROBES if name.startswith("_")]


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Bars appear on stderr only, and only when asked for."""
    target = Target(seeded(CASES["perceptron"][0]), data((5,)))
    _ = Probes(target).gradient_norm
    assert capsys.readouterr() == ("", "")
    _ = Probes(target, progress=True).gradient_norm
    out, err = capsys.readouterr()
    assert out == ""
    assert "gradients" in err
