"""A corpus grows and loses nothing in silence: other targets stay, what cannot be kept is refused or told."""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from forgetcast.cli import main
from forgetcast.corpus import generate, refresh, tasks
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.generate import generate_corpus
from forgetcast.corpus.growth import merged
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.corpus.refresh import refresh_factors
from forgetcast.errors import FileFormatError, ForgetcastError, ForgetcastWarning, InputError, SchemaError
from forgetcast.evaluation.table import training_table
from forgetcast.factors import factor
from forgetcast.registry import load_factors
from forgetcast.unlearn import Protocol
from small_targets import clouds
from synthetic import corpus as synthetic_corpus

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "instances": 5,
    "unlearners": ["gradient_ascent"],
    "objectives": ["erase"],
    "seeds": 1,
    "progress": False,
}


@pytest.fixture(scope="module", autouse=True)
def hardly_any_relearning() -> Iterator[None]:
    """Counting relearning to its end would take most of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "Protocol", partial(Protocol, relearn_most=1))
        yield


@pytest.fixture(autouse=True)
def no_warning_goes_unseen() -> Iterator[None]:
    """A warning that a test does not expect fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ForgetcastWarning)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows_of(corpus: Corpus, name: str) -> list[pd.DataFrame]:
    """Everything that a corpus holds of a target."""
    return [
        frame[frame["target"] == name].reset_index(drop=True)
        for frame in (corpus.outcomes, corpus.instances, corpus.factors)
    ]


def same_rows(one: Corpus, other: Corpus, name: str) -> None:
    for mine, theirs in zip(rows_of(one, name), rows_of(other, name), strict=True):
        assert len(mine)
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)


@pytest.mark.parametrize("as_function", [False, True])
def test_one_after_the_other_is_all_at_once(tmp_path: Path, as_function: bool) -> None:
    """The same files, byte for byte, whichever way targets are given; a call that comes again changes nothing."""

    def sources(*names: str) -> list[Any]:
        return [partial(clouds, name) if as_function else clouds(name) for name in names]

    generate_corpus(sources("one", "two"), tmp_path / "together", **QUICK)
    for names in (["one"], ["two"], ["one"], ["two", "one"], ["two"]):
        generate_corpus(sources(*names), tmp_path / "apart", **QUICK)
    assert contents(tmp_path / "apart") == contents(tmp_path / "together")
    assert Corpus.read(tmp_path / "apart").targets["target"].tolist() == ["one", "two"]


def test_a_store_keeps_other_targets_too() -> None:
    """What is in a store has the bytes of a run over all targets."""
    MemoryFileSystem.store.clear()
    generate_corpus([clouds("one"), clouds("two")], "memory://together", **QUICK)
    for name in ("one", "two", "one"):
        generate_corpus([clouds(name)], "memory://apart", **QUICK)
    files = fsspec.filesystem("memory")
    together, apart = (
        {path.removeprefix(root): files.cat_file(path) for path in files.find(root)} for root in ("/together", "/apart")
    )
    assert apart == together
    MemoryFileSystem.store.clear()


def test_every_target_keeps_the_settings_it_was_measured_with(tmp_path: Path) -> None:
    """A run with other settings, objectives and unlearners joins as well, and any call again gives the same bytes."""
    other = {**QUICK, "instances": 6, "unlearners": ["neggrad_plus"]}
    first = generate_corpus([clouds("one")], tmp_path, **QUICK)
    generate_corpus([clouds("two")], tmp_path, **other)
    whole = contents(tmp_path)
    both = Corpus.read(tmp_path)
    same_rows(both, first, "one")
    settings = {entry["target"]: entry.get("settings", both.manifest["settings"]) for entry in both.manifest["targets"]}
    assert {name: one["instances"] for name, one in settings.items()} == {"one": 5, "two": 6}
    assert set(settings["one"]["unlearners"]) == {"gradient_ascent"}
    generate_corpus([clouds("two")], tmp_path, **other)
    assert contents(tmp_path) == whole


def test_a_target_measured_anew_says_what_it_replaces_and_comes_back(tmp_path: Path) -> None:
    """The warning names what differs; the shards stay, so that the earlier call restores every byte."""
    generate_corpus([clouds("one"), clouds("two")], tmp_path, **QUICK)
    whole = contents(tmp_path)
    with pytest.warns(ForgetcastWarning, match=r"holds target 'one', measured otherwise \(other instances\)"):
        generate_corpus([clouds("one")], tmp_path, **{**QUICK, "instances": 7})
    assert rows_of(Corpus.read(tmp_path), "one")[1].shape[0] == 7
    assert rows_of(Corpus.read(tmp_path), "two")[1].shape[0] == 5
    with pytest.warns(ForgetcastWarning, match="the call that measured them brings them back"):
        generate_corpus([clouds("one")], tmp_path, **QUICK)
    assert {name: content for name, content in contents(tmp_path).items() if name in whole} == whole


@pytest.mark.parametrize("changed", ["settings", "model"])
def test_rows_that_could_not_come_back_are_not_replaced(tmp_path: Path, changed: str) -> None:
    """A copy of a corpus without its shards, such as the published one, is refused and left as it is."""
    generate_corpus([clouds("one")], tmp_path, **QUICK)
    shutil.rmtree(tmp_path / "shards")
    before = contents(tmp_path)
    settings = {**QUICK, "instances": 6} if changed == "settings" else QUICK
    target = clouds("one", shift=1.0) if changed == "model" else clouds("one")
    with pytest.raises(InputError, match="no shards of it to go back to: this run would destroy them"):
        generate_corpus([target], tmp_path, **settings)
    assert contents(tmp_path) == before


def cut(folder: Path) -> None:
    (folder / "outcomes.parquet").write_bytes(b"PAR1")


def gone(folder: Path) -> None:
    (folder / "factors.parquet").unlink()


@pytest.mark.parametrize("damage", [cut, gone])
def test_a_damaged_corpus_is_mended_by_its_own_run_and_by_no_other(tmp_path: Path, damage: Any) -> None:
    """Another run would drop what its manifest lists; the same one makes the same bytes from the shards."""
    generate_corpus([clouds("one"), clouds("two")], tmp_path, **QUICK)
    whole = contents(tmp_path)
    damage(tmp_path)
    before = contents(tmp_path)
    for targets in ([clouds("one")], [clouds("new")], [partial(clouds, "new")]):
        with pytest.raises(FileFormatError, match=r"is damaged, and holds .*two, which this run would drop") as caught:
            generate_corpus(targets, tmp_path, **QUICK)
        assert "\n" not in str(caught.value)
        assert contents(tmp_path) == before
    generate_corpus([clouds("one"), clouds("two")], tmp_path, **QUICK)
    assert contents(tmp_path) == whole


def test_targets_whose_names_show_too_late_are_told(tmp_path: Path) -> None:
    """A function's target has a name only when it is made: what a damaged corpus loses then is said at the end."""
    generate_corpus([clouds("one")], tmp_path, **QUICK)
    cut(tmp_path)
    with pytest.warns(ForgetcastWarning, match="was damaged and is written anew without one, .* their shards stay"):
        generate_corpus([partial(clouds, "two")], tmp_path, **QUICK)
    generate_corpus([clouds("one")], tmp_path, **QUICK)
    assert Corpus.read(tmp_path).targets["target"].tolist() == ["two", "one"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{}", FileFormatError, "holds a manifest.json that is no corpus's .*give another folder"),
        ("not JSON", FileFormatError, "holds a manifest.json that is no corpus's"),
        (
            '{"format": 9, "files": {}, "targets": []}',
            SchemaError,
            "expected corpus format 1; got 9.*in another folder",
        ),
    ],
)
def test_what_is_no_corpus_of_ours_is_not_written_over(
    tmp_path: Path, content: str, error: type[ForgetcastError], message: str
) -> None:
    """A predictor has a manifest.json too, and a later format holds what this version cannot read."""
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(error, match=message):
        generate_corpus([clouds()], tmp_path, **QUICK)
    assert contents(tmp_path) == {"manifest.json": content.encode()}


def test_a_run_that_was_not_finished_stays_marked_beside_others(tmp_path: Path) -> None:
    """Until it is finished itself; the mark of another run does not take its place."""

    def interrupted() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_corpus([clouds("one"), interrupted], tmp_path, **QUICK)
    generate_corpus([clouds("three")], tmp_path, **QUICK)
    assert Corpus.read(tmp_path).manifest["partial"] == "1 of 2 targets"
    with pytest.raises(KeyboardInterrupt):
        generate_corpus([clouds("four"), clouds("five"), interrupted], tmp_path, **QUICK)
    assert Corpus.read(tmp_path).manifest["partial"] == "1 of 2 targets; 2 of 3 targets"
    generate_corpus([clouds(name) for name in ("four", "five", "six")], tmp_path, **QUICK)
    generate_corpus([clouds("one"), clouds("two")], tmp_path, **QUICK)
    done = Corpus.read(tmp_path)
    assert "partial" not in done.manifest
    assert done.targets["target"].tolist() == ["one", "three", "four", "five", "six", "two"]


def test_runs_at_once_onto_one_folder_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads what is there when it writes, not when it began."""
    inner = generate.add
    both = threading.Barrier(2)

    def late(*arguments: Any, **more: Any) -> Corpus:
        both.wait(60)
        return inner(*arguments, **more)

    monkeypatch.setattr(generate, "add", late)
    targets = [clouds("one"), clouds("two")]
    threads = [threading.Thread(target=generate_corpus, args=([target], tmp_path), kwargs=QUICK) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Corpus.read(tmp_path).targets["target"]) == ["one", "two"]


def test_factors_made_anew_do_not_drop_a_target_that_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is refused, and may be repeated."""
    generate_corpus([clouds("one")], tmp_path, **QUICK)
    inner = refresh.run_tasks

    def slow(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(refresh, "run_tasks", inner)
        generate_corpus([clouds("two")], tmp_path, **QUICK)
        return inner(*arguments, **more)

    monkeypatch.setattr(refresh, "run_tasks", slow)
    with pytest.raises(InputError, match="changed by another run meanwhile: run the same again"):
        refresh_factors(tmp_path, [clouds("one")], progress=False)
    assert Corpus.read(tmp_path).targets["target"].tolist() == ["one", "two"]


@factor(family="confidence", source="ours", high="twice its margin is {value}", low="twice its margin is {value}")
def twice_the_margin(margin: Any) -> Any:
    """Twice the margin."""
    return 2 * margin


def test_factors_that_some_targets_lack_are_named_until_they_are_worked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that is empty for the targets measured before is no factor that does not apply to them."""
    generate_corpus([clouds("one")], tmp_path, **QUICK)
    known = {**load_factors(), "twice_the_margin": twice_the_margin}
    monkeypatch.setattr("forgetcast.factors.table.load_factors", lambda: known)
    with pytest.warns(ForgetcastWarning, match="'forgetcast generate --factors-only' has computed them"):
        generate_corpus([clouds("two")], tmp_path, **QUICK)
    told = Corpus.read(tmp_path).manifest["left_out"]
    assert list(told) == ["factor twice_the_margin on one"]
    refresh_factors(tmp_path, [clouds("one"), clouds("two")], progress=False)
    whole = Corpus.read(tmp_path)
    assert "left_out" not in whole.manifest
    assert whole.factors["twice_the_margin"].notna().all()


def test_columns_that_one_corpus_lacks_stay_numbers(tmp_path: Path) -> None:
    """Truth values beside nothing would be a column that no reader takes."""
    before, new = synthetic_corpus(2, 12, seed=0, unlearners=CONSENSUS), synthetic_corpus(1, 12, seed=1)
    renamed = {"target 0": "newcomer"}
    new = Corpus(
        *(frame.replace({"target": renamed}) for frame in (new.outcomes, new.instances, new.factors)),
        manifest=new.manifest | {"targets": [new.manifest["targets"][0] | {"target": "newcomer"}]},
    )
    new.outcomes["reached"] = True
    old = Corpus(before.outcomes, before.instances, before.factors, before.manifest)
    for first, second in ((old, new), (new, old)):
        merged(first, second).write(tmp_path)
        read = Corpus.read(tmp_path)
        assert set(read.targets["target"]) == {"target 0", "target 1", "newcomer"}
        assert read.outcomes["reached"].dtype == float
        assert read.outcomes["trivial"].dtype == bool


def test_a_target_measured_for_one_objective_teaches_that_one(tmp_path: Path) -> None:
    """Beside targets with both objectives its rows stay in the training table, without labels of the other."""
    whole = synthetic_corpus(2, 12, seed=0, unlearners=CONSENSUS)
    outcomes = whole.outcomes
    only = Corpus(
        outcomes[(outcomes["target"] != "target 1") | (outcomes["objective"] == "erase")],
        whole.instances,
        whole.factors,
        whole.manifest,
    )
    table = training_table(only)
    assert table["target"].value_counts().to_dict() == {"target 0": 12, "target 1": 12}
    assert table.loc[table["target"] == "target 1", "percentile_retrain"].isna().all()
    assert table["percentile_erase"].notna().all()
    pd.testing.assert_frame_equal(
        table[table["target"] == "target 0"].astype({"trivial_retrain": float}),
        training_table(whole).query("target == 'target 0'").astype({"trivial_retrain": float}),
    )


def test_the_command_says_what_was_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with all targets, and how many of them this run measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_growing.py").write_text(
        "from small_targets import clouds\ndef one(): return clouds('one')\ndef two(): return clouds('two')\n",
        encoding="utf-8",
    )
    said = []
    for name in ("one", "two"):
        arguments = ["generate", "--target", f"mine_growing:{name}", "--out", "corpus", "--instances", "5"]
        arguments += ["--objective", "erase", "--unlearners", "gradient_ascent", "-q"]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        said.append(result.output)
    assert said[0] == "corpus: 1 target, 5 samples, 5 outcomes\n"
    assert said[1] == "corpus: 2 targets, 10 samples, 10 outcomes; 1 of the targets were there before and stay\n"
    assert json.loads((tmp_path / "corpus" / "manifest.json").read_text())["format"] == 1
