"""Corpora of the clouds for the tests of clusters, and a train callable whose process is killed once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.generate import generate_corpus
from forgetcast.corpus.measuring import measure
from forgetcast.corpus.refresh import refresh_factors
from forgetcast.target.target import Target
from small_targets import CloudTrainer, clouds

SETTINGS: dict[str, Any] = {"unlearners": ["neggrad_plus"], "seeds": 2, "progress": False}
TRAININGS = 16
"""Four groups, four seeds: four shards of the oracle, of four trainings each. The outcomes are two more shards."""


def target(trainer: type[CloudTrainer] = CloudTrainer, log: Path | None = None, **attributes: Any) -> Target:
    """The clouds with another train callable."""
    made = clouds()
    inner = made._train
    assert isinstance(inner, CloudTrainer)
    assert made.heldout is not None
    train = trainer(inner.x, inner.y, None if log is None else str(log))
    for name, value in attributes.items():
        setattr(train, name, value)
    heldout = made.heldout.fetch(range(len(made.heldout)))
    return Target(made.module, (inner.x, inner.y), heldout=heldout, train=train, name="clouds", info=made.info)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def make(folder: Path, made: Target | None = None) -> Corpus:
    """A small corpus of the clouds."""
    chosen = made or target()
    return generate_corpus([chosen], folder, instances=4, oracle_groups=4, oracle_seeds=4, **SETTINGS)


def renamed(corpus: Corpus, name: str) -> Corpus:
    """The corpus of one target, under another name."""
    frames = {part: getattr(corpus, part).assign(target=name) for part in ("outcomes", "instances", "factors")}
    described = [{**corpus.manifest["targets"][0], "target": name}]
    return Corpus(**frames, manifest={**corpus.manifest, "targets": described})


def mortal(folder: Path, shard: int) -> Target:
    """The clouds, trained by somebody who is killed once: at the third training of this shard of the oracle."""

    class Mortal(CloudTrainer):  # made here, it travels to the workers by value
        flags: Path

        def __call__(self, indices: np.ndarray, seed: int) -> nn.Module:
            if seed == 1000 + shard and not (self.flags / "third").exists():
                number = len(list(self.flags.iterdir()))
                (self.flags / ("first", "second", "third")[number]).touch()
                if number == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(indices, seed)

    (folder / "flags").mkdir()
    return target(Mortal, folder / "log", flags=folder / "flags")


def trainings(folder: Path) -> int:
    """How many models were trained to the end."""
    return len((folder / "log").read_text().split())


def check_corpus(alone: Path, folder: Path) -> None:
    """Within the backend's configuration: every byte of a corpus, though this process did nothing but watch."""
    make(folder / "corpus", target(log=folder / "log"))
    assert contents(folder / "corpus") == contents(alone)
    processes = (folder / "log").read_text().split()
    assert len(processes) == TRAININGS
    assert len(set(processes)) == 2, "both workers take part"
    assert str(os.getpid()) not in processes


def check_measurements_and_factors(alone: Path, folder: Path) -> None:
    """Within the backend's configuration: ``measure`` without a folder, and factor tables side by side."""
    corpus = Corpus.read(alone)
    twins = [renamed(corpus, name) for name in ("first", "second", "third")]
    Corpus.join(twins).write(folder)
    erased = corpus.outcomes.query("objective == 'erase'").reset_index(drop=True)
    outcomes, _ = measure(target(), corpus.instances["index"].tolist(), objectives=["erase"], **SETTINGS)
    columns = [name for name in erased if erased[name].notna().all()]
    pd.testing.assert_frame_equal(outcomes[columns], erased[columns], check_exact=True)
    fresh = refresh_factors(folder, [clouds(name) for name in ("first", "second", "third")], progress=False)
    for name, rows in fresh.factors.groupby("target"):
        expected = corpus.factors.assign(target=name)
        pd.testing.assert_frame_equal(rows.reset_index(drop=True), expected, check_exact=True)
