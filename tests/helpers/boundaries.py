"""The boundary between forecasting and measuring: one list for every guard, each name of it a module that there is."""

from __future__ import annotations

from functools import lru_cache

import grimp

MEASURING = (
    "forgetcast.cli",
    "forgetcast.corpus",
    "forgetcast.evaluate",
    "forgetcast.generate",
    "forgetcast.labels",
    "forgetcast.measuring",
    "forgetcast.oracle",
    "forgetcast.tasks",
    "forgetcast.unlearn",
)
"""What holds, makes or uses what only a measurement knows: no forecast may load it."""

FORECASTING = ("forgetcast.factors", "forgetcast.predictor", "forgetcast.target")
"""What a forecast rests on."""


@lru_cache(maxsize=1)
def import_graph() -> grimp.ImportGraph:
    """Every import between modules of forgetcast, those for type checkers too."""
    return grimp.build_graph("forgetcast", cache_dir=None)


def measuring(*beside: str) -> tuple[str, ...]:
    """``MEASURING`` and further modules, once all of them are found to exist: a guard by name must not outlive one."""
    names = (*MEASURING, *beside)
    gone = [name for name in names if name not in import_graph().modules]
    assert not gone, f"modules that are guarded against have moved: {gone}"
    return names


def among(modules: object, names: tuple[str, ...]) -> list[str]:
    """Those of the dotted names ``modules`` that are one of ``names`` or lie below one, sorted."""
    return sorted(one for one in modules if f"{one}.".startswith(tuple(f"{name}." for name in names)))  # type: ignore[attr-defined]
