"""The layout of the source: no circles, few things at the top, files with one job, guards that guard what there is."""

from __future__ import annotations

import pytest
from importlinter.application.use_cases import read_user_options
from importlinter.configuration import configure

from boundaries import MEASURING, among, import_graph, measuring
from places import ROOT

configure()
CONTRACTS = read_user_options(config_filename=str(ROOT / "pyproject.toml")).contracts_options
FORBIDDEN = [contract for contract in CONTRACTS if contract["type"] == "forbidden"]


@pytest.mark.parametrize("contract", FORBIDDEN, ids=lambda contract: contract["name"])
def test_import_contracts_name_modules_that_exist(contract: dict[str, list[str]]) -> None:
    """Sources and what is forbidden to them, so that no rename makes a contract vacuous."""
    there = import_graph().modules
    named = [*contract["source_modules"], *contract["forbidden_modules"]]
    assert [name for name in named if name.startswith("forgetcast") and name not in there] == []
    for pair in contract.get("ignore_imports", ()):
        importer, imported = pair.split(" -> ")
        assert import_graph().direct_import_exists(importer=importer, imported=imported), pair


def test_the_predict_path_is_forbidden_all_that_measures() -> None:
    """The first contract has every module of the guards' one list."""
    assert set(measuring()) <= set(FORBIDDEN[0]["forbidden_modules"])


def test_a_guard_whose_module_has_moved_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are held to exist before anything is compared with them."""
    monkeypatch.setattr("boundaries.MEASURING", (*MEASURING, "forgetcast.moved_away"))
    with pytest.raises(AssertionError, match="moved_away"):
        measuring()
    assert among(["forgetcast.cli", "forgetcast.cli.train", "forgetcast.client"], ("forgetcast.cli",)) == [
        "forgetcast.cli",
        "forgetcast.cli.train",
    ]
