"""What the pages make of the sections of plugins: strings, inline pictures and cells for the template.

A section that fails becomes a note that names it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forgetcast.errors import PluginError
from forgetcast.registry import SECTION_GROUP, Plugin, found, raised
from forgetcast.report.forecast import Forecast
from forgetcast.report.page_parts import svg
from forgetcast.sections import Picture, Section

__all__ = ["TABLE_ROWS", "section_parts", "sections_of"]

TABLE_ROWS = 200
"""Most rows of a table that are shown; how many more there are is said."""


def sections_of(report: Forecast) -> list[dict[str, Any]]:
    """Every registered section of a report, ready for the template.

    One that raises, or returns something else, becomes a note that names it; so does a plugin that is left out.
    """
    there = found(SECTION_GROUP)
    parts = []
    for name, function in there.objects.items():
        plugin = there.origin[name]
        try:
            own = dataclasses.replace(report, table=report.table.copy())
            parts.append(section_parts(name, function(own)) | {"source": _source(plugin), "failed": ""})
        except Exception as error:
            parts.append(_failed(plugin, f"raised {raised(error)}"))
    return parts + [_failed(plugin, plugin.reason) for plugin in there.plugins if plugin.reason]


def section_parts(name: str, section: Any) -> dict[str, Any]:
    """One section for the template: plain strings, inline pictures, and tables as cells.

    Raises:
        PluginError: it is no Section, or holds something that cannot be shown.
    """
    if not isinstance(section, Section):
        raise PluginError(f"expected a forgetcast.sections.Section; got {type(section).__name__}")
    if isinstance(section.content, (str, pd.DataFrame)):
        raise PluginError(f"content: expected a list of parts; got {type(section.content).__name__}")
    place = re.sub(r"\W", "_", name)  # goes into identifiers
    return {
        "name": _plain(name),
        "title": _plain(section.title),
        "parts": [_part(f"section-{place}-{number}", part) for number, part in enumerate(section.content)],
    }


def _part(name: str, part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": _plain(part)}
    if isinstance(part, (Axes, Figure)):
        part = Picture(lambda drawn=part: drawn, alt="A picture that the section does not describe")  # type: ignore[misc]
    if isinstance(part, Picture):
        return {"svg": svg(part.draw, name, _plain(part.alt)), "caption": _plain(part.caption)}  # type: ignore[arg-type]
    if isinstance(part, pd.DataFrame):
        rows = part.head(TABLE_ROWS).itertuples(index=False, name=None)
        return {
            "head": [_plain(column) for column in part.columns],
            "rows": [[_cell(value) for value in row] for row in rows],
            "more": max(len(part) - TABLE_ROWS, 0),
        }
    raise PluginError(
        "content: expected text, forgetcast.sections.Picture, matplotlib axes or a DataFrame; got "
        f"{type(part).__name__}"
    )


def _cell(value: Any) -> dict[str, Any]:
    """A number as it sorts, or text."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return {"number": value.item() if isinstance(value, np.generic) else value}
    return {"text": _plain("" if value is None else value)}


def _plain(value: Any) -> str:
    """Text that is escaped whatever it was: a string that calls itself markup is one no longer.

    >>> from markupsafe import Markup
    >>> type(_plain(Markup("<b>"))).__name__
    'str'
    """
    return "".join(list(str(value)))


def _source(plugin: Plugin) -> str:
    return f"{plugin.package} {plugin.version}".strip() or plugin.value


def _failed(plugin: Plugin, why: str) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "title": plugin.name.replace("_", " "),
        "parts": [],
        "source": _source(plugin),
        "failed": f"The {plugin} {why}",
    }
