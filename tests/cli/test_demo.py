"""The self-check: its target, its choice of samples, and a small run from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forgetcast.cli.self_check import build_target, choose, make_model, run
from forgetcast.corpus.zoo.recipes import PUBLISHED

pytestmark = pytest.mark.slow


def test_target_is_none_of_the_corpus() -> None:
    """Architecture and parameters differ from every recipe that the predictor learned from."""
    target = build_target()
    assert target.info["architecture"] not in {recipe.architecture for recipe in PUBLISHED}
    assert any(type(module).__name__ == "GELU" for module in make_model(0).modules())
    assert target.can_train


def test_mislabelled_samples_are_what_the_target_says() -> None:
    """With no wrong labels the same samples carry their true ones: exactly the listed labels differ."""
    noisy, clean = build_target(), build_target(wrong=0.0)
    differ = np.flatnonzero(noisy.labels.numpy() != clean.labels.numpy())
    assert differ.tolist() == noisy.info["mislabelled"]
    assert len(differ) == 45


@pytest.mark.parametrize("count", [8, 21, 40])
def test_choice_is_half_random_half_spread(count: int) -> None:
    """As many distinct samples as asked for, with both ends of each objective's forecast among them."""
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame({"index": np.arange(300), "objective": name, "percentile": rng.beta(1, 6, 300)})
        for name in ("retrain", "erase")
    ]
    chosen = choose(pd.concat(parts), count, seed=1)
    assert len(set(chosen.tolist())) == count
    assert np.array_equal(chosen, choose(pd.concat(parts), count, seed=1))
    for part in parts:
        spread = part.set_index("index")["percentile"].loc[chosen]
        assert spread.max() >= part["percentile"].nlargest(count).min()
        assert spread.min() <= part["percentile"].nsmallest(count).max()


def test_small_run_compares_forecast_with_measurement(tmp_path: Path) -> None:
    """A run on few samples measures exactly those, says what it found, and leaves the report."""
    said: list[str] = []
    result = run(tmp_path, samples=8, jobs=1, progress=False, say=said.append)
    assert result.report.measurements is not None
    assert sorted(set(result.report.measurements["index"])) == result.chosen.tolist()
    assert result.html.read_text(encoding="utf-8").count("<svg") > 3
    text = "\n".join(said)
    for objective, found in result.agreement.items():
        assert found.n == 8
        assert f"{objective:<8} {found}" in text
    assert "8 samples unlearned for real" in text
