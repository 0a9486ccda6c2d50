"""Explanations add up, name the right clause, and never claim a difference that is not there."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from forgetcast.errors import InputError, NotApplicableError, UnknownNameError
from forgetcast.factors import Factor, FactorTable
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.report.explain import Explainer, Explanation, factor_of
from synthetic import FEATURES, training_table


def made_factor(name: str, family: str, **changes: object) -> Factor:
    """A factor with plain clauses; ``changes`` replace its fields."""
    fields: dict = {
        "name": name,
        "family": family,
        "title": f"Title of {name}. Shape (n,).",
        "source": "ours",
        "unit": "",
        "high": f"its {name} is higher than usual",
        "low": f"its {name} is lower than usual",
        "function": lambda: None,
        "probes": (),
        "settings": MappingProxyType({}),
        "per_target": False,
    }
    return Factor(**{**fields, **changes})


FACTORS = {
    "loss": made_factor(
        "loss",
        "confidence",
        unit="nats",
        high="its loss is higher than usual here ({value:.2f} nats)",
        low="its loss is lower than usual here ({value:.2f} nats)",
    ),
    "margin": made_factor("margin", "confidence", unit="logits"),
    "neighbour_share": made_factor(
        "neighbour_share",
        "neighbours",
        unit="share",
        high="{value:.0%} of its neighbours share its label",
        low="only {value:.0%} of its neighbours share its label",
    ),
    "noise": made_factor("noise", "neighbours"),
    "train_accuracy": made_factor(
        "train_accuracy",
        "context",
        unit="probability",
        high="the model fits its data well ({value:.1%})",
        low="the model fits its data badly ({value:.1%})",
        per_target=True,
    ),
}


@pytest.fixture(scope="module")
def predictor() -> DifficultyPredictor:
    """Fitted to five synthetic targets; small leaves, so that every column has some part."""
    params = {"num_boost_round": 60, "learning_rate": 0.1, "min_data_in_leaf": 5, "num_leaves": 20}
    return DifficultyPredictor.fit(training_table(5), FEATURES, params=params)


def factors_of(n: int = 50, seed: int = 4, **columns: object) -> FactorTable:
    """Factors of an unseen target; ``columns`` replace values."""
    values = training_table(1, n, seed=seed)[FEATURES].assign(**columns)
    return FactorTable(values.rename_axis("index"), {}, FACTORS)


@pytest.fixture(scope="module")
def explainer(predictor: DifficultyPredictor) -> Explainer:
    """Of an unseen target."""
    return Explainer(predictor, factors_of())


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_contributions_add_up_by_column_factor_and_family(
    explainer: Explainer, predictor: DifficultyPredictor, objective: str
) -> None:
    """Base plus contributions is the forecast, and every coarser sum is the same sum."""
    for index in (0, 17, 49):
        explanation = explainer.explain(index, objective)
        total = explanation.prediction - explanation.base
        for parts in (explanation.contributions, explanation.by_factor, explanation.by_family):
            assert parts.sum() == pytest.approx(total, abs=1e-6)
        row = explainer.table.values.loc[[index], FEATURES]
        clipped = predictor.predict(row, objective)["percentile"].item()
        assert np.clip(explanation.prediction, 0, 1) == pytest.approx(clipped, abs=1e-6)
        assert list(explanation.contributions.index) == FEATURES


def test_a_factor_owns_its_quantile_and_a_family_its_factors(explainer: Explainer) -> None:
    """Raw and quantile column go to one factor, factors to the family they name."""
    explanation = explainer.explain(3, "retrain")
    shap = explanation.contributions
    assert explanation.by_factor["loss"] == pytest.approx(shap["loss"] + shap["loss_quantile"])
    assert explanation.by_family["confidence"] == pytest.approx(explanation.by_factor[["loss", "margin"]].sum())
    assert set(explanation.by_family.index) == {"confidence", "neighbours", "context"}


def test_a_factor_whose_name_ends_like_a_quantile_is_itself() -> None:
    """An exact name wins over a name with the suffix taken off."""
    known = {"loss", "loss_quantile"}
    assert factor_of("loss_quantile", known) == "loss_quantile"
    assert factor_of("loss_quantile_quantile", known) == "loss_quantile"
    assert factor_of("other_quantile", known) is None


def test_many_explanations_equal_single_ones(explainer: Explainer) -> None:
    """The table for a plot holds what single explanations hold, in the order asked for."""
    indices = [40, 3, 17]
    many = explainer.explain_many(indices, "erase")
    assert many.indices.tolist() == indices
    assert many.contributions.index.tolist() == indices
    for index in indices:
        one = explainer.explain(index, "erase")
        assert many.base == one.base
        pd.testing.assert_series_equal(many.contributions.loc[index], one.by_factor, check_names=False)
        pd.testing.assert_series_equal(many.by_family.loc[index], one.by_family, check_names=False)
        assert many.values.loc[index, "loss"] == explainer.table.values.loc[index, "loss"]


def test_reasons_come_by_size_and_the_sample_before_the_model(explainer: Explainer) -> None:
    """Per-sample reasons by absolute contribution, then those that hold for the whole model."""
    for index in range(20):
        reasons = explainer.explain(index, "retrain").reasons
        own = [abs(reason.contribution) for reason in reasons if reason.factor != "train_accuracy"]
        assert own == sorted(own, reverse=True)
        if len(own) < len(reasons):
            assert reasons[-1].factor == "train_accuracy"
        assert {reason.factor for reason in reasons} <= set(FACTORS)


def test_the_direction_follows_the_sign_and_opens_the_sentence(explainer: Explainer) -> None:
    """Harder is a positive contribution; the sentence begins with it."""
    seen = set()
    for index in range(20):
        for reason in explainer.explain(index, "retrain").reasons:
            assert reason.direction == ("harder" if reason.contribution > 0 else "easier")
            assert reason.sentence.startswith(f"{reason.direction}: ")
            seen.add(reason.direction)
    assert seen == {"harder", "easier"}


def reason_for(explanation: Explanation, factor: str) -> str:
    """The sentence about one factor, without its direction."""
    return next(r.sentence.split(": ", 1)[1] for r in explanation.reasons if r.factor == factor)


def test_the_clause_is_chosen_by_the_quantile_and_says_what_is_typical(explainer: Explainer) -> None:
    """High above the middle of this model's samples, low below, each with the model's median."""
    values = explainer.table.values
    for index, clause in ((values["loss"].idxmax(), "higher"), (values["loss"].idxmin(), "lower")):
        expected = (
            f"its loss is {clause} than usual here ({values.loc[index, 'loss']:.2f} nats; "
            f"typical for this model: {values['loss'].median():.2f})"
        )
        assert reason_for(explainer.explain(int(index), "retrain"), "loss") == expected


def test_a_clause_without_a_value_gets_one_with_its_unit(explainer: Explainer) -> None:
    """What the author left out is added behind the clause."""
    values = explainer.table.values
    index = int(values["margin"].idxmax())
    sentence = reason_for(explainer.explain(index, "retrain"), "margin")
    value, median = values.loc[index, "margin"], values["margin"].median()
    expected = f"its margin is higher than usual ({value:,.3g} logits; typical for this model: {median:,.3g} logits)"
    assert sentence == expected


def test_no_difference_is_claimed_where_none_is_to_be_seen(predictor: DifficultyPredictor) -> None:
    """A value that reads like the median is called usual, whatever its quantile."""
    table = factors_of(neighbour_share=0.999, neighbour_share_quantile=0.9)
    sentence = reason_for(Explainer(predictor, table).explain(0, "retrain"), "neighbour_share")
    assert sentence == "title of neighbour_share: 100%, as usual for this model"


def test_a_context_factor_speaks_of_the_whole_model(predictor: DifficultyPredictor) -> None:
    """Its clause is chosen against the models learned from, and it is never among a sample's own sentences."""
    table = factors_of(train_accuracy=0.123)
    explainer = Explainer(predictor, table)
    typical = predictor.manifest["typical"]["train_accuracy"]
    sentences = [
        reason.sentence.split(": ", 1)[1]
        for index in range(20)
        for reason in explainer.explain(index, "retrain").reasons
        if reason.factor == "train_accuracy"
    ]
    assert set(sentences) == {
        "for the model as a whole: the model fits its data badly (12.3%; "
        f"typical of the models learned from: {typical:.1%})"
    }
    assert not any("as a whole" in text for text in explainer.sentences(range(50), "retrain"))


def test_a_factor_that_does_not_apply_says_so_with_its_reason(predictor: DifficultyPredictor) -> None:
    """Its contribution is kept, its sentence says that nothing was measured, and it comes last."""
    table = factors_of(loss=np.nan, loss_quantile=np.nan)
    table = FactorTable(table.values, {"loss": "the model has no last layer"}, FACTORS)
    explanation = Explainer(predictor, table).explain(0, "retrain")
    expected = "not measured: title of loss (the model has no last layer)"
    assert reason_for(explanation, "loss") == expected
    factors = [reason.factor for reason in explanation.reasons]
    assert set(factors[factors.index("loss") + 1 :]) <= {"train_accuracy"}
    assert explanation.by_factor["loss"] == pytest.approx(explanation.contributions[["loss", "loss_quantile"]].sum())


@pytest.mark.parametrize(
    ("clause", "value", "typical", "text"),
    [
        ("it is {value}", 0.000123456, 12345.6, "it is 0.000123 (typical for this model: 12,346)"),
        ("it is 10^{value:.1f}", 0.42, -0.41, "it is 10^0.4 (typical for this model: 10^-0.4)"),
        ("surer ({value:+.0%})", -0.001, 0.2, "surer (0%; typical for this model: +20%)"),
        ("{value:.0f} of {value:.1f}", 3.2, 1.0, "3 of 3.2 (typical for this model: 1)"),
    ],
)
def test_numbers_read_as_their_clause_wants_them(
    predictor: DifficultyPredictor, clause: str, value: float, typical: float, text: str
) -> None:
    """The format of the clause holds for the typical value too; there is no minus zero."""
    values = np.full(50, typical)
    values[0] = value
    factors = FACTORS | {"loss": made_factor("loss", "confidence", high=clause, low=clause)}
    table = FactorTable(factors_of(loss=values).values, {}, factors)
    assert reason_for(Explainer(predictor, table).explain(0, "retrain"), "loss") == text


def test_joined_sentences_are_the_first_reasons(explainer: Explainer) -> None:
    """The text in a report's table is what ``explain`` puts first, for every sample."""
    texts = explainer.sentences(range(50), "retrain", count=2)
    for index in (0, 9, 33):
        own = [r.sentence for r in explainer.explain(index, "retrain").reasons if r.factor != "train_accuracy"]
        assert texts[index] == "; ".join(own[:2])
    assert explainer.sentences([], "retrain") == []


def test_a_forecast_that_nothing_moves_has_no_reasons(predictor: DifficultyPredictor) -> None:
    """A constant head explains nothing and says nothing."""
    constant = DifficultyPredictor.fit(
        training_table(3).drop(columns="memorization").assign(percentile_retrain=0.5), FEATURES
    )
    explainer = Explainer(constant, factors_of())
    assert explainer.explain(0, "retrain").reasons == ()
    assert explainer.sentences([0, 1], "retrain") == ["", ""]


def test_an_unknown_objective_is_named(explainer: Explainer) -> None:
    """The known objectives are listed."""
    with pytest.raises(UnknownNameError, match="Known: erase, retrain"):
        explainer.explain(0, "forget")


def test_many_samples_are_explained_in_chunks_that_change_nothing(predictor: DifficultyPredictor) -> None:
    """Chunks give what one piece gives."""
    import forgetcast.report.explain as module

    table = factors_of(300)
    whole = Explainer(predictor, table).sentences(range(300), "erase")
    chunk, module.CHUNK = module.CHUNK, 64
    try:
        assert Explainer(predictor, table).sentences(range(300), "erase") == whole
    finally:
        module.CHUNK = chunk


# -- other heads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["percentile", "difficulty", "trivial", "steps", "collateral_neighbours"])
def test_every_head_is_taken_apart_on_its_own_scale(
    explainer: Explainer, predictor: DifficultyPredictor, head: str
) -> None:
    """Base plus contributions is what the head says: log-odds for the chance to be trivial, else its raw output."""
    for index in (0, 17):
        explanation = explainer.explain(index, "retrain", head)
        raw = predictor.heads("retrain")[head].raw(explainer.table.values.loc[[index], FEATURES].to_numpy())
        expected = logit(raw) if head == "trivial" else raw
        assert explanation.base + explanation.by_family.sum() == pytest.approx(expected.item(), abs=1e-6)
        assert explanation.prediction == pytest.approx(expected.item(), abs=1e-6)
        assert explanation.head == head


def test_more_likely_trivial_is_easier(explainer: Explainer) -> None:
    """The direction speaks of hardness, whatever the head counts."""
    for index in range(10):
        for reason in explainer.explain(index, "retrain", "trivial").reasons:
            assert reason.direction == ("easier" if reason.contribution > 0 else "harder")
            assert reason.sentence.startswith(f"{reason.direction}: ")


def test_what_cannot_be_taken_apart_says_why(explainer: Explainer) -> None:
    """A head that nobody knows, one that the corpus did not have, and a chance that is the same for all."""
    with pytest.raises(UnknownNameError, match=r"unknown head 'hardness'.*Known: .*difficulty"):
        explainer.explain(0, "retrain", "hardness")
    with pytest.raises(NotApplicableError, match="corpus without parameter_shift for retrain: explain percentile"):
        explainer.explain(0, "retrain", "parameter_shift")
    with pytest.raises(NotApplicableError, match="p_trivial for erase is 0 for every sample"):
        explainer.explain(0, "erase", "trivial")


# -- what is typical for the class ------------------------------------------------------------------------


def two_classes() -> tuple[FactorTable, np.ndarray]:
    """29 samples with a loss about 1 and 21 with one about 5."""
    labels = np.repeat([0, 1], [29, 21])
    loss = np.where(labels == 0, 1.0, 5.0) + np.linspace(-0.5, 0.5, 50)
    quantile = (loss.argsort().argsort() + 0.5) / 50
    return factors_of(loss=loss, loss_quantile=quantile, neighbour_share=np.where(labels == 0, 0.2, 0.8)), labels


def test_a_sample_is_compared_with_its_class(predictor: DifficultyPredictor) -> None:
    """The median is that of its class; where the class lies beyond the sample, that of the model is told too."""
    table, labels = two_classes()
    explainer = Explainer(predictor, table, labels)
    loss = table.values["loss"]
    usual = [f"{loss[labels == c].median():.2f}" for c in (0, 1)]
    highest = reason_for(explainer.explain(49, "retrain"), "loss")
    assert highest == f"its loss is higher than usual here ({loss[49]:.2f} nats; typical for its class: {usual[1]})"
    within = reason_for(explainer.explain(29, "retrain"), "loss")  # low for its class, high for the model
    assert within == (
        f"its loss is higher than usual here ({loss[29]:.2f} nats; compared with the whole model, where "
        f"{loss.median():.2f} is typical; in its class {usual[1]} is)"
    )
    middle = int((loss - loss[labels == 1].median()).abs().idxmin())
    assert reason_for(explainer.explain(middle, "retrain"), "loss") == (
        f"title of loss: {loss[middle]:.2f}, as usual for its class (typical for this model: {loss.median():.2f})"
    )
    assert "typical for its class" in "".join(explainer.sentences([49], "retrain", count=9))


def test_what_is_the_same_in_a_whole_class_is_compared_with_the_model(predictor: DifficultyPredictor) -> None:
    """The size of a class would be usual for the class, always."""
    table, labels = two_classes()
    sentence = reason_for(Explainer(predictor, table, labels).explain(0, "retrain"), "neighbour_share")
    assert "for its class" not in sentence


def test_a_small_class_is_compared_with_the_model(predictor: DifficultyPredictor) -> None:
    """Ten samples make a class typical, nine do not; its columns are then the model's."""
    table, _ = two_classes()
    labels = np.repeat([0, 1, 2], [31, 10, 9])
    explainer = Explainer(predictor, table, labels)
    expected = table.values[FEATURES]
    for index, where, rows in ((35, "class", expected[31:41]), (45, "model", expected)):
        medians, what = explainer.typical(index)
        assert what == where
        pd.testing.assert_series_equal(medians, rows.median(), check_names=False)
        sentences = "".join(reason.sentence for reason in explainer.explain(index, "retrain").reasons)
        assert ("for its class" in sentences) == (what == "class")


def test_labels_of_other_data_are_refused(predictor: DifficultyPredictor) -> None:
    """There must be one per sample of the table."""
    with pytest.raises(InputError, match="up to sample 49 at least"):
        Explainer(predictor, factors_of(), [0, 1, 2])
