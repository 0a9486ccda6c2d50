"""Augmentation moves images and adds noise to tables; training with it is repeatable and stays paired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forgetcast.corpus.zoo.augmentation import NOISE, augmented
from forgetcast.corpus.zoo.recipes import Recipe
from forgetcast.corpus.zoo.training import Trainer
from forgetcast.target.seeding import seeded


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_are_shifted_by_whole_pixels(layout: torch.memory_format) -> None:
    """Every image equals one of the shifts of itself, edges repeated; shape, type and layout stay."""
    x = torch.rand(40, 2, 8, 8).contiguous(memory_format=layout)
    with seeded(0):
        moved = augmented(x)
    assert moved.shape == x.shape
    assert moved.is_contiguous(memory_format=layout)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    shifts = [padded[..., a : a + 8, b : b + 8] for a in range(3) for b in range(3)]
    which = torch.stack([(moved == shift).flatten(1).all(1) for shift in shifts])
    assert which.any(0).all()
    assert which.any(1).sum() >= 7


def test_tables_get_noise() -> None:
    """Of the size that the module says, around the values given."""
    x = torch.zeros(2000, 5)
    with seeded(1):
        noise = augmented(x)
    assert float(noise.std()) == pytest.approx(NOISE, rel=0.05)
    assert abs(float(noise.mean())) < 0.02


def test_training_with_augmentation_is_another_and_repeatable() -> None:
    """The same seed gives the same weights; without augmentation they differ; global state is left alone."""
    plain = Recipe("a", "digits", "mlp", 120, 2, seed=1)
    changed = replace(plain, augment=True)
    state = torch.random.get_rng_state()
    first, second, other = changed.build(), changed.build(), plain.build()
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.model_hash == second.model_hash != other.model_hash
    assert first.data_hash == other.data_hash


def test_two_runs_on_the_same_data() -> None:
    """With data_seed the samples are those of the other recipe, and the model is another."""
    one = Recipe("a", "digits", "mlp", 120, 2, seed=1)
    again = Recipe("b", "digits", "mlp", 120, 2, seed=5, data_seed=1)
    assert one.build().data_hash == again.build().data_hash
    assert one.build().model_hash != again.build().model_hash


def test_many_models_with_augmentation_are_those_trained_alone() -> None:
    """They are not trained side by side, where draws would be shared."""
    x, y = torch.rand(60, 6), torch.arange(60) % 3
    trainer = Trainer(lambda seed: seeded_linear(seed), x, y, epochs=2, augment=True)
    parts = [np.arange(60)[k:] for k in range(9)]
    for model, part in zip(trainer.many(parts, [4] * 9), parts, strict=True):
        assert torch.equal(model.weight, trainer(part, 4).weight)


def seeded_linear(seed: int) -> torch.nn.Linear:
    """A linear layer initialised by the seed."""
    with seeded(seed):
        return torch.nn.Linear(6, 3)
