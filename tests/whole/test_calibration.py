"""Calibrating on a real small target: what is measured, what changes, what can be saved, who may use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forgetcast.errors import (
    FileFormatError,
    InputError,
    NotApplicableError,
    PathError,
    SchemaError,
    UnknownNameError,
)
from forgetcast.factors import factor_table
from forgetcast.predict import DifficultyReport, predict_difficulty
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.target.target import Target
from small_targets import clouds

pytestmark = pytest.mark.slow

FEATURES = ["loss", "loss_quantile", "margin", "margin_quantile", "entropy", "entropy_quantile", "classes"]
QUICK = {"num_boost_round": 40, "learning_rate": 0.1, "min_data_in_leaf": 5}


@pytest.fixture(scope="module")
def target() -> Target:
    """Three clouds; everything about them takes milliseconds."""
    return clouds()


@pytest.fixture(scope="module")
def predictor(target: Target) -> DifficultyPredictor:
    """Fitted to made-up targets where the loss alone decides."""
    values = factor_table(target, names=["loss", "margin", "entropy", "classes"]).values
    parts = []
    for number in range(3):
        rows = values.reset_index(drop=True).assign(target=f"target {number}", weight=1.0)
        for objective, percentile in {"retrain": rows["loss_quantile"], "erase": 1 - rows["loss_quantile"]}.items():
            rows[f"percentile_{objective}"] = percentile
            rows[f"difficulty_{objective}"] = 0.2 * percentile
            rows[f"trivial_{objective}"] = (percentile < 0.4) & (objective == "retrain")
        parts.append(rows)
    return DifficultyPredictor.fit(pd.concat(parts, ignore_index=True), FEATURES, params=QUICK, n_jobs=1)


@pytest.fixture(scope="module")
def report(target: Target, predictor: DifficultyPredictor) -> DifficultyReport:
    """Both objectives, calibrated on 15 of 45 samples."""
    return predict_difficulty(target, objective="both", predictor=predictor, calibrate=15)


@pytest.fixture
def folder(report: DifficultyReport, tmp_path: Path) -> Path:
    """The adapted predictor, saved."""
    return report.predictor.save(tmp_path / "calibrated")


def test_as_many_samples_are_measured_as_asked_for(report: DifficultyReport) -> None:
    """Each under both objectives, with ranks among themselves and what was forecast before and without them."""
    measured = report.measurements
    assert measured is not None
    for objective in ("retrain", "erase"):
        rows = measured[measured["objective"] == objective]
        assert len(rows) == rows["index"].nunique() == 15
        numbers = rows[["difficulty", "percentile", "percentile_before", "percentile_crossfitted"]].to_numpy()
        assert ((numbers >= 0) & (numbers <= 1)).all()
        assert f"{objective}: forecast against measured percentile of 15 samples" in report.calibrated[objective]


def test_the_forecast_and_its_intervals_change(
    report: DifficultyReport, target: Target, predictor: DifficultyPredictor
) -> None:
    """Before is what the predictor says without calibrating, after is another order with other widths."""
    plain = predict_difficulty(target, objective="both", predictor=predictor)
    assert plain.calibrated == {}
    merged = report.table.merge(plain.table, on=["objective", "index"], suffixes=("", "_before"))
    assert not np.allclose(merged["percentile"], merged["percentile_before"])
    for low, value, high in (("percentile_lower", "percentile", "percentile_upper"), ("lower", "difficulty", "upper")):
        assert ((report.table[low] <= report.table[value]) & (report.table[value] <= report.table[high])).all()
    assert report.measurements is not None
    known = report.measurements.merge(plain.table, on=["objective", "index"], suffixes=("", "_plain"))
    assert np.allclose(known["percentile_before"], known["percentile_plain"])


def test_explanations_add_up_and_name_the_retrained_models(report: DifficultyReport) -> None:
    """The contributions of a calibrated forecast sum to it; for retrain the measured gap is among the reasons."""
    for objective in ("retrain", "erase"):
        rows = report.table[report.table["objective"] == objective].set_index("index")["percentile"]
        for index in (0, 11, 30):
            found = report.explain(index, objective)
            assert found.base + found.contributions.sum() == pytest.approx(found.prediction)
            assert np.clip(found.prediction, 0, 1) == pytest.approx(rows[index])
    sentences = [reason.sentence for reason in report.explain(0, "retrain").reasons]
    assert any("models trained without it" in sentence for sentence in sentences)


def test_heads_that_calibrating_replaced_are_not_taken_apart(target: Target, report: DifficultyReport) -> None:
    """Of the adapted objectives difficulty follows the percentile; what is still the old predictor's is explained."""
    for objective in ("retrain", "erase"):
        with pytest.raises(NotApplicableError, match=f"difficulty for {objective} is read off the adapted percentile"):
            report.explain(0, objective, head="difficulty")
    with pytest.raises(NotApplicableError, match="half from what retrained models say"):
        report.explain(0, "retrain", head="trivial")
    assert report.predictor.calibration is not None
    erase = predict_difficulty(target, objective="erase", predictor=report.predictor.uncalibrated, calibrate=10)
    plain = predict_difficulty(target, predictor=erase.predictor)
    for head in ("difficulty", "trivial"):  # retrain was not measured: the old predictor's own
        base = predict_difficulty(target, predictor=report.predictor.uncalibrated).explain(3, head=head)
        pd.testing.assert_series_equal(plain.explain(3, head=head).contributions, base.contributions)


def test_what_retrained_models_say_can_be_made_typical_too(report: DifficultyReport) -> None:
    """The measured factors are a family of their own, forecast anew by the adapted predictor."""
    found = report.what_would_change(0, "retrain").set_index("family")
    row = report.explainer.features(0)
    columns = report.explainer.columns["retraining"]
    usual, _ = report.explainer.typical(0)
    then = report.predictor.predict(row.assign(**usual[columns]), "retrain")
    assert found.loc["retraining", "percentile"] == pytest.approx(then["percentile"].item())
    assert found.loc["retraining", "sentence"].startswith(
        "if retrained models gave its label a probability typical for its class"
    )
    assert len(report.movers(5, "erase")) > 0


def test_the_page_says_what_calibrating_changed(report: DifficultyReport, tmp_path: Path) -> None:
    """Measured against cross-fitted, not against a forecast that has seen the measurement."""
    page = report.to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "without unlearning anything" not in page
    for objective in ("retrain", "erase"):
        assert report.calibrated[objective] in page.replace("&#39;", "'")
    assert "as the others forecast it" in page


def test_the_same_call_gives_the_same_predictor(
    report: DifficultyReport, target: Target, predictor: DifficultyPredictor
) -> None:
    """Choice, retraining and unlearning are seeded, and a predictor that was adapted before is adapted afresh."""
    again = predict_difficulty(target, objective="both", predictor=report.predictor, calibrate=15)
    assert again.predictor.fingerprint == report.predictor.fingerprint
    pd.testing.assert_frame_equal(again.table, report.table, check_exact=True)
    other = predict_difficulty(target, objective="erase", predictor=predictor, calibrate=15, seed=1)
    assert other.predictor.fingerprint != report.predictor.fingerprint


def test_a_saved_predictor_gives_the_same_bytes(folder: Path, report: DifficultyReport, target: Target) -> None:
    """Loaded by the general loader and by the prediction, with its measurements."""
    loaded = DifficultyPredictor.load(folder)
    assert loaded.calibration is not None
    assert loaded.fingerprint == report.predictor.fingerprint
    again = predict_difficulty(target, objective="both", predictor=folder)
    pd.testing.assert_frame_equal(again.table, report.table, check_exact=True)
    assert again.measurements is not None
    pd.testing.assert_frame_equal(again.measurements, report.measurements, check_exact=True)
    few = predict_difficulty(target, objective="erase", predictor=folder, indices=[3, 17])
    whole = report.table[report.table["objective"] == "erase"].set_index("index")
    assert few.table["percentile"].tolist() == whole.loc[[3, 17], "percentile"].tolist()
    loaded.save(folder)
    assert DifficultyPredictor.load(folder).fingerprint == report.predictor.fingerprint
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_another_target_is_refused(folder: Path) -> None:
    """Percentiles, and what retrained models said of sample 17, are of one model and its data."""
    with pytest.raises(InputError, match="another model and other data: calibrate again"):
        predict_difficulty(clouds(shift=1.0), objective="erase", predictor=folder)


def test_an_objective_that_was_not_measured_is_forecast_as_before(
    target: Target, predictor: DifficultyPredictor
) -> None:
    """Calibrated on erase, retrain is the shipped forecast, and needs no train callable."""
    alone = clouds(train=False)
    report = predict_difficulty(alone, objective="erase", predictor=predictor, calibrate=10)
    made = report.predictor
    assert made.calibration is not None
    assert made.calibration.measured == ("erase",)
    with pytest.raises(UnknownNameError, match="retrain"):
        made.calibration.gain("retrain")
    plain = predict_difficulty(target, predictor=predictor).table
    pd.testing.assert_frame_equal(predict_difficulty(alone, predictor=made).table, plain, check_exact=True)


def test_what_is_missing_is_said_before_any_work(predictor: DifficultyPredictor) -> None:
    """No held-out data, no train callable, too few samples or too many."""
    with pytest.raises(NotApplicableError, match=r"pass heldout=\(x, y\)"):
        predict_difficulty(clouds(heldout=False), objective="erase", predictor=predictor, calibrate=10)
    for objective in ("retrain", "both"):
        with pytest.raises(NotApplicableError, match=r"train=function\(indices, seed\)"):
            predict_difficulty(clouds(train=False), objective=objective, predictor=predictor, calibrate=10)
    for samples in (1, 9, 46, True, -3):
        with pytest.raises(InputError, match="from 10 to 45"):
            predict_difficulty(clouds(), objective="erase", predictor=predictor, calibrate=samples)


def test_the_user_hears_how_long_it_takes(
    target: Target, predictor: DifficultyPredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before retraining and after the first samples, on standard error; without progress nothing."""
    predict_difficulty(target, predictor=predictor, calibrate=10, progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert "80 models are trained" in said.err
    assert "10 samples are unlearned 12 times each; at most" in said.err
    predict_difficulty(target, objective="erase", predictor=predictor, calibrate=10)
    assert capsys.readouterr().err == ""


def test_saving_spares_what_is_not_ours(report: DifficultyReport, tmp_path: Path) -> None:
    """A file, a folder below a file and a folder of other things are refused and left alone."""
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below", "."):
        with pytest.raises(PathError, match=r"cannot be written|cannot be saved|holds no calibrated predictor"):
            report.predictor.save(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["calibration.json", "measurements.parquet", "retrained.parquet"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "delete"])
def test_a_damaged_file_is_found(folder: Path, name: str, damage: str) -> None:
    """Whatever happened to it, the error is ours and names the file."""
    path = folder / name
    if damage == "delete":
        path.unlink()
        path.with_name("calibration.json").touch()
    else:
        path.write_bytes(path.read_bytes()[: 200 * (damage == "truncate")])
    with pytest.raises((FileFormatError, PathError), match=name if path.exists() else r"calibration\.json|parquet"):
        DifficultyPredictor.load(folder)


@pytest.mark.parametrize("key", ["target", "predictor", "adaptations", "tables", "fingerprint"])
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, {"retrain": 3}])
def test_a_calibration_of_another_shape_is_refused(folder: Path, key: str, value: object) -> None:
    """No wrong type gets past the check, nor raises anything else."""
    path = folder / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(FileFormatError, match=r"calibration\.json"):
        DifficultyPredictor.load(folder)


def test_a_number_that_was_changed_is_found(folder: Path) -> None:
    """The fingerprint is over every coefficient and every measurement; another format version says so."""
    path = folder / "calibration.json"
    described = json.loads(path.read_text())
    described["adaptations"]["erase"]["constant"] += 0.1
    path.write_text(json.dumps(described))
    with pytest.raises(FileFormatError, match="fingerprint"):
        DifficultyPredictor.load(folder)
    path.write_text(json.dumps({**described, "format_version": 99}))
    with pytest.raises(SchemaError, match="expected format version 1; got 99"):
        DifficultyPredictor.load(folder)
    frame = pd.read_parquet(folder / "measurements.parquet")
    frame.assign(difficulty=0.5).to_parquet(folder / "measurements.parquet", index=False)
    path.write_text(json.dumps({**described, "format_version": 1}))
    with pytest.raises(FileFormatError, match=r"measurements\.parquet"):
        DifficultyPredictor.load(folder)
