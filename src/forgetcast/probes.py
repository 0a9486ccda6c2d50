"""Probes: what factors share (logits, features, gradients, neighbours, rehearsals), each computed once.

A probe is an attribute of :class:`Probes`, computed when first read and kept. Factors name the probes they take;
:data:`PROBES` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from forgetcast._cross_fitted import Folds, content_folds, logistic_confidence, perceptron_confidence, row_checksums
from forgetcast._gradient_pass import (
    Parameters,
    Score,
    gradient_batch,
    gradient_pass,
    measured_parameters,
    real_tensor,
)
from forgetcast._last_layer import augmented, leave_one_out_logits, residuals
from forgetcast._layers import Layer, Layout, first_tensor, layout, reproducible
from forgetcast._learning_curves import LearningCurves, checkpoint_curves, recorded_curves
from forgetcast._logits import cross_entropy, margin
from forgetcast._neighbours import Neighbours, nearest_neighbours
from forgetcast._rehearsal import (
    Move,
    Pool,
    ascent_move,
    damage,
    erase_move,
    neighbour_damage,
    retrain_move,
    runner_up,
)
from forgetcast._stein import SteinRows, stein_rows
from forgetcast._surrogates import neighbour_vote, ridge_confidence
from forgetcast.data import Data, Inputs
from forgetcast.errors import NotApplicableError
from forgetcast.target import Head, Target, check_finite
from forgetcast.trajectory import Trajectory

__all__ = ["PROBES", "Centroids", "HeldOut", "Probes", "Rehearsal"]

WIDTH = 512
"""Widest representation kept as it is; wider ones are projected to this many columns."""

REFERENCE = 1000
"""Samples on which collateral damage is measured, at most."""

REFERENCE_WORK = 4_000_000_000
"""Samples times classes times reference samples that a rehearsal may visit."""

DAMPING = 1e-3
"""What is added to every entry of the Fisher diagonal, in units of its mean."""

FROM_GRADIENTS = {
    "gradient_norm": "squares",
    "self_influence": "fisher",
    "margin_input_gradient_norm": "margin",
    "stein": "score",
}
"""Probes that rest on gradients of single samples, with the quantity of ``forgetcast._gradient_pass`` they need."""

T = TypeVar("T")


class probe(Generic[T]):  # noqa: N801 - used as a decorator, like property
    """A property that is computed once; a NotApplicableError is kept and raised again likewise."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: Any = None) -> probe[T]: ...
    @overload
    def __get__(self, instance: Probes, owner: Any = None) -> T: ...
    def __get__(self, instance: Probes | None, owner: Any = None) -> T | probe[T]:
        if instance is None:
            return self
        kept = instance._kept
        if self.name not in kept:
            try:
                kept[self.name] = self.function(instance)
            except NotApplicableError as error:
                kept[self.name] = error
        value = kept[self.name]
        if isinstance(value, NotApplicableError):
            raise NotApplicableError(str(value))
        return value


@dataclass(frozen=True)
class Centroids:
    """Distances to class means in feature space, in units of the data's overall spread (root mean square)."""

    own: Tensor
    """To the mean of the other samples of its class (for the only sample of a class: of all others), shape (n,)."""
    other: Tensor
    """To the nearest mean of another class (with one class only: of all others), shape (n,)."""


@dataclass(frozen=True)
class HeldOut:
    """What the model says of the held-out data (m samples)."""

    logits: Tensor
    """Shape (m, C), float32."""
    labels: Tensor
    """Shape (m,)."""
    features: Tensor | None
    """Shape (m, d), float32; None for a model without a last linear layer."""


@dataclass(frozen=True)
class Rehearsal:
    """Unlearning every sample on the last layer alone: what it takes and what it does elsewhere. All shaped (n,)."""

    step: Tensor
    """Movement of the sample's own logits along the direction, in logits; 0 when the goal is met already."""
    strength: Tensor
    """Norm of the weight change."""
    shift: Tensor
    """Norm of the weight change relative to the norm of the layer's weights."""
    reference: Tensor
    """Mean total variation on the reference sample of the training data, in [0, 1]."""
    accuracy_change: Tensor
    """Change of accuracy on the reference sample, in [-1, 1]."""
    neighbours: Tensor
    """Mean total variation on its 20 nearest neighbours in feature space, in [0, 1]."""
    heldout: Tensor | None
    """Mean total variation on (at most 1000) held-out samples, in [0, 1]; None without held-out data."""


@dataclass(frozen=True)
class _Forward:
    """The first pass."""

    logits: Tensor
    features: Tensor | None
    early: Tensor | None
    """None also where the early layer is the middle one."""
    middle: Tensor | None
    inputs: Tensor | None
    checksums: Tensor | None
    """Of every sample's content, shape (n,)."""


class Probes:
    """Everything factors may ask of a target, computed lazily and once.

    The model runs over the training data, streaming in order, once forward (logits, features, early and middle layer,
    inputs) and, if gradients are asked for, once forward and backward for all probes in ``expected`` together;
    self-influence takes one more such pass. Held-out data, if any, is run forward once. A few tiny forward passes over
    copies of the first sample find the layers. Every checkpoint of a trajectory, one at a time, runs over the training
    data once forward and, if its gradients are asked for, once forward and backward. The target stays as it is.

    Wide representations are projected to 512 columns by a seeded count sketch (Charikar, Chen & Farach-Colton 2002),
    which keeps inner products in expectation and needs no large matrix. The reference sample of the rehearsals is
    all samples when n <= 1000 and otherwise drawn by position from ``seed``: permuting the samples then permutes
    the factors only up to that draw.

    Args:
        target: what to probe.
        seed: of projections, random features, the reference sample and models that draw random numbers.
        progress: bars on stderr.
        expected: names of probes that will be asked for. Those that rest on gradients are then measured in one pass;
            others, asked for one after the other, take a pass each.

    n is the number of samples, C of classes, d the width of the last layer's input. Tensors are on the CPU.
    """

    def __init__(self, target: Target, seed: int = 0, progress: bool = False, expected: Collection[str] = ()) -> None:
        self.target = target
        self.seed = seed
        self.progress = progress
        self.expected = frozenset(expected)
        self.notes: dict[str, str] = {}
        """What a probe had to leave out, by probe."""
        self._kept: dict[str, Any] = {}
        self._gradients: dict[str, Any] = {}

    # -- the model's answers ----------------------------------------------------------------------------------

    @probe
    def labels(self) -> Tensor:
        """Class of every sample, int64, shape (n,)."""
        return self.target.labels

    @probe
    def logits(self) -> Tensor:
        """Logits, float64, shape (n, C)."""
        return self._forward.logits.double()

    @probe
    def probabilities(self) -> Tensor:
        """Softmax of the logits, float64, shape (n, C)."""
        return self.logits.softmax(1)

    @probe
    def residuals(self) -> Tensor:
        """onehot - p without cancellation, float64, shape (n, C)."""
        return residuals(self.logits, self.labels)

    @probe
    def runner_up(self) -> Tensor:
        """The most likely class other than the label, int64, shape (n,)."""
        return runner_up(self.logits, self.labels)

    @probe
    def margin(self) -> Tensor:
        """Logit of the label minus the largest other logit, float64, shape (n,)."""
        return margin(self.logits, self.labels)

    @probe
    def true_probability(self) -> Tensor:
        """Probability of the label, float64, shape (n,)."""
        return self.probabilities.gather(1, self.labels[:, None])[:, 0]

    @probe
    def loss(self) -> Tensor:
        """Cross-entropy of the label in nats, float64, shape (n,)."""
        return cross_entropy(self.logits, self.labels)

    # -- representations --------------------------------------------------------------------------------------

    @probe
    def features(self) -> Tensor:
        """Inputs of the last linear layer, float32, shape (n, d)."""
        if self.target.head is None:
            raise NotApplicableError(self.target.head_missing)
        features = self._forward.features
        if features is None:
            raise NotApplicableError("the last linear layer was not called when the whole data ran")
        return features

    @probe
    def early(self) -> Tensor:
        """Like ``middle`` of the layer nearest to a quarter of the depth, which may be the same, shape (n, <= 512)."""
        early = self._forward.early
        return self.middle if early is None else _standardised(early)

    @probe
    def middle(self) -> Tensor:
        """Output of the layer nearest to half of the depth, standardised columns, float32, shape (n, <= 512)."""
        middle = self._forward.middle
        if middle is None:
            raise NotApplicableError("the model has no hidden layer whose output has one row per sample")
        return _standardised(middle)

    @probe
    def inputs(self) -> Tensor:
        """Flattened inputs with standardised columns, float32, shape (n, <= 512)."""
        inputs = self._forward.inputs
        if inputs is None:
            raise NotApplicableError("the inputs are not one tensor of real numbers per sample")
        return _standardised(inputs)

    @probe
    def head(self) -> Head:
        """The last linear layer: weight (C, d) and bias (C,) or None, float64."""
        head = self.target.head
        if head is None:
            raise NotApplicableError(self.target.head_missing)
        bias = None if head.bias is None else head.bias.cpu().double()
        return Head(head.name, head.weight.cpu().double(), bias)

    @probe
    def augmented_features(self) -> Tensor:
        """[features, 1], or features alone when the last layer has no bias; float64, shape (n, d + 1)."""
        return augmented(self.features, self.head.bias is not None)

    @probe
    def centroids(self) -> Centroids:
        """Distance to the centroid of the own and of the nearest other class in features, shapes (n,)."""
        return _centroids(self.features.double(), self.labels, self.target.num_classes)

    # -- gradients --------------------------------------------------------------------------------------------

    @probe
    def gradient_norm(self) -> Tensor:
        """Norm of the gradient of each sample's loss in the parameters, float64, shape (n,)."""
        squares = self._from_gradients("squares")
        self._note_left_out("gradient_norm")
        return squares.sqrt()

    @probe
    def self_influence(self) -> Tensor:
        """gᵀF⁻¹g of each sample's loss gradient g, F the damped empirical Fisher diagonal, float64, shape (n,).

        F is the mean of g² over all samples, so it takes a pass of its own over the data before this one.
        """
        fisher = self._from_gradients("fisher")
        self._note_left_out("self_influence")
        mean = sum(float(part.sum()) for part in fisher.values()) / sum(part.numel() for part in fisher.values())
        floor = max(DAMPING * mean, 1e-30)
        inverse = {name: 1 / (part + floor) for name, part in fisher.items()}
        return self._differentiate({"squares"}, inverse)["squares"]

    @probe
    def margin_input_gradient_norm(self) -> Tensor:
        """Norm of the gradient of each sample's margin in its input, float64, shape (n,)."""
        return self._from_gradients("margin")

    @probe
    def stein(self) -> SteinRows:
        """Stein kernel with the reference sample: score norm, row means, effective number (fields of shape (n,))."""
        score: Score = self._from_gradients("score")
        inputs = self._forward.inputs
        if inputs is None:
            raise NotApplicableError("the inputs are not one tensor of real numbers per sample")
        return stein_rows(
            inputs,
            score.narrow,
            score.norm,
            self.labels,
            self.probabilities,
            self.reference,
            width=score.width,
            device=self._device,
        )

    # -- the training run -------------------------------------------------------------------------------------

    @probe
    def learning_curves(self) -> LearningCurves:
        """Loss and margin of every sample at every point of the training run, float32, shapes (points, n)."""
        trajectory = self._trajectory
        if trajectory.outputs is not None:
            return recorded_curves(trajectory.outputs, self.labels, self.target.batch_size)
        return checkpoint_curves(self.target, trajectory.points, self.seed, self.progress)

    @probe
    def checkpoint_gradient_norms(self) -> Tensor:
        """Norm of the gradient of each sample's loss at every checkpoint, float64, shape (points, n)."""
        if self._trajectory.outputs is not None:
            raise NotApplicableError(
                "gradients need checkpoints, and the trajectory holds outputs alone: give Trajectory.from_checkpoints"
            )
        rows = []
        for point in range(self._trajectory.points):
            there = Probes(self.target.at(point), self.seed, self.progress)
            rows.append(there.gradient_norm)
            if "gradient_norm" in there.notes:
                self.notes["checkpoint_gradient_norms"] = there.notes["gradient_norm"]
        return torch.stack(rows)

    @probe
    def checkpoint_rates(self) -> Tensor:
        """Learning rate at every checkpoint, float64, shape (points,)."""
        return torch.tensor(self._trajectory.lr, dtype=torch.float64)

    @probe
    def _trajectory(self) -> Trajectory:
        if self.target.trajectory is None:
            raise NotApplicableError(
                "nothing of the training run was given: pass trajectory=Trajectory.from_checkpoints([...]) or "
                "Trajectory.from_outputs(array) along with the model"
            )
        return self.target.trajectory

    # -- neighbours -------------------------------------------------------------------------------------------

    @probe
    def feature_neighbours(self) -> Neighbours:
        """The 100 nearest others by cosine of the features (index, similarity, ..., shapes (n, <= 100))."""
        return self._nearest(self.features)

    @probe
    def middle_neighbours(self) -> Neighbours:
        """The 100 nearest others by cosine of the middle layer (index, similarity, ..., shapes (n, <= 100))."""
        return self._nearest(self.middle)

    @probe
    def input_neighbours(self) -> Neighbours:
        """The 100 nearest others by cosine of the inputs (index, similarity, ..., shapes (n, <= 100))."""
        return self._nearest(self.inputs)

    # -- surrogates -------------------------------------------------------------------------------------------

    @probe
    def input_vote(self) -> Tensor:
        """Leave-one-out vote of the nearest neighbours in inputs for the label, shape (n,), in [0, 1]."""
        return neighbour_vote(self.input_neighbours, self.labels)

    @probe
    def middle_vote(self) -> Tensor:
        """Leave-one-out vote of the nearest neighbours in the middle layer for the label, shape (n,), in [0, 1]."""
        return neighbour_vote(self.middle_neighbours, self.labels)

    @probe
    def feature_vote(self) -> Tensor:
        """Leave-one-out vote of the nearest neighbours in features for the label, shape (n,), in [0, 1]."""
        return neighbour_vote(self.feature_neighbours, self.labels)

    @probe
    def input_ridge(self) -> Tensor:
        """Leave-one-out probability of the label by random-feature ridge on inputs, shape (n,), in [0, 1]."""
        return self._ridge(self.inputs)

    @probe
    def middle_ridge(self) -> Tensor:
        """Leave-one-out probability of the label by random-feature ridge on the middle layer, shape (n,)."""
        return self._ridge(self.middle)

    @probe
    def feature_ridge(self) -> Tensor:
        """Leave-one-out probability of the label by random-feature ridge on features, shape (n,), in [0, 1]."""
        return self._ridge(_standardised(self.features))

    @probe
    def surrogates(self) -> Tensor:
        """All surrogate probabilities of the label that apply, shape (n, 2, 4 or 6), in [0, 1]."""
        columns, reasons = [], []
        for name in (
            "input_vote",
            "middle_vote",
            "feature_vote",
            "input_ridge",
            "middle_ridge",
            "feature_ridge",
        ):
            try:
                columns.append(getattr(self, name))
            except NotApplicableError as reason:
                reasons.append(str(reason))
        if not columns:
            raise NotApplicableError("no surrogate applies: " + "; ".join(dict.fromkeys(reasons)))
        return torch.stack(columns, 1)

    @probe
    def input_logistic(self) -> Tensor:
        """Out-of-fold probability of the label by random-feature logistic regression on inputs, shape (n,)."""
        return self._cross_fit(logistic_confidence, self.inputs)

    @probe
    def early_logistic(self) -> Tensor:
        """Out-of-fold probability of the label by random-feature logistic regression on the early layer, (n,)."""
        if self.early is self.middle:
            return self.middle_logistic
        return self._cross_fit(logistic_confidence, self.early)

    @probe
    def middle_logistic(self) -> Tensor:
        """Out-of-fold probability of the label by random-feature logistic regression on the middle layer, (n,)."""
        return self._cross_fit(logistic_confidence, self.middle)

    @probe
    def input_perceptron(self) -> Tensor:
        """Out-of-fold probability of the label by perceptrons on inputs, shape (n,), in [0, 1]."""
        return self._cross_fit(perceptron_confidence, self.inputs)

    @probe
    def early_perceptron(self) -> Tensor:
        """Out-of-fold probability of the label by perceptrons on the early layer, shape (n,), in [0, 1]."""
        if self.early is self.middle:
            return self.middle_perceptron
        return self._cross_fit(perceptron_confidence, self.early)

    @probe
    def middle_perceptron(self) -> Tensor:
        """Out-of-fold probability of the label by perceptrons on the middle layer, shape (n,), in [0, 1]."""
        return self._cross_fit(perceptron_confidence, self.middle)

    @probe
    def surrogate_confidence(self) -> Tensor:
        """What a model trained without the sample might say of its label, shape (n,), in [0, 1].

        Mean of three kinds of surrogates, as far as they apply: votes and ridges, perceptrons (one per layer), and the
        last layer with the sample left out.
        """
        kinds = [
            list(self.surrogates.T),
            self._applying("input_perceptron", "early_perceptron", "middle_perceptron"),
            self._applying("leave_one_out_probability"),
        ]
        return torch.stack([torch.stack(kind).mean(0) for kind in kinds if kind]).mean(0)

    @probe
    def _folds(self) -> Folds:
        checksums = self._forward.checksums
        if checksums is None or len(checksums) < 2:
            raise NotApplicableError("fitting without a fold needs at least two samples")
        return content_folds(checksums, self.labels)

    # -- rehearsal on the last layer --------------------------------------------------------------------------

    @probe
    def reference(self) -> Tensor:
        """Numbers of the training samples that collateral is measured on, sorted, shape (m,), m <= min(n, 1000)."""
        return self._draw(len(self.target))

    @probe
    def heldout(self) -> HeldOut:
        """Logits (m, C), labels (m,) and features (m, d) of the held-out data."""
        data = self.target.heldout
        if data is None:
            raise NotApplicableError("no held-out data was given")
        run = self._run(data, "held-out", middle=False)
        return HeldOut(run.logits, data.labels, run.features)

    @probe
    def erase_rehearsal(self) -> Rehearsal:
        """Until the margin is 0, by moving weight from the label to the runner-up (fields of shape (n,))."""
        return self._rehearse(erase_move(self.logits, self.labels))

    @probe
    def ascent_rehearsal(self) -> Rehearsal:
        """Until the margin is 0, along the gradient of the sample's own loss (fields of shape (n,))."""
        return self._rehearse(ascent_move(self.logits, self.labels))

    @probe
    def retrain_rehearsal(self) -> Rehearsal:
        """Until p_y is the surrogate confidence + 0.05, from the label to the runner-up (fields of shape (n,))."""
        goal = (self.surrogate_confidence + 0.05).clamp(max=1)
        return self._rehearse(retrain_move(self.logits, self.labels, goal))

    @probe
    def leave_one_out_logits(self) -> Tensor:
        """Logits after one Newton step of the last layer's loss without the sample, float64, shape (n, C)."""
        return leave_one_out_logits(self.augmented_features, self.logits, self.labels)

    @probe
    def leave_one_out_probability(self) -> Tensor:
        """Probability of the label by ``leave_one_out_logits``, float64, shape (n,)."""
        return self.leave_one_out_logits.softmax(1).gather(1, self.labels[:, None])[:, 0]

    # -- the target as a whole --------------------------------------------------------------------------------

    @probe
    def class_counts(self) -> Tensor:
        """Training samples of every class, int64, shape (C,)."""
        return torch.bincount(self.labels, minlength=self.target.num_classes)

    @probe
    def parameter_count(self) -> int:
        """Number of parameters of the model."""
        return sum(p.numel() for p in self.target.params.values())

    # -- passes over the data ---------------------------------------------------------------------------------

    @probe
    def _layout(self) -> Layout:
        with reproducible(self.target, self.seed):
            return layout(self.target)

    @probe
    def _parameters(self) -> Parameters:
        with reproducible(self.target, self.seed):
            return measured_parameters(self.target, self._layout)

    @probe
    def _forward(self) -> _Forward:
        return self._run(self.target.data, "forward", middle=True)

    @torch.no_grad()
    def _run(self, data: Data, what: str, *, middle: bool) -> _Forward:
        """One forward pass over ``data``; with ``middle`` also keeps the middle layer and the inputs."""
        target = self.target
        tap = _Tap(target, *(_hidden_layers(self._layout, target.head) if middle else (None, None)))
        logits, features, early, hidden, inputs, checksums = [], [], [], [], [], []
        with reproducible(target, self.seed), tap:
            for _, x, _y in self._batches(data, target.batch_size, what):
                if middle:
                    checksums.append(row_checksums(x))
                x = target.to_device(x)
                logits.append(target.forward(x).float().cpu())
                if tap.features is not None:
                    features.append(tap.features)
                if tap.early is not None:
                    early.append(_narrow(tap.early, self.seed))
                if tap.middle is not None:
                    hidden.append(_narrow(tap.middle, self.seed))
                if middle and (real := real_tensor(x)) is not None:
                    inputs.append(_narrow(real, self.seed + 1))
                tap.features = tap.early = tap.middle = None
        check_finite(torch.cat(logits), data)
        parts = (features, early, hidden, inputs, checksums)
        return _Forward(torch.cat(logits), *map(_joined, parts))

    def _from_gradients(self, name: str) -> Any:
        """The quantity of ``FROM_GRADIENTS`` called ``name``, measured along with all others that are expected."""
        if name not in self._gradients:
            others = {quantity for probe, quantity in FROM_GRADIENTS.items() if probe in self.expected}
            self._gradients |= self._differentiate({name} | others - self._gradients.keys())
        value = self._gradients[name]
        if isinstance(value, NotApplicableError):
            raise NotApplicableError(str(value))
        return value

    def _differentiate(self, wanted: set[str], weights: dict[str, Tensor] | None = None) -> dict[str, Any]:
        """One forward and backward pass over the training data."""
        target = self.target
        size = gradient_batch(target, self._layout.activations)
        with reproducible(target, self.seed):
            batches = self._batches(target.data, size, "gradients")
            narrow = partial(_narrow, seed=self.seed + 1)
            return gradient_pass(target, self._parameters, batches, wanted, weights=weights, narrow=narrow)

    def _note_left_out(self, name: str) -> None:
        if left_out := self._parameters.left_out:
            self.notes[name] = _left_out(self.target.module, left_out)

    def _batches(self, data: Data, size: int, what: str) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        total = -(-len(data) // size)
        return iter(
            tqdm(data.batches(size), total=total, desc=what, unit="batch", disable=not self.progress, leave=False)
        )

    # -- shared steps -----------------------------------------------------------------------------------------

    def _draw(self, size: int) -> Tensor:
        """Positions of at most 1000 of ``size`` samples, sorted; fewer where n · C is in the millions."""
        work = REFERENCE_WORK // (len(self.target) * self.target.num_classes)
        m = min(REFERENCE, max(50, work))
        if size <= m:
            return torch.arange(size)
        return torch.randperm(size, generator=torch.Generator().manual_seed(self.seed))[:m].sort().values

    @property
    def _device(self) -> torch.device | str:
        """Where large matrix products are taken."""
        return self.target.device if self.target.device.type == "cuda" else "cpu"

    def _nearest(self, z: Tensor) -> Neighbours:
        return nearest_neighbours(z, self.labels, k=100, device=self._device)

    def _ridge(self, z: Tensor) -> Tensor:
        if len(z) < 2:
            raise NotApplicableError("leaving one out needs at least two samples")
        return ridge_confidence(z, self.labels, self.target.num_classes, seed=self.seed)

    def _applying(self, *names: str) -> list[Tensor]:
        """What those of the named probes say that apply, each tensor once."""
        found: dict[int, Tensor] = {}
        for name in names:
            with suppress(NotApplicableError):
                value = getattr(self, name)
                found[id(value)] = value
        return list(found.values())

    def _cross_fit(self, learner: Callable[..., Tensor], z: Tensor) -> Tensor:
        return learner(z, self.labels, self.target.num_classes, self._folds, seed=self.seed)

    def _rehearse(self, move: Move) -> Rehearsal:
        z, head = self.augmented_features, self.head
        whole = Pool(z, self.logits, self.labels, torch.arange(len(z)))
        r = self.reference
        part = Pool(z[r], self.logits[r], self.labels[r], r)
        variation, accuracy = damage(move, z, part)
        outside = None
        if self.target.heldout is not None:
            held = self.heldout
            if held.features is not None:
                pick = self._draw(len(held.labels))
                rows = augmented(held.features[pick], head.bias is not None)
                outside = damage(move, z, Pool(rows, held.logits[pick].double(), held.labels[pick]))[0]
        size = head.weight.square().sum()
        if head.bias is not None:
            size = size + head.bias.square().sum()
        strength = move.step * move.length / z.norm(dim=1).clamp(min=1e-15)
        return Rehearsal(
            step=move.step,
            strength=strength,
            shift=strength / size.sqrt().clamp(min=1e-15),
            reference=variation,
            accuracy_change=accuracy,
            neighbours=neighbour_damage(move, z, whole, self.feature_neighbours.index[:, :20]),
            heldout=outside,
        )


PROBES: dict[str, str] = {
    name: (value.__doc__ or "").splitlines()[0]
    for name, value in vars(Probes).items()
    if isinstance(value, probe) and not name.startswith("_")
}
"""Every probe a factor may name, with its description."""


class _Tap:
    """Keeps the last linear layer's input, the early and the middle layer's output of the latest forward pass."""

    def __init__(self, target: Target, early: Layer | None, middle: Layer | None) -> None:
        self.features: Tensor | None = None
        self.early: Tensor | None = None
        self.middle: Tensor | None = None
        self._target = target
        self._layers = {"early": early, "middle": middle}
        self._handles: list[Any] = []

    def __enter__(self) -> _Tap:
        if self._target.head is not None:
            self._handles.append(self._target.watch_head(self._keep_features))
        for place, layer in self._layers.items():
            if layer is not None:
                self._handles.append(layer.module.register_forward_hook(partial(self._keep_output, place, layer)))
        return self

    def __exit__(self, *_: Any) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _keep_features(self, features: Tensor) -> None:
        self.features = features.float().cpu()

    def _keep_output(self, place: str, layer: Layer, _module: nn.Module, _args: Any, out: Any) -> None:
        tensor = first_tensor(out)
        if getattr(self, place) is None and tensor is not None:
            setattr(self, place, tensor.detach().movedim(layer.output_dim or 0, 0).clone())


def _hidden_layers(found: Layout, head: Head | None) -> tuple[Layer | None, Layer | None]:
    """Of the layers with parameters those nearest to a quarter and to half of the depth; the earlier of two equally
    near. The first is None where both are the same.
    """
    depth = len(found.layers)
    usable = [
        (place, layer)
        for place, layer in enumerate(found.layers, start=1)
        if layer.output_dim is not None and (head is None or layer.name != head.name)
    ]
    if not usable:
        return None, None
    early, middle = (min(usable, key=lambda pair: abs(pair[0] - share * depth))[1] for share in (0.25, 0.5))
    return None if early is middle else early, middle


def _joined(parts: list[Tensor]) -> Tensor | None:
    return torch.cat(parts) if parts else None


def _narrow(x: Tensor, seed: int) -> Tensor:
    """Rows flattened, and wider ones sketched to 512 columns, float32 on the CPU, shape (b, <= 512).

    The sketch flips the sign of every entry at random and sums the entries that fall into the same of 512 groups of
    equal size.
    """
    x = x.detach().flatten(1).float() if x.ndim > 1 else x.detach()[:, None].float()
    width = x.shape[1]
    if width <= WIDTH:
        return x.cpu()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(width, generator=generator).to(x.device)
    sign = (2 * torch.randint(0, 2, (width,), generator=generator) - 1).to(x)
    x = F.pad((x * sign)[:, order], (0, -width % WIDTH))
    return x.reshape(len(x), -1, WIDTH).sum(1).cpu()


def _standardised(x: Tensor) -> Tensor:
    """Columns with mean 0 and standard deviation 1; constant columns become 0."""
    x = x.double()
    spread = x.std(0, unbiased=False)
    small = 1e-6 * x.abs().amax(0).clamp(min=1e-12)
    return torch.where(spread > small, (x - x.mean(0)) / spread.clamp(min=1e-30), 0.0).float()


def _centroids(z: Tensor, labels: Tensor, classes: int) -> Centroids:
    n = len(z)
    counts = torch.bincount(labels, minlength=classes).double()
    means = torch.zeros(classes, z.shape[1], dtype=z.dtype).index_add_(0, labels, z)
    means = means / counts.clamp(min=1)[:, None]
    overall = z.mean(0)
    spread = (z - overall).square().sum(1).mean().sqrt().clamp(min=1e-12)
    alone = n / max(1, n - 1) * (z - overall).norm(dim=1)  # distance to the mean of all other samples
    own_count = counts[labels]
    own = torch.where(own_count > 1, own_count / (own_count - 1).clamp(min=1) * (z - means[labels]).norm(dim=1), alone)
    distances = torch.cdist(z, means)
    distances[:, counts == 0] = torch.inf
    other = distances.scatter(1, labels[:, None], torch.inf).amin(1)
    return Centroids(own / spread, torch.where(other.isfinite(), other, alone) / spread)


def _left_out(model: nn.Module, names: list[str]) -> str:
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    share = sum(sizes[name] for name in names) / sum(sizes.values())
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"leaves out {share:.1%} of the parameters: {listed}"
