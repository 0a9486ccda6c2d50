"""What a GPU changes: the same factors, forecasts and labels as on the CPU, and what they cost there.

    python benchmarks/gpu.py                        # every case, about 8 minutes on one H100 with 16 processor cores
    python benchmarks/gpu.py --case same-cnn        # one; its old row is replaced
    python benchmarks/gpu.py --small --device cpu   # a trial of the script itself, results thrown away

Every case runs in a process of its own; a model is on the GPU or on the CPU, the data on the CPU.

- ``same-NETWORK``: a network trained for two epochs on 3000 images of Fashion-MNIST. Its factor table and its forecast
  on the GPU against those of the same weights on the CPU: Spearman's correlation of each factor (the lowest, and
  which), the share of factors with at least 0.999, and of the forecast percentiles; and the same where convolutions
  round their inputs to TF32 (``tf32_``), as PyTorch lets cuDNN do by default and forgetcast does not.
- ``labels-TARGET``: 24 samples of a target of the corpus under every unlearner but retraining, both objectives, on the
  GPU and on the CPU: Spearman's correlation of the mean difficulty, and the unlearners least alike. Then 256 samples
  under three unlearners, seconds in blocks and one at a time, on the GPU.
- ``table-MODEL-N``: the whole factor table. The model is trained on the same GPU before, batches of 64, which says what
  an epoch takes. ``cnn`` is the small convolutional network of ``factor_speed.py``, ``resnet18`` torchvision's for one
  channel, both on Fashion-MNIST; ``mlp`` a perceptron on random clouds, as in ``limits.py``.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from limits import make_target
from torch.nn import functional as F

from forgetcast import Target, predict_difficulty
from forgetcast.corpus.labels import difficulty
from forgetcast.corpus.sampling import draw_instances
from forgetcast.corpus.tasks import outcome_block
from forgetcast.corpus.zoo import architectures, datasets
from forgetcast.corpus.zoo.recipes import published
from forgetcast.corpus.zoo.training import train_classifier
from forgetcast.factors import factor_table
from forgetcast.registry import load_unlearners

RESULTS = Path(__file__).with_name("gpu.csv")
NETWORKS = ("cnn", "mlp", "attention", "resnet", "mobilenet")
TARGETS = ("digits-mlp", "fashion-cnn")
TABLES = ("cnn-10000", "cnn-60000", "resnet18-60000", "mlp-1000000")
CASES = (*(f"same-{n}" for n in NETWORKS), *(f"labels-{t}" for t in TARGETS), *(f"table-{t}" for t in TABLES))
TIMED = ("gradient_ascent", "neggrad_plus", "random_relabelling")
OBJECTIVES = ("retrain", "erase")


class Clock:
    """Seconds until the device has done what it was given."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._wait()
        self.began = time.perf_counter()

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def __call__(self) -> float:
        self._wait()
        return time.perf_counter() - self.began


@contextmanager
def rounding(allowed: bool) -> Iterator[None]:
    """A block in which forgetcast leaves cuDNN as PyTorch sets it, if so wanted."""
    flags = torch.backends.cudnn.flags

    def as_set(enabled: bool = True, **_: Any) -> Any:
        return flags(enabled=enabled, allow_tf32=True)

    if allowed:
        torch.backends.cudnn.flags = as_set
    try:
        yield
    finally:
        torch.backends.cudnn.flags = flags


def correlations(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Spearman's correlation of every column that is not constant on either side."""
    varied = [name for name in one.columns if one[name].nunique() > 1 or other[name].nunique() > 1]
    return one[varied].corrwith(other[varied], method="spearman")


def same(network: str, device: str, small: bool) -> dict[str, Any]:
    """Factors and forecasts on both devices."""
    n = 400 if small else 3000
    (x, y), (x_heldout, y_heldout) = datasets.load("fashion-mnist")
    x, y, held = x[:n], y[:n], (x_heldout[: n // 6], y_heldout[: n // 6])
    model = train_classifier(architectures.build(network, x.shape[1:], 10), x, y, epochs=2)
    tables, forecasts, seconds = {}, {}, {}
    for way in ("cpu", "gpu", "tf32"):
        place = "cpu" if way == "cpu" else device
        with rounding(way == "tf32"):
            for _ in range(1 if way == "cpu" else 2):  # the first call on a GPU builds what the second finds
                target = Target(copy.deepcopy(model).to(place), (x, y), heldout=held)
                clock = Clock(place)
                tables[way] = factor_table(target)
                seconds[way] = clock()
        report = predict_difficulty(target, objective="both", factors=tables[way])
        forecasts[way] = report.table.set_index(["objective", "index"])["percentile"].sort_index()
    a = tables["cpu"].values
    found: dict[str, Any] = {"n": n, "columns": len(a.columns)}
    for way, before in (("gpu", ""), ("tf32", "tf32_")):
        b = tables[way].values
        alike = correlations(a, b)
        rho = [forecasts["cpu"][o].corr(forecasts[way][o], method="spearman") for o in OBJECTIVES]
        found |= {
            f"{before}only_one_side": int((a.notna().any() != b.notna().any()).sum()),
            f"{before}factors_rho_min": alike.min(),
            f"{before}factor_least_alike": alike.idxmin(),
            f"{before}factors_same": float((alike >= 0.999).mean()),
            f"{before}forecast_rho": min(rho),
            f"{before}forecast_gap": float((forecasts["cpu"] - forecasts[way]).abs().max()),
        }
    return found | {"cpu_seconds": seconds["cpu"], "seconds": seconds["gpu"], "tf32_seconds": seconds["tf32"]}


def labels(name: str, device: str, small: bool) -> dict[str, Any]:
    """Labels on both devices, and how fast they are made."""
    target = published(name).build()
    rows = draw_instances(target, 4 if small else 256, 0)["index"].to_numpy()
    few, p_out = rows[:24], np.full(len(rows), 0.3)
    settings = {"heldout": (target.heldout.fetch(range(len(target.heldout)))), "train": target._train}
    whole = target.data.fetch(range(len(target)))
    there = Target(copy.deepcopy(target.module).to(device), whole, **settings, name=name)
    found: dict[str, Any] = {"n": len(target), "rows": len(few)}
    answers, failed = [], []
    for unlearner in sorted(set(load_unlearners()) - {"retraining"}):
        for place, made in (("cpu", target), ("gpu", there)):
            try:
                frame = outcome_block(made, unlearner, few, p_out[: len(few)], 0, OBJECTIVES)
                answers.append(frame.assign(place=place, difficulty=difficulty(frame)))
            except Exception as error:
                failed.append(f"{unlearner} on {place}: {type(error).__name__}: {str(error)[:200]}")
                print(failed[-1], file=sys.stderr)
    frame = pd.concat(answers, ignore_index=True)
    each = frame.pivot_table(index=["unlearner", "objective", "index"], columns="place", values="difficulty")
    mean = each.groupby(level=["objective", "index"]).mean()
    gaps = (each["cpu"] - each["gpu"]).abs().groupby(level="unlearner").max()
    found |= {
        "unlearners": frame["unlearner"].nunique(),
        "failed": "; ".join(failed),
        "labels_rho": min(mean.loc[o].corr("spearman").loc["cpu", "gpu"] for o in OBJECTIVES),
        "labels_gap": float(gaps.max()),
        "unlearner_least_alike": gaps.idxmax(),
    }
    for unlearner in TIMED:
        outcome_block(there, unlearner, rows[:2], p_out[:2], 0, OBJECTIVES)
        clock = Clock(device)
        outcome_block(there, unlearner, rows, p_out, 0, OBJECTIVES)
        together = len(rows) / clock()
        clock = Clock(device)
        for row in few:
            outcome_block(there, unlearner, np.array([row]), p_out[:1], 0, OBJECTIVES)
        found |= {f"{unlearner}_per_s": together, f"{unlearner}_times": together / (len(few) / clock())}
    return found


def epoch(model: torch.nn.Module, x: Any, y: Any, device: str) -> float:
    """Seconds of one plain epoch, batches of 64, the data on the CPU."""
    optimizer = torch.optim.Adam(model.train().parameters())
    batches = torch.randperm(len(y)).split(64)
    clock = Clock(device)
    for step, batch in enumerate(batches[:20] + batches):
        if step == 20:
            clock = Clock(device)
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch].to(device)), y[batch].to(device)).backward()
        optimizer.step()
    model.eval()
    return clock()


def table(kind: str, n: int, device: str, small: bool) -> dict[str, Any]:
    """Seconds, epochs and memory of one factor table."""
    made = make_target(kind, n // 100 if small else n, 64, 10)
    x, y = made.data.fetch(range(len(made)))
    held = made.heldout.fetch(range(len(made.heldout)))
    model = copy.deepcopy(made.module).requires_grad_(True).to(device)
    spent = epoch(model, x, y, device)
    target = Target(model, (x, y), heldout=held, batch_size=1024 if kind == "mlp" else 256)
    del made
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(device)
    values = factor_table(target).values
    seconds = clock()
    return {
        "n": len(values),
        "parameters": sum(value.numel() for value in target.params.values()),
        "columns": values.shape[1],
        "seconds": seconds,
        "epoch_s": spent,
        "epochs": seconds / spent,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "gpu_peak_mb": torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else None,
    }


def run(case: str, device: str, small: bool) -> dict[str, Any]:
    """One case, in this process."""
    kind, rest = case.split("-", 1)
    if kind == "same":
        found = same(rest, device, small)
    elif kind == "labels":
        found = labels(rest, device, small)
    else:
        model, n = rest.split("-")
        found = table(model, int(n), device, small)
    card = "cpu" if device == "cpu" else torch.cuda.get_device_name()
    return {"case": case, "device": card, "threads": torch.get_num_threads(), "torch": torch.__version__, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="hundreds of samples in place of thousands")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(run(arguments.worker, arguments.device, arguments.small), default=float))
        return
    for case in arguments.case or CASES:
        began = time.perf_counter()
        command = [sys.executable, __file__, "--worker", case, "--device", arguments.device]
        done = subprocess.run(
            command + ["--small"] * arguments.small, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        if done.returncode:
            print(f"{case}: failed with {done.returncode}", flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        print(f"{case} ({time.perf_counter() - began:.0f} s): {row}", flush=True)
        known = pd.read_csv(arguments.out) if arguments.out.is_file() else pd.DataFrame({"case": []})
        known = pd.concat([known[known["case"] != case], pd.DataFrame([row])], ignore_index=True)
        order = {name: place for place, name in enumerate(CASES)}
        known.sort_values("case", key=lambda names: names.map(order)).to_csv(
            arguments.out, index=False, float_format="%.6g"
        )


if __name__ == "__main__":
    main()
