"""Probes: what factors share (logits, features, gradients, neighbours, rehearsals), each computed once.

A probe is an attribute of :class:`Probes`, computed when first read and kept. Factors name the probes they take;
:data:`PROBES` lists them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from forgetcast.errors import NotApplicableError
from forgetcast.factors.probes.cross_fitted import logistic_confidence
from forgetcast.factors.probes.damage import (
    Move,
    Pool,
    accuracy_change,
    ascent_move,
    damage,
    erase_move,
    neighbour_damage,
    retrain_move,
    runner_up,
)
from forgetcast.factors.probes.gradient_pass import (
    Parameters,
    Score,
    UnexplainedError,
    gradient_batch,
    gradient_pass,
    measured_parameters,
    real_tensor,
)
from forgetcast.factors.probes.learning_curves import LearningCurves, checkpoint_curves, recorded_curves
from forgetcast.factors.probes.nearest import Neighbours, nearest_neighbours
from forgetcast.factors.probes.neighbour_vote import neighbour_vote
from forgetcast.factors.probes.stein_kernel import SteinRows, stein_rows
from forgetcast.objectives import SLACK
from forgetcast.target.content_order import content_order
from forgetcast.target.data import Data, Inputs
from forgetcast.target.filled import Filled, filled
from forgetcast.target.last_layer import (
    KernelRows,
    augmented,
    kernel_rows,
    leave_one_out_logits,
    residuals,
    trainable_head,
)
from forgetcast.target.layers import Layer, Layout, first_tensor, layout, reproducible
from forgetcast.target.logits import cross_entropy, margin, single, true_probability
from forgetcast.target.seeding import sample_positions
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Head, Target, as_logits, check_finite
from forgetcast.target.trajectory import Trajectory

__all__ = ["PROBES", "Centroids", "HeldOut", "Probes", "Rehearsal"]

WIDTHS = (512, 4096)
"""Widest representation kept as it is, of many and of few samples; wider ones are projected to as many columns."""

NUMBERS = 1 << 22
"""Numbers in a representation up to which it may be wider than the first of these."""

REFERENCE = 1000
"""Samples on which collateral damage is measured, at most where there are many."""

REFERENCE_PAIRS = 10_000_000
"""Pairs with the reference sample up to which it may be larger than that."""

REFERENCE_WORK = 4_000_000_000
"""Samples times classes times reference samples that all rehearsals may visit."""

REHEARSAL_WORK = 150_000_000
"""Probabilities that one rehearsal may move: samples times reference samples, times classes where all of them move."""

BLOCK = 4096
"""Rows that are converted at a time."""

FISHER = 5000
"""Samples that the Fisher diagonal is estimated on, at most."""

DAMPING = 1e-3
"""What is added to every entry of the Fisher diagonal, in units of its mean."""

FROM_GRADIENTS = {
    "gradient_norm": "squares",
    "self_influence": "influence",
    "margin_input_gradient_norm": "margin",
    "stein": "score",
}
"""Probes that rest on gradients of single samples, with the quantity of ``gradient_pass`` they need."""

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
                with own_settings():
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
    neighbours: Tensor
    """Mean total variation on its 20 nearest neighbours in feature space, in [0, 1]."""
    heldout: Tensor | None
    """Mean total variation on a sample of the held-out data, in [0, 1]; None without held-out data."""


@dataclass(frozen=True)
class _Forward:
    """The first pass."""

    logits: Tensor
    features: Tensor | None
    early: Tensor | None
    """None also where the early layer is the middle one."""
    middle: Tensor | None
    inputs: Tensor | None


class Probes:
    """Everything factors may ask of a target, computed lazily and once.

    **Reading.** The training data is read in order, in batches, and only as often as this: once for everything that
    comes out of a forward pass (logits, features, early and middle layer, inputs) and for all expected probes that rest
    on gradients, together; a second time where ``rows`` are given (those rows alone), where a probe that rests on
    gradients was not expected, or where the model cannot be differentiated; up to 5000 samples once more, before, for
    ``self_influence``; and for every checkpoint of a trajectory once, and once more if its gradients are asked for.
    Held-out data is read once. A few tiny passes over copies of the first sample and over twelve samples find the
    layers and check them; one sample of some batches is looked at once more. No batch is kept: memory holds the rows of
    features, early and middle layer and inputs (4 bytes a number; at most 512 numbers a row, or 4 million in all), what
    follows from them, and one batch. The target stays as it is.

    Wide representations are sketched to 512 columns (up to 4096 where samples are few), sums of entries with random
    signs (after Charikar, Chen & Farach-Colton 2002), which keeps inner products in expectation and needs no large
    matrix. The reference sample of the rehearsals is all samples when n <= 3000 and otherwise drawn by ``seed`` from
    the samples in the order of their content: permuting the samples permutes the factors.

    Args:
        target: what to probe.
        seed: of projections, random features, the reference sample and models that draw random numbers.
        progress: bars on stderr.
        expected: names of probes that will be asked for. Those that rest on gradients are then measured in the first
            pass; others, asked for one after the other, take a pass each. Where all do, that pass records nothing else.
        rows: numbers of the samples that are asked for, sorted; default all. What takes more than a forward pass is
            then worked out for these rows alone and NaN for all others.

    n is the number of samples, C of classes, d the width of the last layer's input. Tensors are on the CPU.
    """

    def __init__(
        self,
        target: Target,
        seed: int = 0,
        progress: bool = False,
        expected: Collection[str] = (),
        rows: Tensor | None = None,
    ) -> None:
        self.target = target
        self.rows = rows
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
        """Like ``middle`` of the layer nearest to a quarter of the depth, which may be the same, shape (n, <= 4096)."""
        early = self._forward.early
        return self.middle if early is None else early

    @probe
    def middle(self) -> Tensor:
        """Output of the layer nearest to half of the depth, standardised columns, float32, shape (n, <= 4096)."""
        middle = self._forward.middle
        if middle is None:
            raise NotApplicableError("the model has no hidden layer whose output has one row per sample")
        return middle

    @probe
    def inputs(self) -> Tensor:
        """Flattened inputs with standardised columns, float32, shape (n, <= 4096)."""
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
        """[features, 1], or features alone when the last layer has no bias that is trained; float64, (n, d + 1)."""
        return augmented(self.features, self._trainable_head.bias is not None)

    @probe
    def _trainable_head(self) -> Head:
        """What the rehearsals move."""
        return trainable_head(self.target)

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
        return self._placed(squares, self._gradient_rows).sqrt()

    @probe
    def self_influence(self) -> Tensor:
        """gᵀF⁻¹g of each sample's loss gradient g, F the damped empirical Fisher diagonal, float64, shape (n,).

        F is the mean of g² over all samples up to 5000, and beyond that over 5000 drawn ones: a pass of its own over
        these, before the one over all.
        """
        influence = self._from_gradients("influence")
        self._note_left_out("self_influence")
        return self._placed(influence, self._gradient_rows)

    @probe
    def _fisher_weights(self) -> dict[str, Tensor]:
        """1/F by group of parameters, and by "" for the parameters that no sample moved."""
        fisher = self._differentiate({"fisher"}, rows=self._drawn(self.target.data, FISHER))["fisher"]
        if isinstance(fisher, NotApplicableError):
            raise fisher
        size = sum(self.target.params[name].numel() for name in self._parameters.names())
        floor = max(DAMPING * sum(float(part.sum()) for part in fisher.values()) / size, 1e-30)
        return {"": torch.tensor(1 / floor), **{name: 1 / (part + floor) for name, part in fisher.items()}}

    @probe
    def margin_input_gradient_norm(self) -> Tensor:
        """Norm of the gradient of each sample's margin in its input, float64, shape (n,)."""
        return self._placed(self._from_gradients("margin"), self._gradient_rows)

    @probe
    def stein(self) -> SteinRows:
        """Stein kernel with the reference sample: score norm, row means, effective number (fields of shape (n,))."""
        score: Score = self._from_gradients("score")
        inputs = self._forward.inputs
        if inputs is None:
            raise NotApplicableError("the inputs are not one tensor of real numbers per sample")
        rows = self._gradient_rows
        found = stein_rows(
            inputs if self.rows is None else inputs[rows],
            score.narrow,
            score.norm,
            self.labels[rows],
            self.probabilities[rows],
            torch.searchsorted(rows, self.reference),
            width=score.width,
            population=len(self.target),
            device=self._device,
        )
        del self._gradients["score"]
        return SteinRows(**{name: self._placed(values, rows) for name, values in vars(found).items()})

    # -- the training run -------------------------------------------------------------------------------------

    @probe
    def learning_curves(self) -> LearningCurves:
        """Loss and margin of every sample at every point of the training run, float32, shapes (points, n)."""
        trajectory = self._trajectory
        if trajectory.outputs is not None:
            place = self.target.data.numbers(torch.arange(len(self.target)))
            labels = torch.empty_like(self.labels).index_copy_(0, place, self.labels)
            return recorded_curves(trajectory.outputs, labels, self.target.batch_size).take(place)
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
        """The 100 nearest others by cosine of the features (index, similarity, ..., shapes (n, <= 100)).

        Of all samples, whatever the rows asked for, since factors look at the neighbours' neighbours.
        """
        return nearest_neighbours(self.features, self.labels, k=100, device=self._device, seed=self.seed)

    @probe
    def middle_neighbours(self) -> Neighbours:
        """The 20 nearest others by cosine of the middle layer (index, similarity, ..., shapes (n, <= 20))."""
        return self._nearest(self.middle)

    @probe
    def input_neighbours(self) -> Neighbours:
        """The 20 nearest others by cosine of the inputs (index, similarity, ..., shapes (n, <= 20))."""
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
    def input_logistic(self) -> Tensor:
        """Out-of-fold probability of the label by kernel logistic regression on inputs, shape (n,), in [0, 1]."""
        return self._logistic(self.inputs)

    @probe
    def early_logistic(self) -> Tensor:
        """Out-of-fold probability of the label by kernel logistic regression on the early layer, shape (n,)."""
        if self.early is self.middle:
            return self.middle_logistic
        return self._logistic(self.early)

    @probe
    def middle_logistic(self) -> Tensor:
        """Out-of-fold probability of the label by kernel logistic regression on the middle layer, shape (n,)."""
        return self._logistic(self.middle)

    @probe
    def surrogate_confidence(self) -> Tensor:
        """What a model trained without the sample might say of its label, shape (n,), in [0, 1].

        Mean of three kinds of surrogates, as far as they apply: votes, kernel logistic regressions (one per layer), and
        the last layer with the sample left out. Votes count half as much as the others.
        """
        kinds = [
            (1, self._applying("input_vote", "middle_vote", "feature_vote")),
            (2, self._applying("input_logistic", "early_logistic", "middle_logistic")),
            (2, self._applying("leave_one_out_probability")),
        ]
        if not any(values for _, values in kinds):
            raise NotApplicableError("no surrogate applies: neither the inputs nor a layer are numbers per sample")
        means = torch.stack([torch.stack(values).mean(0).double() for _, values in kinds if values])
        weights = means.new_tensor([weight for weight, values in kinds if values])
        return weights / weights.sum() @ means

    @probe
    def _by_content(self) -> tuple[Tensor, Tensor]:
        """Samples in the order of their content, and every sample's class numbered likewise, both of shape (n,)."""
        order, rank = content_order(self.target.data, self.target.num_classes)
        return order, rank[self.labels]

    # -- rehearsal on the last layer --------------------------------------------------------------------------

    @probe
    def reference(self) -> Tensor:
        """Numbers of the training samples that collateral is measured on, sorted, shape (m,), m <= n."""
        return self._drawn(self.target.data, self._references)

    @probe
    def heldout(self) -> HeldOut:
        """Logits (m, C), labels (m,) and features (m, d) of the held-out data."""
        data = self.target.heldout
        if data is None:
            raise NotApplicableError("no held-out data was given")
        run = self._run(data, "held-out", hidden=False)
        return HeldOut(run.logits, data.labels, run.features)

    @probe
    def erase_rehearsal(self) -> Rehearsal:
        """Until the margin is 0, by moving weight from the label to the runner-up (fields of shape (n,))."""
        return self._rehearse(self._erase_move)

    @probe
    def erase_accuracy_change(self) -> Tensor:
        """Change of accuracy on the reference sample when the margin goes to 0 as in erase_rehearsal, shape (n,)."""
        numbers = self._chosen(torch.arange(len(self.target)))
        pool = self._pool(self._erase_move)
        return self._placed(accuracy_change(self._erase_move, self.augmented_features[numbers], pool, numbers))

    @probe
    def _erase_move(self) -> Move:
        return erase_move(self._chosen(self.logits), self._chosen(self.labels))

    @probe
    def ascent_rehearsal(self) -> Rehearsal:
        """Until the margin is 0, along the gradient of the sample's own loss (fields of shape (n,))."""
        return self._rehearse(ascent_move(self._chosen(self.logits), self._chosen(self.labels)))

    @probe
    def retrain_rehearsal(self) -> Rehearsal:
        """Until p_y is the surrogate confidence + 0.05, from the label to the runner-up (fields of shape (n,))."""
        goal = (self._chosen(self.surrogate_confidence) + SLACK).clamp(max=1)
        return self._rehearse(retrain_move(self._chosen(self.logits), self._chosen(self.labels), goal))

    @probe
    def gradient_kernel(self) -> KernelRows:
        """Row sums of the last layer's gradient kernel with the reference sample (fields of shape (n,))."""
        z, r, reference = self.augmented_features, self.residuals, self.reference
        rows = kernel_rows(self._chosen(z), self._chosen(r), z[reference], r[reference])
        return replace(rows, absolute=self._placed(rows.absolute), square=self._placed(rows.square))

    @probe
    def leave_one_out_logits(self) -> Tensor:
        """Logits after one Newton step of the last layer's loss without the sample, float64, shape (n, C)."""
        return leave_one_out_logits(self.augmented_features, self.logits, self.labels)

    @probe
    def leave_one_out_probability(self) -> Tensor:
        """Probability of the label by ``leave_one_out_logits``, float64, shape (n,)."""
        return true_probability(self.leave_one_out_logits, self.labels)

    # -- the target as a whole --------------------------------------------------------------------------------

    @probe
    def class_counts(self) -> Tensor:
        """Training samples of every class, int64, shape (C,)."""
        return torch.bincount(self.labels, minlength=self.target.num_classes)

    @probe
    def parameter_count(self) -> int:
        """Number of trainable parameters of the model."""
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
        if self.rows is None and self._expected_from_gradients:
            self._measure(self._expected_from_gradients)
        return self._kept.get("_forward") or self._run(self.target.data, "forward", hidden=True)

    @torch.no_grad()
    def _run(self, data: Data, what: str, *, hidden: bool) -> _Forward:
        """One forward pass over ``data``; with ``hidden`` also keeps hidden layers and inputs."""
        target = self.target
        recorder = self._recorder(data, hidden)
        with reproducible(target, self.seed), recorder:
            for index, x, _y in recorder.watched(self._batches(data, target.batch_size, what)):
                with target.running(data, index):
                    target.forward(target.to_device(x))
        found = recorder.result()
        with reproducible(target, self.seed):
            target.check_steady(data, found.logits)
        return found

    def _from_gradients(self, name: str) -> Any:
        """The quantity of ``FROM_GRADIENTS`` called ``name``, measured along with all others that are expected."""
        if name not in self._gradients:
            self._measure({name} | self._expected_from_gradients)
        value = self._gradients[name]
        if isinstance(value, NotApplicableError):
            raise NotApplicableError(str(value))
        return value

    @property
    def _expected_from_gradients(self) -> set[str]:
        return {quantity for probe, quantity in FROM_GRADIENTS.items() if probe in self.expected}

    def _measure(self, wanted: set[str]) -> None:
        """Measure quantities that rest on gradients, again where a layer turns out not to be what it was taken for."""
        try:
            self._measure_once(wanted)
        except UnexplainedError as found_out:
            self._kept["_parameters"] = self._parameters.without(self.target, found_out.parts)
            self._kept["_layout"] = self._layout.without(found_out.parts)
            for name in ("squares", "influence"):
                self._gradients.pop(name, None)
            for name in ("_fisher_weights", "gradient_norm", "self_influence"):
                self._kept.pop(name, None)
            self._measure(wanted)

    def _measure_once(self, wanted: set[str]) -> None:
        """The first pass over all data also gives what ``_forward`` does."""
        wanted = wanted - self._gradients.keys()
        _ = self._parameters  # first, while no hook of our own is on the model
        weights = None
        if "influence" in wanted:
            try:
                weights = self._fisher_weights
            except NotApplicableError as reason:
                self._gradients["influence"] = reason
                wanted.remove("influence")
        measure = partial(self._differentiate, wanted, weights=weights)
        if self.rows is not None or "_forward" in self._kept:
            self._gradients |= measure(rows=self._gradient_rows)
            return
        if self.expected and self.expected <= FROM_GRADIENTS.keys() and "score" not in wanted:
            self._gradients |= measure()  # nothing else is asked for, so nothing is recorded
            return
        recorder = self._recorder(self.target.data, hidden=True)
        with recorder:
            self._gradients |= measure(recorder=recorder)
        if recorder.complete:
            self._kept["_forward"] = recorder.result()
            with reproducible(self.target, self.seed):
                self.target.check_steady(self.target.data, self._kept["_forward"].logits)
            if "stein" in self.expected:
                with suppress(NotApplicableError):
                    _ = self.stein  # now, for the score is as wide as the inputs and kept no longer than this

    def _differentiate(
        self,
        wanted: set[str],
        *,
        weights: dict[str, Tensor] | None = None,
        rows: Tensor | None = None,
        recorder: _Recorder | None = None,
    ) -> dict[str, Any]:
        """One forward and backward pass over the training data, or over some rows of it."""
        target = self.target
        size = gradient_batch(target, self._layout.activations)
        with reproducible(target, self.seed):
            batches, n = self._batches(target.data, size, "gradients", rows), len(target if rows is None else rows)
            if recorder is not None:
                batches = recorder.watched(batches)
            narrow = partial(_narrow, seed=self.seed + 1, most=self._width)
            return gradient_pass(target, self._parameters, batches, n, wanted, weights=weights, narrow=narrow)

    @probe
    def _gradient_rows(self) -> Tensor:
        """Numbers of the samples whose gradients are measured, sorted: those asked for and the reference sample."""
        n = len(self.target)
        return torch.arange(n) if self.rows is None else torch.cat([self.rows, self.reference]).unique()

    def _note_left_out(self, name: str) -> None:
        notes = [_left_out(self.target.params, left_out)] if (left_out := self._parameters.left_out) else []
        if trained := self._trained:
            notes.append(trained)
        if notes:
            self.notes[name] = "; ".join(notes)

    @property
    def _trained(self) -> str:
        """What the user may not have meant where some or all parameters are frozen."""
        frozen, whole = self.target.frozen, sum(p.numel() for p in self.target.module.parameters())
        if frozen == 0:
            return ""
        if frozen == whole:
            return "every parameter is frozen (requires_grad=False), so all count as if they were trained"
        return f"counts {1 - frozen / whole:.1%} of the parameters; the others are frozen (requires_grad=False)"

    def _batches(
        self, data: Data, size: int, what: str, rows: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        total = -(-(len(data) if rows is None else len(rows)) // size)
        batches = data.batches(size) if rows is None else ((part, *data.fetch(part)) for part in rows.split(size))
        return iter(tqdm(batches, total=total, desc=what, unit="batch", disable=not self.progress, leave=False))

    def _recorder(self, data: Data, hidden: bool) -> _Recorder:
        layers = _hidden_layers(self._layout, self.target.head) if hidden else {}
        return _Recorder(self.target, data, layers, inputs=hidden, seed=self.seed, width=self._width)

    @property
    def _width(self) -> int:
        """Columns of the widest representation that is kept as it is."""
        return int(min(max(WIDTHS[0], NUMBERS // len(self.target)), WIDTHS[1]))

    # -- shared steps -----------------------------------------------------------------------------------------

    @property
    def _references(self) -> int:
        """Samples to measure damage on: 1000, more where n is below 10,000, fewer where n · C is in the millions."""
        n = len(self.target)
        work = REFERENCE_WORK // (n * self.target.num_classes)
        return int(min(max(REFERENCE, REFERENCE_PAIRS // n), max(50, work)))

    def _drawn(self, data: Data, most: int) -> Tensor:
        """Numbers of at most so many samples, sorted; drawn by content, so that they move with the samples."""
        order = self._by_content[0] if data is self.target.data else torch.from_numpy(np.argsort(data.content_hashes()))
        return order[sample_positions(len(data), most, self.seed)].sort().values

    @property
    def _device(self) -> torch.device | str:
        """Where large matrix products are taken."""
        return self.target.device if self.target.device.type == "cuda" else "cpu"

    def _nearest(self, z: Tensor) -> Neighbours:
        return nearest_neighbours(z, self.labels, k=20, device=self._device, rows=self.rows, seed=self.seed)

    def _chosen(self, values: Tensor) -> Tensor:
        """Those of n rows of values that are asked for."""
        return values if self.rows is None else values[self.rows]

    def _placed(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Values of some rows (default: those asked for) among n, NaN elsewhere."""
        if self.rows is None:
            return values
        rows = self.rows if rows is None else rows
        return values.new_full((len(self.target), *values.shape[1:]), torch.nan).index_copy_(0, rows, values)

    def _applying(self, *names: str) -> list[Tensor]:
        """What those of the named probes say that apply, each tensor once."""
        found: dict[int, Tensor] = {}
        for name in names:
            with suppress(NotApplicableError):
                value = getattr(self, name)
                found[id(value)] = value
        return list(found.values())

    def _logistic(self, z: Tensor) -> Tensor:
        if len(z) < 2:
            raise NotApplicableError("leaving one out needs at least two samples")
        order, labels = self._by_content
        found = logistic_confidence(z[order], labels[order], self.target.num_classes, seed=self.seed)
        return torch.empty_like(found).index_copy_(0, order, found)

    def _pool(self, move: Move, heldout: HeldOut | None = None) -> Pool:
        """What the damage of a move is measured on: the reference sample, or held-out data; every s-th where many."""
        outside = self.target.heldout
        pick = self.reference if heldout is None or outside is None else self._drawn(outside, self._references)
        moved = len(self.target) * (1 if move.spread is None else self.target.num_classes)
        pick = pick[:: -(-len(pick) // max(50, REHEARSAL_WORK // moved))]
        if heldout is None:
            return Pool(self.augmented_features[pick], self.logits[pick], self.labels[pick], pick)
        assert heldout.features is not None
        z = augmented(heldout.features[pick], self._trainable_head.bias is not None)
        return Pool(z, heldout.logits[pick].double(), heldout.labels[pick])

    @probe
    def _neighbour_reach(self) -> Tensor:
        """z̃_i·z̃_j/‖z̃_i‖² of the rows asked for and their 20 nearest neighbours, float32, shape (m, <= 20)."""
        z = self.augmented_features.float()
        own, near = self._chosen(z), self._chosen(self.feature_neighbours.index[:, :20])
        blocks = zip(own.split(BLOCK // 4), near.split(BLOCK // 4), strict=True)
        reach = filled(len(own), ((z[index] @ rows[:, :, None])[..., 0] for rows, index in blocks))
        return reach / own.square().sum(1, keepdim=True).clamp(min=1e-30)

    def _rehearse(self, move: Move) -> Rehearsal:
        head, numbers = self._trainable_head, self._chosen(torch.arange(len(self.target)))
        z, near = self.augmented_features[numbers], self.feature_neighbours.index[numbers, :20]
        outside = None
        if self.target.heldout is not None and self.heldout.features is not None:
            outside = damage(move, z, self._pool(move, self.heldout), numbers)
        size = head.weight.cpu().double().square().sum()
        if head.bias is not None:
            size = size + head.bias.cpu().double().square().sum()
        strength = move.step * move.length / z.norm(dim=1).clamp(min=1e-15)
        return Rehearsal(
            step=self._placed(move.step),
            strength=self._placed(strength),
            shift=self._placed(strength / size.sqrt().clamp(min=1e-15)),
            reference=self._placed(damage(move, z, self._pool(move), numbers)),
            neighbours=self._placed(neighbour_damage(move, self._neighbour_reach, self.logits, near)),
            heldout=None if outside is None else self._placed(outside),
        )


PROBES: dict[str, str] = {
    name: (value.__doc__ or "").splitlines()[0]
    for name, value in vars(Probes).items()
    if isinstance(value, probe) and not name.startswith("_")
}
"""Every probe a factor may name, with its description."""


class _Recorder:
    """Keeps what a pass over the data shows: logits, features, early and middle layer and inputs, in one array each.

    It listens to the first forward pass after every batch that it hands on, whoever runs the model and how.
    """

    def __init__(
        self, target: Target, data: Data, layers: dict[str, Layer], *, inputs: bool, seed: int, width: int
    ) -> None:
        self._target, self._data, self._layers, self._inputs, self._seed = target, data, layers, inputs, seed
        self._width = width
        self._listening = False
        self._seen: dict[str, Tensor] = {}
        self._kept: dict[str, Filled] = defaultdict(partial(Filled, len(data)))
        self._handles: list[Any] = []

    def __enter__(self) -> _Recorder:
        if self._target.head is not None:
            self._handles.append(self._target.watch_head(partial(self._see, "features")))
        for name, layer in self._layers.items():
            self._handles.append(layer.module.register_forward_hook(partial(self._see_layer, name, layer)))
        self._handles.append(self._target.module.register_forward_hook(self._see_logits))
        return self

    def __exit__(self, *_: Any) -> None:
        while self._handles:
            self._handles.pop().remove()

    def watched(self, batches: Iterator[tuple[Tensor, Inputs, Tensor]]) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """The same batches, each recorded by the time the next one is asked for."""
        for batch in batches:
            self._listening = True
            yield batch
            self._listening = False
            if self._inputs and (real := real_tensor(batch[1])) is not None:
                self._seen["inputs"] = _narrow(real, self._seed + 1, self._width)
            for name, values in self._seen.items():
                if len(values) == len(batch[2]):  # else no row is a sample's, and the whole is not complete
                    self._kept[name].add((single(values) if name == "logits" else values.float()).cpu())
            self._seen.clear()

    @property
    def complete(self) -> bool:
        """Whether all data went by."""
        return "logits" in self._whole()

    def result(self) -> _Forward:
        """What was recorded.

        Raises:
            ModelError: logits that are not finite.
        """
        whole = self._whole()
        check_finite(whole["logits"], self._data)
        for name in self._layers.keys() & whole.keys():
            _standardised(whole[name], out=whole[name])
        names = ("features", "early", "middle", "inputs")
        return _Forward(whole["logits"], *(whole.get(name) for name in names))

    def _see(self, name: str, values: Tensor) -> None:
        if self._listening:
            self._seen[name] = values.detach()

    def _see_layer(self, name: str, layer: Layer, _module: nn.Module, _args: Any, out: Any) -> None:
        tensor = first_tensor(out)
        if tensor is not None and name not in self._seen:
            self._see(name, _narrow(tensor.movedim(layer.output_dim or 0, 0), self._seed, self._width))

    def _see_logits(self, _module: nn.Module, _args: Any, out: Any) -> None:
        self._see("logits", as_logits(out))
        self._listening = False

    def _whole(self) -> dict[str, Tensor]:
        return {name: rows.array for name, rows in self._kept.items() if rows.count == len(self._data)}


def _hidden_layers(found: Layout, head: Head | None) -> dict[str, Layer]:
    """Of the layers with parameters ``early``, nearest to a quarter of the depth, and ``middle``, nearest to half;
    the earlier of two equally near. Only ``middle`` where both are the same.
    """
    depth = len(found.layers)
    usable = [
        (place, layer)
        for place, layer in enumerate(found.layers, start=1)
        if layer.output_dim is not None and (head is None or layer.name != head.name)
    ]
    if not usable:
        return {}
    early, middle = (min(usable, key=lambda pair: abs(pair[0] - share * depth))[1] for share in (0.25, 0.5))
    return {"middle": middle} if early is middle else {"early": early, "middle": middle}


def _narrow(x: Tensor, seed: int, most: int = WIDTHS[0]) -> Tensor:
    """Rows flattened, and wider ones sketched to ``most`` columns, float32 on the CPU, shape (b, <= most); a copy.

    The sketch flips the sign of every entry at random and sums the entries that lie ``most`` apart, images channels
    last.
    """
    x = x.detach().float()
    width = x[0].numel()
    if width <= most:
        return x.reshape(len(x), width).to("cpu", copy=True)
    if x.ndim == 4:
        x = x.permute(0, 2, 3, 1)  # as images lie in memory: nothing is copied
    signed = x.reshape(len(x), width) * _signs(width, seed).to(x.device)
    whole = width // most * most
    total = signed[:, :whole].unflatten(1, (-1, most)).sum(1)
    total[:, : width - whole] += signed[:, whole:]
    return total.cpu()


@lru_cache(maxsize=8)
def _signs(width: int, seed: int) -> Tensor:
    """Random signs, shape (width,)."""
    drawn = torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(seed), device="cpu")
    return 2 * drawn.float() - 1  # a hook may ask, under the settings that the model runs under


def _standardised(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Columns with mean 0 and standard deviation 1; constant columns become 0. Float32, in ``out`` if given."""
    out = torch.empty_like(x) if out is None else out
    blocks = x.split(BLOCK)
    mean = torch.stack([block.sum(0, dtype=torch.float64) for block in blocks]).sum(0) / len(x)
    square = torch.stack([(block.double() - mean).square_().sum(0) for block in blocks]).sum(0)
    spread = (square / len(x)).sqrt()
    largest = torch.stack([block.abs().amax(0) for block in blocks]).amax(0).double()
    kept = spread > 1e-6 * largest.clamp(min=1e-12)
    scale = torch.where(kept, 1 / spread.clamp(min=1e-30), 0.0)
    for block, target in zip(blocks, out.split(BLOCK), strict=True):
        target.copy_((block.double() - mean).mul_(scale))
    return out


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


def _left_out(params: dict[str, Tensor], names: list[str]) -> str:
    sizes = {name: parameter.numel() for name, parameter in params.items()}
    share = sum(sizes[name] for name in names) / max(1, sum(sizes.values()))
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"leaves out {share:.1%} of the parameters: {listed}"
