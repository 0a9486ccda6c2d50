"""Laws of an unlearner: what ``forgetcast.testing.check_unlearner`` asserts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.target.example import example_target, module_state, same_state
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target
from forgetcast.unlearn.base import Samples, Unlearner
from forgetcast.unlearn.stack import Params, Stack, flat, norm

__all__ = ["check_unlearner"]

MOST_POINTS = 1000
FORGOTTEN = 0.05
"""True-label probability at which every goal is met; what comes later on a path is of no interest."""
NEAR = 0.5
"""How far law 8 looks, in lengths of the target's parameters."""
ROUNDING = 1e-2
"""What rounding may change, relative to how far the parameters have moved."""


@own_settings()
def check_unlearner(unlearner: Unlearner, target: Target | None = None, *, seed: int = 0) -> None:
    """Assert the laws of an unlearner on ``target`` (default: a small perceptron that can be trained again).

    1. It is a frozen dataclass with a name; its repr names its settings, for it is the key that results are kept under.
    2. Its path ends, and every point of it has the target's parameters (and of its buffers what it likes): same names,
       shapes and types; finite until the sample's true-label probability has fallen to 5 %. A point stays as it is when
       the walk goes on.
    3. The parameters change along the path. The target does not: neither its weights and buffers nor mode, gradients
       or hooks; torch's global random state is left alone.
    4. The same seed gives the same path, bit for bit; any seed does where ``stochastic`` is False.
    5. The path begins near the target and leads away from it. (Not for a discrete walk, such as retraining.)
    6. It forgets: for at least half of the samples checked, the loss rises above that under the control. Samples that
       the model has right without being sure of them are checked; on a fully confident one nothing need happen.
    7. The control ignores the sample.
    8. Several samples walked together have the paths that each has alone, also when some stop early.

    Laws 7 and 8 hold up to rounding. A step of given length along a gradient that is almost zero makes rounding errors
    grow. So law 8 is checked only as far as half the length of the target's parameters.

    Args:
        unlearner: with the settings that it is checked with.
        target: the model and data that it is checked on.
        seed: of the paths.

    Raises:
        AssertionError: a law is broken; the message names the unlearner, the law and the point.
        NotApplicableError: the target lacks what the unlearner needs, such as a ``train`` callable.

    >>> from forgetcast.unlearn.algorithms.gradient_ascent import GradientAscent
    >>> check_unlearner(GradientAscent())
    """
    target = target or example_target()
    law = _Law(unlearner)
    _check_settings(unlearner, law)
    samples = Samples.of(target, _unsure(target))
    random = torch.random.get_rng_state()
    before = module_state(target.module)

    def unharmed() -> None:
        after = module_state(target.module)
        for what, value in before.items():
            law(same_state(value, after[what]), "the target does not change", f"{what} of the model differs afterwards")
        same = torch.equal(random, torch.random.get_rng_state())
        law(same, "it leaves torch's global random state alone", "use a torch.Generator made from the seed")

    trace = _follow(_BatchedWalk(unlearner, target, samples, seed), target, samples, law)
    unharmed()
    _check_movement(trace, target, samples, law)
    again = _follow(_BatchedWalk(unlearner, target, samples, seed), target, samples, law)
    _check_same(again, trace, law, "the same seed gives the same path")
    if not unlearner.stochastic:
        other = _follow(_BatchedWalk(unlearner, target, samples, seed + 1), target, samples, law)
        _check_same(other, trace, law, "the seed does not matter where stochastic is False")
    _check_forgetting(trace, law)
    chosen = torch.arange(len(samples) - 1, 0, -1)
    some = _follow(_BatchedWalk(unlearner, target, samples, seed, chosen), target, samples, law, near=True)
    _check_close(some, trace, chosen.tolist(), target, law, "a sample does not notice that others stop")
    for k in range(2):
        one = samples.take(torch.tensor([k]))
        alone = _follow(_SinglePath(unlearner, target, one, seed), target, one, law, near=True)
        _check_control(alone, trace, samples, k, target, law)
        _check_close(alone, trace, [k], target, law, "samples walked together have the paths that each has alone")
    unharmed()


@dataclass(frozen=True)
class _Law:
    """Asserts with a message that names the unlearner and the law."""

    unlearner: Unlearner

    def __call__(self, holds: bool, law: str, found: str) -> None:
        name = getattr(self.unlearner, "name", type(self.unlearner).__name__)
        assert holds, f"unlearner {name!r} breaks the law that {law}: {found}"


class _BatchedWalk:
    """The walk of several samples; ``chosen`` go on after two steps, when given."""

    def __init__(
        self, unlearner: Unlearner, target: Target, samples: Samples, seed: int, chosen: Tensor | None = None
    ) -> None:
        self.walk = unlearner.walk(target, unlearner.prepare(target), samples, seed)
        self.discrete = self.walk.discrete
        self.walking = torch.arange(len(samples))
        self.chosen = chosen
        self.t = 0

    def step(self) -> tuple[Stack, Stack] | None:
        if self.t == 2 and self.chosen is not None:
            self.walk.keep(self.chosen)
            self.walking = self.chosen
        self.t += 1
        point = self.walk.step()
        if point is None:
            return None
        params, control = point
        return params, {name: value.expand(len(self.walking), *value.shape) for name, value in control.items()}


class _SinglePath:
    """The path of one sample, seen as a walk."""

    def __init__(self, unlearner: Unlearner, target: Target, samples: Samples, seed: int) -> None:
        self.path = unlearner.path(target, unlearner.prepare(target), samples, seed)
        self.discrete = False
        self.walking = torch.tensor([0])

    def step(self) -> tuple[Stack, Stack] | None:
        point = next(self.path, None)
        if point is None:
            return None
        params, control = ({name: value[None] for name, value in part.items()} for part in point)
        return params, control


@dataclass(frozen=True)
class _Trace:
    """What a walk yielded, copied."""

    discrete: bool
    points: list[Stack] = field(default_factory=list)
    controls: list[Stack] = field(default_factory=list)
    rises: list[Tensor] = field(default_factory=list)
    """By how much every sample's loss exceeds that under the control, (m,)."""


def _check_settings(unlearner: Unlearner, law: _Law) -> None:
    settings = getattr(type(unlearner), "__dataclass_params__", None)
    frozen = settings is not None and settings.frozen
    law(frozen, "it is a frozen dataclass of its settings", f"{type(unlearner).__name__} is not")
    name = getattr(unlearner, "name", None)
    law(isinstance(name, str) and bool(name), "it has a name", f"name is {name!r}")
    found = repr(unlearner)
    law(" at 0x" not in found, "its repr names its settings", f"{found} holds an address")


def _unsure(target: Target, count: int = 3) -> Tensor:
    """Samples that the model has right and is not too sure of: from the least sure to the middling, (count,)."""
    logits = target.logits()
    right = (logits.argmax(1) == target.labels).nonzero().flatten()
    if len(right) < 2 * count:
        right = torch.arange(len(target))
    sure = logits[right].softmax(1).gather(1, target.labels[right, None])[:, 0].argsort(stable=True)
    return right[sure[torch.linspace(0, len(right) // 2, count).long()]]


def _follow(
    walk: _BatchedWalk | _SinglePath, target: Target, samples: Samples, law: _Law, *, near: bool = False
) -> _Trace:
    """Walk to the end and hold every point to its law; ``near``: only as far as law 8 looks."""
    trace = _Trace(walk.discrete)
    frozen = {name: value for name, value in target.module.named_parameters() if name not in target.params}
    forgotten = torch.zeros(len(samples), dtype=torch.bool)
    last: tuple[Stack, Stack] | None = None
    while (point := walk.step()) is not None:
        t = len(trace.points) + 1
        law(t <= MOST_POINTS, "its path ends", f"it has more than {MOST_POINTS} points")
        if last is not None:
            kept = _equal(last[0], trace.points[-1]) and _equal(last[1], trace.controls[-1])
            law(kept, "a point stays as it is when the walk goes on", f"point {t - 1} was altered in place")
        m = len(walk.walking)
        _check_shapes(point[0], target, m, f"point {t}", law)
        _check_shapes(point[1], target, m, f"the control of point {t}", law)
        moved = sorted(
            name for name in point[0].keys() & frozen.keys() if not bool((point[0][name] == frozen[name]).all())
        )
        law(trace.discrete or not moved, "what is frozen stays as it is", f"point {t} moves {moved}")
        law(bool(_finite(point[1]).all()), "every control is finite", f"that of point {t} is not")
        lost = ~_finite(point[0]) & ~forgotten[walk.walking]
        law(not lost.any(), "a point is finite until the sample is forgotten", f"point {t} holds NaN or infinity")
        here = samples.take(walk.walking)
        loss, under_control = _losses(point[0], target, here), _losses(point[1], target, here)
        forgotten[walk.walking] |= loss >= -math.log(FORGOTTEN)
        trace.points.append(_copy(point[0]))
        trace.controls.append(_copy(point[1]))
        trace.rises.append(loss - under_control)
        last = point
        if near and not bool((_moved(point[0], target) <= NEAR * _norm(target.params)).any()):
            break
    law(bool(trace.points), "it has a path", "not one point came")
    return trace


def _losses(stack: Stack, target: Target, samples: Samples) -> Tensor:
    """Every model's loss on its own sample, on the CPU, (m,)."""
    losses = []
    with torch.no_grad():
        for k in range(len(samples)):
            one = samples.take(torch.tensor([k]))
            logits = target.call({name: value[k] for name, value in stack.items()}, one.x)
            losses.append(F.cross_entropy(logits, one.y).float().cpu())
    return torch.stack(losses)


def _check_shapes(part: Stack, target: Target, m: int, what: str, law: _Law) -> None:
    rule = "every point has the target's parameters"
    known = {**dict(target.module.named_parameters()), **target.buffers}  # frozen parameters too, after retraining
    missing, unknown = target.params.keys() - part.keys(), part.keys() - known.keys()
    law(not missing and not unknown, rule, f"{what} lacks {sorted(missing)} and adds {sorted(unknown)}")
    for name, value in part.items():
        like = known[name]
        found, expected = (tuple(value.shape[1:]), value.dtype), (tuple(like.shape), like.dtype)
        law(found == expected, rule, f"{name} of {what} has shape and type {found} instead of {expected}")
        law(len(value) == m, rule, f"{name} of {what} is there for {len(value)} samples instead of {m}")


def _check_movement(trace: _Trace, target: Target, samples: Samples, law: _Law) -> None:
    """Every sample's parameters change; they begin near the target and lead away from it."""
    moved = torch.stack([_moved(point, target) for point in trace.points]).nan_to_num(0.0)
    whole = float(_norm(target.params))
    for k, index in enumerate(samples.index.tolist()):
        first, far = float(moved[0, k]), float(moved[:, k].max())
        law(far > 0, "parameters change along the path", f"for sample {index} they stay those of the target")
        law(
            trace.discrete or (first <= far / 2 and first <= whole / 4),
            "the path begins near the target and leads away from it",
            f"for sample {index} the first point is {first:.3g} from the target and the farthest {far:.3g}; the "
            f"target's parameters have length {whole:.3g}",
        )


def _check_forgetting(trace: _Trace, law: _Law) -> None:
    rises = torch.stack(trace.rises).nan_to_num(-torch.inf).amax(0)
    forgot = int((rises > 1e-5).sum())
    law(
        2 * forgot >= len(rises),
        "it forgets",
        f"the loss rises above that under the control for {forgot} of {len(rises)} samples; at most {rises.tolist()}",
    )


def _check_same(got: _Trace, expected: _Trace, law: _Law, rule: str) -> None:
    a, b = len(got.points), len(expected.points)
    law(a == b, rule, f"one path has {a} points, the other {b}")
    for what in ("points", "controls"):
        pairs = zip(getattr(got, what), getattr(expected, what), strict=True)
        unlike = [t for t, pair in enumerate(pairs, 1) if not _equal(*pair)]
        law(not unlike, rule, f"{len(unlike)} of {a} {what} differ, the first at step {min(unlike, default=0)}")


def _check_control(alone: _Trace, trace: _Trace, samples: Samples, k: int, target: Target, law: _Law) -> None:
    """The control of one sample alone is that of every other sample."""
    for t, (control, others) in enumerate(zip(alone.controls, trace.controls, strict=False), 1):
        for other, index in enumerate(samples.index.tolist()):
            same = _close(control, 0, others, other, target, ROUNDING / 10)
            found = f"at step {t} that of sample {int(samples.index[k])} is not that of sample {index}"
            law(same, "the control ignores the sample", found)


def _check_close(got: _Trace, trace: _Trace, rows: list[int], target: Target, law: _Law, rule: str) -> None:
    """``got`` holds these rows of ``trace`` as long as they are near the target."""
    for t, (point, other) in enumerate(zip(got.points, trace.points, strict=False), 1):
        near = _moved(other, target) <= NEAR * _norm(target.params)
        if len(next(iter(point.values()))) == len(rows):
            for k, row in enumerate(rows):
                same = not near[row] or _close(point, k, other, row, target, ROUNDING)
                law(same, rule, f"point {t} of sample {row} of those checked differs")


def _close(a: Stack, k: int, b: Stack, row: int, target: Target, rounding: float) -> bool:
    """Whether row k of a and row ``row`` of b are the same up to rounding, against the way from the target."""
    apart = _norm({name: a[name][k] - b[name][row] for name in target.params})
    moved = _norm({name: b[name][row] - value for name, value in target.params.items()})
    return bool(apart <= rounding * moved + 1e-6 * _norm(target.params))


def _norm(params: Params) -> Tensor:
    return torch.stack([value.square().sum() for value in params.values()]).sum().sqrt()


def _moved(stack: Stack, target: Target) -> Tensor:
    """Distance of every model's parameters from the target's, (m,)."""
    return norm({name: stack[name] - value for name, value in target.params.items()})


def _finite(stack: Stack) -> Tensor:
    """Whether all numbers of a model are finite, (m,)."""
    return flat({name: torch.isfinite(value) for name, value in stack.items()}).all(1).cpu()


def _equal(a: Stack, b: Stack) -> bool:
    """Bit for bit, NaN equal to NaN."""
    return a.keys() == b.keys() and all(
        torch.equal(value, b[name]) or torch.equal(value.nan_to_num(0.5), b[name].nan_to_num(0.5))
        for name, value in a.items()
    )


def _copy(stack: Stack) -> Stack:
    return {name: value.detach().clone() for name, value in stack.items()}
