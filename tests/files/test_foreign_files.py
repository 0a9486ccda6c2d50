"""Files that somebody else made: every finding of the fuzzer once more, each with the line that refuses it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from forgetcast.adapters.loading import load_dataset
from forgetcast.errors import DatasetError, FileFormatError, ForgetcastError, ModelError, PathError
from forgetcast.files.foreign import MEMORY_LIMIT, file_in, parse_json, read_table, regular_file
from forgetcast.predictor.lightgbm_text import read_booster
from forgetcast.target.weights import fit_weights, read_weights
from hostile_mutations import _bomb
from hostile_seeds import LOADERS, _module
from synthetic import FEATURES

pytestmark = pytest.mark.slow

FOLDERS = ("predictor", "calibrated", "corpus", "factors")


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A valid small folder of the kind that the test names."""
    made = tmp_path / "made"
    made.mkdir()
    LOADERS[request.param].make(made)
    return made


def refusal(kind: str, folder: Path) -> str:
    """The line with which a folder is refused, hashes made right again."""
    repair = LOADERS[kind].repair
    if repair is not None:
        repair(folder)
    with pytest.raises(ForgetcastError) as caught:
        LOADERS[kind].read(folder)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(("folder", "kind"), [(kind, kind) for kind in FOLDERS], indirect=["folder"])
def test_links_out_of_a_folder_are_not_followed(folder: Path, kind: str) -> None:
    """Though the content there is the right one: who made the folder does not choose what is read here."""
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        outside = folder.parent / f"outside-{path.name}"
        path.replace(outside)
        path.symlink_to(outside)
        assert "is a link to a place outside its folder" in refusal(kind, folder)
        path.unlink()
        outside.replace(path)
    LOADERS[kind].read(folder)


@pytest.mark.parametrize(("folder", "kind"), [("corpus", "corpus"), ("predictor", "predictor")], indirect=["folder"])
def test_links_within_a_folder_are_followed(folder: Path, kind: str) -> None:
    """They lead nowhere else."""
    path = next(path for path in folder.iterdir() if path.suffix in (".txt", ".parquet"))
    path.replace(folder / "real")
    path.symlink_to("real")
    LOADERS[kind].read(folder)


@pytest.mark.parametrize(("folder", "kind"), [(kind, kind) for kind in LOADERS], indirect=["folder"])
def test_pipes_devices_and_loops_are_refused_at_once(folder: Path, kind: str) -> None:
    """A pipe would be waited for, /dev/zero read without end."""
    path = sorted(path for path in folder.iterdir() if path.is_file())[0]
    for put in (
        os.mkfifo,
        lambda place: place.symlink_to("/dev/zero"),
        lambda place: place.symlink_to(place),
        Path.mkdir,
    ):
        path.unlink()
        put(path)
        with pytest.raises((ForgetcastError, IsADirectoryError)) as caught:
            LOADERS[kind].read(folder)
        assert isinstance(caught.value, ForgetcastError)
        path.rmdir() if path.is_dir() else path.unlink()
        path.touch()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "a\nb", "predictor/../../x"])
def test_names_of_files_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    """A name is that of a file in the folder itself."""
    (tmp_path / "x").write_text("x")
    with pytest.raises(FileFormatError, match="expected the name of a file in this folder"):
        file_in(tmp_path, name)
    assert file_in(tmp_path, "x") == tmp_path / "x"


@pytest.mark.parametrize("folder", ["calibrated"], indirect=True)
def test_a_calibration_reads_no_table_elsewhere(folder: Path) -> None:
    """``../elsewhere/measurements.parquet`` has the name of a table, and the right hash."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (folder / "measurements.parquet").rename(elsewhere / "measurements.parquet")
    described = json.loads((folder / "calibration.json").read_text())
    described["tables"]["../elsewhere/measurements.parquet"] = described["tables"].pop("measurements.parquet")
    (folder / "calibration.json").write_text(json.dumps(described))
    assert "it names a table '../elsewhere/measurements.parquet'" in refusal("calibrated", folder)


def test_paths_that_no_file_can_have() -> None:
    """A NUL byte, or thousands of letters."""
    for path in ("a\0b", "x" * 5000):
        with pytest.raises(PathError):
            regular_file(path, "weights")


def test_json_names_every_key_once() -> None:
    """Which of two values holds would depend on the reader."""
    with pytest.raises(ValueError, match="'a' comes twice"):
        parse_json(b'{"b": {"a": 1, "a": 2}}')
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(b"[" * 100_000)
    with pytest.raises(ValueError, match="surrogates not allowed"):
        parse_json(b'["\\ud800"]')
    assert parse_json(b'["\\ud83c\\udfb2"]') == ["\U0001f3b2"]
    assert parse_json(b'{"a": [{"a": 1}]}') == {"a": [{"a": 1}]}


def test_messages_are_one_printable_line() -> None:
    """Whatever they quote: control sequences could rewrite a terminal, and a megabyte would hide what is wrong."""
    text = str(FileFormatError("a\x1b]0;owned\x07\nb\u2028c\u202ed\ud800" + "x" * 10**6 + "the end"))
    assert text.startswith("a?]0;owned? b c?d?x")
    assert text.endswith("the end")
    assert len(text) <= 1500
    assert text.isprintable()


# -- sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "rows"), [(pa.array([1.5]), 300_000_000), (pa.array(["x" * 5_000_000]), 20_000)])
def test_parquet_of_a_few_kilobytes_takes_no_gigabytes(tmp_path: Path, value: pa.Array, rows: int) -> None:
    """One value many times: decoding stops where it takes more than it may."""
    path = tmp_path / "bomb.parquet"
    _bomb(path, "x", value, rows)
    assert path.stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    with pytest.raises(FileFormatError, match="no real data is like that"):
        read_table(path, str(path))
    assert pa.total_allocated_bytes() - before < MEMORY_LIMIT


def test_parquet_comes_as_it_was_written(tmp_path: Path) -> None:
    """Many pieces, dictionaries, nested values, no rows at all: the same as from pyarrow itself."""
    table = pa.table(
        {
            "a": np.arange(10_000),
            "b": pa.array(["x", None] * 5000).dictionary_encode(),
            "c": [[1, 2], None] * 5000,
            "d": pa.array(np.arange(10_000).astype("M8[ns]")),
        }
    )
    for part in (table, table.slice(0, 0)):
        pq.write_table(part, tmp_path / "t.parquet", row_group_size=3000)
        plain = part.set_column(1, "b", part["b"].cast(pa.string()))
        assert read_table(tmp_path / "t.parquet", "t").equals(plain)
        assert read_table((tmp_path / "t.parquet").read_bytes(), "t").equals(plain)


def test_archives_of_zeros_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    """As arrays and as weights."""
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((200_000, 200), np.float32), y=np.zeros(200_000, np.int8))
    with pytest.raises(FileFormatError, match="when they are unpacked"):
        load_dataset(str(tmp_path / "d.npz"))
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(MEMORY_LIMIT + 1))
    with pytest.raises(FileFormatError, match="when they are unpacked"):
        read_weights(tmp_path / "w.pt")


def test_real_data_is_far_from_the_bound(tmp_path: Path) -> None:
    """Images of which nine pixels in ten are black."""
    x = np.random.default_rng(0).integers(0, 255, size=(20_000, 784), dtype=np.uint8)
    x[np.random.default_rng(1).uniform(size=x.shape) < 0.9] = 0
    np.savez_compressed(tmp_path / "d.npz", x=x, y=np.zeros(20_000, np.int8))
    assert len(load_dataset(str(tmp_path / "d.npz"))[1]) == 20_000


# -- LightGBM -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A head of the small predictor."""
    made = tmp_path_factory.mktemp("predictor") / "made"
    LOADERS["predictor"].make(made)
    return (made / "retrain-percentile.txt").read_text()


def test_parameters_do_not_reach_lightgbm(model_text: str) -> None:
    """A line without its colon ended the process; now nothing after the trees is parsed, and forecasts are the same."""
    rows = np.random.default_rng(0).normal(size=(20, len(FEATURES)))
    whole = read_booster(model_text, FEATURES, "it").predict(rows)
    hostile = model_text.replace("[deterministic: 1]", "[deter 1]").replace("[num_threads: 1]", "[num_threads: x]")
    assert hostile != model_text
    assert (read_booster(hostile, FEATURES, "it").predict(rows) == whole).all()
    assert read_booster(hostile, FEATURES, "it").params == {}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace("num_leaves=", "num_leaves=1_", 1), "is no whole number of 32 bits"),
        (lambda text: text.replace("num_leaves=", "num_leaves=٣", 1), "is no whole number of 32 bits"),
        (lambda text: text.replace("num_leaves=", "num_leaves=99999999999", 1), "is no whole number of 32 bits"),
        (lambda text: text.replace("threshold=", "threshold=0x1 ", 1), "is no number"),
        (lambda text: text.replace("threshold=", "threshold=1_0", 1), "is no number"),
        (lambda text: text.replace("objective=regression", "objective=lambdarank", 1), "expected an objective"),
        (lambda text: text.replace("feature_infos=[", "feature_infos=(", 1), "wrong length or form"),
    ],
)
def test_numbers_that_c_reads_otherwise_are_refused(model_text: str, edit: Callable[[str], str], message: str) -> None:
    """Python takes 1_0 for ten and C for one: what was checked would not be what is followed."""
    text = edit(model_text)
    head, _, _ = text.partition("\n\nTree=0\n")
    size = len(text) - len(model_text)
    first = head.split("tree_sizes=")[1].split(" ")[0]
    if "Tree=0" in text and size and edit(head) == head:
        text = text.replace(f"tree_sizes={first}", f"tree_sizes={int(first) + size}")
    with pytest.raises(FileFormatError, match=message):
        read_booster(text, FEATURES, "it")


def test_a_tree_as_deep_as_it_is_wide_is_refused() -> None:
    """LightGBM walks by recursion: a chain of a hundred thousand splits would run out of stack."""
    leaves = 100_000
    splits = leaves - 1
    fields = {
        "num_leaves": str(leaves), "num_cat": "0", "split_feature": " ".join(["0"] * splits),
        "split_gain": " ".join(["1"] * splits), "threshold": " ".join(["0"] * splits),
        "decision_type": " ".join(["2"] * splits),
        "left_child": " ".join(map(str, [*range(1, splits), -leaves])),
        "right_child": " ".join(map(str, range(-1, -leaves, -1))),
        "leaf_value": " ".join(["0"] * leaves), "leaf_weight": " ".join(["1"] * leaves),
        "leaf_count": " ".join(["1"] * leaves), "internal_value": " ".join(["0"] * splits),
        "internal_weight": " ".join(["1"] * splits), "internal_count": " ".join(["2"] * splits),
        "is_linear": "0", "shrinkage": "1",
    }  # fmt: skip
    tree = "Tree=0\n" + "".join(f"{name}={value}\n" for name, value in fields.items()) + "\n\n"
    text = (
        "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=0\nobjective=regression\n"
        f"feature_names=a\nfeature_infos=none\ntree_sizes={len(tree)}\n\n{tree}end of trees\n\nend of parameters\n"
    )
    with pytest.raises(FileFormatError, match="tree 0 is deeper than 500 splits"):
        read_booster(text, ["a"], "it")


# -- tables and weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["corpus"], indirect=True)
def test_a_corpus_holds_the_kinds_that_it_should(folder: Path) -> None:
    """Columns of another kind, samples twice, infinite numbers, text that is no UTF-8: named by file and column."""
    cases: list[tuple[str, str, Callable[[pd.DataFrame], pd.DataFrame], str]] = [
        ("instances", "index", lambda t: t.assign(index=[{"a": 1}] * len(t)), "whole numbers in the column 'index'"),
        ("instances", "weight", lambda t: t.assign(weight=0.0), "weights above 0"),
        ("instances", "", lambda t: pd.concat([t, t]), "one row for every sample"),
        ("outcomes", "tv_test", lambda t: t.assign(tv_test=np.inf), "finite numbers"),
        ("outcomes", "tv_test", lambda t: t.assign(tv_test=2.0), "numbers from 0 to 1"),
        ("outcomes", "objective", lambda t: t.assign(objective="forget"), "the objectives retrain and erase"),
        ("outcomes", "trivial", lambda t: t.assign(trivial="no"), "true or false"),
        ("factors", "target", lambda t: t.assign(target=1), "text in the column 'target'"),
    ]
    for name, _, damage, message in cases:
        path = folder / f"{name}.parquet"
        content = path.read_bytes()
        damage(pd.read_parquet(path)).to_parquet(path, index=False)
        assert message in refusal("corpus", folder), message
        path.write_bytes(content)
    table = pq.read_table(folder / "factors.parquet")
    broken = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
    pq.write_table(table.set_column(0, "target", broken), folder / "factors.parquet")
    assert "is not a readable Parquet file" in refusal("corpus", folder)


@pytest.mark.parametrize("folder", ["factors"], indirect=True)
def test_a_factor_table_holds_a_number_for_every_sample(folder: Path) -> None:
    """Nothing else reaches the predictor."""
    path = folder / "values.parquet"
    content = path.read_bytes()
    for damage, message in (
        (lambda t: t.assign(margin="x"), "a column of numbers for every factor"),
        (lambda t: t.assign(other=1.0), "a column of numbers for every factor"),
        (lambda t: t.iloc[::-1], "a row for every sample"),
        (lambda t: t.assign(margin=np.inf), "finite numbers"),
    ):
        damage(pd.read_parquet(path)).to_parquet(path)
        assert message in refusal("factors", folder)
        path.write_bytes(content)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """Parquet may hold them."""
    columns = [pa.array([0.5, 1.5]), pa.array([2.5, 3.5]), pa.array([0, 1])]
    pq.write_table(pa.Table.from_arrays(columns, names=["a", "a", "label"]), tmp_path / "d.parquet")
    with pytest.raises(DatasetError, match="expected every column once; 'a' is not"):
        load_dataset(str(tmp_path / "d.parquet"))


def test_rows_longer_than_the_header_are_refused(tmp_path: Path) -> None:
    """pandas would take their first field for an index, and shift all others."""
    (tmp_path / "d.csv").write_text("a,label\n1,2,0\n3,4,1\n")
    with pytest.raises(FileFormatError, match=r"not a readable \.csv table"):
        load_dataset(str(tmp_path / "d.csv"))


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({1: torch.ones(2), "a": torch.ones(2)}, FileFormatError),
        ({"0.weight": torch.ones(1).expand(10**6, 10**6)}, ModelError),
        ({name: value.to("meta") for name, value in _module().state_dict().items()}, ForgetcastError),
        ({name: value.to_sparse() for name, value in _module().state_dict().items()}, ForgetcastError),
    ],
)
def test_tensors_that_are_no_weights_are_refused(tmp_path: Path, state: dict[object, object], error: type) -> None:
    """Numbers as names, a million by a million from one number, no values at all, sparse ones."""
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(error) as caught:
        fit_weights(_module(), read_weights(tmp_path / "w.pt"), "w.pt")
    assert str(caught.value).isprintable()


def test_inputs_follow_from_their_number(tmp_path: Path) -> None:
    """A finding can be made again."""
    from hostile_mutations import fresh, mutate

    valid = tmp_path / "valid"
    valid.mkdir()
    LOADERS["policy"].make(valid)
    (tmp_path / "inputs").mkdir()
    found = []
    for number in (7, 8, 7):
        folder = tmp_path / "inputs" / "folder"
        fresh(valid, folder)
        done = mutate(folder, random.Random(f"0/policy/{number}"), tmp_path / "canary")
        content = b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())
        found.append((done, hashlib.sha256(content).hexdigest()))
    assert found[0] == found[2] != found[1]


def test_a_field_of_many_letters_costs_its_own_row(tmp_path: Path) -> None:
    """Python's csv reads no field of more than 131,072 letters; that row is reported, and the others are served."""
    from forgetcast.screening.requests import checked_requests

    (tmp_path / "r.csv").write_text(f'index,why\n1,a\n2,"{"x" * 200_000}"\n3,{"y" * 200_000}\n4,d\n')
    found = checked_requests(tmp_path / "r.csv", 24)
    assert found.table["index"].tolist() == [1, 4]
    assert found.problems["row"].tolist() == [2, 3]
