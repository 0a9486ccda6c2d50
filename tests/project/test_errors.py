"""The exception tree: what is caught by which class, and messages that survive a trip between processes."""

from __future__ import annotations

import pickle

import pytest

from forgetcast import errors
from forgetcast.errors import ForgetcastError, UnknownNameError, first_line

TREE = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_caught_by_the_root(kind: type[Exception]) -> None:
    """One ``except ForgetcastError`` catches whatever forgetcast raises on purpose, and each says when it is raised."""
    assert issubclass(kind, ForgetcastError)
    assert kind.__doc__
    assert kind.__doc__ != Exception.__doc__


def test_the_list_of_errors_is_complete() -> None:
    """Every class of the module is public."""
    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert defined == {kind.__name__ for kind in TREE} | {"ForgetcastWarning", "PluginWarning"}
    assert defined <= set(errors.__all__)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.ModelError, ValueError),
        (errors.DatasetError, ValueError),
        (errors.IndexRangeError, IndexError),
        (errors.UnknownNameError, LookupError),
        (errors.PathError, OSError),
    ],
)
def test_errors_are_also_the_builtin_kind_that_callers_expect(
    kind: type[ForgetcastError], builtin: type[Exception]
) -> None:
    """Code that knows nothing of forgetcast catches them as what they are."""
    with pytest.raises(builtin, match="told"):
        raise kind("told")


@pytest.mark.parametrize("kind", TREE)
def test_messages_survive_pickling(kind: type[ForgetcastError]) -> None:
    """An error raised in a worker process arrives with its class and message."""
    error = pickle.loads(pickle.dumps(kind("expected 1; got 2")))  # noqa: S301 - made in the line itself
    assert type(error) is kind
    assert str(error) == "expected 1; got 2"


def test_unknown_names_come_with_the_nearest_and_the_list() -> None:
    """The nearest known name is suggested, the known ones are sorted, and nothing is suggested from afar."""
    near = UnknownNameError.of("dataset", "digit", ["wine", "digits"])
    assert str(near) == "unknown dataset 'digit': did you mean 'digits'? Known: digits, wine"
    assert str(UnknownNameError.of("dataset", "zzz", {"wine": 1})) == "unknown dataset 'zzz': Known: wine"
    assert str(UnknownNameError.of("plugin", "zzz", [])) == "unknown plugin 'zzz': Known: none"


def test_quoted_errors_take_one_line() -> None:
    """Of another library's message only the first line that says something is quoted."""
    assert first_line(RuntimeError("\n  shapes differ\nSee the manual")) == "shapes differ"
    assert first_line(RuntimeError()) == ""
