"""Every kind of file that someone else may have made: a small valid one, how it is read, its hashes made right.

Shared by ``tests/whole/test_fuzz.py`` and ``benchmarks/fuzz.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import nn

from forgetcast import DifficultyPredictor, Policy, Target
from forgetcast.adapters.loading import _file, load_checkpoints, load_dataset
from forgetcast.cli.options import parse_indices
from forgetcast.cli.output import table_json
from forgetcast.cli.requests import _lines
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.inspection import targets_table, unlearners_table
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.errors import InputError
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.factors import factor_table
from forgetcast.factors.store import read_factors, write_factors
from forgetcast.files.canonical_json import canonical_json
from forgetcast.predictor.adaptation import FORECAST, Adaptation
from forgetcast.predictor.calibrated import CALIBRATION, Calibration, _digest
from forgetcast.predictor.folder import MANIFEST, _fingerprint
from forgetcast.predictor.retrained import GAP
from forgetcast.screening import record
from forgetcast.screening.requests import checked_requests
from forgetcast.target.weights import fit_weights, read_weights
from synthetic import FEATURES
from synthetic import training_table as synthetic_table

__all__ = ["LOADERS", "SHARES", "Loader"]

SAMPLES = 24
"""Samples of the small dataset."""


@dataclass(frozen=True)
class Loader:
    """One kind of file or folder."""

    make: Callable[[Path], None]
    """Writes a valid one into an empty folder."""
    read: Callable[[Path], object]
    """Reads it and uses what was read as the commands do; raises a ``ForgetcastError`` or nothing."""
    repair: Callable[[Path], None] | None = None
    """Makes hashes fit what is there, so that more than the check of the hash is tested."""


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def _samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, 4)).astype(np.float32), np.arange(SAMPLES) % 3


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _json(path: Path) -> Any:
    """The file as JSON; None where it is none or no file."""
    try:
        return json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None


# -- predictors -----------------------------------------------------------------------------------------------


def _make_predictor(folder: Path) -> None:
    table = synthetic_table(targets=3, rows=16)
    settings = {"num_boost_round": 3, "num_leaves": 5, "min_data_in_leaf": 4}
    DifficultyPredictor.fit(table, FEATURES, params=settings, n_jobs=1).save(folder)


def _read_predictor(folder: Path) -> None:
    predictor = DifficultyPredictor.load(folder)
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(3, len(predictor.features))), columns=list(predictor.features))
    for objective in predictor.objectives:
        predictor.predict(rows, objective)
        predictor.predict_parts(rows, objective)
        names = predictor.predict_unlearners(rows, objective).columns
        if len(names):
            predictor.predict_under(rows, objective, [names[0]] * len(rows))
    str(predictor.familiarity(rows))
    repr(predictor)


def _repair_predictor(folder: Path) -> None:
    manifest = _json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return
    for name in manifest["files"]:
        try:
            if (folder / name).is_file():
                manifest["files"][name] = _sha256(folder / name)
        except (OSError, ValueError):
            continue
    try:
        manifest["fingerprint"] = _fingerprint(manifest)
        content = json.dumps(manifest)
    except (KeyError, TypeError, RecursionError):
        return
    (folder / MANIFEST).write_text(content)


def _make_calibrated(folder: Path) -> None:
    scratch = folder / "predictor"
    _make_predictor(scratch)
    base = DifficultyPredictor.load(scratch)
    rng = np.random.default_rng(0)
    errors = {head: rng.normal(size=10).tolist() for head in ("percentile", "difficulty")}
    adaptation = Adaptation(
        start={FORECAST: 0.7, f"{GAP}_quantile": 0.3},
        change={FORECAST: 0.1, "loss_quantile": -0.2},
        centre={FORECAST: 0.5, "loss_quantile": 0.5},
        constant=0.01,
        above=(GAP, 0.05),
        scale=([0.0, 0.5, 1.0], [0.1, 0.4, 0.9]),
        errors=errors,
        weights=[1.0] * 10,
    )
    measured = pd.DataFrame({"index": range(10), "objective": "retrain", "difficulty": rng.uniform(size=10)})
    for name in ("percentile", "percentile_before", "percentile_crossfitted"):
        measured[name] = rng.uniform(size=10)
    answers = pd.DataFrame(rng.uniform(size=(SAMPLES, 2)), columns=["p_before", "p_out"])
    subject = {"name": "small", "model": "ab" * 32, "data": "cd" * 32, "n": SAMPLES}
    base.with_calibration(Calibration({"retrain": adaptation}, subject, measured, answers)).save(folder / "made")
    for path in (folder / "made").iterdir():
        if path.is_file():
            path.replace(folder / path.name)
    for path in (folder / "made" / "predictor").iterdir():
        path.unlink()
    (folder / "made" / "predictor").rmdir()
    (folder / "made").rmdir()


def _read_calibrated(folder: Path) -> None:
    _read_predictor(folder)
    predictor = DifficultyPredictor.load(folder)
    if predictor.calibration is not None:
        rows = pd.DataFrame(np.full((3, len(predictor.features)), 0.4), columns=list(predictor.features))
        for objective in predictor.calibration.measured:
            predictor.calibration.gain(objective)
            predictor.contributions(rows, objective)
        x, y = _samples()
        with suppress(InputError):  # it is of another target
            predictor.calibration.check_target(Target(_module(), (torch.tensor(x), torch.tensor(y))))


def _repair_calibrated(folder: Path) -> None:
    if (folder / "predictor").is_dir():
        _repair_predictor(folder / "predictor")
    described = _json(folder / CALIBRATION)
    base = _json(folder / "predictor" / MANIFEST)
    if not isinstance(described, dict) or not isinstance(described.get("tables"), dict):
        return
    described["predictor"] = base.get("fingerprint") if isinstance(base, dict) else None
    for name in described["tables"]:
        try:
            if (folder / name).is_file() and pq.read_metadata(folder / name).num_rows < 500:  # no pipe, no bomb
                described["tables"][name] = _digest(pq.read_table(folder / name).to_pandas())
        except Exception:
            continue
    signed = {name: described.get(name) for name in ("target", "predictor", "adaptations", "tables")}
    described["fingerprint"] = hashlib.sha256(json.dumps(signed, sort_keys=True).encode()).hexdigest()
    (folder / CALIBRATION).write_text(json.dumps(described))


# -- corpora and factor tables --------------------------------------------------------------------------------


def _make_corpus(folder: Path) -> None:
    """Five samples each of two published targets, with some of their factors."""
    whole = Corpus.published()
    first = whole.instances.groupby("target", sort=False).head(5)
    keys = first[first["target"].isin(first["target"].unique()[:2])][["target", "index"]]
    tables = {name: getattr(whole, name).merge(keys) for name in ("outcomes", "instances", "factors")}
    tables["outcomes"] = tables["outcomes"][tables["outcomes"]["unlearner"].isin(CONSENSUS[:2])]
    tables["outcomes"] = tables["outcomes"].drop_duplicates(["target", "index", "unlearner", "objective"])
    tables["factors"] = tables["factors"].iloc[:, :12]
    targets = [target for target in whole.manifest["targets"] if target["target"] in set(keys["target"])]
    Corpus(**tables, manifest={"format": 1, "targets": targets, "files": {}}).write(folder)


def _read_corpus(folder: Path) -> None:
    made = Corpus.read(folder)
    str(made.digest)
    feature_columns(made)
    targets_table(made)
    unlearners_table(made)
    training_table(Corpus.join([made]), CONSENSUS[:2])


def _repair_corpus(folder: Path) -> None:
    manifest = _json(folder / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return
    for name in ("outcomes.parquet", "instances.parquet", "factors.parquet"):
        with suppress(OSError):
            if (folder / name).is_file():
                manifest["files"][name] = _sha256(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _make_factors(folder: Path) -> None:
    x, y = _samples()
    target = Target(_module(), (torch.tensor(x), torch.tensor(y)))
    table = factor_table(target, names=["margin", "loss", "training_confidence"])
    write_factors(table, folder, {"model": target.model_hash, "n": SAMPLES})


def _read_factors(folder: Path) -> None:
    table, described = read_factors(folder)
    dict(described)
    table.values.to_numpy(dtype=float)
    table.take(table.values.index[:3].to_numpy())


def _repair_factors(folder: Path) -> None:
    manifest = _json(folder / "manifest.json")
    if isinstance(manifest, dict) and (folder / "values.parquet").is_file():
        with suppress(OSError):
            manifest["sha256"] = _sha256(folder / "values.parquet")
        (folder / "manifest.json").write_text(json.dumps(manifest))


# -- records, policies, requests ------------------------------------------------------------------------------


def _make_record(folder: Path) -> None:
    for number in range(4):
        record.append(folder / "record.jsonl", [{"id": f"p{number}", "route": "quick", "harm": 0.01 * number}])


def _read_record(folder: Path) -> None:
    found = record.check(folder / "record.jsonl")
    record.check(folder / "record.jsonl", expected=found.last)
    record.append(folder / "record.jsonl", [{"id": "one more"}])


def _repair_record(folder: Path) -> None:
    path = folder / "record.jsonl"
    if not path.is_file():
        return
    last, lines = record.BEGINNING, []
    try:
        content = path.read_bytes()
    except OSError:
        return
    for raw in content.split(b"\n"):
        try:
            line = json.loads(raw)
            line["previous"] = last
            line["hash"] = last = record._hash(line)
            lines.append(canonical_json(line).encode())
        except Exception:
            lines.append(raw)
    path.write_bytes(b"\n".join(lines))


def _make_policy(folder: Path) -> None:
    Policy(quick_to=0.01, unlearners=("influence", "scrub")).save(folder / "policy.json")


def _read_policy(folder: Path) -> None:
    policy = Policy.load(folder / "policy.json")
    str(policy.fingerprint)
    policy.to_dict()


def _requests_table() -> pd.DataFrame:
    table = pd.DataFrame({"index": [3, 1, 7, 23], "reason": ["moved", "asked; twice", 'said "no"', "é"]})
    return table.assign(score=[0.5, None, 2.0, 1e9], when=pd.Timestamp("2026-01-02"))


def _make_csv(folder: Path) -> None:
    _requests_table().to_csv(folder / "requests.csv", index=False)


def _make_jsonl(folder: Path) -> None:
    lines = _requests_table().astype({"when": str}).to_json(orient="records", lines=True)
    (folder / "requests.jsonl").write_text(str(lines))


def _make_parquet(folder: Path) -> None:
    _requests_table().to_parquet(folder / "requests.parquet", index=False)


def _read_requests(folder: Path) -> None:
    path = next(folder.glob("requests.*"), folder / "requests.csv")
    found = checked_requests(path, SAMPLES)
    found.table.to_csv(index=False)
    table_json(found.table, {})
    found.problems.to_csv(index=False).encode()
    for problem in found.problems["problem"]:
        assert len(problem) < 2000
        assert len(problem.splitlines()) == 1


def _make_ids(folder: Path) -> None:
    (folder / "ids.txt").write_text("".join(f"person {number}\n" for number in range(SAMPLES)))


def _read_ids(folder: Path) -> None:
    checked_requests(["person 3", "person 4"], SAMPLES, ids=_lines(folder / "ids.txt"))


def _make_indices(folder: Path) -> None:
    (folder / "indices.txt").write_text("3, 17\n100-120 7\n")


# -- datasets and weights -------------------------------------------------------------------------------------


def _make_npz(folder: Path) -> None:
    x, y = _samples()
    np.savez_compressed(folder / "data.npz", x=x, y=y)


def _table() -> pd.DataFrame:
    x, y = _samples()
    return pd.DataFrame(x, columns=list("abcd")).assign(label=y)


def _read_dataset(folder: Path) -> None:
    path = next(folder.glob("data.*"), folder / "data.npz")
    Target(_module(), load_dataset(str(path)))


def _make_state(folder: Path) -> None:
    torch.save(_module().state_dict(), folder / "weights.pt")


def _read_weights(folder: Path) -> None:
    path = next((path for path in folder.glob("weights.*")), folder / "weights.pt")
    model = _module()
    fit_weights(model, read_weights(_file(path, "weights")), str(path))
    x, y = _samples()
    Target(model, (torch.tensor(x), torch.tensor(y)))


def _make_checkpoints(folder: Path) -> None:
    torch.save(_module().state_dict(), folder / "run-1.pt")
    save_file(_module().state_dict(), folder / "run-2.safetensors")


def _read_checkpoints(folder: Path) -> None:
    x, y = _samples()
    run = load_checkpoints(str(folder / "run-*"))
    target = Target(_module(), (torch.tensor(x), torch.tensor(y)), trajectory=run)
    factor_table(target, names=["training_confidence"])


LOADERS: dict[str, Loader] = {
    "predictor": Loader(_make_predictor, _read_predictor, _repair_predictor),
    "calibrated": Loader(_make_calibrated, _read_calibrated, _repair_calibrated),
    "corpus": Loader(_make_corpus, _read_corpus, _repair_corpus),
    "factors": Loader(_make_factors, _read_factors, _repair_factors),
    "record": Loader(_make_record, _read_record, _repair_record),
    "policy": Loader(_make_policy, _read_policy),
    "requests-csv": Loader(_make_csv, _read_requests),
    "requests-jsonl": Loader(_make_jsonl, _read_requests),
    "requests-parquet": Loader(_make_parquet, _read_requests),
    "ids": Loader(_make_ids, _read_ids),
    "indices": Loader(_make_indices, lambda folder: parse_indices(str(folder / "indices.txt"))),
    "dataset-npz": Loader(_make_npz, _read_dataset),
    "dataset-csv": Loader(lambda folder: _table().to_csv(folder / "data.csv", index=False), _read_dataset),
    "dataset-parquet": Loader(lambda folder: _table().to_parquet(folder / "data.parquet"), _read_dataset),
    "weights-safetensors": Loader(
        lambda folder: save_file(_module().state_dict(), folder / "weights.safetensors"), _read_weights
    ),
    "weights-pt": Loader(_make_state, _read_weights),
    "checkpoints": Loader(_make_checkpoints, _read_checkpoints),
}
"""By name."""

SHARES = {
    "predictor": 3, "calibrated": 1, "corpus": 1, "factors": 2, "record": 8, "policy": 8, "requests-csv": 4,
    "requests-jsonl": 4, "requests-parquet": 2, "ids": 6, "indices": 8, "dataset-npz": 2, "dataset-csv": 4,
    "dataset-parquet": 2, "weights-safetensors": 8, "weights-pt": 4, "checkpoints": 3,
}  # fmt: skip
"""Inputs of each among all: what is read slowly gets fewer."""
