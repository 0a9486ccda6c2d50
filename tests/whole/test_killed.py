"""A process killed before any step of a write: what is there afterwards is the old or the new, never half of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from forgetcast.cli import main
from forgetcast.cli.output import write_table
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.corpus.shards import Rows, make_shard, read_shard
from forgetcast.errors import FileFormatError, RecordError
from forgetcast.evaluation.table import training_table
from forgetcast.factors import factor_table
from forgetcast.factors.store import read_factors, write_factors
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.report.page_parts import write_whole
from forgetcast.screening.policy import Policy
from forgetcast.screening.record import append, check
from places import HELPERS
from small_targets import clouds
from synthetic import FEATURES, corpus

pytestmark = pytest.mark.slow

STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "ctypes.dlsym"}
"""Audit events of what changes files; the exchange of two folders looks its function up (``ctypes.dlsym``)."""


def killed_before(step: int, write: Callable[[], object]) -> bool:
    """Run ``write`` in a process that is killed before its step of that number; False if it has fewer."""
    child = os.fork()
    if child == 0:
        taken = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal taken
            if event not in STEPS or (event == "open" and not _writes(arguments)):
                return
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)
            taken += 1

        sys.addaudithook(hook)
        code = 1
        try:
            write()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _writes(arguments: tuple[Any, ...]) -> bool:
    _path, mode, flags = arguments
    return bool(set(mode or "") & set("wax+")) or bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def drafts(folder: Path) -> list[Path]:
    """What killed processes left."""
    return list(folder.rglob(".forgetcast.*"))


def predictor(seed: int) -> DifficultyPredictor:
    """A quick fit."""
    table = training_table(corpus(3, 30, seed=seed, unlearners=CONSENSUS))
    return DifficultyPredictor.fit(table, FEATURES, params={"num_boost_round": 4})


def pairs() -> dict[str, tuple[str, Callable[[Path], object], Callable[[Path], object]]]:
    """What is written: the name of its file or folder, and how its old and its new content come there."""
    frame = pd.DataFrame({"index": np.arange(5), "difficulty": np.linspace(0, 1, 5)})
    table = factor_table(clouds(), names=["margin"])
    old, new = predictor(0), predictor(1)
    return {
        "csv": ("t.csv", lambda p: write_table(frame, p, {}), lambda p: write_table(frame[:3], p, {})),
        "parquet": ("t.parquet", lambda p: write_table(frame, p, {}), lambda p: write_table(frame[:3], p, {})),
        "json": ("t.json", lambda p: write_table(frame, p, {}), lambda p: write_table(frame[:3], p, {})),
        "page": ("p.html", lambda p: write_whole(p, lambda: "old", "r"), lambda p: write_whole(p, lambda: "new", "r")),
        "policy": ("p.json", lambda p: Policy(quick_to=0.01).save(p), lambda p: Policy(quick_to=0.02).save(p)),
        "predictor": ("p", old.save, new.save),
        "factors": ("f", lambda p: write_factors(table, p, {"of": 1}), lambda p: write_factors(table, p, {"of": 2})),
    }  # fmt: skip


@pytest.fixture(scope="module")
def writers() -> dict[str, tuple[str, Callable[[Path], object], Callable[[Path], object]]]:
    """The same, made once."""
    return pairs()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "page", "policy", "predictor", "factors"])
def test_old_or_new_after_a_kill_at_any_step(writers: Any, tmp_path: Path, kind: str, there: bool) -> None:
    """Nothing is torn and, where something was there, it is never away; the next write leaves no draft."""
    name, old, new = writers[kind]
    place = tmp_path / "killed" / name
    wanted = {}
    for number, write in enumerate((old, new)):
        write(tmp_path / str(number) / name)
        wanted[number] = contents(tmp_path / str(number))
    whole = [wanted[0] if there else {}, wanted[1]]
    place.parent.mkdir()
    step, found = 0, []
    while True:
        if there:
            old(place)
        ended = not killed_before(step, lambda: new(place))
        kept = {path: content for path, content in contents(place.parent).items() if not path.startswith(".forgetcast")}
        found.append(whole.index(kept))
        if ended:
            break
        step += 1
        if not there:
            for path in sorted(place.parent.rglob("*"), reverse=True):
                if not path.relative_to(place.parent).parts[0].startswith(".forgetcast"):
                    path.rmdir() if path.is_dir() else path.unlink()
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == 1
    assert step >= 2
    new(place)
    assert contents(place.parent) == wanted[1]


def test_a_corpus_killed_at_any_step_is_whole_or_made_so_by_the_next_write(tmp_path: Path) -> None:
    """Four files move one after another: in between the folder is refused by name, and writing again fixes it."""
    old, new = corpus(2, 20, seed=0), corpus(2, 20, seed=1)
    folder = tmp_path / "corpus"
    digests = []
    for one in (old, new):
        one.write(folder)
        digests.append(Corpus.read(folder).digest)
    step, refused, seen = 0, [], set()
    while True:
        old.write(folder)
        ended = not killed_before(step, lambda: new.write(folder))
        try:
            seen.add(digests.index(Corpus.read(folder).digest))
        except FileFormatError as error:
            refused.append(str(error))
        if ended:
            break
        step += 1
    assert seen == {0, 1}
    assert len(refused) <= 6
    assert all("make it again" in message for message in refused)
    new.write(folder)
    assert Corpus.read(folder).digest == digests[1]
    assert not drafts(tmp_path)


def test_a_shard_killed_at_any_step_is_made_again_and_others_stay(tmp_path: Path) -> None:
    """A shard counts as done only when it and its checksum are whole."""
    frame = pd.DataFrame({"a": np.arange(9)})
    rows = Rows({"a": range(9)}, ("a",))
    path = tmp_path / "shards" / "one-0.parquet"
    step = 0
    while killed_before(step, lambda: make_shard(path, rows, lambda: frame)):
        found = read_shard(path, rows)
        assert found is None or found.equals(frame)
        for file in path.parent.glob("one*"):
            file.unlink()
        step += 1
    assert step >= 3
    assert read_shard(path, rows) is not None


def test_a_record_killed_at_any_step_verifies(tmp_path: Path) -> None:
    """Either nothing of a call is there or all of it."""
    path = tmp_path / "record.jsonl"
    entries = [{"n": 1}, {"n": 2}]
    step, found = 0, []
    while True:
        path.unlink(missing_ok=True)
        append(path, [{"n": 0}])
        killed = killed_before(step, lambda: append(path, entries))
        found.append(check(path).entries)
        if not killed:
            break
        step += 1
    assert set(found) == {1, 3}


@pytest.mark.parametrize("writes", ["1", "2"])
def test_a_record_killed_inside_the_write_verifies(tmp_path: Path, writes: str) -> None:
    """Whatever of its lines is there, the call recorded nothing, or all; the next one goes on from there."""
    command = [sys.executable, HELPERS / "killed_record.py", tmp_path / "record.jsonl", writes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_copy_of_lines_that_are_not_the_last_changes_nothing(tmp_path: Path) -> None:
    """Lines that another copy, or nothing, speaks for are judged by the chain alone."""
    path = tmp_path / "record.jsonl"
    append(path, [{"n": 0}, {"n": 1}])
    whole = path.read_bytes()
    cut = whole.index(b"\n") + 1
    copies = [b"", b"x", b"-1\n", b"9" * 5000 + b"\n", b"%d\n" % len(whole), b"%d\nother" % cut]
    for copy in [*copies, b"%d\n" % cut + whole[cut:], b"%d\n" % cut + whole[cut:-2]]:
        (tmp_path / ".record.jsonl.pending").write_bytes(copy)
        assert check(path).entries == 2
        if copy in copies:
            path.write_bytes(whole[:-9])
            with pytest.raises(RecordError, match="line 2 is cut short"):
                check(path)
            path.write_bytes(whole)
    append(path, [{"n": 2}])
    assert check(path).entries == 3
    assert [file.name for file in tmp_path.iterdir()] == ["record.jsonl"]


def test_an_old_folder_goes_back_where_two_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the exchange a kill between two moves leaves nothing in place; the next writer puts the old one back."""
    monkeypatch.setattr("forgetcast.files.folders._exchanged", lambda one, other: False)
    table = factor_table(clouds(), names=["margin"])
    folder = tmp_path / "factors"
    step, away = 0, 0
    while True:
        write_factors(table, folder, {"of": 1})
        killed = killed_before(step, lambda: write_factors(table, folder, {"of": 2}))
        away += not folder.exists()
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "other.csv", {})
        assert read_factors(folder)[1]["of"] in (1, 2)
        assert not drafts(tmp_path)
        if not killed:
            break
        step += 1
    assert away == 1


def test_the_command_line_survives_kills_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed as soon as one result is there, and then another: each is whole or told, and the next run goes on."""
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", x=np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), y=np.arange(60) % 3)
    Path("killed_model.py").write_text(
        "import torch\ndef model():\n torch.manual_seed(0)\n return torch.nn.Linear(4, 3)\n"
    )
    Path("requests.csv").write_text("index\n1\n5\n9\n")
    command = ["prescreen", "--model", "killed_model:model", "--dataset", "train.npz", "--requests", "requests.csv"]
    command += ["--no-times", "-q", "--objective", "erase", "--out"]
    results = ["--html", "out.html", "--record", "record.jsonl", "--factors", "factors"]
    assert CliRunner().invoke(main, [*command, "alone.csv"]).exit_code == 0
    for awaited in ("factors", "out.html", "out.csv"):  # the record comes last
        process = subprocess.Popen(
            [sys.executable, "-m", "forgetcast", *command, "out.csv", *results],
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not Path(awaited).exists():
            time.sleep(0.002)
        if awaited == "out.csv":
            assert process.wait() == 0
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert len(read_factors("factors")[0].values) == 60
        if Path("record.jsonl").exists():
            assert check("record.jsonl").entries in (0, 3)
        for name, end in (("out.html", "</html>"), ("out.csv", "\n")):
            assert not Path(name).exists() or Path(name).read_text().endswith(end)
    assert Path("out.csv").read_bytes() == Path("alone.csv").read_bytes()
    assert check("record.jsonl").entries in (3, 6)
    assert not drafts(tmp_path)
