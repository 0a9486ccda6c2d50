"""The factor and the unlearner keep forgetcast's laws, and forgetcast finds both."""

from __future__ import annotations

import pytest
import torch

from forgetcast.registry import load_factors, unlearner
from forgetcast.testing import check_factor, check_unlearner
from forgetcast_example_plugin.factors import gini_impurity
from forgetcast_example_plugin.uniform_target import UniformTarget


def test_the_factor_keeps_the_laws() -> None:
    """One finite value per sample that depends on neither order, batch size nor chance."""
    check_factor(gini_impurity)


def test_the_factor_follows_its_formula() -> None:
    """0 for a sure prediction, 1 - 1/C for an undecided one."""
    probabilities = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]])
    assert gini_impurity(probabilities).tolist() == pytest.approx([0, 0.5, 0.18])


def test_the_unlearner_keeps_the_laws() -> None:
    """It moves and forgets, and leaves the target as it was."""
    check_unlearner(UniformTarget())


def test_forgetcast_finds_both() -> None:
    """Under the names of the entry points."""
    assert load_factors()["gini_impurity"] == gini_impurity
    assert unlearner("uniform_target", steps=5) == UniformTarget(steps=5)
