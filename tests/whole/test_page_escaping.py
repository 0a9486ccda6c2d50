# ruff: noqa: E501
"""Whatever text requests, models and plugins bring, a page shows it as text: no element, no attribute, no broken file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from forgetcast.report.page import write_html
from forgetcast.screening.page import write_triage_html
from html_page import Page
from sample_report import sample_report
from sample_triage import sample_triage

PIECES = st.sampled_from(
    [
        "</script>", "<script>alert(1)</script>", "<!--", "-->", "]]>", "<![CDATA[", '"', "'", "`", "=", "&", "&lt;", "&#x3c;",
        "<img src=x onerror=alert(1)>", '" onmouseover="alert(1)', "' autofocus onfocus='alert(1)", "javascript:alert(1)",
        "{{7*7}}", "{% include 'x' %}", "${7*7}", "$x$", "\\frac{", "</td></tr></table>", "</title>", "</style>",
        "<svg onload=alert(1)>", "\0", "\x1b[2J", "\ud800", "\udfff", "\u202e", "\u2066", "\u2028", "\ufeff", "\r\n", "é", "🎲",
        "=1+1", "url(x)",
    ]
)  # fmt: skip
HOSTILE = st.lists(PIECES | st.text(max_size=4), min_size=1, max_size=6).map(lambda pieces: f"t{''.join(pieces)}t")
REPLACED = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *map(chr, range(0xD800, 0xE000))} - set("\t\n\r")
REPLACED |= {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def _shape(page: Page) -> list[tuple[str, tuple[str, ...]]]:
    """All elements with the names of their attributes, in order."""
    return [(tag, tuple(sorted(attributes))) for tag, attributes in page.elements]


def _shown(text: str) -> str:
    """How a page shows a text: without what no file holds or what would turn other text around, blanks squeezed."""
    return " ".join("".join("\ufffd" if letter in REPLACED else letter for letter in text).split())


def _triage_page(texts: list[str], path: Path) -> str:
    """A queue with these texts wherever a request, a policy or a plugin can put one."""
    a, b, c, d, e, f = (text.encode("utf-8", "replace").decode() for text in texts)  # a table holds no surrogates
    queue = sample_triage((1, 2, 3), ids=[a, b, c], extra={d: [e, f, a], e: [b, c, d]}, problems=[(4, f, e)])
    table = queue.table.assign(why=[a, b, c], reasons=[f"harder: {d}", f"easier: {e}", f], tier=[d, e, f])
    batch = {**queue.batch, "advice": texts[0], "unfamiliar": texts[1], "notes": [texts[2]]}
    policy = dataclasses.replace(queue.policy, unlearners=(texts[3], texts[4]))
    found = dataclasses.replace(queue, table=table, batch=batch, policy=policy, provenance={"version": texts[5]})
    return write_triage_html(found, path, explained=0).read_bytes().decode("utf-8")


def _report_page(texts: list[str], path: Path) -> str:
    """A report with these texts as names of the target and of a factor, labels, reasons and notes."""
    a, b, c, d = texts[:4]
    e, f = (text.encode("utf-8", "replace").decode() for text in texts[4:])  # a table holds no surrogates
    report = sample_report(n=12, title=a, target=b, objectives=["retrain"])
    factors = dataclasses.replace(report.factors, not_applicable={"noise": c}, notes={"margin": d})
    table = report.table.assign(reasons=e, tier=f)
    found = dataclasses.replace(report, table=table, factors=factors, _explainer=None)
    return write_html(found, path, waterfalls=0).read_bytes().decode("utf-8")


@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@example(texts=[f"t{place}\ud800</script>\0\u202e<img src=x>'\"t" for place in range(6)])
@given(texts=st.lists(HOSTILE, min_size=6, max_size=6, unique_by=lambda text: _shown(text).lower()))
def test_texts_of_a_queue_stay_text(tmp_path: Path, texts: list[str]) -> None:
    """The page has just the elements and attributes that it has with plain words."""
    page = Page(_triage_page(texts, tmp_path / "page.html"))
    plain = Page(_triage_page([f"t{'x' * place}t" for place in range(1, 7)], tmp_path / "plain.html"))
    assert page.stack == []
    assert _shape(page) == _shape(plain)
    for text in texts[:3]:  # a sentence begins with a capital
        assert _shown(text).lower() in page.text().lower()


@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@example(texts=[f"t{place}\ud800</script>\0\u202e<img src=x>'\"t" for place in range(6)])
@given(texts=st.lists(HOSTILE, min_size=6, max_size=6, unique=True))
def test_texts_of_a_report_stay_text(tmp_path: Path, texts: list[str]) -> None:
    """Likewise."""
    page = Page(_report_page(texts, tmp_path / "page.html"))
    plain = Page(_report_page([f"t{'x' * place}t" for place in range(1, 7)], tmp_path / "plain.html"))
    assert page.stack == []
    assert [tag for tag, _ in _shape(page) if tag in ("script", "img", "a", "iframe", "style", "svg", "table")] == [
        tag for tag, _ in _shape(plain) if tag in ("script", "img", "a", "iframe", "style", "svg", "table")
    ]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    for text in texts[1:4]:
        assert _shown(text) in page.text()
