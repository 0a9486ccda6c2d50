"""What a corpus is said to hold, also where it holds too little for a table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from forgetcast.cli import main
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.inspection import reliability_table, unlearners_table
from forgetcast.corpus.labels import CONSENSUS
from synthetic import corpus


def inspected(one: Corpus, folder: Path, *more: str) -> str:
    """What ``forgetcast inspect corpus`` prints of it."""
    one.write(folder)
    result = CliRunner().invoke(main, ["inspect", "corpus", str(folder), *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def only(one: Corpus, rows: pd.Series) -> Corpus:
    return dataclasses.replace(one, outcomes=one.outcomes[rows].reset_index(drop=True))


WHOLE = corpus(2, 24, unlearners=CONSENSUS)


def test_a_corpus_is_shown_in_three_tables(tmp_path: Path) -> None:
    """Targets, unlearners and reliabilities, each with its rows."""
    text = inspected(WHOLE, tmp_path, "--agreement")
    for title, word in (("Targets (", "target 1"), ("Unlearners (", "influence"), ("Reliability of", "oracle")):
        assert word in text.split(title)[1].split("\n\n")[0]
    assert "Empty DataFrame" not in text
    assert len(reliability_table(WHOLE)) == 9


@pytest.mark.parametrize("which", ["one unlearner", "other unlearners by target", "few samples", "nothing"])
def test_where_there_is_no_table_it_says_why(tmp_path: Path, which: str) -> None:
    """In words; an empty frame of a library tells nobody anything."""
    rows, target = WHOLE.outcomes, WHOLE.outcomes["target"] == "target 0"
    lone = rows["unlearner"] == "influence"
    chosen = {
        "one unlearner": lone & (rows["seed"] == 0) & (rows["objective"] == "erase"),
        "other unlearners by target": lone == target,
        "few samples": (rows["index"] < 9) & (rows["objective"] == "erase"),
        "nothing": rows["seed"] > 7,
    }[which]
    text = inspected(only(WHOLE, chosen), tmp_path, "--agreement")
    assert "Empty DataFrame" not in text
    assert "\nunknown: it is how well two halves agree" in text
    assert ("no outcome was measured" in text) == (which == "nothing")
    assert unlearners_table(only(WHOLE, chosen)).empty == (which == "nothing")


def test_published_is_a_word_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default, from any folder; a folder of that name needs its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Corpus, "published", classmethod(lambda cls: WHOLE))
    assert "published: 48 samples" in CliRunner().invoke(main, ["inspect", "corpus"]).stdout
    corpus(1, 24, unlearners=CONSENSUS).write(tmp_path / "published")
    assert "./published: 24 samples" in CliRunner().invoke(main, ["inspect", "corpus", "./published"]).stdout


def test_targets_with_settings_of_their_own_are_named(tmp_path: Path) -> None:
    """A corpus that grew by several runs says so."""
    WHOLE.manifest["targets"][0].pop("settings", None)
    mixed = dataclasses.replace(
        WHOLE, manifest={**WHOLE.manifest, "targets": [dict(t) for t in WHOLE.manifest["targets"]]}
    )
    mixed.manifest["targets"][1]["settings"] = {"instances": 24}
    assert "Measured with settings of their own (see manifest.json): target 1" in inspected(mixed, tmp_path)
