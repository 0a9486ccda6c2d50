"""What is public stays, is annotated, and says what it takes and raises."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from types import FunctionType
from typing import Any

import pytest

from forgetcast._public_api import PUBLIC
from places import ROOT

ERRORS = "forgetcast.errors"
PLAIN = ("ndarray", "DataFrame", "Series", "dict", "list", "tuple", "str")
"""Types whose name does not say what is in them."""
WRITER = runpy.run_path(str(ROOT / "docs" / "write_api.py"))


def public_functions(module: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public functions of a module and the public methods of its classes, each with its name."""
    for name in PUBLIC[module]:
        value = getattr(import_module(module), name)
        if isinstance(value, FunctionType):
            yield name, value
        elif inspect.isclass(value):
            for part, member in WRITER["members"](value):
                if member is not None:
                    yield f"{name}.{part}", getattr(member, "__func__", member)


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """What a caller passes."""
    return [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]


def section(docstring: str, title: str) -> str:
    """What stands below ``title:`` in a docstring, indented."""
    found = re.search(rf"^{title}:\n((?:    .*\n|\n)+)", docstring + "\n", flags=re.MULTILINE)
    return found[1] if found else ""


def raised(function: Callable[..., Any]) -> set[str]:
    """The errors that a function's own body raises by name, and does not catch; those of what it calls are not seen."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    caught = {
        inner for node in ast.walk(tree) if isinstance(node, ast.Try) for part in node.body for inner in ast.walk(part)
    }
    raises = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node not in caught]
    calls = [node.exc for node in raises if isinstance(node.exc, ast.Call)]
    names = [call.func.value if isinstance(call.func, ast.Attribute) else call.func for call in calls]
    return {name.id for name in names if isinstance(name, ast.Name) and hasattr(import_module(ERRORS), name.id)}


def test_nothing_public_disappears_unnoticed() -> None:
    """Names and arguments are those of docs/public_api.txt: who changes them runs docs/write_api.py on purpose."""
    stored = (ROOT / "docs" / "public_api.txt").read_text(encoding="utf-8").splitlines()
    found = WRITER["stored_lines"]()
    gone, new = sorted(set(stored) - set(found)), sorted(set(found) - set(stored))
    assert stored == found, f"gone: {gone}; new: {new}; if that is meant: python docs/write_api.py, and the changelog"


def test_page_of_the_api_is_up_to_date() -> None:
    """docs/reference/api.md is what docs/write_api.py makes of the docstrings, and nothing in it is left empty."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert page == WRITER["api_page"]()
    assert "|  |" not in page


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_exported_in_order(module: str) -> None:
    """What the list names is in the module's __all__, once, and there to be imported."""
    assert list(PUBLIC) == sorted(PUBLIC)
    assert list(PUBLIC[module]) == sorted(set(PUBLIC[module]))
    assert set(PUBLIC[module]) <= set(import_module(module).__all__)
    assert all(hasattr(import_module(module), name) for name in PUBLIC[module])


def test_package_loads_its_names_when_they_are_used() -> None:
    """Importing forgetcast knows every public name and loads neither torch nor a module of its own but itself."""
    program = (
        "import sys, forgetcast; assert set(forgetcast.__all__) <= set(dir(forgetcast)); "
        "print({name.split('.')[0] for name in sys.modules} & {'torch', 'numpy', 'pandas', 'lightgbm'}, "
        "[name for name in sys.modules if name.startswith('forgetcast.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set() []\n"


@pytest.mark.parametrize("module", PUBLIC)
def test_public_functions_are_annotated(module: str) -> None:
    """Every argument and every result has a type."""
    for name, function in public_functions(module):
        bare = [p.name for p in parameters(function) if p.annotation is p.empty]
        assert not bare, f"{name}: no type: {bare}"
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty, f"{name}: no result type"


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_documented(module: str) -> None:
    """Every docstring names each argument, a function's from two on under Args.

    A function whose type of result does not say what is in it has Returns; errors that a body raises are under Raises.
    """
    found = import_module(module)
    for name in PUBLIC[module]:
        value = getattr(found, name)
        if inspect.isclass(value):
            assert value.__doc__, f"{name}: no docstring"
            assert not value.__doc__.startswith(f"{name}("), f"{name}: only the docstring that dataclasses make"
    for name, function in public_functions(module):
        text = inspect.getdoc(function)
        assert text, f"{name}: no docstring"
        is_method = "." in name
        where = text if is_method or len(parameters(function)) < 2 else section(text, "Args")
        unnamed = [p.name for p in parameters(function) if not re.search(rf"\b{p.name}\b", where)]
        assert not unnamed, f"{name}: not explained: {unnamed}"
        result = str(inspect.signature(function).return_annotation)
        if not is_method and parameters(function) and any(re.search(rf"\b{plain}\b", result) for plain in PLAIN):
            assert section(text, "Returns"), f"{name}: what is in the {result}?"
        missing = {error for error in raised(function) if not re.search(rf"\b{error}\b", section(text, "Raises"))}
        assert not missing, f"{name}: raises {sorted(missing)} without saying so"
