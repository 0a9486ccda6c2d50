"""Built-in datasets: real data that ships with a dependency or a Debian package; nothing is downloaded."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from forgetcast.errors import FileFormatError, NotApplicableError, PathError, UnknownNameError, first_line

__all__ = ["NAMES", "Split", "load"]

Split = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""((x, y), (x_heldout, y_heldout)): float32 inputs, int64 labels."""

FASHION_MNIST_FOLDERS = ("/usr/share/datasets/fashion-mnist",)
KERNLAB_FOLDERS = ("/usr/lib/R/site-library/kernlab/data", "/usr/lib/R/library/kernlab/data")
MLBENCH_FOLDERS = ("/usr/lib/R/site-library/mlbench/data", "/usr/lib/R/library/mlbench/data")


def load(name: str) -> Split:
    """Load a built-in dataset by name.

    Fashion-MNIST is read from the folder in ``FORGETCAST_FASHION_MNIST`` or where the Debian package
    ``dataset-fashion-mnist`` puts it (with the extra ``torchvision``); satellite, letter and shuttle from
    ``FORGETCAST_MLBENCH`` or where ``r-cran-mlbench`` puts them, spam from ``FORGETCAST_KERNLAB`` or where
    ``r-cran-kernlab`` puts it (these four need the extra ``mlbench``).

    Raises:
        UnknownNameError: no such dataset.
        PathError: its files are not on this machine.
        FileFormatError: its files are damaged.
        NotApplicableError: it needs the extra ``torchvision`` or ``mlbench``, which is not installed.

    >>> (x, y), (x_heldout, y_heldout) = load("digits")
    >>> x.shape, len(y_heldout)
    (torch.Size([1200, 1, 8, 8]), 597)
    """
    if name not in _LOADERS:
        raise UnknownNameError.of("dataset", name, _LOADERS)
    return _LOADERS[name]()


def _split(x: np.ndarray, y: np.ndarray, train: int) -> Split:
    """Shuffle with a fixed seed and cut after ``train`` samples; inputs and labels become tensors."""
    order = np.random.default_rng(0).permutation(len(y))
    inputs, labels = torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order], dtype=torch.long)
    return (inputs[:train], labels[:train]), (inputs[train:], labels[train:])


def _tabular(x: np.ndarray, y: np.ndarray, train: int) -> Split:
    """Like ``_split``, with columns standardised by the training part."""
    (a, ya), (b, yb) = _split(x, y, train)
    mean, std = a.mean(0), a.std(0).clamp_min(1e-8)
    return ((a - mean) / std, ya), ((b - mean) / std, yb)


def _digits() -> Split:
    from sklearn.datasets import load_digits

    raw = load_digits()
    return _split(raw.images[:, None] / 16.0, raw.target, 1200)


def _breast_cancer() -> Split:
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer()
    return _tabular(raw.data, raw.target, 400)


def _wine() -> Split:
    from sklearn.datasets import load_wine

    raw = load_wine()
    return _tabular(raw.data, raw.target, 150)


def _find(variable: str, folders: tuple[str, ...], package: str, files: Sequence[str]) -> Path:
    """The first of the places that is a folder, checked to hold the files.

    Raises:
        PathError: no such folder, or a file is not in it.
    """
    fix = f"Install the Debian package {package}, or set {variable} to the folder that holds its files"
    places = [os.environ[variable]] if variable in os.environ else list(folders)
    folder = next((Path(place) for place in places if Path(place).is_dir()), None)
    if folder is None:
        raise PathError(f"expected a data folder at {' or '.join(places)}; none is there. {fix}")
    for file in files:
        if not (folder / file).is_file():
            raise PathError(f"expected the file {file} in {folder}; it is not there. {fix}")
    return folder


def _fashion_mnist() -> Split:
    from forgetcast.corpus.zoo.torchvision_import import torchvision

    files = [
        f"{part}-ubyte.gz" for half in ("train", "t10k") for part in (f"{half}-images-idx3", f"{half}-labels-idx1")
    ]
    folder = _find("FORGETCAST_FASHION_MNIST", FASHION_MNIST_FOLDERS, "dataset-fashion-mnist", files)
    reader = torchvision().datasets.FashionMNIST
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root, "FashionMNIST", "raw")
        raw.mkdir(parents=True)
        try:
            for file in files:
                with gzip.open(folder / file) as source, (raw / file).with_suffix("").open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            parts = [reader(root, train=train) for train in (True, False)]
        except Exception as error:  # a damaged file can raise nearly anything
            raise FileFormatError(
                f"{folder} does not hold readable Fashion-MNIST files ({type(error).__name__}: {first_line(error)}): "
                "fetch them again"
            ) from error
    (x, y), (x_heldout, y_heldout) = ((part.data, part.targets) for part in parts)

    def scale(images: Tensor) -> Tensor:
        return (images[:, None].float() / 255 - 0.286) / 0.353

    return (scale(x), y.long()), (scale(x_heldout), y_heldout.long())


def _mlbench(table: str, label: str, train: int) -> Split:
    return _r_table("FORGETCAST_MLBENCH", MLBENCH_FOLDERS, "mlbench", table, label, train)


def _spam() -> Split:
    """Word frequencies of 4,601 letters as log(x + 0.1), after Hastie et al. 2009, section 9.1.2."""
    return _r_table("FORGETCAST_KERNLAB", KERNLAB_FOLDERS, "kernlab", "spam", "type", 3600, lambda x: np.log(x + 0.1))


def _r_table(
    variable: str,
    folders: tuple[str, ...],
    package: str,
    table: str,
    label: str,
    train: int,
    scale: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> Split:
    """A table of an R package, its columns scaled and standardised."""
    try:
        import rdata
    except ImportError as error:
        raise NotApplicableError(
            f"reading {package} data needs the package rdata: pip install 'forgetcast[mlbench]'"
        ) from error
    file = f"{table}.rda"
    path = _find(variable, folders, f"r-cran-{package}", [file]) / file
    try:
        frame = rdata.read_rda(str(path), default_encoding="ascii")[table]
        codes = frame[label].astype("category").cat.codes.to_numpy(np.int64)
        x = frame.drop(columns=label).to_numpy(np.float64)
    except Exception as error:  # a damaged file can raise nearly anything
        raise FileFormatError(
            f"{path} does not hold the {package} table {table} ({type(error).__name__}: {first_line(error)}): "
            "install its package again"
        ) from error
    return _tabular(scale(x), codes, train)


_LOADERS: dict[str, Callable[[], Split]] = {
    "breast-cancer": _breast_cancer,
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "letter": lambda: _mlbench("LetterRecognition", "lettr", 15000),
    "satellite": lambda: _mlbench("Satellite", "classes", 4435),
    "shuttle": lambda: _mlbench("Shuttle", "Class", 43500),
    "spam": _spam,
    "wine": _wine,
}

NAMES: tuple[str, ...] = tuple(_LOADERS)
"""Names that :func:`load` knows."""
