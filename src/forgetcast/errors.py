"""One exception tree. Every message says what was expected, what came, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "DatasetError",
    "FileFormatError",
    "ForgetcastError",
    "ForgetcastWarning",
    "IndexRangeError",
    "InputError",
    "ModelError",
    "NotApplicableError",
    "PathError",
    "PluginError",
    "PluginWarning",
    "RecordError",
    "SchemaError",
    "UnknownNameError",
    "UnlearnerFailedError",
    "first_line",
    "shortened",
]


class ForgetcastError(Exception):
    """Root of every error that forgetcast raises on purpose; the command line turns it into exit code 2.

    Its text is one line that any terminal and any file can hold, whatever it quotes from a file.

    >>> str(ForgetcastError("no column 'a\\x1b[2J\\nb'"))
    "no column 'a?[2J b'"
    """

    def __str__(self) -> str:
        return _one_line(super().__str__())


class InputError(ForgetcastError, ValueError):
    """What the caller handed over cannot be used."""


class ModelError(InputError):
    """The model is not a classifier that maps a batch to finite logits of shape (n, classes)."""


class DatasetError(InputError):
    """The dataset is empty, malformed, not finite, or does not fit the model."""


class IndexRangeError(InputError, IndexError):
    """A sample index lies outside the dataset."""


class NotApplicableError(ForgetcastError):
    """The request needs something this target does not have (a ``train`` callable, held-out data, ...)."""


class UnknownNameError(ForgetcastError, LookupError):
    """A name (unlearner, factor, dataset, target, ...) that nothing is registered under."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Build the message: the kind of name, the name that came, the nearest known one, and the whole list.

        >>> str(UnknownNameError.of("unlearner", "gradient_ascend", ["gradient_ascent", "influence"]))
        "unknown unlearner 'gradient_ascend': did you mean 'gradient_ascent'? Known: gradient_ascent, influence"
        """
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return cls(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names) or 'none'}")


class PluginError(ForgetcastError):
    """A registered factor, unlearner or report section is malformed, failed, or shares its name with another."""


class UnlearnerFailedError(PluginError):
    """An unlearner from a plugin that was asked for by name raised; the measurements of the others are kept.

    Attributes:
        outcomes: outcome rows of the other unlearners, as ``measure`` returns them; None where a corpus has them.
        instances: the measured samples, as ``measure`` returns them; None where a corpus has them.
    """

    def __init__(self, message: str, outcomes: Any = None, instances: Any = None) -> None:
        super().__init__(message)
        self.outcomes = outcomes
        self.instances = instances


class ForgetcastWarning(UserWarning):
    """Something that forgetcast did otherwise than its user may think; the message says what, and how to fix it."""

    def __str__(self) -> str:
        return _one_line(super().__str__())


class PluginWarning(ForgetcastWarning):
    """A plugin is left out, or something of it is; the message names it and says why."""


class FileFormatError(ForgetcastError):
    """A file is corrupt, truncated, or not of the expected kind."""


class RecordError(FileFormatError):
    """A record of decisions was edited, or lacks its end; the message names the line of the first edit."""


class SchemaError(FileFormatError):
    """A predictor or corpus was written for another feature schema or format version."""


class PathError(ForgetcastError, OSError):
    """A path is missing, or is a file where a folder is expected, or the reverse."""


LONGEST = 1500
"""Characters of a message; of a longer one the middle is left out."""


def _one_line(text: str) -> str:
    """Blanks of any kind as single ones, what cannot be printed as question marks, and not too long."""
    text = " ".join(text[: 10 * LONGEST].split()) + (text[-LONGEST:] if len(text) > 10 * LONGEST else "")
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return text if len(text) <= LONGEST else f"{text[: 2 * LONGEST // 3]} […] {text[-LONGEST // 3 + 5 :]}"


def first_line(error: BaseException) -> str:
    """The first line of another library's message that says something, to be quoted within one of ours.

    >>> first_line(ValueError("shapes differ:\\n  (3,) and (4,)"))
    'shapes differ:'
    """
    return next(iter(str(error).strip().splitlines()), "")


def shortened(names: Sequence[str], most: int = 4) -> str:
    """A list of names for a message; of a long one the first and how many more there are.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
