"""A corpus on disk: what is written is read, byte for byte the same, and what is damaged is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forgetcast.corpus.corpus import FORMAT, Corpus
from forgetcast.errors import FileFormatError, InputError, PathError, SchemaError
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.files.parquet import write_parquet
from synthetic import FEATURES, UNLEARNERS, corpus

TABLES = ("outcomes", "instances", "factors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus as written."""
    return corpus(targets=2, rows=8).write(tmp_path / "corpus")


def edit_manifest(folder: Path, **changes: object) -> None:
    """Set some entries of the manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_is_read(folder: Path) -> None:
    """Tables with their types and order, manifest and digest."""
    written, read = corpus(targets=2, rows=8), Corpus.read(folder)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(read, name), getattr(written, name), check_exact=True)
    assert read.targets["target"].tolist() == ["target 0", "target 1"]
    written.write(folder.with_name("again"))
    assert read.digest == written.digest
    assert sorted(path.name for path in folder.iterdir()) == [
        "factors.parquet",
        "instances.parquet",
        "manifest.json",
        "outcomes.parquet",
    ]


def test_the_same_corpus_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Also when it was read in between, or written over an older one."""
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    for copy in (Corpus.read(folder).write(tmp_path / "copy"), corpus(targets=2, rows=8).write(folder)):
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == first
    other = corpus(targets=2, rows=8, seed=1)
    other.write(tmp_path / "other")
    assert other.digest != Corpus.read(folder).digest


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    """A table that cannot be stored fails without a trace, and leaves the older file."""
    path = tmp_path / "deep" / "table.parquet"
    digest = write_parquet(pd.DataFrame({"a": [1, 2]}), path)
    with pytest.raises(Exception, match="Conversion failed"):
        write_parquet(pd.DataFrame({"a": [1, "one"]}), path)
    assert [entry.name for entry in path.parent.iterdir()] == ["table.parquet"]
    assert digest == write_parquet(pd.read_parquet(path), path)


def truncate(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path: Path) -> None:
    """Replace a file by text."""
    path.write_text("not a table")


def empty(path: Path) -> None:
    """Leave nothing in it."""
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, scribble, empty])
@pytest.mark.parametrize("name", [*(f"{table}.parquet" for table in TABLES), "manifest.json"])
def test_damaged_files_are_refused_by_name(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    """Whichever file of a corpus is cut short, emptied or another: the error names it."""
    damage(folder / name)
    with pytest.raises(FileFormatError, match=name) as caught:
        Corpus.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", TABLES)
def test_an_edited_table_is_not_the_one_the_manifest_names(folder: Path, table: str) -> None:
    """A sound Parquet file with other content, and one that the manifest does not know."""
    path = folder / f"{table}.parquet"
    frame = pd.read_parquet(path)
    write_parquet(frame.iloc[::-1], path)
    with pytest.raises(FileFormatError, match=rf"{table}.parquet is not the file its manifest names \(SHA-256"):
        Corpus.read(folder)
    write_parquet(frame, path)
    Corpus.read(folder)
    edit_manifest(folder, files={})
    with pytest.raises(FileFormatError, match="is not the file its manifest names"):
        Corpus.read(folder)


@pytest.mark.parametrize(
    ("table", "column"), [("outcomes", "tv_test"), ("instances", "memorization"), ("factors", "index")]
)
def test_a_missing_column_is_named_with_all_that_are_expected(folder: Path, table: str, column: str) -> None:
    """Even where manifest and file agree."""
    path = folder / f"{table}.parquet"
    digest = write_parquet(pd.read_parquet(path).drop(columns=column), path)
    edit_manifest(folder, files={**json.loads((folder / "manifest.json").read_text())["files"], path.name: digest})
    with pytest.raises(SchemaError, match=rf"{table}.parquet: expected columns target, index.*; missing {column}$"):
        Corpus.read(folder)


def test_another_format_is_not_guessed_at(folder: Path) -> None:
    """The message says which one is understood."""
    edit_manifest(folder, format=FORMAT + 1)
    with pytest.raises(SchemaError, match=f"expected corpus format {FORMAT}; got {FORMAT + 1}. Generate"):
        Corpus.read(folder)


@pytest.mark.parametrize(
    "content", ["[]", "7", "{}", '{"format": 1}', '{"format": 1, "files": 3, "targets": []}', "\udcff"]
)
def test_a_manifest_of_another_kind_is_refused(folder: Path, content: str) -> None:
    """Valid JSON that is no manifest, and bytes that are no text."""
    (folder / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(FileFormatError, match=r"manifest.json is not a corpus manifest"):
        Corpus.read(folder)


@pytest.mark.parametrize("targets", [["digits"], [{"name": "digits"}], [None]])
def test_targets_of_a_manifest_have_names(folder: Path, targets: list[object]) -> None:
    """They are what rows are joined to."""
    edit_manifest(folder, targets=targets)
    with pytest.raises(FileFormatError, match="every entry of 'targets' must be an object with a 'target' name"):
        Corpus.read(folder)


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda table: table.assign(index=table["index"] + 100), "outcomes of samples in instances.parquet alone"),
        (lambda table: table.assign(target=table["target"] + "?"), "outcomes of samples in instances.parquet alone"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "one row for every sample, objective and run"),
    ],
    ids=["another sample", "another target", "a row twice"],
)
def test_outcomes_are_those_of_the_instances(
    folder: Path, forge: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    """Else labels would come from rows that belong to nothing, or count twice."""
    sound = Corpus.read(folder)
    replace(sound, outcomes=forge(sound.outcomes)).write(folder)
    with pytest.raises(FileFormatError, match=message):
        Corpus.read(folder)


def test_missing_paths_are_named(folder: Path, tmp_path: Path) -> None:
    """No such folder, a file, a folder without manifest, a table that is gone."""
    with pytest.raises(PathError, match="nowhere does not exist"):
        Corpus.read(tmp_path / "nowhere")
    with pytest.raises(PathError, match=r"manifest.json is a file"):
        Corpus.read(folder / "manifest.json")
    with pytest.raises(PathError, match=r"expected a corpus with manifest.json .*see forgetcast generate"):
        Corpus.read(tmp_path)
    (folder / "factors.parquet").unlink()
    with pytest.raises(PathError, match=r"expected a Parquet file at .*factors.parquet; there is none"):
        Corpus.read(folder)


def test_a_file_where_a_folder_should_be_is_left_alone(tmp_path: Path) -> None:
    """Neither it nor what would lie below it is written."""
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (file, file / "below", file / "far" / "below"):
        with pytest.raises(PathError, match=f"expected a folder for the corpus at {place}; {file} is a file"):
            corpus(targets=1, rows=4).write(place)
    assert file.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_corpora_are_joined_when_their_targets_differ(folder: Path, tmp_path: Path) -> None:
    """Rows one after another; the joined corpus can be written and read; a shared name is an error."""
    first, second = Corpus.read(folder), corpus(targets=2, rows=5, seed=3)
    with pytest.raises(InputError, match="share the target\\(s\\) target 0, target 1"):
        Corpus.join([first, second])
    with pytest.raises(InputError, match="at least one corpus"):
        Corpus.join([])
    for table in TABLES:
        frame = getattr(second, table)
        frame["target"] = "other " + frame["target"]
    for target in second.manifest["targets"]:
        target["target"] = "other " + target["target"]
    joined = Corpus.join([first, second])
    assert joined.targets["target"].tolist() == ["target 0", "target 1", "other target 0", "other target 1"]
    for table in TABLES:
        assert len(getattr(joined, table)) == len(getattr(first, table)) + len(getattr(second, table))
    read = Corpus.read(joined.write(tmp_path / "joined"))
    pd.testing.assert_frame_equal(read.outcomes, joined.outcomes)
    assert joined.digest != first.digest


def test_features_are_the_columns_of_the_factor_table() -> None:
    """In its order, without the keys."""
    whole = corpus(targets=1, rows=4)
    assert feature_columns(whole) == FEATURES
    whole.factors[FEATURES[0]] = np.nan
    assert feature_columns(whole) == FEATURES[1:], "a factor that applies to no target teaches nothing"


def test_the_training_table_brings_labels_and_factors_together() -> None:
    """One row per sample with both objectives; factors and descriptors are those of the same sample."""
    made = corpus(targets=3, rows=10)
    shuffled = Corpus(made.outcomes, made.instances, made.factors.sample(frac=1, random_state=0), made.manifest)
    table = training_table(shuffled, UNLEARNERS)
    assert len(table) == 30
    assert not table.duplicated(["target", "index"]).any()
    for objective in ("retrain", "erase"):
        assert table[f"percentile_{objective}"].between(0, 1).all()
        assert table[f"trivial_{objective}"].dtype == bool
        trivial = table[table[f"trivial_{objective}"]]
        assert (trivial[f"difficulty_{objective}"] == 0).all()
    keyed = made.factors.set_index(["target", "index"])
    got = table.set_index(["target", "index"])[FEATURES]
    pd.testing.assert_frame_equal(got.sort_index(), keyed[FEATURES].sort_index())
    described = made.targets.set_index("target")
    assert (table["architecture"].to_numpy() == described.loc[table["target"], "architecture"].to_numpy()).all()


def test_a_sample_without_outcomes_has_no_row() -> None:
    """What was not measured under every unlearner is not trained on."""
    made = corpus(targets=2, rows=6)
    gone = (made.outcomes["target"] == "target 1") & (made.outcomes["index"] == 3)
    gone &= (made.outcomes["unlearner"] == UNLEARNERS[0]) & (made.outcomes["objective"] == "erase")
    table = training_table(Corpus(made.outcomes[~gone], made.instances, made.factors, made.manifest), UNLEARNERS)
    assert len(table) == 11
    assert not ((table["target"] == "target 1") & (table["index"] == 3)).any()
    assert np.isfinite(table[FEATURES].to_numpy(float)).all()
