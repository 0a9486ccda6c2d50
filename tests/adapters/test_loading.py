"""Models, datasets and targets named by strings and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from forgetcast.adapters.loading import load_dataset, load_model, load_target
from forgetcast.errors import (
    DatasetError,
    FileFormatError,
    InputError,
    ModelError,
    PathError,
    UnknownNameError,
)
from forgetcast.target.data import Data

MODULE = """
import torch
from torch import nn
from forgetcast.target.target import Target

def model():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

ready = model()

def data():
    return torch.arange(40.0).reshape(10, 4), torch.arange(10) % 3

def target():
    return Target(model(), data())

def fails():
    raise RuntimeError("no such disk\\nsecond line")

def number():
    return 7
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that holds the module ``things``."""
    name = f"things_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/usr/lib/nowhere", *__import__("sys").path])
    return tmp_path / name


def test_factory_in_the_current_folder_is_found_and_called(here: Path) -> None:
    """A factory gives a new model each time; a module object is taken as it is."""
    first, second = load_model(f"{here.name}:model"), load_model(f"{here.name}:model")
    assert isinstance(first, nn.Sequential)
    assert first is not second
    assert load_model(f"{here.name}:ready") is load_model(f"{here.name}:ready")


def test_target_factory_gives_a_target(here: Path) -> None:
    """A target factory's product comes back; anything else is refused."""
    assert len(load_target(f"{here.name}:target")) == 10
    with pytest.raises(InputError, match=r"expected a forgetcast\.Target; got int"):
        load_target(f"{here.name}:number")


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "checkpoint.pt"])
def test_weights_files_are_loaded_to_the_bit(here: Path, suffix: str) -> None:
    """Safetensors, a bare state dict and one inside a checkpoint all restore the same numbers."""
    source = load_model(f"{here.name}:model")
    path = here.parent / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(source.state_dict(), path)
    else:
        state = source.state_dict()
        torch.save({"epoch": 3, "model_state_dict": state} if suffix == "checkpoint.pt" else state, path)
    loaded = load_model(f"{here.name}:model", path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), source.parameters(), strict=True))


def test_weights_that_do_not_fit_are_listed(here: Path) -> None:
    """Missing, unexpected and misshapen names all stand in the message, long lists shortened."""
    state = {"0.weight": torch.zeros(5, 4), **{f"extra.{k}": torch.zeros(1) for k in range(9)}}
    save_file(state, here.parent / "other.safetensors")
    with pytest.raises(ModelError) as caught:
        load_model(f"{here.name}:model", here.parent / "other.safetensors")
    message = str(caught.value)
    assert "missing: 0.bias, 2.weight, 2.bias" in message
    assert "unexpected: extra.0, extra.1, extra.2, extra.3 and 5 more" in message
    assert "0.weight (5, 4) for (6, 4)" in message


def test_weights_file_with_code_is_refused(here: Path) -> None:
    """A pickle that would call a function is refused, and nothing of it runs."""
    path = here.parent / "evil.pt"
    torch.save({"hook": print, "weight": nn.Linear(2, 2)}, path)
    with pytest.raises(FileFormatError, match="could run code"):
        load_model(f"{here.name}:model", path)


@pytest.mark.parametrize(
    "strange",
    [
        torch.sparse_coo_tensor(torch.tensor([[9**9], [0]]), torch.ones(1), (2, 4), check_invariants=False),
        torch.sparse_csr_tensor(
            torch.tensor([0, 1 << 20, 1 << 20]), torch.tensor([0]), torch.ones(1), (2, 4), check_invariants=False
        ),
        torch.quantize_per_tensor(torch.ones(2, 4), 0.1, 0, torch.qint8),
    ],
    ids=["coo", "csr", "quantized"],
)
def test_weights_whose_sizes_nobody_checked_are_refused(here: Path, strange: torch.Tensor) -> None:
    """Sparse tensors come unchecked out of torch.load, and products with them read beyond their end."""
    path = here.parent / "sparse.pt"
    torch.save({"weight": strange, "bias": torch.zeros(2)}, path)
    with pytest.raises(FileFormatError, match=r"sparse or quantized ones \(weight\): save them dense"):
        load_model(f"{here.name}:model", path)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("plain", InputError, "expected module:factory"),
        ("no_such_module_at_all:f", InputError, "there is no module"),
        ("forgetcast.no_such:f", InputError, "there is no module"),
        ("{m}:modle", UnknownNameError, "did you mean 'model'"),
        ("{m}:fails", InputError, r"raised RuntimeError: no such disk \("),
        ("{m}:number", ModelError, r"expected a torch\.nn\.Module; got int"),
    ],
)
def test_specs_that_give_no_model_say_why(here: Path, spec: str, error: type[Exception], message: str) -> None:
    """Every way for module:factory to go wrong has its own one-line message."""
    with pytest.raises(error, match=message) as caught:
        load_model(spec.format(m=here.name))
    assert "\n" not in str(caught.value)


def test_module_that_fails_to_import_says_why(here: Path) -> None:
    """An import that fails inside the user's module is told apart from a missing module."""
    (here.parent / "breaks_on_import.py").write_text("import a_package_nobody_has")
    (here.parent / "raises_on_import.py").write_text("1 / 0")
    with pytest.raises(InputError, match="imports 'a_package_nobody_has', which is not installed"):
        load_model("breaks_on_import:f")
    with pytest.raises(InputError, match="importing 'raises_on_import' raised ZeroDivisionError"):
        load_model("raises_on_import:f")


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("X", "y"), ("images", "labels"), ("data", "target")])
def test_npz_gives_inputs_and_labels(tmp_path: Path, x: str, y: str) -> None:
    """The usual names of the two arrays are all understood."""
    inputs, labels = np.random.default_rng(0).normal(size=(12, 2, 3)).astype(np.float32), np.arange(12) % 4
    np.savez(tmp_path / "d.npz", **{x: inputs, y: labels, "other": np.zeros(3)})
    data = Data(load_dataset(str(tmp_path / "d.npz")))
    batch, got = data.fetch([3, 1])
    assert np.array_equal(batch.numpy(), inputs[[3, 1]])
    assert got.tolist() == [3, 1]


@pytest.mark.parametrize(("suffix", "label"), [("parquet", "label"), ("csv", "label"), ("parquet", "y")])
def test_table_gives_features_and_labels(tmp_path: Path, suffix: str, label: str) -> None:
    """A table's label column becomes the labels, every other column a feature, in order."""
    frame = pd.DataFrame({"a": [1.0, 2.5, 3.0], label: [0, 1, 1], "b": [4, 5, 6]})
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    data = Data(load_dataset(str(path)))
    batch, labels = data.fetch([0, 1, 2])
    assert batch.dtype == torch.float32
    assert batch.tolist() == [[1.0, 4.0], [2.5, 5.0], [3.0, 6.0]]
    assert labels.tolist() == [0, 1, 1]


def test_built_in_dataset_has_two_parts() -> None:
    """The training part and the held-out part of a built-in dataset are told apart."""
    assert len(Data(load_dataset("digits"))) == 1200
    assert len(Data(load_dataset("digits", heldout=True))) == 597


def test_dataset_factory_and_object_are_taken(here: Path) -> None:
    """A dataset factory is called; its pair can be read as data."""
    assert len(Data(load_dataset(f"{here.name}:data"))) == 10


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (
            "a.npz",
            {"a": np.zeros(3), "b": np.zeros(3)},
            DatasetError,
            "arrays x and y or .*got a, b",
        ),
        ("a.npz", b"PK\x03\x04 broken", FileFormatError, "not a readable .npz"),
        (
            "a.npz",
            {"x": np.array([{}], dtype=object), "y": np.zeros(1)},
            FileFormatError,
            "not a readable .npz",
        ),
        ("a.parquet", b"PAR1 broken", FileFormatError, "not a readable .parquet"),
        ("a.parquet", pd.DataFrame({"a": [1.0]}), DatasetError, "labels in a column 'label' or 'y'; got a"),
        ("a.parquet", pd.DataFrame({"a": ["s"], "y": [0]}), DatasetError, "a are not numbers"),
        ("a.parquet", pd.DataFrame({"y": [0]}), DatasetError, "there is no other column"),
        ("a.csv", b"", FileFormatError, "not a readable .csv"),
        ("a.txt", b"words", FileFormatError, r"expected a \.npz, \.parquet, \.csv file"),
    ],
)
def test_unusable_dataset_files_say_why(
    tmp_path: Path, name: str, content: object, error: type[Exception], message: str
) -> None:
    """Files that are broken, of another kind or without labels are told apart."""
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, pd.DataFrame):
        content.to_parquet(path)
    else:
        np.savez(path, **content)  # type: ignore[arg-type]
    with pytest.raises(error, match=message) as caught:
        load_dataset(str(path))
    assert "\n" not in str(caught.value)


def test_paths_that_are_missing_or_folders_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder, and a name that is neither file nor built-in each have their own error."""
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(PathError, match="there is no file"):
        load_dataset(str(tmp_path / "no.npz"))
    with pytest.raises(PathError, match="is a folder"):
        load_dataset(str(tmp_path / "folder.npz"))
    with pytest.raises(PathError, match="is a folder"):
        load_dataset(str(tmp_path))
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        load_dataset("digit")
    with pytest.raises(PathError, match="weights: there is no file"):
        load_model("torch.nn:Identity", tmp_path / "no.pt")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("gap", [None, float("nan")])
def test_a_missing_label_of_a_table_is_named_by_row(suffix: str, gap: float | None, tmp_path: Path) -> None:
    """An empty cell makes pandas read the whole column as real numbers: what is said is that a label is missing."""
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "label": pd.array([0, 1, 1], dtype="Int64")})
    frame["label"] = frame["label"].astype(object)
    frame.loc[1, "label"] = gap
    path = tmp_path / f"gap.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    with pytest.raises(
        DatasetError, match=r"1 of 3 labels in the column 'label' are missing, the first in row 1"
    ) as caught:
        load_dataset(str(path))
    assert "\n" not in str(caught.value)
