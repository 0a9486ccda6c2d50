"""An unlearner of a plugin that raises while it measures: named, left out wholly, and everything else is kept."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from joblib.externals.loky import get_reusable_executor

from forgetcast.cli import main
from forgetcast.corpus import tasks
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.generate import generate_corpus
from forgetcast.corpus.measuring import measure
from forgetcast.corpus.refresh import refresh_factors
from forgetcast.errors import PluginError, PluginWarning, UnlearnerFailedError
from forgetcast.registry import FACTOR_GROUP, UNLEARNER_GROUP, found
from forgetcast.target.example import example_target
from forgetcast.unlearn import Protocol
from plugin_cases import PLUGIN, Plugins

QUICK: dict[str, Any] = {"objectives": ["erase"], "progress": False, "seeds": 1}
SAMPLES = list(range(6))
"""The plugin fails over the sample 3 among them."""
BOTH = ["stumbling", "gradient_ascent"]
FAILED = r"unlearner plugin 'stumbling' .plug:Stumbling. raised RuntimeError: over sample 3 .plug.py, line \d+"


@pytest.fixture(scope="module", autouse=True)
def hardly_any_relearning() -> Iterator[None]:
    """Counting relearning to its end would take most of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "Protocol", partial(Protocol, relearn_most=1))
        yield


@pytest.fixture
def stumbling(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """Two unlearners and the factors of the project, and a plugin that fails over sample 3; blocks of 3 samples."""
    own = distribution("forgetcast").entry_points
    plugins.points += [*own.select(group=FACTOR_GROUP, name="confidence")]
    plugins.points += [*own.select(group=UNLEARNER_GROUP, name="gradient_ascent")]
    plugins.add(UNLEARNER_GROUP, stumbling="plug:Stumbling")
    monkeypatch.setattr(tasks, "BLOCK", 3)
    return plugins


def test_measuring_by_name_ends_with_an_error_that_has_the_others(stumbling: Plugins) -> None:
    """What the label averages must not change in silence, and hours of work must not be lost."""
    alone, instances = measure(example_target(), SAMPLES, unlearners=["gradient_ascent"], **QUICK)
    with pytest.raises(UnlearnerFailedError, match=FAILED) as caught:
        measure(example_target(), SAMPLES, unlearners=BOTH, **QUICK)
    pd.testing.assert_frame_equal(caught.value.outcomes, alone)
    pd.testing.assert_frame_equal(caught.value.instances, instances)
    assert "\n" not in str(caught.value)


def test_measuring_all_leaves_it_out_with_a_note(stumbling: Plugins) -> None:
    """All means all that work; those that do not are named."""
    alone, _ = measure(example_target(), SAMPLES, unlearners=["gradient_ascent"], **QUICK)
    with pytest.warns(PluginWarning, match=FAILED):
        outcomes, _ = measure(example_target(), SAMPLES, unlearners=["all"], **QUICK)
    assert outcomes.attrs["left_out"]["stumbling"].startswith("RuntimeError: over sample 3")
    pd.testing.assert_frame_equal(outcomes, alone)


def test_nothing_left_is_an_error(stumbling: Plugins) -> None:
    """Also for all."""
    stumbling.points = [point for point in stumbling.points if point.name != "gradient_ascent"]
    found.cache_clear()
    for names in (["all"], ["stumbling"]):
        with pytest.raises(UnlearnerFailedError, match=FAILED) as caught:
            measure(example_target(), SAMPLES, unlearners=names, **QUICK)
        assert caught.value.outcomes.empty


def test_a_named_unlearner_that_cannot_be_made_is_refused_before_any_work(stumbling: Plugins) -> None:
    """And among all it is left out."""
    stumbling.add(UNLEARNER_GROUP, needy="plug:Needy", mild="plug:Mild")
    found.cache_clear()
    for name in ("needy", "mild"):
        with pytest.raises(PluginError, match=name):
            measure(example_target(), SAMPLES, unlearners=["gradient_ascent", name], **QUICK)
    with pytest.warns(PluginWarning) as caught:
        outcomes, _ = measure(example_target(), SAMPLES[:3], unlearners=["all"], **QUICK)
    assert set(outcomes["unlearner"]) == {"gradient_ascent", "stumbling"}
    assert all(any(name in str(item.message) for item in caught) for name in ("needy", "mild"))


def test_a_corpus_keeps_everything_else_and_is_completed_once_mended(
    stumbling: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with the error, the corpus and its shards are there; the same call measures only what is missing."""
    target = example_target()
    settings = QUICK | {"instances": 60, "unlearners": BOTH}
    monkeypatch.setattr(tasks, "BLOCK", 30)
    ending = pytest.raises(UnlearnerFailedError, match=rf"target 'example': {FAILED}.*run the same again")
    with pytest.warns(PluginWarning, match=FAILED), ending:
        generate_corpus([target], tmp_path, **settings)
    corpus = Corpus.read(tmp_path)
    assert set(corpus.outcomes["unlearner"]) == {"gradient_ascent"}
    assert "stumbling" in corpus.manifest["partial"]
    assert corpus.manifest["left_out"]["unlearner stumbling on example"].startswith("RuntimeError: over sample 3")
    assert set(corpus.manifest["settings"]["plugins"]) == {"stumbling"}
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").rglob("*.parquet")}
    assert sorted(path.name.split("-")[0] for path in shards) == ["gradient_ascent"] * 2 + ["stumbling"]

    kind = found(UNLEARNER_GROUP).objects["stumbling"]
    monkeypatch.delattr(kind, "walk")
    fixed = generate_corpus([target], tmp_path, **settings)
    assert "partial" not in fixed.manifest
    assert "left_out" not in fixed.manifest
    assert fixed.outcomes.groupby("unlearner").size().to_dict() == {"gradient_ascent": 60, "stumbling": 60}
    assert shards.items() <= {path: path.stat().st_mtime_ns for path in shards}.items()
    pd.testing.assert_frame_equal(
        fixed.outcomes[fixed.outcomes["unlearner"] == "gradient_ascent"].reset_index(drop=True), corpus.outcomes
    )


def test_a_corpus_of_all_unlearners_notes_what_was_left_out(stumbling: Plugins, tmp_path: Path) -> None:
    """Of one that does not load, of one that raises and of a factor that raises; no error."""
    stumbling.add(UNLEARNER_GROUP, absent="broken:thing")
    stumbling.add(FACTOR_GROUP, bad="plug:raises")
    with pytest.warns(PluginWarning):
        corpus = generate_corpus([example_target()], tmp_path, **QUICK, instances=60, unlearners=["all"])
    assert set(corpus.outcomes["unlearner"]) == {"gradient_ascent"}
    left_out = Corpus.read(tmp_path).manifest["left_out"]
    assert sorted(what.split(" (")[0] for what in left_out) == [
        "factor raises on example",
        "unlearner plugin 'absent'",
        "unlearner stumbling on example",
    ]
    assert corpus.factors["raises"].isna().all()
    shown = CliRunner().invoke(main, ["inspect", "corpus", str(tmp_path)]).stdout
    assert "Left out: unlearner stumbling on example: RuntimeError: over sample 3" in shown
    assert "Partial: target 'example': unlearner plugin 'stumbling'" in shown
    with pytest.warns(PluginWarning, match="raises"):
        again = refresh_factors(tmp_path, [example_target()], progress=False)
    assert again.manifest["left_out"] == left_out
    stumbling.points = [point for point in stumbling.points if point.name != "bad"]
    found.cache_clear()
    fixed = refresh_factors(tmp_path, [example_target()], progress=False)
    assert fixed.manifest["left_out"] == {what: why for what, why in left_out.items() if "factor" not in what}


def test_a_built_in_that_raises_is_an_error(stumbling: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the project's own is left out."""
    kind = found(UNLEARNER_GROUP).objects["gradient_ascent"]
    monkeypatch.setattr(kind, "prepare", lambda self, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure(example_target(), SAMPLES, unlearners=["all"], **QUICK)


def test_processes_tell_of_a_failure_too(fresh_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an installed package, in worker processes that look it up themselves."""
    (tmp_path / "plug.py").write_text(PLUGIN)
    Plugins().add_installed(tmp_path, UNLEARNER_GROUP, "acme-plugin", "1.2", stumbling="plug:Stumbling")
    monkeypatch.syspath_prepend(tmp_path)
    get_reusable_executor().shutdown(wait=True)  # workers that are there already do not know the path
    with pytest.raises(UnlearnerFailedError, match=r"of package acme-plugin 1\.2 raised RuntimeError: over") as caught:
        measure(example_target(), SAMPLES[2:4], unlearners=BOTH, **QUICK, n_jobs=2)
    assert caught.value.outcomes["unlearner"].tolist() == ["gradient_ascent"] * 2
