"""Two processes that write the same place at once: both finish, and the result is whole and that of one."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.generate import generate_corpus
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.evaluation.table import training_table
from forgetcast.factors import FactorTable, factor_table
from forgetcast.factors.store import read_factors, write_factors
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.screening.record import append, check
from small_targets import clouds
from synthetic import FEATURES, corpus

pytestmark = pytest.mark.slow

FORK = multiprocessing.get_context("fork")
SETTINGS: dict[str, Any] = {
    "instances": 6, "unlearners": ["gradient_ascent", "influence"], "oracle_groups": 6, "oracle_seeds": 2,
    "progress": False,
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path, drafts too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def together(*tasks: Callable[[], object]) -> None:
    """Run tasks in processes of their own that begin at one moment; every one must end without an error."""
    barrier = FORK.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> None:
        barrier.wait()
        task()

    workers = [FORK.Process(target=run, args=(task,)) for task in tasks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * len(tasks)


def repeat(seconds: float, task: Callable[[], object]) -> Callable[[], None]:
    """A task that is done again and again."""

    def run() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            task()

    return run


def test_two_runs_that_generate_one_corpus_make_that_of_one(tmp_path: Path) -> None:
    """The same shards are made by both, or by whichever comes first; every byte is that of a run alone."""
    generate_corpus([clouds()], tmp_path / "alone", **SETTINGS)

    def generate() -> None:
        generate_corpus([clouds()], tmp_path / "both", **SETTINGS)

    together(generate, generate)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_a_corpus_is_read_whole_while_others_write_it(tmp_path: Path) -> None:
    """Two writers of different content and a reader: every reading is of one or of the other."""
    one, other = corpus(2, 20, seed=0), corpus(2, 20, seed=1)
    folder = tmp_path / "corpus"
    digests = set()
    for made in (one, other):
        made.write(folder)
        digests.add(Corpus.read(folder).digest)

    def read() -> None:
        assert Corpus.read(folder).digest in digests

    together(repeat(2, lambda: one.write(folder)), repeat(2, lambda: other.write(folder)), repeat(2, read))
    read()
    assert not list(folder.glob(".forgetcast.*"))


def test_a_predictor_is_read_whole_while_others_replace_it(tmp_path: Path) -> None:
    """The same for the folder of a predictor, which is never away."""
    folder = tmp_path / "predictor"
    made = [
        DifficultyPredictor.fit(
            training_table(corpus(3, 30, seed=seed, unlearners=CONSENSUS)), FEATURES, params={"num_boost_round": 4}
        )
        for seed in (0, 1)
    ]
    made[0].save(folder)

    def read() -> None:
        assert DifficultyPredictor.load(folder).fingerprint in {one.fingerprint for one in made}

    together(repeat(2, lambda: made[0].save(folder)), repeat(2, lambda: made[1].save(folder)), repeat(2, read))
    read()
    assert [path.name for path in tmp_path.iterdir()] == ["predictor"]


def test_a_factor_table_is_read_whole_while_others_replace_it(tmp_path: Path) -> None:
    """The same for factors; both write to a folder that is not there yet at first."""
    folder = tmp_path / "factors"
    table: FactorTable = factor_table(clouds(), names=["margin"])

    def write(who: int) -> Callable[[], None]:
        return repeat(2, lambda: write_factors(table, folder, {"who": who}))

    def read() -> None:
        if folder.exists():
            assert read_factors(folder)[1]["who"] in (0, 1)

    together(write(0), write(1), repeat(2, read))
    read()
    assert [path.name for path in tmp_path.iterdir()] == ["factors"]


@pytest.mark.parametrize("writers", [2, 4])
def test_a_record_verifies_while_others_append(tmp_path: Path, writers: int) -> None:
    """A reader never meets half a line or a broken chain."""
    path = tmp_path / "record.jsonl"
    append(path, [{"n": 0}])
    together(
        *(repeat(1, lambda: append(path, [{"text": "x" * 5000}, {"n": 2}])) for _ in range(writers)),
        repeat(1, lambda: check(path)),
    )
    assert check(path).entries % 2 == 1
