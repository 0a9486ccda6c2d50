"""The report: complete, self-contained, safe against hostile names, and never half-written."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from forgetcast import wording
from forgetcast.errors import InputError, PathError
from forgetcast.predict import DifficultyReport, predict_difficulty
from forgetcast.predictor.agreement import spearman_interval
from forgetcast.report import page as report_module
from forgetcast.report import page_parts as _page
from forgetcast.report.explain import SHARED_CREDIT
from forgetcast.report.page import OBJECTIVE_MEANINGS, render_html, write_html
from html_page import HOSTILE, Page
from sample_report import measurements, sample_report
from small_targets import MISLABELLED, clouds, shared_cnn

pytestmark = pytest.mark.slow


def _rows(html: str, title: str) -> list[str]:
    """Sample indices of the table under a heading, in order."""
    part = html.split(f"<h3>{title}")[1].split("</table>")[0]
    return re.findall(r'<tr><td class="n" data-name="sample" data-value="(\d+)"', part)


@pytest.fixture(scope="module")
def report() -> DifficultyReport:
    """120 samples, both objectives, 30 of them measured."""
    return sample_report(measured=30)


@pytest.fixture(scope="module")
def html(report: DifficultyReport) -> str:
    """Its page, with one sample per objective explained."""
    return render_html(report, waterfalls=1)


# -- the page as a page ---------------------------------------------------------------------------------------


def test_page_is_well_formed_with_unique_ids_and_links_that_lead_somewhere(html: str) -> None:
    """Every tag is closed in order, no id comes twice, and every reference inside the page has its goal."""
    page = Page(html)
    assert page.stack == []
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert ids.most_common(1)[0][1] == 1
    wanted = {
        a[key].removeprefix("#")
        for _, a in page.elements
        for key in ("href", "aria-labelledby")
        if a.get(key, "").startswith("#") or (key == "aria-labelledby" and key in a)
    }
    wanted |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted
    assert wanted <= set(ids)


def test_page_loads_nothing_and_says_so(html: str) -> None:
    """No address of any host, no file beside it; the policy in the page allows its own script alone."""
    assert not re.search(r"https?:|//[\w.-]+/|@import|xmlns|url\((?!#)", html, re.IGNORECASE)
    page = Page(html)
    sources = [a[key] for _, a in page.elements for key in ("src", "href", "srcset", "action", "data") if key in a]
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in sources)
    assert not {"link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.elements}
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, a in page.elements for name in a)


def test_headings_descend_one_level_at_a_time(html: str) -> None:
    """One h1, and no level is skipped."""
    levels = [int(tag[1]) for tag, _ in Page(html).elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_pictures_have_words_and_take_the_colour_of_the_page(html: str) -> None:
    """Every picture has a label of its own, and no text or axis in it has a fixed black."""
    pictures = Page(html).all("svg")
    labels = [picture["aria-label"] for picture in pictures]
    assert len(set(labels)) == len(labels) == 16
    assert all(picture["role"] == "img" and len(picture["aria-label"]) > 20 for picture in pictures)
    assert _page.INK not in html
    fills = re.findall(r"<text [^>]*fill: ([^;\"]+)", html)
    assert set(fills) == {"currentColor"}


def test_sortable_columns_are_buttons_with_a_stated_order(html: str) -> None:
    """Each sortable heading holds a button and says how it is sorted; its cells carry the number to sort by."""
    heads = re.findall(r'<th [^>]*aria-sort="(\w+)"[^>]*>(.*?)</th>', html)
    assert heads
    assert all(content.startswith('<button type="button">') for _, content in heads)
    tables = re.findall(r'<table class="sortable">(.*?)</table>', html, re.DOTALL)
    assert all(len(re.findall('aria-sort="(?:ascending|descending)"', table)) == 1 for table in tables)
    for table in tables:
        place = re.findall(r'aria-sort="(\w+)"', table)
        column = next(k for k, order in enumerate(place) if order != "none")
        rows = [re.findall(r'data-value="([^"]*)"', row) for row in re.findall(r"<tr><td.*?</tr>", table, re.DOTALL)]
        values = [float(row[column]) for row in rows]
        assert values == sorted(values, reverse=place[column] == "descending")


def test_dark_print_and_narrow_have_rules(html: str) -> None:
    """The page follows the reader's theme, prints, and folds its tables on narrow screens."""
    for rule in ("(prefers-color-scheme: dark)", "@media print", "(max-width:"):
        assert rule in html


# -- what it says ---------------------------------------------------------------------------------------------


def test_words_and_numbers_of_the_forecast_are_in_the_page(report: DifficultyReport, html: str) -> None:
    """Meaning of the objectives, tier counts, hashes, and the forecast of the hardest sample, to two decimals."""
    page = Page(html)
    text = page.text()
    assert "120 training samples" in text
    for objective in ("retrain", "erase"):
        assert OBJECTIVE_MEANINGS[objective] in text
        table = report.table[report.table["objective"] == objective]
        for tier, count in table["tier"].value_counts().items():
            assert f"{tier} {count} {100 * count / 120:.1f}%" in text
        hardest = table.sort_values("percentile").iloc[-1]
        interval = f"[{hardest['percentile_lower']:.2f}, {hardest['percentile_upper']:.2f}]"
        assert f"{hardest['percentile']:.2f} {interval}" in text
        for sentence in re.split(r"; (?=harder|easier)", hardest["reasons"]):
            assert sentence in text
    for known in (*report.provenance["settings"], report.predictor.fingerprint, report.provenance["data"]):
        assert str(known) in text
    assert "no checkpoints were given" in text
    assert "one layer was left out" in text


def test_explained_samples_show_their_shap_values(report: DifficultyReport, html: str) -> None:
    """Each explained sample has its sentences with contributions, and values with their place in the model."""
    hardest = report.table[report.table["objective"] == "retrain"].sort_values("percentile").iloc[-1]
    explanation = report.explain(int(hardest["index"]), "retrain")
    part = html.split(f'id="retrain-why-{explanation.index}"')[1].split("</article>")[0]
    text = Page(f"<article>{part.partition('>')[2]}</article>".replace("</h4>", "", 1)).text()
    for reason in explanation.reasons[: report_module.REASONS]:
        assert f"{reason.contribution:+.2f}".replace("-", "−") + f" {reason.sentence}" in text
    quantile = report.factors.values.loc[explanation.index, "loss_quantile"]
    assert f"(above {int(100 * quantile)}%)" in " ".join(text.split())


def test_long_tables_show_both_ends_and_count_the_rest(report: DifficultyReport) -> None:
    """Ten hardest, ten easiest, in order, and 100 are said to be left out."""
    page = render_html(report, rows=10, waterfalls=0)
    table = report.table[report.table["objective"] == "retrain"].sort_values(["percentile", "difficulty", "index"])
    assert [float(table.set_index("index").loc[int(i), "percentile"]) for i in _rows(page, "The 10 hardest")] == (
        table["percentile"].tail(10).to_list()[::-1]
    )
    easiest = [float(table.set_index("index").loc[int(i), "percentile"]) for i in _rows(page, "The 10 easiest")]
    assert easiest == table["percentile"].head(10).to_list()
    assert "100 samples between them are not listed" in Page(page).text()


def test_short_tables_show_everything() -> None:
    """Seven samples are one table in falling order, and nothing is left out."""
    page = render_html(sample_report(indices=[5, 9, 1, 7, 30, 31, 32], objectives=["erase"]), waterfalls=0)
    assert sorted(_rows(page, "All samples")) == sorted(["5", "9", "1", "7", "30", "31", "32"])
    assert "not listed" not in page


def test_chosen_samples_are_explained_and_listed(report: DifficultyReport) -> None:
    """``explain`` picks the pictures, and a sample in the middle gets its row."""
    table = report.table[report.table["objective"] == "retrain"].sort_values("percentile")
    middle = int(table["index"].iloc[60])
    page = render_html(report, rows=5, explain=[middle])
    assert re.findall(r'id="retrain-why-(\d+)"', page) == [str(middle)]
    assert _rows(page, "Other samples") == [str(middle)]
    assert "109 samples between them" in Page(page).text()


def test_measured_section_has_the_numbers(report: DifficultyReport, html: str) -> None:
    """Rank agreement and interval, share inside the predicted interval, and each measured pair."""
    frame = report.table.merge(report.measurements, on=["index", "objective"], suffixes=("", "_measured"))
    for objective, rows in frame.groupby("objective"):
        part = html.split(f'<h2 id="{objective}">')[1].split("<h2")[0]
        agreement = spearman_interval(rows["percentile"], rows["percentile_measured"])
        inside = rows["percentile_measured"].between(rows["percentile_lower"], rows["percentile_upper"]).mean()
        assert f"{agreement} (95% interval)" in part
        assert f"{100 * inside:.0f}% of the measured" in " ".join(part.split())
        for _, row in rows.iterrows():
            assert (
                f'data-name="sample" data-value="{row["index"]}">{row["index"]}</td>'
                f'<td class="n" data-name="percentile, predicted" data-value="{row["percentile"]}">'
                f'{row["percentile"]:.2f}</td><td class="n" data-name="measured" '
                f'data-value="{row["percentile_measured"]}">'
            ) in part


def test_without_measurements_nothing_is_claimed() -> None:
    """No measured section where nothing was measured."""
    report = sample_report(n=20, objectives=["retrain"])
    assert "Measured against predicted" not in render_html(report, waterfalls=0)


def test_measurements_of_one_objective_only() -> None:
    """The other objective's section does without."""
    report = sample_report(n=30)
    some = measurements(report, 10)
    page = render_html(report.measured(some[some["objective"] == "erase"]), waterfalls=0)
    assert page.count("Measured against predicted</h3>") == 1


def test_same_report_same_page(report: DifficultyReport, html: str) -> None:
    """Nothing depends on the time or on chance."""
    assert render_html(report, waterfalls=1) == html


# -- hostile, odd and empty reports ---------------------------------------------------------------------------


def test_hostile_names_stay_text() -> None:
    """Tags, quotes, template and formula signs in a target's, factor's or label's name are shown, never run."""
    report = sample_report(n=30, title=HOSTILE, target=HOSTILE, measured=10)
    factors = dataclasses.replace(report.factors, not_applicable={"noise": HOSTILE}, notes={"margin": HOSTILE})
    table = report.table.assign(reasons=HOSTILE, tier=HOSTILE)
    provenance = {**report.provenance, HOSTILE: HOSTILE, "settings": {HOSTILE: [HOSTILE]}}
    report = dataclasses.replace(report, table=table, factors=factors, provenance=provenance, _explainer=None)
    html = render_html(report, waterfalls=1)
    page = Page(html)
    assert page.stack == []
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert page.text().count(HOSTILE) > 20
    assert HOSTILE in page.text("title")
    assert "49" not in page.text("title")
    assert "alert(1)</script>" not in html


def test_missing_numbers_are_dashes_and_sort_last() -> None:
    """NaN in a forecast neither fails nor becomes "nan"."""
    report = sample_report(n=12, objectives=["retrain"])
    table = report.table.copy()
    table.loc[3, ["difficulty", "lower", "upper", "percentile", "percentile_lower", "percentile_upper"]] = np.nan
    html = render_html(dataclasses.replace(report, table=table), waterfalls=1)
    page = Page(html)
    assert "– [–, –]" in page.text()
    assert not re.search(r"\bnan\b", html, re.IGNORECASE)
    assert _rows(html, "All samples")[-1] == str(table.loc[3, "index"])


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_do_not_fail(rows: int) -> None:
    """An empty report, one sample, two samples."""
    report = sample_report(n=20, objectives=["retrain"])
    page = Page(render_html(dataclasses.replace(report, table=report.table.iloc[:rows])))
    assert page.stack == []
    assert f"{rows} training sample" in page.text()


def test_page_is_small_and_quick_to_draw_for_many_samples() -> None:
    """20,000 samples fit in 3 MB, and the view over all samples says how many it was drawn from."""
    html = render_html(sample_report(n=20_000, objectives=["retrain"], measured=300), waterfalls=1)
    assert len(html.encode()) < 3_000_000
    text = Page(html).text()
    assert "over 2,000 samples drawn at random" in text
    assert "19,950 samples between them are not listed" in text
    assert "100 more are not listed" in text


def test_numbers_read_well() -> None:
    """Two decimals inside [-1, 1], three digits beyond, whole numbers as they are."""
    assert [wording.number(v) for v in (0.5, -0.25, 12.3456, 7, np.int64(7), math.nan, "cat")] == [
        "0.50",
        "−0.25",
        "12.3",
        "7",
        "7",
        "–",
        "cat",
    ]


def test_nested_settings_become_lines_and_long_ones_are_counted() -> None:
    """Provenance is readable whatever it holds."""
    nested = {"a_b": {"c": 1.23456789, "d": []}, "e": list(range(40)), "f": {str(k): k for k in range(40)}, "g": None}
    assert list(wording.flat(nested)) == [
        ("a b · c", "1.235"),
        ("a b · d", "none"),
        ("e", "40 values"),
        ("f", "40 values"),
        ("g", "None"),
    ]


@pytest.mark.parametrize("options", [{"rows": -1}, {"waterfalls": -1}, {"explain": [3, 999]}])
def test_bad_options_are_named(report: DifficultyReport, options: dict[str, object]) -> None:
    """The message says which option, and which sample the report lacks."""
    with pytest.raises(InputError, match=f"{next(iter(options))}.*(-1|999)"):
        render_html(report, **options)  # type: ignore[arg-type]


# -- writing --------------------------------------------------------------------------------------------------


def test_written_file_is_the_page_alone_in_its_folder(tmp_path: Path) -> None:
    """Missing folders are made; nothing temporary stays behind; ``to_html`` writes the same."""
    report = sample_report(indices=[3], objectives=["retrain"])
    path = write_html(report, tmp_path / "a" / "b" / "report.html", waterfalls=0)
    assert path.read_text(encoding="utf-8") == render_html(report, waterfalls=0)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert report.to_html(tmp_path / "other.html").read_text(encoding="utf-8") == render_html(report)


def test_failure_leaves_the_old_report_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When drawing fails, neither the old file nor the folder changes."""
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_: object, **__: object) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(report_module, "render_html", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        write_html(sample_report(n=10), path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_failing_move_is_told_and_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page takes its place in one step, or not at all."""
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_module.os, "replace", full)
    with pytest.raises(PathError, match="No space left"):
        write_html(sample_report(indices=[3], objectives=["retrain"]), path, waterfalls=0)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_bad_paths_are_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, and a path through a file, are refused with the path in the message and nothing drawn."""
    monkeypatch.setattr(report_module, "render_html", lambda *_, **__: pytest.fail("drawn for nothing"))
    file = tmp_path / "file"
    file.write_text("")
    report = sample_report(n=10)
    with pytest.raises(PathError, match=r"is a folder.*report\.html"):
        write_html(report, tmp_path)
    with pytest.raises(PathError, match=re.escape(str(file / "report.html"))):
        write_html(report, file / "report.html")
    with pytest.raises(PathError):
        write_html(report, tmp_path / ("x" * 300))


# -- what would change the verdict, and what would move -------------------------------------------------------


def _article(html: str, objective: str, index: int) -> str:
    """One sample's explanation."""
    return html.split(f'id="{objective}-why-{index}"')[1].split("</article>")[0]


def test_an_explanation_says_what_would_change_the_verdict(report: DifficultyReport, html: str) -> None:
    """The sentences of the largest changes, none that nobody could see; and what to make of shared credit."""
    row = report.table[report.table["objective"] == "erase"].sort_values("percentile").iloc[-1]
    article = _article(html, "erase", int(row["index"])).replace("&#39;", "'")
    found = report.what_would_change(int(row["index"]), "erase")
    visible = found["change"].abs() >= 0.005
    assert visible.any()
    assert all(sentence in article for sentence in found.loc[visible, "sentence"])
    assert not any(sentence in article for sentence in found.loc[~visible, "sentence"])
    assert html.count(SHARED_CREDIT) == 4
    assert "would move with it" not in html  # the model and its data are not at hand


def test_the_effect_of_the_strongest_factors_is_drawn(report: DifficultyReport, html: str) -> None:
    """Three per objective, none of which is the same for all samples."""
    for objective in ("retrain", "erase"):
        drawn = re.findall(rf'id="{objective}-dependence-(\w+?)-figure_1"', html)
        explanations = report.explanations(objective)
        varying = explanations.values.columns[explanations.values.nunique() > 1]
        strength = explanations.contributions[varying].abs().mean()
        assert drawn == list(strength.sort_values(ascending=False).index[:3])


def test_images_that_would_move_are_shown() -> None:
    """As pictures inside the page; inputs that are no images have a table; where nothing moves it says why."""
    index, met = 3, MISLABELLED[0]  # the network does not believe that one's label
    page = render_html(predict_difficulty(shared_cnn(), objective="erase", indices=[index, met]), explain=[index, met])
    assert Page(page).stack == []
    picture = _article(page, "erase", index).split("would move with it</h5>")[1]
    assert f"Pictures of sample {index}" in picture
    assert "data:image/png;base64," in picture
    assert "None: the model does not recognise the sample as it is." in _article(page, "erase", met)

    report = predict_difficulty(clouds(), objective="erase", indices=[index])
    article = _article(render_html(report, explain=[index]), "erase", index)
    assert "<svg" not in article.split("would move with it</h5>")[1]
    movers = report.movers(index, count=11)
    first = re.findall(r'<tr><td class="n">(\d+)</td>', article.split("would move with it</h5>")[1])
    assert first == [str(number) for number in movers["index"]]
