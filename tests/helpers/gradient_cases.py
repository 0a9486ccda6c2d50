"""Small models of every kind of layer whose gradients are measured, and plain gradients of single samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from forgetcast.corpus.zoo.architectures import ARCHITECTURES, build


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model with fixed random weights and lively normalisation statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


class Sequences(nn.Module):
    """A small attention network over sequences (b, t, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36, bias=False)
        self.out = nn.Linear(12, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.head((x + self.out((q @ k.mT).softmax(-1) @ v)).mean(1))


class Recycled(nn.Module):
    """The same linear layer called three times, and a layer whose input the first call shares."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.again = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for _ in range(3):
            x = x + torch.tanh(self.again(self.norm(x)))
        return self.head(x)


class Sneaky(nn.Module):
    """A weight that is also used outside its layer, so that the layers do not explain its gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.one(x) + 3 * F.linear(x, self.one.weight.T)))


class Tokens(nn.Module):
    """Token numbers (b, t) to classes: embedding with a padding token, positions, mean."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=0)
        self.hidden = nn.Linear(6, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.words(tokens).mean(1))))


IMAGE_NETWORKS = ("attention", "cnn", "mobilenet", "resnet")

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)), (5,)),
    "no bias": (lambda: nn.Sequential(nn.Linear(5, 9, bias=False), nn.Tanh(), nn.Linear(9, 3, bias=False)), (5,)),
    "convolutions with batch norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, stride=2, dilation=2, padding=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 1, stride=(1, 2), padding=(0, 1)), nn.ReLU(),
            nn.Flatten(), nn.Linear(96, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3),
        ),
        (2, 8, 8),
    ),
    "depthwise and grouped convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding="same", padding_mode="circular"), nn.ReLU6(),
            nn.Conv2d(6, 6, 3, groups=6, padding=1), nn.ReLU6(),
            nn.Conv2d(6, 12, (1, 2), groups=3, padding=(0, 1), padding_mode="reflect"), nn.GroupNorm(4, 12), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3),
        ),
        (3, 7, 7),
    ),
    "convolutions over volumes": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 4, (1, 2, 3), stride=(1, 2, 1), padding=1), nn.ReLU(),
            nn.Conv3d(4, 4, 2, groups=2, dilation=(1, 2, 1)), nn.BatchNorm3d(4), nn.ReLU(),
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3),
        ),
        (1, 4, 6, 5),
    ),
    "one-dimensional convolutions": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 5, stride=2, padding=3), nn.BatchNorm1d(8), nn.ReLU(),
            nn.Conv1d(8, 8, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3),
        ),
        (3, 20),
    ),
    "layer norm on sequences": (Sequences, (7, 6)),
    "one layer called three times": (Recycled, (5,)),
    **{
        f"our {name}": (
            lambda name=name: build(name, (1, 8, 8) if name in IMAGE_NETWORKS else (12,), 3),
            (1, 8, 8) if name in IMAGE_NETWORKS else (12,),
        )
        for name in ARCHITECTURES
    },
}  # fmt: skip


def per_sample_squares(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Squared gradient norm of every parameter for every sample, by torch.func."""
    model = model.eval()
    params = {name: value.detach() for name, value in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(params: dict[str, Tensor], xi: Tensor, yi: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, (params, buffers), xi[None]), yi[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y)
    return {name: value.flatten(1).square().sum(1) for name, value in found.items()}


def data(shape: tuple[int, ...], n: int = 13) -> tuple[Tensor, Tensor]:
    """Noise and labels 0, 1, 2."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(3)), torch.arange(n) % 3


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest error relative to the expected value."""
    return float(((got - expected).abs() / expected.abs().clamp(min=1e-12)).max())
