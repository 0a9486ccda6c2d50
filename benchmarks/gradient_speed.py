"""Gradient norms and self-influence of single samples against peers: seconds and numbers, in one run.

    python -m venv peers && peers/bin/pip install -c constraints.txt -e '.[dask]' pyDeprecate zarr
    peers/bin/pip install --no-deps -r benchmarks/requirements-peers.txt
    peers/bin/python benchmarks/gradient_speed.py --targets fashion-cnn --threads 1    # others' rows stay in the table
    peers/bin/python benchmarks/gradient_speed.py               # about 25 minutes on 2 cores

Same model, samples, batch size and threads; the ways take turns and the median over the turns counts. Ours is timed
from a fresh ``Probes`` on, with everything it finds out about the model; what peers wrap or register beforehand is not.

- ``gradient_norm``: the norm over all parameters. captum's and dattri's self-influence at one checkpoint is its square.
- ``self_influence``: gᵀF⁻¹g with the diagonal empirical Fisher matrix. No peer has it, so it is made from each peer's
  gradients of single samples: one pass sums up g², a second one weighs it. (Ghost clipping has norms only.)

Columns: ``times`` is seconds over ours. ``difference`` is the largest relative difference from ours over all samples
with the same loss, log(1 + Σ exp(l_k - l_y)), which does not cancel for sure predictions. ``error`` is the largest
relative error against double precision with the loss as everybody writes it, ``F.cross_entropy`` (ours as it is).
"""

from __future__ import annotations

import argparse
import copy
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from forgetcast.corpus.zoo import datasets
from forgetcast.corpus.zoo.recipes import published
from forgetcast.corpus.zoo.torchvision_import import torchvision
from forgetcast.factors.probes.passes import DAMPING
from forgetcast.factors.probes.probes import Probes
from forgetcast.target.logits import cross_entropy
from forgetcast.target.target import Target

TARGETS = ("fashion-cnn", "fashion-mlp", "fashion-attention")
BATCH = 256

Loss = Callable[[Tensor, Tensor], Tensor]
"""Loss of every sample, shape (b,), from logits (b, C) and labels."""
Gradients = Callable[[], Iterator[list[Tensor]]]
"""Yields, batch by batch, the gradients (b, ...) of single samples in every parameter."""


@dataclass(frozen=True)
class Peer:
    """One way to get the numbers: prepared, ready to run any number of times."""

    library: str
    way: str
    norms: Callable[[], Tensor]
    gradients: Gradients | None = None

    def run(self, quantity: str) -> Callable[[], Tensor] | None:
        """What computes ``gradient_norm`` or ``self_influence``, shape (n,); None where there is none."""
        if quantity == "gradient_norm":
            return self.norms
        return None if self.gradients is None else partial(_self_influence, self.gradients)


def _norms(gradients: Gradients) -> Tensor:
    return torch.cat([sum(g.flatten(1).square().sum(1) for g in parts) for parts in gradients()]).sqrt()


def _self_influence(gradients: Gradients) -> Tensor:
    total: list[Tensor] = []
    count = 0
    for parts in gradients():
        squares = [g.square().sum(0) for g in parts]
        total = [a + b for a, b in zip(total, squares, strict=True)] if total else squares
        count += len(parts[0])
    fisher = [part / count for part in total]
    floor = DAMPING * sum(float(f.sum()) for f in fisher) / sum(f.numel() for f in fisher)
    weights = [(1 / (f + floor)).flatten() for f in fisher]
    return torch.cat(
        [sum(g.flatten(1).square() @ w for g, w in zip(parts, weights, strict=True)) for parts in gradients()]
    )


def ours(model: nn.Module, x: Tensor, y: Tensor) -> Peer:
    target = Target(model, (x, y), batch_size=BATCH)

    class Ours(Peer):
        def run(self, quantity: str) -> Callable[[], Tensor]:
            return lambda: getattr(Probes(target, expected={quantity}), quantity)

    return Ours("forgetcast", "Probes", lambda: Probes(target, expected={"gradient_norm"}).gradient_norm)


def torch_func(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Peer:
    params = {name: p.detach() for name, p in model.named_parameters()}

    def of_one(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, params, x[None]), y[None])[0]

    each = vmap(grad(of_one), in_dims=(None, 0, 0))

    def gradients() -> Iterator[list[Tensor]]:
        for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True):
            yield list(each(params, a, b).values())

    return Peer("torch", "vmap(grad)", partial(_norms, gradients), gradients)


def opacus(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Peer:
    from opacus import GradSampleModule

    wrapped = GradSampleModule(model, loss_reduction="sum", strict=False).train()  # no layer here minds the mode
    parameters = list(wrapped.parameters())

    def gradients() -> Iterator[list[Tensor]]:
        for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True):
            for p in parameters:
                p.grad = p.grad_sample = None
            loss(wrapped(a), b).sum().backward()
            yield [p.grad_sample for p in parameters]

    return Peer("opacus", "GradSampleModule", partial(_norms, gradients), gradients)


def ghost(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Peer:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", strict=False).train()

    def norms() -> Tensor:
        found = []
        for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True):
            wrapped.zero_grad()
            loss(wrapped(a), b).sum().backward()
            found.append(wrapped.get_norm_sample())
        return torch.cat(found)

    return Peer("opacus", "ghost clipping", norms)


def captum(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Peer:
    from captum.influence import TracInCP

    supported = (nn.Linear, nn.Conv2d)
    fast = all(isinstance(m, supported) or not list(m.parameters(recurse=False)) for m in model.modules())

    def summed(logits: Tensor, labels: Tensor) -> Tensor:
        return loss(logits, labels).sum()

    summed.reduction = "sum"  # type: ignore[attr-defined]
    tracin = TracInCP(
        model,
        TensorDataset(x, y),
        ["as it is"],
        lambda _model, _checkpoint: 1.0,
        loss_fn=summed if fast else loss,
        batch_size=BATCH,
        sample_wise_grads_per_batch=fast,
    )

    def gradients() -> Iterator[list[Tensor]]:
        for a, b in tracin.train_dataloader:
            jacobians = tracin._basic_computation_tracincp((a,), b, tracin.loss_fn, tracin.reduction_type)
            yield [j.detach() for j in jacobians]

    def norms() -> Tensor:
        return tracin.self_influence(outer_loop_by_checkpoints=True).detach().sqrt()

    return Peer("captum", f"TracInCP, {'by batch' if fast else 'one by one'}", norms, gradients)


def dattri(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Peer:
    import dattri.algorithm.tracin as module
    from dattri.task import AttributionTask

    module.tqdm = lambda batches, **_: batches  # its bars cannot be turned off

    def of_one(params: dict[str, Tensor], sample: tuple[Tensor, Tensor]) -> Tensor:
        return loss(functional_call(model, params, sample[0][None]), sample[1][None])[0]

    task = AttributionTask(loss_func=of_one, model=model, checkpoints=model.state_dict())
    attributor = module.TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=False)
    attributor.projector_kwargs = None  # the argument None means its default, a random projection
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH)

    def gradients() -> Iterator[list[Tensor]]:
        params, _ = task.get_param(ckpt_idx=0)
        for batch in loader:
            yield [attributor.grad_loss_func(params, tuple(batch)).detach()]

    return Peer("dattri", "TracInAttributor", lambda: attributor.self_attribute(loader).sqrt(), gradients)


def pydvl(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Peer:
    from pydvl.influence.torch.base import TorchBatch, TorchGradientProvider

    params = {name: p.detach() for name, p in model.named_parameters()}
    provider = TorchGradientProvider(model, lambda logits, labels: loss(logits, labels)[0], params)

    def gradients() -> Iterator[list[Tensor]]:
        for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True):
            yield list(provider.grads(TorchBatch(a, b)).values())

    return Peer("pyDVL", "TorchGradientProvider", partial(_norms, gradients), gradients)


def traker(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Peer:
    from trak.gradient_computers import FunctionalGradientComputer
    from trak.modelout_functions import AbstractModelOutput

    class LossOutput(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(model: nn.Module, weights: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
            return loss(functional_call(model, (weights, buffers), x[None]), y[None])[0]

        def get_out_to_loss_grad(self, *_: Any) -> Tensor:
            raise NotImplementedError

    computer = FunctionalGradientComputer(model, LossOutput(), 0, torch.float32, torch.device("cpu"))

    def gradients() -> Iterator[list[Tensor]]:
        for batch in zip(x.split(BATCH), y.split(BATCH), strict=True):
            yield [g.detach() for g in computer.compute_per_sample_grad(batch).values()]

    return Peer("traker", "FunctionalGradientComputer", partial(_norms, gradients), gradients)


PEERS = (torch_func, opacus, ghost, captum, dattri, pydvl, traker)


def measure(name: str, samples: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of the table for one target."""
    (x, y), _ = datasets.load("fashion-mnist")
    x, y = x[:samples].clone(), y[:samples].clone()
    module = published(name).build().module

    def model() -> nn.Module:
        plain = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # opacus is wrong for other layouts
        return plain.requires_grad_(True).eval()

    exact = torch_func(model().double(), x.double(), y, cross_entropy)
    plain = partial(F.cross_entropy, reduction="none")
    ways = [ours(model(), x, y), *(make(model(), x, y, plain) for make in PEERS)]
    same = [ways[0], *(make(model(), x, y, cross_entropy) for make in PEERS)]
    records = []
    for quantity in ("gradient_norm", "self_influence"):
        runs = {way: run for way in ways if (run := way.run(quantity)) is not None}
        values = {way: run() for way, run in runs.items()}
        seconds: dict[Peer, list[float]] = {way: [] for way in runs}
        for _ in range(repeats):
            for way, run in runs.items():
                began = time.perf_counter()
                run()
                seconds[way].append(time.perf_counter() - began)
        median = {way: sorted(taken)[repeats // 2] for way, taken in seconds.items()}
        own, truth = values[ways[0]], exact.run(quantity)()
        for way, twin in zip(ways, same, strict=True):
            if way in runs:
                records.append(
                    {
                        "target": name,
                        "quantity": quantity,
                        "library": way.library,
                        "version": version(way.library),
                        "way": way.way,
                        "threads": torch.get_num_threads(),
                        "samples": samples,
                        "seconds": median[way],
                        "times": median[way] / median[ways[0]],
                        "difference": _apart(twin.run(quantity)(), own),
                        "error": _apart(values[way], truth),
                    }
                )
                print(records[-1], flush=True)
    return records


def _apart(got: Tensor, expected: Tensor) -> float:
    """Largest relative difference."""
    return float(((got.double() - expected.double()) / expected.double()).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--samples", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torchvision()  # opacus, pyDVL and traker import it; see there
    for threads, samples in product(arguments.threads, arguments.samples):
        torch.set_num_threads(threads)
        for name in arguments.targets:
            rows = pd.DataFrame(measure(name, samples, arguments.repeats))
            if arguments.out.is_file():
                before = pd.read_csv(arguments.out)
                again = (before[["target", "threads", "samples"]] == [name, threads, samples]).all(axis=1)
                rows = pd.concat([before[~again], rows])
            rows.to_csv(arguments.out, index=False, float_format="%.3g")


if __name__ == "__main__":
    main()
