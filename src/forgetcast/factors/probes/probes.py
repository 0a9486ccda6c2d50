"""Probes: what factors share (logits, features, gradients, neighbours, rehearsals), each computed once.

A probe is an attribute of :class:`Probes`, computed when first read and kept. Factors name the probes they take;
:data:`PROBES` lists them all.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.factors.probes import damage
from forgetcast.factors.probes.centroids import Centroids, class_centroids
from forgetcast.factors.probes.gradient_pass import Score
from forgetcast.factors.probes.nearest import Neighbours, nearest_neighbours
from forgetcast.factors.probes.neighbour_vote import neighbour_vote
from forgetcast.factors.probes.passes import Passes
from forgetcast.factors.probes.probe import probe
from forgetcast.factors.probes.recorder import HeldOut, standardised
from forgetcast.factors.probes.stein_kernel import SteinRows, stein_rows
from forgetcast.factors.probes.surrogate_confidence import logistic_surrogate, weighted_surrogates
from forgetcast.factors.probes.training_dynamics import TrainingDynamics, checkpoint_dynamics, recorded_dynamics
from forgetcast.objectives import SLACK
from forgetcast.target.head import Head
from forgetcast.target.last_layer import (
    KernelRows,
    augmented,
    kernel_rows,
    leave_one_out_logits,
    residuals,
    trainable_head,
)
from forgetcast.target.logits import cross_entropy, margin, true_probability
from forgetcast.target.trajectory import Trajectory

__all__ = ["PROBES", "Probes"]


class Probes(Passes):
    """Everything factors may ask of a target, computed lazily and once.

    ``Passes`` says how often data is read. The reference sample of the rehearsals is all samples when n <= 3000. Beyond
    that, ``seed`` draws it from the samples in the order of their content: permuting the samples permutes the factors.

    Args:
        target: what to probe.
        seed: of projections, random features, the reference sample and models that draw random numbers.
        progress: bars on stderr.
        expected: names of probes that will be asked for. Those that rest on gradients are then measured in the first
            pass; others, asked for one after the other, take a pass each. Where all do, that pass records nothing else.
        rows: numbers of the samples that are asked for, sorted; default all. What takes more than a forward pass is
            then computed for these rows alone and NaN for all others.

    n is the number of samples, C of classes, d the width of the last layer's input. Tensors are on the CPU.
    """

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
        return damage.runner_up(self.logits, self.labels)

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
        return standardised(inputs)

    @probe
    def head(self) -> Head:
        """The last linear layer: weight (C, d) and bias (C,) or None, float64."""
        head = self.target.head
        if head is None:
            raise NotApplicableError(self.target.head_missing)
        return head.exact()

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
        return class_centroids(self.features.double(), self.labels, self.target.num_classes)

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

    def _measured(self) -> None:
        if "stein" in self.expected and "_forward" in self._kept and "score" in self._gradients:
            with suppress(NotApplicableError):
                _ = self.stein  # now, for the score is as wide as the inputs and kept no longer than this

    # -- the training run -------------------------------------------------------------------------------------

    @probe
    def training_dynamics(self) -> TrainingDynamics:
        """Loss and margin of every sample at every point of the training run, float32, shapes (points, n)."""
        trajectory = self._trajectory
        if trajectory.outputs is not None:
            place = self.target.data.numbers(torch.arange(len(self.target)))
            labels = torch.empty_like(self.labels).index_copy_(0, place, self.labels)
            return recorded_dynamics(trajectory.outputs, labels, self.target.batch_size).take(place)
        return checkpoint_dynamics(self.target, trajectory.points, self.seed, self.progress)

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
        votes = self._applying("input_vote", "middle_vote", "feature_vote")
        regressions = self._applying("input_logistic", "early_logistic", "middle_logistic")
        return weighted_surrogates([(1, votes), (2, regressions), (2, self._applying("leave_one_out_probability"))])

    # -- rehearsal on the last layer --------------------------------------------------------------------------

    @probe
    def heldout(self) -> HeldOut:
        """Logits (m, C), labels (m,) and features (m, d) of the held-out data."""
        data = self.target.heldout
        if data is None:
            raise NotApplicableError("no held-out data was given")
        run = self._run(data, "held-out", hidden=False)
        return HeldOut(run.logits, data.labels, run.features)

    @probe
    def erase_rehearsal(self) -> damage.Rehearsal:
        """Until the margin is 0, by moving weight from the label to the runner-up (fields of shape (n,))."""
        return self._rehearse(self._erase_move)

    @probe
    def erase_accuracy_change(self) -> Tensor:
        """Change of accuracy on the reference sample when the margin goes to 0 as in erase_rehearsal, shape (n,)."""
        numbers = self._chosen(torch.arange(len(self.target)))
        pool = self._pool(self._erase_move)
        return self._placed(damage.accuracy_change(self._erase_move, self.augmented_features[numbers], pool, numbers))

    @probe
    def _erase_move(self) -> damage.Move:
        return damage.erase_move(self._chosen(self.logits), self._chosen(self.labels))

    @probe
    def ascent_rehearsal(self) -> damage.Rehearsal:
        """Until the margin is 0, along the gradient of the sample's own loss (fields of shape (n,))."""
        return self._rehearse(damage.ascent_move(self._chosen(self.logits), self._chosen(self.labels)))

    @probe
    def retrain_rehearsal(self) -> damage.Rehearsal:
        """Until p_y is the surrogate confidence + 0.05, from the label to the runner-up (fields of shape (n,))."""
        goal = (self._chosen(self.surrogate_confidence) + SLACK).clamp(max=1)
        return self._rehearse(damage.retrain_move(self._chosen(self.logits), self._chosen(self.labels), goal))

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

    # -- shared steps -----------------------------------------------------------------------------------------

    def _nearest(self, z: Tensor) -> Neighbours:
        return nearest_neighbours(z, self.labels, k=20, device=self._device, rows=self.rows, seed=self.seed)

    def _applying(self, *names: str) -> list[Tensor]:
        """What those of the named probes say that apply, each tensor once."""
        found: dict[int, Tensor] = {}
        for name in names:
            with suppress(NotApplicableError):
                value = getattr(self, name)
                found[id(value)] = value
        return list(found.values())

    def _logistic(self, z: Tensor) -> Tensor:
        order, labels = self._by_content
        return logistic_surrogate(z, labels, order, classes=self.target.num_classes, seed=self.seed)

    def _pool(self, move: damage.Move, heldout: HeldOut | None = None) -> damage.Pool:
        """What the damage of a move is measured on: the reference sample, or held-out data; every s-th where many."""
        outside = self.target.heldout
        pick = self.reference if heldout is None or outside is None else self._drawn(outside, self._references)
        pick = damage.rehearsed_on(pick, move, len(self.target), self.target.num_classes)
        if heldout is None:
            return damage.Pool(self.augmented_features[pick], self.logits[pick], self.labels[pick], pick)
        assert heldout.features is not None
        z = augmented(heldout.features[pick], self._trainable_head.bias is not None)
        return damage.Pool(z, heldout.logits[pick].double(), heldout.labels[pick])

    @probe
    def _neighbour_reach(self) -> Tensor:
        """z̃_i·z̃_j/‖z̃_i‖² of the rows asked for and their 20 nearest neighbours, float32, shape (m, <= 20)."""
        z = self.augmented_features.float()
        return damage.neighbour_reach(z, self._chosen(z), self._chosen(self.feature_neighbours.index[:, :20]))

    def _rehearse(self, move: damage.Move) -> damage.Rehearsal:
        head, numbers = self._trainable_head, self._chosen(torch.arange(len(self.target)))
        near = self.feature_neighbours.index[numbers, :20]
        outside = None
        if self.target.heldout is not None and self.heldout.features is not None:
            outside = self._pool(move, self.heldout)
        found = damage.rehearse(
            move,
            self.augmented_features[numbers],
            head,
            numbers=numbers,
            pool=self._pool(move),
            heldout=outside,
            neighbours=damage.neighbour_damage(move, self._neighbour_reach, self.logits, near),
        )
        return replace(found, **{k: self._placed(part) for k, part in vars(found).items() if part is not None})


PROBES: dict[str, str] = {
    name: (value.__doc__ or "").splitlines()[0]
    for name, value in (vars(Passes) | vars(Probes)).items()
    if isinstance(value, probe) and not name.startswith("_")
}
"""Every probe a factor may name, with its description."""
