"""A full disk: the file is named, what was there stays, nothing half-written is left, and with room it goes on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from forgetcast.cli import main
from forgetcast.cli.output import write_table
from forgetcast.corpus import tasks
from forgetcast.corpus.generate import generate_corpus
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.errors import PathError
from forgetcast.evaluation.table import training_table
from forgetcast.evaluation.training import train_predictor
from forgetcast.factors import factor_table
from forgetcast.factors.store import write_factors
from forgetcast.files.parquet import write_parquet
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.report.page_parts import write_whole
from forgetcast.screening.policy import Policy
from forgetcast.screening.record import append, check
from places import HELPERS
from small_targets import clouds
from synthetic import FEATURES, corpus

pytestmark = pytest.mark.slow

MEGABYTES = 64


WAYS = ["limited", "mounted"] if os.geteuid() == 0 else ["limited"]
"""Only root may mount."""


class Disk:
    """A place that can be filled up: a small file system of its own, or a limit on the size of files."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder, self.mounted = folder, mounted

    @contextmanager
    def full(self, left: int = 0) -> Iterator[str]:
        """While it is full but for ``left`` bytes; yields what the system calls that."""
        if self.mounted:
            filler = self.folder / "filler"
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"x" * 65536)
                except OSError:
                    file.truncate(max(file.tell() - left, 0))
            try:
                yield "No space left on device; make room there"
            finally:
                filler.unlink()
            return
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))  # room for a semaphore
        try:
            yield "File too large; raise the limit"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(params=WAYS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limited":
        yield Disk(folder, False)
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)], check=True)
    try:
        yield Disk(folder, True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path, but for what fills it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "filler")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def predictor(seed: int) -> DifficultyPredictor:
    """A quick fit."""
    table = training_table(corpus(3, 30, seed=seed, unlearners=CONSENSUS))
    return DifficultyPredictor.fit(table, FEATURES, params={"num_boost_round": 4})


FRAMES = [pd.DataFrame({"a": np.random.default_rng(k).normal(size=2000)}) for k in (0, 1)]
KINDS: dict[str, tuple[str, str, Callable[[], list[Callable[[Path], object]]]]] = {
    "csv": ("t.csv", "t.csv", lambda: [lambda p, f=f: write_table(f, p, {}) for f in FRAMES]),  # type: ignore[misc]
    "parquet": ("t.parquet", "t.parquet", lambda: [lambda p, f=f: write_table(f, p, {}) for f in FRAMES]),  # type: ignore[misc]
    "json": ("t.json", "t.json", lambda: [lambda p, f=f: write_table(f, p, {}) for f in FRAMES]),  # type: ignore[misc]
    "shard": ("s.parquet", "s.parquet", lambda: [lambda p, f=f: write_parquet(f, p) for f in FRAMES]),  # type: ignore[misc]
    "page": ("p.html", "p.html", lambda: [lambda p, k=k: write_whole(p, lambda: k * 9999, "report") for k in "ab"]),  # type: ignore[misc]
    "policy": ("p.json", "p.json", lambda: [Policy(quick_to=q).save for q in (0.01, 0.02)]),
    "predictor": ("p", "p", lambda: [predictor(k).save for k in (0, 1)]),
    "factors": ("f", "f", lambda: [lambda p, k=k: write_factors(MARGINS, p, {"of": k}) for k in (0, 1)]),  # type: ignore[misc]
    "corpus": ("c", "c/outcomes.parquet", lambda: [corpus(2, 40, seed=k).write for k in (0, 1)]),
}
"""The name of the place, the file that the message names, and two writers of different content."""
MARGINS = factor_table(clouds(), names=["margin"])


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_by_name_and_takes_nothing(disk: Disk, tmp_path: Path, kind: str, there: bool) -> None:
    """Old content stays to the byte, nothing is left beside it, and with room the same call works."""
    name, named, make = KINDS[kind]
    old, new = make()
    new(tmp_path / "elsewhere" / name)
    if there:
        old(disk.folder / name)
    before = contents(disk.folder)
    with disk.full() as reason, pytest.raises(PathError) as caught:
        new(disk.folder / name)
    assert str(disk.folder / named) in str(caught.value)
    assert reason in str(caught.value)
    assert contents(disk.folder) == before
    new(disk.folder / name)
    assert contents(disk.folder) == contents(tmp_path / "elsewhere")


def test_a_record_on_a_full_disk_is_as_before(disk: Disk) -> None:
    """Not even part of a line is added, and the next entry follows the last one."""
    path = disk.folder / "record.jsonl"
    append(path, [{"n": 0, "text": "x" * 100}])
    before = path.read_bytes()
    with disk.full() as reason, pytest.raises(PathError, match=reason.split(";", maxsplit=1)[0]) as caught:
        append(path, [{"n": 1, "text": "x" * 9000}])
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    append(path, [{"n": 1}])
    assert check(path).entries == 2


def test_training_onto_a_full_disk_keeps_the_old_predictor(disk: Disk) -> None:
    """The predictor that was to be replaced still loads."""
    folder = disk.folder / "predictor"
    old = predictor(5)
    old.save(folder)
    mine = corpus(4, 30, seed=1, unlearners=CONSENSUS, name="mine")
    settings: dict[str, Any] = {"against": {}, "replace": "always", "params": {"num_boost_round": 4}}
    with disk.full() as reason, pytest.raises(PathError, match=reason.split(";", maxsplit=1)[0]):
        train_predictor(mine, folder, **settings)
    assert DifficultyPredictor.load(folder).fingerprint == old.fingerprint
    assert [path.name for path in disk.folder.iterdir()] == ["predictor"]
    new = train_predictor(mine, folder, **settings).predictor
    assert DifficultyPredictor.load(folder).fingerprint == new.fingerprint != old.fingerprint


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_corpus_goes_on_after_room_was_made(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """Shards that were finished are not made again, and the corpus is that of a run with room from the start."""
    settings: dict[str, Any] = {
        "instances": 6, "unlearners": ["gradient_ascent", "influence"], "oracle_groups": 6, "oracle_seeds": 2,
        "progress": False,
    }  # fmt: skip
    generate_corpus([clouds()], tmp_path / "whole", **settings)
    whole = contents(tmp_path / "whole")
    shards = disk.folder / "corpus" / "shards" / "clouds"
    if disk.mounted:
        # Room for the oracle's shards and a little: four kilobytes are the least that a file takes there.
        with disk.full(left=10 * 4096) as reason, pytest.raises(PathError) as caught:
            generate_corpus([clouds()], disk.folder / "corpus", n_jobs=jobs, **settings)
    else:
        generate_corpus([clouds()], disk.folder / "corpus", n_jobs=jobs, **settings)
        for path in [*shards.glob("gradient*"), *(disk.folder / "corpus").glob("*.*")]:
            path.unlink()
        with disk.full() as reason, pytest.raises(PathError) as caught:
            generate_corpus([clouds()], disk.folder / "corpus", n_jobs=1, **settings)
    assert reason in str(caught.value)
    assert str(disk.folder / "corpus") in str(caught.value)
    finished = {
        path: path.stat().st_mtime_ns for path in shards.glob("*.parquet") if path.with_suffix(".sha256").is_file()
    }
    assert finished
    calls: Counter[str] = Counter()
    for kind, name in (("oracle", "leave_groups_out"), ("outcome", "outcome_block")):
        inner = getattr(tasks, name)

        def counting(*arguments: Any, kind: str = kind, inner: Any = inner) -> pd.DataFrame:
            calls[kind] += 1
            return inner(*arguments)

        monkeypatch.setattr(tasks, name, counting)
    generate_corpus([clouds()], disk.folder / "corpus", **settings)
    assert contents(disk.folder / "corpus") == whole
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert calls.total() == len([name for name in whole if name.startswith("shards") and "parquet" in name]) - len(
        finished
    )


@pytest.mark.parametrize(
    "option", ["--out t.csv", "--html t.html", "--record t.jsonl", "--factors t", "--save-predictor t"]
)
def test_the_command_line_tells_a_full_disk_in_one_line(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """Exit code 2, the file named, nothing left; other results that were asked for are not lost."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HELPERS)
    Path("requests.csv").write_text("index\n1\n5\n9\n")
    name, place = option.split()
    command = ["predict", "--target", "small_targets:clouds", "--objective", "erase", "-q"]
    if name in ("--record", "--factors"):
        command = ["prescreen", *command[1:], "--no-times", "--requests", "requests.csv"]
    if name == "--save-predictor":
        command += ["--calibrate", "10"]
    command += [name, str(disk.folder / place)]
    with disk.full() as reason:
        result = CliRunner().invoke(main, command)
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert str(disk.folder / place) in line
    assert reason.split(";", maxsplit=1)[0] in line
    assert [path for path in disk.folder.iterdir() if path.name != "t.jsonl"] == []
    assert CliRunner().invoke(main, command).exit_code == 0
    shutil.rmtree(disk.folder / place) if (disk.folder / place).is_dir() else (disk.folder / place).unlink()


def test_a_result_that_finds_no_room_does_not_cost_the_others(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page goes to the full disk, the table elsewhere: the table is written, the page is told, the code is 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HELPERS)
    command = ["predict", "--target", "small_targets:clouds", "--objective", "erase", "-q", "--indices", "3,4"]
    command += ["--html", str(disk.folder / "t.html"), "--out", "t.csv"]
    if disk.mounted:
        with disk.full():
            result = CliRunner().invoke(main, command)
    else:
        (disk.folder / "t.html").mkdir()
        result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert str(disk.folder / "t.html") in result.stderr.splitlines()[-1]
    if disk.mounted:
        assert len(pd.read_csv("t.csv")) == 2
