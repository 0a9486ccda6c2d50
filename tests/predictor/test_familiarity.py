"""Targets unlike the corpus are told from those like it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from forgetcast.predictor.familiarity import contexts, extended, familiarity

COLUMNS = ["training_samples", "train_accuracy", "loss"]


def table(targets: int = 40, seed: int = 0) -> pd.DataFrame:
    """Targets of 100 to 10,000 samples; the loss differs from sample to sample."""
    rng = np.random.default_rng(seed)
    parts = [
        pd.DataFrame(
            {
                "target": f"t{number}",
                "training_samples": 10 ** rng.uniform(2, 4),
                "train_accuracy": rng.uniform(0.7, 1) if number else np.nan,
                "loss": rng.normal(size=5),
            }
        )
        for number in range(targets)
    ]
    return pd.concat(parts, ignore_index=True)


def own(samples: float, accuracy: float) -> pd.DataFrame:
    """A target's factors."""
    return pd.DataFrame({"training_samples": samples, "train_accuracy": accuracy, "loss": [0.0, 1.0]})


def test_only_what_holds_for_a_whole_target_is_kept() -> None:
    """Columns that differ between samples say nothing of the target."""
    known = contexts(table(), COLUMNS)
    assert known["columns"] == ["training_samples", "train_accuracy"]
    assert len(known["targets"]) == 40
    assert known["targets"]["t0"][1] is None


@pytest.mark.parametrize("samples", [150, 1000, 8000])
def test_a_target_among_the_others_is_familiar(samples: float) -> None:
    """Whatever its size, within the range."""
    found = familiarity(contexts(table(), COLUMNS), own(samples, 0.85))
    assert not found.out_of_distribution
    assert found.unusual == {}
    assert "are like those" in str(found)


def test_a_target_far_from_all_is_flagged_with_what_is_unusual() -> None:
    """A million samples, where the corpus has up to ten thousand."""
    found = familiarity(contexts(table(), COLUMNS), own(1e7, 0.85))
    assert found.out_of_distribution
    assert found.p_value == pytest.approx(1 / 41)
    assert list(found.unusual) == ["training_samples"]
    assert "unlike" in str(found)
    assert "training_samples is 10,000,000" in str(found)


def test_few_targets_of_the_corpus_itself_are_flagged() -> None:
    """The p-value is calibrated: of new targets drawn like the others at most about one in twenty is flagged."""
    known = contexts(table(60), COLUMNS)
    fresh = table(400, seed=1).groupby("target")
    flagged = np.mean([familiarity(known, rows).out_of_distribution for _, rows in fresh])
    assert 0 < flagged <= 0.08


def test_an_unknown_value_stands_in_the_middle() -> None:
    """A model without held-out data lacks some factors; that alone makes it no stranger."""
    assert not familiarity(contexts(table(), COLUMNS), own(1000, math.nan)).out_of_distribution


def test_a_predictor_that_does_not_know_says_so() -> None:
    """Predictors of earlier versions kept no record."""
    found = familiarity({}, own(1000, 0.9))
    assert math.isnan(found.p_value)
    assert not found.out_of_distribution
    assert "does not record" in str(found)


def test_a_continued_predictor_knows_its_new_targets_too() -> None:
    """A target far from the old ones is like the corpus once such targets joined; one without record stays so."""
    known, odd = contexts(table(), COLUMNS), own(10**7, 0.2)
    assert familiarity(known, odd).out_of_distribution
    more = pd.concat([own(10**7 * k, 0.2).assign(target=f"new {k}") for k in (1, 2, 3)])
    both = extended(known, more)
    assert len(both["targets"]) == 43
    assert not familiarity(both, odd).out_of_distribution
    assert familiarity(both, odd).nearest == "new 1"
    assert math.isnan(familiarity(extended({}, more), odd).p_value)
