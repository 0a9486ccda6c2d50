"""The factor, the unlearner and the section keep forgetcast's laws, and forgetcast finds all three."""

from __future__ import annotations

import pytest
import torch

from forgetcast.registry import load_factors, load_report_sections, plugins, unlearner
from forgetcast.testing import check_factor, check_report_section, check_unlearner
from forgetcast_example_plugin.factors import gini_impurity
from forgetcast_example_plugin.sections import hardest_classes
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


def test_the_section_keeps_the_laws() -> None:
    """It can be shown, and changes nothing."""
    check_report_section(hardest_classes)


def test_forgetcast_finds_all() -> None:
    """Under the names of the entry points, as written for its contract."""
    assert load_factors()["gini_impurity"] == gini_impurity
    assert unlearner("uniform_target", steps=5) == UniformTarget(steps=5)
    assert load_report_sections()["hardest_classes"] is hardest_classes
    mine = [plugin for plugin in plugins() if plugin.package == "forgetcast-example-plugin"]
    assert [(plugin.contract, plugin.reason) for plugin in mine] == [("1.0", "")] * 3
