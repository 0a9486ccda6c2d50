"""Factors kept on disk: the same bit for bit, of this model and data alone, and nothing of anybody else is touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from forgetcast import Target
from forgetcast.errors import FileFormatError, ForgetcastError, PathError
from forgetcast.factors import FactorTable, factor_table
from forgetcast.factors.store import MANIFEST, VALUES, factors_of, read_factors, write_factors
from forgetcast.target.trajectory import Trajectory
from small_targets import clouds

NAMES = ["margin", "loss", "surrogate_confidence", "training_confidence"]


@pytest.fixture
def target() -> Target:
    """The clouds."""
    return clouds()


def stored(target: Target, folder: Path, **settings: int) -> tuple[FactorTable, list[str]]:
    """The table, and what was said."""
    said: list[str] = []
    return factors_of(target, NAMES, folder, say=said.append, **settings), said


def test_what_is_read_is_what_was_written(target: Target, tmp_path: Path) -> None:
    """Bit for bit, with what does not apply and why, and the folder is not written again."""
    wanted = factor_table(target, names=NAMES)
    made, said = stored(target, tmp_path / "new" / "factors")
    folder = tmp_path / "new" / "factors"
    assert said == []
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(stamps) == {MANIFEST, VALUES}
    again, said = stored(target, folder)
    assert said == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    for table in (made, again):
        pd.testing.assert_frame_equal(table.values, wanted.values, check_exact=True)
        assert table.values.to_numpy().tobytes() == wanted.values.to_numpy().tobytes()
        assert table.not_applicable == wanted.not_applicable
        assert "training_confidence" in table.not_applicable
        assert table.notes == wanted.notes
        assert list(table.factors) == NAMES
        assert table.reference is None
    assert again.values.index.name == "index"
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    assert list((tmp_path / "new").iterdir()) == [folder]


def test_another_model_is_worked_out_anew(target: Target, tmp_path: Path) -> None:
    """And said; so are other data, other held-out data, another seed, other factors; then the new table is kept."""
    folder = tmp_path / "factors"
    (x, y), held = (target.data.fetch(torch.arange(45)), target.heldout.fetch(torch.arange(30)))
    model = clouds().module
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    others = {
        "model": Target(model, (x, y), heldout=held),
        "data": Target(target.module, (x, (y + 1) % 3), heldout=held),
        "heldout": Target(target.module, (x, y)),
    }
    for what, other in others.items():
        stored(target, folder)
        table, said = stored(other, folder)
        assert said == [f"the factors in {folder} are of another {what}: they are computed anew"]
        pd.testing.assert_frame_equal(table.values, factor_table(other, names=NAMES).values)
        assert stored(other, folder)[1] == []
    other = others["heldout"]
    _, said = stored(other, folder, seed=1)
    assert "of another seed" in said[0]
    said = []
    table = factors_of(other, ["margin"], folder, seed=1, say=said.append)
    assert "of another settings" in said[0]
    assert list(table.factors) == ["margin"]


def test_a_training_run_makes_other_factors(target: Target, tmp_path: Path) -> None:
    """With checkpoints they are computed every time; afterwards those are not taken for factors without."""
    folder = tmp_path / "factors"
    plain, _ = stored(target, folder)
    (x, y), held = (target.data.fetch(torch.arange(45)), target.heldout.fetch(torch.arange(30)))
    weights = target.module.state_dict()
    checkpoints = [{name: value * share for name, value in weights.items()} for share in (0.3, 0.6, 1.0)]
    run = Trajectory.from_checkpoints(checkpoints)
    known = Target(target.module, (x, y), heldout=held, trajectory=run)
    for _ in range(2):
        table, said = stored(known, folder)
        assert "training run" in said[0]
        assert "training_confidence" not in table.not_applicable
    again, said = stored(target, folder)
    assert "training run" in said[0]
    pd.testing.assert_frame_equal(again.values, plain.values)


@pytest.mark.parametrize("broken", [MANIFEST, VALUES])
def test_a_damaged_table_is_named_and_stays(target: Target, tmp_path: Path, broken: str) -> None:
    """Cut short, emptied, replaced or with one bit flipped: the message says how to go on, and nothing is deleted."""
    folder = tmp_path / "factors"
    stored(target, folder)
    whole = (folder / broken).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    contents = [whole[: len(whole) // 2], b"", b"{}", b"[]", b"null", b"\xff\x00", b'{"format": 3}']
    for content in [*contents, bytes(flipped)] if broken == VALUES else contents:
        (folder / broken).write_bytes(content)
        with pytest.raises(FileFormatError, match=r"holds no usable factor table .*: delete the folder"):
            stored(target, folder)
        assert (folder / broken).read_bytes() == content
    (folder / broken).write_bytes(whole)
    assert stored(target, folder)[1] == []


def test_a_table_of_factors_that_are_not_installed(target: Target, tmp_path: Path) -> None:
    """The plugin it was made with is gone."""
    folder = tmp_path / "factors"
    stored(target, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["factors"].append("somebodys_factor")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(FileFormatError, match="somebodys_factor"):
        stored(target, folder)


def test_folders_of_others_are_left_alone(target: Target, tmp_path: Path) -> None:
    """A file in the place, or a folder with anything else in it, is refused before any work, and stays."""
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("all my work")
    with pytest.raises(PathError, match=r"'chapter\.tex', which is no part of a factor table"):
        stored(target, folder)
    stored(target, tmp_path / "factors")
    (tmp_path / "factors" / "notes.txt").write_text("mine")
    with pytest.raises(PathError, match=r"notes\.txt"):
        stored(target, tmp_path / "factors")
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(PathError, match="is a file"):
        stored(target, file)
    with pytest.raises(ForgetcastError, match="file"):
        stored(target, file / "below")
    assert (folder / "chapter.tex").read_text() == "all my work"
    assert (tmp_path / "factors" / "notes.txt").read_text() == "mine"
    assert file.read_text() == "text"


def test_a_missing_part_is_named(target: Target, tmp_path: Path) -> None:
    """Values without a manifest are computed anew; a manifest without values is an error that says how to go on."""
    with pytest.raises(PathError, match=r"manifest.json is missing"):
        read_factors(tmp_path / "nowhere")
    folder = tmp_path / "factors"
    stored(target, folder)
    (folder / VALUES).unlink()
    with pytest.raises(PathError, match=r"values.parquet is missing: delete the folder"):
        stored(target, folder)
    stored(target, tmp_path / "other")
    (tmp_path / "other" / MANIFEST).unlink()
    assert len(stored(target, tmp_path / "other")[0].values) == 45
    assert (tmp_path / "other" / MANIFEST).is_file()


def test_a_failure_while_writing_leaves_the_old_table(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or Ctrl-C: the folder is as before and nothing lies beside it."""
    folder = tmp_path / "factors"
    table, _ = stored(target, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for failure, seen in (
        (OSError(28, "No space left on device"), PathError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):

        def fail(*_: object, failure: BaseException = failure, **__: object) -> None:
            raise failure

        monkeypatch.setattr("forgetcast.factors.store.pq.write_table", fail)
        with pytest.raises(seen):
            write_factors(table, folder, {"model": "another"})
        monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_rows_are_taken_in_the_order_asked(target: Target) -> None:
    """What take gives is what working the samples out gives, with the same reference sample."""
    whole = factor_table(target, names=NAMES)
    some = whole.take([7, 3, 44])
    direct = factor_table(target, names=NAMES, indices=[7, 3, 44])
    assert some.values.index.tolist() == [7, 3, 44]
    pd.testing.assert_frame_equal(some.values, direct.values, rtol=1e-6)
    pd.testing.assert_frame_equal(some.population.sort_index(), direct.population.sort_index(), rtol=1e-6)
    assert whole.reference is None
    again = some.take(np.array([3]))
    assert again.values.index.tolist() == [3]
    assert len(again.population) == 45
    for stranger in ([45], [-1], [3, 99]):
        with pytest.raises(ForgetcastError, match=f"no sample {stranger[-1]}"):
            whole.take(stranger)
    assert whole.take([]).values.empty
