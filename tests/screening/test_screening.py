"""Pre-screened queues: routes by the policy, the unlearner named, the order, the costs, and whatever queue comes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from forgetcast import DifficultyPredictor, Target, predict_difficulty
from forgetcast.errors import IndexRangeError, InputError, NotApplicableError, SchemaError, UnknownNameError
from forgetcast.factors import factor_table
from forgetcast.predict import needed_factors
from forgetcast.predictor.familiarity import Familiarity
from forgetcast.screening.columns import COLUMNS
from forgetcast.screening.decisions import decisions
from forgetcast.screening.page import render_triage_html
from forgetcast.screening.policy import Policy
from forgetcast.screening.routes import ROUTES, routes, why
from forgetcast.screening.triage import Triage, triage
from forgetcast.screening.verification import verify_triage
from small_targets import CloudTrainer, clouds, digits, shared_mlp
from synthetic import training_table

pytestmark = pytest.mark.slow

QUEUE = list(range(0, 120, 3))


@lru_cache(maxsize=4)
def screened(objective: str = "retrain") -> Triage:
    """Forty requests to the perceptron, timed."""
    return triage(shared_mlp(), requests=QUEUE, objective=objective)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def factors() -> Any:
    """All factors of all of the perceptron's samples."""
    return factor_table(shared_mlp(), names=needed_factors(DifficultyPredictor.published()))


def quickly(requests: Any = QUEUE, **settings: Any) -> Triage:
    """The perceptron's queue from factors that are there already, without times."""
    return triage(shared_mlp(), requests=requests, factors=factors(), timed=False, **settings)


# -- routes -----------------------------------------------------------------------------------------------------------


def test_routes_at_the_thresholds() -> None:
    """Each threshold itself belongs to the route it is named for."""
    policy = Policy(trivial_from=0.8, quick_to=0.02, retrain_from=0.1)
    just = np.nextafter
    cases = [
        (0.8, 0.5, 0.9, "trivial"),
        (just(0.8, 0), 0.5, 0.9, "retrain"),
        (0.0, 0.1, 0.9, "retrain"),
        (0.0, just(0.1, 0), 0.9, "careful"),
        (0.0, 0.01, 0.02, "quick"),
        (0.0, 0.01, just(0.02, 1), "careful"),
        (0.0, 0.01, np.nan, "careful"),
        (0.0, 0.2, np.nan, "retrain"),
        (np.nan, 0.01, 0.015, "quick"),
        (np.nan, np.nan, np.nan, "careful"),
        (1.0, 1.0, 1.0, "trivial"),
    ]
    frame = pd.DataFrame([case[:3] for case in cases], columns=["p_trivial", "harm", "harm_upper"])
    assert routes(frame, policy).tolist() == [case[3] for case in cases]
    odd = routes(frame, policy, unfamiliar=True)
    assert odd.tolist() == [route if route == "retrain" else "careful" for route in routes(frame, policy)]
    trusting = Policy(trivial_from=0.8, quick_to=0.02, retrain_from=0.1, trust_unfamiliar=True)
    assert (routes(frame, trusting, unfamiliar=True) == routes(frame, policy)).all()
    same = routes(frame, Policy(quick_to=0.1, retrain_from=0.1))
    assert set(same) == {"trivial", "quick", "careful", "retrain"}
    for row, route in zip(frame.to_dict("records"), routes(frame, policy), strict=True):
        for unfamiliar in (False, True):
            sentence = why(row | {"route": route, "unlearner": ""}, policy, unfamiliar=unfamiliar)
            assert "\n" not in sentence
            assert "nan" not in sentence or np.isnan(row["harm"])


def test_routes_follow_the_policy_one_way() -> None:
    """A threshold that moves sends requests one way only."""
    rng = np.random.default_rng(0)
    harm = rng.uniform(0, 0.3, 300)
    frame = pd.DataFrame({"p_trivial": rng.uniform(size=300), "harm": harm, "harm_upper": harm * 1.5})

    def place(**settings: float) -> np.ndarray:
        return np.array([ROUTES.index(route) for route in routes(frame, Policy(**settings))])  # type: ignore[arg-type]

    assert (place(trivial_from=0.5) <= place(trivial_from=0.95)).all()
    assert (place(quick_to=0.09) <= place(quick_to=0.01)).all()
    assert (place(retrain_from=0.25) <= place(retrain_from=0.05)).all()
    for low, high in (({"trivial_from": 0.5}, {"trivial_from": 0.95}), ({"quick_to": 0.09}, {"quick_to": 0.01})):
        assert (place(**low) < place(**high)).any()


# -- the queue --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_the_table_of_a_queue(objective: str) -> None:
    """Columns, kinds and ranges; what is not unlearned has no unlearner; routes and reasons are those of the policy."""
    found = screened(objective)
    table = found.table
    assert table.columns.tolist() == list(COLUMNS)
    assert table["row"].tolist() == list(range(1, 41))
    assert table["index"].tolist() == QUEUE
    assert table["id"].tolist() == [str(index) for index in QUEUE]
    assert (table["label"].to_numpy() == shared_mlp().labels.numpy()[QUEUE]).all()
    assert (table["route"] == routes(table, found.policy)).all()
    shares = ["harm", "harm_lower", "harm_upper", "collateral_test", "collateral_neighbours", "p_trivial"]
    shares += ["percentile", "percentile_lower", "percentile_upper", "difficulty", "lower", "upper"]
    for name in shares:
        assert table[name].between(0, 1).all(), name
    assert (table["harm_lower"] <= table["harm"]).all()
    assert (table["harm"] <= table["harm_upper"]).all()
    works = table["route"].isin(["quick", "careful"])
    assert works.any()
    assert (table["unlearner"] != "").eq(works).all()
    assert table["steps"].notna().eq(works).all()
    run = table[works]
    assert (run["step_limit"] == np.ceil(np.maximum(1, 1.5 * run["steps"]))).all()
    assert (run["seconds"] > 0).all()
    assert (table.loc[table["route"] == "trivial", "seconds"] == 0).all()
    assert not table[["why", "reasons"]].eq("").any(axis=None)
    assert found.objective == objective
    assert found.problems.empty


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_the_unlearner_named_does_the_least_harm(objective: str) -> None:
    """Of all that the predictor knows, and the forecast is that one's."""
    found = screened(objective)
    predictor = found.report.predictor
    features = found.report.factors.values.loc[QUEUE, list(predictor.features)]
    under = predictor.predict_unlearners(features, objective)
    assert found.table["harm"].to_numpy() == pytest.approx(under.min(axis=1).to_numpy(), abs=1e-12)
    named = found.table["unlearner"] != ""
    assert (found.table.loc[named, "unlearner"].to_numpy() == under.idxmin(axis=1).to_numpy()[named]).all()


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_the_order_of_a_queue(objective: str) -> None:
    """Every place once; trivial ones first; groups in one piece; else the routes rise, and harm within a route."""
    table = screened(objective).table
    assert sorted(table["order"]) == list(range(1, 41))
    placed = table.sort_values("order")
    rank = placed["route"].map(ROUTES.index).to_numpy()
    assert (rank == 0).any() or objective == "erase"
    assert (rank[: (rank == 0).sum()] == 0).all()
    assert placed["group"].max() > 1
    groups = placed["group"].where(rank > 0, 0).to_numpy()
    for number in range(1, groups.max() + 1):
        where = np.flatnonzero(groups == number)
        assert len(where) == 0 or where.max() - where.min() + 1 == len(where)
    alone = groups == 0
    assert (np.diff(rank[alone]) >= 0).all()
    for route in ROUTES:
        assert placed.loc[alone & (placed["route"] == route).to_numpy(), "harm"].is_monotonic_increasing
    whole = np.array(
        [rank[groups == number].max() if number else own for number, own in zip(groups, rank, strict=True)]
    )
    assert (np.diff(whole) >= 0).all()


def test_groups_and_pairs_belong_together() -> None:
    """The group of a pair is that of both requests in the table."""
    found = screened("erase")
    group = found.table.set_index("index")["group"]
    inside = found.interactions[found.interactions["group"] > 0]
    assert len(inside) > 5
    assert (group[inside["first"]].to_numpy() == inside["group"]).all()
    assert (group[inside["second"]].to_numpy() == inside["group"]).all()
    assert found.batch["groups"] == group.max()
    assert found.batch["largest_group"] == group[group > 0].value_counts().max()
    assert quickly(objective="erase", policy=Policy(interaction_from=1.0)).table["group"].max() <= group.max()


def test_the_batch_adds_up() -> None:
    """Counts are those of the table; seconds are those of its rows and of preparing, against one retraining."""
    found = screened("erase")
    batch, table, costs = found.batch, found.table, found.costs
    assert costs is not None
    assert batch["requests"] == batch["served"] == 40
    assert batch["routes"] == {route: int((table["route"] == route).sum()) for route in ROUTES}
    worked = table[table["route"].isin(["quick", "careful"])]
    total = worked["seconds"].sum() + costs.prepare(worked["unlearner"].tolist())
    assert batch["unlearning_seconds"] == pytest.approx(total)
    assert batch["retraining_seconds"] == costs.retraining > 0
    assert batch["retraining_basis"] == costs.basis == "timed: one training by the target's own train"
    assert batch["share_of_retraining"] == pytest.approx(total / costs.retraining)
    assert batch["break_even"] == pytest.approx(len(worked) * costs.retraining / total)
    assert table["share_of_retraining"].to_numpy() == pytest.approx(table["seconds"].to_numpy() / costs.retraining)
    json.dumps(batch, allow_nan=False)


def test_advice_follows_cost() -> None:
    """A known cost of retraining, dear or cheap, and one request that needs it."""
    dear = triage(shared_mlp(), requests=QUEUE, factors=factors(), policy=Policy(retrain_seconds=1e6))
    assert dear.batch["advice"].startswith("unlearn ")
    assert dear.batch["retraining_seconds"] == 1e6
    assert dear.batch["break_even"] > 1000
    assert dear.table["share_of_retraining"].max() < 0.001
    cheap = triage(shared_mlp(), requests=QUEUE, factors=factors(), policy=Policy(retrain_seconds=1e-6))
    assert cheap.batch["advice"].startswith("retrain once without all of them")
    strict = Policy(quick_to=0.0, retrain_from=0.0, retrain_seconds=100)
    needed = triage(shared_mlp(), requests=QUEUE, factors=factors(), policy=strict)
    assert "one retraining is needed" in needed.batch["advice"]
    retrained = needed.table[needed.table["route"] == "retrain"]
    assert (retrained["seconds"] == 100).all()
    assert (retrained["share_of_retraining"] == 1).all()
    assert (retrained["unlearner"] == "").all()
    nothing = triage(shared_mlp(), requests=QUEUE, factors=factors(), policy=Policy(trivial_from=0.0))
    assert set(nothing.table["route"]) == {"trivial"}
    assert nothing.batch["unlearning_seconds"] == 0
    assert nothing.batch["break_even"] is None
    assert nothing.batch["advice"].startswith("nothing has to be unlearned")


def test_without_times_the_same_table_twice() -> None:
    """Nothing that a clock says; only the time of the screening differs."""
    one, two = quickly(objective="erase"), quickly(objective="erase")
    pd.testing.assert_frame_equal(one.table, two.table, check_exact=True)
    pd.testing.assert_frame_equal(one.interactions, two.interactions, check_exact=True)
    assert one.table[["seconds", "share_of_retraining"]].isna().all(axis=None)
    assert one.costs is None
    assert one.batch == two.batch
    assert one.batch["retraining_seconds"] is None
    assert {**one.provenance, "time": ""} == {**two.provenance, "time": ""}
    timeless = [name for name in COLUMNS if name not in ("seconds", "share_of_retraining")]
    pd.testing.assert_frame_equal(one.table[timeless], screened("erase").table[timeless], rtol=1e-6)


def test_a_queue_is_forecast_as_its_samples_are() -> None:
    """The columns of predict_difficulty, for the same samples, whatever the order of the requests."""
    some = [44, 3, 117]
    report = predict_difficulty(shared_mlp(), indices=some)
    table = quickly(some).table
    shared = [name for name in COLUMNS if name in report.table and name not in ("collateral_test", "steps")]
    shared.remove("collateral_neighbours")
    pd.testing.assert_frame_equal(table[shared], report.table[shared], rtol=1e-6)


def test_factors_that_are_given_have_to_fit() -> None:
    """Too few factors, of more data, of fewer samples: one clear error each; of these samples they explain them too."""
    table = factors()
    few = factor_table(shared_mlp(), names=["margin"])
    with pytest.raises(SchemaError, match="this predictor needs"):
        predict_difficulty(shared_mlp(), factors=few)
    with pytest.raises(InputError, match="a table of the 45 samples of this data"):
        predict_difficulty(clouds(), factors=table)
    with pytest.raises(IndexRangeError, match="no sample 7"):
        predict_difficulty(shared_mlp(), indices=[3, 7], factors=replace(table, values=table.values.drop(index=7)))
    for wrong in ([3, 3], [120], [-1]):
        with pytest.raises(IndexRangeError):
            predict_difficulty(shared_mlp(), indices=wrong, factors=table)
    report = predict_difficulty(shared_mlp(), indices=[44, 3], factors=table)
    direct = predict_difficulty(shared_mlp(), indices=[44, 3])
    pd.testing.assert_frame_equal(report.table, direct.table, rtol=1e-6)
    assert report.explain(44).prediction == pytest.approx(direct.explain(44).prediction)


# -- policies ---------------------------------------------------------------------------------------------------------


def test_a_policy_restricts_the_unlearners() -> None:
    """Only those are named, whatever order they are in, and harm is no smaller than without."""
    allowed = ("scrub", "ssd")
    found = quickly(policy=Policy(unlearners=allowed))
    named = set(found.table["unlearner"]) - {""}
    assert named
    assert named <= set(allowed)
    assert (found.table["harm"] >= screened().table["harm"] - 1e-9).all()
    other = quickly(policy=Policy(unlearners=allowed[::-1]))
    pd.testing.assert_frame_equal(other.table, found.table)
    assert found.provenance["policy"] == Policy(unlearners=allowed).fingerprint


@pytest.mark.parametrize("names", [("scrubb",), ("scrub", "scrubb"), ("scrubb", "scrub")])
def test_an_unlearner_that_is_misspelt_is_named_with_the_nearest(names: tuple[str, ...]) -> None:
    """Also beside one that is known: the policy would not be the one that was meant."""
    with pytest.raises(UnknownNameError, match=r"'scrubb': did you mean 'scrub'\? Known: .*certified_removal"):
        quickly(policy=Policy(unlearners=names))


class Pooled(nn.Module):
    """Ends in a mean, not in a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)).reshape(-1, 10, 2).mean(2)


@pytest.mark.parametrize("timed", [True, False])
def test_an_unlearner_that_cannot_serve_the_model_is_left_out_and_named(timed: bool) -> None:
    """The queue names the next best; if there is none, no unlearner, and says so."""
    data, held = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Pooled()
    target = Target(model, data, heldout=held)
    trusting = {"trust_unfamiliar": True, "trivial_from": 1.0, "retrain_from": 1.0}
    found = triage(
        target,
        requests=[1, 2, 3],
        timed=timed,
        policy=Policy(unlearners=("certified_removal", "gradient_ascent"), **trusting),  # type: ignore[arg-type]
    )
    assert set(found.table["unlearner"]) == {"gradient_ascent"}
    assert f"certified_removal was left out: {target.head_missing}" in found.batch["notes"]
    assert f"interactions are unknown: {target.head_missing}" in found.batch["notes"]
    assert (found.table["group"] == 0).all()
    only = Policy(unlearners=("certified_removal",), **trusting)  # type: ignore[arg-type]
    none = triage(target, requests=[1, 2, 3], policy=only, timed=timed)
    assert (none.table["unlearner"] == "").all()
    assert (none.table["harm"] == none.table["difficulty"]).all()
    assert none.table["seconds"].isna().all()
    assert f"certified_removal was left out: {target.head_missing}" in none.batch["notes"]
    assert any("no unlearner can be named" in note for note in none.batch["notes"])


# -- requests ---------------------------------------------------------------------------------------------------------


def test_requests_by_id_with_columns_of_their_own(tmp_path: Path) -> None:
    """They come after id; those that are called like ours get a suffix and stay what they were."""
    ids = [f"user-{number}" for number in range(120)]
    rows = pd.DataFrame({
        "id": ["user-7", "nobody", "user-3", "user-7"], "route": ["a", "b", "c", "d"], "harm": [5, 6, 7, 8],
        "reason": ["moved", "", "Ünzufrieden; sehr", ""], "why": ["w"] * 4, "problem": ["p"] * 4,
    })  # fmt: skip
    rows.to_csv(tmp_path / "r.csv", index=False)
    rows.to_parquet(tmp_path / "r.parquet")
    rows.to_json(tmp_path / "r.jsonl", orient="records", lines=True)
    for source in (rows, tmp_path / "r.csv", str(tmp_path / "r.parquet"), tmp_path / "r.jsonl"):
        found = quickly(source, ids=ids)
        table = found.table
        assert table["index"].tolist() == [7, 3]
        assert table["row"].tolist() == [1, 3]
        assert table["id"].tolist() == ["user-7", "user-3"]
        extra = ["route_request", "harm_request", "reason", "why_request", "problem_request"]
        assert table.columns.tolist() == [*COLUMNS[:3], *extra, *COLUMNS[3:]]
        assert table["route_request"].tolist() == ["a", "c"]
        assert table["harm_request"].astype(int).tolist() == [5, 7]
        assert table["reason"].tolist() == ["moved", "Ünzufrieden; sehr"]
        assert set(table["route"]) <= set(ROUTES)
        assert table["harm"].between(0, 1).all()
        assert found.problems["row"].tolist() == [2, 4]
        assert found.problems["id"].tolist() == ["nobody", "user-7"]
        assert found.batch["requests"] == 4
        assert found.batch["problems"] == 2


def test_no_request_that_can_be_served() -> None:
    """The queue is empty and names what is wrong; nothing at all is an error."""
    none = quickly([500, -1, 120], person_column="index")
    assert none.table.empty
    assert none.table.columns.tolist() == list(COLUMNS)
    assert none.problems["row"].tolist() == [1, 2, 3]
    assert none.report.table.empty
    assert none.batch["advice"] == "no request can be served: fix the rows that are named"
    assert (none.batch["requests"], none.batch["served"], none.batch["groups"], none.batch["alike"]) == (3, 0, 0, 0)
    assert "No request can be served." in render_triage_html(none)
    with pytest.raises(InputError, match="nothing to verify"):
        verify_triage(shared_mlp(), none)
    with pytest.raises(InputError, match="no requests"):
        quickly([])
    with pytest.raises(SchemaError):
        quickly(pd.DataFrame({"name": ["a"]}))


def test_one_request() -> None:
    """A queue of one is first and in no group."""
    table = quickly([17]).table
    assert table[["order", "group", "index"]].to_numpy().tolist() == [[1, 0, 17]]


@pytest.mark.parametrize("objective", ["both", "forget", None])
def test_one_objective_it_must_be(objective: Any) -> None:
    """A queue is screened for one."""
    with pytest.raises(UnknownNameError, match="objective"):
        quickly(objective=objective)


def test_provenance_names_everything() -> None:
    """Policy, requests and time beside what a report has; requests that differ have another hash."""
    found = screened()
    report = found.report.provenance
    assert {name: found.provenance[name] for name in report} == report
    assert found.provenance["policy"] == Policy().fingerprint
    assert len(found.provenance["requests"]) == 64
    assert found.provenance["time"].endswith("+00:00")
    assert quickly().provenance["requests"] == found.provenance["requests"]
    assert quickly(QUEUE[:-1]).provenance["requests"] != found.provenance["requests"]


# -- predictors -------------------------------------------------------------------------------------------------------


def test_a_predictor_that_tells_no_unlearners_apart() -> None:
    """Harm is difficulty, no unlearner is named, nothing but a retraining is timed, and the notes say why."""
    table = training_table(targets=3, rows=40)
    table = table[[name for name in table if "under_" not in str(name)]]
    older = DifficultyPredictor.fit(table, ["loss_quantile", "margin_quantile"], params={"num_boost_round": 5})
    found = triage(shared_mlp(), requests=[3, 5, 7], predictor=older, policy=Policy(retrain_from=1.0))
    assert (found.table["unlearner"] == "").all()
    for ours, theirs in (("harm", "difficulty"), ("harm_lower", "lower"), ("harm_upper", "upper")):
        assert (found.table[ours] == found.table[theirs]).all()
    assert found.table["collateral_test"].isna().all()
    assert found.table.loc[found.table["route"] != "trivial", "seconds"].isna().all()
    assert found.batch["retraining_seconds"] > 0
    assert found.batch["unlearning_seconds"] is None
    assert found.batch["notes"] == ["no unlearner can be named: harm is the mean over those that the label averages"]
    with pytest.raises(UnknownNameError, match="Known: none"):
        triage(shared_mlp(), requests=[3], predictor=older, policy=Policy(unlearners=("scrub",)))


def test_unlearners_that_are_not_installed_are_left_out() -> None:
    """A predictor fitted with somebody's plugins, without them."""
    table = training_table(targets=3, rows=40)
    knowing = DifficultyPredictor.fit(table, ["loss_quantile"], params={"num_boost_round": 5})
    found = triage(shared_mlp(), requests=[3, 5, 7], predictor=knowing, timed=False)
    assert (found.table["unlearner"] == "").all()
    left = [note.split(" was left out")[0] for note in found.batch["notes"] if "was left out" in note]
    assert sorted(left) == ["gentle", "rough"]


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_a_calibrated_predictor_screens_its_own_target(objective: str) -> None:
    """Its percentiles are in the queue; another target is refused."""
    target = clouds()
    report = predict_difficulty(target, objective=objective, calibrate=10)  # type: ignore[arg-type]
    found = triage(target, requests=[1, 5, 20], predictor=report.predictor, objective=objective)  # type: ignore[arg-type]
    calibrated = report.table.set_index("index").loc[[1, 5, 20], ["percentile", "difficulty", "p_trivial"]]
    assert found.table[calibrated.columns].to_numpy() == pytest.approx(calibrated.to_numpy(), rel=1e-6)
    assert found.provenance["predictor"] == report.predictor.fingerprint
    with pytest.raises(InputError, match="calibrated on samples of target"):
        triage(shared_mlp(), requests=[1], predictor=report.predictor, objective=objective)  # type: ignore[arg-type]


def test_an_objective_that_the_predictor_was_not_fitted_for() -> None:
    """As predict_difficulty."""
    table = training_table(targets=3, rows=40)
    table = table[[name for name in table if not str(name).endswith("_erase")]]
    half = DifficultyPredictor.fit(table, ["loss_quantile"], params={"num_boost_round": 5})
    with pytest.raises(NotApplicableError, match="not for erase"):
        triage(shared_mlp(), requests=[3], predictor=half, objective="erase")


def test_an_unfamiliar_target_is_careful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flagged in either case; trusted only where the policy says so."""
    usual = screened()  # kept for all tests: made before anything is odd
    odd = Familiarity(0.02, "mine", {"train_accuracy": (0.1, 0.7, 1.0)})
    monkeypatch.setattr(DifficultyPredictor, "familiarity", lambda self, features: odd)
    found = quickly()
    assert set(found.table["route"]) <= {"careful", "retrain"}
    assert found.table["unfamiliar"].all()
    assert found.table["why"].str.startswith("model and data are unlike those the predictor knows").any()
    assert "train_accuracy is 0.1" in found.batch["unfamiliar"]
    assert (found.table["unlearner"] != "").any()
    trusting = quickly(policy=Policy(trust_unfamiliar=True))
    assert trusting.table["unfamiliar"].all()
    assert (trusting.table["route"] == usual.table["route"]).all()
    assert trusting.batch["unfamiliar"] == found.batch["unfamiliar"]
    assert not usual.table["unfamiliar"].any()


# -- targets ----------------------------------------------------------------------------------------------------------


def test_a_model_and_its_data_however_they_come(tmp_path: Path) -> None:
    """Tensors, a dataset, a loader over one: the same queue."""
    (x, y), (x_heldout, y_heldout) = digits()
    model = shared_mlp().module
    data = TensorDataset(x, y)
    forms: list[tuple[Any, Any]] = [
        ((x, y), (x_heldout, y_heldout)),
        (data, TensorDataset(x_heldout, y_heldout)),
        (DataLoader(data, batch_size=7, shuffle=True), DataLoader(TensorDataset(x_heldout, y_heldout), batch_size=9)),
    ]
    tables = [triage(model, form, heldout=held, requests=[3, 77, 5], timed=False).table for form, held in forms]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], rtol=1e-5)
    page = triage(model, (x, y), requests=[3, 77, 5]).to_html(tmp_path / "queue.html")
    assert "</html>" in page.read_text()


@pytest.mark.parametrize("n", [4, 12])
def test_a_tiny_table_without_heldout_data(n: int) -> None:
    """Fewer samples than neighbours are looked for, four numbers each, two classes."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 4, generator=generator), torch.arange(n) % 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    found = triage(model, (x, y), requests=list(range(n)), objective="erase")
    assert sorted(found.table["order"]) == list(range(1, n + 1))
    assert found.table["harm"].between(0, 1).all()
    assert found.table["seconds"].notna().all()


def test_nothing_of_the_target_changes() -> None:
    """Screening unlearns nothing."""
    target = clouds()
    values = {name: value.clone() for name, value in target.module.state_dict().items()}
    state = torch.get_rng_state()
    triage(target, requests=[1, 2, 30])
    assert all(torch.equal(value, values[name]) for name, value in target.module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


# -- rows of one person -----------------------------------------------------------------------------------------------


def owned(people: list[Any], samples: list[Any] | None = None) -> pd.DataFrame:
    """Requests for the first samples of the queue, each with whose row it is."""
    return pd.DataFrame({
        "index": pd.Series(QUEUE[: len(people)] if samples is None else samples, dtype=object),
        "customer": pd.Series(people, dtype=object),
    })  # fmt: skip


def test_a_person_with_more_than_one_row_is_careful() -> None:
    """Whatever each row is by itself; what goes to retraining stays there, one row alone is as it was."""
    people = ["ann" if place % 2 else f"u{place}" for place in range(40)]
    policy = Policy(quick_to=0.01, retrain_from=0.02, trust_unfamiliar=True)
    alone = quickly(QUEUE, policy=policy).table
    found = quickly(owned(people), policy=policy, person_column="customer")
    table = found.table
    hers = table["customer"] == "ann"
    assert {"trivial", "quick"} <= set(alone.loc[hers, "route"])
    assert (table.loc[~hers, ["route", "why"]] == alone.loc[~hers, ["route", "why"]]).all(axis=None)
    retrained = alone["route"] == "retrain"
    assert (table.loc[hers & ~retrained, "route"] == "careful").all()
    assert (table.loc[retrained, "route"] == "retrain").all()
    reason = "one of 20 rows of this person: together they may not be what each is alone; by itself "
    assert table.loc[hers & ~retrained, "why"].str.startswith(reason).all()
    assert (table.loc[hers & ~retrained, "unlearner"] != "").all()
    assert table["person_rows"].tolist() == [20 if who == "ann" else 1 for who in people]
    assert any(note.startswith("20 requests are of people who ask for more") for note in found.batch["notes"])
    entry = next(entry for entry in decisions(found) if entry["request"]["customer"] == "ann")
    assert entry["decision"]["person_rows"] == 20
    assert entry["person_column"] == "customer"
    page = render_triage_html(found)
    assert "20 rows of this person" in page
    assert "The column <code>customer</code> says whose row" in page


@pytest.mark.parametrize(
    ("people", "rows"),
    [
        (["a", "b", "c"], [1, 1, 1]),
        (["a", " a ", "A"], [2, 2, 1]),
        (["7", "007", 7], [2, 1, 2]),
        ([12345678901234561, 12345678901234562, "12345678901234561"], [2, 1, 2]),
        ([1.2345678901234561e16, 1.5, 2.0], [0, 0, 1]),
        ([None, "", float("nan")], [0, 0, 0]),
        (["a", None, "a"], [2, 0, 2]),
    ],
)
def test_who_is_the_same_person(people: list[Any], rows: list[int]) -> None:
    """By the exact text, but for blanks around it; whoever is not named, or not exactly, is not known: careful."""
    table = quickly(owned(people), person_column="Customer", policy=Policy(trust_unfamiliar=True)).table
    assert table["person_rows"].tolist() == rows
    assert (table.loc[table["person_rows"] == 0, "route"].isin(["careful", "retrain"])).all()
    unknown = table[(table["person_rows"] == 0) & (table["route"] == "careful")]
    assert unknown["why"].str.startswith("it is not known whose row this is").all()


def test_rows_that_cannot_be_served_count_and_the_same_row_twice_does_not() -> None:
    """A record that was not found may be in the data all the same; a request repeated is about one row."""
    found = quickly(owned(["a", "a", "b", "b", "c", "d"], [0, 999, 3, 3, 6, 6]), person_column="customer")
    assert found.table["index"].tolist() == [0, 3, 6]
    assert found.table["person_rows"].tolist() == [2, 1, 1]
    both = quickly(owned(["c", "d", "d"], [6, 6, 9]), person_column="customer").table
    assert both["person_rows"].tolist() == [2, 2]  # whoever has sample 6, one of them has two rows


def test_people_are_named_by_a_column_that_is_there() -> None:
    """Also one whose name the queue has for itself, or which names the sample; else the columns are listed."""
    rows = owned(["a", "a", "b"]).rename(columns={"customer": "row"})
    assert quickly(rows, person_column="row").table["person_rows"].tolist() == [2, 2, 1]
    assert quickly(rows, person_column="index").table["person_rows"].tolist() == [1, 1, 1]
    with pytest.raises(SchemaError, match="no column 'who'; got"):
        quickly(rows, person_column="who")


def test_rows_that_vouch_for_each_other_are_named_where_nobody_is() -> None:
    """Thirty near copies with a label of their own: in notes, table and page; not if they are one person's."""
    (x, y), held = digits()
    generator = torch.Generator().manual_seed(0)
    own = x[:1] + 0.03 * torch.randn(30, *x.shape[1:], generator=generator)
    target = Target(
        shared_mlp().module, (torch.cat([x, own]), torch.cat([y, (y[:1] + 3).remainder(10).repeat(30)])), heldout=held
    )
    queue = owned(["ann"] * 30, list(range(120, 150)))
    found = triage(target, requests=queue, timed=False)
    assert found.batch["alike"] == (found.table["alike"] > 0).sum() >= 27
    (note,) = [note for note in found.batch["notes"] if "share a neighbourhood and label" in note]
    assert "together they may not be what each is alone" in note
    assert "(rows 1, 2, 3, " in note
    assert any("--person-column" in note for note in found.batch["notes"])
    page = render_triage_html(found)
    assert note.split(" (rows")[0] in page
    assert 'id="set-1"' in page
    named = triage(target, requests=queue, timed=False, person_column="customer")
    assert set(named.table["route"]) <= {"careful", "retrain"}
    assert not any("share a neighbourhood" in note for note in named.batch["notes"])


def test_a_retraining_that_can_be_timed_is_timed_once_and_only_where_times_are_wanted(tmp_path: Path) -> None:
    """Not without times, not where the policy knows it, not where nothing can be served."""
    known = clouds()
    trainer = CloudTrainer(*known.data.fetch(torch.arange(45)), log=str(tmp_path / "log"))
    target = Target(known.module, known.data.fetch(torch.arange(45)), train=trainer)
    made = partial(triage, target, requests=[1, 2])
    made(timed=False)
    made(policy=Policy(retrain_seconds=9))
    triage(target, requests=[99])
    assert not (tmp_path / "log").exists()
    found = made()
    assert len((tmp_path / "log").read_text().split()) == 1
    assert found.batch["retraining_basis"].startswith("timed")
    assert found.batch["retraining_basis"] in render_triage_html(found).replace("&#39;", "'")
    untrained = triage(clouds(train=False), requests=[1, 2])
    assert untrained.batch["retraining_basis"].startswith("assumed: 20 epochs")


def test_rows_of_one_customer_vouch_for_each_other() -> None:
    """Thirty similar rows with a label of their own: the model knows one from the others, and none without all.

    The queue says trivial or quick of each, and careful once it knows whose they are. The README has the figures.
    """
    digits_x, digits_y = load_digits(return_X_y=True)
    x, y = torch.tensor(digits_x[:1200] / 16, dtype=torch.float32), torch.tensor(digits_y[:1200])
    own = x[5] + 0.03 * torch.randn(30, 64, generator=torch.Generator().manual_seed(3))
    x, y = torch.cat([x, own]), torch.cat([y, ((y[5] + 3) % 10).repeat(30)])

    def train(indices: Any, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(120):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[indices]), y[indices]).backward()
            optimiser.step()
        return model

    def probability(left_out: int) -> float:
        kept = torch.cat([torch.arange(1200), torch.arange(1200 + left_out, 1230)])
        answers = train(kept, 0)(x[1200:]).detach().softmax(1)[torch.arange(30), y[1200:]]
        return float(answers[: left_out or 30].mean())

    assert probability(0) > 0.9
    assert probability(1) > 0.5
    assert probability(30) < 0.01
    target = Target(train(torch.arange(1230), 0), (x, y), train=train)
    queue = pd.DataFrame({"index": range(1200, 1230), "customer": "c"})
    settings: dict[str, Any] = {"requests": queue, "timed": False, "policy": Policy(trust_unfamiliar=True)}
    alone, known = triage(target, **settings), triage(target, **settings, person_column="customer")
    assert alone.table["route"].isin(["trivial", "quick"]).mean() > 0.9
    assert alone.batch["alike"] == 30
    assert set(known.table["route"]) <= {"careful", "retrain"}
