"""One forward and backward pass over the training data: what the gradients of single samples tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from forgetcast._filled import Filled
from forgetcast._gradient_norms import LayerTap, Terms, add_up
from forgetcast._layer_gradients import Entries, Measured, measured_layers
from forgetcast._layers import Layout
from forgetcast._logits import loss_slope
from forgetcast._plain_gradients import broadcast_parameters, plain_parameters, plain_terms
from forgetcast._precision import exact_convolutions
from forgetcast.data import Inputs, leaves, map_leaves
from forgetcast.errors import NotApplicableError, first_line
from forgetcast.target import Target

__all__ = ["Parameters", "Score", "gradient_batch", "gradient_pass", "measured_parameters", "real_tensor"]

ACTIVATION_BUDGET = 1 << 27
"""Numbers that the activations of one batch may hold."""

CPU_ACTIVATIONS = 1 << 21
"""Likewise on the CPU, where activations that leave its cache take longer than the arithmetic; see LEAST_BATCH."""

LEAST_BATCH = 16
"""Samples that go together on the CPU all the same."""

PARAMETRIC = ("squares", "fisher", "influence")
"""Quantities that rest on gradients in the parameters."""

Quantity = str
"""``squares`` of parameter gradients, ``fisher``, ``influence``, ``margin`` (its gradient in the input), ``score``."""


@dataclass(frozen=True)
class Parameters:
    """The parameters whose gradients are measured, by the way how."""

    layers: list[Measured]
    """From inputs and output gradients of layers."""
    broadcast: list[str]
    """As copies of their own for every sample."""
    plain: list[str]
    """By plain differentiation."""
    left_out: list[str]
    """Not at all."""

    def names(self) -> list[str]:
        """Names of all that are measured, sorted."""
        inside = [
            f"{layer.name}.{name}" if layer.name else name
            for layer in self.layers
            for name, _ in layer.module.named_parameters(recurse=False)
        ]
        return sorted({*inside, *self.broadcast, *self.plain})


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
    """Sort the parameters of the target by the way how their gradients are measured."""
    layers, others = measured_layers(target.module, found.layers)
    broadcast = broadcast_parameters(target, others)
    others = [name for name in others if name not in broadcast]
    plain = plain_parameters(target, others)
    return Parameters(layers, broadcast, plain, [name for name in others if name not in plain])


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

    Args:
        target: the model.
        parameters: whose gradients count for ``squares``, ``fisher`` and ``influence``.
        batches: (index, x, y) over all samples, in order.
        n: how many samples.
        wanted: any of ``squares`` (Σ_k g_k² of the loss gradient, float64, (n,)), ``fisher`` (the mean of g² by group
            of parameters), ``margin`` (length of the margin's gradient in the input, float64,
            (n,)) and ``score`` (a :class:`Score`).
        weights: w by group of parameters; goes with ``influence``, which is Σ_k w_k g_k², float64, (n,).
        narrow: sketch of rows (b, ...).
    """
    results: dict[Quantity, Any] = {}
    parts: dict[str, Filled] = defaultdict(partial(Filled, n))
    fisher: dict[str, Tensor] | None = {} if "fisher" in wanted else None
    left = set(wanted)

    def give_up(names: Iterable[Quantity], reason: str) -> None:
        for name in left.intersection(names):
            results[name] = NotApplicableError(reason)
            left.remove(name)

    if not parameters.names():
        listed = ", ".join(parameters.left_out[:5])
        give_up(PARAMETRIC, f"no layer's gradients can be measured sample by sample ({listed})")
    recurrent = any(isinstance(module, nn.RNNBase) for module in target.module.modules())
    width = 0
    check = weights is None  # else the pass that the weights come from has looked
    tap = LayerTap(parameters.layers, fisher is not None or weights is not None)
    with (
        tap,
        torch.enable_grad(),
        exact_convolutions(cudnn=not recurrent),  # cuDNN has no backward pass of these in evaluation mode
    ):
        for _, x, y in batches:
            if not left:
                break
            x, y = target.to_device(x), y.to(target.device)
            if real_tensor(x) is None:
                give_up(("margin", "score"), "the inputs are not one tensor of real numbers per sample")
            try:
                found = _sample_gradients(target, parameters, tap, x, y, left, fisher, weights, check)
            except Exception as error:
                if not isinstance(error, RuntimeError) and not target.raised(error):
                    raise
                give_up(wanted, f"the model cannot be differentiated: {first_line(error)}")
                break
            if check and "squares" in found:
                if difference := _difference(target, parameters.names(), x, y, found["squares"]):
                    give_up(PARAMETRIC, difference)
                check = False
            for name in ("squares", "influence"):
                if name in found:
                    parts[name].add(found[name].cpu().double())
            if "margin" in found:
                parts["margin"].add(_lengths(found["margin"]))
            if "score" in found:
                parts["score"].add(narrow(found["score"]))
                parts["score norm"].add(_lengths(found["score"]))
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


def _sample_gradients(
    target: Target,
    parameters: Parameters,
    tap: LayerTap,
    x: Inputs,
    y: Tensor,
    wanted: Collection[Quantity],
    fisher: dict[str, Tensor] | None,
    weights: dict[str, Tensor] | None,
    check: bool,
) -> dict[Quantity, Tensor]:
    """``squares`` (b,), ``margin`` and ``score`` (gradients in the input) of one batch, as far as wanted.

    ``check``: ``squares`` in any case, if parameters are looked at.
    """
    rows, inside = len(y), any(name in wanted for name in PARAMETRIC)
    real = real_tensor(x) if "margin" in wanted or "score" in wanted else None
    leaf = None if real is None else real.detach().requires_grad_()
    copies = {
        name: target.params[name].expand(rows, *target.params[name].shape[1:]).detach().requires_grad_()
        for name in (parameters.broadcast if inside else ())
    }
    inputs = x if leaf is None else map_leaves(lambda _: leaf.clone(), x)
    forward = partial(target.call, copies, inputs) if copies else partial(target.forward, inputs)
    logits = (tap.watch(forward) if inside else forward()).float()
    found: dict[Quantity, Tensor] = {}
    if leaf is not None and "margin" in wanted:
        rival = logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
        margin = (logits.gather(1, y[:, None]) - logits.gather(1, rival)).sum()
        (gradient,) = torch.autograd.grad(margin, leaf, retain_graph=True)
        found["margin"] = gradient.float()
    upstream = [leaf] if leaf is not None and "score" in wanted else []
    gradients = []
    if inside or upstream:
        gradients = tap.differentiate(logits, loss_slope(logits, y), [*copies.values(), *upstream])
    if upstream:
        found["score"] = -gradients.pop().float()
    if inside:
        everyone = slice(0, rows)
        terms: Terms = chain(
            tap.terms(),
            ((name, everyone, Entries(gradient.float())) for name, gradient in zip(copies, gradients, strict=True)),
            plain_terms(target, parameters.plain, x, y) if parameters.plain else (),
        )
        squares, influence = add_up(
            terms, rows, target.device, fisher=fisher, weights=weights, plain=check or "squares" in wanted
        )
        if squares is not None:
            found["squares"] = squares
        if influence is not None:
            found["influence"] = influence
    return found


def _difference(target: Target, names: list[str], x: Inputs, y: Tensor, squares: Tensor) -> str:
    """Compare the first two samples with plain differentiation; the reason why they differ, or nothing."""
    for row in range(min(2, len(y))):
        leaf = {name: target.params[name].detach().requires_grad_() for name in names}
        logits = target.call(leaf, map_leaves(itemgetter(slice(row, row + 1)), x)).float()
        slope = loss_slope(logits, y[row : row + 1])
        found = torch.autograd.grad(logits, list(leaf.values()), slope, allow_unused=True)
        true = sum(float(gradient.float().square().sum()) for gradient in found if gradient is not None)
        got = float(squares[row])
        if abs(got**0.5 - true**0.5) > 0.02 * true**0.5 + 1e-4:
            return (
                "the model's layers do not explain its gradients: layer by layer the first samples have norm "
                f"{got**0.5:.4g}, by plain differentiation {true**0.5:.4g}"
            )
    return ""
