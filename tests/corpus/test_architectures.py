"""Every architecture: logits for the inputs it is made for, the same weights for a seed, no parameter left idle."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from forgetcast.corpus.zoo.architectures import ARCHITECTURES, AttentionNet, ResidualNet, build
from forgetcast.errors import InputError, UnknownNameError
from forgetcast.target.target import Target

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
FLAT = ["deep_mlp", "logistic", "mlp", "random_features", "wide_mlp"]
CASES = [(name, shape) for name in ARCHITECTURES for shape in IMAGES] + [(name, (36,)) for name in FLAT]


def inputs(shape: tuple[int, ...], n: int = 5) -> torch.Tensor:
    """Noise."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_logits_come_out_for_every_input_it_is_made_for(name: str, shape: tuple[int, ...]) -> None:
    """Shape (n, classes), finite, different for different inputs, and no probabilities."""
    model = build(name, shape, 7).eval()
    out = model(inputs(shape))
    assert out.shape == (5, 7)
    assert torch.isfinite(out).all()
    assert bool((out[0] != out[1]).any())
    assert not torch.allclose(out.sum(1), torch.ones(5))
    assert torch.allclose(model(inputs(shape)[:2]), out[:2], atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_gradient_reaches_every_parameter(name: str, shape: tuple[int, ...]) -> None:
    """In training mode every parameter tensor gets some gradient: none is out of use."""
    model = build(name, shape, 7, dropout=0.1).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        F.cross_entropy(model(inputs(shape, 16)), torch.arange(16) % 7).backward()
    idle = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_seed_gives_the_same_weights_and_another_seed_others(name: str) -> None:
    """Initialisation depends on the seed alone; the global random state is neither read nor moved."""
    torch.rand(3)
    before = torch.random.get_rng_state()
    first, other = build(name, (1, 8, 8), 4, seed=3), build(name, (1, 8, 8), 4, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    again = build(name, (1, 8, 8), 4, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_a_model_on_the_cpu_seeds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers of the user's GPU are not touched by making a model."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were seeded"))
    build("mlp", (4,), 2)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "logistic"])
def test_dropout_is_built_in_and_off_in_evaluation(name: str) -> None:
    """The rate given is the rate of every dropout layer, and nothing is dropped in evaluation mode."""
    model = build(name, (1, 8, 8), 4, dropout=0.4)
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.4}
    model.eval()
    assert torch.equal(model(inputs((1, 8, 8))), model(inputs((1, 8, 8))))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_ends_in_a_linear_layer_that_targets_find(name: str) -> None:
    """Factors of the last layer apply to all of them."""
    target = Target(build(name, (1, 8, 8), 4), (inputs((1, 8, 8)), torch.arange(5) % 4))
    assert target.head is not None
    assert target.head.weight.shape[0] == 4


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(FLAT)))
@pytest.mark.parametrize("shape", [(36,), (8, 8), (1, 3, 8)])
def test_image_networks_refuse_what_is_no_image(name: str, shape: tuple[int, ...]) -> None:
    """Rows of a table, and images too small to be cut up, are refused with what is expected."""
    with pytest.raises(InputError, match=rf"architecture '{name}' .*\(channels, height, width\)"):
        build(name, shape, 3)


def test_an_unknown_architecture_is_answered_with_the_nearest() -> None:
    """Misspelt names are suggested."""
    with pytest.raises(UnknownNameError, match="unknown architecture 'widemlp': did you mean 'wide_mlp'"):
        build("widemlp", (4,), 2)


def test_classes_stand_for_themselves() -> None:
    """The two networks that are classes are usable without ``build``."""
    assert ResidualNet((1, 8, 8), 3)(inputs((1, 8, 8))).shape == (5, 3)
    assert AttentionNet((1, 8, 8), 3, width=16)(inputs((1, 8, 8))).shape == (5, 3)
