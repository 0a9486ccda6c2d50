"""The commands for deletion requests: prescreen and verify, whatever the rows, files and settings."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from forgetcast.cli import main
from forgetcast.screening.columns import COLUMNS
from forgetcast.screening.policy import Policy
from forgetcast.screening.record import check
from forgetcast.screening.routes import ROUTES
from places import HELPERS
from small_targets import clouds

pytestmark = pytest.mark.slow

MODULE = """
import sys
import time
from torch import nn
sys.path.insert(0, {tests!r})
from small_targets import clouds as target

def model():
    return nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))

def slow():
    open("started", "w").close()
    time.sleep(60)
"""
MODEL = ["--model", "queue_of_mine:model", "--weights", "mine.safetensors", "--dataset", "train.npz"]
HELDOUT = ["--heldout", "test.npz"]
ESCAPE = "\x1b["

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data and requests."""
    folder = tmp_path_factory.mktemp("queue")
    (folder / "queue_of_mine.py").write_text(MODULE.format(tests=str(HELPERS)))
    target = clouds()
    save_file(target.module.state_dict(), folder / "mine.safetensors")
    for name, data, n in (("train", target.data, 45), ("test", target.heldout, 30)):
        x, y = data.fetch(np.arange(n))
        np.savez(folder / f"{name}.npz", x=x.numpy(), y=y.numpy())
    (folder / "requests.csv").write_text("index,who\n3,ann\n17,bob\n44,cy\n9,di\n30,ed\n21,flo\n")
    (folder / "ids.txt").write_text("".join(f"user-{number}\n" for number in range(45)))
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working folder."""
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def run(folder: Path) -> Run:
    """Run a command there; it must end with ``code``."""

    def invoke(*arguments: str, code: int = 0, color: bool = False) -> Result:
        result = CliRunner().invoke(main, [*arguments], catch_exceptions=False, color=color)
        assert result.exit_code == code, result.output
        if code == 2:
            assert result.stdout == ""
            assert re.fullmatch(r"error: .*\n", result.stderr), result.stderr
        return result

    return invoke


def prescreen(*more: str) -> list[str]:
    """The command for the queue of six, without times or bars."""
    return ["prescreen", *MODEL, "--no-times", "-q", *more]


QUEUE = ("--requests", "requests.csv")


def test_a_queue_for_people(run: Run) -> None:
    """In the order of processing, a line each, then the queue as a whole; plain, as it is no terminal."""
    result = run(*prescreen(*QUEUE))
    lines = result.stdout.splitlines()
    assert lines[0].startswith("order  id")
    assert [line.split()[0] for line in lines[1:7]] == ["1", "2", "3", "4", "5", "6"]
    assert all(line.split()[2] in ROUTES for line in lines[1:7])
    assert "6 of 6 requests served:" in result.stdout
    assert lines[-1].startswith("advice: ")
    assert ESCAPE not in result.stdout
    assert result.stderr == ""


def test_colours_where_they_are_supported(run: Run) -> None:
    """The same text between them."""
    plain, coloured = run(*prescreen(*QUEUE)).stdout, run(*prescreen(*QUEUE), color=True).stdout
    assert ESCAPE in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_times_are_measured_by_default(run: Run) -> None:
    """And put beside one retraining."""
    result = run("prescreen", *MODEL, "-q", *QUEUE)
    assert re.search(r"unlearning one after another takes about .*, one retraining about .* \(\d+%\)", result.stdout)
    assert "break-even at" in result.stdout


def test_tables_for_programs(run: Run) -> None:
    """CSV and JSON hold the same table and nothing else."""
    csv = pd.read_csv(io.StringIO(run(*prescreen(*QUEUE, "--format", "csv")).stdout))
    assert csv.columns.tolist() == [*COLUMNS[:3], "who", *COLUMNS[3:]]
    assert csv["who"].tolist() == ["ann", "bob", "cy", "di", "ed", "flo"]
    data = json.loads(
        run(*prescreen(*QUEUE, "--format", "json")).stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON")
    )
    rows = pd.DataFrame(data["samples"])
    assert rows["route"].tolist() == csv["route"].tolist()
    assert rows["harm"].to_numpy() == pytest.approx(csv["harm"].to_numpy())
    assert rows["seconds"].isna().all()
    assert data["provenance"]["batch"]["served"] == 6
    assert data["provenance"]["policy"] == Policy().fingerprint


def test_files_in_place_of_the_screen(run: Run, tmp_path: Path) -> None:
    """--out in three formats, --html; the readable form still sums the queue up."""
    wanted = pd.read_csv(io.StringIO(run(*prescreen(*QUEUE, "--format", "csv")).stdout), keep_default_na=False)
    for name, form in (("q.csv", "table"), ("q.parquet", "csv"), ("new/q.json", "json")):
        path = tmp_path / name
        page = ["--html", str(tmp_path / "q.html")] if form == "table" else []
        result = run(*prescreen(*QUEUE, "--out", str(path), *page, "--format", form))
        assert result.stdout.startswith("6 of 6 requests served") if form == "table" else result.stdout == ""
        assert f"wrote {path} (6 rows)" in result.stderr
        if path.suffix == ".json":
            found = pd.DataFrame(json.loads(path.read_text())["samples"])
        else:
            found = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)
        assert found.columns.tolist() == wanted.columns.tolist()
        for column in ("index", "who", "order", "route", "unlearner", "why"):
            assert found[column].tolist() == wanted[column].tolist()
    html = (tmp_path / "q.html").read_text()
    assert "</html>" in html
    assert not re.findall(r"(?:src|href)=[\"']?https?:", html)
    assert not list(tmp_path.rglob(".*"))


ROWS = [
    "100", "-1", "3.5", "", "NaN", "abc", "1e1", "0x10", "9", "nan", "inf", "None", "true", "1,000", "'3'", "3 4", "45",
    "99999999999999999999", "٣", "=3+4",
]  # fmt: skip
"""Twenty values that name no sample, or one that is named already."""


def test_broken_rows_are_named_and_the_others_served(run: Run, folder: Path) -> None:
    """Of twenty sorts, one a row, after one good row and before another: exit code 0."""
    lines = ["index,who", "9,first", *(f'"{value}",x' for value in ROWS), "44,last"]
    (folder / "broken.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = run(*prescreen("--requests", "broken.csv", "--format", "csv"))
    found = pd.read_csv(io.StringIO(result.stdout))
    assert found["index"].tolist() == [9, 44]
    assert found["row"].tolist() == [1, 22]
    said = result.stderr.splitlines()
    assert [int(re.match(r"row (\d+): ", line)[1]) for line in said] == list(range(2, 22))  # type: ignore[index]
    assert "Traceback" not in result.stderr
    assert all(f"(line {number})" in line for number, line in enumerate(said, 3))


def test_broken_json_lines_are_named_and_the_others_served(run: Run, folder: Path) -> None:
    """Half objects, other kinds, lone surrogates, mixed columns; the rest goes into every kind of file."""
    rows = [
        '{"index": 3, "x": 1, "note": "\\ud800"}', '{"index": 4, "x": "two"}', '{"index": 5, "x": {"y": [1]}}',
        '{"index": 3}', '{"index": ', "[]", "7", "null", '"text"', '{"idx": 3}', '{"index": [6]}', '{"index": true}',
        '{"index": {"a": 1}}', '{"index": 1e400}', '{"index": "\\ud800"}', '{"index": 12, "x": NaN}', "}{", "\x00",
    ]  # fmt: skip
    (folder / "broken.jsonl").write_text("\n".join(rows) + "\n")
    for name in ("out.csv", "out.parquet", "out.json"):
        result = run(*prescreen("--requests", "broken.jsonl", "--out", name, "--record", "surrogates.jsonl"))
        assert "Traceback" not in result.stderr
        assert len(re.findall(r"^row \d+: ", result.stderr, re.MULTILINE)) >= 13
    assert pd.read_parquet(folder / "out.parquet")["index"].tolist() == [4, 5, 3, 12]
    assert check(folder / "surrogates.jsonl").entries == 3 * 18


def test_nothing_of_a_request_reaches_the_terminal_as_a_command(run: Run, folder: Path) -> None:
    """Control characters in ids, in tables for people."""
    (folder / "bell.csv").write_text("index,id\n3,\x1b[31mred\x07\n5," + "x" * 300 + "\n")
    result = run(*prescreen("--requests", "bell.csv"))
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "?[31mred?" in result.stdout
    assert "x" * 100 not in result.stdout


def test_requests_by_id(run: Run, folder: Path) -> None:
    """--ids names the samples; unknown ids are reported."""
    (folder / "by-id.csv").write_text("id\nuser-7\nuser-99\nuser-3\n")
    result = run(*prescreen("--requests", "by-id.csv", "--ids", "ids.txt", "--format", "csv"))
    assert pd.read_csv(io.StringIO(result.stdout))["index"].tolist() == [7, 3]
    assert "row 2: no sample has the id 'user-99'" in result.stderr
    (folder / "few.txt").write_text("a\nb\n")
    assert "45 samples" in run(*prescreen("--requests", "by-id.csv", "--ids", "few.txt"), code=2).stderr
    (folder / "binary.txt").write_bytes(b"\xff\xfe\xff")
    assert "--ids" in run(*prescreen("--requests", "by-id.csv", "--ids", "binary.txt"), code=2).stderr
    assert "--ids" in run(*prescreen("--requests", "by-id.csv", "--ids", "none.txt"), code=2).stderr


LONG = [12345678901234560 + number for number in range(45)]
"""Ids beyond 2^53, each a neighbour of the next."""


def test_long_ids_come_out_as_they_went_in(run: Run, folder: Path, tmp_path: Path) -> None:
    """On the terminal, in CSV, JSON, Parquet, on the page and in the record, beside long numbers of customers."""
    (folder / "long.txt").write_text("".join(f"{name}\n" for name in LONG))
    wanted = [str(LONG[7]), str(LONG[8])]
    rows = [
        {"id": LONG[7], "customer": LONG[1]},
        {"id": LONG[8], "customer": None},
        {"id": float(LONG[9]), "customer": 3},
    ]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ("--requests", "long.jsonl", "--ids", "long.txt")
    files = ("--html", str(tmp_path / "q.html"), "--record", str(tmp_path / "r.jsonl"))
    shown = run(*prescreen(*common, *files))
    assert all(name in shown.stdout and name in (tmp_path / "q.html").read_text() for name in wanted)
    assert "row 3: no sample has this id: '1.2345678901234568e+16' is written with an exponent" in shown.stderr
    entries = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    requests = [entry["entry"]["request"] for entry in entries if "entry" in entry] or [
        entry["request"] for entry in entries if "request" in entry
    ]
    assert [request["id"] for request in requests][:2] == wanted
    assert requests[0]["customer"] == LONG[1]
    for name in ("q.csv", "q.json", "q.parquet"):
        run(*prescreen(*common, "--out", str(tmp_path / name)))
    assert pd.read_csv(tmp_path / "q.csv", dtype=str)[["id", "customer"]].values.tolist()[0] == [
        wanted[0],
        str(LONG[1]),
    ]
    samples = json.loads((tmp_path / "q.json").read_text())["samples"]
    assert [sample["id"] for sample in samples] == wanted
    assert [sample["customer"] for sample in samples] == [LONG[1], None]
    table = pq.read_table(tmp_path / "q.parquet")
    assert table["id"].to_pylist() == wanted
    assert table["customer"].to_pylist() == [LONG[1], None]


def test_ids_in_a_file_that_went_through_a_float_are_refused(run: Run, folder: Path) -> None:
    """One line that names the sample and the way out."""
    for text in ("{:.1f}", "{:.6e}", "{!r}"):
        (folder / "floats.txt").write_text("".join(text.format(float(name)) + "\n" for name in LONG))
        result = run(*prescreen(*QUEUE, "--ids", "floats.txt"), code=2)
        assert "the id of sample 0 is not known exactly" in result.stderr


def test_people_are_asked_about(run: Run, folder: Path) -> None:
    """--person-column: careful where one has more than one row, with the reason; also for verify."""
    (folder / "people.csv").write_text("index,who\n3,ann\n17,bob\n44,ann\n9,\n")
    common = ("--requests", "people.csv", "--person-column", "who")
    table = pd.read_csv(io.StringIO(run(*prescreen(*common, "--format", "csv")).stdout))
    assert table["person_rows"].tolist() == [2, 1, 2, 0]
    assert set(table.loc[table["person_rows"] != 1, "route"]) <= {"careful", "retrain"}
    summed = run(*prescreen(*common)).stdout
    assert "note: 2 requests are of people who ask for more than one row" in summed
    assert "note: of 1 request it is not known whose row it is" in summed
    assert "no column 'name'" in run(*prescreen(*common[:2], "--person-column", "name"), code=2).stderr
    checked = run(
        *VERIFY[:1], *MODEL, *HELDOUT, *common, "--objective", "erase", "--samples", "2", "-q", "--format", "csv"
    )
    assert len(pd.read_csv(io.StringIO(checked.stdout))) == 2


def test_the_time_of_a_retraining_says_where_it_comes_from(run: Run) -> None:
    """Assumed where the model comes alone, timed where a target can be trained; beside the advice."""
    assumed = run("prescreen", *MODEL, "-q", *QUEUE).stdout.splitlines()
    assert assumed[-2].startswith("one retraining: ")
    assert "assumed: 20 epochs (retrain_epochs of the policy) of " in assumed[-2]
    timed = run("prescreen", "--target", "queue_of_mine:target", "-q", *QUEUE).stdout.splitlines()
    assert timed[-2].endswith("timed: one training by the target's own train")
    said = run("prescreen", "--target", "queue_of_mine:target", *QUEUE).stderr
    assert "timing trainings on 45 to 45 samples" in said
    assert "timing" not in run("prescreen", "--target", "queue_of_mine:target", *QUEUE, "--no-times").stderr


def test_a_record_grows_and_is_checked(run: Run, folder: Path) -> None:
    """Every screening appends; an edit, a cut end and a wrong hash end with 2 and name the line."""
    record = folder / "decisions.jsonl"
    record.unlink(missing_ok=True)
    first = run(*prescreen(*QUEUE, "--record", record.name))
    hashes = re.findall(r"recorded 6 decisions in decisions.jsonl; last hash ([0-9a-f]{64})", first.stderr)
    assert len(hashes) == 1
    run(*prescreen(*QUEUE, "--record", record.name))
    fine = run("prescreen", "--check-record", record.name)
    last = check(record).last
    assert fine.stdout == f"{record.name}: 12 entries, none edited; last hash {last}\n"
    run("prescreen", "--check-record", record.name, "--expected", last)
    grown = run("prescreen", "--check-record", record.name, "--expected", hashes[0], code=2)
    assert "line 6" in grown.stderr
    whole = record.read_text()
    record.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert "line 12" in run("prescreen", "--check-record", record.name, "--expected", last, code=2).stderr
    record.write_text(whole.replace('"index":17', '"index":18', 1))
    assert "line 2 was changed" in run("prescreen", "--check-record", record.name, code=2).stderr
    run("prescreen", "--check-record", "nothing.jsonl", code=2)
    assert "--check-record" in run(*prescreen(*QUEUE, "--expected", last), code=2).stderr
    entries = [json.loads(line)["entry"] for line in whole.splitlines()]
    assert [entry["request"]["who"] for entry in entries[:6]] == ["ann", "bob", "cy", "di", "ed", "flo"]


def test_a_record_that_was_edited_is_not_appended_to(run: Run, folder: Path) -> None:
    """Exit code 2, and it stays as it is; no table is written either."""
    record = folder / "edited.jsonl"
    run(*prescreen(*QUEUE, "--record", record.name))
    broken = record.read_text().replace("flo", "eve")
    record.write_text(broken)
    run(*prescreen(*QUEUE, "--record", record.name, "--out", "never.csv"), code=2)
    assert record.read_text() == broken
    assert not (folder / "never.csv").exists()


def test_no_file_is_written_over_another(run: Run, folder: Path) -> None:
    """The requests, the record and what is written are different files."""
    before = (folder / "requests.csv").read_bytes()
    assert "--requests and --out" in run(*prescreen(*QUEUE, "--out", "./requests.csv"), code=2).stderr
    both = ("--out", "both.json", "--record", "both.json")
    assert "--out and --record" in run(*prescreen(*QUEUE, *both), code=2).stderr
    (folder / "policy.json").write_text("{}")
    assert "--policy" in run(*prescreen(*QUEUE, "--policy", "policy.json", "--out", "policy.json"), code=2).stderr
    verifying = ["verify", *MODEL, *HELDOUT, *QUEUE, "--objective", "erase", "-q", "--out", "requests.csv"]
    assert "--requests and --out" in run(*verifying, code=2).stderr
    assert (folder / "requests.csv").read_bytes() == before
    assert not (folder / "both.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected --requests FILE"),
        (("--requests", "none.csv"), "none.csv is not there"),
        (("--requests", "."), ". is a folder"),
        (("--requests", "queue_of_mine.py"), "expected a .csv, .parquet, .jsonl"),
        (("--requests", "train.npz"), "expected a .csv"),
        ((*QUEUE, "--objective", "both"), "'both' is not one of 'retrain', 'erase'"),
        ((*QUEUE, "--policy", "none.json"), "there is no file none.json"),
        ((*QUEUE, "--policy", "wrong.json"), "did you mean 'quick_to'?"),
        ((*QUEUE, "--policy", "range.json"), "retrain_from: expected a number from 0 to 1; got 2"),
        ((*QUEUE, "--policy", "queue_of_mine.py"), "this is not JSON"),
        ((*QUEUE, "--policy", "unknown.json"), "did you mean 'scrub'?"),
        ((*QUEUE, "--out", "queue.txt"), ".csv, .parquet, .json"),
        ((*QUEUE, "--html", "queue.pdf"), ".html"),
        ((*QUEUE, "--record", "decisions.csv"), ".jsonl"),
        ((*QUEUE, "--out", "queue_of_mine.py/queue.csv"), "queue_of_mine.py is a file"),
        ((*QUEUE, "--factors", "."), "no part of a factor table"),
        ((*QUEUE, "--format", "yaml"), "yaml"),
        (("--requests", "nobody.csv"), "none of the 2 requests can be served; the first: row 1"),
        (("--requests", "empty.csv"), "empty"),
        (("--requests", "names.csv"), "names.csv"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(run: Run, folder: Path, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, nothing on standard output, nothing written."""
    (folder / "wrong.json").write_text('{"quick_too": 0.1}')
    (folder / "range.json").write_text('{"retrain_from": 2}')
    (folder / "unknown.json").write_text('{"unlearners": ["certified_removal", "scrubb"]}')
    (folder / "nobody.csv").write_text("index\n45\n-3\n")
    (folder / "empty.csv").write_text("")
    (folder / "names.csv").write_text("name\nann\n")
    before = sorted(path.name for path in folder.iterdir())
    assert said in run(*prescreen(*arguments), code=2).stderr
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_policy_is_obeyed(run: Run, folder: Path) -> None:
    """Thresholds and unlearners from a file."""
    settings = {"quick_to": 0, "retrain_from": 1, "trivial_from": 1, "unlearners": ["scrub"], "step_margin": 2}
    (folder / "strict.json").write_text(json.dumps(settings))
    found = pd.read_csv(io.StringIO(run(*prescreen(*QUEUE, "--policy", "strict.json", "--format", "csv")).stdout))
    assert set(found["route"]) == {"careful"}
    assert set(found["unlearner"]) == {"scrub"}
    assert (found["step_limit"] == np.ceil(np.maximum(1, 2 * found["steps"]))).all()


def test_factors_are_kept_and_used_again(run: Run, folder: Path) -> None:
    """The same queue; the folder is written once; another model is computed anew, and said."""
    command = prescreen(*QUEUE, "--format", "csv", "--factors", "kept")
    first = run(*command)
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "kept").iterdir()}
    again = run(*command)
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "kept").iterdir()} == stamps
    without = pd.read_csv(io.StringIO(run(*prescreen(*QUEUE, "--format", "csv")).stdout))
    kept = pd.read_csv(io.StringIO(first.stdout))
    pd.testing.assert_frame_equal(kept, without, rtol=1e-5)
    other = run(*command, *HELDOUT)
    assert "note: the factors in kept are of another heldout: they are computed anew" in other.stderr


def test_help_shows_examples(run: Run) -> None:
    """Of both commands, in the group's list too."""
    for name in ("prescreen", "verify"):
        text = run(name, "--help").stdout
        assert "EXAMPLES" in text
        assert f"forgetcast {name} --requests requests.csv" in text
        for option in ("--requests", "--ids", "--policy", "--objective", "--factors", "--out", "--person-column"):
            assert option in text
        assert "[retrain|erase]" in text
        assert name in run("--help").stdout
    told = " ".join(run("prescreen", "--help").stdout.split())
    assert "rows of one person vouch for each other" in told


# -- verify -----------------------------------------------------------------------------------------------------------

VERIFY = ["verify", *MODEL, *HELDOUT, *QUEUE, "--objective", "erase", "--samples", "4", "-q"]


def test_forecast_beside_measurement(run: Run, tmp_path: Path) -> None:
    """A line per request, then what was found; the same in CSV, JSON and files; the same on every run."""
    text = run(*VERIFY).stdout
    lines = text.splitlines()
    assert lines[0].startswith("id")
    assert len(lines[1 : lines.index("")]) >= 4
    assert "order of harm" in text
    assert ESCAPE not in text
    assert ESCAPE in run(*VERIFY, color=True).stdout
    csv = pd.read_csv(io.StringIO(run(*VERIFY, "--format", "csv").stdout))
    assert len(csv) >= 4
    assert {"harm", "measured_harm", "inside", "measured_steps"} <= set(csv.columns)
    data = json.loads(run(*VERIFY, "--format", "json").stdout)
    assert len(data["samples"]) == len(csv)
    assert any("interval" in line for line in data["provenance"]["summary"])
    for name in ("v.csv", "v.parquet", "v.json"):
        result = run(*VERIFY, "--out", str(tmp_path / name), "--format", "csv")
        assert result.stdout == ""
        assert f"wrote {tmp_path / name} ({len(csv)} rows)" in result.stderr
    assert pd.read_parquet(tmp_path / "v.parquet")["measured_harm"].tolist() == pytest.approx(
        csv["measured_harm"].tolist()
    )


def test_verify_for_retrain_needs_a_target_that_can_be_trained(run: Run) -> None:
    """Without one: one clear line. With one, few models are trained."""
    assert "train" in run("verify", *MODEL, *HELDOUT, *QUEUE, "-q", code=2).stderr
    few = ["--oracle-groups", "3", "--oracle-seeds", "1", "--samples", "3", "-q"]
    text = run("verify", "--target", "queue_of_mine:target", *QUEUE, *few).stdout
    assert re.search(r"requests called trivial are|order of harm", text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*MODEL, *QUEUE, "--objective", "erase"), "held-out"),
        ((*MODEL, *HELDOUT, *QUEUE, "--objective", "both"), "'both' is not one of 'retrain', 'erase'"),
        ((*MODEL, *HELDOUT, "--objective", "erase"), "expected --requests FILE"),
        ((*MODEL, *HELDOUT, *QUEUE, "--objective", "erase", "--samples", "0"), "--samples"),
        (("--target", "queue_of_mine:target", *MODEL, *QUEUE), "--target brings its model and data"),
    ],
)
def test_what_cannot_be_verified_is_one_clear_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2."""
    assert said in run("verify", *arguments, "-q", code=2).stderr


def test_broken_rows_do_not_stop_a_check(run: Run, folder: Path) -> None:
    """Named, and the rest is unlearned."""
    (folder / "some.csv").write_text("index\n3\nx\n5\n")
    result = run("verify", *MODEL, *HELDOUT, "--requests", "some.csv", "--objective", "erase", "-q", "--format", "csv")
    assert pd.read_csv(io.StringIO(result.stdout))["index"].tolist() == [3, 5]
    assert result.stderr.startswith("row 2: ")


@pytest.mark.parametrize("name", ["prescreen", "verify"])
def test_ctrl_c_leaves_nothing_behind(folder: Path, tmp_path: Path, name: str) -> None:
    """While the target is made: 130, one line, no file and no record."""
    (folder / "started").unlink(missing_ok=True)
    arguments = [sys.executable, "-m", "forgetcast", name, "--target", "queue_of_mine:slow", *QUEUE, "-q"]
    arguments += ["--out", str(tmp_path / "q.csv")]
    arguments += (
        ["--record", str(tmp_path / "r.jsonl"), "--html", str(tmp_path / "q.html")] if name == "prescreen" else []
    )
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores Ctrl-C
    process = subprocess.Popen(arguments, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 60
    while not (folder / "started").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert re.fullmatch(r"interrupted: .*run the same command again to resume", message.strip())
    assert list(tmp_path.iterdir()) == []
