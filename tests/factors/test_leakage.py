"""Factors see the trained model, its training data and held-out data, and nothing that was measured by unlearning."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor, nn

from boundaries import among, import_graph, measuring
from forgetcast.corpus.measuring import measure
from forgetcast.errors import NotApplicableError
from forgetcast.factors import factor_table
from forgetcast.factors.probes.probes import PROBES, Probes
from forgetcast.factors.probes.stein_kernel import stein_rows
from forgetcast.registry import load_factors
from forgetcast.target.target import Target
from small_targets import clouds

REFUSED = measuring("forgetcast.evaluation.holdout", "forgetcast.predictor.predictor")
"""What factors may not reach: a predictor rests on outcomes too."""

OUTCOMES = ("oracle", "unlearn", "outcome", "corpus", "difficulty", "memori", "forgotten", "retrained", "p_out", "p_in")
"""Parts of names that an outcome would have."""

PROGRAM = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if (name + ".").startswith({tuple(f"{name}." for name in REFUSED)!r}):
            raise AssertionError(f"factors import {{name}}")

sys.meta_path.insert(0, Refuse())
from forgetcast.target.example import example_target
from forgetcast.factors import factor_table

target, opened = example_target(), []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
table = factor_table(target)
assert len(table.factors) > len(table.not_applicable) + 70, table.not_applicable
print([name for name in opened if name.endswith((".parquet", ".csv", ".json", ".npz", ".safetensors"))])
"""


def test_factors_import_nothing_that_measures() -> None:
    """Neither factors nor anything they import, at any depth, reach unlearners, the oracle, labels or a corpus."""
    graph = import_graph()
    sources = graph.find_upstream_modules("forgetcast.factors", as_package=True)
    sources |= graph.find_descendants("forgetcast.factors")
    assert {Probes.__module__, Target.__module__, stein_rows.__module__} <= sources
    assert not among(sources, REFUSED)


def test_factors_run_where_nothing_that_measures_can_be_imported_or_read(tmp_path: Path) -> None:
    """The whole table is made in a process that refuses those modules, and opens no data file beside it."""
    (tmp_path / "manifest.json").write_text("{}")
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_no_probe_is_named_after_an_outcome() -> None:
    """Nothing a factor may ask for, and nothing on the way to it, sounds like an outcome of unlearning."""
    probes = Probes(clouds())
    reachable = {*PROBES, *vars(probes), *dir(Probes), *vars(probes.target), *dir(Target)}
    assert not [name for name in reachable for part in OUTCOMES if part in name.lower()]
    assert not {"target", "train", "info"} & set(PROBES)
    for item in load_factors().values():
        assert set(item.probes) <= set(PROBES)


def leaves(value: Any) -> list[Any]:
    """Everything that a probe holds, down to numbers and tensors."""
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def test_probes_are_numbers() -> None:
    """No probe hands a factor the target, the model, its train function or anything else that could be called."""
    probes, read = Probes(clouds()), set()
    for name in PROBES:
        with suppress(NotApplicableError):
            value = getattr(probes, name)
            assert all(isinstance(leaf, (Tensor, int, float, str, type(None))) for leaf in leaves(value)), name
            read.add(name)
    assert len(read) > 30


def test_no_factor_trains_a_model() -> None:
    """The whole table is computed without one call of ``train``, and is the same for a target that has none."""

    calls: list[int] = []

    def train(indices: np.ndarray, seed: int) -> nn.Module:
        calls.append(seed)
        raise AssertionError("a factor trained the model anew")

    alone = clouds(train=False)
    assert alone.heldout is not None
    held = alone.heldout.fetch(range(len(alone.heldout)))
    armed = Target(alone.module, alone.data.fetch(range(len(alone))), heldout=held, train=train)
    with pytest.raises(AssertionError, match="trained the model anew"):
        armed.train(range(40), 17)
    table = factor_table(armed)
    assert calls == [17]
    assert set(table.factors) == set(load_factors())
    assert table.not_applicable == factor_table(alone).not_applicable
    pd.testing.assert_frame_equal(table.values, factor_table(alone).values, check_exact=True)


def test_outcomes_beside_a_target_do_not_change_its_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the same target first, keeping the outcomes on it and in the folder: not one bit of the table moves."""
    before = factor_table(clouds()).values
    target = clouds()
    outcomes, instances = measure(
        target,
        [0, 7, 11, 33],
        unlearners=("gradient_ascent", "influence"),
        seeds=1,
        oracle_groups=2,
        oracle_seeds=1,
        n_jobs=1,
        progress=False,
    )
    assert instances["p_out"].notna().all()
    monkeypatch.chdir(tmp_path)
    for name, frame in {"outcomes": outcomes, "instances": instances}.items():
        frame.to_parquet(f"{name}.parquet")
        target.info[name] = frame
    Path("manifest.json").write_text(json.dumps({"targets": [target.name]}))
    pd.testing.assert_frame_equal(factor_table(target).values, before, check_exact=True)
