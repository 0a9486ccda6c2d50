"""Convolutional networks, several at a time on the same images, against each alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from forgetcast.corpus.zoo.architectures import build
from forgetcast.target.target import Target
from forgetcast.unlearn.grouped import Grouped
from forgetcast.unlearn.inference import Inference
from forgetcast.unlearn.stack import Stack

RELU = nn.ReLU()


def reflecting() -> nn.Module:
    """The border is no zeros."""
    conv = nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))


def hooked() -> nn.Module:
    """A hook has the last word on what a layer returns."""
    model = build("cnn", (1, 12, 12), 4, seed=1)
    model[1].register_forward_hook(lambda _layer, _args, output: output.clamp(max=0.1))
    return model


def normalised() -> nn.Module:
    """Between convolutions stands what does not run in groups."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(256, 4)
    )


def tied() -> nn.Module:
    """One convolution twice."""
    conv = nn.Conv2d(1, 1, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), conv, nn.Flatten(), nn.Linear(144, 4))


SHARED: dict[str, Callable[[], nn.Module]] = {
    "cnn": lambda: build("cnn", (1, 12, 12), 4, seed=1),
    "one rectifier twice": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        RELU,
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        RELU,
        nn.Flatten(),
        nn.Linear(96, 4),
    ),
    "many channels": lambda: nn.Sequential(
        nn.Conv2d(1, 24, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(600, 4)
    ),
    "no flattening": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 10), nn.Unflatten(0, (-1, 1)), nn.Flatten()
    ),
    "normalised at last": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(100, 4)
    ),
}
ALONE: dict[str, Callable[[], nn.Module]] = {
    "reflecting": reflecting,
    "hooked": hooked,
    "tied": tied,
    "normalised": normalised,
    "residual": lambda: build("resnet", (1, 12, 12), 4, seed=1),
    "perceptron": lambda: build("mlp", (1, 12, 12), 4, seed=1),
}


def made(model: nn.Module) -> Target:
    """The model with random images."""
    generator = torch.Generator().manual_seed(0)
    return Target(model, (torch.randn(40, 1, 12, 12, generator=generator), torch.arange(40) % 4))


def shaken(target: Target, m: int) -> Stack:
    """m models near the target's."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.stack([value + 0.05 * torch.randn(value.shape, generator=generator) for _ in range(m)])
        for name, value in target.params.items()
    }


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("m", [1, 7])
def test_logits_and_gradients_are_those_of_every_model_alone(name: str, m: int) -> None:
    """In groups of any size, the last one smaller; with weights of samples as retain steps have them."""
    target = made(SHARED[name]())
    grouped = Grouped.of(target)
    assert grouped is not None
    x, y = target.data.fetch(torch.arange(40))
    stack, weight = shaken(target, m), torch.rand(m, 40, generator=torch.Generator().manual_seed(2))

    def loss(logits: Tensor, weight: Tensor) -> Tensor:
        return (F.cross_entropy(logits, y, reduction="none") * weight).sum()

    logits = Inference(target, x).stack(stack)
    found = grouped.gradients(loss, stack, target.to_device(x), weight)
    for k in range(m):
        leaves = {key: value[k].clone().requires_grad_() for key, value in stack.items()}
        plain = functional_call(target.module, leaves, (x,))
        torch.testing.assert_close(logits[k], plain.detach(), rtol=1e-4, atol=1e-5)
        gradients = torch.autograd.grad(loss(plain, weight[k]), list(leaves.values()))
        for key, gradient in zip(leaves, gradients, strict=True):
            torch.testing.assert_close(found[key][k], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ALONE)
def test_other_models_run_as_they_are(name: str) -> None:
    """No plain sequence, or one whose layers do more than their kind says."""
    target = made(ALONE[name]())
    assert Grouped.of(target) is None
    x, _ = target.data.fetch(torch.arange(40))
    stack = shaken(target, 3)
    with torch.no_grad():
        plain = [
            functional_call(target.module, {key: value[k] for key, value in stack.items()}, (x,)) for k in range(3)
        ]
    torch.testing.assert_close(Inference(target, x).stack(stack), torch.stack(plain), rtol=1e-4, atol=1e-5)


def test_pooling_before_the_rectifier_keeps_every_bit() -> None:
    """A maximum of rectified numbers is the rectified maximum."""
    target = made(SHARED["cnn"]())
    grouped = Grouped.of(target)
    assert grouped is not None
    assert [name for name, _ in grouped.layers] == ["0", "2", "1", "3", "5", "4"]
    x = target.to_device(target.data.fetch(torch.arange(40))[0])
    with torch.no_grad():
        maps = grouped.maps(grouped.weights({key: value[None] for key, value in target.params.items()}), x, 1)
        assert torch.equal(maps, target.module[:6](x))
