"""While forgetcast asks a model, cuDNN neither rounds to TF32 nor sums in any order; the caller's settings return."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from forgetcast import Target
from forgetcast.factors import factor_table
from forgetcast.target.precision import exact_convolutions
from forgetcast.unlearn.algorithms.gradient_ascent import GradientAscent
from forgetcast.unlearn.engine import run_unlearner

cudnn = torch.backends.cudnn


def settings() -> tuple[bool, bool, bool]:
    return cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32


class Witness(nn.Linear):
    """A layer that writes down the settings it is called under."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen.add(settings())
        return super().forward(x)


seen: set[tuple[bool, bool, bool]] = set()


@pytest.fixture
def callers_settings() -> Iterator[tuple[bool, bool, bool]]:
    seen.clear()
    before = settings()
    with cudnn.flags(enabled=True, deterministic=False, allow_tf32=True):
        yield settings()
    assert settings() == before


@pytest.fixture
def target(callers_settings: tuple[bool, bool, bool]) -> Target:
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 4, generator=drawn), torch.arange(60) % 3
    return Target(nn.Sequential(Witness(4, 8), nn.ReLU(), nn.Linear(8, 3)), (x, y), heldout=(x[:20] + 1, y[:20]))


def test_every_question_is_exact(target: Target) -> None:
    """Logits, factors with their gradients, and unlearning: the model sees no other settings, the caller's return."""
    target.logits()
    factor_table(target)
    run_unlearner(target, GradientAscent(), [0, 1], np.full(2, 0.3))
    assert seen == {(True, True, False)}
    assert settings() == (True, False, True)


def test_the_callers_settings_return_after_an_error(callers_settings: tuple[bool, bool, bool]) -> None:
    """Also where cuDNN is left out altogether."""

    @exact_convolutions(cudnn=False)
    def fails() -> None:
        assert settings() == (False, True, False)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert settings() == callers_settings


def test_a_decorated_function_can_be_called_twice(callers_settings: tuple[bool, bool, bool]) -> None:
    """One decorator serves every call."""
    decorated = exact_convolutions()(settings)
    assert decorated() == decorated() == (True, True, False)
    assert settings() == callers_settings
