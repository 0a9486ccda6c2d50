"""The same seed gives the same bytes, whatever the number of jobs and the order that sets and mappings come in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from places import HELPERS

TIME = re.compile(rb'(?<=<th scope="row">time</th><td>)[0-9T:+-]+')
COMMANDS = """
generate --target small_targets:clouds --out corpus --instances 12 --oracle-groups 6 --oracle-seeds 2 --jobs {jobs} -q
predict --target small_targets:clouds --out forecast.csv --html forecast.html --factors factors -q
prescreen --target small_targets:clouds --requests requests.csv --no-times --out queue.csv \
    --html queue.html -q
explain --target small_targets:clouds --index 9 --html sample.html -q
"""
SCRIPT = """
from forgetcast.cli import main
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.evaluation.training import train_predictor
from synthetic import corpus
settings = {{"params": {{"num_boost_round": 20}}, "against": {{}}, "n_jobs": {jobs}, "progress": False}}
train_predictor(corpus(5, 40, seed=1, unlearners=CONSENSUS), "predictor", **settings)
for call in {calls}:
    try:
        main(call)
    except SystemExit as end:
        if end.code:
            raise
"""


def run(folder: Path, jobs: int) -> subprocess.Popen[str]:
    """All commands in one process, on one thread, whose sets and mappings have an order of their own."""
    folder.mkdir()
    (folder / "requests.csv").write_text("index,who\n9,Ann\n1,Bob\n30,Cem\n5,Dee\n")
    calls = [line.split() for line in COMMANDS.format(jobs=jobs).replace("\\\n", " ").strip().splitlines()]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(calls=calls, jobs=jobs)],
        cwd=folder,
        env=os.environ | {"PYTHONHASHSEED": str(jobs), "PYTHONPATH": str(HELPERS), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """What two runs wrote, by path."""
    folders = [tmp_path_factory.mktemp("runs") / f"jobs-{jobs}" for jobs in (1, 2)]
    for process in [run(folder, jobs) for jobs, folder in enumerate(folders, 1)]:
        _, said = process.communicate()
        assert process.returncode == 0, said
    return [
        {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in folders
    ]


def test_everything_is_written_twice(results: list[dict[str, bytes]]) -> None:
    """Corpus with its shards, predictor, factors, tables and pages."""
    one, two = results
    assert set(one) == set(two)
    written = {"corpus/outcomes.parquet", "factors/values.parquet", "forecast.csv", "forecast.html", "queue.csv"}
    assert written | {"predictor/erase-difficulty.txt", "queue.html", "sample.html"} <= set(one)
    assert any(name.startswith("corpus/shards/") for name in one)


def test_every_byte_is_the_same(results: list[dict[str, bytes]]) -> None:
    """Measured, fitted and drawn by one job and by two, under two seeds of Python's hashes, but for a queue's time."""
    one, two = ({name: TIME.sub(b"", content) for name, content in run.items()} for run in results)
    assert [name for name in one if one[name] != two[name]] == []
