"""Recipes: targets written down so that anyone can train the same model again, and those of the published corpus."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import nn

from forgetcast.corpus.zoo import architectures, datasets
from forgetcast.corpus.zoo.training import Trainer
from forgetcast.errors import InputError, UnknownNameError
from forgetcast.parallel import one_thread
from forgetcast.target.inputs import channels_last
from forgetcast.target.target import Target
from forgetcast.target.trajectory import Trajectory

__all__ = ["PUBLISHED", "Recipe", "built", "check_names", "published"]


@dataclass(frozen=True)
class Recipe:
    """How to make one target: data, architecture and training regime. ``build`` is deterministic."""

    name: str
    dataset: str
    architecture: str
    n: int
    """Training samples, drawn at random."""
    epochs: int
    lr: float = 2e-3
    weight_decay: float = 0.0
    dropout: float = 0.0
    label_noise: float = 0.0
    """Share of training labels replaced by another class."""
    heldout: int = 600
    """Held-out samples at most."""
    seed: int = 0
    """Of initialisation, order and, unless ``data_seed`` is given, of the samples drawn."""
    augment: bool = False
    """Whether inputs are changed at random in training (``forgetcast.corpus.zoo.augmentation``)."""
    data_seed: int | None = None
    """Of the samples drawn: with it two recipes are two training runs on the same data."""

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("heldout", 1), ("epochs", 0)):
            if getattr(self, name) < least:
                raise InputError(f"recipe {self.name!r}: {name}: expected at least {least}; got {getattr(self, name)}")
        for name in ("dropout", "label_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"recipe {self.name!r}: {name}: expected a share from 0 to 1; got {getattr(self, name)}"
                )

    def build(self, *, trajectory: bool = False) -> Target:
        """Draw the samples, train the model, wrap both; the target carries its ``train`` callable.

        Args:
            trajectory: also keep the weights after every epoch, as the target's trajectory.

        Raises:
            UnknownNameError: no such dataset or architecture.
            InputError: fewer samples than ``n``, an architecture for other inputs, or a trajectory of fewer than two
                epochs.
        """
        (x, y), (x_heldout, y_heldout) = datasets.load(self.dataset)
        if self.n > len(y):
            raise InputError(f"recipe {self.name!r} asks for {self.n} samples; {self.dataset} has {len(y)}")
        generator = torch.Generator().manual_seed(self.seed if self.data_seed is None else self.data_seed)
        chosen = torch.randperm(len(y), generator=generator)[: self.n]
        kept = torch.randperm(len(y_heldout), generator=generator)[: self.heldout]
        classes = int(max(y.max(), y_heldout.max())) + 1
        x, y = x[chosen].contiguous(), y[chosen].clone()
        flipped = torch.randperm(self.n, generator=generator)[: round(self.label_noise * self.n)]
        y[flipped] = (y[flipped] + torch.randint(1, classes, flipped.shape, generator=generator)) % classes
        make = partial(_make, self.architecture, tuple(x.shape[1:]), classes, self.dropout)
        trainer = Trainer(make, channels_last(x), y, self.epochs, self.lr, 64, self.weight_decay, self.augment)
        states: list[dict[str, torch.Tensor]] = []
        rates: list[float] = []

        def record(_epoch: int, model: torch.nn.Module, lr: float) -> None:
            states.append({name: value.clone() for name, value in model.state_dict().items()})
            rates.append(lr)

        with one_thread():  # with two, training rounds otherwise and ends elsewhere
            model = trainer(torch.arange(self.n).numpy(), self.seed, record if trajectory else None)
        return Target(
            model,
            (x, y),
            heldout=(x_heldout[kept], y_heldout[kept]),
            train=trainer,
            trajectory=Trajectory.from_checkpoints(states, rates) if trajectory else None,
            name=self.name,
            info={"dataset": self.dataset, "architecture": self.architecture, "recipe": asdict(self)},
        )

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Recipe:
        """The inverse of ``dataclasses.asdict``.

        Raises:
            UnknownNameError: a setting that recipes do not have.
            InputError: a setting is missing, or of no sensible value.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise UnknownNameError.of("recipe setting", name, known)
        required = [field.name for field in fields(cls) if field.default is MISSING]
        if missing := [name for name in required if name not in settings]:
            raise InputError(
                f"a recipe needs the settings that have no default, {', '.join(required)}; "
                f"missing: {', '.join(missing)}"
            )
        return cls(**settings)


def _make(architecture: str, shape: tuple[int, ...], classes: int, dropout: float, seed: int) -> torch.nn.Module:
    return architectures.build(architecture, shape, classes, dropout=dropout, seed=seed)


PUBLISHED: tuple[Recipe, ...] = (
    Recipe("digits-logistic", "digits", "logistic", 800, 40, 5e-3, seed=1),
    Recipe("digits-mlp", "digits", "mlp", 1000, 40, seed=2),
    Recipe("digits-mlp-noise", "digits", "mlp", 1000, 80, 5e-3, label_noise=0.05, seed=3),
    Recipe("digits-wide-mlp", "digits", "wide_mlp", 700, 30, weight_decay=1e-2, seed=4),
    Recipe("digits-cnn", "digits", "cnn", 900, 40, 4e-3, dropout=0.1, seed=5),
    Recipe("digits-resnet", "digits", "resnet", 800, 15, seed=6),
    Recipe("fashion-logistic", "fashion-mnist", "logistic", 2000, 25, seed=7),
    Recipe("fashion-mlp", "fashion-mnist", "mlp", 2500, 20, 1e-3, seed=8),
    Recipe("fashion-mlp-dropout", "fashion-mnist", "mlp", 2000, 40, 1e-3, dropout=0.3, label_noise=0.03, seed=9),
    Recipe("fashion-deep-mlp", "fashion-mnist", "deep_mlp", 2000, 25, 1e-3, weight_decay=1e-2, seed=10),
    Recipe("fashion-cnn", "fashion-mnist", "cnn", 2000, 25, 3e-3, seed=11),
    Recipe(
        "fashion-cnn-long",
        "fashion-mnist",
        "cnn",
        1500,
        40,
        4e-3,
        weight_decay=1e-2,
        label_noise=0.05,
        seed=12,
    ),
    Recipe("fashion-resnet", "fashion-mnist", "resnet", 1500, 20, 5e-3, seed=13),
    Recipe("fashion-attention", "fashion-mnist", "attention", 1500, 25, seed=14),
    Recipe("satellite-mlp", "satellite", "mlp", 2000, 40, 1e-3, seed=15),
    Recipe("letter-wide-mlp", "letter", "wide_mlp", 2500, 50, 5e-3, seed=16),
    Recipe("breast-cancer-logistic", "breast-cancer", "logistic", 400, 60, 5e-3, seed=17),
    Recipe("breast-cancer-mlp-noise", "breast-cancer", "mlp", 380, 80, 3e-3, label_noise=0.05, seed=18),
    Recipe("breast-cancer-random-features", "breast-cancer", "random_features", 390, 60, 5e-3, seed=19),
    Recipe("wine-mlp", "wine", "mlp", 150, 60, 2e-3, seed=20),
    Recipe("wine-deep-mlp", "wine", "deep_mlp", 150, 40, 2e-3, weight_decay=1e-2, label_noise=0.05, seed=21),
    Recipe("satellite-logistic", "satellite", "logistic", 1500, 40, 5e-3, seed=22),
    Recipe("satellite-deep-mlp", "satellite", "deep_mlp", 1500, 60, 2e-3, weight_decay=1e-2, seed=23),
    Recipe("satellite-random-features", "satellite", "random_features", 1200, 60, 5e-3, seed=24),
    Recipe("satellite-mlp-noise", "satellite", "mlp", 1500, 80, 3e-3, label_noise=0.1, seed=25),
    Recipe("letter-mlp", "letter", "mlp", 2500, 60, 3e-3, seed=26),
    Recipe("letter-mlp-short", "letter", "mlp", 2000, 10, 2e-3, seed=27),
    Recipe("shuttle-mlp", "shuttle", "mlp", 2000, 40, 2e-3, seed=29),
    Recipe("shuttle-wide-mlp-noise", "shuttle", "wide_mlp", 1500, 80, 5e-3, label_noise=0.05, seed=30),
    Recipe("spam-logistic", "spam", "logistic", 1500, 40, 5e-3, seed=32),
    Recipe("spam-mlp", "spam", "mlp", 2000, 30, 1e-3, seed=33),
    Recipe("spam-mlp-augmented", "spam", "mlp", 1500, 60, 3e-3, augment=True, label_noise=0.03, seed=34),
    Recipe("spam-wide-mlp", "spam", "wide_mlp", 1200, 60, 3e-3, weight_decay=1e-2, seed=35),
    Recipe("digits-cnn-short", "digits", "cnn", 900, 6, 4e-3, seed=36),
    Recipe("digits-mobilenet", "digits", "mobilenet", 900, 25, 5e-3, label_noise=0.03, seed=37),
    Recipe("digits-random-features", "digits", "random_features", 1000, 60, 5e-3, label_noise=0.03, seed=39),
    Recipe("digits-mlp-again", "digits", "mlp", 1000, 40, seed=40, data_seed=2),
    Recipe("fashion-mlp-short", "fashion-mnist", "mlp", 1500, 4, 1e-3, seed=41),
    Recipe("fashion-cnn-again", "fashion-mnist", "cnn", 2000, 25, 3e-3, seed=46, data_seed=11),
)
"""The targets of the published corpus."""


def published(name: str) -> Recipe:
    """The published recipe of that name.

    Raises:
        UnknownNameError: no such recipe.
    """
    recipes = {recipe.name: recipe for recipe in PUBLISHED}
    if name not in recipes:
        raise UnknownNameError.of("recipe", name, recipes)
    return recipes[name]


def built(source: Target | Recipe | Callable[[], Target]) -> Target:
    """The target itself, or the one that a recipe or a function makes.

    Raises:
        InputError: what is made is no target.
    """
    made: Any = source
    if isinstance(source, Recipe):
        made = source.build()
    elif callable(source) and not isinstance(source, nn.Module):
        made = source()
    if not isinstance(made, Target):
        raise InputError(f"expected a Target, a Recipe or a function returning a Target; got {type(made).__name__}")
    return made


def check_names(names: Sequence[str]) -> None:
    """Shards and rows of two targets of one name could not be distinguished; a name is also the name of a folder.

    Raises:
        InputError: a name that cannot be one of a folder, or two that are the same.
    """
    for name in names:
        if not re.fullmatch(r"[\w+-][\w .+-]*", name):
            raise InputError(
                f"a target's name becomes the name of a folder: expected letters, digits, space, '_', '.', '+' or '-', "
                f"not beginning with '.'; got {name!r}"
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"two targets are named {repeated[0]!r}: give Target(..., name=...) different names")
