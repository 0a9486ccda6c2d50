"""Plugins as if packages had registered them: sound ones, broken ones, and some that fail at work."""

from __future__ import annotations

from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar
from forgetcast.errors import NotApplicableError
from forgetcast.factors import factor
from forgetcast.unlearn.base import IterativeUnlearner

def made(name):
    def function(margin):
        return margin
    function.__name__ = name
    function.__doc__ = "Title."
    return factor(family="mine", source="ours", high="high", low="low")(function)

zeta, alpha = made("zeta"), made("alpha")
several = [zeta, alpha]
again = (made("alpha"),)

def undecorated(margin):
    """No factor yet."""

number = 7
mixed = [alpha, undecorated]

@dataclass(frozen=True)
class Mild:
    rate: float = 0.1
    steps: int = 3

@dataclass(frozen=True)
class Wild(Mild):
    pass

@dataclass(frozen=True)
class Renamed(Mild):
    name: ClassVar[str] = "ssd"

@dataclass(frozen=True)
class Needy:
    rate: float

@dataclass(frozen=True)
class Stumbling(IterativeUnlearner):
    """Fails over the third sample."""
    name: ClassVar[str] = "stumbling"

    def walk(self, target, state, samples, seed):
        if (samples.index == 3).any():
            raise RuntimeError("over sample 3")
        return super().walk(target, state, samples, seed)

    def forget_loss(self, logits, label, drawn):
        return logits[label]

def not_a_class():
    pass

margin_again = made("margin")

@factor(family="mine", source="ours", high="high", low="low")
def raises(margin):
    """Title."""
    raise ValueError("no such\\nluck")

@factor(family="mine", source="ours", high="high", low="low")
def wrong_shape(margin):
    """Title."""
    return margin[:3]

@factor(family="mine", source="ours", high="high", low="low")
def text(margin):
    """Title."""
    return ["a"] * len(margin)

@factor(family="mine", source="ours", high="high", low="low")
def declines(margin):
    """Title."""
    raise NotApplicableError("not for this one")
'''


class Plugins:
    """Entry points as if packages had registered them."""

    def __init__(self) -> None:
        self.points: list[EntryPoint] = []

    def add(self, group: str, **values: str) -> None:
        """Register ``name="module:object"`` in a group."""
        self.points += [EntryPoint(name, value, group) for name, value in values.items()]

    def add_installed(self, folder: Path, group: str, package: str, version: str, **values: str) -> None:
        """Register it as part of a package that is installed in ``folder``."""
        info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = "".join(f"{name} = {value}\n" for name, value in values.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        self.points += Distribution.at(info).entry_points

    def __call__(self, *, group: str) -> list[EntryPoint]:
        return [point for point in self.points if point.group == group]
