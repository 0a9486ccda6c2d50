"""The command line: what each command prints and writes."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import forgetcast
from forgetcast import predict_difficulty
from forgetcast.cli import main
from forgetcast.cli.options import parse_indices
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.corpus.zoo.training import train_classifier
from forgetcast.files.atomic import whole_file
from forgetcast.predictor.predictor import DifficultyPredictor
from synthetic import training_table

pytestmark = pytest.mark.slow

MODULE = """
import numpy as np
import torch
from torch import nn
from forgetcast import Target
from forgetcast.corpus.zoo.datasets import load
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.corpus.zoo.training import Trainer

def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(30, 24), nn.GELU(), nn.Linear(24, 2))

def data():
    (x, y), _ = load("breast-cancer")
    return x[:200], y[:200]

def target(name="first", seed=1):
    x, y = data()
    trainer = Trainer(model, x, y, epochs=8, lr=5e-3)
    return Target(trainer(np.arange(len(y)), seed), (x, y), heldout=load("breast-cancer")[1], train=trainer,
                  name=name, info={"dataset": "breast-cancer", "architecture": f"gelu-{seed}"})

def second():
    return target("second", 2)

def third():
    return target("third", 3)

def resnet18():
    from forgetcast.corpus.zoo.torchvision_import import torchvision
    torch.manual_seed(0)
    made = torchvision().models.resnet18(weights=None, num_classes=10)
    made.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return made

def clothes():
    (x, y), _ = load("fashion-mnist")
    return x[:80], y[:80]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of factories, trained weights and a dataset file."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "mine.py").write_text(MODULE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(folder)
    mine = __import__("mine")
    patch.undo()
    x, y = mine.data()
    model = train_classifier(mine.model(), x, y, epochs=10, lr=5e-3)
    save_file(model.state_dict(), folder / "mine.safetensors")
    np.savez(folder / "train.npz", x=x.numpy(), y=y.numpy())
    return folder


MODEL = ["--model", "mine:model", "--weights", "mine.safetensors", "--dataset", "train.npz"]


Run = Callable[..., Result]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in ``folder``; it must succeed."""
    monkeypatch.chdir(folder)

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    return invoke


def table(result: Result) -> pd.DataFrame:
    """The CSV that a command printed."""
    return pd.read_csv(io.StringIO(result.stdout))


def test_predict_gives_what_python_gives(run: Run, folder: Path) -> None:
    """The table on disk is the Python interface's table, in each of the three formats."""
    mine = sys.modules["mine"]
    from forgetcast.adapters.loading import load_model

    model = load_model("mine:model", folder / "mine.safetensors")
    wanted = predict_difficulty(model, mine.data(), objective="both", indices=[3, 17, 18]).table
    for name in ("out.csv", "out.parquet", "new/out.json"):
        result = run("predict", *MODEL, "--objective", "both", "--indices", "3,17-18", "--out", name)
        assert result.stdout == ""
    json_rows = json.loads((folder / "new" / "out.json").read_text())["samples"]
    for found in (pd.read_csv("out.csv"), pd.read_parquet("out.parquet"), pd.DataFrame(json_rows)):
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-12)
    assert not [path for path in folder.rglob(".*") if path.name != ".pytest_cache"]


def test_checkpoints_change_the_forecast_of_a_predictor_that_knows_them(run: Run, folder: Path) -> None:
    """One fitted with factors of the training run takes them from the files; the published one was not, and says so."""
    weights = load_file(folder / "mine.safetensors")
    for epoch in (1, 2, 10):
        save_file({name: value * epoch / 10 for name, value in weights.items()}, folder / f"epoch-{epoch}.safetensors")
    rows = training_table(targets=2, rows=30)
    features = ["training_confidence_quantile", "learning_time"]
    rows[features] = rows[["loss_quantile", "noise"]]
    DifficultyPredictor.fit(rows, features, params={"num_boost_round": 5}).save(folder / "knowing")
    command = ("predict", *MODEL, "--format", "csv", "-q")
    plain, shipped = run(*command), run(*command, "--checkpoints", "epoch-*.safetensors")
    assert shipped.stdout == plain.stdout
    assert "--checkpoints changes nothing" in shipped.stderr
    without, given = (
        run(*command, "--predictor", "knowing", *more) for more in ((), ("--checkpoints", "epoch-*.safetensors"))
    )
    assert given.stderr == ""
    assert table(without)["percentile"].nunique() == 1
    assert table(given)["percentile"].nunique() > 1


def test_predict_prints_tables_for_people_and_programs(run: Run) -> None:
    """CSV and JSON on standard output hold nothing else; the readable table names objective and tier."""
    csv = run("predict", *MODEL, "--format", "csv", "-q")
    assert len(csv.stdout.splitlines()) == 201
    assert csv.stderr == ""
    data = json.loads(run("predict", *MODEL, "--format", "json", "--top", "3").stdout)
    assert len(data["samples"]) == 3
    assert data["provenance"]["n"] == 200
    text = run("predict", *MODEL, "--objective", "both", "--top", "4")
    assert text.stdout.count("objective: ") == 2
    assert len([line for line in text.stdout.splitlines() if re.match(r" +\d+ ", line)]) == 8
    text = run("predict", *MODEL, "-q")
    assert len([line for line in text.stdout.splitlines() if re.match(r" +\d+ ", line)]) == 20
    assert text.stderr == "180 easier rows not shown; --out FILE or --format csv gives all\n"


def test_predict_calibrates_and_keeps_the_predictor(run: Run, folder: Path) -> None:
    """--calibrate says what it changed; what it kept gives the same table to predict and explain, for that target."""
    rows = training_table(targets=2, rows=30)
    DifficultyPredictor.fit(rows, ["loss_quantile", "margin_quantile"], params={"num_boost_round": 5}).save(
        folder / "plain"
    )
    command = ("predict", "--target", "mine:target", "--format", "csv", "-q")
    settings = ("--predictor", "plain", "--calibrate", "10", "--save-predictor", "calibrated", "--html", "c.html")
    made = run(*command, *settings)
    assert "retrain: forecast against measured percentile of 10 samples: before calibrating" in made.stderr
    assert "after unlearning some of them for real" in (folder / "c.html").read_text()
    again = run(*command, "--predictor", "calibrated")
    assert again.stdout == made.stdout
    explained = run("explain", "--target", "mine:target", "--predictor", "calibrated", "--index", "3", "-q")
    assert "retraining" in explained.stdout
    refused = CliRunner().invoke(main, ["predict", "--target", "mine:second", "--predictor", "calibrated", "-q"])
    assert refused.exit_code == 2
    assert "calibrated on samples of target 'first'" in refused.stderr


def test_top_rows_are_the_hardest(run: Run) -> None:
    """--top keeps the highest percentiles of each objective, hardest first."""
    best = table(run("predict", *MODEL, "--format", "csv"))["percentile"].nlargest(5).to_numpy()
    top = json.loads(run("predict", *MODEL, "--format", "json", "--top", "5").stdout)["samples"]
    assert [row["percentile"] for row in top] == pytest.approx(best)


def test_report_is_one_html_file(run: Run, folder: Path) -> None:
    """--html writes a page that names the objective and loads nothing from elsewhere."""
    run("predict", *MODEL, "--top", "2", "--html", "report.html")
    page = (folder / "report.html").read_text()
    assert "retrain" in page
    assert not re.findall(r"(?:src|href)=[\"']?https?:", page)


def test_torchvision_network_on_fashion_mnist(run: Run) -> None:
    """A residual network with batch normalisation, made by a user's module, goes through the same command."""
    found = table(run("predict", "--model", "mine:resnet18", "--dataset", "mine:clothes", "--format", "csv"))
    assert len(found) == 80
    assert found["percentile"].between(0, 1).all()
    assert set(found["tier"]) <= {"trivial", "easy", "medium", "hard"}


def test_explain_adds_up(run: Run, folder: Path) -> None:
    """Contributions by family, with the base, give the forecast; sentences and picture are there."""
    arguments = ["explain", *MODEL, "--objective", "both", "--index", "3", "--index", "17"]
    found = json.loads(run(*arguments, "--format", "json", "--plot", "w.png", "--html", "e.html").stdout)
    assert [(one["index"], one["objective"]) for one in found] == [
        (3, "retrain"),
        (3, "erase"),
        (17, "retrain"),
        (17, "erase"),
    ]
    for one in found:
        assert one["base"] + sum(one["by_family"].values()) == pytest.approx(one["percentile"], abs=1e-6)
        assert one["base"] + sum(one["by_factor"].values()) == pytest.approx(one["percentile"], abs=1e-6)
    assert (folder / "w.png").read_bytes().startswith(b"\x89PNG")
    assert "sample 3" in (folder / "e.html").read_text().lower()
    text = run(*arguments).stdout
    assert found[0]["reasons"][0]["sentence"] in text
    assert text.count("by family:") == 4


def test_explain_says_what_would_change_and_move(run: Run, folder: Path) -> None:
    """As the Python interface has it; plain in a pipe, coloured on a terminal."""
    mine = sys.modules["mine"]
    from forgetcast.adapters.loading import load_model

    report = predict_difficulty(load_model("mine:model", folder / "mine.safetensors"), mine.data(), objective="erase")
    arguments = ["explain", *MODEL, "--objective", "erase", "--index", "3", "-q"]
    text = run(*arguments).stdout
    sentence = report.what_would_change(3, "erase")["sentence"][0]
    movers = report.movers(3, "erase", count=8)
    assert f"  {sentence}\n" in text
    listed = text.split("would move with it")[1]
    assert re.findall(r"(\d+) \(label", listed) == [str(index) for index in movers["index"]]
    assert f"{movers['change'][0]:+.3f}" in listed
    assert "the sum of a family is what to rely on" in text
    assert "\x1b[" not in text
    (found,) = json.loads(run(*arguments, "--format", "json").stdout)
    assert found["what_would_change"][0]["sentence"] == sentence
    assert [row["index"] for row in found["movers"]] == movers["index"].tolist()
    coloured = CliRunner().invoke(main, arguments, color=True, catch_exceptions=False).stdout
    assert "\x1b[1m" in coloured
    assert click.unstyle(coloured) == text


@pytest.fixture(scope="module")
def generating(folder: Path) -> list[str]:
    """The command that made the corpus in ``folder``: three targets, ten samples each."""
    arguments = ["generate", "--out", "corpus", "--unlearners", ",".join(CONSENSUS), "-q"]
    arguments += ["--instances", "10", "--oracle-groups", "3", "--oracle-seeds", "2"]
    for name in ("target", "second", "third"):
        arguments += ["--target", f"mine:{name}"]
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    patch.undo()
    assert result.exit_code == 0, result.output
    assert "3 targets, 30 samples" in result.stdout
    return arguments


def test_second_generate_repeats_nothing(run: Run, folder: Path, generating: list[str]) -> None:
    """The same command again finds every shard and writes the same corpus."""
    files = [folder / "corpus" / name for name in ("outcomes.parquet", "instances.parquet", "factors.parquet")]
    shards = {path: path.stat().st_mtime_ns for path in (folder / "corpus" / "shards").rglob("*.parquet")}
    before = [path.read_bytes() for path in files]
    run(*generating)
    assert [path.read_bytes() for path in files] == before
    assert len(shards) > 3
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in shards.items())


def test_train_evaluate_predict(run: Run, folder: Path, generating: list[str]) -> None:
    """A predictor of one's own: fitted, evaluated and used, all from the command line."""
    assert (
        "30 samples of 3 targets" in run("train", "--corpus", "corpus", "--out", "fitted", "--replace", "always").stdout
    )
    printed = run("evaluate", "--corpus", "corpus", "--out", "evaluation", "--by", "target", "--quick", "-q").stdout
    assert "forecast" in printed
    assert (folder / "evaluation" / "evaluation.md").is_file()
    assert set(pd.read_csv(folder / "evaluation" / "summary.csv")["group"]) == {"target"}
    own = table(run("predict", *MODEL, "--predictor", "fitted", "--format", "csv"))
    published = table(run("predict", *MODEL, "--format", "csv"))
    assert own["index"].tolist() == published["index"].tolist()
    assert not np.allclose(own["percentile"], published["percentile"])


def test_corpora_with_one_target_name_are_refused(run: Run, folder: Path, generating: list[str]) -> None:
    """Two corpora that share a target cannot be joined by accident."""
    result = CliRunner().invoke(main, ["train", "--corpus", "corpus", "--corpus", "corpus", "--out", "twice"])
    assert result.exit_code == 2
    assert "share the target" in result.stderr
    assert not (folder / "twice").exists()


def test_indices_come_from_text_or_file(tmp_path: Path) -> None:
    """Numbers, ranges, commas, spaces and lines all read the same."""
    assert parse_indices(" 3, 5-7,\n9 ") == [3, 5, 6, 7, 9]
    (tmp_path / "list.txt").write_text("3\n5-7 9\n")
    assert parse_indices(str(tmp_path / "list.txt")) == [3, 5, 6, 7, 9]


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    """A file is replaced whole, or stays as it was and nothing lies beside it."""
    path = tmp_path / "kept.csv"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def command(*arguments: str) -> list[str]:
    """The command as a process of its own."""
    return [sys.executable, "-m", "forgetcast", *arguments]


def test_version_and_help_are_quick(folder: Path) -> None:
    """--version and --help import neither torch nor pandas."""
    heavy = ("torch", "pandas", "matplotlib", "optuna")
    program = f"import sys, forgetcast.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
    version = subprocess.run(command("--version"), capture_output=True, text=True, check=True).stdout
    assert version == f"forgetcast {forgetcast.__version__}\n"


def test_interrupted_generate_says_what_is_kept_and_resumes(folder: Path) -> None:
    """Ctrl-C ends with 130 and a word on resuming; what was finished is not done again."""
    arguments = command(
        "generate", "--target", "mine:target", "--out", "stopped", "--instances", "12", "--oracle-groups", "6",
        "--oracle-seeds", "9", "--unlearners", "gradient_ascent", "-q"
    )  # fmt: skip
    shards = folder / "stopped" / "shards" / "first"
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores Ctrl-C
    process = subprocess.Popen(arguments, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 120
    while not list(shards.glob("*.sha256")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert message.strip().splitlines()[-1] == (
        "interrupted: what is finished stays in stopped; run the same command again to resume"
    )
    assert not (folder / "stopped" / "manifest.json").exists()
    first = {path: path.stat().st_mtime_ns for path in shards.glob("*.sha256")}
    subprocess.run(arguments, cwd=folder, check=True, capture_output=True)
    assert (folder / "stopped" / "manifest.json").is_file()
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items())
    assert len(list(shards.glob("*.sha256"))) > len(first)
