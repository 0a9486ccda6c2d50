"""What an unlearner is: frozen hyper-parameters, ``prepare`` once per target, and a path of growing strength."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.errors import InputError
from forgetcast.target.inputs import Inputs, map_leaves
from forgetcast.target.target import Target
from forgetcast.unlearn.grouped import Grouped
from forgetcast.unlearn.stack import Params, Stack, combine, gradients, norm, repeat, rows, size, stackable

__all__ = [
    "GridUnlearner",
    "IterativeUnlearner",
    "PathWalk",
    "Samples",
    "Unlearner",
    "Walk",
    "path_of_walk",
    "sample_generator",
]


Path = Callable[..., Iterator[tuple[Params, Params]]]


@dataclass(frozen=True)
class Samples:
    """Training samples to forget, each on its own. First dimension m."""

    index: Tensor
    """Positions in the training data, int64, (m,)."""
    x: Inputs
    """Inputs on the model's device."""
    y: Tensor
    """Labels on the model's device, (m,)."""
    logits: Tensor
    """Logits of the target, (m, classes)."""

    def __len__(self) -> int:
        return len(self.index)

    def take(self, keep: Tensor) -> Samples:
        """Some of the samples: positions ``keep``, or a mask."""
        return Samples(self.index[keep], map_leaves(lambda leaf: leaf[keep], self.x), self.y[keep], self.logits[keep])

    @classmethod
    def of(cls, target: Target, indices: Tensor) -> Samples:
        """Fetch the samples ``indices`` of a target."""
        x, y = target.data.fetch(indices)
        x = target.to_device(x)
        with torch.no_grad():
            return cls(indices, x, y.to(target.device), target.forward(x))


def sample_generator(seed: int, index: int) -> torch.Generator:
    """Random numbers for one sample: they depend on seed and sample, not on which others run beside it."""
    return torch.Generator().manual_seed((seed * 1_000_003 + index * 7919 + 17) % (2**63))


def _of_one_sample(path: Path) -> Path:
    """``path`` of an unlearner that refuses several samples: it would forget the first of them alone."""

    @wraps(path)
    def checked(
        self: Unlearner, target: Target, state: Any, samples: Samples, seed: int
    ) -> Iterator[tuple[Params, Params]]:
        if len(samples) != 1:
            raise InputError(
                f"{type(self).__name__}.path: expected exactly one sample to forget; got {len(samples)}: take them one "
                "by one (samples.take), or call walk, which forgets each of them on its own"
            )
        return path(self, target, state, samples, seed)

    return checked


class Walk(ABC):
    """Paths of several samples, walked together one step at a time."""

    discrete: bool = False
    """Whether points between two steps mean nothing (retraining); then the engine does not bisect."""

    @abstractmethod
    def step(self) -> tuple[Stack, Params] | None:
        """The next point: a stack of m models and the control common to them; None at the end of the path."""

    @abstractmethod
    def keep(self, chosen: Tensor) -> None:
        """Go on with the ``chosen`` samples only (positions among the present ones)."""


class Unlearner(ABC):
    """Base of all unlearners. Subclasses are frozen dataclasses of hyper-parameters; the repr is the cache key.

    A third party needs ``name`` and ``path``; the built-in families below are faster because they walk many samples
    at once.
    """

    name: ClassVar[str]
    approximates_retraining: ClassVar[bool] = False
    """Whether the method claims to end near the model retrained without the sample."""
    stochastic: ClassVar[bool] = True
    """Whether the path depends on the seed; where it does not, one run is enough."""

    def prepare(self, target: Target) -> Any:
        """Whatever is computed once per target (Fisher information, a teacher). Default: nothing."""
        return None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "path" in vars(cls):
            cls.path = _of_one_sample(cls.path)  # type: ignore[method-assign]

    @abstractmethod
    def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
        """Parameters of growing strength and their control, for one sample.

        Args:
            target: never changed.
            state: what ``prepare`` returned.
            samples: exactly one sample; ``walk`` takes several, each on its own.
            seed: same seed, same path; the control must not depend on the sample.

        Raises:
            InputError: several samples, or none, whichever class defines the path.
        """

    def walk(self, target: Target, state: Any, samples: Samples, seed: int) -> Walk:
        """Walk the paths of many samples; default: one generator each.

        Args:
            target: never changed.
            state: what ``prepare`` returned.
            samples: any number m of them.
            seed: same seed, same paths; the control must not depend on the samples.
        """
        return PathWalk([self.path(target, state, samples.take(torch.tensor([k])), seed) for k in range(len(samples))])


class PathWalk(Walk):
    """Paths from generators, one per sample, side by side."""

    def __init__(self, paths: list[Iterator[tuple[Params, Params]]]) -> None:
        self.paths = paths

    def step(self) -> tuple[Stack, Params] | None:
        points = [next(path, None) for path in self.paths]
        known = [point for point in points if point is not None]
        if len(known) < len(points):  # paths of one unlearner have one length
            return None
        params = [point[0] for point in known]
        return {name: torch.stack([p[name] for p in params]) for name in params[0]}, known[0][1]

    def keep(self, chosen: Tensor) -> None:
        self.paths = [self.paths[k] for k in chosen.tolist()]


def path_of_walk(walk: Walk) -> Iterator[tuple[Params, Params]]:
    """The path of a walk with one sample."""
    while (point := walk.step()) is not None:
        params, control = point
        yield {name: value[0] for name, value in params.items()}, control


@dataclass(frozen=True)
class IterativeUnlearner(Unlearner):
    """Gradient steps: a norm-controlled forget step, then (if the method has one) a plain retain step.

    The forget step has length ``first_step * growth**(t-1) * ‖θ0‖``, so that every method walks at the same pace
    whatever the scale of its gradient. The control takes the same retain batches and no forget step.
    """

    first_step: float = 0.004
    """Length of the first forget step relative to the norm of the target's parameters."""
    growth: float = 1.12
    steps: int = 60
    retain_lr: float = 0.01
    batch_size: int = 64

    retains: ClassVar[bool] = True
    """Whether the method has retain steps."""
    warm_up: ClassVar[int] = 0
    """Steps without a forget step at the beginning."""

    def prepare(self, target: Target) -> float | None:
        """The rate of retain steps: ``retain_lr``, or less for a target that would not survive it.

        A network trained with batch statistics can be so curved once they are frozen that plain gradient steps at the
        usual rate tear it apart (measured: loss 0.05 to 514 in 60 steps), and damage against a torn control means
        nothing. The rate is halved until training steps on the cross-entropy, as many as the path has, leave the loss
        on training samples below twice its first value + 0.1; where that was needed, once more, for the unlearned
        models are less stable still.
        """
        return _stable_rate(target, self.retain_lr, self.steps, self.batch_size) if self.retains else None

    def draw(self, target: Target, state: Any, samples: Samples, seed: int) -> dict[str, Tensor]:
        """Constants of the forget loss per sample, such as wrong labels or a teacher's logits. Default: none.

        Args:
            target: never changed.
            state: what ``prepare`` returned.
            samples: m of them.
            seed: same seed, same result.

        Returns:
            Tensors of shape (m, ...) by name.
        """
        return {}

    def redraw(
        self, target: Target, drawn: dict[str, Tensor], samples: Samples, seed: int, t: int
    ) -> dict[str, Tensor]:
        """The constants for forget step t = 1, 2, ...; default: always the same.

        Args:
            target: never changed.
            drawn: what ``draw`` returned, tensors of shape (m, ...).
            samples: m of them.
            seed: same seed, same result.
            t: number of the step.
        """
        return drawn

    def forget_loss(self, logits: Tensor, label: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Loss to be minimised on the sample to forget; logits (classes,), label (), constants ``drawn``, result ()."""
        raise NotImplementedError(f"{type(self).__name__} defines neither forget_loss nor forget_gradient")

    def forget_gradient(
        self, target: Target, params: Stack, samples: Samples, drawn: dict[str, Tensor]
    ) -> Stack | None:
        """Direction that the forget step descends, one per model; its length does not matter. None: no forget step.

        Default: the gradient of ``forget_loss``.

        Args:
            target: never changed.
            params: of m models, one for each sample.
            samples: m of them.
            drawn: their constants, tensors of shape (m, ...).
        """

        def loss(params: Params, x: Inputs, y: Tensor, drawn: dict[str, Tensor]) -> tuple[Tensor, tuple[()]]:
            logits = target.call(params, map_leaves(lambda leaf: leaf[None], x))
            return self.forget_loss(logits[0], y, drawn), ()

        return gradients(loss, params, samples.x, samples.y, drawn, stacked=stackable(target.module))[0]

    def retain_loss(self, logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
        """Losses of a retain batch, (b,); ``labels`` (b,), ``reference`` the target's own logits (b, classes)."""
        return F.cross_entropy(logits, labels, reduction="none")

    def walk(self, target: Target, state: Any, samples: Samples, seed: int) -> Walk:
        rate = self.retain_lr if state is None else float(state)
        return _IterativeWalk(self, target, samples, self.draw(target, state, samples, seed), seed, rate)

    def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
        return path_of_walk(self.walk(target, state, samples, seed))


class _IterativeWalk(Walk):
    def __init__(
        self,
        unlearner: IterativeUnlearner,
        target: Target,
        samples: Samples,
        drawn: dict[str, Tensor],
        seed: int,
        rate: float,
    ) -> None:
        self.unlearner, self.target, self.samples, self.drawn = unlearner, target, samples, drawn
        self.rate = rate
        self.stacked, self.grouped = stackable(target.module, batches=True), Grouped.of(target)
        self.params = repeat(target.params, len(samples))
        self.control = target.params
        self.scale = float(norm({name: value[None] for name, value in target.params.items()}))
        self.seed = seed
        self.batches = torch.Generator().manual_seed(seed)
        self.t = 0

    def keep(self, chosen: Tensor) -> None:
        self.params = rows(self.params, chosen)
        self.samples = self.samples.take(chosen)
        self.drawn = {name: value[chosen] for name, value in self.drawn.items()}

    def step(self) -> tuple[Stack, Params] | None:
        if self.t >= self.unlearner.steps:
            return None
        self.t += 1
        self._forget()
        if self.unlearner.retains:
            self._retain()
        return self.params, self.control

    def _forget(self) -> None:
        strength = self.t - self.unlearner.warm_up
        if strength < 1:
            return
        drawn = self.unlearner.redraw(self.target, self.drawn, self.samples, self.seed, strength)
        gradient = self.unlearner.forget_gradient(self.target, self.params, self.samples, drawn)
        if gradient is None:
            return
        length = norm(gradient)
        planned = self.unlearner.first_step * self.unlearner.growth ** (strength - 1) * self.scale
        # Where the gradient vanishes in floating point there is no direction to follow: stay.
        move = torch.where(length > 1e-20, -planned / length.clamp_min(1e-20), torch.zeros_like(length))
        self.params = combine(self.params, gradient, move)

    def _retain(self) -> None:
        n = len(self.target)
        chosen = torch.randint(n, (self.unlearner.batch_size,), generator=self.batches)
        x, y = self.target.data.fetch(chosen)
        x, y = self.target.to_device(x), y.to(self.target.device)
        with torch.no_grad():
            reference = self.target.forward(x)

        def loss(logits: Tensor, weight: Tensor) -> Tensor:
            losses = self.unlearner.retain_loss(logits, y, reference)
            return (losses * weight).sum() / weight.sum().clamp_min(1)

        def whole(params: Params, weight: Tensor) -> tuple[Tensor, tuple[()]]:
            return loss(self.target.call(params, x), weight), ()

        # The sample itself never counts as retained, should the batch contain it.
        weight = (chosen[None] != self.samples.index[:, None]).to(self.target.device, self.target.dtype)
        if self.grouped is not None and min(self.grouped.together, len(weight)) > 1:
            gradient = self.grouped.gradients(loss, self.params, x, weight)
        else:
            gradient, _ = gradients(whole, self.params, weight, stacked=self.stacked)
        self.params = combine(self.params, gradient, -self.rate)
        control = {name: value[None] for name, value in self.control.items()}
        gradient, _ = gradients(whole, control, torch.ones_like(weight[:1]), stacked=False)
        self.control = {name: value - self.rate * gradient[name][0] for name, value in self.control.items()}


PROBED = 512
"""Training samples on which a control's loss is watched."""


_RATES: dict[tuple[object, ...], float] = {}
"""Rates found in this process, by model, data and path: they are the same for all methods."""


def _stable_rate(target: Target, rate: float, steps: int, batch_size: int) -> float:
    """See :meth:`IterativeUnlearner.prepare`."""
    key = (target.model_hash, target.data_hash, rate, steps, batch_size)
    if key in _RATES:
        return _RATES[key]

    def loss(params: Params, chosen: Tensor) -> Tensor:
        x, y = target.data.fetch(chosen)
        return F.cross_entropy(target.call(params, target.to_device(x)), y.to(target.device))

    watched = torch.randperm(len(target), generator=torch.Generator().manual_seed(1))[:PROBED]

    with torch.no_grad():
        bound = 2 * loss(target.params, watched) + 0.1

    def survives(rate: float) -> bool:
        batches = torch.Generator().manual_seed(0)
        params = dict(target.params)
        for step in range(steps):
            chosen = torch.randint(len(target), (batch_size,), generator=batches)
            stack = {name: value[None] for name, value in params.items()}
            gradient, _ = gradients(lambda p, chosen: (loss(p, chosen), ()), stack, chosen[None], stacked=False)
            params = {name: value - rate * gradient[name][0] for name, value in params.items()}
            if step % 5 == 4 or step == steps - 1:
                with torch.no_grad():
                    if not loss(params, watched) <= bound:  # NaN is no survival
                        return False
        return True

    found = rate
    while not survives(found) and found > 1e-6:
        found /= 2
    _RATES[key] = found if found == rate else found / 2
    return _RATES[key]


@dataclass(frozen=True)
class GridUnlearner(Unlearner):
    """One-shot methods: one displacement per sample, applied in a geometric grid of strengths.

    Strength t has length ``first_step * growth**(t-1) * ‖θ0‖`` along the displacement. The control is the target.
    """

    first_step: float = 0.001
    growth: float = 1.25
    steps: int = 40

    stochastic: ClassVar[bool] = False

    @abstractmethod
    def displacement(self, target: Target, state: Any, samples: Samples, seed: int) -> Stack:
        """Direction in which the parameters move, one per sample; its length does not matter.

        Args:
            target: never changed.
            state: what ``prepare`` returned.
            samples: m of them.
            seed: same seed, same result.
        """

    def walk(self, target: Target, state: Any, samples: Samples, seed: int) -> Walk:
        return _GridWalk(self, target, self.displacement(target, state, samples, seed))

    def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
        return path_of_walk(self.walk(target, state, samples, seed))


class _GridWalk(Walk):
    def __init__(self, unlearner: GridUnlearner, target: Target, displacement: Stack) -> None:
        self.unlearner, self.displacement = unlearner, displacement
        self.params = target.params
        self.scale = float(norm({name: value[None] for name, value in target.params.items()}))
        self.t = 0

    def keep(self, chosen: Tensor) -> None:
        self.displacement = rows(self.displacement, chosen)

    def step(self) -> tuple[Stack, Params] | None:
        if self.t >= self.unlearner.steps:
            return None
        self.t += 1
        m = size(self.displacement)
        start = {name: value.expand(m, *value.shape) for name, value in self.params.items()}
        length = norm(self.displacement)
        planned = self.unlearner.first_step * self.unlearner.growth ** (self.t - 1) * self.scale
        move = torch.where(length > 1e-20, planned / length.clamp_min(1e-20), torch.zeros_like(length))
        return combine(start, self.displacement, move), self.params
