"""How the model learned a sample: apply when checkpoints of training, or outputs recorded during it, are given."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.factors.factor import factor
from forgetcast.factors.probes.training_dynamics import TrainingDynamics

__all__ = ["FACTORS"]


def _margins(dynamics: TrainingDynamics) -> Tensor:
    """Margins (points, n), float64.

    Raises:
        NotApplicableError: the trajectory holds probabilities of the label alone.
    """
    if dynamics.margin is None:
        raise NotApplicableError(
            "probabilities of the label do not show which class was the most likely: give logits of shape "
            "(points, n, C), or checkpoints"
        )
    return dynamics.margin.double()


@factor(
    family="trajectory",
    source="Swayamdipta et al. 2020, arXiv 2009.10795, confidence; as a proxy of memorization in arXiv 2410.16516",
    unit="probability",
    high="the model was sure of it through more of its training than usual here (mean probability {value:.1%})",
    low="the model was sure of it through less of its training than usual here (mean probability {value:.1%})",
)
def training_confidence(training_dynamics: TrainingDynamics) -> Tensor:
    """Mean probability of its label over training. Shape (n,), in [0, 1]."""
    return training_dynamics.confidence.mean(0)


@factor(
    family="trajectory",
    source="Swayamdipta et al. 2020, arXiv 2009.10795, variability",
    unit="probability",
    high="the model changed its mind about it during training more than usual here (spread {value:.2f})",
    low="the model changed its mind about it during training less than usual here (spread {value:.2f})",
)
def training_variability(training_dynamics: TrainingDynamics) -> Tensor:
    """Standard deviation of its label's probability over training. Shape (n,), in [0, 1/2].

    √(mean_t (p_t - mean p)²) over the points t of the trajectory.
    """
    return training_dynamics.confidence.std(0, correction=0)


@factor(
    family="trajectory",
    source="Swayamdipta et al. 2020, arXiv 2009.10795, correctness; Jiang et al. 2021, arXiv 2002.03206",
    unit="share",
    high="the model classified it correctly through more of its training than usual here ({value:.0%})",
    low="the model classified it correctly through less of its training than usual here ({value:.0%})",
)
def training_correctness(training_dynamics: TrainingDynamics) -> Tensor:
    """Share of the training run with its label on top. Shape (n,), in [0, 1]."""
    return (_margins(training_dynamics) > 0).double().mean(0)


@factor(
    family="trajectory",
    source="Toneva et al. 2019, arXiv 1812.05159, between the points of the trajectory instead of mini-batches",
    unit="times",
    high="the model forgot it during training more often than usual here ({value:.0f} times)",
    low="the model forgot it during training less often than usual here ({value:.0f} times)",
)
def forgetting_events(training_dynamics: TrainingDynamics) -> Tensor:
    """Times it went from right to wrong during training. Shape (n,), a whole number below the number of points.

    A sample that was never right has none: ``learning_time`` separates it from one that was never forgotten.
    """
    right = _margins(training_dynamics) > 0
    return (right[:-1] & ~right[1:]).double().sum(0)


@factor(
    family="trajectory",
    source="learning time after Toneva et al. 2019, arXiv 1812.05159; ours as a share of training",
    unit="share",
    high="the model learned it for good later than usual here (after {value:.0%} of its training)",
    low="the model learned it for good earlier than usual here (after {value:.0%} of its training)",
)
def learning_time(training_dynamics: TrainingDynamics) -> Tensor:
    """Share of training after which it is right for good. Shape (n,), in [0, 1].

    The place of the last point at which it is wrong (1, 2, ...) over the number of points: 0 for a sample that is
    never wrong, 1 for one that is wrong at the end.
    """
    wrong = _margins(training_dynamics) <= 0
    place = torch.arange(1, len(wrong) + 1, dtype=torch.float64)
    return (place[:, None] * wrong).amax(0) / len(wrong)


@factor(
    family="trajectory",
    source="Pleiss et al. 2020, arXiv 2001.10528, area under the margin",
    unit="logits",
    high="its label led the other classes during training by more than usual here ({value:.2f} logits)",
    low="its label led the other classes during training by less than usual here ({value:.2f} logits)",
)
def area_under_margin(training_dynamics: TrainingDynamics) -> Tensor:
    """Mean margin over training. Shape (n,), in logits; negative when another class was ahead for long."""
    return _margins(training_dynamics).mean(0)


@factor(
    family="trajectory",
    source="ours; early scores after Paul et al. 2021, arXiv 2107.07075",
    unit="nats",
    high="its loss was larger than usual here early in training ({value:.3g} nats)",
    low="its loss was smaller than usual here early in training ({value:.3g} nats)",
)
def early_loss(training_dynamics: TrainingDynamics) -> Tensor:
    """Loss at the first point of its training. Shape (n,), in nats, at least 0."""
    return training_dynamics.loss[0].double()


@factor(
    family="trajectory",
    source="Pruthi et al. 2020, arXiv 2002.08484, TracInCP self-influence",
    high="it pulled at the model's parameters during training harder than usual here (self-influence {value:.3g})",
    low="it pulled at the model's parameters during training less than usual here (self-influence {value:.3g})",
)
def tracin_self_influence(checkpoint_gradient_norms: Tensor, checkpoint_rates: Tensor) -> Tensor:
    """Influence on its own loss along the checkpoints, Σ η_t ‖∇ℓ_t‖². Shape (n,), at least 0.

    It ranks samples much as their privacy loss along noisy gradient descent does, which is built from the same norms
    (Sepahvand et al. 2025, arXiv 2505.18786). Only with checkpoints; without their learning rates η_t = 1.
    """
    return checkpoint_rates @ checkpoint_gradient_norms.square()


FACTORS = (
    training_confidence,
    training_variability,
    training_correctness,
    forgetting_events,
    learning_time,
    area_under_margin,
    early_loss,
    tracin_self_influence,
)
