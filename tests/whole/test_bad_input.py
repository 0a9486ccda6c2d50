"""Bad input, from Python and from the command line: one clear line, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from forgetcast import DifficultyPredictor, Target, generate_corpus, measure, predict_difficulty
from forgetcast.cli import main
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.zoo.recipes import published
from forgetcast.errors import (
    DatasetError,
    FileFormatError,
    ForgetcastError,
    IndexRangeError,
    ModelError,
    PathError,
    SchemaError,
    UnknownNameError,
)
from forgetcast.factors import factor_table

pytestmark = pytest.mark.slow

MODULE = """
import torch
from torch import nn
from forgetcast import Target

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

def one_column():
    return nn.Linear(4, 1)

def flat():
    return nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))

def probabilities():
    return nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))

def nan_weights():
    made = model()
    made[0].weight.data[0, 0] = float("nan")
    return made

def data(n=30):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=generator), torch.arange(n) % 3

def other_shape():
    x, y = data()
    return x[:, :3], y

def labels_too_high():
    x, y = data()
    return x, y + 1

def nan_inputs():
    x, y = data()
    x[7, 2] = float("nan")
    return x, y

def empty():
    return data(0)

def float_labels():
    x, y = data()
    return x, y.float()

def items_of_three():
    return [(x, y, 0) for x, y in zip(*data())]

def target_without_train():
    x, y = data()
    return Target(model(), (x, y), heldout=(x + 1, y))
"""


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The module of good and bad factories, importable as ``bad_subjects``."""
    folder = tmp_path_factory.mktemp("subjects")
    (folder / "bad_subjects.py").write_text(MODULE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(folder)
    yield __import__("bad_subjects")
    patch.undo()


@pytest.fixture
def here(subjects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments: list[str], folder: Path) -> str:
    """Run a command that must refuse; returns its one line. No file may appear in ``folder``."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    return lines[0]


def predicting(model: str = "model", dataset: str = "bad_subjects:data", *more: str) -> list[str]:
    """Arguments of ``forgetcast predict``, with output files that must not appear."""
    outputs = ["--out", "result.csv", "--html", "result.html"]
    return ["predict", "--model", f"bad_subjects:{model}", "--dataset", dataset, *outputs, *more]


MODELS = {
    "one_column": "returned (4, 1)",
    "flat": "returned (4,)",
    "probabilities": "probabilities",
    "nan_weights": "not finite: 0.weight",
}
DATASETS = {
    "other_shape": "a batch of shape (4, 3)",
    "labels_too_high": "below the model's 3 classes; item 2 has label 3",
    "nan_inputs": "NaN or infinite inputs in 1 item(s), the first at [7]",
    "empty": "is empty",
    "float_labels": "labels must be integers",
    "items_of_three": "expected",
}


@pytest.mark.parametrize("name", MODELS)
def test_unusable_model_is_refused(subjects: Any, here: Path, name: str) -> None:
    """A model that is not a classifier with finite weights is named as the fault."""
    with pytest.raises(ModelError) as caught:
        predict_difficulty(getattr(subjects, name)(), subjects.data())
    assert MODELS[name] in str(caught.value)
    assert MODELS[name] in refused(predicting(model=name), here)


@pytest.mark.parametrize("name", DATASETS)
def test_unusable_dataset_is_refused(subjects: Any, here: Path, name: str) -> None:
    """A dataset that is malformed or does not fit the model is named as the fault."""
    with pytest.raises(DatasetError) as caught:
        predict_difficulty(subjects.model(), getattr(subjects, name)())
    assert DATASETS[name] in str(caught.value)
    assert DATASETS[name] in refused(predicting(dataset=f"bad_subjects:{name}"), here)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ("30", "30 is out of range: the dataset has 30 samples (0 to 29)"),
        ("3,4,3", "given more than once"),
        ("4-2", "runs backwards"),
        ("all", "expected numbers and ranges"),
        ("0-99999999999", "more than 10,000,000"),
        ("", "expected numbers and ranges"),
    ],
)
def test_bad_indices_are_refused(here: Path, indices: str, message: str) -> None:
    """Indices outside the data, repeated, or not readable as indices."""
    assert message in refused(predicting("model", "bad_subjects:data", "--indices", indices), here)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no file matches run-*.pt"),
        (("run-1.pt",), "at least two points of the training run; got 1"),
        (("run-1.pt", "run-2.pt"), "checkpoint 0 (run-1.pt) does not fit the model; missing: 0.weight"),
    ],
)
def test_bad_checkpoints_are_refused(here: Path, names: tuple[str, ...], message: str) -> None:
    """No files, one, or weights of another model."""
    for name in names:
        torch.save({"other": torch.ones(1)}, here / name)
    arguments = predicting("model", "bad_subjects:data", "--checkpoints", "run-*.pt")
    assert message in refused(arguments, here)


def test_bad_indices_are_refused_in_python(subjects: Any) -> None:
    """The same from Python, and for an explanation of a sample that does not exist."""
    for indices in ([30], [-1], [1.5], [3, 3], []):
        with pytest.raises(IndexRangeError):
            predict_difficulty(subjects.model(), subjects.data(), indices=indices)
    report = predict_difficulty(subjects.model(), subjects.data(), indices=[3])
    with pytest.raises(IndexRangeError):
        report.explain(30)


def test_unknown_names_are_refused_with_the_known_ones(subjects: Any, here: Path) -> None:
    """Objective, unlearner, factor, dataset and recipe: each error lists what there is."""
    x, y = subjects.data()
    target = Target(subjects.model(), (x, y), heldout=(x + 1, y))
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: predict_difficulty(target, None, objective="forget"), "retrain"),
        (lambda: measure(target, [0], unlearners=["gradient_ascend"]), "did you mean 'gradient_ascent'"),
        (lambda: measure(target, [0], objectives=["forget"]), "erase"),
        (lambda: factor_table(target, names=["marjin"]), "margin"),
        (lambda: published("digits-mlpp"), "did you mean 'digits-mlp'"),
    ]
    for call, message in cases:
        with pytest.raises(UnknownNameError, match=message):
            call()
    assert "did you mean 'digits'" in refused(predicting(dataset="digit"), here)
    assert "'retrain'" in refused(predicting("model", "bad_subjects:data", "--objective", "forget"), here)
    generating = ["generate", "--recipe", "digits-mlp", "--out", "corpus"]
    line = refused([*generating, "--unlearners", "gradient_ascend"], here)
    assert "did you mean 'gradient_ascent'" in line
    assert "did you mean 'digits-mlp'" in refused(["generate", "--recipe", "digits-mlpp", "--out", "corpus"], here)
    assert "nothing to measure" in refused(["generate", "--out", "corpus"], here)


def test_target_that_cannot_retrain_is_refused_before_any_work(subjects: Any, here: Path) -> None:
    """A corpus of both objectives needs a train callable, and says so at once."""
    arguments = ["generate", "--target", "bad_subjects:target_without_train", "--out", "corpus"]
    assert "no train callable" in refused(arguments, here)
    with pytest.raises(ForgetcastError, match="no train callable"):
        generate_corpus([subjects.target_without_train], here / "corpus")


@pytest.fixture(scope="module")
def whole_predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the published predictor."""
    folder = tmp_path_factory.mktemp("predictor") / "predictor"
    DifficultyPredictor.published().save(folder)
    return folder


def truncate(path: Path) -> None:
    """Cut a file in half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def corrupt(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, corrupt])
def test_damaged_predictor_is_refused(
    subjects: Any, here: Path, whole_predictor: Path, damage: Callable[[Path], None]
) -> None:
    """Whichever file of a predictor is cut short or changed, it is noticed before a forecast is made."""
    for path in sorted(whole_predictor.iterdir()):
        folder = here / "predictor"
        shutil.copytree(whole_predictor, folder)
        damage(folder / path.name)
        with pytest.raises(FileFormatError):
            predict_difficulty(subjects.model(), subjects.data(), predictor=folder)
        line = refused(predicting("model", "bad_subjects:data", "--predictor", str(folder)), here)
        assert str(folder) in line
        shutil.rmtree(folder)


def test_predictor_of_another_schema_is_refused(subjects: Any, here: Path) -> None:
    """A predictor fitted to columns that this installation does not compute names them."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"target": np.repeat(["a", "b", "c"], 20), "index": np.tile(np.arange(20), 3)})
    table = table.assign(dataset="d", architecture="m", weight=1.0, memorization=0.5, p_out=0.5)
    table["a_factor_of_mine"] = rng.normal(size=60)
    for objective in ("retrain", "erase"):
        table[f"percentile_{objective}"] = rng.uniform(size=60)
        table[f"difficulty_{objective}"] = rng.uniform(size=60)
        table[f"trivial_{objective}"] = rng.uniform(size=60) < 0.3
    DifficultyPredictor.fit(table, ["a_factor_of_mine"], params={"num_boost_round": 5}).save(here / "mine")
    with pytest.raises(SchemaError, match="a_factor_of_mine"):
        predict_difficulty(subjects.model(), subjects.data(), predictor=here / "mine")
    line = refused(predicting("model", "bad_subjects:data", "--predictor", "mine"), here)
    assert "a_factor_of_mine" in line


def test_predictor_of_another_format_is_refused(subjects: Any, here: Path, whole_predictor: Path) -> None:
    """A later format version is not guessed at."""
    folder = here / "predictor"
    shutil.copytree(whole_predictor, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format_version"] = 99
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SchemaError):
        predict_difficulty(subjects.model(), subjects.data(), predictor=folder)
    refused(predicting("model", "bad_subjects:data", "--predictor", "predictor"), here)


def test_damaged_data_and_weights_are_refused(subjects: Any, here: Path) -> None:
    """Truncated .npz, Parquet, safetensors and state-dict files each give one line that names the file."""
    x, y = (part.numpy() for part in subjects.data())
    np.savez(here / "d.npz", x=x, y=y)
    pd.DataFrame(x, columns=list("abcd")).assign(label=y).to_parquet(here / "d.parquet")
    state = subjects.model().state_dict()
    save_file(state, here / "w.safetensors")
    torch.save(state, here / "w.pt")
    for name in ("d.npz", "d.parquet", "w.safetensors", "w.pt"):
        truncate(here / name)
        if name.startswith("d"):
            line = refused(predicting(dataset=name), here)
        else:
            line = refused(predicting("model", "bad_subjects:data", "--weights", name), here)
        assert name in line


def test_weights_with_nan_are_refused(subjects: Any, here: Path) -> None:
    """NaN in a weights file is found after loading, and the tensor is named."""
    state = {name: value.clone() for name, value in subjects.model().state_dict().items()}
    state["2.bias"][1] = float("nan")
    save_file(state, here / "w.safetensors")
    line = refused(predicting("model", "bad_subjects:data", "--weights", "w.safetensors"), here)
    assert "2.bias" in line


def test_damaged_corpus_is_refused(here: Path) -> None:
    """A manifest that is cut short, or that is no corpus manifest, stops training and evaluation alike."""
    folder = here / "corpus"
    folder.mkdir()
    for content in ('{"format": 1, "fi', "[]", '{"format": 99, "files": {}, "targets": []}'):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(FileFormatError):
            Corpus.read(folder)
        assert "manifest.json" in refused(["train", "--corpus", "corpus", "--out", "p"], here)
        assert "manifest.json" in refused(["evaluate", "--corpus", "corpus", "--out", "e"], here)


def test_file_for_a_folder_and_the_reverse_are_refused(subjects: Any, here: Path) -> None:
    """Every path option tells a file from a folder, before any work is done."""
    (here / "file").write_text("x")
    (here / "folder.csv").mkdir()
    (here / "folder.html").mkdir()
    with pytest.raises(PathError):
        predict_difficulty(subjects.model(), subjects.data(), predictor=here / "file")
    with pytest.raises(PathError):
        Corpus.read(here / "file")
    with pytest.raises(PathError):
        DifficultyPredictor.load(here / "nowhere")
    base = ["predict", "--model", "bad_subjects:model", "--dataset", "bad_subjects:data"]
    for arguments in (
        [*base, "--out", "folder.csv"],
        [*base, "--html", "folder.html"],
        [*base, "--out", "file/result.csv"],
        [*base, "--weights", "folder.csv"],
        [*base, "--predictor", "file"],
        [*base, "--predictor", "nowhere"],
        ["predict", "--model", "bad_subjects:model", "--dataset", "folder.csv"],
        ["train", "--corpus", "file", "--out", "p"],
        ["train", "--corpus", "nowhere", "--out", "p"],
        ["evaluate", "--corpus", "file", "--out", "e"],
        ["generate", "--recipe", "digits-logistic", "--out", "file"],
        ["explain", *base[1:], "--index", "1", "--plot", "folder.csv"],
    ):
        refused(arguments, here)


def test_unknown_suffix_is_refused_before_any_work(here: Path) -> None:
    """An output file whose kind cannot be told from its name is refused."""
    base = ["--model", "bad_subjects:model", "--dataset", "bad_subjects:data"]
    assert ".csv, .parquet, .json" in refused(["predict", *base, "--out", "result.xlsx"], here)
    assert ".png" in refused(["explain", *base, "--index", "1", "--plot", "picture.bmp"], here)


def test_what_to_forecast_and_what_to_keep_must_be_said_once(here: Path) -> None:
    """A model without data, a target beside data, a predictor to keep without a calibration, or in a wrong place."""
    base = ["predict", "--model", "bad_subjects:model"]
    assert "expected --model and --dataset, or --target" in refused(base, here)
    assert "leave out --model, --dataset" in refused(
        [*base, "--dataset", "bad_subjects:data", "--target", "bad_subjects:target"], here
    )
    base += ["--dataset", "bad_subjects:data"]
    assert "give --calibrate too" in refused([*base, "--save-predictor", "new"], here)
    (here / "taken").mkdir()
    (here / "taken" / "file").touch()
    assert "holds no calibrated predictor" in refused([*base, "--calibrate", "10", "--save-predictor", "taken"], here)


def test_model_that_is_no_module_is_refused(subjects: Any) -> None:
    """Anything but a torch.nn.Module is refused by name."""
    with pytest.raises(ModelError, match=r"expected a torch\.nn\.Module classifier; got function"):
        predict_difficulty(subjects.model, subjects.data())
    with pytest.raises(ModelError, match="no parameters"):
        predict_difficulty(nn.Sequential(nn.Flatten()), subjects.data())
