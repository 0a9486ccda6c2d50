"""How long does a queue of 500 deletion requests against a Fashion-MNIST model take, once the factor table exists?

    python benchmarks/queue_speed.py        # about 5 minutes on 2 cores, most of it training and the factor table

A small convolutional network is trained on the 60,000 samples of Fashion-MNIST, its factor table is worked out, and
``forgetcast prescreen`` then runs as a command, start-up included: on 500 requests, and on the same with 20 broken rows
among them, all with page and record. Writes ``queue_speed.csv``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from forgetcast.corpus.zoo import datasets
from forgetcast.corpus.zoo.architectures import build

HERE = Path(__file__).parent
REQUESTS, EPOCHS, REPEATS = 500, 3, 3
BROKEN = (
    "abc,x", "-3,x", "99999999,x", "7.5,x", "NaN,x", ",x", "1,2,3", "true,x", "1e400,x", '"unclosed,x', "60000,x",
    "0x10,x", "3;4,x", "' OR 1=1,x", "5 5,x", "12", "{first},again", "{second},again", "٣,x", "null,x",
)  # fmt: skip
FACTORY = """
from forgetcast.corpus.zoo.architectures import build
def cnn():
    return build("cnn", (1, 28, 28), 10)
"""


def main() -> None:
    (x, y), (x_heldout, y_heldout) = datasets.load("fashion-mnist")
    model = trained(x, y)
    with torch.no_grad():
        accuracy = float((model(x_heldout).argmax(1) == y_heldout).float().mean())
    chosen = np.random.default_rng(0).permutation(len(y))[:REQUESTS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "queue_models.py").write_text(FACTORY)
        save_file(model.state_dict(), folder / "cnn.safetensors")
        lines = ["index,reason", *(f"{index},moved away" for index in chosen)]
        broken = [row.format(first=chosen[0], second=chosen[1]) for row in BROKEN]
        for place, row in enumerate(broken):
            lines_at = 30 + 23 * place
            lines.insert(lines_at, row)
        (folder / "broken.csv").write_text("\n".join(lines) + "\n")
        (folder / "requests.csv").write_text("\n".join(line for line in lines if line not in broken) + "\n")
        records = []
        for objective in ("retrain", "erase"):
            seconds, _ = run(folder, "requests.csv", objective)
            print(f"{objective}: {seconds:.0f} s with the factor table, if it was not there yet", flush=True)
            for requests in ("requests.csv", "broken.csv"):
                times = []
                for _ in range(REPEATS):
                    seconds, problems = run(folder, requests, objective)
                    times.append(seconds)
                    served = len(pd.read_csv(folder / "queue.csv"))
                records.append(
                    {"objective": objective, "requests": requests, "served": served, "reported": problems}
                    | {"median_s": np.median(times), "slowest_s": max(times), "repeats": REPEATS}
                    | {"training_samples": len(y), "accuracy": accuracy}
                )
                print(records[-1], flush=True)
    pd.DataFrame(records).round(3).to_csv(HERE / "queue_speed.csv", index=False)


def trained(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """A convolutional network after a few epochs."""
    model = build("cnn", (1, 28, 28), 10)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(y), generator=generator).split(128):
            optimiser.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model.eval()


def run(folder: Path, requests: str, objective: str) -> tuple[float, int]:
    """Seconds of one command, its page and record included, and how many rows it reported."""
    command = [sys.executable, "-m", "forgetcast", "prescreen", "--requests", requests, "--objective", objective]
    command += ["--model", "queue_models:cnn", "--weights", "cnn.safetensors", "--dataset", "fashion-mnist"]
    command += ["--heldout", "fashion-mnist", "--factors", "factors", "--out", "queue.csv", "--html", "queue.html"]
    command += ["--record", "decisions.jsonl", "--quiet"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds, sum(line.startswith("row ") for line in done.stderr.splitlines())


if __name__ == "__main__":
    main()
