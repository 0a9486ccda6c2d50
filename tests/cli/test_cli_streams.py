"""What a command prints reaches any console: narrow encodings, readers that go, full disks; never twice recorded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from safetensors.torch import save_file

from forgetcast.cli import main
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.errors import PathError
from forgetcast.screening.record import check
from forgetcast.screening.triage import Triage
from places import HELPERS
from small_targets import clouds
from synthetic import corpus

pytestmark = pytest.mark.slow

MODULE = """
import sys
from torch import nn
sys.path.insert(0, {tests!r})
from small_targets import clouds

def model():
    return nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))

def target():
    return clouds("模型 λ")
"""
NAMES = ["利用者{}", "müller-{}", "Ελένη{}", "naïve→{}", "≥{}…", "🙂{}"]
MODEL = ["--model", "narrow_model:model", "--weights", "mine.safetensors", "--dataset", "train.npz"]
MODEL += ["--heldout", "test.npz", "--objective", "erase", "-q"]
QUEUE = ["--requests", "anfragen→.csv", "--ids", "ids.txt"]
MEASURED = ["--objective", "erase", "--unlearners", "gradient_ascent", "--instances", "3", "-q"]
COMMANDS = {
    "predict": ["predict", *MODEL],
    "predict csv": ["predict", *MODEL, "--format", "csv", "--indices", "1-3"],
    "predict json": ["predict", *MODEL, "--format", "json", "--indices", "1-3"],
    "predict files": ["predict", *MODEL, "--indices", "1", "--out", "名.csv"],
    "explain": ["explain", *MODEL, "--index", "3"],
    "explain json": ["explain", *MODEL, "--index", "3", "--format", "json"],
    "prescreen": ["prescreen", *MODEL, *QUEUE, "--no-times"],
    "prescreen csv": ["prescreen", *MODEL, *QUEUE, "--no-times", "--format", "csv"],
    "prescreen json": ["prescreen", *MODEL, *QUEUE, "--no-times", "--format", "json"],
    "verify": ["verify", *MODEL, *QUEUE, "--samples", "3"],
    "generate": ["generate", "--target", "narrow_model:target", "--out", "gemessen λ", *MEASURED],
    "train": ["train", "--corpus", "korpus→", "--against", "alt→", "--out", "neu→", "-q", "--replace", "always"],
    "inspect corpus": ["inspect", "corpus", "korpus→"],
    "inspect path": ["inspect", "path", "--target", "narrow_model:target", "--index", "3", "--unlearners", "ssd"],
    "plugins": ["plugins"],
    "help": ["--help"],
    "help of one": ["prescreen", "--help"],
    "version": ["--version"],
}
REFUSED = {
    "no such file": ["predict", *MODEL[:-3], "--dataset", "weg→λ.npz"],
    "a file name that is no text": ["inspect", "corpus", "kein\udcff"],
    "no such column": ["prescreen", *MODEL, "--requests", "anfragen→.csv", "--id-column", "名前"],
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.+]+")
WIDE = {"prescreen", "prescreen csv", "verify", "generate", "train", "inspect corpus"}
"""Commands that print the names above on standard output."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, a corpus and requests, whose names are in many scripts."""
    folder = tmp_path_factory.mktemp("narrow")
    (folder / "narrow_model.py").write_text(MODULE.format(tests=str(HELPERS)), encoding="utf-8")
    target = clouds()
    save_file(target.module.state_dict(), folder / "mine.safetensors")
    for name, data, n in (("train", target.data, 45), ("test", target.heldout, 30)):
        x, y = data.fetch(np.arange(n))
        np.savez(folder / f"{name}.npz", x=x.numpy(), y=y.numpy())
    ids = [NAMES[number % len(NAMES)].format(number) for number in range(45)]
    (folder / "ids.txt").write_text("\n".join(ids), encoding="utf-8")
    rows = [f"{name},=≥{name}" for name in ids[:6]] + ["ниґде,x"]
    (folder / "anfragen→.csv").write_text("\n".join(["id,名前", *rows]), encoding="utf-8")
    corpus(3, 24, seed=1, unlearners=CONSENSUS, name="мой").write(folder / "korpus→")
    corpus(3, 24, seed=2, unlearners=CONSENSUS, name="другой").write(folder / "other")
    from forgetcast import Corpus, train_predictor

    train_predictor(Corpus.read(folder / "other"), folder / "alt→", against={}, params={"num_boost_round": 3})
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working folder."""
    monkeypatch.chdir(made)
    return made


def escaped(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


@pytest.fixture(scope="module", params=COMMANDS)
def wide(request: pytest.FixtureRequest, made: Path) -> tuple[str, str]:
    """A command, and what it prints in UTF-8 when it runs for the second time: what it makes is there then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for _ in range(2 if request.param in ("generate", "train") else 1):
            result = CliRunner().invoke(main, COMMANDS[request.param], catch_exceptions=False)
            assert result.exit_code == 0, result.output
    return request.param, result.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_every_command_prints_on_a_narrow_console(folder: Path, wide: tuple[str, str], encoding: str) -> None:
    """The same text as in UTF-8, with escapes for what the encoding lacks, the same exit code, and a word on it."""
    name, text = wide
    result = CliRunner(charset=encoding).invoke(main, COMMANDS[name], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    printed = result.stdout_bytes.decode(encoding)
    assert TIME.sub("", printed) == TIME.sub("", escaped(text, encoding))
    told = f"note: {encoding} cannot hold some letters" in result.stderr_bytes.decode(encoding)
    assert told == (escaped(text, encoding) != text)
    if name in WIDE and encoding == "ascii":
        assert told


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("name", REFUSED)
def test_an_error_is_one_line_on_a_narrow_console(folder: Path, name: str, encoding: str) -> None:
    """Whatever it quotes, also names of files that are no text at all."""
    result = CliRunner(charset=encoding).invoke(main, REFUSED[name], catch_exceptions=False)
    assert result.exit_code == 2
    (line,) = result.stderr_bytes.decode(encoding).splitlines()
    assert line.startswith("error: ")


def test_files_are_utf_8_whatever_the_console(folder: Path) -> None:
    """Tables, pages and records hold the ids as they came."""
    command = [*COMMANDS["prescreen"], "--out", "q.csv", "--html", "q.html", "--record", "q.jsonl"]
    assert CliRunner(charset="ascii").invoke(main, command).exit_code == 0
    ids = (folder / "ids.txt").read_text(encoding="utf-8").split("\n")[:6]
    assert set(pd.read_csv("q.csv", encoding="utf-8")["id"]) == set(ids)
    page = (folder / "q.html").read_text(encoding="utf-8")
    entries = [json.loads(line)["entry"] for line in (folder / "q.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {entry["request"]["id"] for entry in entries} == {*ids, "ниґде"}
    assert all(name in page or json.dumps(name)[1:-1] in page for name in ids)


def test_no_file_is_read_or_written_in_the_encoding_of_the_place(folder: Path, tmp_path: Path) -> None:
    """Python's own warning of it finds none, in a C locale without UTF-8 mode."""
    out = tmp_path / "q"
    command = [*COMMANDS["prescreen"], "--record", f"{out}.jsonl", "--html", f"{out}.html", "--out", f"{out}.csv"]
    result = process(folder, *command, PYTHONWARNDEFAULTENCODING="1", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="")
    assert result.returncode == 0, result.stderr
    ours = [line for line in result.stderr.decode("utf-8", "replace").splitlines() if "src/forgetcast" in line]
    assert not ours
    assert check(f"{out}.jsonl").entries == 7


# -- as a process -----------------------------------------------------------------------------------------------------


def process(
    folder: Path, *command: str, stdout: int | None = None, **settings: str
) -> subprocess.CompletedProcess[bytes]:
    """``forgetcast`` as a process of its own, in an environment with these settings."""
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", **settings}
    return subprocess.run(
        [sys.executable, "-m", "forgetcast", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        check=False,
    )


Ends = Callable[[], int]


def gone() -> int:
    """A pipe whose reader has gone, as ``| head`` leaves it."""
    read, write = os.pipe()
    os.close(read)
    return write


def full() -> int:
    """A disk without room."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(("end", "code"), [(None, 0), (gone, 0), (full, 2)])
@pytest.mark.parametrize("form", ["table", "csv"])
def test_decisions_are_recorded_once_however_printing_ends(
    folder: Path, tmp_path: Path, end: Ends | None, code: int, form: str
) -> None:
    """Printing never raises after them; what could not be printed is told with the word that they are recorded."""
    record = tmp_path / "r.jsonl"
    stdout = None if end is None else end()
    command = [*COMMANDS["prescreen"], "--format", form, "--record", str(record)]
    result = process(folder, *command, stdout=stdout)
    if stdout is not None:
        os.close(stdout)
    said = result.stderr.decode("cp1252")
    assert result.returncode == code, said
    assert check(record).entries == 7
    assert "recorded 7 decisions" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    if end is full:
        line = said.splitlines()[-1]
        assert line.startswith("error: standard output cannot be written: No space left on device; everything else")
        assert "decisions recorded where that was asked for" in line


def test_a_result_that_cannot_be_written_records_nothing(folder: Path, tmp_path: Path) -> None:
    """So that the same command, run again when there is room, records once."""
    record = tmp_path / "r.jsonl"
    command = [*COMMANDS["prescreen"], "--record", str(record), "--html", str(tmp_path / "q.html")]

    def no_room(*_: object) -> Path:
        raise PathError("there is no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Triage, "to_html", no_room)
        assert CliRunner().invoke(main, command).exit_code == 2
    assert not record.exists()
    assert CliRunner().invoke(main, command).exit_code == 0
    assert check(record).entries == 7


def test_a_record_that_was_edited_stops_the_command_before_the_work(folder: Path, tmp_path: Path) -> None:
    """Nothing is written beside it."""
    record = tmp_path / "r.jsonl"
    assert CliRunner().invoke(main, [*COMMANDS["prescreen"], "--record", str(record)]).exit_code == 0
    record.write_bytes(record.read_bytes().replace(b'"row":7', b'"row":8'))
    command = [*COMMANDS["prescreen"], "--record", str(record), "--html", str(tmp_path / "q.html")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forgetcast.screening.triage.triage", lambda *_, **__: pytest.fail("the work was begun"))
        result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 2
    assert "was changed" in result.stderr
    assert not (tmp_path / "q.html").exists()


def test_a_closed_standard_output_is_no_failure(folder: Path, tmp_path: Path) -> None:
    """A service may start a command without one; files and records are written all the same."""
    shell = f'exec "{sys.executable}" -m forgetcast "$@" >&-'
    record = tmp_path / "r.jsonl"
    command = [*COMMANDS["prescreen"], "--record", str(record)]
    result = subprocess.run(["sh", "-c", shell, "sh", *command], cwd=folder, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 0, result.stderr
    assert check(record).entries == 7
