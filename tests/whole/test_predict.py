"""From a model and its data to a report: a whole forecast on a small classifier, with every way to ask wrongly."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from boundaries import FORECASTING, among, measuring
from forgetcast.errors import IndexRangeError, InputError, NotApplicableError, PathError, SchemaError, UnknownNameError
from forgetcast.factors import factor_table
from forgetcast.predict import DifficultyReport, predict_difficulty
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.report.explain import Explanation, ExplanationSet
from forgetcast.target.target import Target
from synthetic import training_table

N = 40
COLUMNS = [
    "index",
    "objective",
    "label",
    "difficulty",
    "lower",
    "upper",
    "percentile",
    "percentile_lower",
    "percentile_upper",
    "p_trivial",
    "tier",
    "reasons",
]
FEATURES = ["loss", "loss_quantile", "margin", "margin_quantile", "entropy", "entropy_quantile", "classes"]
QUICK = {"num_boost_round": 40, "learning_rate": 0.1, "min_data_in_leaf": 5}


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Points of three overlapping classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % 3
    centres = torch.tensor([[0.0, 2], [2, 0], [-2, -2]])
    return centres[labels] + 1.2 * torch.randn(N, 2, generator=generator), labels


@pytest.fixture(scope="module")
def model(data: tuple[torch.Tensor, torch.Tensor]) -> nn.Module:
    """A small network in training mode with dropout and batch norm, fitted for a moment."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data[0]), data[1]).backward()
        optimizer.step()
    return net


@pytest.fixture(scope="module")
def predictor(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> DifficultyPredictor:
    """Fitted to labels that follow the real factors of the small network."""
    values = factor_table(Target(model, data), names=["loss", "margin", "entropy", "classes"]).values
    parts = []
    for number in range(3):
        rows = values.reset_index(drop=True).assign(target=f"target {number}", weight=1.0)
        rank = rows["loss_quantile"]
        for objective, percentile in {"retrain": rank, "erase": 1 - rank}.items():
            rows[f"percentile_{objective}"] = percentile
            rows[f"difficulty_{objective}"] = 0.2 * percentile
            rows[f"trivial_{objective}"] = (percentile < 0.4) & (objective == "retrain")
        parts.append(rows)
    return DifficultyPredictor.fit(pd.concat(parts, ignore_index=True), FEATURES, params=QUICK)


@pytest.fixture(scope="module")
def report(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], predictor: DifficultyPredictor
) -> DifficultyReport:
    """Both objectives, all samples."""
    return predict_difficulty(model, data, objective="both", predictor=predictor)


def test_every_sample_has_one_row_per_objective(
    report: DifficultyReport, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Index, label and objective are in order and every column is there."""
    table = report.table
    assert list(table.columns) == COLUMNS
    for objective in ("retrain", "erase"):
        rows = table[table["objective"] == objective]
        assert rows["index"].tolist() == list(range(N))
        assert rows["label"].tolist() == data[1].tolist()
    numbers = table[COLUMNS[3:10]].to_numpy(dtype=float)
    assert ((numbers >= 0) & (numbers <= 1)).all()
    assert table["reasons"].str.startswith(("harder: ", "easier: ")).all()


def test_the_forecast_follows_what_was_learned(report: DifficultyReport) -> None:
    """Samples with a high loss are hard to unlearn in the one sense and easy in the other."""
    loss = report.factors.values["loss"].to_numpy()
    for objective, sign in (("retrain", 1), ("erase", -1)):
        rows = report.table[report.table["objective"] == objective]
        assert sign * rows["percentile"].corr(pd.Series(loss, index=rows.index), method="spearman") > 0.9


def test_tiers_are_thirds_of_what_is_not_trivial(report: DifficultyReport) -> None:
    """Trivial first, then three tiers of the same size in the order of the percentile."""
    for _, rows in report.table.groupby("objective"):
        trivial = rows["p_trivial"] >= 0.5
        assert (rows["tier"] == "trivial").equals(trivial)
        others = rows[~trivial].sort_values("percentile")
        sizes = others["tier"].value_counts()
        assert set(sizes.index) == {"easy", "medium", "hard"}
        assert sizes.max() - sizes.min() <= 1 + others["percentile"].duplicated().sum()
        bounds = others.groupby("tier")["percentile"].agg(["min", "max"])
        assert bounds.loc["easy", "max"] <= bounds.loc["medium", "min"]
        assert bounds.loc["medium", "max"] <= bounds.loc["hard", "min"]


def test_tiers_of_few_samples_are_those_of_the_whole_model(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], predictor: DifficultyPredictor, report: DifficultyReport
) -> None:
    """Asking for some samples alone does not make a medium one the hardest."""
    few = predict_difficulty(model, data, indices=[3, 11, 17], objective="both", predictor=predictor).table
    whole = report.table.set_index(["objective", "index"])["tier"]
    for row in few.itertuples():
        assert row.tier == whole[row.objective, row[1]]


def test_the_users_model_stays_as_it_is(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], predictor: DifficultyPredictor
) -> None:
    """Weights, statistics, mode, gradients and the random state are untouched."""
    model = copy.deepcopy(model)
    nn.functional.cross_entropy(model(data[0]), data[1]).backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    state = torch.get_rng_state()
    predict_difficulty(model, data, predictor=predictor)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    after = [parameter.grad for parameter in model.parameters()]
    assert len(gradients) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(gradients, after, strict=True) if b is not None)


def test_asking_for_some_samples_gives_their_rows_of_the_whole(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], predictor: DifficultyPredictor, report: DifficultyReport
) -> None:
    """Quantiles are those of the whole data, rows come in the order asked for, bit for bit the same."""
    some = predict_difficulty(model, data, indices=[17, 3, 30], objective="erase", predictor=predictor)
    whole = report.table[report.table["objective"] == "erase"].set_index("index")
    expected = whole.loc[[17, 3, 30]].reset_index()[COLUMNS]
    pd.testing.assert_frame_equal(some.table, expected, check_exact=True)


def test_the_same_call_gives_the_same_report(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], predictor: DifficultyPredictor, report: DifficultyReport
) -> None:
    """A second run, a saved predictor and a ready Target change no bit of the table."""
    again = predict_difficulty(Target(model, data), objective="both", predictor=predictor)
    pd.testing.assert_frame_equal(again.table, report.table, check_exact=True)
    assert {**again.provenance, "target": None} == {**report.provenance, "target": None}


def test_a_predictor_may_be_a_folder(
    model: nn.Module,
    data: tuple[torch.Tensor, torch.Tensor],
    predictor: DifficultyPredictor,
    report: DifficultyReport,
    tmp_path: Path,
) -> None:
    """A path, as text or Path, is loaded; without one there the path is named."""
    folder = predictor.save(tmp_path / "mine")
    for given in (folder, str(folder)):
        loaded = predict_difficulty(model, data, objective="both", predictor=given)
        pd.testing.assert_frame_equal(loaded.table, report.table, check_exact=True)
    with pytest.raises(PathError, match="nowhere"):
        predict_difficulty(model, data, predictor=tmp_path / "nowhere")


def test_only_the_factors_that_are_needed_are_computed(report: DifficultyReport) -> None:
    """The report holds the factors behind the predictor's columns and no others."""
    assert set(report.factors.factors) == {"loss", "margin", "entropy", "classes"}


def test_provenance_names_everything_that_decides_the_numbers(
    report: DifficultyReport, predictor: DifficultyPredictor, model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Fingerprint, hashes and settings are on record, and no clock."""
    target = Target(model, data)
    assert report.provenance["predictor"] == predictor.fingerprint
    assert report.provenance["model"] == target.model_hash
    assert report.provenance["data"] == target.data_hash
    assert report.provenance["n"] == N
    assert report.provenance["settings"]["objective"] == "both"


def test_an_explanation_adds_up_to_the_row_of_the_table(report: DifficultyReport) -> None:
    """The percentile of the table is base plus contributions, clipped."""
    for objective in ("retrain", "erase"):
        rows = report.table[report.table["objective"] == objective].set_index("index")
        explanation = report.explain(7, objective)
        total = explanation.base + explanation.by_factor.sum()
        assert np.clip(total, 0, 1) == pytest.approx(rows.loc[7, "percentile"], abs=1e-6)
        own = [reason.sentence for reason in explanation.reasons if reason.factor != "classes"]
        assert rows.loc[7, "reasons"] == "; ".join(own[:3])
    assert report.explain(np.int64(7)).objective == "retrain"


def test_explanations_cover_the_samples_of_the_table(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], predictor: DifficultyPredictor
) -> None:
    """In the table's order, for its objective."""
    some = predict_difficulty(model, data, indices=[9, 2], objective="erase", predictor=predictor)
    many = some.explanations()
    assert isinstance(many, ExplanationSet)
    assert many.objective == "erase"
    assert many.indices.tolist() == [9, 2]
    with pytest.raises(UnknownNameError, match="Known: erase"):
        some.explanations("retrain")


@pytest.mark.parametrize("index", [-1, N, 1.5, "3", None, True])
def test_explaining_a_sample_that_does_not_exist_is_an_index_error(report: DifficultyReport, index: object) -> None:
    """Indices are whole numbers inside the data."""
    with pytest.raises(IndexRangeError, match=f"0 to {N - 1}"):
        report.explain(index)  # type: ignore[arg-type]


def test_measurements_stand_beside_the_forecast(report: DifficultyReport) -> None:
    """A new report carries them; the old one stays."""
    frame = pd.DataFrame({"index": [3, 5], "objective": "erase", "difficulty": [0.1, 0.2], "percentile": [0.3, 0.9]})
    with_measured = report.measured(frame)
    assert report.measurements is None
    assert with_measured.measurements is not None
    pd.testing.assert_frame_equal(with_measured.measurements, frame)
    pd.testing.assert_frame_equal(with_measured.table, report.table)


def test_measurements_that_do_not_fit_are_refused(report: DifficultyReport) -> None:
    """Missing columns, unknown objectives, foreign samples and repetitions each have their error."""
    frame = pd.DataFrame({"index": [3, 5], "objective": "erase", "difficulty": [0.1, 0.2], "percentile": [0.3, 0.9]})
    with pytest.raises(SchemaError, match="missing: percentile"):
        report.measured(frame.drop(columns="percentile"))
    with pytest.raises(UnknownNameError, match="forget"):
        report.measured(frame.assign(objective="forget"))
    with pytest.raises(IndexRangeError, match="sample 400"):
        report.measured(frame.assign(index=[3, 400]))
    with pytest.raises(IndexRangeError, match="twice"):
        report.measured(frame.assign(index=3))


@pytest.mark.parametrize("indices", [[], [N], [-1], [0, 0], [0.5], ["a"]])
def test_bad_indices_are_index_errors(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], predictor: DifficultyPredictor, indices: list
) -> None:
    """Empty, outside, repeated and not whole."""
    with pytest.raises(IndexRangeError):
        predict_difficulty(model, data, indices=indices, predictor=predictor)


def test_a_misspelt_objective_is_answered_with_the_right_one(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], predictor: DifficultyPredictor
) -> None:
    """The three that exist are listed."""
    with pytest.raises(UnknownNameError, match=r"did you mean 'retrain'.*both, erase, retrain"):
        predict_difficulty(model, data, objective="retrian", predictor=predictor)  # type: ignore[arg-type]


def test_an_objective_that_the_predictor_does_not_know_is_not_applicable(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """A predictor fitted to one objective says which."""
    table = training_table(2, 40).drop(columns="percentile_erase")
    only = DifficultyPredictor.fit(table, ["loss", "loss_quantile"], params=QUICK)
    with pytest.raises(NotApplicableError, match="fitted for retrain, not for erase"):
        predict_difficulty(model, data, objective="both", predictor=only)
    assert len(predict_difficulty(model, data, predictor=only).table) == N


def test_a_predictor_of_factors_that_are_not_installed_says_which(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """The missing columns are listed before anything is computed."""
    table = training_table(2, 40).assign(wisdom=1.0, wisdom_quantile=0.5)
    fitted = DifficultyPredictor.fit(table, ["loss", "wisdom", "wisdom_quantile"], params=QUICK)
    with pytest.raises(SchemaError, match="wisdom, wisdom_quantile"):
        predict_difficulty(model, data, predictor=fitted)


def test_arguments_that_contradict_each_other_are_input_errors(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], predictor: DifficultyPredictor
) -> None:
    """A Target with data, a model without, and a predictor that is none."""
    with pytest.raises(InputError, match="already has its data"):
        predict_difficulty(Target(model, data), data, predictor=predictor)
    with pytest.raises(InputError, match="training data"):
        predict_difficulty(model, predictor=predictor)
    with pytest.raises(InputError, match="got dict"):
        predict_difficulty(model, data, predictor={})  # type: ignore[arg-type]


def test_predicting_imports_neither_unlearners_nor_labels() -> None:
    """A fresh interpreter that predicts has loaded nothing of the measuring side."""
    import subprocess
    import sys

    code = (
        f"import json, sys, {predict_difficulty.__module__}, {Explanation.__module__}\n"
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] in ('forgetcast', 'torchvision')]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(result.stdout)
    assert len(among(loaded, FORECASTING)) >= len(FORECASTING)
    assert among(loaded, (*measuring(), "torchvision")) == []


@pytest.mark.parametrize("shape", [(9, 7), (1, 9, 7), (3, 9, 7)])
def test_a_report_shows_its_samples_as_pictures(shape: tuple[int, ...]) -> None:
    """Colours last, a single channel dropped, in the order asked for; other inputs are no pictures, and say so."""
    x = torch.randn(30, *shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3))
    report = predict_difficulty(model, (x, torch.arange(30) % 3), indices=[4])
    wanted = x[[7, 4]].double()
    wanted = wanted.movedim(1, 3) if shape[0] == 3 else wanted.reshape(2, 9, 7)
    np.testing.assert_array_equal(report.images([7, 4]), wanted)
    with pytest.raises(IndexRangeError):
        report.images([30])
    flat = predict_difficulty(model, (x.flatten(1), torch.arange(30) % 3), indices=[4])
    with pytest.raises(NotApplicableError, match=r"expected images of shape \(h, w\).*got \(\d+,\)"):
        flat.images([4])
    with pytest.raises(NotApplicableError, match="does not hold"):
        replace(flat, _target=None).images([4])
