"""What is given to a forecast is used, or it says that it is not: factors computed before, the training run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from forgetcast import DifficultyPredictor, Target, Trajectory, predict_difficulty, triage
from forgetcast.errors import FileFormatError, ForgetcastWarning, InputError, PathError
from forgetcast.factors import factor_table
from small_targets import clouds
from synthetic import training_table

pytestmark = pytest.mark.slow


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, rtol=1e-6)


# -- factors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_of_factors_is_made_and_used_again(tmp_path: Path, kind: Any) -> None:
    """As ``--factors`` does, for a forecast and for a queue; the forecast is that of factors computed at once."""
    plain = predict_difficulty(clouds(), objective="erase")
    folder = kind(tmp_path / "factors")
    same(predict_difficulty(clouds(), objective="erase", factors=folder).table, plain.table)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "factors").iterdir()}
    assert stamps
    with warnings.catch_warnings():
        warnings.simplefilter("error", ForgetcastWarning)
        same(predict_difficulty(clouds(), objective="erase", factors=folder, indices=[7, 3]).table.iloc[:, :6],
             plain.table.iloc[[7, 3]].iloc[:, :6].reset_index(drop=True))  # fmt: skip
        screened = triage(clouds(), requests=[3, 7], objective="erase", factors=folder, timed=False)
    assert screened.table["percentile"].tolist() == pytest.approx(plain.table["percentile"].iloc[[3, 7]].tolist())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "factors").iterdir()} == stamps


def test_a_folder_of_another_model_is_reported_and_computed_anew(tmp_path: Path) -> None:
    """Never is a stranger's value served."""
    predict_difficulty(clouds(shift=1.0), objective="erase", factors=tmp_path)
    with pytest.warns(ForgetcastWarning, match="are of another model, data, heldout: they are computed anew"):
        report = predict_difficulty(clouds(), objective="erase", factors=tmp_path)
    same(report.table, predict_difficulty(clouds(), objective="erase").table)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    """In one line, and left as it is."""
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(PathError, match=r"holds 'mine\.txt', which is no part of a factor table: give a new folder"):
        predict_difficulty(clouds(), objective="erase", factors=tmp_path)
    (tmp_path / "mine.txt").rename(tmp_path / "manifest.json")
    with pytest.raises(FileFormatError, match="no usable factor table"):
        predict_difficulty(clouds(), objective="erase", factors=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("other", ["model", "data"])
@pytest.mark.parametrize("indices", [None, [1, 2]])
def test_a_table_of_another_model_or_data_is_refused(other: str, indices: list[int] | None) -> None:
    """Though it has as many rows; one of the same model and data, made anew, is taken."""
    target = clouds()
    x, y = target.data.fetch(torch.arange(45))
    module = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3))
    stranger = Target(module, (x, y)) if other == "model" else Target(target.module, (x + 0.1, y))
    for given in (factor_table(stranger), factor_table(stranger, indices=indices)):
        with pytest.raises(InputError, match=f"factors: this table is of another {other}: compute them for this one"):
            predict_difficulty(target, objective="erase", factors=given, indices=indices)
    report = predict_difficulty(target, objective="erase", factors=factor_table(clouds()), indices=indices)
    assert len(report.table) == (45 if indices is None else 2)


# -- the training run -------------------------------------------------------------------------------------------------


@pytest.fixture
def knowing() -> DifficultyPredictor:
    """A predictor that was fitted with a factor of the training run."""
    rows = training_table(targets=2, rows=30)
    features = ["training_confidence_quantile", "margin_quantile"]
    rows[features] = rows[["loss_quantile", "noise"]]
    return DifficultyPredictor.fit(rows, features, params={"num_boost_round": 5})


def parts(**more: Any) -> dict[str, Any]:
    """A model and its data, as a user has them."""
    target = clouds()
    return {"model": target.module, "dataset": target.data.fetch(torch.arange(45)), "objective": "erase", **more}


def run() -> Trajectory:
    state = clouds().module.state_dict()
    return Trajectory.from_checkpoints([{name: value * part for name, value in state.items()} for part in (0.5, 1.0)])


UNUSED = "trajectory= or --checkpoints changes nothing: this predictor was fitted without factors of the training run"


@pytest.mark.parametrize("way", ["predict", "target", "triage", "triage of a target"])
def test_a_training_run_that_is_not_used_is_told_once(way: str) -> None:
    """By a warning of ours, and by the report and its page, whichever way it came."""
    given = parts(trajectory=run())
    if "target" in way:
        objective = given.pop("objective")
        given = {"model": Target(given.pop("model"), given.pop("dataset"), **given), "objective": objective}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if "triage" in way:
            queue = triage(**given, requests=[3], timed=False)
            report = queue.report
        else:
            report = predict_difficulty(**given)
    told = [str(one.message) for one in caught if issubclass(one.category, ForgetcastWarning)]
    assert len(told) == 1
    assert told[0].startswith(UNUSED)
    assert report.provenance["trajectory"].startswith("not used: ")


def test_the_page_says_it_too(tmp_path: Path) -> None:
    """Beside the versions and hashes."""
    with pytest.warns(ForgetcastWarning, match="changes nothing"):
        report = predict_difficulty(**parts(trajectory=run(), indices=[1, 2]))
    page = report.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "not used: the predictor was fitted without factors of the training run" in page


def test_a_training_run_that_is_used_or_not_there_is_no_matter(knowing: DifficultyPredictor) -> None:
    """No warning where nothing surprises; a predictor that needs one and gets none says what is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ForgetcastWarning)
        assert "trajectory" not in predict_difficulty(**parts()).provenance
        assert predict_difficulty(**parts(trajectory=run(), predictor=knowing)).provenance["trajectory"] == "used"
    with pytest.warns(ForgetcastWarning, match="fitted with factors of the training run, which this model comes with"):
        report = predict_difficulty(**parts(predictor=knowing))
    assert report.provenance["trajectory"].startswith("missing: ")
