"""How fast labels are made: the engine against a plain loop and against itself one sample at a time, in one run.

    python benchmarks/label_speed.py                # about 10 minutes on 2 cores
    python benchmarks/label_speed.py --recipe fashion-cnn --unlearner neggrad_plus   # a part of it, into the same table

The plain loop is what public unlearning code does, kept to the same protocol so that the labels can be compared: per
sample it deep-copies the model and a control, takes every step with autograd, evaluates utility (400 retained and 400
held-out samples, 20 neighbours; unlearned and control) after every step, and relearns at every crossing. Its model and
images lie in memory as a user hands them over, which is PyTorch's default; ``plain_channels_last`` is the same loop on
the weights as a ``Target`` lays them out, which public code does not do (only where there are convolutions). Loops and
"one at a time" get all cores as torch threads; the engine gets as many processes with one thread each. Before the clock
starts every way has run once: processes are there, and what all samples of a target share (data, the target's
predictions, the rate of retain steps) is prepared. The engine's time, the shortest, is the median of three.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from forgetcast import registry
from forgetcast.corpus.labels import difficulty
from forgetcast.corpus.sampling import draw_instances
from forgetcast.corpus.tasks import BLOCK, Prepared, outcome_block
from forgetcast.corpus.zoo.recipes import published
from forgetcast.parallel import run_tasks
from forgetcast.target.logits import margin as margins
from forgetcast.target.target import Target
from forgetcast.unlearn import Protocol, run_unlearner
from forgetcast.unlearn.outcome import total_variation

RECIPES = ("digits-mlp", "fashion-cnn")
UNLEARNERS = ("gradient_ascent", "neggrad_plus", "random_relabelling")
OBJECTIVES = ("retrain", "erase")
PEERS = ("plain", "plain_channels_last", "one_at_a_time")
COLUMNS = [
    *("target", "unlearner", "instances"),
    *(f"{way}_per_s" for way in (*PEERS, "together")),
    *(f"{figure}_{way}" for figure in ("times", "rho") for way in PEERS),
]


def plain(target: Target, name: str, indices: np.ndarray, p_out: np.ndarray) -> pd.DataFrame:
    """The protocol as a plain loop over samples, on weights in the default layout; ``name`` is one of UNLEARNERS."""
    given = copy.deepcopy(target.module)
    for parameter in given.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return looped(target, given, name, indices, p_out)


def plain_channels_last(target: Target, name: str, indices: np.ndarray, p_out: np.ndarray) -> pd.DataFrame:
    """The same on the weights as the target lays them out."""
    return looped(target, target.module, name, indices, p_out)


def looped(target: Target, given: torch.nn.Module, name: str, indices: np.ndarray, p_out: np.ndarray) -> pd.DataFrame:
    """The plain loop on copies of the model ``given``."""
    protocol, method = Protocol(), registry.unlearner(name)
    bench = Prepared.bench(target)
    scale = float(torch.cat([value.flatten() for value in target.params.values()]).norm())
    records = []
    for index, p in zip(indices.tolist(), p_out.tolist(), strict=True):
        x, y = target.data.fetch([index])
        model, control = copy.deepcopy(given), copy.deepcopy(given)
        for network in (model, control):
            network.requires_grad_(True)
        near, _ = target.data.fetch(bench.neighbours(torch.tensor([index]))[0])
        drawn = torch.Generator().manual_seed((0 * 1_000_003 + index * 7919 + 17) % (2**63))
        wrong = (y + int(torch.randint(1, target.num_classes, (), generator=drawn))) % target.num_classes
        batches = torch.Generator().manual_seed(0)
        limit = {"retrain": p + protocol.slack, "erase": 0.0}

        def value(objective: str, network: torch.nn.Module, x=x, y=y) -> float:
            with torch.no_grad():
                logits = network(x)
            return float(logits.softmax(1)[0, y]) if objective == "retrain" else float(margins(logits, y))

        @torch.no_grad()
        def damage(one: torch.nn.Module, other: torch.nn.Module, near=near) -> list[float]:
            parts = (bench.retain_x, bench.test_x, near)
            return [float(total_variation(one(part), other(part))) for part in parts]

        waiting = {o for o in OBJECTIVES if value(o, model) > limit[o]}
        records += [(index, o, 0.0, 0.0) for o in OBJECTIVES if o not in waiting]
        for t in range(method.steps):
            if not waiting:
                break
            before = [copy.deepcopy(network.state_dict()) for network in (model, control)]
            loss = F.cross_entropy(model(x), wrong) if name == "random_relabelling" else -F.cross_entropy(model(x), y)
            _step(model, loss, method.first_step * method.growth**t * scale, True)
            if method.retains:
                chosen = torch.randint(len(target), (method.batch_size,), generator=batches)
                kept_x, kept_y = target.data.fetch(chosen)
                mine = chosen != index
                _step(model, F.cross_entropy(model(kept_x)[mine], kept_y[mine]), method.retain_lr, False)
                _step(control, F.cross_entropy(control(kept_x), kept_y), method.retain_lr, False)
            damage(model, control)  # after every step, whether or not the goal is met
            for objective in sorted(waiting):
                if value(objective, model) <= limit[objective]:
                    low, high = 0.0, 1.0
                    probe, other = copy.deepcopy(model), copy.deepcopy(control)
                    for _ in range(protocol.bisections):
                        middle = (low + high) / 2
                        _mix(probe, before[0], model.state_dict(), middle)
                        low, high = (low, middle) if value(objective, probe) <= limit[objective] else (middle, high)
                    _mix(probe, before[0], model.state_dict(), high)
                    _mix(other, before[1], control.state_dict(), high)
                    retain, test, _ = damage(probe, other)
                    records.append((index, objective, retain, test))
                    goal = (value("retrain", given) + value("retrain", probe)) / 2
                    for _ in range(protocol.relearn_most):
                        if value("retrain", probe) >= goal:
                            break
                        _step(probe, F.cross_entropy(probe(x), y), protocol.relearn_lr, False)
                    waiting.discard(objective)
    frame = pd.DataFrame(records, columns=["index", "objective", "tv_retain", "tv_test"])
    return frame.assign(forgetting=1.0, unlearner=name)


def _step(network: torch.nn.Module, loss: torch.Tensor, length: float, normalised: bool) -> None:
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    if normalised:
        length /= float(torch.cat([g.flatten() for g in gradients]).norm().clamp_min(1e-20))
    with torch.no_grad():
        for parameter, g in zip(parameters, gradients, strict=True):
            parameter -= length * g


def _mix(network: torch.nn.Module, start: dict, end: dict, fraction: float) -> None:
    network.load_state_dict({k: torch.lerp(start[k], end[k], fraction) for k in start})


def one_at_a_time(target: Target, name: str, indices: np.ndarray, p_out: np.ndarray) -> pd.DataFrame:
    """The engine's own protocol, one sample per call; what is shared by all samples is prepared once."""
    method = registry.unlearner(name)
    bench, state = Prepared.bench(target), Prepared.state(target, method)
    parts = [
        run_unlearner(target, method, [i], [p], workbench=bench, state=state)
        for i, p in zip(indices.tolist(), p_out.tolist(), strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def together(target: Target, name: str, indices: np.ndarray, p_out: np.ndarray) -> pd.DataFrame:
    """The engine as the generator calls it: blocks of samples, spread over processes."""
    size = min(BLOCK, -(-len(indices) // (os.cpu_count() or 1)))
    blocks = [
        (target, name, indices[at : at + size], p_out[at : at + size], 0, OBJECTIVES)
        for at in range(0, len(indices), size)
    ]
    return pd.concat(run_tasks(outcome_block, blocks, n_jobs=-1, progress=False), ignore_index=True)


def agreement(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """Least Spearman correlation of difficulty over the objectives."""
    tables = []
    for frame in (a, b):
        tables.append(frame.assign(d=difficulty(frame)).set_index(["objective", "index"])["d"])
    both = pd.concat(tables, axis=1, keys=["a", "b"])
    return min(float(spearmanr(rows["a"], rows["b"]).statistic) for _, rows in both.groupby(level="objective"))


def timed(
    way: Callable[..., pd.DataFrame], target: Target, name: str, indices: np.ndarray, times: int
) -> tuple[float, pd.DataFrame]:
    """Median seconds of several runs, and what the last one returned."""
    seconds = []
    p_out = np.full(len(indices), 0.3)
    for _ in range(times):
        began = time.perf_counter()
        frame = way(target, name, indices, p_out)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)), frame


def measured(target: Target, name: str, indices: np.ndarray) -> dict[str, object]:
    """One row of the table."""
    seconds, frames = {}, {}
    convolutions = any(isinstance(layer, torch.nn.Conv2d) for layer in target.module.modules())
    others = (plain, *([plain_channels_last] if convolutions else []), one_at_a_time)
    for way in (*others, together):
        shared = way is together
        timed(way, target, name, indices if shared else indices[:2], 1)
        seconds[way], frames[way] = timed(way, target, name, indices, 3 if shared else 1)
    record = {"target": target.name, "unlearner": name, "instances": len(indices)}
    record |= {f"{way.__name__}_per_s": len(indices) / seconds[way] for way in seconds}
    record |= {f"times_{way.__name__}": seconds[way] / seconds[together] for way in others}
    return record | {f"rho_{way.__name__}": agreement(frames[way], frames[together]) for way in others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=128)
    parser.add_argument("--recipe", choices=RECIPES, action="append", help="default: all")
    parser.add_argument("--unlearner", choices=UNLEARNERS, action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("label_speed.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    table = pd.read_csv(arguments.out) if arguments.out.exists() else pd.DataFrame(columns=["target", "unlearner"])
    for recipe in arguments.recipe or RECIPES:
        target = published(recipe).build()
        indices = draw_instances(target, arguments.instances, 0)["index"].to_numpy()
        timed(together, target, UNLEARNERS[0], indices, 2)  # start the processes
        for name in arguments.unlearner or UNLEARNERS:
            record = measured(target, name, indices)
            print(record, flush=True)
            rest = table[(table["target"] != recipe) | (table["unlearner"] != name)]
            table = pd.concat([rest, pd.DataFrame([record])]) if len(rest) else pd.DataFrame([record])
            table = table.sort_values(["target", "unlearner"]).reindex(columns=COLUMNS)
            table.to_csv(arguments.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
