"""Training a predictor: three ways to one, tuned apart from what is compared, and no better one is written over."""

from __future__ import annotations

import dataclasses
import io
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import forgetcast
from forgetcast.cli import main
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.errors import FileFormatError, ForgetcastWarning, InputError, PathError, SchemaError, UnknownNameError
from forgetcast.evaluation.table import training_table
from forgetcast.evaluation.training import ADDED_ROUNDS, train_predictor
from forgetcast.predictor.predictor import DifficultyPredictor
from synthetic import FEATURES, corpus

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"num_boost_round": 30, "learning_rate": 0.12}
STUNTED = {"num_boost_round": 2, "num_leaves": 2}

MINE = corpus(4, 40, seed=1, unlearners=CONSENSUS, name="mine")
OTHERS = corpus(4, 40, seed=2, unlearners=CONSENSUS, name="other")


@pytest.fixture
def poor(tmp_path: Path) -> Path:
    """A folder with a predictor that could hardly be worse, fitted to targets of its own."""
    return fit(OTHERS, STUNTED).save(tmp_path / "poor")


def fit(one: Corpus, params: dict[str, Any] = QUICK) -> DifficultyPredictor:
    """A predictor of one corpus."""
    return DifficultyPredictor.fit(training_table(one), FEATURES, params=params)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_corpus_alone_gives_what_a_plain_fit_gives(tmp_path: Path) -> None:
    """Without anything to compare with it is fitted and saved, forecasts bit for bit those of ``fit``."""
    trained = forgetcast.train_predictor(MINE, tmp_path / "new", against={}, params=QUICK)
    assert trained.predictor.fingerprint == fit(MINE).fingerprint
    assert DifficultyPredictor.load(tmp_path / "new").fingerprint == trained.predictor.fingerprint
    assert not trained.kept
    assert trained.comparisons == ()
    assert trained.predictor.manifest["provenance"]["targets"] == [f"mine {k}" for k in range(4)]
    assert train_predictor(MINE, against={}, params=QUICK).predictor.fingerprint == trained.predictor.fingerprint


def test_corpora_together_are_one(tmp_path: Path) -> None:
    """Targets of both are learned from; a factor that applies to no target of one of them is no obstacle."""
    without = dataclasses.replace(MINE, factors=MINE.factors.assign(margin=float("nan"), margin_quantile=float("nan")))
    trained = train_predictor([OTHERS, without], tmp_path / "new", against={}, params=QUICK)
    assert len(trained.predictor.manifest["training"]["rows"]) == 8
    assert trained.predictor.features == tuple(FEATURES)
    other = dataclasses.replace(MINE, factors=MINE.factors.drop(columns="margin").assign(extra=1.0))
    with pytest.raises(
        SchemaError, match=r"mine 0, mine 1 and 2 more holds other .*missing \['margin'\], extra \['extra'"
    ):
        train_predictor([OTHERS, other], against={})
    with pytest.raises(InputError, match="share the target"):
        train_predictor([MINE, MINE], against={})


def test_a_saved_predictor_is_continued_on_new_targets_alone(tmp_path: Path) -> None:
    """It keeps features, parameters and trees; targets that it saw before are left out with a note."""
    start = fit(OTHERS)
    more = dataclasses.replace(MINE, factors=MINE.factors.assign(extra=1.0))
    joined = [more, dataclasses.replace(OTHERS, factors=OTHERS.factors.assign(extra=1.0))]
    trained = train_predictor(joined, tmp_path / "new", continue_from=start)
    assert trained.notes == (
        "left out of the continuation, whose predictor was fitted to them before: other 0, other 1, other 2, other 3",
    )
    head = trained.predictor.heads("erase")["percentile"].booster
    assert head is not None
    assert head.num_trees() == 30 + ADDED_ROUNDS
    assert trained.params == {**start.manifest["params"], "num_boost_round": ADDED_ROUNDS}
    expected = DifficultyPredictor.fit(training_table(MINE), FEATURES, params=trained.params, continue_from=start)
    assert trained.predictor.fingerprint == expected.fingerprint
    (comparison,) = trained.comparisons
    assert comparison.against == "the continued predictor"
    with pytest.raises(InputError, match="fitted to other 0, other 1, other 2, other 3 already"):
        train_predictor(OTHERS, continue_from=start)
    with pytest.raises(SchemaError, match=r"mine 0, mine 1 and 2 more lacks factors .*: margin; add them with"):
        train_predictor(dataclasses.replace(MINE, factors=MINE.factors.drop(columns="margin")), continue_from=start)


def test_a_better_predictor_replaces_the_old_one_with_its_records(poor: Path) -> None:
    """The folder then holds the new one, each compared target, and no record of an older search."""
    (poor / "tuning.csv").write_text("old")
    (poor / "README.md").write_text("card")
    trained = train_predictor(MINE, poor, params=QUICK)
    assert trained.comparisons[0].better
    assert DifficultyPredictor.load(poor).fingerprint == trained.predictor.fingerprint == fit(MINE).fingerprint
    pd.testing.assert_frame_equal(
        pd.read_csv(poor / "comparison.csv").drop(columns="against"), trained.comparisons[0].per_target
    )
    assert not (poor / "tuning.csv").exists()
    assert (poor / "README.md").read_text() == "card"
    recorded = DifficultyPredictor.load(poor).manifest["metrics"]["compared"][str(poor)]
    assert [row["verdict"] for row in recorded] == ["better", "better"]


def test_a_predictor_that_is_not_beaten_stays_untouched(tmp_path: Path) -> None:
    """A worse one, and the same one again, leave every byte as it was and nothing beside it."""
    good = fit(OTHERS).save(tmp_path / "good")
    before = contents(good)
    for one, params, verdict in ((MINE, STUNTED, "worse"), (OTHERS, QUICK, "no worse")):
        trained = train_predictor(one, good, params=params)
        assert trained.comparisons[0].summary["verdict"].tolist() == [verdict, verdict]
        assert trained.kept
        assert trained.predictor.fingerprint == fit(OTHERS).fingerprint
        assert contents(good) == before
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_always_and_never_mean_it(poor: Path, tmp_path: Path) -> None:
    """Never keeps even a poor one; always writes even a worse one; both compare."""
    before = contents(poor)
    kept = train_predictor(MINE, poor, params=QUICK, replace="never")
    assert kept.kept
    assert kept.comparisons[0].better
    assert contents(poor) == before
    good = fit(OTHERS).save(tmp_path / "good")
    written = train_predictor(MINE, good, params=STUNTED, replace="always")
    assert not written.kept
    assert not written.comparisons[0].better
    assert DifficultyPredictor.load(good).fingerprint == written.predictor.fingerprint
    with pytest.raises(InputError, match="'if-better', 'always' or 'never'; got 'maybe'"):
        train_predictor(MINE, good, replace="maybe")  # type: ignore[arg-type]


def test_a_damaged_predictor_is_written_over_only_on_demand(poor: Path) -> None:
    """Reading it fails, and the message says how to go on; then its place is taken."""
    (poor / "manifest.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"manifest\.json.*; replace 'always' writes over it"):
        train_predictor(MINE, poor, params=QUICK)
    trained = train_predictor(MINE, poor, params=QUICK, replace="always", against={})
    assert "corrupt" in trained.comparisons[0].reasons[0]
    assert DifficultyPredictor.load(poor).fingerprint == fit(MINE).fingerprint


def test_the_usual_rival_is_the_one_there_else_the_continued_else_the_published(poor: Path, tmp_path: Path) -> None:
    """Others are compared when named; the published one needs factors that these corpora lack, and says so."""
    (published,) = train_predictor(MINE, params=QUICK).comparisons
    assert published.against == "published"
    assert "published needs factors that the corpus lacks" in published.sentences()[0]
    named = train_predictor(MINE, poor, params=QUICK, against={"rival": fit(OTHERS)}, replace="never")
    assert [one.against for one in named.comparisons] == ["rival", str(poor)]


def test_a_place_that_cannot_hold_a_predictor_is_refused_before_the_work(tmp_path: Path) -> None:
    """A file, a folder below one, and a folder with other things; the corpus is not even looked at."""
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path):
        with pytest.raises(PathError):
            train_predictor([], place)


def test_a_search_picks_parameters_apart_from_what_is_compared(poor: Path) -> None:
    """Validation targets are in no comparison, every trial is on record, and the fit uses the choice."""
    trained = train_predictor(MINE, poor, params=STUNTED, tune=6, validate_on=["mine 3", "mine 1"], replace="always")
    assert trained.validated_on == ("mine 3", "mine 1")
    assert set(trained.comparisons[0].per_target["target"]) == {"mine 0", "mine 2"}
    chosen = trained.tried[trained.tried["chosen"]]
    assert trained.tried["rho"].max() == chosen["rho"].item() > trained.tried["rho"].iloc[0]
    assert trained.params["num_leaves"] == chosen["num_leaves"].item()
    assert trained.predictor.manifest["params"]["num_leaves"] == chosen["num_leaves"].item()
    pd.testing.assert_frame_equal(pd.read_csv(poor / "tuning.csv"), trained.tried)
    assert trained.predictor.manifest["provenance"]["tuning"] == {"trials": 6, "validated_on": ["mine 3", "mine 1"]}


def test_validation_targets_are_taken_where_nothing_could_be_compared_anyway(poor: Path) -> None:
    """Those that the old predictor was fitted to come first, so that all new ones are left to compare on."""
    part = corpus(3, 40, seed=2, unlearners=CONSENSUS, name="other")
    trained = train_predictor([MINE, part], poor, params=QUICK, tune=2)
    assert len(trained.validated_on) == 1
    assert trained.validated_on[0].startswith("other")
    assert set(trained.comparisons[0].per_target["target"]) == {f"mine {k}" for k in range(4)}


def test_a_continuation_is_tuned_as_a_continuation() -> None:
    """The first trial is the default number of further trees, and its score is that of a continuation."""
    start = fit(OTHERS, STUNTED)
    trained = train_predictor(MINE, continue_from=start, tune=1, validate_on=["mine 0"], against={})
    table = training_table(MINE)
    rest, own = table[table["target"] != "mine 0"], table[table["target"] == "mine 0"]
    params = {**start.manifest["params"], "num_boost_round": ADDED_ROUNDS}
    by_hand = DifficultyPredictor.fit(rest, FEATURES, params=params, continue_from=start)
    forecast = by_hand.predict(own[FEATURES], "erase")["percentile"]
    assert trained.tried["num_boost_round"].item() == ADDED_ROUNDS
    assert trained.tried["erase"].item() == pytest.approx(forecast.corr(own["percentile_erase"], method="spearman"))


def test_a_search_that_cannot_be_is_refused() -> None:
    """Validation targets without a search, unknown ones, and a single target."""
    with pytest.raises(InputError, match="set the number of trials"):
        train_predictor(MINE, validate_on=["mine 1"])
    with pytest.raises(UnknownNameError, match="did you mean 'mine 1'"):
        train_predictor(MINE, validate_on=["mine1"], tune=2, against={})
    with pytest.raises(InputError, match="two targets"):
        train_predictor(corpus(1, 40, unlearners=CONSENSUS), tune=2, against={})


TINY = corpus(2, 30, seed=5, unlearners=CONSENSUS, name="tiny")


def test_one_that_is_worse_is_written_with_a_word_on_how_to_mend_it(tmp_path: Path) -> None:
    """Where nothing is to be replaced it is saved, and the warning, ``worse_than`` and the manifest all say it."""
    rival = fit(OTHERS)
    with pytest.warns(ForgetcastWarning, match=r"worse than good for retrain \(-0.*\) and erase \(-0") as told:
        trained = train_predictor(TINY, tmp_path / "new", against={"good": rival}, params=STUNTED)
    assert "use good, or fit to the published corpus as well (--corpus published" in str(told[0].message)
    assert trained.worse_than == ("good",)
    assert not trained.kept
    saved = DifficultyPredictor.load(tmp_path / "new")
    assert {row["verdict"] for row in saved.manifest["metrics"]["compared"]["good"]} == {"worse"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", ForgetcastWarning)
        assert train_predictor([TINY, OTHERS], against={"good": fit(TINY, STUNTED)}, params=QUICK).worse_than == ()


def test_one_that_could_not_be_compared_says_that_nothing_vouches_for_it(tmp_path: Path) -> None:
    """A single target cannot be held out, and what nobody tested is not taken for good."""
    one = corpus(1, 40, seed=5, unlearners=CONSENSUS, name="tiny")
    trained = train_predictor(one, against={"good": fit(OTHERS)}, params=QUICK)
    assert "nothing shows that the new predictor is as good as good: measure more targets" in trained.notes[0]


def test_targets_that_teach_nothing_are_named() -> None:
    """Their outcomes are of other unlearners than those that are averaged."""
    lone = MINE.outcomes["target"] == "mine 2"
    outcomes = MINE.outcomes[~lone | (MINE.outcomes["unlearner"] == "influence")]
    trained = train_predictor(dataclasses.replace(MINE, outcomes=outcomes), against={}, params=QUICK)
    assert trained.notes == (f"nothing is learned from mine 2: not measured under all of {', '.join(CONSENSUS)}",)
    assert "mine 2" not in trained.predictor.manifest["training"]["rows"]


# -- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the corpora "mine" and "others"."""
    corpus(3, 30, seed=1, unlearners=CONSENSUS, name="mine").write(tmp_path / "mine")
    corpus(3, 30, seed=2, unlearners=CONSENSUS, name="other").write(tmp_path / "others")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*arguments: str, code: int = 0) -> Result:
    """Run ``forgetcast train``; it must end with this exit code."""
    result = CliRunner().invoke(main, ["train", "-q", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_the_command_trains_adds_and_continues(here: Path) -> None:
    """From one corpus, from both, and on from a saved predictor; the last line tells what it learned from."""
    assert "first: 90 samples of 3 targets, 9 features\n" in train("--corpus", "others", "--out", "first").stdout
    both = train("--corpus", "others", "--corpus", "mine", "--out", "both", "--against", "first").stdout
    assert "both: 180 samples of 6 targets, 9 features\n" in both
    assert "Rank correlation on held-out targets, against first" in both
    more = train("--corpus", "mine", "--continue-from", "first", "--out", "more").stdout
    assert "more: 180 samples of 6 targets, 9 features\n" in more
    assert "against the continued predictor" in more


def test_the_command_keeps_a_predictor_that_is_not_beaten(here: Path) -> None:
    """Exit code 3, a table, a verdict in words, and the way out; the folder is as before."""
    fit(OTHERS).save(here / "good")
    before = contents(here / "good")
    corpus(2, 30, seed=5, unlearners=CONSENSUS, name="tiny").write(here / "tiny")
    result = train("--corpus", "tiny", "--out", "good", code=3)
    rows = result.stdout.split("against good\n")[1].splitlines()[:3]
    assert pd.read_csv(io.StringIO("\n".join(rows)), sep=r"\s+")["verdict"].tolist() == ["worse", "worse"]
    assert "for retrain the new predictor is worse: -0." in result.stdout
    assert result.stdout.endswith(
        "kept good as it is: the new predictor is not shown to be better; --replace always writes over it, another "
        "--out keeps both\n"
    )
    assert contents(here / "good") == before
    assert sorted(path.name for path in here.iterdir()) == ["good", "mine", "others", "tiny"]
    assert "good: 60 samples of 2 targets" in train("--corpus", "tiny", "--out", "good", "--replace", "always").stdout


def test_the_command_says_that_what_it_wrote_is_worse(here: Path) -> None:
    """Exit code 4 and one line on stderr with the way out; whoever asks for it by --replace always gets 0."""
    fit(OTHERS).save(here / "good")
    TINY.write(here / "tiny")
    worse = train("--corpus", "tiny", "--against", "good", "--out", "new", code=4)
    (line,) = [line for line in worse.stderr.splitlines() if line.startswith("warning: ")]
    assert "worse than good for retrain" in line
    assert "--corpus published" in line
    assert "new: 60 samples of 2 targets" in worse.stdout
    assert DifficultyPredictor.load(here / "new").objectives
    train("--corpus", "tiny", "--against", "good", "--out", "newer", "--replace", "always")


def test_the_command_tunes_and_records(here: Path) -> None:
    """Trials lie beside the predictor; the line about them names the validation targets."""
    found = train("--corpus", "mine", "--out", "tuned", "--tune", "2", "--validate-on", "mine 2").stdout
    assert found.startswith("2 trials on mine 2: ")
    assert len(pd.read_csv(here / "tuned" / "tuning.csv")) == 2


def test_published_is_a_word_and_a_folder_of_that_name_needs_its_path(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped corpus comes for the word, whatever lies in the working folder."""
    (here / "others").rename(here / "published")
    mine = Corpus.read("mine")
    monkeypatch.setattr(Corpus, "published", classmethod(lambda cls: mine))
    assert "mine" in str(
        DifficultyPredictor.load(out(train("--corpus", "published", "--out", "a"))).manifest["training"]
    )
    assert "other" in str(
        DifficultyPredictor.load(out(train("--corpus", "./published", "--out", "b"))).manifest["training"]
    )


def out(result: Result) -> str:
    """The folder that the last line of a run names."""
    return result.stdout.splitlines()[-1].split(":")[0]


def test_the_published_corpus_is_found() -> None:
    """It has the targets that the shipped predictor was fitted to."""
    rows = DifficultyPredictor.published().manifest["training"]["rows"]
    assert set(Corpus.published().targets["target"]) >= set(rows)


def test_the_command_says_what_is_wrong_and_changes_nothing(here: Path) -> None:
    """Bad input of every kind ends with 2 and one line."""
    for arguments, message in (
        (["--corpus", "mine", "--out", "x", "--validate-on", "mine 1"], "set the number of trials"),
        (["--corpus", "mine", "--out", "mine"], "holds no predictor"),
        (["--corpus", "mine", "--out", "x", "--continue-from", "nowhere"], "nowhere does not exist"),
        (["--corpus", "mine", "--out", "x", "--against", "mine"], "expected the manifest of a forgetcast predictor"),
        (["--corpus", "mine", "--out", "x", "--tune", "0"], "0 is not in the range"),
    ):
        result = train(*arguments, code=2)
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert sorted(path.name for path in here.iterdir()) == ["mine", "others"]
