"""Make what is written about the public API from the code.

``python docs/write_api.py`` writes ``docs/reference/api.md`` (every public name with what it is for) and
``docs/public_api.txt`` (every public name with its arguments). Tests compare both with the code, so that nothing
disappears unnoticed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from forgetcast._public_api import PUBLIC

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
HEADER = """# The public API

Made from the docstrings by `python docs/write_api.py`; do not edit. [Versioning](versioning.md) says what is promised
of these names. The site that `make docs` builds has the arguments, shapes, units and errors of each.
"""


def page_of(module: str) -> str:
    """The page in ``docs/reference/python`` that shows a public module."""
    (page,) = (path.name for path in (REFERENCE / "python").glob("*.md") if f"}} {module}\n" in path.read_text("utf-8"))
    return page


def public_objects() -> Iterator[tuple[str, str, Any]]:
    """Module, name and value of everything public, in the order of the list."""
    for module, names in PUBLIC.items():
        for name in names:
            yield module, name, getattr(import_module(module), name)


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """Public members that a class of this project defines or inherits from another of it, by name.

    Methods come as themselves, what is read without a call (fields, properties) as None.
    """
    found: dict[str, Any] = {}
    for owner in reversed(value.__mro__):
        if owner.__module__.startswith("forgetcast"):
            fields = dict.fromkeys(getattr(owner, "__annotations__", {}))
            found |= {name: member for name, member in (fields | vars(owner)).items() if not name.startswith("_")}
    for name in sorted(found):
        member = found[name]
        if type(member).__module__.startswith("sklearn"):  # set_..._request, put there by scikit-learn
            continue
        called = isinstance(member, (FunctionType, classmethod, staticmethod))
        yield name, member if called else None


def arguments(function: Any) -> str:
    """The arguments of a callable as they are called: names, ``=`` where one has a default, ``*`` before names only.

    >>> arguments(lambda a, *, b=1: None)
    '(a, *, b=)'
    """
    parts: list[str] = []
    names_only = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls") or parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not names_only:
            parts.append("*")
            names_only = True
        names_only |= parameter.kind is parameter.VAR_POSITIONAL
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        parts.append(f"{stars}{parameter.name}{'' if parameter.default is parameter.empty else '='}")
    return f"({', '.join(parts)})"


def is_function(value: Any) -> bool:
    """Whether a public value is called as a function; constants and type aliases are not."""
    return inspect.isroutine(value)


def stored_lines() -> list[str]:
    """The public API as lines: each name with its arguments, a class with its public members below it.

    A class that is not made by its users (an error) has no arguments here.
    """
    lines = []
    for module, name, value in public_objects():
        if inspect.isclass(value):
            plain = issubclass(value, Exception) or "__init__" not in vars(value)
            lines.append(f"{module}.{name}{'' if plain else arguments(value)}")
            for part, member in members(value):
                shown = "" if member is None else arguments(getattr(member, "__func__", member))
                lines.append(f"{module}.{name}.{part}{shown}")
        else:
            lines.append(f"{module}.{name}{arguments(value) if is_function(value) else ''}")
    return lines


def first_sentence(text: str) -> str:
    """The first paragraph of a docstring up to its first full stop, as a cell of a table."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    paragraph = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", paragraph).replace("``", "`").replace("|", "\\|")
    return re.split(r"(?<=[.?!])\s", paragraph)[0]


def constant_doc(module: str, name: str) -> str:
    """The string below a constant, wherever it is defined first."""
    source = inspect.getsource(import_module(module))
    found = re.search(rf'^{name}\b[^\n]*=.*?^"""(.*?)"""', source, flags=re.MULTILINE | re.DOTALL)
    if found:
        return found[1]
    imported = re.search(rf"^from (\S+) import [^\n]*\b{name}\b", source, flags=re.MULTILINE)
    return constant_doc(imported[1], name) if imported else ""


def api_page() -> str:
    """``docs/reference/api.md``: a table of public names for each module."""
    parts = [HEADER]
    for module, names in PUBLIC.items():
        found = import_module(module)
        details = f"[Details](python/{page_of(module)}#{module.replace('.', '')})"
        parts.append(f"## {module}\n\n{first_sentence(found.__doc__ or '')} {details}\n")
        parts.append("| name | what it is |\n| --- | --- |")
        for name in names:
            value = getattr(found, name)
            called = inspect.isclass(value) or is_function(value)
            about = first_sentence((inspect.getdoc(value) if called else constant_doc(module, name)) or "")
            parts.append(f"| `{name}` | {about} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    (DOCS / "public_api.txt").write_text("\n".join(stored_lines()) + "\n", encoding="utf-8")
    (REFERENCE / "api.md").write_text(api_page(), encoding="utf-8")
