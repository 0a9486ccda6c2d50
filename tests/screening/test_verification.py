"""Forecasts of a queue checked by really unlearning: what is compared is what measuring gives."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forgetcast import DifficultyPredictor, measure
from forgetcast.corpus.labels import difficulty
from forgetcast.errors import InputError, NotApplicableError, UnknownNameError
from forgetcast.screening import verification
from forgetcast.screening.policy import Policy
from forgetcast.screening.routes import ROUTES
from forgetcast.screening.triage import Triage, triage
from forgetcast.screening.verification import Verified, verify_triage
from small_targets import clouds, shared_mlp
from synthetic import training_table

pytestmark = pytest.mark.slow

COLUMNS = [
    *("row", "id", "index", "route", "unlearner", "trivial", "p_trivial"),
    *("harm", "harm_lower", "harm_upper", "measured_harm", "inside", "steps", "measured_steps"),
    *("collateral_test", "measured_collateral_test", "collateral_neighbours", "measured_collateral_neighbours"),
    "reached",
]


@lru_cache(maxsize=4)
def queue(objective: str = "erase", **settings: Any) -> Triage:
    """Twenty requests to the perceptron, mislabelled samples among them."""
    wanted = [5, 40, 77, 111, *range(0, 96, 6)]
    return triage(shared_mlp(), requests=wanted, objective=objective, timed=False, policy=Policy(**settings))  # type: ignore[arg-type]


def checked(found: Triage, samples: int = 8, **settings: Any) -> Verified:
    """On the perceptron, few models trained."""
    few = {"oracle_groups": 3, "oracle_seeds": 1, "progress": False}
    return verify_triage(shared_mlp(), found, samples=samples, **few | settings)


def measured(table: pd.DataFrame, objective: str) -> pd.DataFrame:
    """What measuring gives for every row of a comparison, each under its own unlearner."""
    parts = []
    for name, part in table.groupby("unlearner"):
        outcomes, _ = measure(
            shared_mlp(), part["index"].tolist(), unlearners=[name], objectives=[objective], progress=False
        )
        parts.append(outcomes.assign(harm=difficulty(outcomes)))
    return pd.concat(parts).groupby("index")[["harm", "steps", "tv_test", "tv_neighbours"]].mean().loc[table["index"]]


def test_what_is_compared_is_what_measuring_gives() -> None:
    """Harm, steps and collateral, row by row; coverage counts what lies inside."""
    found = checked(queue())
    table = found.table
    assert table.columns.tolist() == COLUMNS
    assert len(table) == 8
    assert table["row"].is_monotonic_increasing
    wanted = measured(table, "erase")
    for name, theirs in (("harm", "harm"), ("steps", "steps"), ("collateral_test", "tv_test")):
        assert table[f"measured_{name}"].to_numpy() == pytest.approx(wanted[theirs].to_numpy(), rel=1e-6)
    neighbours = table["measured_collateral_neighbours"].to_numpy()
    assert neighbours == pytest.approx(wanted["tv_neighbours"].to_numpy(), rel=1e-6)
    inside = table["measured_harm"].between(table["harm_lower"], table["harm_upper"])
    counted = ~table["trivial"]
    assert table.loc[counted, "inside"].tolist() == inside[counted].tolist()
    assert found.coverage == (int(inside[counted].sum()), int(counted.sum()))
    forecast = queue().table.set_index("index").loc[table["index"]]
    named = forecast["unlearner"].to_numpy() != ""
    for name in ("harm", "harm_lower", "harm_upper", "p_trivial", "steps", "unlearner", "collateral_test"):
        assert (table[name].to_numpy() == forecast[name].to_numpy())[named].all()
    text = "\n".join(found.summary())
    assert f"{found.coverage[0]} of {found.coverage[1]} requests lies in its 90% interval" in text
    assert "order of harm: Spearman" in text


def test_requests_called_trivial_are_checked_too() -> None:
    """They have no unlearner of their own; those that are trivial count nowhere else."""
    found = checked(queue("retrain", trivial_from=0.5), samples=20)
    table = found.table
    assert len(table) == 20
    said = table["route"] == "trivial"
    assert said.any()
    assert (~said).any()
    right = int(table.loc[said, "trivial"].sum())
    assert found.summary()[0] == f"{right} of {int(said.sum())} requests called trivial are"
    assert (table["unlearner"] != "").all()
    assert table["steps"].notna().all()
    still = table[table["trivial"]]
    assert len(still)
    columns = ["measured_harm", "measured_steps", "measured_collateral_test", "measured_collateral_neighbours"]
    assert (still[columns] == 0).all(axis=None)
    assert still["inside"].isna().all()
    assert still["reached"].all()
    assert found.coverage[1] == len(found.unlearned) == (~table["trivial"]).sum()


def test_the_forecast_beside_a_measurement_is_of_the_same_unlearner() -> None:
    """Also for requests for which none was recommended: harm, steps and collateral."""
    source = queue("erase", retrain_from=0.0, quick_to=0.0)
    assert set(source.table["route"]) <= {"retrain", "trivial"}
    found = checked(source, samples=4, unlearner="scrub")
    assert set(found.table["unlearner"]) == {"scrub"}
    predictor = source.report.predictor
    features = source.report.factors.values.loc[found.table["index"], list(predictor.features)]
    wanted = predictor.predict_under(features, "erase", ["scrub"] * 4, level=0.9)
    pairs = {"harm": "difficulty", "harm_lower": "lower", "harm_upper": "upper"}
    for name in ("harm", "harm_lower", "harm_upper", "steps", "collateral_test", "collateral_neighbours"):
        assert found.table[name].to_numpy() == pytest.approx(wanted[pairs.get(name, name)].to_numpy())
    least = checked(source, samples=2)
    under = predictor.predict_unlearners(source.report.factors.values[list(predictor.features)], "erase").mean()
    assert set(least.table["unlearner"]) == {under.idxmin()}


@pytest.mark.parametrize("objective", ["erase", "retrain"])
def test_each_request_runs_under_its_own_unlearner(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two unlearners in one queue; retrained models are asked once, of all rows."""
    source = queue(objective, trivial_from=1.0, retrain_from=1.0, quick_to=1.0)
    table = source.table.assign(unlearner=["certified_removal", "gradient_ascent"] * 10)
    two = Triage(
        table, source.problems, source.interactions, source.batch, source.policy, source.report, objective,
        source.provenance,
    )  # fmt: skip
    calls: list[tuple[str, list[int], bool]] = []

    def counted(target: Any, indices: list[int], **settings: Any) -> Any:
        calls.append((settings["unlearners"][0], list(indices), settings["oracle"] is None))
        return measure(target, indices, **settings)

    monkeypatch.setattr(verification, "measure", counted)
    found = checked(two, samples=6)
    own = {name: part["index"].tolist() for name, part in found.table.groupby("unlearner", sort=False)}
    assert len(own) == 2
    assert [name for name, *_ in calls] == list(own)
    (first, second) = calls
    assert second[1] == own[second[0]]
    assert first[1] == (own[first[0]] if objective == "erase" else found.table["index"].tolist())
    assert [asked for *_, asked in calls] == ([True, True] if objective == "erase" else [True, False])
    if objective == "erase":
        wanted = measured(found.table, "erase")
        assert found.table["measured_harm"].to_numpy() == pytest.approx(wanted["harm"].to_numpy(), rel=1e-6)


def test_of_every_route_its_share_and_at_least_one() -> None:
    """No request twice; the same seed draws the same; more than there are is all."""
    route = np.array(["trivial"] * 50 + ["quick"] * 40 + ["careful"] * 9 + ["retrain"])
    drawn = verification._drawn(route, 20, 0)
    assert len(drawn) == len(set(drawn.tolist())) == 20
    counts = {name: int((route[drawn] == name).sum()) for name in ROUTES}
    assert counts["retrain"] == 1
    assert counts["careful"] >= 1
    assert 8 <= counts["quick"] <= 11
    assert 10 <= counts["trivial"] <= 13
    assert (verification._drawn(route, 20, 0) == drawn).all()
    assert (verification._drawn(route, 20, 1) != drawn).any()
    assert verification._drawn(route, 1000, 0).tolist() == list(range(100))
    assert {route[place] for place in verification._drawn(route, 1, 0)} == set(ROUTES)


def test_a_queue_of_another_model_is_refused() -> None:
    """Or of other data."""
    with pytest.raises(InputError, match="another model or other data: screen it for this one"):
        verify_triage(clouds(), queue(), progress=False)


@pytest.mark.parametrize("samples", [0, -1, 2.5, True, "3"])
def test_a_number_of_samples_that_cannot_be(samples: Any) -> None:
    """At least one, whole."""
    with pytest.raises(InputError, match="samples: expected a whole number"):
        checked(queue(), samples=samples)


def test_what_a_target_has_to_have() -> None:
    """Held-out data; for retrain a train callable; an unlearner that there is."""
    bare = clouds(heldout=False)
    source = triage(bare, requests=[1, 2, 3], objective="erase", timed=False)
    with pytest.raises(NotApplicableError, match="held-out"):
        verify_triage(bare, source, progress=False)
    fixed = clouds(train=False)
    source = triage(fixed, requests=[1, 2, 3], timed=False)
    with pytest.raises(NotApplicableError, match="train"):
        verify_triage(fixed, source, progress=False)
    with pytest.raises(UnknownNameError, match="did you mean 'scrub'"):
        checked(queue("erase", retrain_from=0.0, quick_to=0.0), unlearner="scrubb")


def test_a_predictor_that_names_no_unlearner() -> None:
    """One has to be given; then harm is compared, and steps as far as they are forecast."""
    rows = training_table(targets=3, rows=40)
    rows = rows[[name for name in rows if "under_" not in str(name)]]
    older = DifficultyPredictor.fit(rows, ["loss_quantile"], params={"num_boost_round": 5})
    source = triage(clouds(), requests=[1, 2, 3, 4, 5], objective="erase", predictor=older, timed=False)
    with pytest.raises(InputError, match="names no unlearner: give one"):
        verify_triage(clouds(), source, progress=False)
    found = verify_triage(clouds(), source, unlearner="gradient_ascent", progress=False)
    assert (found.table["harm"].to_numpy() == source.table["harm"].to_numpy()).all()
    assert found.coverage[1] == len(found.unlearned)
    assert found.summary()


def test_a_queue_where_everything_is_trivial() -> None:
    """Nothing to compare, and that is said."""
    rows = checked(queue("retrain", trivial_from=0.5), samples=20).table
    found = Verified(rows[rows["trivial"]], 0.9)
    assert found.coverage == (0, 0)
    assert found.summary()[-1] == "every request was trivial from the start: nothing to unlearn"
    assert np.isnan(found.agreement.rho)
