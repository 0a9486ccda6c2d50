"""What would change the verdict: the predictor's own answer for a sample whose family of factors is typical."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forgetcast.errors import IndexRangeError, UnknownNameError
from forgetcast.predict import DifficultyReport
from forgetcast.report.counterfactual import what_would_change
from forgetcast.report.explain import Explainer
from sample_report import FAMILIES, sample_report
from synthetic import FEATURES


@pytest.fixture(scope="module")
def report() -> DifficultyReport:
    """120 samples of three classes."""
    return sample_report()


def test_one_family_takes_the_medians_of_the_class(report: DifficultyReport) -> None:
    """Forecast anew by hand, with the median over the samples of the same label, quantiles too."""
    values = report.factors.values[FEATURES]
    labels = report.table.drop_duplicates("index")["label"].to_numpy()
    for index, objective in ((4, "retrain"), (77, "erase")):
        found = report.what_would_change(index, objective).set_index("family")
        now = report.predictor.predict(values.loc[[index]], objective)
        for family in ("confidence", "neighbours"):
            columns = [name for name in FEATURES if FAMILIES[name.removesuffix("_quantile")] == family]
            row = values.loc[[index]].copy()
            row[columns] = values[labels == labels[index]][columns].median().to_numpy()
            then = report.predictor.predict(row, objective)
            for name in ("percentile", "p_trivial"):
                assert found.loc[family, name] == pytest.approx(then[name].item())
                assert found.loc[family, f"{name}_now"] == pytest.approx(now[name].item())
            change = then["percentile"].item() - now["percentile"].item()
            assert found.loc[family, "change"] == pytest.approx(change)


def test_tiers_are_those_of_the_report(report: DifficultyReport) -> None:
    """Now it is what the table says, and the tier then follows from the same bounds."""
    rows = report.table[report.table["objective"] == "retrain"].set_index("index")
    seen = set()
    for index in range(0, 120, 7):
        found = report.what_would_change(index, "retrain")
        assert set(found["tier_now"]) == {rows.loc[index, "tier"]}
        order = rows[rows["tier"] != "trivial"].groupby("tier")["percentile"]
        for row in found.itertuples():
            if row.tier != "trivial":
                assert (row.percentile <= order.max()["easy"]) == (row.tier == "easy")
                assert (row.percentile > order.max()["medium"]) == (row.tier == "hard")
            seen.add(row.tier)
    assert len(seen) > 1


def test_the_largest_change_comes_first_and_what_cannot_change_not_at_all(report: DifficultyReport) -> None:
    """The context is the same for all samples, and a family that does not apply has no typical value."""
    found = report.what_would_change(4)
    assert sorted(found["family"]) == ["confidence", "neighbours"]
    assert found["change"].abs().is_monotonic_decreasing


def test_a_sentence_says_what_the_row_says(report: DifficultyReport) -> None:
    """Percentiles and tiers of before and after; a tier or a forecast that stays is said to stay."""
    endings = set()
    for index in range(0, 120, 11):
        for row in report.what_would_change(index, "retrain").itertuples():
            words = {"confidence": "the model's confidence in it", "neighbours": "its neighbourhood"}[row.family]
            now, then = f"{row.percentile_now:.2f}", f"{row.percentile:.2f}"
            if row.tier != row.tier_now:
                end = f"would be {then} ({row.tier}) instead of {now} ({row.tier_now})"
            else:
                end = f"would stay {now} ({row.tier})"
                end = end if now == then else f"would be {then} instead of {now}, still {row.tier}"
            assert row.sentence == f"if {words} were typical for its class, the forecast {end}"
            endings.add(row.sentence.split(" ")[-1 if row.tier != row.tier_now else -2])
    assert len(endings) > 2


def test_without_labels_the_whole_model_is_typical(report: DifficultyReport) -> None:
    """An explainer that knows no classes takes the medians of all samples, and says so."""
    explainer = Explainer(report.predictor, report.factors)
    found = what_would_change(explainer, 4, "retrain").set_index("family")
    row = report.factors.values.loc[[4], FEATURES].copy()
    columns = ["neighbour_share", "neighbour_share_quantile"]
    row[columns] = report.factors.values[columns].median().to_numpy()
    then = report.predictor.predict(row, "retrain")["percentile"].item()
    assert found.loc["neighbours", "percentile"] == pytest.approx(then)
    assert found["sentence"].str.contains("typical for this model").all()


def test_a_sample_that_is_typical_in_everything_has_nothing_to_change(report: DifficultyReport) -> None:
    """No rows, and the columns are there."""
    values = report.factors.values.copy()
    values[:] = np.tile(values.iloc[0].to_numpy(), (len(values), 1))
    table = report.factors.__class__(values, report.factors.not_applicable, report.factors.factors)
    found = what_would_change(Explainer(report.predictor, table), 3, "erase")
    assert found.empty
    assert "sentence" in found


def test_a_report_and_its_explainer_say_the_same(report: DifficultyReport) -> None:
    """The method asks the function; samples and objectives that do not exist are refused."""
    pd.testing.assert_frame_equal(report.what_would_change(9, "erase"), what_would_change(report.explainer, 9, "erase"))
    with pytest.raises(IndexRangeError, match="from 0 to 119"):
        report.what_would_change(500, "erase")
    with pytest.raises(UnknownNameError, match="objective"):
        report.what_would_change(5, "forget")
