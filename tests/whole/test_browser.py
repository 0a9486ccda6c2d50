"""Both pages in a real browser: sort, filter, links, keyboard, themes, paper, narrow screens, and nothing foreign runs.

Every test ends with the question whether the browser complained of anything or asked for anything but the page.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys

from browser import PROGRAMS, Browser, chromium
from forgetcast.report.page import render_html
from forgetcast.screening.page import render_triage_html
from html_page import HOSTILE
from sample_report import sample_report
from sample_triage import SamplePolicy, SampleTriage, sample_triage

pytestmark = pytest.mark.slow

INDICES = tuple(range(0, 120, 3))
EVIL = (
    f"""</script><script>window.ran = 1</script><img src="http://evil.example/x" onerror="window.ran = 2">{HOSTILE}"""
)
LONG = "unbroken" * 40
IDS = [EVIL, LONG, *(f"s{index}" for index in INDICES[2:])]
PEOPLE = [f"Person {place} of the register" for place in range(len(INDICES))]
PROBLEMS = ((41, EVIL, f"no sample has the id {EVIL}"), (42, LONG, f"no sample has the id {LONG}"))
READABLE = 4.5
"""Least contrast of text with what is behind it: WCAG 2.2, 1.4.3, level AA."""
NARROW = 400

SEEN = """
const seen = (element) => element.checkVisibility({visibilityProperty: true}) && element.getClientRects().length > 0;
"""
CONTRASTS = (
    SEEN
    + """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
};
const over = (top, under) => [0, 1, 2].map((k) => top[k] * top[3] + under[k] * (1 - top[3])).concat(1);
const behind = (element) => {
  if (!element) return rgba("Canvas");
  const own = rgba(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, behind(element.parentElement));
};
const light = (color) => color.slice(0, 3)
  .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, k) => sum + part * [0.2126, 0.7152, 0.0722][k], 0);
const found = [];
for (const element of document.querySelectorAll("body, body *")) {
  const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join(" ");
  if (!text.trim() || ["SCRIPT", "OPTION"].includes(element.tagName) || !seen(element)) continue;
  const style = getComputedStyle(element);
  const back = behind(element);
  const ink = over(rgba(element.closest("svg") ? style.fill : style.color), back);
  const [low, high] = [light(back), light(ink)].sort((a, b) => a - b);
  found.push([element.tagName.toLowerCase(), element.className.baseVal ?? element.className, text.slice(0, 40),
    (high + 0.05) / (low + 0.05)]);
}
return found;
"""
)


@pytest.fixture(scope="session")
def window() -> Iterator[Browser]:
    """One browser for all tests."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """The browser, on a wide light screen; afterwards nothing foreign may have run, been asked for or been refused."""
    window.emulate()
    window.complaints(), window.requested()
    yield window
    assert window.complaints() == []
    assert [url for url in window.requested() if not url.startswith(("file:", "data:", "about:"))] == []
    assert window.run("return window.ran ?? null") is None


@pytest.fixture(scope="module")
def triage() -> SampleTriage:
    """40 requests that take every route, two that cannot be served; one id wants to run, one cannot be wrapped."""
    extra = {"person": PEOPLE, "remark": [EVIL, LONG] * 20, EVIL: ["b", "", "a", None] * 10}
    triage = sample_triage(INDICES, ids=IDS, extra=extra, problems=PROBLEMS)
    policy = SamplePolicy(unlearners=tuple(f"unlearner_{k}" for k in range(16)))
    return dataclasses.replace(triage, policy=policy, provenance={**triage.provenance, "requests file": LONG})


@pytest.fixture(scope="module")
def queue(triage: SampleTriage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page, with two requests explained."""
    path = tmp_path_factory.mktemp("pages") / "queue.html"
    path.write_text(render_triage_html(triage, explained=2), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with measured samples, of a target and with a reason that want to run."""
    report = sample_report(measured=20, title=EVIL, target=EVIL)
    table = report.table.assign(reasons=report.table["reasons"].where(report.table.index % 5 > 0, EVIL))
    provenance = {**report.provenance, "weights": LONG}
    report = dataclasses.replace(report, table=table, provenance=provenance, _explainer=None)
    path = tmp_path_factory.mktemp("pages") / "report.html"
    path.write_text(render_html(report, rows=8, waterfalls=1), encoding="utf-8")
    return path


@pytest.fixture(params=["queue", "report"])
def page(request: pytest.FixtureRequest) -> Path:
    """Either page."""
    return request.getfixturevalue(request.param)


def _shown(browser: Browser, selector: str) -> list[str]:
    """Ids, or the data of rows, of what of ``selector`` can be seen."""
    return browser.run(
        SEEN + "return [...document.querySelectorAll(arguments[0])].filter(seen).map((e) => e.dataset.row ?? e.id)",
        selector,
    )


def _press(browser: Browser, *keys: str) -> None:
    ActionChains(browser.driver, duration=0).send_keys(*keys).perform()


def _picture(browser: Browser) -> tuple[bytes, np.ndarray]:
    """What the window shows: PNG, and colours of shape (height, width, channels) in [0, 1]."""
    png = base64.b64decode(browser.command("Page.captureScreenshot", format="png")["data"])
    return png, matplotlib.image.imread(io.BytesIO(png))[..., :3]


def _focus(browser: Browser, selector: str) -> None:
    """Put the focus where ``selector`` says, as a keyboard would."""
    browser.run("document.querySelector(arguments[0]).focus({focusVisible: true})", selector)


# -- nothing foreign --------------------------------------------------------------------------------------------


def test_hostile_texts_are_shown_and_run_nothing(browser: Browser, page: Path) -> None:
    """Tags in ids, columns, titles and reasons are text; the page has its one script and no picture from elsewhere."""
    browser.open(page)
    counts = browser.run(
        "return ['script', 'img', 'iframe', 'link'].map((tag) => document.querySelectorAll(tag).length)"
    )
    assert counts == [1, 0, 0, 0]
    assert browser.run("return document.body.textContent.split(arguments[0]).length - 1", EVIL) >= 2
    assert browser.run("return document.querySelectorAll('[onerror]').length") == 0


def test_the_policy_of_the_page_refuses_scripts_pictures_and_requests_of_others(window: Browser, page: Path) -> None:
    """What the other tests rely on: were a hostile text not escaped, nothing would come of it, and it would be seen."""
    window.emulate()
    window.open(page)
    window.complaints(), window.requested()
    refused = window.driver.execute_async_script(  # type: ignore[no-untyped-call]
        """
        const done = arguments[0], refused = [];
        document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
        document.body.insertAdjacentHTML("beforeend", '<img src="http://evil.example/x" onerror="window.ran = 1">');
        const script = document.createElement("script");
        script.textContent = "window.ran = 2";
        document.body.append(script);
        fetch("http://evil.example/y").catch(() => setTimeout(() => done(refused), 100));
        """
    )
    assert set(refused) == {"img-src", "script-src-attr", "script-src-elem", "connect-src"}
    assert window.run("return window.ran ?? null") is None
    assert len(window.complaints()) >= 4


def test_without_scripts_everything_is_there(browser: Browser, queue: Path, report: Path) -> None:
    """All rows can be read, the details open, and no control is shown that would do nothing."""
    with browser.without_scripts():
        browser.open(queue)
        assert len(_shown(browser, "#queue-table tbody tr")) == len(INDICES)
        assert len(_shown(browser, "#requests ~ details > summary")) == len(INDICES)
        assert _shown(browser, "#controls, #unfold") == []
        _focus(browser, "#request-1 summary")
        _press(browser, Keys.ENTER)
        assert browser.run(SEEN + "return seen(document.querySelector('#request-1 dl'))")
        browser.open(report)
        rows = browser.run(SEEN + "return [...document.querySelectorAll('tbody tr')].map(seen)")
        assert len(rows) > 50
        assert all(rows)


# -- sorting ----------------------------------------------------------------------------------------------------


COLUMN = """
const table = document.querySelectorAll("table.sortable")[arguments[0]];
const heads = [...table.tHead.rows[0].cells];
const column = heads.findIndex((head) => head.textContent === arguments[1]);
return {
  orders: heads.map((head) => head.ariaSort),
  column,
  cells: [...table.tBodies[0].rows].map((row) => row.cells[column])
    .map((cell) => cell.dataset.value ?? cell.textContent.trim()),
};
"""


def _sorted_by(browser: Browser, table: int, heading: str) -> tuple[str, list[str]]:
    """The order that a heading says it has, and the column below it."""
    found = browser.run(COLUMN, table, heading)
    others = [order for k, order in enumerate(found["orders"]) if k != found["column"]]
    assert set(others) <= {"none", None}
    return found["orders"][found["column"]], found["cells"]


def _click(browser: Browser, table: int, heading: str) -> None:
    browser.run(
        """const head = [...document.querySelectorAll("table.sortable")[arguments[0]].tHead.rows[0].cells]
        .find((head) => head.textContent === arguments[1]);
        head.querySelector("button").click();""",
        table,
        heading,
    )


def _numbers_in_order(cells: list[str], order: str) -> None:
    """Numbers rise or fall, and what is missing comes last."""
    values = [float(cell) for cell in cells if cell]
    assert len(set(values)) > 1
    assert cells[len(values) :] == [""] * (len(cells) - len(values))
    assert values == sorted(values, reverse=order == "descending")


@pytest.mark.parametrize(
    "heading", ["place", "sample", "route", "steps (limit)", "harm", "time", "group", "unfamiliar"]
)
def test_queue_sorts_by_numbers_both_ways(browser: Browser, queue: Path, heading: str) -> None:
    """The largest first, then the smallest; rows without a number last both times; the route in order of effort."""
    browser.open(queue)
    seen = []
    for order in ("descending", "ascending"):
        _click(browser, 0, heading)
        said, cells = _sorted_by(browser, 0, heading)
        assert said == order
        assert len(cells) == len(INDICES)
        _numbers_in_order(cells, order)
        seen.append(cells)
    assert seen[0] != seen[1]


def test_queue_sorts_by_texts_both_ways(browser: Browser, queue: Path, triage: SampleTriage) -> None:
    """A first, numbers inside texts by their value, empty texts last; rows move as a whole."""
    browser.open(queue)
    wanted = [f"Person {place} of the register" for place in range(len(INDICES))]
    for order, people in (("ascending", wanted), ("descending", wanted[::-1])):
        _click(browser, 0, "person")
        assert _sorted_by(browser, 0, "person") == (order, people)
        rows = [int(row) for row in _shown(browser, "#queue-table tbody tr")]
        assert triage.table.set_index("row").loc[rows, "person"].to_list() == people
    for order in ("ascending", "descending"):
        _click(browser, 0, "unlearner")
        said, cells = _sorted_by(browser, 0, "unlearner")
        named = [cell for cell in cells if cell]
        assert said == order
        assert cells == named + [""] * (len(cells) - len(named))
        assert named == sorted(named, reverse=order == "descending")
    _click(browser, 0, "request")
    said, cells = _sorted_by(browser, 0, "request")
    assert said == "ascending"
    assert [cell for cell in cells if cell[1:].isdigit()] == [f"s{index}" for index in INDICES[2:]]


def test_report_sorts_each_table_by_itself(browser: Browser, report: Path) -> None:
    """Every heading of every table, both ways; the other tables stay as they are."""
    browser.open(report)
    tables = browser.run(
        """return [...document.querySelectorAll("table.sortable")].map((table) =>
        [...table.tHead.rows[0].cells].filter((head) => head.ariaSort).map((head) => head.textContent))"""
    )
    assert len(tables) == 6
    for table, headings in enumerate(tables):
        others = [browser.run(COLUMN, k, heads[0]) for k, heads in enumerate(tables) if k != table]
        for heading in headings:
            before = browser.run(COLUMN, table, heading)["orders"][headings.index(heading)]
            orders = []
            for _ in range(2):
                _click(browser, table, heading)
                order, cells = _sorted_by(browser, table, heading)
                values = [float(cell) for cell in cells]
                assert values == sorted(values, reverse=order == "descending")
                orders.append(order)
            first = "ascending" if before == "descending" else "descending"
            assert orders == [first, {"ascending": "descending", "descending": "ascending"}[first]]
        assert others == [browser.run(COLUMN, k, heads[0]) for k, heads in enumerate(tables) if k != table]


# -- filtering --------------------------------------------------------------------------------------------------


def _filter(browser: Browser, **values: str | bool) -> None:
    """Set fields and let the page know, as a hand would."""
    for name, value in values.items():
        browser.run(
            """const field = document.getElementById(`filter-${arguments[0]}`);
            if (field.type === "checkbox") field.checked = arguments[1]; else field.value = arguments[1];
            field.dispatchEvent(new Event("input", {bubbles: true}));""",
            name,
            value,
        )


def _rows(browser: Browser) -> set[int]:
    """Requests that can be seen: the same in the table and among the details, counted in the live region."""
    rows = {int(row) for row in _shown(browser, "#queue-table tbody tr")}
    assert {f"request-{row}" for row in rows} == set(_shown(browser, "#requests ~ details"))
    said = browser.run("return document.querySelector('[role=status]').textContent")
    counted = f"{len(rows)} of {len(INDICES)}" if len(rows) < len(INDICES) else str(len(INDICES))
    assert said == f"{counted} requests shown"
    return rows


def test_filters_show_what_they_say(browser: Browser, queue: Path, triage: SampleTriage) -> None:
    """Each route, words in ids and columns, unfamiliar, interacting, two at once, none left, and all again."""
    table = triage.table.set_index("row")
    everything = set(table.index)
    browser.open(queue)
    assert _rows(browser) == everything
    for route, rows in table.groupby("route").groups.items():
        _filter(browser, route=str(route))
        assert _rows(browser) == set(rows)
    _filter(browser, route="", text=" PERSON 3 of ")
    assert _rows(browser) == {4}
    _filter(browser, text=EVIL)
    assert _rows(browser) == set(table.index[(table["id"] == EVIL) | (table["remark"] == EVIL)])
    _filter(browser, text="", unfamiliar=True)
    assert _rows(browser) == set(table.index[table["unfamiliar"]])
    _filter(browser, unfamiliar=False, group=True)
    together = table.index[table["group"] > 0]
    assert _rows(browser) == set(together)
    route = table.loc[together[0], "route"]
    _filter(browser, route=route)
    assert _rows(browser) == set(together) & set(table.index[table["route"] == route])
    _filter(browser, text="in no request at all")
    assert _rows(browser) == set()
    browser.run("document.getElementById('filter-reset').click()")
    assert _rows(browser) == everything
    fields = browser.run(
        "return [...document.querySelectorAll('#controls select, #controls input')].map((f) => f.value)"
    )
    assert fields[:2] == ["", ""]


def test_a_filter_outlives_sorting_and_opening_all(browser: Browser, queue: Path, triage: SampleTriage) -> None:
    """What is hidden stays so; "Open all" opens what is shown, "Close all" closes it."""
    careful = set(triage.table.loc[triage.table["route"] == "careful", "row"])
    browser.open(queue)
    _filter(browser, route="careful")
    _click(browser, 0, "harm")
    assert _rows(browser) == careful
    opened = "return [...document.querySelectorAll('details[open]')].map((e) => Number(e.id.split('-')[1]))"
    browser.run("document.getElementById('open-all').click()")
    assert set(browser.run(opened)) == careful
    browser.run("document.getElementById('close-all').click()")
    assert browser.run(opened) == []


# -- links ------------------------------------------------------------------------------------------------------


def _assert_arrived(browser: Browser, row: int) -> None:
    """The request's details are open, in view, and have the focus."""
    found = browser.run(
        SEEN
        + """const details = document.getElementById(arguments[0]), box = details.getBoundingClientRect();
        return [details.open, seen(details.querySelector("dl")), box.top >= 0 && box.top < innerHeight,
          document.activeElement === details.querySelector("summary")]""",
        f"request-{row}",
    )
    assert found == [True, True, True, True]


def test_links_open_and_focus_their_request(browser: Browser, queue: Path, triage: SampleTriage) -> None:
    """From the table, a second time, from a group, to one that a filter hides, and from an address with a fragment."""
    browser.open(queue)
    follow = "document.querySelector(arguments[0]).click()"
    browser.run(follow, "#queue-table a[href='#request-20']")
    _wait(browser, "return location.hash === '#request-20' && document.activeElement.tagName === 'SUMMARY'")
    _assert_arrived(browser, 20)
    browser.run("document.getElementById('request-20').open = false; scrollTo(0, 0); document.activeElement.blur()")
    browser.run(follow, "#queue-table a[href='#request-20']")
    _assert_arrived(browser, 20)
    requests = triage.table.set_index("index")
    member = requests.loc[triage.interactions["first"].iloc[0]]
    row, route = int(member["row"]), "quick"
    assert member["route"] != route
    _filter(browser, route=route)
    assert row not in _rows(browser)
    browser.run(follow, f".members a[href='#request-{row}']")
    _wait(browser, f"return location.hash === '#request-{row}' && document.activeElement.tagName === 'SUMMARY'")
    _assert_arrived(browser, row)
    assert len(_rows(browser)) == len(INDICES)
    browser.open(queue, "#request-31")
    _wait(browser, "return document.activeElement.tagName === 'SUMMARY'")
    _assert_arrived(browser, 31)


def _wait(browser: Browser, condition: str) -> None:
    """Until the page has answered an event that comes later, at most five seconds."""
    done = browser.driver.execute_async_script(  # type: ignore[no-untyped-call]
        """const test = new Function(arguments[0]), done = arguments[1], until = Date.now() + 5000;
        const look = () => test() || Date.now() > until ? done(test()) : setTimeout(look, 10);
        look();""",
        condition,
    )
    assert done, condition


# -- keyboard ---------------------------------------------------------------------------------------------------


TABBABLE = (
    SEEN
    + """
const stops = "a[href], button, input, select, summary, [tabindex='0']";
document.tabbable = [...document.querySelectorAll(stops)].filter(seen);
return document.tabbable.length;
"""
)
FOCUSED = """
const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
return [document.tabbable.indexOf(at), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1,
  box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth, at.outerHTML.slice(0, 80)];
"""


def test_tab_reaches_every_control_in_order_and_shows_where_it_is(browser: Browser, tmp_path: Path) -> None:
    """Each link, heading, field and picture that scrolls, in the order of the page, framed and inside the window."""
    triage = sample_triage(INDICES[:5], extra={"person": PEOPLE[:5]}, pairs=((0, 3),), problems=PROBLEMS)
    small = sample_report(n=30, objectives=["erase"], measured=8)
    for name, html in {
        "queue": render_triage_html(triage, explained=0),
        "report": render_html(small, waterfalls=1),
    }.items():
        path = tmp_path / f"{name}.html"
        path.write_text(html, encoding="utf-8")
        browser.open(path)
        count = browser.run(TABBABLE)
        assert count > 20
        for place in range(count):
            _press(browser, Keys.TAB)
            at, framed, inside, what = browser.run(FOCUSED)
            assert at == place, f"{name}: expected stop {place}, came to {what}"
            assert framed, f"{name}: no outline on {what}"
            assert inside, f"{name}: outside the window: {what}"


def test_sorting_filtering_and_opening_by_keyboard_alone(browser: Browser, queue: Path, triage: SampleTriage) -> None:
    """Enter and Space sort; letters, arrows and Space filter; Enter follows links; Space closes details."""
    browser.open(queue)
    _press(browser, Keys.TAB, Keys.ENTER)
    _wait(browser, "return location.hash === '#queue'")
    _press(browser, Keys.TAB)
    if browser.run("return document.activeElement.id") != "filter-route":  # a link in the sentence before
        _press(browser, Keys.TAB)
    assert browser.run("return document.activeElement.id") == "filter-route"
    _press(browser, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert _rows(browser) == set(triage.table.loc[triage.table["route"] == "quick", "row"])
    _press(browser, Keys.ARROW_UP, Keys.ARROW_UP, Keys.TAB, *"person 7")
    assert _rows(browser) == {8}
    _press(browser, *[Keys.BACKSPACE] * len("person 7"), Keys.TAB, Keys.SPACE)
    assert _rows(browser) == set(triage.table.loc[triage.table["unfamiliar"], "row"])
    _press(browser, Keys.SPACE, Keys.TAB, Keys.SPACE)
    assert _rows(browser) == set(triage.table.loc[triage.table["group"] > 0, "row"])
    _press(browser, Keys.TAB, Keys.ENTER)
    assert len(_rows(browser)) == len(INDICES)
    _press(browser, Keys.TAB, Keys.TAB, Keys.ENTER)
    assert _sorted_by(browser, 0, "place")[0] == "descending"
    _press(browser, Keys.TAB, Keys.TAB, Keys.SPACE)
    order, cells = _sorted_by(browser, 0, "sample")
    assert order == "descending"
    _numbers_in_order(cells, order)
    _focus(browser, "#queue-table a[href='#request-9']")
    _press(browser, Keys.ENTER)
    _wait(browser, "return location.hash === '#request-9' && document.activeElement.tagName === 'SUMMARY'")
    _assert_arrived(browser, 9)
    _press(browser, Keys.SPACE)
    assert not browser.run("return document.getElementById('request-9').open")


# -- looks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(browser: Browser, page: Path, theme: str) -> None:
    """The background follows the theme, and every text of the page stands out against it, pictures included."""
    browser.emulate(theme=theme)
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    back = browser.run("return getComputedStyle(document.body).backgroundColor")
    mean = sum(int(part) for part in back[4:-1].split(",")) / 3
    assert mean < 40 if theme == "dark" else mean > 240
    texts = browser.run(CONTRASTS)
    kinds = {name for tag, classes, _, _ in texts for name in (tag, *classes.split())}
    assert {"p", "td", "th", "button", "a", "soft", "figcaption", "dt", "dd", "text"} <= kinds
    faint = {(tag, classes, text, round(ratio, 2)) for tag, classes, text, ratio in texts if ratio < READABLE}
    assert faint == set()


def test_paper_has_everything_but_the_controls(browser: Browser, queue: Path, triage: SampleTriage) -> None:
    """Controls are gone, closed details are printed all the same, nothing scrolls, and no theme but the light one."""
    browser.emulate(media="print", theme="dark", width=800)
    browser.open(queue)
    assert _shown(browser, "#controls, #unfold, .skip, nav") == []
    assert browser.run("return document.querySelectorAll('details[open]').length") == 0
    seen = browser.run(
        SEEN + "return [...document.querySelectorAll('details > div')].map((e) => seen(e) && e.offsetHeight > 50)"
    )
    assert seen == [True] * len(INDICES)
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = """return [...document.querySelectorAll(".wide")]
      .filter((e) => getComputedStyle(e).overflowX !== "visible" || getComputedStyle(e).maxHeight !== "none").length"""
    assert browser.run(cut) == 0
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert min(ratio for *_, ratio in browser.run(CONTRASTS)) >= READABLE


def test_printing_opens_details_for_as_long_as_it_takes(browser: Browser, queue: Path, triage: SampleTriage) -> None:
    """While it prints, what the filter shows is open; afterwards the page is as the reader had it."""
    careful = triage.table["route"] == "careful"
    browser.open(queue)
    _filter(browser, route="careful")
    browser.run(
        """document.querySelector("details:not([hidden])").open = true;
        const open = () => document.querySelectorAll("details[open]").length;
        window.counts = [open()];
        addEventListener("beforeprint", () => window.counts.push(open()));
        addEventListener("afterprint", () => window.counts.push(open()));"""
    )
    pdf = base64.b64decode(browser.command("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF")
    assert browser.run("return window.counts") == [1, careful.sum(), 1]


def test_report_on_paper_has_no_buttons_and_is_light(browser: Browser, report: Path) -> None:
    """The arrows of the headings and the contents are left out; nothing is wider than the sheet."""
    browser.emulate(media="print", theme="dark", width=800)
    browser.open(report)
    assert _shown(browser, "nav") == []
    arrows = "return [...document.querySelectorAll('th button')].map((e) => getComputedStyle(e, '::after').display)"
    assert set(browser.run(arrows)) == {"none"}
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_narrow_screens_need_no_scrolling_sideways(browser: Browser, page: Path) -> None:
    """At 400 pixels, with texts that have no place to wrap and all details open; each cell says what it is."""
    browser.emulate(width=NARROW)
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    wide = browser.run(
        """return [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > innerWidth
        && !e.closest(".wide") && !e.closest(".skip")).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert browser.run("return document.documentElement.scrollWidth") <= NARROW
    inside = """return [...document.querySelectorAll("table.sortable")].map((t) => t.closest(".wide"))
      .filter((e) => e.scrollWidth > e.clientWidth).length"""
    assert browser.run(inside) == 0
    names = """return [...document.querySelectorAll("table.sortable td[data-name]")].filter((e) => e.offsetHeight > 0)
      .filter((e) => !getComputedStyle(e, "::before").content.includes(e.dataset.name.slice(0, 5))).length"""
    assert browser.run(names) == 0


@pytest.mark.parametrize(
    ("media", "theme", "width", "mean"),
    [
        ("", "light", 1280, (0.8, 1)),
        ("", "dark", 1280, (0, 0.3)),
        ("", "light", 400, (0.7, 1)),
        ("print", "dark", 800, (0.8, 1)),
    ],
    ids=["light", "dark", "narrow", "print"],
)
def test_pages_are_drawn(
    browser: Browser, page: Path, tmp_path: Path, media: str, theme: str, width: int, mean: tuple[float, float]
) -> None:
    """A picture of the window has the theme's brightness and many colours: something is painted, not only laid out."""
    browser.emulate(media=media, theme=theme, width=width)
    browser.open(page)
    png, colours = _picture(browser)
    (tmp_path / "page.png").write_bytes(png)
    assert colours.shape[1] == width
    assert mean[0] < colours.mean() < mean[1]
    assert len(np.unique(colours[::3, ::3].reshape(-1, 3), axis=0)) > 20
    rows = colours.std(axis=(1, 2)) > 0
    assert rows.mean() > 0.2


# -- without a browser ------------------------------------------------------------------------------------------


def test_a_missing_browser_is_told_with_its_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message says what is missing and how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(FileNotFoundError, match=rf"missing: chromium, chromedriver.*{' '.join(PROGRAMS.values())}"),
        chromium(),
    ):
        pass
