"""What the pages have in common: templates, pictures as inline SVG, factors by title, files written whole.

The styles, the content security policy and the script that sorts tables stand in ``templates/page.html.j2``, which
every page extends.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forgetcast.errors import PathError
from forgetcast.factors import FactorTable, quantile_column
from forgetcast.files.atomic import whole_file
from forgetcast.report import plots
from forgetcast.report.explain import split_reasons
from forgetcast.wording import count, number, sanitized, signed

ENLARGED = 1.4
"""Pixels per point of a picture at its largest, so that its text is about as large as the page's."""
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
INK = "#0a0b0c"
"""Drawn wherever a picture should take the page's own text colour."""


def template(name: str, **filters: Callable[..., Any]) -> Template:
    """A page's template: everything put into it is escaped, and what is missing is an error.

    Args:
        name: file in ``templates``.
        filters: of that page alone, beside those that all have.
    """
    environment = Environment(
        loader=PackageLoader("forgetcast.report"),
        autoescape=True,
        finalize=lambda value: sanitized(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "sentences": split_reasons,
        "sha256": sha256,
        "count": count,
        **filters,
    }
    return environment.get_template(name)


def write_whole(path: str | os.PathLike[str], draw: Callable[[], str], kind: str) -> Path:
    """Write the page that ``draw`` returns; missing parent folders are made.

    The text goes to a temporary sibling first, so that a failure leaves no half-written file and an existing page
    as it was.

    Args:
        path: the file.
        draw: called once the place is known to be writable.
        kind: what the page is, one word, for messages.

    Raises:
        PathError: the path is a folder or cannot be written.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise PathError(f"expected a file for the {kind}; {path} is a folder: try {path / f'{kind}.html'}")
    with whole_file(path, kind) as draft:
        draft.touch()  # an unwritable place is reported before the work, not after it
        draft.write_text(sanitized(draw()), encoding="utf-8")
    return path


def sha256(text: str) -> str:
    """As a content security policy writes it."""
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def svg(draw: Callable[[], Axes], name: str, alt: str) -> Markup:
    """A picture as inline SVG: text as text, in the page's own colour, with identifiers of its own.

    matplotlib's file is parsed and written again without namespaces, metadata and style sheet, which the page has.
    """
    style: dict[Any, Any] = dict.fromkeys(INKED, INK) | {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "legend.framealpha": 0,
    }
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's browser has its own fonts
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        file = io.StringIO()
        cast(Figure, draw().figure).savefig(file, format="svg", transparent=True, dpi=200)
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        if not attributes.get("href", "#").startswith(("#", "data:image/")):  # a link of the artist's, out of the page
            del attributes["href"]
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            elif key in ("style", "clip-path", "fill", "stroke"):
                value = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
            element.set(key, value)
    root.set("style", f"max-width: {float(root.attrib['viewBox'].split()[2]) * ENLARGED:.0f}px")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": alt})
    return Markup(ElementTree.tostring(root, encoding="unicode", method="html"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def factor_values(table: FactorTable, index: int, names: Sequence[str]) -> dict[str, str]:
    """The sample's value of each factor, with its place among all samples where there is one."""
    values: dict[str, float] = table.worked_out.loc[index].to_dict()  # type: ignore[assignment]
    texts = {}
    for name in names:
        value, quantile = values.get(name, np.nan), values.get(quantile_column(name), np.nan)
        place = "" if np.isnan(quantile) else f" (above {int(100 * quantile)}%)"
        texts[name] = "not applicable" if np.isnan(value) else f"{number(value)}{place}"
    return texts


def factor_titles(table: FactorTable) -> dict[str, str]:
    return {name: factor.title for name, factor in table.factors.items()}


def factor_title(table: FactorTable, name: str) -> str:
    factor = table.factors.get(name)
    return plots.first_sentence(factor.title if factor else name.replace("_", " "))
