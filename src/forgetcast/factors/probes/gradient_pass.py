"""One forward and backward pass over the training data: the gradients of single samples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from forgetcast.errors import ForgetcastError, NotApplicableError, first_line
from forgetcast.factors.probes.gradient_norms import LayerTap, Terms, UnexplainedError, add_up
from forgetcast.factors.probes.layer_gradients import Entries, Measured, measured_layers
from forgetcast.factors.probes.plain_gradients import (
    broadcast_parameters,
    gradients_of_one,
    plain_parameters,
    plain_terms,
)
from forgetcast.target.inputs import Inputs, leaves, map_leaves
from forgetcast.target.layers import Layout, example_batch
from forgetcast.target.logits import autograd_slope, loss_slope, single
from forgetcast.target.preallocated import PreallocatedRows
from forgetcast.target.precision import exact_convolutions
from forgetcast.target.target import Target

__all__ = [
    "Parameters",
    "Score",
    "UnexplainedError",
    "gradient_batch",
    "gradient_pass",
    "measured_parameters",
    "real_tensor",
]

ACTIVATION_BUDGET = 1 << 27
"""Numbers that the activations of one batch may hold."""

CPU_ACTIVATIONS = 1 << 21
"""Likewise on the CPU, where activations that leave its cache take longer than the arithmetic; see LEAST_BATCH."""

LEAST_BATCH = 16
"""Samples that go together on the CPU all the same."""

EVERY = 16
"""While measuring, one sample of each of the first batches is compared, and then of every so-manieth."""

TOLERANCE = 1e-3
"""Relative error of a norm that is no rounding in single precision."""

PARAMETRIC = ("squares", "fisher", "influence")
"""Quantities that rest on gradients in the parameters."""

Quantity = str
"""``squares`` of parameter gradients, ``fisher``, ``influence``, ``margin`` (its gradient in the input), ``score``."""


@dataclass(frozen=True)
class Parameters:
    """The parameters whose gradients are measured, grouped by how their gradients are computed."""

    layers: list[Measured]
    """From inputs and output gradients of layers."""
    broadcast: list[str]
    """As copies of their own for every sample."""
    plain: list[str]
    """By plain differentiation."""
    left_out: list[str]
    """Not at all."""
    alone: bool = False
    """Whether the plain ones are never vectorised."""
    without_gradient: bool = False
    """Whether no gradient arrives at any parameter."""

    def names(self) -> list[str]:
        """Names of all that are measured, sorted."""
        return sorted({*self.broadcast, *self.plain, *(name for layer in self.layers for name in layer.names)})

    def without(self, target: Target, parts: Collection[str]) -> Parameters:
        """The same with some layers, or parameters outside of layers, measured in a way that rests on less."""
        moved = [name for layer in self.layers if layer.name in parts for name in layer.names]
        moved += [name for name in self.broadcast if name in parts]
        plain = plain_parameters(target, moved)
        return Parameters(
            [layer for layer in self.layers if layer.name not in parts],
            [name for name in self.broadcast if name not in parts],
            [*self.plain, *plain],
            [*self.left_out, *(name for name in moved if name not in plain)],
            self.alone or any(name in parts for name in self.plain),
        )


@dataclass(frozen=True)
class Score:
    """∇x log p_y of every sample."""

    narrow: Tensor
    """Sketched like the inputs, float32, shape (n, <= 512)."""
    norm: Tensor
    """Before the sketch, float64, shape (n,)."""
    width: int
    """Numbers in one input."""


def measured_parameters(target: Target, found: Layout) -> Parameters:
    """Group the parameters of the target by how their gradients are computed.

    The quick ways are compared with plain differentiation on a few samples of all classes, in one batch. Directions of
    the logits are random, so that well-fitted samples show differences too. What does not hold is measured plainly.
    """
    layers, others = measured_layers(target.module, found.layers, target.params)
    broadcast = broadcast_parameters(target, others)
    others = [name for name in others if name not in broadcast]
    plain = plain_parameters(target, others)
    parameters = Parameters(layers, broadcast, plain, [name for name in others if name not in plain])
    x, y = example_batch(target)
    slope = torch.randn(len(y), target.num_classes, generator=torch.Generator().manual_seed(0))
    slope = (slope / slope.norm(dim=1, keepdim=True)).to(target.device)
    while parameters.names():
        tap = LayerTap(parameters.layers, False)
        try:
            with _differentiating(target), tap:
                batch = _Batch(x, y, slope=slope)
                squares: dict[str, Tensor] = {}
                _sample_gradients(target, parameters, tap, batch, {"squares"}, by_group=squares)
                if _compare(target, parameters, batch, squares, range(0, len(y), 2)) == 0:
                    return Parameters([], [], [], parameters.names() + parameters.left_out, without_gradient=True)
            return parameters
        except UnexplainedError as found_out:
            parameters = parameters.without(target, found_out.parts)
        except Exception:  # cannot be differentiated: the pass over the data says why
            return parameters
    return parameters


def gradient_batch(target: Target, activations: int) -> int:
    """Samples to differentiate together when one sample has that many activations."""
    fitting = ACTIVATION_BUDGET // max(1, activations)
    if target.device.type == "cpu":
        fitting = min(fitting, max(LEAST_BATCH, CPU_ACTIVATIONS // max(1, activations)))
    return max(1, min(target.batch_size, fitting))


def gradient_pass(
    target: Target,
    parameters: Parameters,
    batches: Iterable[tuple[Tensor, Inputs, Tensor]],
    n: int,
    wanted: Collection[Quantity],
    *,
    weights: dict[str, Tensor] | None = None,
    narrow: Callable[[Tensor], Tensor],
) -> dict[Quantity, Any]:
    """Run every batch forward and backward once and return the wanted quantities, each with a reason in its place
    (a NotApplicableError) where it cannot be had.

    Backpropagation starts from the loss's slope divided by its largest entry, and what follows is multiplied by that
    in double precision: gradients of the surest samples keep their digits.

    Args:
        target: the model.
        parameters: whose gradients count for ``squares``, ``fisher`` and ``influence``.
        batches: (index, x, y) over all samples, in order.
        n: how many samples.
        wanted: any of ``squares`` (Σ_k g_k² of the loss gradient, float64, (n,)) and ``fisher`` (the mean of g² by
            group of parameters); ``margin`` (length of the margin's gradient in the input, float64, (n,)) and ``score``
            (a :class:`Score`).
        weights: w by group of parameters; goes with ``influence``, which is Σ_k w_k g_k², float64, (n,).
        narrow: sketch of rows (b, ...).

    Raises:
        UnexplainedError: some of the parameters must be measured in another way.
    """
    results: dict[Quantity, Any] = {}
    parts: dict[str, PreallocatedRows] = defaultdict(partial(PreallocatedRows, n))
    fisher: dict[str, Tensor] | None = {} if "fisher" in wanted else None
    left = set(wanted)

    def give_up(names: Iterable[Quantity], reason: str) -> None:
        for name in left.intersection(names):
            results[name] = NotApplicableError(reason)
            left.remove(name)

    if not parameters.names():
        listed = ", ".join(parameters.left_out[:5])
        reason = f"no layer's gradients can be measured sample by sample ({listed})"
        if parameters.without_gradient:
            reason = "the model cannot be differentiated: no gradient arrives at a trainable parameter"
        give_up(PARAMETRIC, reason)
    width = 0
    tap = LayerTap(parameters.layers, fisher is not None or weights is not None)
    with tap, _differentiating(target):
        for number, (_, x, y) in enumerate(batches):
            if not left:
                break
            batch = _Batch(target.to_device(x), y.to(target.device))
            if real_tensor(batch.x) is None:
                give_up(("margin", "score"), "the inputs are not one tensor of real numbers per sample")
            # with weights, the pass that they come from has looked
            look = weights is None and bool(left.intersection(PARAMETRIC)) and (number < 4 or number % EVERY == 0)
            by_group: dict[str, Tensor] | None = {} if look else None
            try:
                found = _sample_gradients(target, parameters, tap, batch, left, fisher, weights, by_group)
                if by_group is not None:
                    _compare(target, parameters, batch, by_group, [number % len(y)])
            except (ForgetcastError, UnexplainedError):
                raise
            except Exception as error:
                if not isinstance(error, RuntimeError | NotImplementedError) and not target.raised(error):
                    raise
                give_up(wanted, f"the model cannot be differentiated: {first_line(error)}")
                break
            scale = batch.scale.cpu()
            for name in ("squares", "influence"):
                if name in found:
                    parts[name].add(found[name].cpu().double() * scale.square())
            if "margin" in found:
                parts["margin"].add(_lengths(found["margin"]))
            if "score" in found:
                parts["score"].add(narrow(found["score"]) * scale.float()[:, None])
                parts["score norm"].add(_lengths(found["score"]) * scale)
                width = found["score"][0].numel()
    for name in left:
        if name == "fisher":
            results[name] = {group: total / n for group, total in (fisher or {}).items()}
        elif name == "score":
            results[name] = Score(parts[name].array, parts["score norm"].array, width)
        else:
            results[name] = parts[name].array
    return results


def real_tensor(x: Inputs) -> Tensor | None:
    """The one tensor of real numbers that a batch consists of, be it given by keyword; None for other inputs."""
    found = leaves(x)
    return found[0] if len(found) == 1 and found[0].is_floating_point() else None


def _lengths(gradient: Tensor) -> Tensor:
    """Norm of every sample's gradient (b, ...), float64 on the CPU."""
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1).cpu().double()


@contextmanager
def _differentiating(target: Target) -> Iterator[None]:
    """A block with gradients; cuDNN has no backward pass of recurrent layers in evaluation mode."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in target.module.modules())
    with torch.enable_grad(), exact_convolutions(cudnn=not recurrent):
        yield


@dataclass
class _Batch:
    """Some samples on the device, and from where backpropagation starts."""

    x: Inputs
    y: Tensor
    slope: Tensor | None = None
    """Gradients in the logits, (b, C); where none is given that of the loss, divided by ``scale``."""
    scale: Tensor = field(init=False)
    """Float64, (b,)."""

    def start(self, logits: Tensor, plain: bool) -> Tensor:
        """The slope at these logits (b, C); ``plain``: that of autograd, so that norms are the ones of a plain loop."""
        if self.slope is None:
            slope = autograd_slope(logits, self.y) if plain else loss_slope(logits.double(), self.y)
            self.scale = slope.abs().amax(1).clamp(min=1e-300)
            self.slope = (slope / self.scale[:, None]).float()
        else:
            self.scale = torch.ones(len(self.y), dtype=torch.float64, device=logits.device)
        return self.slope


def _sample_gradients(
    target: Target,
    parameters: Parameters,
    tap: LayerTap,
    batch: _Batch,
    wanted: Collection[Quantity],
    fisher: dict[str, Tensor] | None = None,
    weights: dict[str, Tensor] | None = None,
    by_group: dict[str, Tensor] | None = None,
) -> dict[Quantity, Tensor]:
    """``squares`` and ``influence`` (b,), ``margin`` and ``score`` (gradients in the input) of one batch, as far as
    wanted; all but the margin's in units of the batch's scale.
    """
    x, y = batch.x, batch.y
    rows, inside = len(y), any(name in wanted for name in PARAMETRIC)
    real = real_tensor(x) if "margin" in wanted or "score" in wanted else None
    leaf = None if real is None else real.detach().requires_grad_()
    copies = {
        name: target.params[name].expand(rows, *target.params[name].shape[1:]).detach().requires_grad_()
        for name in (parameters.broadcast if inside else ())
    }
    inputs = x if leaf is None else map_leaves(lambda _: leaf.clone(), x)
    forward = partial(target.call, copies, inputs) if copies else partial(target.forward, inputs)
    raw = tap.watch(forward) if inside else forward()
    logits = raw.float()
    found: dict[Quantity, Tensor] = {}
    if leaf is not None and "margin" in wanted:
        rival = logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
        margin = (logits.gather(1, y[:, None]) - logits.gather(1, rival)).sum()
        (gradient,) = torch.autograd.grad(margin, leaf, retain_graph=True)
        found["margin"] = gradient.float()
    slope = batch.start(single(raw), bool(parameters.plain) and "squares" in wanted)
    upstream = [leaf] if leaf is not None and "score" in wanted else []
    gradients = []
    if inside or upstream:
        gradients = tap.differentiate(logits, slope, [*copies.values(), *upstream])
    if upstream:
        found["score"] = -gradients.pop().float()
    if inside:
        everyone = slice(0, rows)
        plain = parameters.plain
        terms: Terms = chain(
            tap.terms(),
            ((name, everyone, Entries(gradient.float())) for name, gradient in zip(copies, gradients, strict=True)),
            plain_terms(target, plain, x, slope, alone=parameters.alone) if plain else (),
        )
        times = batch.scale.square().float()
        squares, influence = add_up(
            terms, times, fisher=fisher, weights=weights, plain="squares" in wanted, by_group=by_group
        )
        if squares is not None:
            found["squares"] = squares
        if influence is not None:
            found["influence"] = influence
    return found


def _compare(
    target: Target, parameters: Parameters, batch: _Batch, by_group: dict[str, Tensor], rows: Iterable[int]
) -> float:
    """Hold some rows of a batch against plain differentiation of the one sample, and return the largest norm found so.

    Args:
        target: the model.
        parameters: how its gradients are measured.
        batch: the samples.
        by_group: Σ_k g_k² in each group of parameters, (b,).
        rows: which of the samples.

    Raises:
        UnexplainedError: some layers, or parameters outside of layers, have other gradients.
    """
    assert batch.slope is not None
    groups = {layer.name: ([f"{layer.name}.0", f"{layer.name}.1"], layer.names) for layer in parameters.layers}
    groups |= {name: ([name], [name]) for name in parameters.broadcast}
    if not parameters.alone:
        groups |= {name: ([name], [name]) for name in parameters.plain}
    chosen = {name: target.params[name] for name in parameters.names()}
    eps = max((torch.finfo(p.dtype).eps for p in chosen.values()), default=0.0)
    wrong, largest = set(), 0.0
    for row in rows:
        found = gradients_of_one(target, chosen, map_leaves(itemgetter(row), batch.x), batch.slope[row])
        reached = [name for name, part in zip(chosen, found, strict=True) if part is not None]
        lengths = [torch.linalg.vector_norm(part.float()) for part in found if part is not None]
        true = dict.fromkeys(chosen, 0.0)
        if lengths:
            true |= zip(reached, torch.stack(lengths).tolist(), strict=True)
        length = math.hypot(*true.values())
        largest, noise = max(largest, length), 32 * eps * length
        for part, (measured, names) in groups.items():
            own = math.hypot(*(true[name] for name in names))
            got = sum(float(by_group[name][row]) for name in measured if name in by_group) ** 0.5
            if abs(got - own) > max(TOLERANCE, 8 * eps) * own + noise:
                wrong.add(part)
    if wrong:
        raise UnexplainedError(wrong)
    return largest
