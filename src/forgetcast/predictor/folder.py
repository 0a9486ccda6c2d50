"""A predictor on disk: LightGBM text and JSON, checked as they are read, swapped in whole when written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgetcast.errors import FileFormatError, PathError, SchemaError
from forgetcast.files.folders import nearest_existing, replaced_folder
from forgetcast.files.foreign import file_in, parse_json, read_bytes
from forgetcast.files.hashes import check_hash, sha256
from forgetcast.objectives import OBJECTIVES
from forgetcast.predictor.columns import HEADS, INTERVAL_HEADS, PART_HEADS, UNLEARNER, UNLEARNER_HEADS, residuals_under
from forgetcast.predictor.familiarity import check_contexts
from forgetcast.predictor.heads import Head
from forgetcast.predictor.lightgbm_text import read_booster

__all__ = [
    "RECORDS",
    "Heads",
    "Residuals",
    "check_folder",
    "check_format",
    "holds_predictor",
    "read_folder",
    "read_json",
    "seal",
    "write_folder",
]

Heads = dict[str, dict[str, Head]]
"""objective -> head name -> fitted head."""

Residuals = dict[str, dict[str, dict[str, list[float]]]]
"""objective -> head -> target (or fold) -> measured minus out-of-group prediction, on the head's scale."""

FORMAT = "forgetcast-predictor"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
RESIDUALS = "residuals.json"
ALL_HEADS = (*HEADS, *PART_HEADS, *UNLEARNER_HEADS)
OPTIONAL = ("contexts", "unlearners")
"""Parts of the manifest that predictors of earlier versions lack."""
RECORDS = ("comparison.csv", "tuning.csv")
"""How a predictor was chosen, for people to read: saved beside it, replaced with it, not needed to load it."""


def holds_predictor(folder: Path) -> bool:
    """Whether a predictor was saved in ``folder`` (it may still turn out to be damaged)."""
    return (folder / MANIFEST).is_file()


def seal(manifest: dict[str, Any], heads: Heads, residuals: Residuals) -> None:
    """Write format, heads, the hash of every file and the fingerprint into ``manifest``."""
    manifest["format"] = FORMAT
    manifest["format_version"] = FORMAT_VERSION
    manifest["objectives"] = {
        objective: {
            name: {"constant": head.constant} if head.text is None else {"file": f"{objective}-{name}.txt"}
            for name, head in entries.items()
        }
        for objective, entries in heads.items()
    }
    files = _files(heads, residuals)
    manifest["files"] = {name: sha256(content) for name, content in sorted(files.items())}
    manifest["fingerprint"] = _fingerprint(manifest)


def check_folder(folder: Path) -> None:
    """Check that a predictor may be saved in ``folder``, before the work that makes it.

    Raises:
        PathError: it is a file or below one, or holds something that is not a predictor.
    """
    if folder.exists() and not folder.is_dir():
        raise PathError(f"expected a folder to save the predictor in; {folder} is a file")
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise PathError(f"the predictor cannot be saved in {folder}: {nearest} is a file")
    present = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    strangers = [name for name in present if not name.startswith(".")]
    if strangers and not {MANIFEST, RESIDUALS} <= set(present):  # a corpus has a manifest.json too
        raise PathError(
            f"{folder} is not empty and holds no predictor (it has {strangers[0]!r}); give a new or empty folder"
        )


def write_folder(
    folder: Path, heads: Heads, residuals: Residuals, manifest: dict[str, Any], records: Mapping[str, bytes]
) -> None:
    """Write everything to a sibling folder, then move it into place; files that are not a predictor's are
    kept. ``records`` are contents by file name, of those in ``RECORDS``.

    Raises:
        PathError: the folder cannot be written, is a file, or holds something that is not a predictor.
    """
    with replaced_folder(folder, "predictor", check_folder) as fresh:
        _copy_others(folder, fresh)
        for name, content in (_files(heads, residuals) | dict(records)).items():
            (fresh / name).write_bytes(content)
        (fresh / MANIFEST).write_bytes(_dump(manifest))


def read_folder(folder: Path) -> tuple[Heads, Residuals, dict[str, Any]]:
    """Heads, residuals and manifest of a saved predictor, every file checked against its hash.

    Raises:
        PathError: there is no such folder, or it holds no predictor.
        FileFormatError: a file is corrupt, truncated, missing, or not what its hash in the manifest says.
        SchemaError: it was written in another format version.
    """
    if not folder.is_dir():
        raise PathError(
            f"expected a predictor's folder; {folder} {'is a file' if folder.exists() else 'does not exist'}"
        )
    if not holds_predictor(folder):
        raise PathError(f"{folder} holds no predictor: {MANIFEST} is missing")
    manifest = read_json(folder, MANIFEST)
    _check_manifest(manifest, folder / MANIFEST)
    contents = {}
    for name, expected in manifest["files"].items():
        contents[name] = _read(folder, name)
        check_hash(contents[name], expected, folder / name, "it is corrupt: copy the folder again")
    heads = {
        objective: {
            name: _read_head(
                entry, contents, [*manifest["features"], *([UNLEARNER] if name in UNLEARNER_HEADS else [])], folder
            )
            for name, entry in entries.items()
        }
        for objective, entries in manifest["objectives"].items()
    }
    residuals = _parse(contents[RESIDUALS], folder / RESIDUALS)
    _check_residuals(residuals, list(heads), manifest.get("unlearners", {}), folder / RESIDUALS)
    return heads, residuals, manifest


def _files(heads: Heads, residuals: Residuals) -> dict[str, bytes]:
    """Name and content of every file but the manifest."""
    files = {
        f"{objective}-{name}.txt": head.text.encode()
        for objective, entries in heads.items()
        for name, head in entries.items()
        if head.text is not None
    }
    return files | {RESIDUALS: _dump(residuals)}


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    parts = ["format", "format_version", "features", "typical", "objectives", "intervals", "files"]
    parts += [name for name in OPTIONAL if name in manifest]
    return sha256(json.dumps({name: manifest[name] for name in parts}, sort_keys=True).encode())


def _copy_others(folder: Path, fresh: Path) -> None:
    """Copy what is not part of the predictor that ``folder`` holds."""
    fresh.mkdir()
    if not folder.exists():
        return
    heads = [f"{objective}-{head}.txt" for objective in OBJECTIVES for head in ALL_HEADS]
    own = {MANIFEST, RESIDUALS, *RECORDS, *heads}
    for path in folder.iterdir():
        if path.name in own:
            continue
        if path.is_dir():
            shutil.copytree(path, fresh / path.name, symlinks=True)
        else:
            shutil.copy2(path, fresh / path.name, follow_symlinks=False)


def _read(folder: Path, name: str) -> bytes:
    path = file_in(folder, name)
    if not path.exists():
        raise FileFormatError(f"{path} is missing: the predictor is incomplete; copy the folder again")
    return read_bytes(path, "predictor")


def read_json(folder: Path, name: str) -> Any:
    """What a JSON file of a saved predictor holds.

    Raises:
        FileFormatError: it is missing, or not a JSON file of the folder itself.
    """
    return _parse(_read(folder, name), folder / name)


def check_format(described: Any, path: Path, form: str, format_version: int, what: str, remedy: str) -> None:
    """Check that the JSON of a saved predictor is of the format that is read here.

    Args:
        described: what the file ``path`` holds.
        path: for messages.
        form: name of the format.
        format_version: the only one that is read.
        what: what such a file is of a predictor.
        remedy: what to do about another version.

    Raises:
        FileFormatError: another format.
        SchemaError: another version of it.
    """
    if not isinstance(described, dict) or described.get("format") != form:
        raise FileFormatError(f"{path}: expected the {what} of a forgetcast predictor; it is something else")
    if described.get("format_version") != format_version:
        found = described.get("format_version")
        raise SchemaError(f"{path}: expected format version {format_version}; got {found!r}. {remedy}")


def _parse(content: bytes, path: Path) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise FileFormatError(f"{path} is corrupt or truncated: expected JSON; {error}") from error


def _check_manifest(manifest: Any, path: Path) -> None:
    written_by = manifest.get("versions") if isinstance(manifest, dict) else None
    remedy = f"Retrain the predictor, or install the version of forgetcast that wrote it: {written_by}"
    check_format(manifest, path, FORMAT, FORMAT_VERSION, "manifest", remedy)

    def need(holds: bool, what: str) -> None:
        if not holds:
            raise FileFormatError(f"{path} is corrupt: {what}")

    for name in (
        "typical",
        "objectives",
        "intervals",
        "training",
        "metrics",
        "provenance",
        "versions",
        "files",
    ):
        need(isinstance(manifest.get(name), dict), f"expected {name!r} to be an object")
    features: Any = manifest.get("features")
    need(
        isinstance(features, list) and len(features) > 0 and all(isinstance(name, str) for name in features),
        "expected 'features' to be a list of names",
    )
    need(all(map(str.isidentifier, features)) and len(set(features)) == len(features), "a feature has no proper name")
    need(isinstance(manifest["training"].get("rows"), dict), "expected 'training.rows' to be an object")
    need(set(manifest["typical"]) == set(features), "expected 'typical' to have one value per feature")
    need(
        all(value is None or _is_number(value) for value in manifest["typical"].values()),
        "expected the values of 'typical' to be numbers",
    )
    level = manifest["intervals"].get("level")
    need(_is_number(level) and 0 < level < 1, "expected 'intervals.level' between 0 and 1")
    check_contexts(manifest.get("contexts", {}), features, need)
    unlearners = manifest.get("unlearners", {})
    lists = list(unlearners.values()) if isinstance(unlearners, dict) else [None]
    need(
        all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists),
        "expected 'unlearners' to be lists of names",
    )
    objectives = manifest["objectives"]
    need(bool(objectives) and set(objectives) <= set(OBJECTIVES), f"expected objectives among {OBJECTIVES}")
    expected = {RESIDUALS}
    for objective, entries in objectives.items():
        need(
            isinstance(entries, dict) and set(HEADS) <= set(entries) <= set(ALL_HEADS),
            f"expected the heads {HEADS} of {objective}, and of others only {ALL_HEADS}",
        )
        need(
            not set(UNLEARNER_HEADS) & set(entries) or bool(unlearners.get(objective)),
            f"expected the unlearners of {objective}",
        )
        for head, entry in entries.items():
            file = f"{objective}-{head}.txt"
            good = isinstance(entry, dict) and (
                entry == {"file": file} or (set(entry) == {"constant"} and _is_number(entry["constant"]))
            )
            need(good, f"expected a file or a constant for the {head} head of {objective}")
            expected |= {file} if "file" in entry else set()
    need(set(manifest["files"]) == expected, "the list of files does not match the heads")
    need(manifest.get("fingerprint") == _fingerprint(manifest), "its fingerprint does not match its content")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _read_head(entry: dict[str, Any], contents: dict[str, bytes], features: list[str], folder: Path) -> Head:
    if "constant" in entry:
        return Head(tuple(features), constant=float(entry["constant"]))
    path = folder / entry["file"]
    try:
        text = contents[entry["file"]].decode()
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is corrupt: expected text; {error}") from error
    return Head(tuple(features), text=text).with_booster(read_booster(text, features, str(path)))


def _check_residuals(residuals: Any, objectives: list[str], unlearners: Mapping[str, list[str]], path: Path) -> None:
    good = isinstance(residuals, dict) and set(residuals) == set(objectives)
    for objective in objectives if good else []:
        heads = residuals[objective]
        known = {*INTERVAL_HEADS, *map(residuals_under, unlearners.get(objective, []))}
        good = good and isinstance(heads, dict) and set(INTERVAL_HEADS) <= set(heads) <= known
        for groups in heads.values() if good else []:
            good = good and isinstance(groups, dict) and len(groups) > 0
            for values in groups.values() if good else []:
                good = good and isinstance(values, list) and len(values) > 0 and all(map(_is_number, values))
    if not good:
        raise FileFormatError(f"{path} is corrupt: expected lists of residuals for every objective and head")
