"""Factors of a corpus computed anew: outcomes stay, and only the very target that was measured will do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from forgetcast.cli import main
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.generate import generate_corpus
from forgetcast.corpus.refresh import refresh_factors
from forgetcast.corpus.zoo.recipes import Recipe
from forgetcast.errors import InputError, NotApplicableError
from forgetcast.factors import factor, factor_table
from forgetcast.registry import load_factors
from small_targets import clouds

QUICK: dict[str, Any] = {
    "instances": 6,
    "unlearners": ("gradient_ascent",),
    "objectives": ("erase",),
    "progress": False,
}
RECIPE = Recipe("small", "wine", "logistic", 60, 2)


@factor(family="confidence", source="ours", high="twice its margin is {value}", low="twice its margin is {value}")
def twice_the_margin(margin: Any) -> Any:
    """Twice the margin."""
    return 2 * margin


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two targets, one with a recipe."""
    generate_corpus([clouds(), RECIPE], tmp_path / "corpus", **QUICK)
    return tmp_path / "corpus"


def test_a_new_factor_joins_and_outcomes_stay(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns are those registered now, the values the factor's own; everything measured is as it was."""
    before = Corpus.read(corpus)
    known = {**load_factors(), "twice_the_margin": twice_the_margin}
    monkeypatch.setattr("forgetcast.factors.table.load_factors", lambda: known)
    fresh = refresh_factors(corpus, [clouds()], progress=False)
    pd.testing.assert_frame_equal(Corpus.read(corpus).factors, fresh.factors)
    pd.testing.assert_frame_equal(fresh.outcomes, before.outcomes)
    pd.testing.assert_frame_equal(fresh.instances, before.instances)
    pd.testing.assert_frame_equal(fresh.factors[before.factors.columns], before.factors)
    for target in (clouds(), RECIPE.build()):
        rows = fresh.factors[fresh.factors["target"] == target.name].set_index("index")
        plain = factor_table(target, names=["twice_the_margin"]).values.loc[rows.index]
        pd.testing.assert_frame_equal(rows[plain.columns], plain)
    assert {k: v for k, v in fresh.manifest.items() if k != "files"} == {
        k: v for k, v in before.manifest.items() if k != "files"
    }


def test_another_model_is_refused_and_nothing_written(corpus: Path) -> None:
    """Factors of one model beside outcomes of another would teach nonsense."""
    bytes_before = (corpus / "factors.parquet").read_bytes()
    with pytest.raises(InputError, match=r"'clouds' is not the one that was measured \(its model hash differs\)"):
        refresh_factors(corpus, [clouds(shift=1.0)], progress=False)
    with pytest.raises(InputError, match=r"has no target 'else'; it has clouds, small"):
        refresh_factors(corpus, [clouds("else")], progress=False)
    with pytest.raises(NotApplicableError, match="'clouds' has no recipe in the manifest: give the target itself"):
        refresh_factors(corpus, progress=False)
    assert (corpus / "factors.parquet").read_bytes() == bytes_before


def test_the_command_makes_targets_from_the_manifest(tmp_path: Path) -> None:
    """Without --target every target comes from its recipe; the corpus is whole afterwards."""
    generate_corpus([RECIPE], tmp_path / "corpus", **QUICK)
    old = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    result = CliRunner().invoke(main, ["generate", "--factors-only", "--out", str(tmp_path / "corpus"), "--quiet"])
    assert result.exit_code == 0, result.output
    assert "factor columns of 6 samples" in result.output
    assert json.loads((tmp_path / "corpus" / "manifest.json").read_text()) == old
