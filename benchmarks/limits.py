"""What large data costs: seconds and memory of factor tables, bytes of a task, and generation on one and two workers.

    python benchmarks/limits.py                       # every case that limits.csv lacks; the largest takes half an hour
    python benchmarks/limits.py --case cnn-60000      # one case; its old row is replaced
    python benchmarks/limits.py --page                # only write limits.md anew

Every case runs in a process of its own, on one thread (generation: on one thread a worker). ``cpu_s`` is processor time
of the part that is measured, ``seconds`` its wall time; with one thread and nothing else running they agree, and
``cpu_s`` stays right where something else runs. ``peak_mb`` is the largest resident size of the process, ``before_mb``
that when model and data were there and the measured part began.

Cases of factor tables are named model-n, or model-n-rows where only the rows of 20 samples are asked for.

- ``cnn``: the small convolutional network on Fashion-MNIST, one epoch of training, n/6 held-out samples.
- ``resnet18``: torchvision's ResNet-18 for one channel, not trained, on Fashion-MNIST.
- ``mlp``: a perceptron 64-64-10, not trained, on random clouds in 64 dimensions.

``generate-1`` and ``generate-2`` measure 40 samples of a perceptron on digits for ``erase``, the default unlearners,
with so many worker processes, which are started and have imported everything before the clock runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

RESULTS = Path(__file__).with_name("limits.csv")
PAGE = Path(__file__).with_name("limits.md")
TABLES = (
    "cnn-1000",
    "cnn-10000",
    "cnn-60000",
    "cnn-60000-rows",
    "resnet18-500",
    "resnet18-1000",
    "resnet18-2000",
    "mlp-10000",
    "mlp-100000",
    "mlp-1000000-rows",
    "mlp-1000000",
)
GENERATIONS = ("generate-1", "generate-2")


def peak() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pickled_bytes(value: Any) -> int:
    """What a task with this argument carries to its worker."""
    import cloudpickle

    return len(cloudpickle.dumps(value))


def make_target(model: str, n: int) -> Any:
    """A target of a case."""
    import torch
    from torch import nn

    from forgetcast import Target, architectures, datasets
    from forgetcast.training import train_classifier

    if model == "mlp":
        generator = torch.Generator().manual_seed(0)
        y = torch.randint(0, 10, (n + n // 6,), generator=generator)
        x = torch.randn(len(y), 64, generator=generator) + torch.randn(10, 64, generator=generator)[y]
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        return Target(made, (x[:n], y[:n]), heldout=(x[n:], y[n:]), batch_size=1024)
    (x, y), (x_heldout, y_heldout) = datasets.load("fashion-mnist")
    held = (x_heldout[: n // 6], y_heldout[: n // 6])
    if model == "cnn":
        made = architectures.build("cnn", x.shape[1:], 10)
        train_classifier(made, x[:n], y[:n], epochs=1)
    else:
        from forgetcast._torchvision import torchvision

        torch.manual_seed(0)
        made = torchvision().models.resnet18(weights=None, num_classes=10)
        made.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return Target(made, (x[:n], y[:n]), heldout=held)


def table(model: str, n: int, rows: int | None) -> dict[str, Any]:
    """Seconds and memory of one factor table."""
    import torch

    from forgetcast.factors import factor_table

    torch.set_num_threads(1)
    target = make_target(model, n)
    head = target.head
    described = {
        "n": n,
        "rows": rows or n,
        "parameters": sum(value.numel() for value in target.params.values()),
        "width": None if head is None else head.weight.shape[1],
        "input_bytes": target.data.nbytes // n,
    }
    before, began, cpu = peak(), time.perf_counter(), time.process_time()
    made = factor_table(target, indices=None if rows is None else np.arange(0, n, n // rows)[:rows])
    seconds, cpu, highest = time.perf_counter() - began, time.process_time() - cpu, peak()
    assert len(made.values) == (rows or n)
    return described | {
        "workers": 1,
        "seconds": seconds,
        "cpu_s": cpu,
        "before_mb": before,
        "peak_mb": highest,
        "columns": made.values.shape[1],
        "table_mb": made.values.memory_usage().sum() / 2**20,
        "task_mb": pickled_bytes(target) / 2**20,
    }


def generation(workers: int) -> dict[str, Any]:
    """Seconds of measuring 40 samples, with so many workers."""
    from forgetcast.generate import measure
    from forgetcast.parallel import run_tasks
    from forgetcast.recipes import published

    target = published("digits-mlp").build()
    settings: dict[str, Any] = {"objectives": ["erase"], "progress": False}

    def warm(index: int) -> None:
        measure(target, [index], unlearners=["gradient_ascent", "influence"], **settings)

    run_tasks(warm, [(index,) for index in range(2 * workers)], n_jobs=workers, progress=False)
    began, cpu = time.perf_counter(), time.process_time()
    outcomes, _ = measure(target, range(0, 400, 10), n_jobs=workers, **settings)
    return {
        "n": len(target),
        "rows": 40,
        "parameters": sum(value.numel() for value in target.params.values()),
        "workers": workers,
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu if workers == 1 else None,
        "outcomes": len(outcomes),
        "task_mb": pickled_bytes(target) / 2**20,
    }


def run(case: str) -> dict[str, Any]:
    """One case, in this process."""
    kind, number, *rest = case.split("-")
    found = generation(int(number)) if kind == "generate" else table(kind, int(number), 20 if rest else None)
    return {"case": case, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=(*TABLES, *GENERATIONS))
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--worker", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(run(arguments.worker)))
        return
    known = pd.read_csv(RESULTS) if RESULTS.is_file() else pd.DataFrame({"case": []})
    wanted = (
        [] if arguments.page else arguments.case or [c for c in (*TABLES, *GENERATIONS) if c not in set(known["case"])]
    )
    for case in wanted:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, __file__, "--worker", case], check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        known = pd.read_csv(RESULTS) if RESULTS.is_file() else known  # another run may have added to it
        known = pd.concat([known[known["case"] != case], pd.DataFrame([json.loads(done.stdout)])], ignore_index=True)
        order = {name: place for place, name in enumerate((*TABLES, *GENERATIONS))}
        known = known.sort_values("case", key=lambda names: names.map(order))
        known.to_csv(RESULTS, index=False, float_format="%.4g")
        print(known[known["case"] == case].to_string(index=False), file=sys.stderr)


if __name__ == "__main__":
    main()
