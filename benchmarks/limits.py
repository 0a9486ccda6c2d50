"""What large data costs: seconds and memory of factor tables, bytes of a task, and generation on one and two workers.

    python benchmarks/limits.py                       # every case that limits.csv lacks; the largest takes 8 minutes
    python benchmarks/limits.py --case cnn-60000      # one case; its old row is replaced
    python benchmarks/limits.py --page                # only write limits.md anew

Every case runs in a process of its own, on one thread (generation: on one thread a worker). ``cpu_s`` is processor time
of the part that is measured, ``seconds`` its wall time; with one thread and nothing else running they agree, and
``cpu_s`` stays right where something else runs. ``peak_mb`` is the largest resident size of the process, ``before_mb``
that when model and data were there and the measured part began.

Cases of factor tables are named model-n; with -rows only the rows of 20 samples are asked for, with -d256 the last
layer has 256 inputs in place of 64, with -c100 there are 100 classes in place of 10. From these the page works out the
bytes that a sample costs, by width and by class.

- ``cnn``: the small convolutional network on Fashion-MNIST, one epoch of training, n/6 held-out samples.
- ``resnet18``: torchvision's ResNet-18 for one channel, not trained, on Fashion-MNIST.
- ``mlp``: a perceptron 64-64-10, not trained, on random clouds in 64 dimensions.

``reads`` counts how often every item of a dataset that is too large to be kept is read by each call.

``generate-1`` and ``generate-2`` measure 320 samples of a perceptron on digits for ``erase``, the default unlearners,
with so many worker processes, which are started and have imported everything before the clock runs; ``in_tasks_s`` adds
up what every task took where it ran. ``at-once`` is the machine's own ceiling: blocks of 64 samples in one process,
then the same in two at a time. Nothing else may run beside these three.
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
    "mlp-50000",
    "mlp-50000-d256",
    "mlp-50000-c100",
    "mlp-100000",
    "mlp-100000-d256",
    "mlp-100000-c100",
    "mlp-1000000-rows",
    "mlp-1000000",
)
CASES = (*TABLES, "reads", "at-once", "generate-1", "generate-2")


def peak() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pickled_bytes(value: Any) -> int:
    """What a task with this argument carries to its worker."""
    import cloudpickle

    return len(cloudpickle.dumps(value))


def make_target(model: str, n: int, width: int, classes: int) -> Any:
    """A target of a case."""
    import torch
    from torch import nn

    from forgetcast import Target
    from forgetcast.corpus.zoo import architectures, datasets
    from forgetcast.corpus.zoo.training import train_classifier

    if model == "mlp":
        generator = torch.Generator().manual_seed(0)
        y = torch.randint(0, classes, (n + n // 6,), generator=generator)
        x = torch.randn(len(y), 64, generator=generator) + torch.randn(classes, 64, generator=generator)[y]
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))
        return Target(made, (x[:n], y[:n]), heldout=(x[n:], y[n:]), batch_size=1024)
    (x, y), (x_heldout, y_heldout) = datasets.load("fashion-mnist")
    held = (x_heldout[: n // 6], y_heldout[: n // 6])
    if model == "cnn":
        made = architectures.build("cnn", x.shape[1:], 10)
        train_classifier(made, x[:n], y[:n], epochs=1)
    else:
        from forgetcast.corpus.zoo.torchvision_import import torchvision

        torch.manual_seed(0)
        made = torchvision().models.resnet18(weights=None, num_classes=10)
        made.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return Target(made, (x[:n], y[:n]), heldout=held)


def table(model: str, n: int, rows: int | None, width: int, classes: int) -> dict[str, Any]:
    """Seconds and memory of one factor table."""
    import torch

    from forgetcast.factors import factor_table

    torch.set_num_threads(1)
    target = make_target(model, n, width, classes)
    head = target.head
    described = {
        "n": n,
        "rows": rows or n,
        "parameters": sum(value.numel() for value in target.params.values()),
        "classes": target.num_classes,
        "width": None if head is None else head.weight.shape[1],
        "input_bytes": target.data.fetch([0])[0].nbytes,
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


def clocked(function: Any, *arguments: Any) -> tuple[float, float]:
    """When a task began and ended; the clock is one for all processes of a machine."""
    began = time.perf_counter()
    function(*arguments)
    return began, time.perf_counter()


def start(warm: Any, workers: int) -> None:
    """Wait until so many processes have done ``warm(index)``, which returns the process's number."""
    from forgetcast.parallel import run_tasks

    ready: set[int] = set()
    while len(ready) < workers:  # the first worker may do all while the second imports
        ready |= {*run_tasks(warm, [(index,) for index in range(2 * workers)], n_jobs=workers, progress=False)}


def at_once() -> dict[str, Any]:
    """Seconds of the same arithmetic in one process, and in each of two at once."""
    from forgetcast.corpus.tasks import outcome_block
    from forgetcast.corpus.zoo.recipes import published
    from forgetcast.parallel import run_tasks

    target = published("digits-mlp").build()

    def block(repeats: int) -> int:
        for _ in range(repeats):
            outcome_block(target, "neggrad_plus", np.arange(64), np.full(64, 0.3), 0, ["erase"])
        return os.getpid()

    start(block, 2)
    work = [(block, 15), (block, 15)]
    alone, both = (np.diff(run_tasks(clocked, part, n_jobs=2, progress=False)) for part in (work[:1], work))
    return {"workers": 2, "seconds": float(alone.max()), "at_once_s": float(both.max())}


def generation(workers: int) -> dict[str, Any]:
    """Seconds of measuring 320 samples, with so many workers."""
    from forgetcast.corpus.labels import CONSENSUS
    from forgetcast.corpus.measuring import measure
    from forgetcast.corpus.tasks import MeasurementSettings, outcome_tasks
    from forgetcast.corpus.zoo.recipes import published
    from forgetcast.parallel import run_tasks

    target = published("digits-mlp").build()
    settings: dict[str, Any] = {"objectives": ["erase"], "progress": False}

    def warm(index: int) -> int:
        measure(target, [index], unlearners=["gradient_ascent", "influence"], **settings)
        return os.getpid()

    start(warm, workers)
    instances = pd.DataFrame({"index": np.arange(320), "p_out": np.nan})
    plan = MeasurementSettings(CONSENSUS, ["erase"], 2, 20, 4, 0, 0)
    tasks = outcome_tasks(target, instances, plan)
    work = [(task.function, *task.arguments) for task in tasks]
    began = time.perf_counter()
    clocks = np.array(run_tasks(clocked, work, n_jobs=workers, progress=False))
    seconds = time.perf_counter() - began
    return {
        "n": len(target),
        "rows": 320,
        "parameters": sum(value.numel() for value in target.params.values()),
        "workers": workers,
        "seconds": seconds,
        "tasks": len(tasks),
        "in_tasks_s": float((clocks[:, 1] - clocks[:, 0]).sum()),
        "task_mb": pickled_bytes(target) / 2**20,
    }


class Counted:
    """A dataset that counts how often it is read."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y, self.read = x, y, 0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.read += 1
        return self.x[index], int(self.y[index])


def reads() -> dict[str, Any]:
    """How often every item is read by the calls that a user makes."""
    import torch
    from torch import nn

    from forgetcast import Target, predict_difficulty
    from forgetcast.corpus.measuring import measure
    from forgetcast.factors import factor_table
    from forgetcast.target import data

    data.CACHE_BYTES = 0
    n, generator = 8000, torch.Generator().manual_seed(0)
    counted = Counted(torch.randn(n, 20, generator=generator), torch.randint(0, 5, (n,), generator=generator))
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
    held = (counted.x[:500] + 1, counted.y[:500])
    found: dict[str, Any] = {"n": n}

    def count(name: str, call: Any) -> Any:
        counted.read = 0
        result = call()
        found[f"reads_{name}"] = counted.read / n
        return result

    target = count("target", lambda: Target(model, counted, heldout=held))
    count("table", lambda: factor_table(target))
    count("rows", lambda: factor_table(target, indices=range(20)))
    count("hash", lambda: target.data_hash)
    count("predict", lambda: predict_difficulty(target))
    erase: dict[str, Any] = {"objectives": ["erase"], "unlearners": ["gradient_ascent"], "progress": False}
    count("measure_1", lambda: measure(target, range(1), **erase))
    count("measure_20", lambda: measure(target, range(20), **erase))
    return found


def run(case: str) -> dict[str, Any]:
    """One case, in this process."""
    kind, *rest = case.split("-")
    if kind == "reads":
        return {"case": case, **reads()}
    if case == "at-once":
        return {"case": case, **at_once()}
    if kind == "generate":
        return {"case": case, **generation(int(rest[0]))}
    extra = {part[0]: int(part[1:]) for part in rest[1:] if part != "rows"}
    rows = 20 if "rows" in rest else None
    return {"case": case, **table(kind, int(rest[0]), rows, extra.get("d", 64), extra.get("c", 10))}


def page(found: pd.DataFrame) -> str:
    """The figures as a page, with what follows from them; every formula is beside its result."""
    known = found.set_index("case").assign(added_mb=lambda table: table["peak_mb"] - table["before_mb"])
    tables = known.loc[[case for case in TABLES if case in known.index]]

    def slope(small: str, large: str, column: str = "cpu_s") -> float:
        """Growth of a column by sample."""
        less, more = known.loc[small], known.loc[large]
        return float((more[column] - less[column]) / (more["n"] - less["n"]))

    def added(case: str) -> float:
        """Bytes a sample that the table takes beside model and data."""
        return float(known.loc[case, "added_mb"] * 2**20 / known.loc[case, "n"])

    lines = [
        "# Limits",
        "",
        "Made by `python benchmarks/limits.py`, which says what each case is. One thread on one core of a shared",
        "machine: processor seconds, which other work hardly changes. Memory: largest resident size of the process.",
        "",
        "| case | parameters | cpu s | ms a sample | memory before, MB | peak, MB | task, MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case, row in tables.iterrows():
        lines.append(
            f"| {case} | {row['parameters']:,.0f} | {row['cpu_s']:,.1f} | {1000 * row['cpu_s'] / row['n']:.3g} | "
            f"{row['before_mb']:,.0f} | {row['peak_mb']:,.0f} | {row['task_mb']:,.1f} |"
        )
    lines += [
        "",
        "*task*: what a task with this target carries to its worker, pickled. Memory before the table has libraries",
        "(about 340 MB) and the data; with Fashion-MNIST also what reading the file took for a moment.",
        "",
        "## What follows",
        "",
    ]
    million = next((case for case in ("mlp-1000000", "mlp-1000000-rows") if case in known.index), None)
    if million and {"mlp-100000", "mlp-100000-d256", "mlp-100000-c100"} <= set(known.index):
        by_width = (added("mlp-100000-d256") - added("mlp-100000")) / (256 - 64)
        by_class = (added("mlp-100000-c100") - added("mlp-100000")) / (100 - 10)
        each = added(million) - 64 * by_width - 10 * by_class
        imagenet = each + 2048 * by_width + 1000 * by_class
        lines += [
            "- **Memory of a whole table**, beside model and data: about n "
            f"({each:,.0f} + {by_width:.0f} d + {by_class:.0f} C) bytes, with n",
            "  samples, d inputs of the last layer (here the middle layer's output too) and C classes. By width and by",
            "  class: differences at 100,000 samples to `-d256` and `-c100`, over 192 and 90; the rest from",
            f"  `{million}`, {added(million):,.0f} bytes a sample. Small tables take more, for blocks have a size",
            f"  of their own: `mlp-100000` {added('mlp-100000'):,.0f}, `mlp-50000` {added('mlp-50000'):,.0f}. Runs",
            "  of one case differed by up to twofold at the peak: parts that were kept in lists broke up the memory.",
            "  They go into one array since (`target/preallocated.py`): a table like `mlp-50000-d256` peaked at 1,091",
            "  to 1,970 MB in ten runs before, and at 1,089 to 1,109 in nine after.",
            f"- **n = 1.28 million, d = 2048, C = 1000** by that formula: {imagenet:,.0f} bytes a sample,",
            f"  {imagenet * 1.28e6 / 1e9:,.0f} GB. Extrapolated: neither such a width nor so many classes were run.",
        ]
    if {"resnet18-1000", "resnet18-2000"} <= set(known.index):
        each = slope("resnet18-1000", "resnet18-2000")
        lines += [
            f"- **60,000 samples with ResNet-18** (11.2 million parameters, 28 x 28): {each * 1000:.1f} ms a sample",
            f"  from 1000 to 2000, so at most {each:.4f} x 60,000 = {each * 60_000:,.0f} s on one core, extrapolated.",
            "  At most: the Fisher diagonal of self-influence stops at 5000 samples, up to which it takes a share.",
        ]
    if {"cnn-10000", "cnn-60000"} <= set(known.index):
        lines.append(
            f"- **The small CNN**: {slope('cnn-10000', 'cnn-60000') * 1000:.2f} ms a sample from 10,000 to 60,000; "
            "growth is linear."
        )
    if {"mlp-100000", "mlp-1000000"} <= set(known.index):
        hundred, whole = (
            known.loc[case, "cpu_s"] / known.loc[case, "n"] * 1000 for case in ("mlp-100000", "mlp-1000000")
        )
        lines += [
            f"- **The perceptron**: {hundred:.2f} ms a sample at 100,000, {whole:.2f} at a million: the three searches",
            "  for neighbours, two thirds of the time there, compare every sample with n / 256 centres of cells.",
        ]
    if "mlp-1000000-rows" in known.index:
        row = known.loc["mlp-1000000-rows"]
        lines.append(
            f"- **20 of a million samples**: {row['cpu_s']:,.0f} s and {row['peak_mb']:,.0f} MB at the peak, "
            f"{row['before_mb']:,.0f} MB of them there before."
        )
    if "reads" in known.index:
        names = {
            "target": "making a `Target`",
            "table": "factor table",
            "rows": "20 rows of it",
            "hash": "hash of the data",
            "predict": "`predict_difficulty`",
            "measure_1": "`measure`, the first task of a worker",
            "measure_20": "`measure`, 20 samples later",
        }
        lines += ["", "## Passes", "", "How often an item of a dataset of 8000, too large to be kept, is read:", ""]
        lines += ["| call | reads an item |", "| --- | --- |"]
        lines += [f"| {what} | {known.loc['reads', f'reads_{name}']:.2f} |" for name, what in names.items()]
        lines += ["", "The table's fraction is the Fisher diagonal, 5000 of 8000 samples; of n it is min(n, 5000) / n."]
    if {"at-once", "generate-1", "generate-2"} <= set(known.index):
        one, two, ceiling = known.loc["generate-1"], known.loc["generate-2"], known.loc["at-once"]
        lines += [
            "",
            "## Workers",
            "",
            f"Measuring 320 samples of `digits-mlp` for `erase`, {one['tasks']:.0f} tasks, nothing else running: "
            f"{one['seconds']:.1f} s with one",
            f"worker, {two['seconds']:.1f} s with two, **{one['seconds'] / two['seconds']:.2f} times as fast**. "
            "What the cores allow (`at-once`): two processes get",
            f"through the same arithmetic {2 * ceiling['seconds'] / ceiling['at_once_s']:.2f} times as fast as one. "
            "Where the seconds of two workers go:",
            "",
            "| part | s |",
            "| --- | --- |",
            f"| half of what one worker spends in tasks | {one['in_tasks_s'] / 2:.2f} |",
            "| tasks take longer where two run (memory and cache in common; each worker prepares the target) | "
            f"{(two['in_tasks_s'] - one['in_tasks_s']) / 2:.2f} |",
            "| sending tasks and results, and waiting for the last one | "
            f"{two['seconds'] - two['in_tasks_s'] / 2:.2f} |",
            "",
            "An earlier table said 0.84 times as fast. Measured again while other work ran on both cores, it was 0.95,",
            "so that is probably what happened then.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--worker", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(run(arguments.worker)))
        return
    known = pd.read_csv(RESULTS) if RESULTS.is_file() else pd.DataFrame({"case": []})
    wanted = [] if arguments.page else arguments.case or [c for c in CASES if c not in set(known["case"])]
    for case in wanted:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, __file__, "--worker", case], check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        known = pd.read_csv(RESULTS) if RESULTS.is_file() else known  # another run may have added to it
        known = pd.concat([known[known["case"] != case], pd.DataFrame([json.loads(done.stdout)])], ignore_index=True)
        order = {name: place for place, name in enumerate(CASES)}
        known = known.sort_values("case", key=lambda names: names.map(order))
        known.dropna(axis=1, how="all").to_csv(RESULTS, index=False, float_format="%.6g")
        print(known[known["case"] == case].to_string(index=False), file=sys.stderr)
    PAGE.write_text(page(pd.read_csv(RESULTS)))


if __name__ == "__main__":
    main()
