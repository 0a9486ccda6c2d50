"""A parsed page, to test what a reader and a browser find in it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = """<script>alert(1)</script> "'><img src=x onerror=alert(2)> ${7*7} {{7*7}} $x$ & é"""


class Page(HTMLParser):
    """A parsed page: elements with attributes and text, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack[-1:] == [tag], f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.stack[-1] if self.stack else "", data))

    def text(self, *tags: str) -> str:
        """All text, or that directly inside the tags named, blanks squeezed."""
        return " ".join(" ".join(data for tag, data in self.texts if not tags or tag in tags).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        """Attributes of every element with that tag."""
        return [attributes for name, attributes in self.elements if name == tag]
