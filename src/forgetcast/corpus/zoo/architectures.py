"""Small classifiers that the published corpus is made of: from logistic regression to a residual network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forgetcast.errors import InputError, UnknownNameError
from forgetcast.target.seeding import seeded

__all__ = ["ARCHITECTURES", "AttentionNet", "MobileNet", "RandomFeatures", "ResidualNet", "build"]


def logistic(shape: Sequence[int], classes: int, dropout: float = 0.0) -> nn.Module:
    """Multinomial logistic regression on the flattened input."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def mlp(shape: Sequence[int], classes: int, dropout: float = 0.0) -> nn.Module:
    """Two hidden layers, 128 and 64 units, ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(shape)
    for units in (128, 64):
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))


def wide_mlp(shape: Sequence[int], classes: int, dropout: float = 0.0) -> nn.Module:
    """One hidden layer of 512 units, tanh."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), 512),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Linear(512, classes),
    )


def deep_mlp(shape: Sequence[int], classes: int, dropout: float = 0.0) -> nn.Module:
    """Four hidden layers of 96 units with layer normalisation, ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(shape)
    for _ in range(4):
        layers += [nn.Linear(width, 96), nn.LayerNorm(96), nn.ReLU(), nn.Dropout(dropout)]
        width = 96
    return nn.Sequential(*layers, nn.Linear(width, classes))


def cnn(shape: Sequence[int], classes: int, dropout: float = 0.0) -> nn.Module:
    """Two convolutions (8 and 16 channels) with max-pooling, one hidden layer of 64 units, ReLU."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, classes),
    )


class _Block(nn.Module):
    """Basic residual block with batch normalisation (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut = (
            nn.Identity() if inside == outside and stride == 1 else nn.Conv2d(inside, outside, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResidualNet(nn.Module):
    """A stem and two residual blocks (16 and 32 channels) with batch normalisation, then global average pooling."""

    def __init__(self, shape: Sequence[int], classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        stride = 2 if shape[-1] > 16 else 1
        self.stem = nn.Sequential(nn.Conv2d(shape[0], 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(_Block(16, 16, 1), _Block(16, 32, 2))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))


class _InvertedResidual(nn.Module):
    """Expand, filter every channel on its own, project (Sandler et al. 2018, arXiv 1801.04381, section 3.3)."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int = 3) -> None:
        super().__init__()
        wide = inside * expansion
        self.layers = nn.Sequential(
            nn.Conv2d(inside, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.residual = inside == outside and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNet(nn.Module):
    """A stem and three inverted residual blocks (16 and 24 channels), then global average pooling."""

    def __init__(self, shape: Sequence[int], classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        stride = 2 if shape[-1] > 16 else 1
        self.stem = nn.Sequential(nn.Conv2d(shape[0], 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.blocks = nn.Sequential(
            _InvertedResidual(16, 16, 1), _InvertedResidual(16, 24, 2), _InvertedResidual(24, 24, 1)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))


class RandomFeatures(nn.Module):
    """Kernel-style wide network: fixed random Fourier features of a Gaussian kernel, and a linear layer on them.

    Rahimi & Recht 2007, "Random features for large-scale kernel machines", algorithm 1; the kernel's width is the
    root of the number of inputs. Only the linear layer is trained.
    """

    directions: Tensor
    phases: Tensor

    def __init__(self, shape: Sequence[int], classes: int, dropout: float = 0.0, width: int = 1024) -> None:
        super().__init__()
        inputs = math.prod(shape)
        self.register_buffer("directions", torch.randn(width, inputs) / math.sqrt(inputs))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(torch.cos(F.linear(x.flatten(1), self.directions, self.phases))))


class AttentionNet(nn.Module):
    """Patches, learned positions, one pre-norm self-attention block, mean pooling (after arXiv 2010.11929)."""

    def __init__(self, shape: Sequence[int], classes: int, dropout: float = 0.0, width: int = 48) -> None:
        super().__init__()
        patch = 2 if shape[-1] <= 16 else 7
        self.embed = nn.Conv2d(shape[0], width, patch, patch)
        tokens = (shape[1] // patch) * (shape[2] // patch)
        self.positions = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        query, key, value = self.qkv(self.norm1(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        mixed = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1) @ value
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.hidden(self.norm2(x))
        return self.head(self.dropout(self.norm3(x).mean(1)))


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "attention": AttentionNet,
    "cnn": cnn,
    "deep_mlp": deep_mlp,
    "logistic": logistic,
    "mlp": mlp,
    "mobilenet": MobileNet,
    "random_features": RandomFeatures,
    "resnet": ResidualNet,
    "wide_mlp": wide_mlp,
}
"""Factories by name: ``factory(input_shape, classes, dropout=0.0)``."""

_FOR_IMAGES = ("attention", "cnn", "mobilenet", "resnet")


def build(name: str, shape: Sequence[int], classes: int, *, dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """A freshly initialised model; the global random state is left as it was.

    Raises:
        UnknownNameError: no such architecture.
        InputError: the architecture is for images, and the shape is no image's.
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError.of("architecture", name, ARCHITECTURES)
    if name in _FOR_IMAGES and (len(shape) != 3 or min(shape[1:]) < 4):
        raise InputError(
            f"architecture {name!r} takes images of shape (channels, height, width), at least 4 by 4; got inputs of "
            f"shape {tuple(shape)}: take one of {', '.join(sorted(set(ARCHITECTURES) - set(_FOR_IMAGES)))}"
        )
    with seeded(seed):
        return ARCHITECTURES[name](shape, classes, dropout=dropout)
