"""Unlearning rehearsed on the last linear layer alone. All formulas here are ours.

The probes ``erase_rehearsal``, ``ascent_rehearsal`` and ``retrain_rehearsal`` hold the closed forms; see
``forgetcast.factors.probes.damage`` for their derivation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.factors.factor import factor
from forgetcast.factors.probes.damage import Rehearsal
from forgetcast.target.last_layer import KernelRows

__all__ = ["FACTORS"]

SOURCE = "ours; last-layer rehearsal, closed form"


def _heldout(rehearsal: Rehearsal) -> Tensor:
    if rehearsal.heldout is None:
        raise NotApplicableError("no held-out data was given")
    return rehearsal.heldout


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="logits",
    high="its own prediction must be moved farther than usual here before the model no longer recognises it "
    "({value:.2f} logits)",
    low="its own prediction need not be moved as far as usual here before the model no longer recognises it "
    "({value:.2f} logits)",
)
def rehearsed_erase_step(ascent_rehearsal: Rehearsal) -> Tensor:
    """Logit change until the sample is no longer recognised, along its own loss gradient. Shape (n,), at least 0."""
    return ascent_rehearsal.step


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="weight norm",
    high="erasing it takes a larger change of the last layer than usual here ({value:.3g})",
    low="erasing it takes a smaller change of the last layer than usual here ({value:.3g})",
)
def rehearsed_erase_strength(erase_rehearsal: Rehearsal) -> Tensor:
    """Norm of the last-layer change until the margin is 0. Shape (n,), at least 0."""
    return erase_rehearsal.strength


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="share of the weight norm",
    high="erasing it shifts the last layer's weights by {value:.2%}, more than usual here",
    low="erasing it shifts the last layer's weights by {value:.2%}, less than usual here",
)
def rehearsed_erase_shift(erase_rehearsal: Rehearsal) -> Tensor:
    """Last-layer change until the margin is 0, relative to the layer's norm. Shape (n,), at least 0."""
    return erase_rehearsal.shift


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="total variation",
    high="erasing it disturbs the other training samples more than usual here ({value:.2%} of their predictions)",
    low="erasing it disturbs the other training samples less than usual here ({value:.2%} of their predictions)",
)
def rehearsed_erase_damage(erase_rehearsal: Rehearsal) -> Tensor:
    """Mean change of the other training samples' predictions when it is erased. Shape (n,), in [0, 1]."""
    return erase_rehearsal.reference


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="total variation",
    high="erasing it disturbs predictions on unseen data more than usual here ({value:.2%})",
    low="erasing it disturbs predictions on unseen data less than usual here ({value:.2%})",
)
def rehearsed_erase_heldout_damage(erase_rehearsal: Rehearsal) -> Tensor:
    """Mean change of held-out predictions when it is erased. Shape (n,), in [0, 1]."""
    return _heldout(erase_rehearsal)


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="total variation",
    high="erasing it disturbs its nearest neighbours more than usual here ({value:.1%} of their predictions)",
    low="erasing it disturbs its nearest neighbours less than usual here ({value:.1%} of their predictions)",
)
def rehearsed_erase_neighbour_damage(erase_rehearsal: Rehearsal) -> Tensor:
    """Mean change of its 20 nearest neighbours' predictions when it is erased. Shape (n,), in [0, 1]."""
    return erase_rehearsal.neighbours


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="accuracy",
    high="erasing it hardly lowers the accuracy on other training samples ({value:+.2%})",
    low="erasing it lowers the accuracy on other training samples more than usual here ({value:+.2%})",
)
def rehearsed_erase_accuracy_change(erase_accuracy_change: Tensor) -> Tensor:
    """Change of accuracy on the other training samples when it is erased. Shape (n,), in [-1, 1]."""
    return erase_accuracy_change


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="weight norm",
    high="gradient ascent on it takes a larger change of the last layer than usual here ({value:.3g})",
    low="gradient ascent on it takes a smaller change of the last layer than usual here ({value:.3g})",
)
def rehearsed_ascent_strength(ascent_rehearsal: Rehearsal) -> Tensor:
    """Norm of the last-layer change until the margin is 0, by gradient ascent. Shape (n,), at least 0."""
    return ascent_rehearsal.strength


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="total variation",
    high="gradient ascent on it disturbs other training samples more than usual here ({value:.2%})",
    low="gradient ascent on it disturbs other training samples less than usual here ({value:.2%})",
)
def rehearsed_ascent_damage(ascent_rehearsal: Rehearsal) -> Tensor:
    """Mean change of the other training samples' predictions by gradient ascent. Shape (n,), in [0, 1]."""
    return ascent_rehearsal.reference


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="total variation",
    high="gradient ascent on it disturbs predictions on unseen data more than usual here ({value:.2%})",
    low="gradient ascent on it disturbs predictions on unseen data less than usual here ({value:.2%})",
)
def rehearsed_ascent_heldout_damage(ascent_rehearsal: Rehearsal) -> Tensor:
    """Mean change of held-out predictions by gradient ascent. Shape (n,), in [0, 1]."""
    return _heldout(ascent_rehearsal)


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="total variation",
    high="gradient ascent on it disturbs its nearest neighbours more than usual here ({value:.1%})",
    low="gradient ascent on it disturbs its nearest neighbours less than usual here ({value:.1%})",
)
def rehearsed_ascent_neighbour_damage(ascent_rehearsal: Rehearsal) -> Tensor:
    """Mean change of its 20 nearest neighbours' predictions by gradient ascent. Shape (n,), in [0, 1]."""
    return ascent_rehearsal.neighbours


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="logits",
    high="its prediction must move farther than usual here to look as if it had never been trained on "
    "({value:.2f} logits)",
    low="its prediction need not move as far as usual here to look as if it had never been trained on "
    "({value:.2f} logits)",
)
def rehearsed_retrain_step(retrain_rehearsal: Rehearsal) -> Tensor:
    """Logit change down to the confidence expected of a model that never saw it. Shape (n,), at least 0."""
    return retrain_rehearsal.step


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="share of the weight norm",
    high="making the model treat it as unseen shifts the last layer's weights by {value:.2%}, more than usual here",
    low="making the model treat it as unseen shifts the last layer's weights by {value:.2%}, less than usual here",
)
def rehearsed_retrain_shift(retrain_rehearsal: Rehearsal) -> Tensor:
    """Last-layer change until it looks unseen, relative to the layer's norm. Shape (n,), at least 0."""
    return retrain_rehearsal.shift


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="total variation",
    high="making the model treat it as unseen disturbs other training samples more than usual here ({value:.2%})",
    low="making the model treat it as unseen disturbs other training samples less than usual here ({value:.2%})",
)
def rehearsed_retrain_damage(retrain_rehearsal: Rehearsal) -> Tensor:
    """Mean change of the other training samples' predictions until it looks unseen. Shape (n,), in [0, 1]."""
    return retrain_rehearsal.reference


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="total variation",
    high="making the model treat it as unseen disturbs predictions on unseen data more than usual here ({value:.2%})",
    low="making the model treat it as unseen disturbs predictions on unseen data less than usual here ({value:.2%})",
)
def rehearsed_retrain_heldout_damage(retrain_rehearsal: Rehearsal) -> Tensor:
    """Mean change of held-out predictions until it looks unseen. Shape (n,), in [0, 1]."""
    return _heldout(retrain_rehearsal)


@factor(
    family="rehearsal",
    source=SOURCE,
    unit="total variation",
    high="making the model treat it as unseen disturbs its nearest neighbours more than usual here ({value:.1%})",
    low="making the model treat it as unseen disturbs its nearest neighbours less than usual here ({value:.1%})",
)
def rehearsed_retrain_neighbour_damage(retrain_rehearsal: Rehearsal) -> Tensor:
    """Mean change of its 20 nearest neighbours' predictions until it looks unseen. Shape (n,), in [0, 1]."""
    return retrain_rehearsal.neighbours


@factor(
    family="rehearsal",
    source="ours; effective number (Σ|K_ij|)²/ΣK_ij² with the last layer's gradient kernel",
    unit="training samples",
    high="about {value:,.0f} training samples move with it, more than usual here",
    low="about {value:,.0f} training samples move with it, fewer than usual here",
)
def expansion(gradient_kernel: KernelRows, class_counts: Tensor) -> Tensor:
    """Effective number of training samples whose predictions move with its own. Shape (n,), in [0, n].

    K_ij = (z̃_i·z̃_j)(r_i·r_j) over the reference sample, scaled from the reference to all n.
    """
    share = gradient_kernel.absolute.square() / gradient_kernel.square.clamp(min=1e-300) / gradient_kernel.pool
    return share * class_counts.sum()


@factor(
    family="rehearsal",
    source="ours; mean |K_ij|/K_ii with the last layer's gradient kernel",
    unit="log10 movement per movement",
    high="the other samples move along with it more than usual here (10^{value:.1f} of its own movement)",
    low="the other samples move along with it less than usual here (10^{value:.1f} of its own movement)",
)
def performance_tolerance(residuals: Tensor, augmented_features: Tensor, gradient_kernel: KernelRows) -> Tensor:
    """Decimal logarithm of how far others move per unit of its own movement. Shape (n,).

    log10(mean_j |K_ij| / K_ii) over the reference sample, K_ij = (z̃_i·z̃_j)(r_i·r_j).
    """
    own = augmented_features.square().sum(1).clamp(min=1e-30)
    ratio = (gradient_kernel.absolute / gradient_kernel.pool * gradient_kernel.unit / own).clamp(min=1e-300)
    return ratio.log10() - residuals.norm(dim=1).log10()


@factor(
    family="rehearsal",
    source="ours; one Newton step of the last layer, after Pregibon 1981",
    unit="logits",
    high="without it the last layer alone would still favour its label by more than usual here ({value:.2f} logits)",
    low="without it the last layer alone would favour its label by less than usual here ({value:.2f} logits)",
)
def leave_one_out_margin(leave_one_out_logits: Tensor, labels: Tensor) -> Tensor:
    """Margin of its label if the last layer were refitted without it, approximately. Shape (n,), in logits."""
    own = leave_one_out_logits.gather(1, labels[:, None])[:, 0]
    return own - leave_one_out_logits.scatter(1, labels[:, None], -torch.inf).amax(1)


@factor(
    family="rehearsal",
    source="ours; one Newton step of the last layer, after Pregibon 1981",
    unit="logits",
    high="the last layer's lead for its label rests on the sample itself more than usual here ({value:.2g} logits)",
    low="the last layer's lead for its label rests on the sample itself less than usual here ({value:.2g} logits)",
)
def leave_one_out_drop(margin: Tensor, leave_one_out_logits: Tensor, labels: Tensor) -> Tensor:
    """Margin that it would lose if the last layer were refitted without it, approximately. Shape (n,), in logits."""
    own = leave_one_out_logits.gather(1, labels[:, None])[:, 0]
    return margin - (own - leave_one_out_logits.scatter(1, labels[:, None], -torch.inf).amax(1))


FACTORS = (
    rehearsed_erase_step,
    rehearsed_erase_strength,
    rehearsed_erase_shift,
    rehearsed_erase_damage,
    rehearsed_erase_heldout_damage,
    rehearsed_erase_neighbour_damage,
    rehearsed_erase_accuracy_change,
    rehearsed_ascent_strength,
    rehearsed_ascent_damage,
    rehearsed_ascent_heldout_damage,
    rehearsed_ascent_neighbour_damage,
    rehearsed_retrain_step,
    rehearsed_retrain_shift,
    rehearsed_retrain_damage,
    rehearsed_retrain_heldout_damage,
    rehearsed_retrain_neighbour_damage,
    expansion,
    performance_tolerance,
    leave_one_out_margin,
    leave_one_out_drop,
)
