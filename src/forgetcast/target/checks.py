"""What is checked of a model before anything is measured on it, at a few samples of its data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from forgetcast.errors import DatasetError, InputError, ModelError
from forgetcast.target.data import Data
from forgetcast.target.inputs import Inputs, channels_last, leaves, map_leaves
from forgetcast.target.model import FrozenModel
from forgetcast.target.settings import Settings
from forgetcast.target.trajectory import Trajectory

__all__ = [
    "FEW",
    "STATEFUL",
    "check_classes",
    "check_finite",
    "check_first_logits",
    "check_function",
    "check_outputs",
    "check_same",
    "keeping_inputs",
    "rounding",
    "takes_channels_last",
]

FEW = 4
"""Samples that a model is looked at with."""
RANDOM = (
    "the model gives other logits when it is asked again: it draws at random (dropout that is on in evaluation mode, "
    "such as F.dropout without training=self.training) or keeps a state between calls. Make it a function of its "
    "inputs in evaluation mode"
)
STATEFUL = (
    "the model gives other logits for the first samples of the {role} after it has run on all of them: it keeps a "
    "state between calls. Make it a function of its inputs in evaluation mode"
)
DEPENDS_ON_BATCH = (
    "the model's logits of a sample depend on the other samples of its batch: it normalises by batch statistics in "
    "evaluation mode (such as BatchNorm with track_running_stats=False, or F.batch_norm with training=True) or mixes "
    "samples. Use running statistics, or normalise each sample by itself"
)
IN_PLACE = (
    "the model changes its input in place: your data would be another after every call. Make it work on a copy in "
    "forward, such as x = x - mean in place of x.sub_(mean), or x = x.clone() first"
)
WEIGHTS_ELSEWHERE = (
    "the model's copy still runs the weights of the original: a forward is bound to it (such as model.forward = "
    "wrapper(model.forward)). Hand over the model before that, or define forward in its class"
)


def check_finite(logits: Tensor, data: Data, first: int = 0) -> None:
    """Refuse logits (b, classes) of the samples from ``first`` on that are not numbers.

    Raises:
        ModelError: NaN or infinity; the sample is named.
    """
    bad = ~torch.isfinite(logits).all(1)
    if bad.any():
        raise ModelError(
            f"the model returned NaN or infinite logits for sample {int(data.numbers(first + bad.nonzero()).min())} of "
            f"the {data.role}"
        )


def keeping_inputs(answer: Callable[[Inputs], Tensor]) -> Callable[[Inputs], Tensor]:
    """The same function, refusing a model that changes its input.

    Raises:
        ModelError: it did.
    """

    def ask(x: Inputs) -> Tensor:
        given = map_leaves(Tensor.clone, x)
        output = answer(x)
        if not all(map(torch.equal, leaves(given), leaves(x))):
            raise ModelError(IN_PLACE)
        return output

    return ask


def check_first_logits(output: Tensor, rows: int, role: str) -> None:
    """Refuse what a model returned for the first ``rows`` samples of the data called ``role``.

    Raises:
        ModelError: no finite logits of shape (rows, classes), or probabilities.
    """
    if output.ndim != 2 or output.shape[0] != rows or output.shape[1] < 2 or not output.is_floating_point():
        raise ModelError(
            f"the model must return logits of shape (n, classes) with at least 2 classes; for {rows} samples it "
            f"returned {tuple(output.shape)} of {output.dtype}"
        )
    if not bool(torch.isfinite(output).all()):
        raise ModelError(f"the model returned NaN or infinite logits for the first samples of the {role}")
    tolerance = max(1e-5, 4 * torch.finfo(output.dtype).eps)
    if rows > 1 and bool((output >= 0).all()) and float((output.double().sum(1) - 1).abs().max()) < tolerance:
        raise ModelError(
            "the model's outputs are probabilities (each row sums to 1); logits are needed: "
            "return the values before softmax, or their logarithm"
        )


def rounding(output: Tensor, module: nn.Module, settings: Settings) -> float:
    """Relative rounding error of the coarsest type that a model with this ``output`` computes in."""
    used = {output.dtype, *(p.dtype for p in module.parameters() if p.is_floating_point())}
    used.update(dtype for _, dtype in settings.autocast)
    return max(torch.finfo(dtype).eps for dtype in used)


@torch.no_grad()
def check_function(model: FrozenModel, data: Data, x: Inputs, original: nn.Module, eps: float) -> None:
    """Refuse a model whose logits depend on anything but the sample and its own weights, seen at a few samples.

    Args:
        model: the frozen copy of the model.
        data: the training data.
        x: its first samples, on the device.
        original: the user's model.
        eps: relative rounding error of the model.

    Raises:
        ModelError: they differ from call to call, or with the other samples of the batch; a buffer changes; or the
            copy runs weights of the ``original``, which no unlearning would move.
    """
    model.forward(x)  # what is filled in at the first call, such as a table of positions, is no state
    before = {name: value.clone() for name, value in model.module.named_buffers()}
    together = model.forward(x)
    for name, value in model.module.named_buffers():
        old = before.get(name)
        if old is None or old.shape != value.shape or not torch.equal(old.nan_to_num(), value.nan_to_num()):
            raise ModelError(
                f"the model changes as it is used: its buffer {name} is another after a call in evaluation mode. "
                "Batch statistics and counters must stay as they are unless self.training is set"
            )
    check_same(together, _again(model, data, x, original), RANDOM, eps)
    half = len(together) // 2
    if half == 0:
        return
    try:
        alone = model.forward(map_leaves(lambda leaf: leaf[:half], x))
    except Exception:  # a model that takes no batch so small says so where it gets one
        return
    check_same(together[:half], alone, DEPENDS_ON_BATCH, eps)


def _again(model: FrozenModel, data: Data, x: Inputs, original: nn.Module) -> Tensor:
    """Logits of ``x``, made in a way that shows whose weights they come from.

    Raises:
        ModelError: those of the ``original``, by the history of the logits or, where it is frozen, because other
            weights change nothing.
    """
    try:
        with torch.enable_grad():
            logits = model.forward(x)
    except Exception:  # a model that cannot be differentiated: factors that need it do not apply
        return model.forward(x)
    elsewhere = bool(_leaves_of(logits) & {id(value) for value in original.parameters()})
    real = {name: value for name, value in model.params.items() if value.is_floating_point()}
    if real and not any(value.requires_grad for value in original.parameters()):
        moved = {name: value + torch.rand_like(value) for name, value in real.items()}
        with model.running(data, torch.arange(min(FEW, len(data)))):
            elsewhere = torch.equal(model.call(moved, x), logits)
    if elsewhere:
        raise ModelError(WEIGHTS_ELSEWHERE)
    return logits.detach()


def check_same(one: Tensor, other: Tensor, message: str, eps: float) -> None:
    """Refuse logits (b, classes) that differ by more than the rounding of another batch size, type or thread.

    Args:
        one: logits (b, classes).
        other: logits of the same samples.
        message: what a difference means.
        eps: relative rounding error of the model.

    Raises:
        ModelError: they do; the message names the first sample and the difference.
    """
    one, other = one.double(), other.double()
    finite = torch.isfinite(one).all(1) & torch.isfinite(other).all(1)  # what is not finite is for check_finite
    gap = (one - other).abs().amax(1)
    bad = finite & (gap > max(1e-3, 16 * eps) * one.abs().amax(1).clamp(min=1.0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ModelError(f"{message} (sample {row}: logits differ by up to {float(gap[row]):.3g})")


@torch.no_grad()
def takes_channels_last(model: FrozenModel, x: Inputs) -> bool:
    """Whether the model gives the same logits for images laid out channels last (some call ``view`` on them).

    ``x`` are the first samples of the training data, on the device.
    """
    if not any(isinstance(layer, nn.Conv2d) for layer in model.module.modules()):
        return False
    plain = model.forward(x)
    tolerance = min(1e-4, 1e3 * torch.finfo(plain.dtype).eps)
    try:
        return torch.allclose(model.forward(channels_last(x)), plain, rtol=tolerance, atol=tolerance / 10)
    except RuntimeError:
        return False


def check_outputs(trajectory: Trajectory, samples: int, classes: int) -> None:
    """Refuse a trajectory whose outputs are of other samples or classes.

    Raises:
        InputError: they are.
    """
    outputs = trajectory.outputs
    if outputs is not None and outputs.shape[1:] not in ((samples,), (samples, classes)):
        raise InputError(
            f"trajectory: expected outputs for {samples} samples, shape (points, {samples}, "
            f"{classes}) or (points, {samples}); got {outputs.shape}"
        )


def check_classes(data: Data, classes: int) -> None:
    """Refuse labels that the model has no class for.

    Raises:
        DatasetError: there are some; the first is named.
    """
    highest = int(data.labels.max())
    if highest >= classes:
        where = int((data.labels >= classes).nonzero()[0])
        raise DatasetError(
            f"the {data.role}: labels must be below the model's {classes} classes; item {where} has "
            f"label {int(data.labels[where])}"
        )


def _leaves_of(output: Tensor) -> set[int]:
    """Identities of the tensors that an output was differentiably made from."""
    nodes, seen, found = [output.grad_fn], set(), set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(id(leaf))
        nodes += [parent for parent, _ in node.next_functions]
    return found
