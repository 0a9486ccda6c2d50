"""Links and what they point at, in Markdown documents and in HTML pages; nothing is fetched."""

from __future__ import annotations

import re
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote


def markdown_links(text: str) -> list[str]:
    """Targets of the links and pictures of a document, outside its code."""
    return re.findall(r"\]\(([^)\s]+)\)", _without_code(text))


def markdown_anchors(text: str) -> set[str]:
    """The anchors that a document's headings get where it is shown: lower case, hyphens for spaces, marks left out.

    >>> sorted(markdown_anchors("# Speed of a queue\\n## `plots`, and why\\n## `plots`, and why\\n"))
    ['plots-and-why', 'plots-and-why-1', 'speed-of-a-queue']
    """
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?)\s*#*$", without_blocks(text), flags=re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.append(re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-"))
    return {name if not (before := found[:at].count(name)) else f"{name}-{before}" for at, name in enumerate(found)}


def without_blocks(text: str) -> str:
    """A document without its fenced code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", without_blocks(text))


class _Page(HTMLParser):
    """Collects the ``id`` of every element, and what ``href`` and ``src`` name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name == "id":
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.links.append(value)


@lru_cache(maxsize=256)
def anchors_of(path: Path) -> set[str]:
    """What a link may name after its ``#`` in a Markdown document or an HTML page; nothing in other files."""
    if path.suffix == ".md":
        return markdown_anchors(path.read_text(encoding="utf-8"))
    return _Page(path.read_text(encoding="utf-8")).anchors if path.suffix == ".html" else set()


def links_of(path: Path) -> list[str]:
    """All that a Markdown document or an HTML page links to."""
    text = path.read_text(encoding="utf-8")
    return markdown_links(text) if path.suffix == ".md" else _Page(text).links


def broken_links(path: Path, root: Path) -> list[str]:
    """The links of a file that lead nowhere: no such file or folder below ``root``, or no such anchor in it.

    Links to other sites count as sound if they are ``https``; ``data:`` holds its own content.
    """
    broken = []
    for link in links_of(path):
        if re.match(r"https://|data:", link):
            continue
        name, _, anchor = link.partition("#")
        if path.suffix == ".html":
            name = name.partition("?")[0]
        target = (path.parent / unquote(name)).resolve() if name else path.resolve()
        if not (target.is_relative_to(root.resolve()) and target.exists()) or (
            anchor and unquote(anchor) not in anchors_of(target)
        ):
            broken.append(link)
    return broken
