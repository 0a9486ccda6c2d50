"""A corpus grows: what a run measures joins what its folder holds, and no target is dropped for another.

A target keeps the settings it was measured with, so a folder may hold targets of several runs, as a joined corpus does.
The order is that of arrival: measuring one target after the other gives the files of measuring them together.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from forgetcast.corpus.corpus import MANIFEST, TABLES, Corpus, locked_corpus, read_corpus, write_corpus
from forgetcast.errors import (
    FileFormatError,
    ForgetcastWarning,
    InputError,
    PathError,
    SchemaError,
    first_line,
    shortened,
)
from forgetcast.files.canonical_json import json_value
from forgetcast.files.stores import Place, reached
from forgetcast.target.target import Target

__all__ = ["UNKNOWN_FACTOR", "ExistingCorpus", "add", "marked", "merged", "partial_of", "replace_unchanged"]

ORIGIN = ("forgetcast", "settings")
"""What the manifest says of all targets; one that was made otherwise says so itself."""
UNKNOWN_FACTOR = "was not installed when this target was measured: 'forgetcast generate --factors-only' computes it"


@dataclass(frozen=True)
class ExistingCorpus:
    """What a folder held when a run began."""

    folder: Place
    corpus: Corpus | None = None
    damage: str = ""
    """Why its corpus cannot be read, though it is one."""
    names: tuple[str, ...] = ()
    """Its targets, as far as that is known."""

    @classmethod
    def of(cls, folder: Place) -> ExistingCorpus:
        """Look into a folder.

        Raises:
            SchemaError: it holds a corpus of another format.
            FileFormatError: its manifest is no corpus's.
            PathError: its store cannot be reached.
        """
        with reached(folder):
            if not (folder / MANIFEST).is_file():
                return cls(folder)
            with locked_corpus(folder):
                try:
                    corpus = read_corpus(folder)
                except SchemaError as error:
                    raise SchemaError(f"{str(error).rstrip('.')}, in another folder") from error
                except (FileFormatError, PathError) as error:
                    return cls(folder, None, str(error), _listed(folder))
        return cls(folder, corpus, "", tuple(corpus.targets["target"]))

    def check(self, known: Collection[str], unknown: int) -> None:
        """Refuse to write over a damaged corpus that holds targets that the run will not measure again.

        Args:
            known: names of targets to be measured.
            unknown: how many more there are, whose names show when they are made.

        Raises:
            FileFormatError: there are such targets.
        """
        others = [name for name in self.names if name not in known]
        if self.damage and len(others) > unknown:
            raise FileFormatError(
                f"the corpus in {self.folder} is damaged, and holds {shortened(others)}, which this run would drop: "
                f"measure all its targets in one run, from their shards, or give another folder ({self.damage})"
            )

    def check_target(self, target: Target, settings: Mapping[str, Any]) -> None:
        """Say it where a target's rows will be replaced by other ones, and refuse it where they could not come back.

        Raises:
            InputError: there are no shards of the rows.
        """
        if self.corpus is None or target.name not in self.names:
            return
        entry = next(entry for entry in self.corpus.manifest["targets"] if entry["target"] == target.name)
        own, wanted = _origin(entry, self.corpus.manifest)["settings"] or {}, json_value(settings)
        other = [what for what in ("model", "data") if entry.get(f"{what}_hash") != getattr(target, f"{what}_hash")]
        other += [name for name in sorted({*own, *wanted}) if own.get(name) != wanted.get(name)]
        if not other:
            return
        what = shortened(other)
        message = f"the corpus in {self.folder} holds target {target.name!r}, measured otherwise (other {what})"
        if not (self.folder / "shards" / target.name).exists():
            raise InputError(
                f"{message}, and no shards of it to go back to: this run would destroy them. "
                "Give another folder or name"
            )
        warnings.warn(
            f"{message}: this run replaces its rows; its shards stay, and the call that measured them brings them back",
            ForgetcastWarning,
            stacklevel=4,
        )


def _listed(folder: Place) -> tuple[str, ...]:
    """The targets that a manifest lists.

    Raises:
        FileFormatError: it is not a corpus's.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return tuple(str(target["target"]) for target in manifest["targets"])
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise FileFormatError(
            f"{folder} holds a {MANIFEST} that is no corpus's ({type(error).__name__}: {first_line(error)}): give "
            "another folder"
        ) from error


def add(corpus: Corpus, folder: Place, *, over: str = "") -> Corpus:
    """Write a corpus into a folder; targets of other names that the folder holds stay.

    Args:
        corpus: what was measured.
        folder: where.
        over: the damage of the corpus there that may be written over (``ExistingCorpus.damage``).

    Returns:
        What the folder holds now.

    Raises:
        FileFormatError, PathError: what is there cannot be read, or nothing can be written.
    """
    with locked_corpus(folder):
        before = None
        try:
            before = read_corpus(folder) if (folder / MANIFEST).is_file() else None
        except (FileFormatError, PathError) as error:
            if str(error) != over:
                raise
        whole = corpus if before is None else merged(before, corpus)
        write_corpus(whole, folder)
    return whole


def replace_unchanged(folder: Place, before: Corpus, fresh: Corpus) -> None:
    """Write ``fresh`` in the place of ``before``, if the folder still holds that.

    Raises:
        InputError: another run has written there since.
    """
    with locked_corpus(folder):
        if read_corpus(folder).digest != before.digest:
            raise InputError(f"the corpus in {folder} was changed by another run meanwhile: run the same again")
        write_corpus(fresh, folder)


def merged(before: Corpus, new: Corpus) -> Corpus:
    """The targets of both corpora, those of ``before`` first; one that both have is as in ``new``."""
    entries = {entry["target"]: entry for entry in new.manifest["targets"]}
    kept = [entry for entry in before.manifest["targets"] if entry["target"] not in entries]
    for entry in kept:
        origin = _origin(entry, before.manifest)
        differs = {key: value for key, value in origin.items() if value != json_value(new.manifest.get(key))}
        plain = {key: value for key, value in entry.items() if key not in ORIGIN}
        entries[entry["target"]] = plain | differs
    stood = [entry["target"] for entry in before.manifest["targets"]]
    order = [*stood, *(name for name in entries if name not in stood)]
    names = {entry["target"] for entry in kept}
    left_out = _left_out(before, new, names) | new.manifest.get("left_out", {})
    targets = [entries[name] for name in order]
    missing = {"left_out": left_out, "partial": partial_of(targets)}
    manifest = {key: value for key, value in new.manifest.items() if key not in missing}
    manifest |= {"targets": targets, "files": {}}
    frames = {table: _stacked(getattr(before, table), getattr(new, table), names, order) for table in TABLES}
    return replace(new, **frames, manifest=manifest | {key: value for key, value in missing.items() if value})


def _origin(entry: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry.get(key, manifest.get(key)) for key in ORIGIN}


def marked(entries: Sequence[dict[str, Any]], unfinished: list[str]) -> list[dict[str, Any]]:
    """Entries of the manifest that say what is missing of their run: ``unfinished``, and what they said before."""
    if not unfinished:
        return list(entries)
    return [entry | {"partial": [*unfinished, *entry.get("partial", [])]} for entry in entries]


def partial_of(entries: Iterable[Mapping[str, Any]]) -> str:
    """What is missing of runs that were not finished, as entries of the manifest were ``marked`` with it."""
    return "; ".join(dict.fromkeys(mark for entry in entries for mark in entry.get("partial", ())))


def _left_out(before: Corpus, new: Corpus, kept: Collection[str]) -> dict[str, str]:
    """What ``before`` says was left out of the targets that stay, and the factors that one of the two lacks."""
    if not kept:
        return {}
    renewed = tuple(f" on {entry['target']}" for entry in new.manifest["targets"])
    reasons = {what: why for what, why in before.manifest.get("left_out", {}).items() if not what.endswith(renewed)}
    names = (kept, [entry["target"] for entry in new.manifest["targets"]])
    for targets, own, other in zip(names, (before, new), (new, before), strict=True):
        strange = (str(name) for name in other.factors if name not in own.factors)
        lacking = [name for name in strange if not name.endswith("_quantile")]
        reasons |= {f"factor {name} on {target}": UNKNOWN_FACTOR for target in targets for name in lacking}
    return reasons


def _stacked(before: pd.DataFrame, new: pd.DataFrame, kept: Collection[str], order: list[str]) -> pd.DataFrame:
    """Rows of the targets that stay and of the new ones, target by target."""
    columns = list(dict.fromkeys([*new.columns, *before.columns]))
    parts: dict[Any, pd.DataFrame] = {}
    for frame, other in ((before[before["target"].isin(kept)], new), (new, before)):
        truths = [name for name in frame.select_dtypes(bool) if name not in other]  # beside NaN they are numbers
        whole = frame.astype(dict.fromkeys(truths, float)).reindex(columns=columns)
        parts |= dict(iter(whole.groupby("target", sort=False)))
    return pd.concat([parts[name] for name in order if name in parts] or [new], ignore_index=True)
