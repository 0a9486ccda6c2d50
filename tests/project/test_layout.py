"""The layout of the source: no circles, few things at the top, files with one job, guards that guard what there is."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module

import pytest
from importlinter.application.use_cases import read_user_options
from importlinter.configuration import configure

from boundaries import MEASURING, among, import_graph, measuring
from places import ROOT, TESTS

SOURCE = ROOT / "src" / "forgetcast"
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


TOP = {
    "__init__": "the names that people import, each on first use",
    "__main__": "python -m forgetcast",
    "_arguments": "checks that every public function shares",
    "_former_paths": "paths from before there were folders",
    "_public_api": "the one list of what is public",
    "calibration": "the one way from a forecast over to measuring",
    "errors": "one exception tree",
    "objectives": "what to forget, and its parts",
    "parallel": "joblib, as its users know it",
    "predict": "the front door",
    "probes": "a path of the plugin contract",
    "ranks": "shared by labels and predictor, which know nothing of each other",
    "registry": "entry points",
    "sections": "a path of the plugin contract",
    "testing": "a path of the plugin contract",
    "wording": "shared by pages and commands",
}
"""Modules at the top, each with its reason to be there."""

LONG: dict[str, str] = {}
"""Files above 450 lines, each with its reason."""


def test_only_listed_modules_are_at_the_top() -> None:
    """Everything else has a folder."""
    assert {path.stem for path in SOURCE.glob("*.py")} == set(TOP)


def test_long_files_have_a_reason() -> None:
    """A file of more than 450 lines stands in the list, and the list holds no other."""
    lengths = {path.relative_to(SOURCE).as_posix(): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 450 and not LONG.get(name)} == {}
    assert [name for name in LONG if lengths.get(name, 0) <= 450] == []


def components(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two or more modules that each lead to all others of the group, one of every circle at least."""
    reach: dict[str, set[str]] = {}
    for name in imports:
        seen: set[str] = set()
        open_ends = [name]
        while open_ends:
            for other in imports[open_ends.pop()] - seen:
                seen.add(other)
                open_ends.append(other)
        reach[name] = seen
    groups = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in imports}
    return sorted(list(group) for group in groups if group)


def test_nothing_imports_itself_by_a_detour() -> None:
    """No circle among modules, imports for type checkers included, nor among packages and modules at the top."""
    graph = import_graph()
    by_module = {name: set(graph.find_modules_directly_imported_by(name)) & graph.modules for name in graph.modules}
    assert components(by_module) == []
    by_package: dict[str, set[str]] = {}
    for name, found in by_module.items():
        own = name.split(".")[1:2]
        others = {other.split(".")[1] for other in found if other.count(".")} - set(own)
        by_package.setdefault(own[0] if own else "forgetcast", set()).update(others)
    by_package.pop("forgetcast")  # names of people's imports, each on first use; nothing inside imports it
    assert components({name: found & set(by_package) for name, found in by_package.items()}) == []


def test_circles_are_found() -> None:
    """Of two modules, of three, and one beside a straight line."""
    assert components({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [["a", "b"]]
    assert components({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == [["a", "b", "c"]]
    assert components({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_imports_its_own_package() -> None:
    """A package's names are for others; inside, modules import each other."""
    graph = import_graph()
    found = [
        (name, own)
        for name in graph.modules
        for own in [name.rpartition(".")[0]]
        if own.count(".") and graph.direct_import_exists(importer=name, imported=own)
    ]
    assert found == []


def test_levels_are_ten_at_most() -> None:
    """The layers contract has ten lines, and everything that lies at the top stands in one."""
    [layers] = [contract for contract in CONTRACTS if contract["type"] == "layers"]
    named = [name for line in layers["layers"] for name in re.findall(r"\w+", line)]
    there = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert len(layers["layers"]) <= 10
    assert set(named) == there - {"__init__", "__main__", "_public_api"}


def patched_by_name() -> list[tuple[str, str]]:
    """File and dotted name of every ``setattr("forgetcast...", value)`` among the tests."""
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and str(first.value).startswith("forgetcast."):
                    found.append((path.name, str(first.value)))
    return found


@pytest.mark.parametrize(("file", "name"), patched_by_name())
def test_what_is_patched_by_name_is_something_in_a_module(file: str, name: str) -> None:
    """A name that a module itself uses, never a module that has taken its place: patching that would change nothing."""
    place, _, own = name.rpartition(".")
    module = place
    while module not in import_graph().modules:
        module = module.rpartition(".")[0]
    owner: object = import_module(module)
    for part in place.removeprefix(module).strip(".").split("."):
        owner = getattr(owner, part) if part else owner
    assert name not in import_graph().modules, file
    assert own in vars(owner), file
    mentioned = re.findall(rf"\b{own}\b", inspect.getsource(import_module(module)))
    assert len(mentioned) > (place == module), file  # where it is bound there, that is one mention


def test_patches_by_name_are_found() -> None:
    """The test above has something to run on."""
    assert len(patched_by_name()) > 30
