"""Slow files first, and what the tests of plugins share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forgetcast import registry
from forgetcast.registry import found
from plugin_cases import PLUGIN, Plugins


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file that takes long begins early, or one process is still busy with it when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """What is loaded, and said, is kept for the process; tests start and leave without it."""
    found.cache_clear()
    registry._said.clear()
    yield
    found.cache_clear()


@pytest.fixture
def plugins(fresh_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """No plugin but those a test adds; the module ``plug`` holds objects for them."""
    for name in ("plug", "again"):
        (tmp_path / f"{name}.py").write_text(PLUGIN)
    (tmp_path / "leaves.py").write_text("import sys; sys.exit(3)")
    (tmp_path / "broken.py").write_text("raise OSError('no disk\\nat all')")
    monkeypatch.syspath_prepend(tmp_path)
    registered = Plugins()
    monkeypatch.setattr(registry, "entry_points", registered)
    return registered
