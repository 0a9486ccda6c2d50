"""Factor tables on disk: Parquet and a JSON manifest that says which model and data they are of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from forgetcast.errors import FileFormatError, PathError, first_line
from forgetcast.factors.factor import Factor
from forgetcast.factors.table import FactorTable, factor_table, quantile_column
from forgetcast.files.folders import locked_folder, replaced_folder
from forgetcast.files.foreign import file_in, parse_json, read_bytes, read_table
from forgetcast.files.hashes import check_hash, sha256
from forgetcast.registry import FACTOR_GROUP, load_factors, third_party
from forgetcast.target.target import Target

__all__ = ["factors_of", "read_factors", "write_factors"]

FORMAT = "forgetcast-factors"
FORMAT_VERSION = 1
MANIFEST, VALUES = "manifest.json", "values.parquet"


def factors_of(
    target: Target,
    names: Sequence[str],
    folder: str | Path,
    *,
    seed: int = 0,
    progress: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> FactorTable:
    """The factors of all samples of a target: those in ``folder`` where they are of this target, else computed anew
    and written there (a table with a failed plugin factor is not kept).

    Args:
        target: the model and its data.
        names: factors that are needed.
        folder: where the table is kept; what is there of another model, other data or other settings is replaced.
        seed: of the random projections and features inside factors.
        progress: bars on stderr.
        say: called with a sentence where a table is replaced.

    Raises:
        PathError: the folder cannot be written, or holds something that is not a factor table.
        FileFormatError: the table there is damaged.
    """
    folder = Path(folder)
    _check(folder)
    wanted = _described(target, names, seed)
    if (folder / MANIFEST).is_file():
        table, described = read_factors(folder)
        if described == wanted and target.trajectory is None:  # training runs are not compared: computed anew
            return table
        other = ", ".join(name for name in wanted if described.get(name) != wanted[name]) or "training run"
        say(f"the factors in {folder} are of another {other}: they are computed anew")
    table = factor_table(target, names=names, seed=seed, progress=progress)
    if table.failed:
        say(f"the factors are not kept in {folder}: {', '.join(table.failed)} failed; fix the plugin")
    else:
        write_factors(table, folder, wanted)
    return table


def write_factors(table: FactorTable, folder: str | Path, described: dict[str, Any]) -> None:
    """Write a table of all samples of a target; ``described`` says what it is of.

    Raises:
        PathError: the folder cannot be written, or holds something that is not a factor table.
    """
    with replaced_folder(Path(folder), "factors", _check) as fresh:
        fresh.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pandas(table.values), fresh / VALUES, compression="zstd")
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "of": described,
            "factors": list(table.factors),
            "not_applicable": table.not_applicable,
            "notes": table.notes,
            "sha256": sha256((fresh / VALUES).read_bytes()),
        }
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_factors(folder: str | Path) -> tuple[FactorTable, dict[str, Any]]:
    """Read a table, and what it is of.

    Raises:
        PathError: there is none.
        FileFormatError: it is damaged, of another format version, or has factors that are not installed.
    """
    with locked_folder(Path(folder).parent, shared=True):
        return _read(Path(folder))


def _read(folder: Path) -> tuple[FactorTable, dict[str, Any]]:
    try:
        manifest = parse_json(_content(Path(folder), MANIFEST))
        if manifest["format"] != FORMAT or manifest["format_version"] != FORMAT_VERSION:
            raise ValueError(f"expected {FORMAT} {FORMAT_VERSION}")
        known = load_factors()
        factors = {name: known[name] for name in manifest["factors"]}
        content = _content(Path(folder), VALUES)
        check_hash(content, manifest["sha256"], Path(folder) / VALUES, "copy the folder again")
        values: pd.DataFrame = read_table(content, VALUES).to_pandas()
        _check_values(values, factors)
        table = FactorTable(values, _texts(manifest["not_applicable"]), factors, _texts(manifest["notes"]))
        return table, dict(manifest["of"])
    except PathError:
        raise
    except Exception as error:
        raise FileFormatError(
            f"{folder} holds no usable factor table ({type(error).__name__}: {first_line(error)}): delete the folder "
            "to work the factors out anew"
        ) from error


def _content(folder: Path, name: str) -> bytes:
    path = file_in(folder, name)
    if not path.exists():
        raise PathError(f"{path} is missing: delete the folder {folder} to work the factors out anew")
    return read_bytes(path, "factors")


def _check_values(values: pd.DataFrame, factors: Mapping[str, Factor]) -> None:
    """Raise ``ValueError`` where the values are not numbers of these factors, a row for every sample."""
    columns = []
    for name, factor in factors.items():
        columns += [name] if factor.per_target else [name, quantile_column(name)]
    if list(values.columns) != columns or not all(dtype == "float64" for dtype in values.dtypes):
        raise ValueError("expected a column of numbers for every factor")
    if values.index.name != "index" or list(values.index) != list(range(len(values))) or values.empty:
        raise ValueError("expected a row for every sample")
    if np.isinf(values.to_numpy()).any():
        raise ValueError("expected finite numbers")


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("expected reasons and notes to be text")
    return value


def _described(target: Target, names: Sequence[str], seed: int) -> dict[str, Any]:
    """What decides every value of the table."""
    factors = load_factors()
    plugins = {name: plugin for name in names if (plugin := third_party(FACTOR_GROUP, name)) is not None}
    return {
        "model": target.model_hash,
        "data": target.data_hash,
        "heldout": target.heldout_hash if target.heldout is not None else None,
        "training run": target.trajectory is not None,
        "version": version("forgetcast"),
        "n": len(target),
        "seed": seed,
        "settings": {name: repr(dict(factors[name].settings)) for name in names},
        **({"plugins": {name: f"{item.package} {item.version}" for name, item in plugins.items()}} if plugins else {}),
    }


def _check(folder: Path) -> None:
    """A table may be written there: the folder is missing, empty, or holds a factor table."""
    if folder.exists() and not folder.is_dir():
        raise PathError(f"expected a folder for the factor table; {folder} is a file")
    present = [path.name for path in folder.iterdir()] if folder.exists() else []
    strangers = sorted({*present} - {MANIFEST, VALUES})
    if strangers:
        raise PathError(f"{folder} holds {strangers[0]!r}, which is no part of a factor table: give a new folder")
