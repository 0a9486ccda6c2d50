"""What the factor table costs on Fashion-MNIST: seconds, training epochs, growth with n, memory, and by part.

    python benchmarks/factor_speed.py               # 10,000 and 60,000 samples, about 5 minutes on 2 cores
    python benchmarks/factor_speed.py --n 10000     # one size; others' rows stay in the table

Each row is measured in a process of its own: the small CNN is trained for one epoch to warm up and for two that are
timed (``train_classifier``: AdamW, batches of 64), a copy for one epoch of the loop that everybody writes
(``plain_epoch_s``: Adam, shuffled batches of 64, nothing else), then the table of n training samples is made, with
n/6 held-out samples, on as many threads. Families: "all"; "no surrogates" leaves out the surrogates and what rests on
them (the rehearsals of ``retrain``); "20 samples" asks for the rows of 20 samples, all families. A part is a probe or
the functions of a family of factors, without the probes it rests on.
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
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forgetcast import Target
from forgetcast.corpus.zoo import architectures, datasets
from forgetcast.corpus.zoo.training import train_classifier
from forgetcast.factors import factor_table
from forgetcast.factors.probes.passes import Passes
from forgetcast.factors.probes.probe import probe
from forgetcast.factors.probes.probes import Probes
from forgetcast.registry import load_factors

SIZES = (10_000, 60_000)
FAMILIES = ("no surrogates", "all", "20 samples")
SHOWN = 0.02
"""Seconds from which on a part has a row."""


class Stopwatch:
    """Seconds spent in each function it wraps, without what the wrapped ones that it calls take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = [0.0]

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                self.seconds[name] += took - self._inner.pop()
                self._inner[-1] += took

        return timed


def plain_epoch(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Seconds of one epoch as it stands in every tutorial, after 50 batches to warm up."""
    optimizer = torch.optim.Adam(model.train().parameters())
    batches = torch.randperm(len(y)).split(64)
    began = 0.0
    for step, batch in enumerate(batches[:50] + batches):
        if step == 50:
            began = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return time.perf_counter() - began


def peak() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(n: int, families: str, threads: int) -> list[dict[str, Any]]:
    """The whole table and its parts, a row each."""
    torch.set_num_threads(threads)
    (x, y), (x_heldout, y_heldout) = datasets.load("fashion-mnist")
    x, y, held = x[:n], y[:n], n // 6
    model = architectures.build("cnn", x.shape[1:], 10)
    train_classifier(model, x, y, epochs=1)
    began = time.perf_counter()
    train_classifier(model, x, y, epochs=2)
    epoch = (time.perf_counter() - began) / 2
    plain = plain_epoch(copy.deepcopy(model), x, y)
    target = Target(model, (x, y), heldout=(x_heldout[:held], y_heldout[:held]))
    known = load_factors()
    names = [
        name
        for name, factor in known.items()
        if families != "no surrogates" or not (factor.family == "surrogates" or name.startswith("rehearsed_retrain"))
    ]
    watch = Stopwatch()
    for name, value in (vars(Passes) | vars(Probes)).items():
        if isinstance(value, probe):
            value.function = watch.wrap(f"probe {name.lstrip('_')}", value.function)
    for factor in known.values():
        object.__setattr__(factor, "function", watch.wrap(f"factors {factor.family}", factor.function))
    indices = np.arange(0, n, n // 20)[:20] if families == "20 samples" else None
    before = peak()
    began = time.perf_counter()
    table = factor_table(target, names=names, indices=indices)
    seconds = time.perf_counter() - began
    whole = {"part": "whole table", "seconds": seconds, "peak_mb": peak(), "added_mb": peak() - before}
    parts = [{"part": part, "seconds": took} for part, took in watch.seconds.items() if took >= SHOWN]
    common = {
        "families": families,
        "threads": threads,
        "n": n,
        "rows": len(table.values),
        "columns": table.values.shape[1],
    }
    return [
        common
        | {"epoch_s": epoch, "plain_epoch_s": plain}
        | part
        | {"epochs": part["seconds"] / epoch, "plain_epochs": part["seconds"] / plain}
        for part in (whole, *sorted(parts, key=lambda part: -part["seconds"]))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, action="append", help="training samples; both sizes by default")
    parser.add_argument("--families", choices=FAMILIES, action="append", help="default: all rows of the table")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of training and table alike")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("factor_speed.csv"))
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.n[0], arguments.families[0], arguments.threads)))
        return
    for families in arguments.families or FAMILIES:
        for n in arguments.n or SIZES:
            command = [sys.executable, __file__, "--worker", "--threads", str(arguments.threads)]
            command += ["--n", str(n), "--families", families]
            environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            table = pd.DataFrame(json.loads(done.stdout))
            if arguments.out.is_file():
                before = pd.read_csv(arguments.out)
                table = pd.concat([before[(before["n"] != n) | (before["families"] != families)], table])
            smallest = table[table["n"] == table["n"].min()].set_index(["families", "part"])["seconds"]
            keys = pd.MultiIndex.from_frame(table[["families", "part"]])
            table["growth"] = table["seconds"] / smallest.reindex(keys).to_numpy()
            table.to_csv(arguments.out, index=False, float_format="%.4g")
    print(table[table["part"] == "whole table"].to_string(index=False))


if __name__ == "__main__":
    main()
