"""A triage policy: from which forecast on a deletion request takes which route."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from forgetcast._arguments import checked
from forgetcast.errors import FileFormatError, InputError, PathError, first_line
from forgetcast.files.atomic import whole_file
from forgetcast.files.canonical_json import canonical_json
from forgetcast.files.foreign import each_once, read_bytes

__all__ = ["Policy"]


@dataclass(frozen=True)
class Policy:
    """Thresholds that route deletion requests. All have defaults; a file need only name those that differ.

    The defaults are conventions, chosen with the figures of benchmarks/evaluation in view and not fitted to any:
    whoever answers for deletions sets them for the case at hand.

    Attributes:
        trivial_from: probability of being trivial, 0 to 1, from which nothing is unlearned. 0.9: where the
            probabilities are right, at most one in ten of those that are let go would have needed it.
        quick_to: forecast harm, 0 to 1, up to which a request is unlearned without further care. 0.02: between the mean
            harm of any unlearner under ``retrain`` (0.014) and under ``erase`` (0.041) on the published targets. The
            harm of the unlearner named for each sample is below it (0.0015 and 0.0070). So most requests are quick.
        retrain_from: forecast harm, 0 to 1, from which retraining is preferred to unlearning; at least ``quick_to``.
            0.1: more than twice the mean harm of any unlearner under ``erase``.
        unlearners: names of the unlearners that may be used, in any order. None: all that the predictor knows.
        level: coverage of the intervals, above 0 and below 1. 0.9: as in every report.
        retrain_epochs: epochs of one retraining, from which its cost is extrapolated where it is neither known nor can
            be timed by the target's own ``train``. 20: few beside those of the published targets (4 to 80, most of them
            40 or more), so that retraining is not made to look dear.
        retrain_seconds: wall time of one retraining where it is known; then none is timed. None: not known.
        interaction_from: change of each other's probability of the true label, 0 to 1, from which two requests
            interact. 0.05: the slack within which the goal of ``retrain`` counts as met.
        step_margin: how many times the forecast number of steps an unlearner may take before it is stopped; at least 1.
            1.5: half as many again, because steps are forecast better in their order than in their number.
        trust_unfamiliar: whether these thresholds also route requests to a model or data unlike those that the
            predictor knows, as after ``forgetcast verify`` has shown that its forecasts hold there. False: such
            requests are careful at least. They are flagged in either case.

    Raises:
        InputError: a value of another type or out of range, or ``quick_to`` above ``retrain_from``.
    """

    trivial_from: float = 0.9
    quick_to: float = 0.02
    retrain_from: float = 0.1
    unlearners: tuple[str, ...] | None = None
    level: float = 0.9
    retrain_epochs: int = 20
    retrain_seconds: float | None = None
    interaction_from: float = 0.05
    step_margin: float = 1.5
    trust_unfamiliar: bool = False

    def __post_init__(self) -> None:
        for key in ("trivial_from", "quick_to", "retrain_from", "interaction_from"):
            self._set(key, _number(key, getattr(self, key), "a number from 0 to 1", lambda number: 0 <= number <= 1))
        within = "a number above 0 and below 1"
        self._set("level", _number("level", self.level, within, lambda number: 0 < number < 1))
        at_least = "a number that is at least 1"
        self._set("step_margin", _number("step_margin", self.step_margin, at_least, lambda number: number >= 1))
        epochs = self.retrain_epochs
        if isinstance(epochs, bool) or not isinstance(epochs, int) or not 1 <= epochs <= 10**9:
            raise InputError(f"policy: retrain_epochs: expected a whole number that is at least 1; got {epochs!r}")
        if self.retrain_seconds is not None:
            above = "a number of seconds above 0, or nothing (null)"
            seconds = _number("retrain_seconds", self.retrain_seconds, above, lambda number: number > 0)
            self._set("retrain_seconds", seconds)
        if not isinstance(self.trust_unfamiliar, bool):
            raise InputError(f"policy: trust_unfamiliar: expected true or false; got {self.trust_unfamiliar!r}")
        if self.unlearners is not None:
            self._set("unlearners", _names(self.unlearners))
        if self.quick_to > self.retrain_from:
            raise InputError(
                "policy: quick_to: expected at most retrain_from, for no request is both quick and to be retrained; "
                f"got quick_to {self.quick_to:g} and retrain_from {self.retrain_from:g}"
            )

    def _set(self, key: str, value: object) -> None:
        object.__setattr__(self, key, value)

    @classmethod
    @checked()
    def from_dict(cls, settings: Mapping[str, Any]) -> Policy:
        """From a mapping ``settings`` such as that of :meth:`to_dict`; what it does not name has its default.

        Raises:
            InputError: an unknown key, or a value as above.
        """
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                near = difflib.get_close_matches(str(key).lower(), known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise InputError(f"policy: expected keys of a policy; got {key!r}: {hint}Known: {', '.join(known)}")
        return cls(**settings)

    @classmethod
    @checked()
    def load(cls, path: str | Path) -> Policy:
        """From a JSON file ``path`` that holds one object, such as ``{"quick_to": 0.01}``.

        Raises:
            PathError: missing, a folder, or not readable.
            FileFormatError: not JSON.
            InputError: not an object, a key twice or unknown, or a value of another type or out of range.
        """
        path = Path(path)
        try:
            text = read_bytes(path, "policy").decode("utf-8-sig")
            settings = json.loads(text, object_pairs_hook=each_once(_refuse))
        except PathError:
            raise
        except InputError as error:
            raise InputError(f"{error} (in {path})") from error
        except (ValueError, RecursionError) as error:
            raise FileFormatError(
                f"policy {path}: expected a JSON object; this is not JSON: {first_line(error)}"
            ) from error
        if not isinstance(settings, dict):
            kind = "null" if settings is None else type(settings).__name__
            raise InputError(f'policy {path}: expected a JSON object such as {{"quick_to": 0.01}}; got {kind}')
        try:
            return cls.from_dict(settings)
        except InputError as error:
            raise InputError(f"{error} (in {path})") from error

    @checked()
    def save(self, path: str | Path) -> None:
        """Write all settings as JSON to ``path``, for :meth:`load`; the file is replaced whole or not at all.

        Raises:
            PathError: it cannot be written.
        """
        path = Path(path)
        with whole_file(path, "policy") as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, as JSON holds them."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return settings | {"unlearners": None if self.unlearners is None else list(self.unlearners)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all settings, 64 hexadecimal digits: the same for policies that are equal."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()


def _number(key: str, value: object, expected: str, allowed: Callable[[float], bool]) -> float:
    """``value`` as a finite float.

    Raises:
        InputError: not a number, or not an allowed one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"policy: {key}: expected {expected}; got {value!r} ({type(value).__name__})")
    number = math.inf if abs(value) >= 10**300 else float(value)
    if not math.isfinite(number) or not allowed(number):
        raise InputError(f"policy: {key}: expected {expected}; got {number:g}")
    return number


def _names(value: object) -> tuple[str, ...]:
    """Names of unlearners, distinct.

    Raises:
        InputError: anything else.
    """
    expected = "a list of names of unlearners, or nothing (null)"
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"policy: unlearners: expected {expected}; got {value!r}")
    for name in value:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"policy: unlearners: expected {expected}; got {name!r} among them")
        if list(value).count(name) > 1:
            raise InputError(f"policy: unlearners: expected each name once; got {name!r} more often")
    return tuple(value)


def _refuse(name: str, times: int) -> None:
    raise InputError(f"policy: {name}: expected once; got it {times} times")
