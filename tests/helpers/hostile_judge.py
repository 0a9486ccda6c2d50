"""Is what a reader did with a hostile input allowed? It reads it, or refuses it in one line; else it is a finding."""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable
from pathlib import Path

from forgetcast.errors import ForgetcastError

__all__ = ["GROWTH", "LONGEST", "judge", "peak_memory"]

LONGEST = 2000
"""Characters of a message."""
GROWTH = 1 << 30
"""Bytes by which reading one small input may let resident memory grow."""


def judge(read: Callable[[Path], object], folder: Path, canary: Path) -> tuple[str, str]:
    """("accepted" | "refused" | "finding", what was said or is wrong)."""
    before = _reset_peak()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        try:
            read(folder)
            outcome, said = "accepted", ""
        except ForgetcastError as error:
            said = str(error)
            outcome = "refused" if _clear(said) else "finding"
            said = f"{type(error).__name__}: {said!r}" if outcome == "finding" else said
        except Exception as error:
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = "" if place is None else f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
            outcome, said = "finding", f"{type(error).__module__}.{type(error).__name__}: {str(error)[:300]!r}{where}"
    if leaked and outcome != "finding":
        outcome, said = "finding", f"a warning leaked: {leaked[0].category.__name__}: {str(leaked[0].message)[:200]!r}"
    grown = peak_memory() - before
    if grown > GROWTH:
        outcome, said = "finding", f"memory grew by {grown >> 20} MiB; {said[:200]}"
    if canary.exists():
        outcome, said = "finding", f"code ran; {said[:200]}"
        canary.unlink()
    return outcome, said


def _clear(message: str) -> bool:
    """One line of printable text that says something and is not too long."""
    return bool(message.strip()) and len(message) <= LONGEST and message.isprintable()


def _reset_peak() -> int:
    """Let the peak of resident memory begin anew; returns what is resident (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_memory()
    return peak_memory()


def peak_memory() -> int:
    """The highest resident memory of this process since the peak was reset, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
