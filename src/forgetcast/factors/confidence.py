"""How sure the model is of a sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.factors.factor import factor
from forgetcast.factors.probes.recorder import HeldOut

__all__ = ["FACTORS"]


@factor(
    family="confidence",
    source="softmax",
    unit="probability",
    high="the model gives its own label more probability than usual here ({value:.1%})",
    low="the model gives its own label less probability than usual here ({value:.1%})",
)
def true_probability(true_probability: Tensor) -> Tensor:
    """Probability that the model gives the label. Shape (n,), in [0, 1]."""
    return true_probability


@factor(
    family="confidence",
    source="cross-entropy",
    unit="nats",
    high="its loss is larger than usual here ({value:.3g} nats)",
    low="its loss is smaller than usual here ({value:.3g} nats)",
)
def loss(loss: Tensor) -> Tensor:
    """Cross-entropy loss of the sample. Shape (n,), in nats, at least 0."""
    return loss


@factor(
    family="confidence",
    source="multi-class margin",
    unit="logits",
    high="its label leads the runner-up by more than usual here ({value:.2f} logits)",
    low="its label leads the runner-up by less than usual here ({value:.2f} logits)",
)
def margin(margin: Tensor) -> Tensor:
    """Logit of the label minus the largest other logit. Shape (n,), in logits; negative when misclassified."""
    return margin


@factor(
    family="confidence",
    source="Shannon 1948",
    unit="nats",
    high="the model hesitates between classes more than usual here (entropy {value:.3g} nats)",
    low="the model hesitates between classes less than usual here (entropy {value:.3g} nats)",
)
def entropy(logits: Tensor) -> Tensor:
    """Entropy of the predicted probabilities. Shape (n,), in nats, in [0, log C]."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum(1)


@factor(
    family="confidence",
    source="Paul et al. 2021, arXiv 2107.07075, EL2N",
    high="its prediction errs more than usual here (EL2N {value:.3g})",
    low="its prediction errs less than usual here (EL2N {value:.3g})",
)
def el2n(residuals: Tensor) -> Tensor:
    """Length of the error vector ‖p - onehot‖. Shape (n,), in [0, √2]."""
    return residuals.norm(dim=1)


@factor(
    family="confidence",
    source="maximum softmax probability",
    unit="probability",
    high="the model is surer of its top class than usual here ({value:.1%})",
    low="the model is less sure of its top class than usual here ({value:.1%})",
)
def top_confidence(probabilities: Tensor) -> Tensor:
    """Largest predicted probability, whatever the label. Shape (n,), in [1/C, 1]."""
    return probabilities.amax(1)


@factor(
    family="confidence",
    source="0-1 loss",
    high="the model classifies it correctly",
    low="the model misclassifies it",
)
def correct(margin: Tensor) -> Tensor:
    """Whether the label has the largest logit. Shape (n,), 0 or 1."""
    return (margin > 0).double()


@factor(
    family="confidence",
    source="ours; after the membership test of Yeom et al. 2018, arXiv 1709.01604",
    unit="share",
    high="{value:.0%} of the unseen samples of its class have a smaller loss, more than usual here",
    low="{value:.0%} of the unseen samples of its class have a smaller loss, fewer than usual here",
)
def mia_resistance(loss: Tensor, labels: Tensor, heldout: HeldOut) -> Tensor:
    """Share of held-out samples of its class with a smaller loss. Shape (n,), in [0, 1].

    Ties count half. Low: the sample stands out as a training member. For a class without held-out samples all
    held-out samples are taken.
    """
    unseen = F.softplus(-_unseen(heldout))
    values = torch.empty_like(loss)
    for label in labels.unique():
        rows = labels == label
        others = unseen[heldout.labels == label]
        pool = (others if len(others) else unseen).sort().values
        below = torch.searchsorted(pool, loss[rows].contiguous())
        upto = torch.searchsorted(pool, loss[rows].contiguous(), right=True)
        values[rows] = (below + upto).double() / (2 * len(pool))
    return values


@factor(
    family="confidence",
    source="ours; LiRA, Carlini et al. 2022, arXiv 2112.03570, with the classes of one model for shadow models",
    unit="nats",
    high="the model's confidence gives it away as a training sample more than usual here ({value:+.2f} nats)",
    low="the model's confidence gives it away as a training sample less than usual here ({value:+.2f} nats)",
)
def mia_likelihood_ratio(
    logits: Tensor, labels: Tensor, heldout: HeldOut, *, prior: float = 10.0, spread: float = 0.1
) -> Tensor:
    """Log-likelihood ratio of its confidence: training samples against unseen ones of its class. Shape (n,), in nats.

    log N(φ; training) - log N(φ; held-out) for φ = log(p_y/(1 - p_y)), by Gaussians fitted to the other training
    samples and to the held-out samples of its class. Every fit counts ``prior`` more samples with the mean and the
    variance of all classes together, so that a class with few or no samples is pooled; standard deviations are at
    least ``spread``. LiRA fits them to models trained with and without the sample; there is one model here.
    Where the two standard deviations differ, the ratio is no monotone function of the confidence.
    """
    if len(labels) < 2:
        raise NotApplicableError("leaving one out needs at least two samples")
    phi, unseen = _scaled_logit(logits, labels), _unseen(heldout)
    middle = phi.mean()
    phi, unseen = phi - middle, unseen - middle

    def log_density(values: Tensor, classes: Tensor, without: Tensor | float) -> Tensor:
        """log N(φ) up to a constant; ``without`` takes the powers of every sample itself out of its fit."""
        powers = _powers(values)
        sums = torch.zeros(logits.shape[1], 3, dtype=values.dtype).index_add_(0, classes, powers)[labels] - without
        pool = powers.sum(0) - without
        count, first, second = (sums + prior * pool / pool[..., :1]).unbind(1)
        mean = first / count
        variance = (second / count - mean.square()).clamp(min=spread**2)
        return -((phi - mean).square() / variance + variance.log()) / 2

    return log_density(phi, labels, _powers(phi)) - log_density(unseen, heldout.labels, 0.0)


def _powers(values: Tensor) -> Tensor:
    """1, v and v² of every value, shape (n, 3)."""
    return torch.stack([torch.ones_like(values), values, values.square()], 1)


def _scaled_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p_y/(1 - p_y)) without cancellation for sure predictions, shape (n,)."""
    own = labels[:, None]
    return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).logsumexp(1)


def _unseen(heldout: HeldOut) -> Tensor:
    """Scaled logits of the held-out samples, float64, shape (m,)."""
    if len(heldout.labels) == 0:
        raise NotApplicableError("the held-out data is empty")
    return _scaled_logit(heldout.logits.double(), heldout.labels)


FACTORS = (
    true_probability,
    loss,
    margin,
    entropy,
    el2n,
    top_confidence,
    correct,
    mia_resistance,
    mia_likelihood_ratio,
)
