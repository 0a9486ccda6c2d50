"""The page of a screened queue: complete, self-contained, safe against hostile requests, readable without scripts."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections import Counter
from html import unescape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from forgetcast.errors import InputError, PathError
from forgetcast.screening import page as triage_page
from forgetcast.screening.page import render_triage_html, write_triage_html
from forgetcast.screening.routes import ROUTE_MEANINGS
from html_page import HOSTILE, Page
from sample_report import sample_report
from sample_triage import SampleTriage, sample_triage

pytestmark = pytest.mark.slow

INDICES = tuple(range(0, 120, 3))
PEOPLE = [f"person {place} of the register" for place in range(len(INDICES))]
PROBLEMS = ((41, "zzz", "no sample has this id"), (42, "3.5", "expected a whole number; got 3.5"))


@pytest.fixture(scope="module")
def triage() -> SampleTriage:
    """40 requests of the small perceptron that take every route, two that cannot be served."""
    return sample_triage(INDICES, extra={"person": PEOPLE}, problems=PROBLEMS)


@pytest.fixture(scope="module")
def html(triage: SampleTriage) -> str:
    """Its page, with three requests explained."""
    return render_triage_html(triage, explained=3)


def _queue(html: str) -> list[str]:
    """Rows of the table of the queue, each as HTML."""
    table = html.split('id="queue-table">')[1].split("</table>")[0]
    return re.findall(r"<tr data-row.*?</tr>", table, re.DOTALL)


def _details(html: str) -> dict[int, str]:
    """Text of the details of each request, by row."""
    parts = re.findall(r'<details id="request-(\d+)">(.*?)</details>', html, re.DOTALL)
    return {int(row): Page(f"<div>{part}</div>").text() for row, part in parts}


# -- the page as a page ---------------------------------------------------------------------------------------


def test_page_is_well_formed_with_unique_ids_and_links_that_lead_somewhere(html: str) -> None:
    """Every tag is closed in order, no id comes twice, and every reference inside the page has its goal."""
    page = Page(html)
    assert page.stack == []
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert ids.most_common(1)[0][1] == 1
    wanted = {a["href"][1:] for _, a in page.elements if a.get("href", "").startswith("#")}
    wanted |= {a[key] for _, a in page.elements for key in ("aria-labelledby", "aria-controls", "for") if key in a}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert {"queue", "request-1", "group-1", "queue-table", "filter-text"} <= wanted <= set(ids)


def test_page_loads_nothing_and_allows_its_own_script_alone(html: str) -> None:
    """No address of any host; the policy in the page names the hash of the one script."""
    assert not re.search(r"https?:|//[\w.-]+/|@import|xmlns|url\((?!#)", html, re.IGNORECASE)
    page = Page(html)
    assert not {"link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    for id_ in re.findall(r'find\("([\w-]+)"\)', script):
        assert f'id="{id_}"' in html
    for name in re.findall(r'value\("([\w-]+)"\)', script):
        assert f'data-name="{name}"' in html


def test_headings_descend_one_level_at_a_time(html: str) -> None:
    """One h1, and no level is skipped."""
    levels = [int(tag[1]) for tag, _ in Page(html).elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_controls_are_real_ones_and_wait_for_the_script(html: str) -> None:
    """What needs the script is hidden until it runs; every field has a label, every button its type."""
    page = Page(html)
    hidden = [a.get("id") for tag, a in page.elements if tag == "div" and "hidden" in a]
    assert hidden == ["controls", "unfold"]
    assert all(a["type"] == "button" for a in page.all("button"))
    fields = {a["id"] for tag in ("input", "select") for a in page.all(tag)}
    assert fields == {a["for"] for a in page.all("label")}
    assert [a["id"] for _, a in page.elements if a.get("role") == "status"] == ["shown"]
    assert page.elements[[tag for tag, _ in page.elements].index("body") + 1] == (
        "a",
        {"class": "skip", "href": "#queue"},
    )


def test_every_column_of_the_queue_sorts_and_says_how(html: str) -> None:
    """Each heading holds a button; the queue comes in processing order and says so; rows are as wide as the head."""
    heads = re.findall(r"<th scope=\"col\"[^>]*?aria-sort=\"(\w+)\"[^>]*>(.*?)</th>", html)
    assert [order for order, _ in heads] == ["ascending"] + ["none"] * (len(heads) - 1)
    assert all(content.startswith('<button type="button">') for _, content in heads)
    rows = _queue(html)
    assert {len(re.findall(r"<t[hd]\b", row)) for row in rows} == {len(heads)}
    assert [int(re.findall(r'data-name="place" data-value="(\d+)"', row)[0]) for row in rows] == list(range(1, 41))


def test_dark_print_and_narrow_have_rules(html: str) -> None:
    """The page follows the reader's theme, prints closed details too, and folds its table on narrow screens."""
    for rule in ("(prefers-color-scheme: dark)", "@media print", "(max-width:", "::details-content", "beforeprint"):
        assert rule in html


# -- what it says ---------------------------------------------------------------------------------------------


def test_every_request_is_in_the_queue_and_in_detail(triage: SampleTriage, html: str) -> None:
    """Row by row: route, unlearner with strength, harm with interval, costs, reasons, and the request's own columns."""
    rows, details = _queue(html), _details(html)
    assert len(rows) == len(details) == 40
    for row, markup in zip(triage.table.sort_values("order").to_dict("records"), rows, strict=True):
        text, cells = details[row["row"]], Page(f"<table>{markup}</table>").text()
        assert f'href="#request-{row["row"]}"' in markup
        for shown in (row["id"], row["route"], row["unlearner"].replace("_", " "), row["person"]):
            assert shown in text
            assert shown in cells
        if row["harm_lower"] > 0.001:
            interval = f"{row['harm']:.3f} [{row['harm_lower']:.3f}, {row['harm_upper']:.3f}]"
            assert interval in text
            assert interval in cells
        assert row["why"] in text
        if row["route"] in ("quick", "careful"):
            limit = f"{row['step_limit']:.2f}" if row["step_limit"] <= 1 else f"{row['step_limit']:.3g}"
            assert f"{row['unlearner'].replace('_', ' ')}: " in text
            assert f"stop at {limit}" in text
            assert f"({limit})" in cells
        else:
            assert "stop at" not in text
        assert f"{row['collateral_test']:.3f} on held-out" in text or row["collateral_test"] < 0.0005
        assert f"{row['seconds']:.2g} s" in cells
        for sentence in re.split(r"; (?=harder|easier)", row["reasons"]):
            assert sentence in text
        assert ("extrapolated" in text) == row["unfamiliar"]


def test_summary_has_counts_costs_and_advice(triage: SampleTriage, html: str) -> None:
    """Each route with its count and meaning; all costs in a unit a person would choose."""
    part = html.split('<h2 id="summary">')[1].split("<svg")[0]
    summary = " ".join(re.sub(r"<[^>]+>", " ", part).split())
    for name, meaning in ROUTE_MEANINGS.items():
        assert f"{name} {triage.batch['routes'][name]} {meaning}" in summary
    assert "Unlearn the quick and careful requests one by one; retrain once for the others." in summary
    assert "Note: one unlearner was left out" in summary
    assert triage.batch["unfamiliar"] in summary
    assert f"unlearning, in all {triage.batch['unlearning_seconds']:.0f} s" in summary
    assert "one retraining 40 s" in summary
    assert "1 s of it once" in summary
    assert f"break-even {triage.batch['break_even']:.0f}" in summary
    assert "42 requests to delete training samples, 40 of which can be served and 2 cannot" in Page(html).text()


def test_problems_are_told_by_row(html: str) -> None:
    """Row number, id as it came, and what is wrong."""
    part = html.split('<h2 id="problems">')[1].split("</section>")[0]
    for row, name, problem in PROBLEMS:
        assert f'<tr><td class="n">{row}</td><td>{name}</td><td>{problem}</td></tr>' in part


def test_interacting_requests_are_grouped_with_their_pairs(triage: SampleTriage, html: str) -> None:
    """Members by group, the strongest pair first, and each member's details name its partners."""
    part = html.split('<h3 id="group-1">')[1].split("<h3")[0]
    members = triage.table[triage.table["group"] == 1].sort_values("order")
    assert re.findall(r'<li><a href="#request-(\d+)">', part) == [str(row) for row in members["row"]]
    assert [float(effect) for effect in re.findall(r'<td class="n">(0\.\d+)</td>', part)] == [0.15, 0.1]
    details = _details(html)
    row_of = triage.table.set_index("index")["row"]
    assert "interacts, group 1 s9 (0.150), s0 (0.100)" in details[row_of[3]]
    assert sum("interacts, group" in text for text in details.values()) == 5


def test_long_groups_list_their_strongest_pairs_and_count_the_rest() -> None:
    """45 pairs among ten requests: 20 are listed, 25 counted."""
    pairs = [(i, j) for i in range(10) for j in range(i)]
    html = render_triage_html(sample_triage(range(10), pairs=pairs), explained=0)
    part = html.split('<h3 id="group-1">')[1].split("</section>")[0]
    assert part.count("<tr><td>") == triage_page.LISTED_PAIRS
    assert "The 20 strongest pairs; 25 more are not listed" in part


def test_the_first_hard_requests_in_processing_order_are_explained(triage: SampleTriage, html: str) -> None:
    """Three pictures for three requests, with the base and forecast of their explanation; none for the easy ones."""
    table = triage.table.sort_values("order")
    first = table[table["route"].isin(["careful", "retrain"])].head(3)
    labels = [a["aria-label"] for a in Page(html).all("svg") if a["aria-label"].startswith("Waterfall")]
    assert len(labels) == 3
    for label, index in zip(labels, first["index"], strict=True):
        explanation = triage.report.explain(int(index), "retrain")
        forecast = np.clip(explanation.prediction, 0, 1)
        assert f"sample {index}, from the average forecast {explanation.base:.2f} to {forecast:.2f}" in label
    parts = re.findall(r'<details id="request-(\d+)">(.*?)</details>', html, re.DOTALL)
    assert {int(row) for row, part in parts if "<svg" in part} == set(first["row"])


def test_policy_and_provenance_are_shown(triage: SampleTriage, html: str) -> None:
    """Every threshold with its value and meaning, every fingerprint in full."""
    for name, value in triage.policy.to_dict().items():
        shown = "not given" if value is None else f"{value:g}"
        assert f'<code>{name}</code></th><td class="n">{shown}</td><td>{triage_page.POLICY_MEANINGS[name]}' in unescape(
            html
        )
    for key in ("predictor", "model", "data", "policy", "requests", "time"):
        assert str(triage.provenance[key]) in Page(html).text()


def test_same_queue_same_page(triage: SampleTriage, html: str) -> None:
    """Nothing depends on the time or on chance."""
    assert render_triage_html(triage, explained=3) == html


# -- hostile, odd and empty queues ----------------------------------------------------------------------------


def test_hostile_requests_stay_text() -> None:
    """Tags, quotes and template signs in ids, columns and their names are shown, never run."""
    evil = f"</script><script>alert(1)</script>{HOSTILE}"
    triage = sample_triage(
        (1, 2, 3), ids=[evil] * 3, extra={evil: [evil] * 3, "<b>": ["", None, float("nan")]}, problems=[(4, evil, evil)]
    )
    table = triage.table.assign(why=evil, reasons=f"harder: {evil}", tier=evil)
    triage = dataclasses.replace(
        triage, table=table, batch={**triage.batch, "advice": evil, "unfamiliar": evil}, provenance={evil: {evil: evil}}
    )
    html = render_triage_html(triage)
    page = Page(html)
    assert page.stack == []
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not page.all("b")
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert page.text().count(" ".join(evil.split())) > 15
    assert "<script>alert" not in html


def test_long_and_many_columns_are_whole_in_the_details() -> None:
    """The table shortens texts and shows six columns; the details have all of all, and the page says so."""
    extra = {f"column {k}": [f"{k} {'word ' * 40}end{k}"] * 2 for k in range(9)}
    html = render_triage_html(sample_triage((0, 3), extra=extra))
    for row, text in zip(_queue(html), _details(html).values(), strict=True):
        assert row.count('class="own"') == triage_page.EXTRA_COLUMNS
        assert "end0" not in row
        assert all(f"end{k}" in text for k in range(9))
    assert "3 more columns of the requests" in Page(html).text()


@pytest.mark.parametrize("route", ROUTE_MEANINGS)
def test_a_queue_of_one_route_or_of_one_request(route: str) -> None:
    """Pages without some of the parts are whole pages."""
    for indices in ((5,), (5, 9, 12)):
        html = render_triage_html(sample_triage(indices, route=route, unfamiliar=()), explained=1)
        page = Page(html)
        assert page.stack == []
        assert len(_queue(html)) == len(_details(html)) == len(indices)
        assert html.count("Waterfall of sample") == (2 if route in ("careful", "retrain") else 0)  # label and title
        for words in ("Every request can be served.", "No request interacts with another."):
            assert words in page.text()
        assert not re.search(r"\bnan\b|\bNone\b", page.text())


def test_a_queue_without_a_request_that_can_be_served() -> None:
    """Only problems: the page says so."""
    triage = sample_triage((0,), problems=PROBLEMS, pairs=())
    batch = {**triage.batch, "requests": 2, "served": 0, "routes": dict.fromkeys(ROUTE_MEANINGS, 0)}
    page = Page(render_triage_html(dataclasses.replace(triage, table=triage.table.iloc[:0], batch=batch)))
    assert page.stack == []
    assert "No request can be served." in page.text()
    assert "no sample has this id" in page.text()


def test_without_costs_there_are_dashes_and_no_claims() -> None:
    """NaN seconds neither fail nor become "nan"."""
    html = render_triage_html(sample_triage((0, 3, 6), timed=False))
    text = Page(html).text()
    assert not re.search(r"\bnan\b", html, re.IGNORECASE)
    assert "one retraining – " in text
    assert "break-even – not known" in text
    assert "no request to unlearn was timed" in text
    assert 'data-name="time" data-value="">–<' in html


def test_500_requests_stay_small() -> None:
    """Five columns of their own and 25 pictures fit in 6 MB; a row of the queue takes less than 2.5 kB."""
    extra = {f"c{k}": [f"value {k} of request {place}" for place in range(500)] for k in range(5)}
    report = sample_report(n=500, objectives=["retrain"])
    html = render_triage_html(sample_triage(range(500), report=report, extra=extra))
    assert len(html.encode()) < 6_000_000
    rows = _queue(html)
    assert len(rows) == len(_details(html)) == 500
    assert max(map(len, rows)) < 2_500
    assert html.count("Waterfall of sample") == 50


def test_bad_options_are_named(triage: SampleTriage) -> None:
    """The message says which option and what came."""
    with pytest.raises(InputError, match=r"explained.*-1"):
        render_triage_html(triage, explained=-1)


# -- writing --------------------------------------------------------------------------------------------------


def test_written_file_is_the_page_alone_in_its_folder(tmp_path: Path) -> None:
    """Missing folders are made; nothing temporary stays behind; a folder is refused with a better path."""
    triage = sample_triage((3,))
    path = write_triage_html(triage, tmp_path / "a" / "queue.html", explained=0)
    assert path.read_text(encoding="utf-8") == render_triage_html(triage, explained=0)
    assert [p.name for p in path.parent.iterdir()] == ["queue.html"]
    with pytest.raises(PathError, match=r"is a folder.*triage\.html"):
        write_triage_html(triage, tmp_path)


def test_failure_leaves_the_old_page_as_it_was(tmp_path: Path) -> None:
    """An option that is refused costs nothing that was there."""
    path = tmp_path / "queue.html"
    path.write_text("old")
    with pytest.raises(InputError):
        write_triage_html(sample_triage((3,)), path, explained=-1)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["queue.html"]
