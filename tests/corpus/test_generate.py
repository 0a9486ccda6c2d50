"""The generator: resumable to the byte, the same for any number of jobs, and quick to refuse what cannot work."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from forgetcast.corpus import tasks
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.generate import generate_corpus
from forgetcast.corpus.labels import CONSENSUS, consensus
from forgetcast.corpus.measuring import measure
from forgetcast.corpus.oracle import subset_screen
from forgetcast.corpus.tasks import SEEDS
from forgetcast.corpus.zoo.recipes import Recipe
from forgetcast.errors import (
    ForgetcastError,
    IndexRangeError,
    InputError,
    NotApplicableError,
    PathError,
    UnknownNameError,
)
from forgetcast.files.atomic import draft_beside
from forgetcast.files.parquet import parquet_bytes
from forgetcast.registry import load_unlearners
from forgetcast.target.target import Target
from forgetcast.unlearn.engine import OUTCOME_COLUMNS, Protocol
from small_targets import CloudTrainer, clouds

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "instances": 6,
    "unlearners": ["gradient_ascent", "random_relabelling", "retraining"],
    "seeds": 2,
    "oracle_groups": 6,
    "oracle_seeds": 2,
    "retraining_instances": 3,
    "progress": False,
}
"""Settings of every corpus here. Shards per target: 4 of the oracle, and of outcomes 1 (no random numbers: one run), 4
(its own number of runs) and 1."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often blocks of either kind are computed."""
    counted: Counter[str] = Counter()
    for kind, name in (("oracle", "leave_groups_out"), ("outcome", "outcome_block")):
        inner = getattr(tasks, name)

        def counting(*arguments: Any, kind: str = kind, inner: Any = inner) -> pd.DataFrame:
            counted[kind] += 1
            return inner(*arguments)

        monkeypatch.setattr(tasks, name, counting)
    return counted


@pytest.fixture(scope="module", autouse=True)
def hardly_any_relearning() -> Iterator[None]:
    """Counting relearning to its end would take most of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "Protocol", partial(Protocol, relearn_most=1))
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a corpus that was made without trouble."""
    folder = tmp_path_factory.mktemp("whole")
    generate_corpus([clouds()], folder, **QUICK)
    return contents(folder)


# -- what is measured -----------------------------------------------------------------------------------------------


def test_a_corpus_holds_everything_about_its_samples(tmp_path: Path) -> None:
    """Outcomes of all unlearners, seeds and objectives, instances with their oracle, factors, and how it was made."""
    targets = [clouds("one"), lambda: clouds("two", shift=1.0)]
    corpus = generate_corpus(targets, tmp_path, **QUICK)
    pd.testing.assert_frame_equal(Corpus.read(tmp_path).outcomes, corpus.outcomes)
    assert corpus.targets["target"].tolist() == ["one", "two"]
    assert corpus.targets["dataset"].tolist() == ["clouds", "clouds"]
    for name in ("one", "two"):
        part, known = (frame[frame["target"] == name] for frame in (corpus.outcomes, corpus.instances))
        factors = corpus.factors[corpus.factors["target"] == name]
        assert len(known) == 6
        assert known["index"].tolist() == factors["index"].tolist()
        assert known["weight"].sum() == pytest.approx(45)
        assert known["memorization"].tolist() == (known["p_in"] - known["p_out"]).tolist()
        assert tuple(part.columns) == OUTCOME_COLUMNS
        rows = part.groupby(["unlearner", "objective"])["seed"].agg(["size", "nunique"])
        assert rows.loc["gradient_ascent"].to_numpy().tolist() == [[6, 1], [6, 1]]
        runs = SEEDS["random_relabelling"]
        assert rows.loc["random_relabelling"].to_numpy().tolist() == [[6 * runs, runs]] * 2
        assert rows.loc["retraining"].to_numpy().tolist() == [[3, 1], [3, 1]]
        goals = part[part["objective"] == "retrain"].merge(known, on="index")
        np.testing.assert_allclose(goals["goal"], goals["p_out"] + 0.05, rtol=1e-6)
        assert np.isfinite(factors.drop(columns=["target", "index"]).to_numpy(float)).any(axis=None)
    settings = corpus.manifest["settings"]
    assert settings["unlearners"]["gradient_ascent"].startswith("GradientAscent(first_step=")
    assert settings["seeds"] == {"gradient_ascent": 1, "random_relabelling": 4, "retraining": 1}
    assert settings["protocol"].startswith("Protocol(slack=0.05")
    described = corpus.manifest["targets"][0]
    assert described["model_hash"] == clouds("one").model_hash
    assert described["n"] == 45


def test_measuring_agrees_with_generating(tmp_path: Path) -> None:
    """The same samples, settings and target give the same outcomes through either door."""
    target = clouds()
    corpus = generate_corpus([target], tmp_path, **QUICK)
    rest = {name: value for name, value in QUICK.items() if name not in ("instances", "retraining_instances")}
    rest["unlearners"] = ["gradient_ascent", "random_relabelling"]
    indices = corpus.instances["index"].tolist()
    outcomes, instances = measure(target, indices, **rest)
    expected = corpus.outcomes[corpus.outcomes["unlearner"] != "retraining"].reset_index(drop=True)
    pd.testing.assert_frame_equal(outcomes, expected, check_exact=True)
    columns = ["target", "index", "label", "p_out", "p_in", "memorization", "p_out_half_a", "p_out_half_b"]
    pd.testing.assert_frame_equal(instances[columns], corpus.instances[columns], check_exact=True)
    assert (instances["weight"] == 1).all()
    assert len(consensus(outcomes, instances, "retrain", rest["unlearners"])) == 6


def test_measuring_obeys_the_order_given_and_its_defaults(calls: Counter[str]) -> None:
    """Default unlearners are those that the label averages; retraining serves all samples unless told otherwise."""
    target = clouds()
    settings = {"seeds": 1, "oracle_groups": 2, "oracle_seeds": 1, "progress": False}
    outcomes, instances = measure(target, [30, 4], objectives=["erase"], **settings)
    assert set(outcomes["unlearner"]) == set(CONSENSUS)
    assert instances["index"].tolist() == [30, 4]
    assert instances["p_out"].isna().all(), "erase needs no oracle"
    assert calls["oracle"] == 0
    both, _ = measure(target, [30, 4], unlearners=["retraining"], **settings)
    assert sorted(both["index"]) == [4, 4, 30, 30]
    one, _ = measure(target, [30, 4], unlearners=["retraining"], retraining_instances=1, **settings)
    assert sorted(one["index"]) == [30, 30]


def test_erasing_needs_no_training(tmp_path: Path) -> None:
    """A target without a train callable can be measured for ``erase``."""
    settings = {**QUICK, "unlearners": ["gradient_ascent"], "objectives": ["erase"]}
    corpus = generate_corpus([clouds(train=False)], tmp_path, **settings)
    assert set(corpus.outcomes["objective"]) == {"erase"}
    assert Corpus.read(tmp_path).instances["p_out"].isna().all()


def test_a_screen_draws_the_suspects_and_is_resumed_too(tmp_path: Path, calls: Counter[str]) -> None:
    """Models on subsets of the data choose half of the samples; their answers are shards like any other."""
    quick = {**QUICK, "unlearners": ("gradient_ascent",)}
    plain = generate_corpus([clouds()], tmp_path / "plain", **quick)
    screened = generate_corpus([clouds()], tmp_path / "screened", **quick, screen_models=12)
    assert screened.manifest["settings"]["screen_models"] == 12
    table = subset_screen(clouds(), models=12).set_index("index")["memorization"]
    order = table.sort_values(ascending=False, na_position="last").index[: round(0.15 * 45)]
    half = screened.instances[screened.instances["weight"] < 5]["index"]
    assert len(half) == 3
    assert set(half) <= set(order)
    assert set(plain.instances["index"]) != set(screened.instances["index"])
    done = calls.total()
    again = generate_corpus([clouds()], tmp_path / "screened", **quick, screen_models=12)
    assert calls.total() == done
    pd.testing.assert_frame_equal(again.instances, screened.instances)


def test_all_names_all_unlearners(tmp_path: Path) -> None:
    """Every registered one runs through the same protocol."""
    settings = {
        **QUICK,
        "unlearners": ["all"],
        "seeds": 1,
        "instances": 2,
        "oracle_seeds": 1,
        "retraining_instances": 1,
    }
    corpus = generate_corpus([clouds()], tmp_path, **settings)
    assert set(corpus.outcomes["unlearner"]) == set(load_unlearners())
    assert set(corpus.manifest["settings"]["unlearners"]) == set(load_unlearners())


# -- resuming -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What Ctrl-C or the end of the machine looks like from inside."""


class FragileTrainer(CloudTrainer):
    """Stops the whole run at a certain training."""

    left = 0

    def __call__(self, indices: np.ndarray, seed: int) -> nn.Module:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().__call__(indices, seed)


def fragile(trainings: int) -> Target:
    """The clouds, with a train callable that lasts so long."""
    target = clouds()
    inner = target._train
    assert isinstance(inner, CloudTrainer)
    trainer = FragileTrainer(inner.x, inner.y)
    trainer.left = trainings
    return Target(
        target.module, (inner.x, inner.y), heldout=pair(target), train=trainer, name="clouds", info=target.info
    )


def pair(target: Target) -> Any:
    """The held-out data as it was given."""
    assert target.heldout is not None
    return target.heldout.fetch(torch.arange(len(target.heldout)))


@pytest.mark.parametrize(("trainings", "finished"), [(0, 0), (8, 2), (12, 9), (15, 9)])
def test_a_run_that_was_killed_is_taken_up_where_it_stopped(
    tmp_path: Path, whole: dict[str, bytes], calls: Counter[str], trainings: int, finished: int
) -> None:
    """Whole shards are kept, the rest is done, and the corpus is the one of an undisturbed run, byte for byte."""
    with pytest.raises(Killed):
        generate_corpus([fragile(trainings)], tmp_path, **QUICK)
    left = contents(tmp_path)
    shards = [name for name in left if name.endswith(".parquet")]
    assert len(shards) == finished
    assert not [name for name in left if ".forgetcast." in name]
    assert "manifest.json" not in left
    calls.clear()
    generate_corpus([clouds()], tmp_path, **QUICK)
    assert calls.total() == 10 - finished
    assert contents(tmp_path) == whole


def test_an_interrupted_run_leaves_a_corpus_marked_as_partial(tmp_path: Path) -> None:
    """The targets that are done can be read, and the manifest says that they are not all; going on ends the mark."""
    first, second = clouds(name="first"), clouds(name="second")

    def interrupted() -> Target:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_corpus([first, interrupted], tmp_path / "corpus", **QUICK)
    partial_corpus = Corpus.read(tmp_path / "corpus")
    assert partial_corpus.manifest["partial"] == "1 of 2 targets"
    assert partial_corpus.instances["target"].unique().tolist() == ["first"]
    generate_corpus([first, second], tmp_path / "corpus", **QUICK)
    done = Corpus.read(tmp_path / "corpus")
    assert "partial" not in done.manifest
    assert done.instances["target"].unique().tolist() == ["first", "second"]


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", "", "a\\b"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    """Shards live in a folder of the target's name; none may lie elsewhere."""
    with pytest.raises(InputError, match="name of a folder"):
        generate_corpus([clouds(name=name)], tmp_path / "corpus", **QUICK)
    assert not (tmp_path / "corpus").exists()


def test_a_finished_run_is_not_done_again(tmp_path: Path, whole: dict[str, bytes], calls: Counter[str]) -> None:
    """The same call computes no block, and writes the same bytes."""
    generate_corpus([clouds()], tmp_path, **QUICK)
    assert calls == {"oracle": 4, "outcome": 6}
    calls.clear()
    generate_corpus([clouds()], tmp_path, **QUICK)
    assert calls.total() == 0
    assert contents(tmp_path) == whole


def cut(path: Path) -> None:
    """Lose the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [Path.unlink, cut, flip, lambda path: path.with_suffix(".sha256").unlink()])
@pytest.mark.parametrize("kind", ["oracle", "gradient_ascent"])
def test_a_damaged_shard_is_made_again_and_no_other(
    tmp_path: Path, whole: dict[str, bytes], calls: Counter[str], damage: Callable[[Path], None], kind: str
) -> None:
    """Deleted, cut short, altered, or without its checksum."""
    for name, content in whole.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    damage(next((tmp_path / "shards" / "clouds").glob(f"{kind}-*.parquet")))
    generate_corpus([clouds()], tmp_path, **QUICK)
    assert calls == {"oracle" if kind == "oracle" else "outcome": 1}
    assert contents(tmp_path) == whole


def other_samples(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(index=table["index"] + 100)


def text_for_numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{"p" if "p" in table else "forgetting": "much"})


def without_a_column(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="p" if "p" in table else "forgetting")


def one_row_twice(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table.iloc[1:], table.iloc[-1:]], ignore_index=True)


@pytest.mark.parametrize(
    "forge",
    [other_samples, text_for_numbers, without_a_column, one_row_twice, lambda table: table.iloc[:-1], None],
    ids=["other samples", "text", "no column", "one row twice", "a row less", "no table"],
)
@pytest.mark.parametrize("kind", ["oracle", "gradient_ascent", "screen"])
def test_a_shard_with_something_else_in_it_is_made_again(
    tmp_path: Path, calls: Counter[str], forge: Callable[[pd.DataFrame], pd.DataFrame] | None, kind: str
) -> None:
    """Though its checksum is right: a table of other samples, models or columns never gets into a corpus."""
    settings = {**QUICK, "unlearners": ["gradient_ascent"], "screen_models": 8}
    generate_corpus([clouds()], tmp_path, **settings)
    whole = contents(tmp_path)
    path = next((tmp_path / "shards" / "clouds").glob(f"{kind}-*.parquet"))
    content = b"no table" if forge is None else parquet_bytes(forge(pd.read_parquet(path)))
    path.write_bytes(content)
    path.with_suffix(".sha256").write_text(hashlib.sha256(content).hexdigest())
    calls.clear()
    generate_corpus([clouds()], tmp_path, **settings)
    assert contents(tmp_path) == whole
    assert calls.total() == (kind != "screen")


def test_shards_belong_to_a_model_and_to_settings(tmp_path: Path, calls: Counter[str]) -> None:
    """More seeds add runs; another model, and another choice of samples, share nothing."""
    settings = {**QUICK, "unlearners": ["neggrad_plus"], "objectives": ["erase"], "seeds": 1}
    generate_corpus([clouds()], tmp_path, **settings)
    assert calls == {"outcome": 1}
    generate_corpus([clouds()], tmp_path, **{**settings, "seeds": 3})
    assert calls == {"outcome": 3}
    generate_corpus([clouds(shift=0.5)], tmp_path, **settings)
    assert calls == {"outcome": 4}
    generate_corpus([clouds()], tmp_path, **{**settings, "instances": 7})
    assert calls == {"outcome": 5}
    generate_corpus([clouds()], tmp_path, **settings)
    assert calls == {"outcome": 5}


# -- parallel work --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def no_workers_left() -> Iterator[None]:
    """Processes that joblib keeps for later calls end with this module."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


def logging(log: Path) -> Target:
    """The clouds, with a train callable that writes down where it runs."""
    target = clouds()
    inner = target._train
    assert isinstance(inner, CloudTrainer)
    trainer = CloudTrainer(inner.x, inner.y, str(log))
    return Target(
        target.module, (inner.x, inner.y), heldout=pair(target), train=trainer, name="clouds", info=target.info
    )


def test_any_number_of_jobs_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process or two, asked for by argument or by joblib.parallel_config, which is obeyed; with a folder or not."""
    monkeypatch.setattr(tasks, "Protocol", Protocol)  # other processes know nothing of what is patched here
    settings = {**QUICK, "unlearners": ["neggrad_plus"], "instances": 4, "oracle_groups": 6}
    generate_corpus([logging(tmp_path / "here")], tmp_path / "one", **settings)
    assert set((tmp_path / "here").read_text().split()) == {str(os.getpid())}
    generate_corpus([logging(tmp_path / "there")], tmp_path / "two", n_jobs=2, **settings)
    with joblib.parallel_config(backend="loky", n_jobs=2):
        generate_corpus([logging(tmp_path / "configured")], tmp_path / "three", **settings)
        plain = {name: settings[name] for name in ("unlearners", "seeds", "oracle_groups", "oracle_seeds", "progress")}
        indices = Corpus.read(tmp_path / "one").instances["index"].tolist()
        outcomes, _ = measure(logging(tmp_path / "measured"), indices, **plain)
    for log in ("there", "configured", "measured"):
        assert str(os.getpid()) not in (tmp_path / log).read_text().split(), "the work was done elsewhere"
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")
    pd.testing.assert_frame_equal(outcomes, Corpus.read(tmp_path / "one").outcomes, check_exact=True)


def test_tasks_in_threads_of_one_process_take_turns(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """A target's model is not called by two threads at once: they share its parameters."""
    with joblib.parallel_config(backend="threading", n_jobs=4):
        generate_corpus([clouds()], tmp_path, **QUICK)
    assert contents(tmp_path) == whole


# -- refusals before any work ---------------------------------------------------------------------------------------


def headless(name: str) -> Target:
    """No held-out data."""
    return clouds(name, heldout=False)


@pytest.mark.parametrize(
    ("targets", "changes", "error", "message"),
    [
        ([clouds], {"unlearners": ["gradient_ascend"]}, UnknownNameError, "did you mean 'gradient_ascent'"),
        ([clouds], {"unlearners": ["influence", "all"]}, UnknownNameError, "unknown unlearner 'all'"),
        ([clouds], {"objectives": ["retrain", "forget"]}, UnknownNameError, "unknown objective 'forget'"),
        ([clouds], {"objectives": []}, InputError, "expected at least one objective; got none"),
        ([clouds], {"unlearners": []}, InputError, "expected at least one unlearner; got none"),
        ([], {}, InputError, "expected at least one target; got none"),
        ([lambda: headless("b")], {}, NotApplicableError, "target 'b' has no held-out data: pass heldout"),
        ([clouds, lambda: headless("b")], {}, NotApplicableError, "target 'b' has no held-out data: pass heldout"),
        ([lambda: clouds(train=False)], {}, NotApplicableError, "'clouds' has no train callable"),
        (
            [lambda: clouds(train=False)],
            {"objectives": ["erase"], "unlearners": ["retraining"]},
            NotApplicableError,
            "which the objective 'retrain' and the unlearner 'retraining' need",
        ),
        ([clouds, clouds], {}, InputError, "two targets are named 'clouds': give Target"),
        ([lambda: nn.Linear(2, 2)], {}, InputError, "a function returning a Target; got Linear"),
        ([clouds], {"instances": 1}, InputError, "expected between 2 and 45 instances"),
        ([clouds], {"seeds": 0}, InputError, "seeds: expected at least 1; got 0"),
        ([clouds], {"oracle_groups": 1}, InputError, "oracle_groups: expected at least 2; got 1"),
        ([clouds], {"oracle_seeds": 0}, InputError, "oracle_seeds: expected at least 1; got 0"),
    ],
)
@pytest.mark.parametrize("given", ["functions", "targets"])
def test_what_cannot_work_is_refused_with_the_reason(
    tmp_path: Path,
    calls: Counter[str],
    targets: list[Any],
    changes: dict[str, Any],
    error: type[ForgetcastError],
    message: str,
    given: str,
) -> None:
    """In one line; no sample of an unsound target is measured, and none at all when the targets are known before."""
    made = [target() for target in targets] if given == "targets" else targets
    with pytest.raises(error, match=message) as caught:
        generate_corpus(made, tmp_path / "corpus", **{**QUICK, **changes})
    assert "\n" not in str(caught.value)
    if given == "targets" or len(targets) < 2:
        assert calls.total() == 0
        assert not (tmp_path / "corpus").exists()


def test_recipes_of_one_name_are_refused_before_they_are_trained(tmp_path: Path) -> None:
    """Names are known without building."""
    recipes = [Recipe("same", "no such data", "mlp", 100, 1), Recipe("same", "no such data", "cnn", 100, 1)]
    with pytest.raises(InputError, match="two targets are named 'same'"):
        generate_corpus(recipes, tmp_path)


def test_a_file_is_no_folder(tmp_path: Path, calls: Counter[str]) -> None:
    """Noticed before any work, also when it lies above the folder asked for."""
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "corpus"):
        with pytest.raises(PathError, match=r"expected a folder for the corpus at .*file is a file"):
            generate_corpus([clouds()], place, **QUICK)
    assert calls.total() == 0
    assert (tmp_path / "file").read_text() == "mine"


def test_measuring_refuses_the_same() -> None:
    """One sample that is not there, or twice; no held-out data; no train callable; nothing asked for."""
    cases: list[tuple[Target, list[int], dict[str, Any], type[ForgetcastError], str]] = [
        (clouds(), [0, 45], {}, IndexRangeError, "sample index 45 is out of range"),
        (clouds(), [3, 3], {}, IndexRangeError, "sample index 3 is given more than once"),
        (clouds(), [], {}, IndexRangeError, "at least one sample index"),
        (headless("h"), [0], {}, NotApplicableError, "'h' has no held-out data"),
        (clouds(train=False), [0], {}, NotApplicableError, "'clouds' has no train callable"),
        (clouds(), [0], {"unlearners": ["ssdd"]}, UnknownNameError, "did you mean 'ssd'"),
        (clouds(), [0], {"objectives": ["erased"]}, UnknownNameError, "did you mean 'erase'"),
        (clouds(), [0], {"objectives": []}, InputError, "at least one objective"),
        (clouds(), [0], {"seeds": 0}, InputError, "seeds: expected at least 1"),
    ]
    for target, indices, changes, error, message in cases:
        with pytest.raises(error, match=message):
            measure(target, indices, progress=False, **changes)


def test_drafts_of_dead_processes_are_swept_away(tmp_path: Path) -> None:
    """A process killed while it wrote leaves a draft; the next run removes it, but not that of a living process."""
    folder = tmp_path / "shards" / "clouds"
    folder.mkdir(parents=True)
    living = draft_beside(folder / "oracle-0.parquet")
    dead, root = (place / living.name.replace(f".{os.getpid()}.", ".4194305.") for place in (folder, tmp_path))
    for draft in (dead, living, root):
        draft.write_bytes(b"half")
    generate_corpus([clouds()], tmp_path, **QUICK)
    assert not dead.exists()
    assert not root.exists()
    assert living.exists()
