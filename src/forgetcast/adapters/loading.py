"""Models, datasets and targets named by strings: ``module:factory``, files, built-in names."""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcast._arguments import checked
from forgetcast.errors import (
    DatasetError,
    FileFormatError,
    InputError,
    ModelError,
    PathError,
    UnknownNameError,
    first_line,
    shortened,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

    from forgetcast.target.target import Target
    from forgetcast.target.trajectory import Trajectory

__all__ = ["load_checkpoints", "load_dataset", "load_model", "load_object", "load_target"]

ARRAY_NAMES = (("x", "y"), ("X", "y"), ("images", "labels"), ("data", "target"))
"""Accepted names of (inputs, labels) in a ``.npz`` file, in the order they are tried."""
LABEL_COLUMNS = ("label", "y")
"""Accepted names of the label column in a table, in the order they are tried."""
DATASET_SUFFIXES = (".npz", ".parquet", ".csv")


def load_object(spec: str) -> Any:
    """What ``module:attribute`` names.

    The current folder is put on ``sys.path`` first, and stays there so that worker processes find the module.

    Raises:
        InputError: not of that form, no such module, or importing it failed.
        UnknownNameError: the module has no such attribute.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise InputError(f"expected module:factory, such as mymodels:resnet; got {spec!r}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(f"module {module_name!r} imports {error.name!r}, which is not installed") from error
        raise InputError(
            f"there is no module {module_name!r} in {here} or among the installed packages: "
            "run from the folder that holds it, or install its package"
        ) from error
    except Exception as error:
        raise InputError(f"importing {module_name!r} raised {type(error).__name__}: {first_line(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in vars(found) if not name.startswith("_")]
            raise UnknownNameError.of(f"attribute of {module_name}", part, public)
        found = getattr(found, part)
    return found


def _make(spec: str, factory: Callable[[], Any]) -> Any:
    """The factory's product.

    Raises:
        InputError: the factory raised.
    """
    try:
        return factory()
    except Exception as error:
        raise InputError(
            f"{spec} raised {type(error).__name__}: {first_line(error)} (it is called without arguments)"
        ) from error


def _file(path: str | Path, role: str) -> Path:
    """``path``, checked to be a file.

    Raises:
        PathError: missing, or a folder.
    """
    from forgetcast.files.foreign import regular_file

    return regular_file(path, role)


# -- models --------------------------------------------------------------------------------------------


@checked()
def load_model(spec: str, weights: str | Path | None = None) -> nn.Module:
    """The model that ``module:factory`` makes, or is, with ``weights`` loaded into it.

    Args:
        spec: ``module:factory``; the factory takes no arguments and returns a ``torch.nn.Module``. It may
            also be the module object itself.
        weights: a ``.safetensors`` file, or a state dict saved by ``torch.save`` (any other suffix; read with
            ``weights_only=True``, so it can run no code). None: the model as the factory returned it.

    Raises:
        InputError: the module or the factory cannot be found, or raised.
        ModelError: not a ``torch.nn.Module``, or the weights do not fit it.
        FileFormatError: the weights file is corrupt or of another kind.
        PathError: the weights file is missing or a folder.
    """
    from torch import nn

    made = load_object(spec)
    if callable(made) and not isinstance(made, nn.Module):
        made = _make(spec, made)
    if not isinstance(made, nn.Module):
        raise ModelError(f"{spec}: expected a torch.nn.Module; got {type(made).__name__}")
    if weights is not None:
        from forgetcast.target.weights import fit_weights, read_weights

        path = _file(weights, "weights")
        fit_weights(made, read_weights(path), str(path))
    return made


@checked()
def load_checkpoints(pattern: str) -> Trajectory:
    """The training run behind the weights files that ``pattern`` matches, in the order of the numbers in their names.

    Raises:
        PathError: no file matches.
        InputError: only one does.
    """
    from forgetcast.target.trajectory import Trajectory

    paths = sorted(glob(pattern, recursive=True), key=_by_numbers)
    if not paths:
        raise PathError(f"checkpoints: no file matches {pattern}")
    return Trajectory.from_checkpoints(paths)


def _by_numbers(path: str) -> list[tuple[str, int]]:
    """Sort key by which epoch-2 comes before epoch-10."""
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d*)", path)]


# -- datasets ------------------------------------------------------------------------------------------


@checked()
def load_dataset(spec: str, *, heldout: bool = False) -> Any:
    """The dataset that ``spec`` names, as :class:`forgetcast.target.data.Data` takes it.

    Args:
        spec: ``module:factory`` (such an object, or a factory without arguments that returns one), the path of a
            ``.npz``, ``.parquet`` or ``.csv`` file, or a built-in name.
        heldout: of a built-in dataset, the held-out part instead of the training part.

    A ``.npz`` file holds the arrays ``x`` (n, ...) and ``y`` (n,), or another pair of :data:`ARRAY_NAMES`. A
    table holds integer labels in the column ``label`` (or ``y``), and numbers in every other column.

    Raises:
        InputError: the module or the factory cannot be found, or raised.
        UnknownNameError: no built-in dataset has that name.
        DatasetError: arrays or columns are missing or of the wrong kind.
        FileFormatError: the file is corrupt or of another kind.
        PathError: the file is missing or a folder.
    """
    if Path(spec).suffix.lower() in DATASET_SUFFIXES:
        path = _file(spec, "dataset")
        return _arrays(path) if path.suffix.lower() == ".npz" else _table(path)
    if ":" in spec:
        made = load_object(spec)
        return _make(spec, made) if callable(made) else made
    if os.sep in spec or Path(spec).exists():
        _file(spec, "dataset")
        raise FileFormatError(f"dataset {spec}: expected a {', '.join(DATASET_SUFFIXES)} file")
    from forgetcast.corpus.zoo import datasets

    train, test = datasets.load(spec)
    return test if heldout else train


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    from forgetcast.files.foreign import check_archive

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                check_archive(packed, path)
        with warnings.catch_warnings(), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            warnings.simplefilter("error")  # of headers that need repair
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array, without labels")
            names = next((pair for pair in ARRAY_NAMES if set(pair) <= set(archive.files)), None)
            if names is not None:
                return archive[names[0]], archive[names[1]]
            found = ", ".join(archive.files) or "none"
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise FileFormatError(f"{path} is not a readable .npz file: {first_line(error)}") from error
    wanted = " or ".join(f"{x} and {y}" for x, y in ARRAY_NAMES)
    raise DatasetError(f"{path}: expected the arrays {wanted}; got {found}")


def _table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np
    import pandas as pd

    from forgetcast.files.foreign import read_table, without_index

    try:
        if path.suffix.lower() == ".csv":
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of rows that are longer than the header line
                frame: pd.DataFrame = pd.read_csv(path, index_col=False, low_memory=False)
        else:
            frame = without_index(read_table(path, str(path))).to_pandas(ignore_metadata=True)
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise FileFormatError(f"{path} is not a readable {path.suffix} table: {first_line(error)}") from error
    label = next((name for name in LABEL_COLUMNS if name in frame.columns), None)
    if label is None:
        columns = shortened([str(name) for name in frame.columns])
        raise DatasetError(f"{path}: expected labels in a column 'label' or 'y'; got {columns or 'none'}")
    if frame.columns.duplicated().any():
        raise DatasetError(
            f"{path}: expected every column once; {frame.columns[frame.columns.duplicated()][0]!r} is not"
        )
    features = frame.drop(columns=label)
    text = [str(name) for name in features if not pd.api.types.is_numeric_dtype(features[name].dtype)]
    if text or features.shape[1] == 0:
        what = f"{shortened(text)} are not numbers: encode or drop them" if text else "there is no other column"
        raise DatasetError(f"{path}: expected numeric feature columns beside {label!r}; {what}")
    missing = np.flatnonzero(frame[label].isna())
    if len(missing):
        raise DatasetError(
            f"{path}: {len(missing)} of {len(frame)} labels in the column {label!r} are missing, the first in row "
            f"{missing[0]} (counted from 0): drop the rows without a label"
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        x = features.to_numpy(np.float32, copy=True)
    return x, frame[label].to_numpy(copy=True)


# -- targets -------------------------------------------------------------------------------------------


@checked()
def load_target(spec: str) -> Target:
    """The target that ``spec``, a ``module:factory``, makes or is.

    Raises:
        InputError: the module or the factory cannot be found, raised, or gave something else.
    """
    from forgetcast.target.target import Target

    made = load_object(spec)
    if callable(made):
        made = _make(spec, made)
    if not isinstance(made, Target):
        raise InputError(f"{spec}: expected a forgetcast.Target; got {type(made).__name__}")
    return made
