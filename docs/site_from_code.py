"""What the site shows of the code: public names with their docstrings, every factor, the help of every command.

A Sphinx extension of this project. A name in a docstring that leads nowhere is a warning, and so fails the build.
"""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config as Napoleon
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.docutils import SphinxDirective
from write_api import is_function, members

from forgetcast._public_api import PUBLIC


class PublicModule(SphinxDirective):
    """``{public-module} NAME``: the public names of a module, each with its docstring and its public members."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        lines = [f".. py:module:: {module}", ""]
        for name in PUBLIC[module]:
            value = getattr(import_module(module), name)
            if isinstance(value, type):
                lines.append(f".. auto{'exception' if issubclass(value, Exception) else 'class'}:: {module}.{name}")
                if shown := ", ".join(part for part, _ in members(value)):
                    lines.append(f"   :members: {shown}")
                if "Attributes:" not in (value.__doc__ or ""):
                    lines.append("   :undoc-members:")
            else:
                lines.append(f".. auto{'function' if is_function(value) else 'data'}:: {module}.{name}")
            lines.append("")
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))


class Factors(SphinxDirective):
    """``{factors}``: a table of every factor of this project."""

    def run(self) -> list[nodes.Node]:
        from forgetcast.registry import load_factors

        rows = ["| factor | family | what it is |", "| --- | --- | --- |"]
        for name, found in sorted(load_factors().items(), key=lambda item: (item[1].family, item[0])):
            rows.append(f"| `{name}` | {found.family} | {found.title.replace('|', chr(92) + '|')} |")
        return self.parse_text_to_nodes("\n".join(rows))


class CommandHelp(SphinxDirective):
    """``{command-help}``: what every command prints with ``--help``."""

    def run(self) -> list[nodes.Node]:
        shown = []
        for words, command in every_command():
            with click.Context(command, info_name=words, max_content_width=88) as context:
                shown.append(f"### {words}\n\n```text\n{command.get_help(context)}\n```\n")
        return self.parse_text_to_nodes("\n".join(shown), allow_section_headings=True)


def every_command(group: Any = None, before: str = "forgetcast ") -> Iterator[tuple[str, click.Command]]:
    """All commands with the words that call them; those of a group after the group itself."""
    from forgetcast.cli import main

    for name, command in sorted((group or main).commands.items()):
        yield f"{before}{name}", command
        if isinstance(command, click.Group):
            yield from every_command(command, f"{before}{name} ")


class Docstring(GoogleDocstring):
    """Google's style; types are in the annotations, so a colon in a sentence never ends one."""

    def _consume_returns_section(self, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
        return [("", "", self._dedent(self._consume_to_next_section()))]


def google_docstring(_app: Sphinx, what: str, _name: str, _value: object, _options: object, lines: list[str]) -> None:
    """Sections such as Args become fields; attributes have none."""
    if what not in ("attribute", "data", "property"):
        lines[:] = Docstring(lines, Napoleon(napoleon_use_ivar=True)).lines()


def readable_signature(
    _app: Sphinx, _what: str, _name: str, _value: object, _options: object, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """A default that a dataclass makes has no spelling in Python, and would keep the signature from being parsed."""
    return signature and signature.replace("<factory>", "..."), result


def exists(reference: str, module: str) -> bool:
    """Does a name lead to something, from a public module or from where one of its names is defined?"""
    values = [getattr(import_module(module), name) for name in PUBLIC[module]]
    homes = [one for value in values for one in getattr(value, "__mro__", (value,))]
    places = {module, *(home for one in homes if (home := getattr(one, "__module__", "")).startswith("forgetcast"))}
    first, *rest = reference.lstrip(".").split(".")
    for place in filter(None, places):
        owner = import_module(place)
        if hasattr(owner, first) and leads_on(getattr(owner, first), rest):
            return True
        if re.search(rf"^    from \S+ import [^\n]*\b{first}\b", inspect.getsource(owner), flags=re.MULTILINE):
            return True  # under TYPE_CHECKING, where mypy looks
    for length in range(len(rest) + 1, 0, -1):
        try:
            found = import_module(".".join([first, *rest][:length]))
        except ImportError:
            continue
        return leads_on(found, rest[length - 1 :])
    return hasattr(builtins, reference)


def leads_on(value: Any, parts: list[str]) -> bool:
    """Does a value have a part, that part another, and so on? The last may be a field without a default."""
    for at, part in enumerate(parts):
        if not hasattr(value, part):
            return at == len(parts) - 1 and part in getattr(value, "__annotations__", {})
        value = getattr(value, part)
    return True


def plain_reference(_app: Sphinx, _env: object, node: Any, shown: nodes.Node) -> nodes.Node | None:
    """What is not public, or of another library, is no link; what does not exist at all stays a warning."""
    module = node.get("py:module") or "forgetcast"
    return shown if node["refdomain"] == "py" and exists(node["reftarget"], module) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("public-module", PublicModule)
    app.add_directive("factors", Factors)
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-docstring", google_docstring)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("missing-reference", plain_reference)
    return {"parallel_read_safe": False}
