"""Kills at random moments, and what is there after each and at the end against an undisturbed run.

    python benchmarks/kill_test.py                          # all commands, 20 kills each
    python benchmarks/kill_test.py --commands predict --kills 3

Every command runs in a process group of its own and is killed (SIGKILL, workers and all) after a random time. After
each kill, what lies at the places of its results must be whole: the old one, the new one or none yet. At the end the
command runs undisturbed, and every file that it leaves must be the one, byte for byte, that a run without any kill
leaves (of a record: every entry; times and hashes differ). The table is written to benchmarks/kills.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from forgetcast import DifficultyPredictor
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.zoo.datasets import load
from forgetcast.errors import RecordError
from forgetcast.factors.store import read_factors
from forgetcast.screening.record import check

SAMPLES = 250
TRAIN = """
import sys
from forgetcast import DifficultyPredictor
from forgetcast.corpus.corpus import Corpus
from forgetcast.evaluation.table import feature_columns, training_table
corpus = Corpus.read("few")
params = {"num_boost_round": 15}
made = DifficultyPredictor.fit(training_table(corpus), feature_columns(corpus), params=params, seed=int(sys.argv[2]))
made.save(sys.argv[1])
"""
MODULE = """
from torch import nn

def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
"""
MODEL = ["--model", "mine:model", "--dataset", "train.npz", "--heldout", "test.npz", "--weights"]


@dataclass
class Counts:
    """What happened to one command."""

    kills: int = 0
    runs: int = 0
    states: dict[str, int] = field(default_factory=dict)
    """How often the results were found in which state after a kill."""
    torn: list[str] = field(default_factory=list)
    """What must not be."""

    def saw(self, what: str, state: str) -> None:
        """Count the state of a result."""
        key = f"{what} {state}"
        self.states[key] = self.states.get(key, 0) + 1


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, drafts too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepared(root: Path) -> None:
    """Two trained models, their data, requests, and a corpus of four targets."""
    (x, y), (x_held, y_held) = load("digits")
    x, y, x_held, y_held = x[:SAMPLES], y[:SAMPLES], x_held[:100], y_held[:100]
    for name, a, b in (("train", x, y), ("test", x_held, y_held)):
        np.savez(root / f"{name}.npz", x=a.numpy(), y=b.numpy())
    (root / "mine.py").write_text(MODULE)
    space: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(MODULE, space)
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = space["model"]()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        save_file(model.state_dict(), root / f"mine-{seed}.safetensors")
    (root / "requests.csv").write_text("index\n" + "".join(f"{k}\n" for k in range(0, SAMPLES, 10)))
    whole = Corpus.published()
    names = list(whole.targets["target"][:4])
    frames = {
        name: frame[frame["target"].isin(names)].reset_index(drop=True)
        for name, frame in (("outcomes", whole.outcomes), ("instances", whole.instances), ("factors", whole.factors))
    }
    described = [one for one in whole.manifest["targets"] if one["target"] in names]
    Corpus(**frames, manifest=whole.manifest | {"targets": described, "files": {}}).write(root / "few")


def generate(out: Path, _turn: int) -> list[str]:
    """One small target, both objectives, four unlearners."""
    return [
        *("generate", "--recipe", "digits-mlp", "--out", str(out / "corpus"), "--instances", "40", "--jobs", "2", "-q"),
        *("--unlearners", "gradient_ascent,random_relabelling,influence,ssd"),
        *("--oracle-groups", "10", "--oracle-seeds", "3"),
    ]


def train(out: Path, turn: int) -> list[str]:
    """Two predictors by turns, told apart by their seed; each replaces the other. Few trees, and nothing to compare."""
    return ["-c", TRAIN, str(out / "predictor"), str(turn)]


def predict(out: Path, turn: int) -> list[str]:
    """A table, a report and a calibrated predictor, for some samples or others."""
    return [
        *(
            "predict",
            *MODEL,
            "mine-0.safetensors",
            "--objective",
            "erase",
            "--calibrate",
            "12",
            "-q",
            "--indices",
            f"{turn}-{turn + 19}",
        ),
        *("--out", str(out / "table.csv"), "--html", str(out / "report.html")),
        *("--save-predictor", str(out / "calibrated")),
    ]


def prescreen(out: Path, turn: int) -> list[str]:
    """A table, a page, a record and kept factors, of one model and objective or the other."""
    return [
        *("prescreen", *MODEL, f"mine-{turn}.safetensors", "--requests", "requests.csv", "--no-times", "-q"),
        *("--objective", ("erase", "retrain")[turn], "--out", str(out / "table.csv"), "--html", str(out / "page.html")),
        *("--record", str(out / "record.jsonl"), "--factors", str(out / "factors")),
    ]


COMMANDS = {"generate": generate, "train": train, "predict": predict, "prescreen": prescreen}


def untimed(content: bytes) -> bytes:
    """A page without the moment at which it was made."""
    return re.sub(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(\+00:00)?( UTC)?", b"TIME", content)


def examined(out: Path, wholes: list[dict[str, bytes]], counts: Counts) -> None:
    """Every result after a kill: of one turn or the other, or not there; a record verifies or says where to cut it."""
    for name in ("table.csv", "report.html", "page.html"):
        if any(name in whole for whole in wholes):
            found = out / name
            known = [untimed(whole[name]) for whole in wholes]
            if not found.exists():
                counts.saw(name, "not there yet")
            elif untimed(found.read_bytes()) in known:
                counts.saw(name, "whole")
            else:
                counts.torn.append(name)
    readers = (
        ("predictor", DifficultyPredictor.load),
        ("calibrated", DifficultyPredictor.load),
        ("factors", read_factors),
    )
    for name, read in readers:
        if any(key.startswith(f"{name}/") for whole in wholes for key in whole):
            if not (out / name).exists():
                counts.saw(name, "not there yet")
                continue
            try:
                read(out / name)
                counts.saw(name, "whole")
            except Exception as error:
                counts.torn.append(f"{name}: {error}")
    record = out / "record.jsonl"
    if record.exists():
        try:
            check(record)
            counts.saw("record", "verifies")
        except RecordError as error:
            cut = re.search(r"truncate -s (\d+)", str(error))
            if cut is None:
                counts.torn.append(f"record: {error}")
            else:
                os.truncate(record, int(cut[1]))
                check(record)
                counts.saw("record", "half a line, cut where the message said")
    if (out / "corpus").exists():
        shards = list((out / "corpus").rglob("*.sha256"))
        counts.saw("corpus", "finished shards kept" if shards else "not there yet")


def ended(out: Path) -> dict[str, bytes]:
    """All files at the end, without what differs from one undisturbed run to the next."""
    files = {}
    for name, content in contents(out).items():
        if name == "record.jsonl":
            entries = [json.loads(line)["entry"] for line in content.splitlines()]
            last = [entry for entry in entries if entry["objective"] == entries[-1]["objective"]][-SAMPLES // 10 :]
            files[name] = untimed(json.dumps(last).encode())
        else:
            files[name] = untimed(content)
    return files


def tried(name: str, kills: int, seed: int, root: Path) -> dict[str, object]:
    """Kill one command again and again; a row of the table."""
    make = COMMANDS[name]
    rng = random.Random(seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = [sys.executable] if name == "train" else [sys.executable, "-m", "forgetcast"]
    wholes, alone = [], 0.0
    turns = 1 if name == "generate" else 2
    for turn in range(turns):
        out = root / f"{name}-whole-{turn}"
        out.mkdir()
        began = time.perf_counter()
        subprocess.run([*start, *make(out, turn)], check=True, env=environment, cwd=root, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)  # fmt: skip
        alone = time.perf_counter() - began
        wholes.append(contents(out))
    out = root / f"{name}-killed"
    out.mkdir()
    counts = Counts()
    while True:
        turn = counts.runs % turns if counts.kills < kills else turns - 1
        counts.runs += 1
        process = subprocess.Popen(
            [*start, *make(out, turn)], env=environment, cwd=root, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            # The work that is left of a corpus shrinks from kill to kill; the others write at the end.
            span = (0.1, 0.75) if name == "generate" else (0.3, 1.1)
            process.wait(rng.uniform(*span) * alone if counts.kills < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            counts.kills += 1
            examined(out, wholes, counts)
            continue
        if process.returncode != 0:
            counts.torn.append(f"exit code {process.returncode}")
        if counts.kills >= kills or counts.torn:
            break
        for path in rng.sample(sorted(out.rglob("*.sha256")), 8 if name == "generate" else 0):
            path.unlink()  # done too early: take work away again
    reference = root / f"{name}-whole-{turns - 1}"
    same = ended(out) == ended(reference)
    return {
        "command": name,
        "seconds alone": round(alone, 1),
        "kills": counts.kills,
        "runs": counts.runs,
        "after a kill": "; ".join(f"{what}: {count}" for what, count in sorted(counts.states.items())),
        "torn": "; ".join(counts.torn) or "nothing",
        "drafts left": len([path for path in contents(out) if ".forgetcast." in path]),
        "as undisturbed": "yes" if same else "no",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "kills.csv")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared(root)
        for name in arguments.commands:
            rows.append(tried(name, arguments.kills, arguments.seed, root))
            print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(arguments.out, index=False)
            shutil.rmtree(root / f"{name}-killed")
    good = all(row["torn"] == "nothing" and row["as undisturbed"] == "yes" and not row["drafts left"] for row in rows)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
