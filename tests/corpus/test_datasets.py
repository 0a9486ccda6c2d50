"""Built-in datasets: finite, split once and for all, and told apart from those that are not installed."""

from __future__ import annotations

import gzip
import hashlib
import struct
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from forgetcast.corpus.zoo import datasets
from forgetcast.errors import FileFormatError, NotApplicableError, PathError, UnknownNameError

FACTS = {
    # name: (shape of the training inputs, held-out samples, classes, distinct inputs, hash of all labels in order)
    "breast-cancer": ((400, 30), 169, 2, 569, "ac8be32b6ed3"),
    "digits": ((1200, 1, 8, 8), 597, 10, 1797, "33a40a287b99"),
    "fashion-mnist": ((60000, 1, 28, 28), 10000, 10, 70000, "138bc5cbc39e"),
    "letter": ((15000, 16), 5000, 26, 18668, "a92ca10702d2"),
    "satellite": ((4435, 36), 2000, 6, 6435, "90987e359277"),
    "shuttle": ((43500, 9), 14500, 7, 58000, "819e16f9d8c6"),
    "spam": ((3600, 57), 1001, 2, 4207, "3390eb26165f"),
    "wine": ((150, 13), 28, 3, 178, "c2823a1885d1"),
}
TABLES = ["breast-cancer", "letter", "satellite", "shuttle", "spam", "wine"]
load = cache(datasets.load)


def test_every_dataset_is_tested() -> None:
    """The list of names is the list below."""
    assert set(datasets.NAMES) == set(FACTS)
    assert list(datasets.NAMES) == sorted(datasets.NAMES)


@pytest.mark.parametrize("name", FACTS)
def test_inputs_are_finite_and_labels_count_from_zero(name: str) -> None:
    """float32 inputs, int64 labels, every class among the training samples, shapes as written above."""
    (x, y), (x_heldout, y_heldout) = load(name)
    shape, heldout, classes, _, _ = FACTS[name]
    assert x.shape == shape
    assert x_heldout.shape == (heldout, *shape[1:])
    assert x.dtype == x_heldout.dtype == torch.float32
    assert y.dtype == y_heldout.dtype == torch.int64
    assert y.shape == (shape[0],)
    assert y_heldout.shape == (heldout,)
    assert torch.isfinite(x).all()
    assert torch.isfinite(x_heldout).all()
    assert torch.equal(torch.unique(y), torch.arange(classes))
    assert set(y_heldout.tolist()) <= set(range(classes))


@pytest.mark.parametrize("name", FACTS)
def test_no_sample_is_in_both_parts(name: str) -> None:
    """The parts hold every distinct input of the source, and share none where the source repeats none."""
    (x, y), (x_heldout, _) = load(name)
    rows = [row.tobytes() for row in torch.cat([x, x_heldout]).flatten(1).numpy()]
    assert len(set(rows)) == FACTS[name][3]
    if len(set(rows)) == len(rows):
        assert not set(rows[: len(y)]) & set(rows[len(y) :])


@pytest.mark.parametrize("name", FACTS)
def test_the_split_never_changes(name: str) -> None:
    """Which sample is where, told by the labels in order: recipes and corpora point at samples by number."""
    (_, y), (_, y_heldout) = load(name)
    assert hashlib.sha256(torch.cat([y, y_heldout]).numpy().tobytes()).hexdigest()[:12] == FACTS[name][4]


@pytest.mark.parametrize("name", [name for name in FACTS if name != "fashion-mnist"])
def test_loading_again_gives_the_same_bits(name: str) -> None:
    """Nothing is drawn from the global random state, and nothing is drawn anew."""
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.random.get_rng_state()
    again = datasets.load(name)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (x, y), (x_again, y_again) in zip(load(name), again, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_standardised_by_their_training_part(name: str) -> None:
    """Columns of the training part have mean 0 and standard deviation 1; the held-out part follows along."""
    (x, _), (x_heldout, _) = load(name)
    assert torch.allclose(x.mean(0), torch.zeros(x.shape[1]), atol=1e-4)
    assert torch.allclose(x.std(0), torch.ones(x.shape[1]), atol=1e-3)
    assert float(x_heldout.mean(0).abs().max()) > 1e-3


def test_digits_are_the_pixels_of_scikit_learn() -> None:
    """From 0 to 1, each image with its own label."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    label = {image.astype(np.float32).tobytes(): target for image, target in zip(raw.images, raw.target, strict=True)}
    for x, y in load("digits"):
        assert [label[(image[0] * 16).numpy().tobytes()] for image in x] == y.tolist()


def write_fashion_mnist(folder: Path, images: np.ndarray, labels: list[int]) -> None:
    """The four files of Fashion-MNIST with the same few images for training and testing."""
    for part in ("train", "t10k"):
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">IIII", 0x803, *images.shape) + images.astype(np.uint8).tobytes())
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 0x801, len(labels)) + bytes(labels))


def test_fashion_mnist_is_read_from_the_folder_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable wins; pixels are scaled to mean 0 and deviation 1 of the real data."""
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28))
    write_fashion_mnist(tmp_path, images, [9, 0, 4])
    monkeypatch.setenv("FORGETCAST_FASHION_MNIST", str(tmp_path))
    for x, y in datasets.load("fashion-mnist"):
        assert y.tolist() == [9, 0, 4]
        assert torch.allclose((x[:, 0] * 0.353 + 0.286) * 255, torch.tensor(images).float(), atol=1e-3)


def test_fashion_mnist_has_the_scale_it_promises() -> None:
    """Mean 0 and deviation 1 over the training images."""
    (x, _), _ = load("fashion-mnist")
    assert abs(float(x.mean())) < 0.01
    assert abs(float(x.std()) - 1) < 0.01


def test_mlbench_is_read_without_warnings() -> None:
    """A user is not told about encodings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datasets.load("satellite")


# -- what is refused -----------------------------------------------------------------------------------

PACKAGES = [
    ("fashion-mnist", "FORGETCAST_FASHION_MNIST", "dataset-fashion-mnist"),
    *((name, "FORGETCAST_MLBENCH", "r-cran-mlbench") for name in ("letter", "satellite", "shuttle")),
    ("spam", "FORGETCAST_KERNLAB", "r-cran-kernlab"),
]


@pytest.mark.parametrize(("name", "variable", "package"), PACKAGES)
def test_a_missing_folder_names_the_package_and_the_variable(
    name: str, variable: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was looked for, and the two ways to fix it; an empty folder is no better than none."""
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        monkeypatch.setenv(variable, str(folder))
        with pytest.raises(PathError) as caught:
            datasets.load(name)
        for part in (str(folder), f"Debian package {package}", variable):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "folders"), [("fashion-mnist", "FASHION_MNIST_FOLDERS"), ("letter", "MLBENCH_FOLDERS")]
)
def test_without_a_variable_the_packages_folders_are_named(
    name: str, folders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without the Debian package is told where its files would be."""
    monkeypatch.setattr(datasets, folders, ("/usr/lib/nowhere", "/usr/share/nowhere"))
    with pytest.raises(PathError, match="/usr/lib/nowhere or /usr/share/nowhere"):
        datasets.load(name)


def test_a_damaged_download_of_fashion_mnist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short, not gzip at all, or with fewer images than promised: one line that names the folder."""
    monkeypatch.setenv("FORGETCAST_FASHION_MNIST", str(tmp_path))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    images = np.zeros((3, 28, 28))
    write_fashion_mnist(tmp_path, images, [0, 1, 2])
    whole = path.read_bytes()
    promised = gzip.decompress(whole)
    for content in (whole[:-20], b"<html>not found</html>", gzip.compress(promised[:-100]), gzip.compress(b"")):
        path.write_bytes(content)
        with pytest.raises(FileFormatError) as caught:
            datasets.load("fashion-mnist")
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(PathError, match=r"train-images-idx3-ubyte\.gz"):
        datasets.load("fashion-mnist")


def test_a_damaged_table_of_mlbench_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short, or another table under its name."""
    source = datasets._find("FORGETCAST_MLBENCH", datasets.MLBENCH_FOLDERS, "r-cran-mlbench", ["Zoo.rda"])
    monkeypatch.setenv("FORGETCAST_MLBENCH", str(tmp_path))
    for content in ((source / "Satellite.rda").read_bytes()[:5000], (source / "Zoo.rda").read_bytes(), b""):
        (tmp_path / "Satellite.rda").write_bytes(content)
        with pytest.raises(FileFormatError, match=r"Satellite\.rda") as caught:
            datasets.load("satellite")
        assert "\n" not in str(caught.value)


def test_without_rdata_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that reads R's files is optional."""
    monkeypatch.setitem(__import__("sys").modules, "rdata", None)
    with pytest.raises(NotApplicableError, match=r"pip install 'forgetcast\[mlbench\]'"):
        datasets.load("shuttle")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """Close names are suggested, and all are listed."""
    with pytest.raises(
        UnknownNameError, match="unknown dataset 'fashion_mnist': did you mean 'fashion-mnist'"
    ) as caught:
        datasets.load("fashion_mnist")
    assert all(name in str(caught.value) for name in datasets.NAMES)
