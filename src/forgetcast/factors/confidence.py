"""How sure the model is of a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.factors._factor import factor
from forgetcast.probes import HeldOut

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
    if len(heldout.labels) == 0:
        raise NotApplicableError("the held-out data is empty")
    own = heldout.labels[:, None]
    logits = heldout.logits.double()
    rest = logits.scatter(1, own, -torch.inf).logsumexp(1)
    unseen = torch.nn.functional.softplus(rest - logits.gather(1, own)[:, 0])
    values = torch.empty_like(loss)
    for label in labels.unique():
        rows = labels == label
        others = unseen[heldout.labels == label]
        pool = (others if len(others) else unseen).sort().values
        below = torch.searchsorted(pool, loss[rows].contiguous())
        upto = torch.searchsorted(pool, loss[rows].contiguous(), right=True)
        values[rows] = (below + upto).double() / (2 * len(pool))
    return values


FACTORS = (true_probability, loss, margin, entropy, el2n, top_confidence, correct, mia_resistance)
