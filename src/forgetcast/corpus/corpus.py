"""The corpus: outcomes, instances and factors of many targets, as Parquet with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from forgetcast._arguments import checked
from forgetcast.corpus.checks import check_tables
from forgetcast.errors import FileFormatError, InputError, PathError, SchemaError
from forgetcast.files.atomic import naming, whole_file
from forgetcast.files.folders import locked_folder, nearest_existing, shipped_folder
from forgetcast.files.foreign import file_in, parse_json, read_bytes
from forgetcast.files.hashes import check_hash
from forgetcast.files.parquet import parquet_table, write_draft, write_parquet
from forgetcast.files.stores import Place, kind_in_store, place, reached, write_atomically

__all__ = [
    "FORMAT",
    "Corpus",
    "corpus_folder",
    "locked_corpus",
    "read_corpus",
    "write_corpus",
]

FORMAT = 1
TABLES = {
    "outcomes": (
        "target",
        "index",
        "unlearner",
        "seed",
        "objective",
        "forgetting",
        "tv_retain",
        "tv_test",
        "trivial",
    ),
    "instances": ("target", "index", "label", "weight", "p_out", "p_in", "memorization"),
    "factors": ("target", "index"),
}
"""Tables of a corpus with the columns each must have."""
MANIFEST, FILES = "manifest.json", tuple(f"{name}.parquet" for name in TABLES)


def corpus_folder(folder: str | Path | Place) -> Place:
    """The path of a folder that is there or can be made, on disk or in a store; nothing is made yet.

    Raises:
        PathError: it is a file, or lies in one, or must not be written to, or its store cannot be reached.
    """
    folder = place(folder)
    if not isinstance(folder, Path):
        with reached(folder):
            if kind_in_store(folder) == "file":
                raise PathError(f"expected a folder for the corpus at {folder}; {folder} is a file")
        return folder
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise PathError(f"expected a folder for the corpus at {folder}; {nearest} is a file")
    if not os.access(nearest, os.W_OK):
        raise PathError(f"expected a folder for the corpus at {folder}; {nearest} is not writable")
    return folder


def _member(folder: Place, name: str) -> Place:
    """A file of a corpus: in a folder on disk a regular one that lies in it."""
    return file_in(folder, name) if isinstance(folder, Path) else folder / name


def _content(file: Place) -> bytes:
    return read_bytes(file, "corpus") if isinstance(file, Path) else file.read_bytes()


@dataclass(frozen=True)
class Corpus:
    """Measured outcomes with the factors of the same samples."""

    outcomes: pd.DataFrame
    """One row per target, sample, unlearner, seed and objective."""
    instances: pd.DataFrame
    """One row per target and sample: label, weight, p_out, p_in, memorization, oracle halves."""
    factors: pd.DataFrame
    """One row per target and sample: all factor columns."""
    manifest: dict[str, Any]
    """Format, settings, descriptors of the targets, hashes of the files."""

    @property
    def targets(self) -> pd.DataFrame:
        """One row per target: target, dataset, architecture, n, classes, accuracies."""
        return pd.DataFrame(self.manifest["targets"])

    @property
    def digest(self) -> str:
        """SHA-256 over the three tables' hashes."""
        return hashlib.sha256(json.dumps(self.manifest["files"], sort_keys=True).encode()).hexdigest()

    @checked()
    def write(self, folder: str | Path | Place) -> Place:
        """Write the tables and the manifest that names their hashes, into a folder or a store (``s3://...``).

        In a folder all four are written beside their places before the first is moved there: a full disk leaves the old
        corpus as it was; processes that write to one folder wait for each other. In a store the manifest comes last.

        Raises:
            PathError: ``folder`` is a file, or cannot be written or reached.
        """
        folder = corpus_folder(folder)
        with locked_corpus(folder):
            write_corpus(self, folder)
        return folder

    @classmethod
    @checked()
    def read(cls, folder: str | Path | Place) -> Corpus:
        """Read and check a corpus in a folder or a store.

        Raises:
            PathError: no such folder, or a file where a folder is expected, or its store cannot be reached.
            SchemaError: another format version, or columns are missing.
            FileFormatError: a file is corrupt or not the one the manifest names.
        """
        folder = place(folder)
        if isinstance(folder, Path):
            return cls._read(folder)
        with reached(folder):
            kind_in_store(folder)  # is_dir and its like take a refusal for an absence
            return cls._read(folder)

    @classmethod
    def _read(cls, folder: Place) -> Corpus:
        if not folder.is_dir():
            kind = "is a file" if folder.exists() else "does not exist"
            raise PathError(f"expected a corpus folder; {folder} {kind}")
        if not isinstance(folder, Path):
            return read_corpus(folder)
        with locked_folder(folder, shared=True):
            return read_corpus(folder)

    @classmethod
    def published(cls) -> Corpus:
        """The corpus that comes with forgetcast: inside the installed package, or in the checkout.

        Raises:
            PathError: this installation has none.
        """
        lacking = "this installation comes without the published corpus: give a corpus folder"
        return cls.read(shipped_folder("published_corpus", "training_data/published", lacking))

    @classmethod
    @checked()
    def join(cls, corpora: Sequence[Corpus]) -> Corpus:
        """Several corpora as one; targets must have different names. Each target keeps the settings it was made with.

        Raises:
            InputError: none given, or two share a target's name.
        """
        if not corpora:
            raise InputError("expected at least one corpus; got none")
        targets = [
            {"settings": corpus.manifest.get("settings")} | target
            for corpus in corpora
            for target in corpus.manifest["targets"]
        ]
        names = [target["target"] for target in targets]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InputError(f"the corpora share the target(s) {', '.join(repeated)}: rename or leave out one")
        frames = {name: pd.concat([getattr(corpus, name) for corpus in corpora], ignore_index=True) for name in TABLES}
        files = {f"{corpus.digest}": "joined" for corpus in corpora}
        return cls(**frames, manifest={"format": FORMAT, "targets": targets, "files": files})


@contextmanager
def locked_corpus(folder: Place) -> Iterator[None]:
    """A block in which no other process reads or writes the corpus in a folder, which is made. A store has no lock."""
    if not isinstance(folder, Path):
        yield
        return
    with naming("corpus", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder):
        yield


def write_corpus(corpus: Corpus, folder: Place) -> None:
    """Write a corpus into a place that is locked."""
    manifest = corpus.manifest
    if not isinstance(folder, Path):
        for table, name in zip(TABLES, FILES, strict=True):
            manifest["files"][name] = write_parquet(getattr(corpus, table), folder / name)
        write_atomically(folder / MANIFEST, _manifest_bytes(manifest))
        return
    with ExitStack() as moves:
        drafts = {name: moves.enter_context(whole_file(folder / name, "corpus")) for name in (MANIFEST, *FILES)}
        for table, name in zip(TABLES, FILES, strict=True):
            with naming("corpus", folder / name):
                manifest["files"][name] = write_draft(getattr(corpus, table), drafts[name])
        with naming("corpus", folder / MANIFEST):
            drafts[MANIFEST].write_bytes(_manifest_bytes(manifest))


def _manifest_bytes(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def read_corpus(folder: Place) -> Corpus:
    """Read and check the corpus of a place that is locked, or that nobody writes to; errors as ``Corpus.read``."""
    path = folder / MANIFEST
    if not path.is_file():
        raise PathError(f"expected a corpus with manifest.json in {folder}; there is none (see forgetcast generate)")
    try:
        manifest = parse_json(_content(_member(folder, path.name)))
        form, files, targets = manifest["format"], dict(manifest["files"]), list(manifest["targets"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} is not a corpus manifest ({type(error).__name__}: {error})") from error
    if form != FORMAT:
        raise SchemaError(f"{path}: expected corpus format {FORMAT}; got {form!r}. Generate the corpus again")
    if not all(isinstance(target, dict) and "target" in target for target in targets):
        raise FileFormatError(f"{path}: every entry of 'targets' must be an object with a 'target' name")
    frames = {}
    for name, columns in TABLES.items():
        file = _member(folder, f"{name}.parquet")
        if not file.exists():
            raise PathError(f"expected a Parquet file at {file}; there is none")
        content = _content(file)
        frames[name] = parquet_table(content, file)
        check_hash(content, files.get(file.name), file, "make it again")
        missing = [column for column in columns if column not in frames[name]]
        if missing:
            raise SchemaError(f"{file}: expected columns {', '.join(columns)}; missing {', '.join(missing)}")
    check_tables(frames, targets, folder)
    return Corpus(**frames, manifest=manifest)
