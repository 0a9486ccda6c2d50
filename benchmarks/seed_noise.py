"""How far a forecast moves for reasons that are none: another seed, another order, other class numbers, another dtype.

    python benchmarks/seed_noise.py               # about 10 minutes on 2 cores

Six models that are no part of the corpus are trained here: digits (200 and 1,200 samples), breast cancer, Satellite,
Letter and Fashion-MNIST. Each is forecast with the seeds 0 to 4, and once more with its samples shuffled, its classes
renumbered, and its inputs stored as float64. A row of the table is an objective of a model: the difference of
percentile and p_trivial that 95 % of the samples stay below (over all pairs of seeds), and the largest one.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forgetcast import predict_difficulty
from forgetcast.corpus.zoo import datasets

COLUMNS = ("percentile", "p_trivial")


def perceptron(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, classes))


def convolutional(classes: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, classes)),
    )


def cases() -> Iterator[tuple[str, nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Name, trained model, training and held-out data."""
    for name, dataset, n, steps in (
        ("digits-200", "digits", 200, 80),
        ("digits-1200", "digits", 1200, 300),
        ("breast-cancer", "breast-cancer", 400, 150),
        ("satellite", "satellite", 2000, 500),
        ("letter", "letter", 3000, 800),
        ("fashion", "fashion-mnist", 2000, 300),
    ):
        (x, y), (x_out, y_out) = datasets.load(dataset)
        chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(7))[:n]
        x, y, x_out, y_out = x[chosen].float(), y[chosen].clone(), x_out[:500].float(), y_out[:500]
        if dataset != "fashion-mnist":
            x, x_out = x.flatten(1), x_out.flatten(1)
        classes = int(y.max()) + 1
        noisy = torch.rand(len(y), generator=torch.Generator().manual_seed(8)) < 0.05
        y[noisy] = torch.randint(classes, (int(noisy.sum()),), generator=torch.Generator().manual_seed(9))
        torch.manual_seed(0)
        model = convolutional(classes) if x.ndim == 4 else perceptron(x.shape[1], classes)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
        for _ in range(steps):
            batch = torch.randint(len(y), (128,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        yield name, model.eval(), (x, y), (x_out, y_out)


def forecast(model: nn.Module, data: Any, heldout: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of the forecast by objective and name, each of shape (n,)."""
    table = predict_difficulty(model, data, heldout=heldout, objective="both", seed=seed).table
    return {
        f"{name} {column}": part[column].to_numpy() for name, part in table.groupby("objective") for column in COLUMNS
    }


def renumbered(model: nn.Module, order: Tensor) -> nn.Module:
    """The model with class ``order[k]`` as its class k."""
    other = copy.deepcopy(model)
    last: Any = other[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
    return other


def apart(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """What 95 % of the differences stay below, and the largest."""
    gaps = np.abs(np.concatenate([one - other for one, other in pairs]))
    return float(np.quantile(gaps, 0.95)), float(gaps.max())


def measure(seeds: int) -> pd.DataFrame:
    rows = []
    for name, model, (x, y), heldout in cases():
        began = time.perf_counter()
        by_seed = [forecast(model, (x, y), heldout, seed) for seed in range(seeds)]
        seconds = (time.perf_counter() - began) / seeds
        shuffle = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
        classes = torch.randperm(int(y.max()) + 1, generator=torch.Generator().manual_seed(2))
        number = classes.argsort()
        back = shuffle.argsort().numpy()
        others = {
            "order": {key: value[back] for key, value in forecast(model, (x[shuffle], y[shuffle]), heldout).items()},
            "classes": forecast(renumbered(model, classes), (x, number[y]), (heldout[0], number[heldout[1]])),
            "dtype": forecast(model, (x.double(), y), heldout),
        }
        for key in by_seed[0]:
            row: dict[str, Any] = {"model": name, "forecast": key, "n": len(y), "seconds": seconds}
            row["seed_95"], row["seed_max"] = apart([(a[key], b[key]) for a, b in combinations(by_seed, 2)])
            for what, other in others.items():
                row[f"{what}_95"], row[f"{what}_max"] = apart([(by_seed[0][key], other[key])])
            rows.append(row)
            print(row, flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("seed_noise.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = measure(arguments.seeds)
    table.round(5).to_csv(arguments.out, index=False)
    print(table.to_string())


if __name__ == "__main__":
    main()
