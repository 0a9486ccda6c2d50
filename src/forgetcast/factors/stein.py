"""How a sample couples with the rest of the training data under the model's Stein kernel.

The kernel κ compares two samples by their inputs and labels and by how the model's log p_y answers to them; its formula
and its bandwidth are in ``forgetcast.factors.probes.stein_kernel``.
"""

from __future__ import annotations

from torch import Tensor

from forgetcast.factors.factor import factor
from forgetcast.factors.probes.stein_kernel import SteinRows

__all__ = ["FACTORS"]

SOURCE = "ours; Stein kernel of Liu et al. 2016, arXiv 1602.03253, on inputs and labels as in arXiv 2403.15576"


@factor(
    family="stein",
    source=SOURCE,
    high="the model's confidence in its label hangs on small changes of it more than usual here (score {value:.3g})",
    low="the model's confidence in its label hangs on small changes of it less than usual here (score {value:.3g})",
)
def stein_score_norm(stein: SteinRows) -> Tensor:
    """Length of its score [∇x log p_y; p]. Shape (n,), at least 1/√C."""
    return stein.score_norm


@factor(
    family="stein",
    source=SOURCE,
    high="the model ties it to the other training samples more than usual here (Stein kernel {value:.3g})",
    low="the model ties it to the other training samples less than usual here (Stein kernel {value:.3g})",
)
def stein_mean(stein: SteinRows) -> Tensor:
    """Mean Stein kernel κ_ij with the reference sample of the training data. Shape (n,)."""
    return stein.mean


@factor(
    family="stein",
    source=SOURCE,
    high="for its own size the model ties it to the other training samples more than usual here ({value:.3f})",
    low="for its own size the model ties it to the other training samples less than usual here ({value:.3f})",
)
def stein_normalised_mean(stein: SteinRows) -> Tensor:
    """Mean κ_ij/√(κ_ii κ_jj) with the reference sample of the training data. Shape (n,), in about [-1, 1]."""
    return stein.normalised_mean


@factor(
    family="stein",
    source=SOURCE,
    high="the model ties it to the training samples it is unsure of more than usual here (Stein kernel {value:.3g})",
    low="the model ties it to the training samples it is unsure of less than usual here (Stein kernel {value:.3g})",
)
def stein_entropy_weighted_mean(stein: SteinRows) -> Tensor:
    """Mean κ_ij with the reference sample, weighted by the entropy of the model's predictions for j. Shape (n,)."""
    return stein.entropy_weighted_mean


@factor(
    family="stein",
    source=f"{SOURCE}; effective number (Σ|κ_ij|)²/Σκ_ij²",
    unit="training samples",
    high="the model ties it to about {value:,.0f} training samples, more than usual here",
    low="the model ties it to about {value:,.0f} training samples, fewer than usual here",
)
def stein_expansion(stein: SteinRows) -> Tensor:
    """Effective number of training samples that the Stein kernel ties it to. Shape (n,), in [0, n - 1]."""
    return stein.expansion


FACTORS = (stein_score_norm, stein_mean, stein_normalised_mean, stein_entropy_weighted_mean, stein_expansion)
