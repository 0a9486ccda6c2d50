"""How far a sample lies from the decision boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcast.factors.factor import factor
from forgetcast.target.head import Head

__all__ = ["FACTORS"]


@factor(
    family="boundary",
    source="Moosavi-Dezfooli et al. 2016, arXiv 1511.04599, DeepFool, one step",
    unit="input units",
    high="it lies farther from the decision boundary than usual here ({value:.3g} input units)",
    low="it lies closer to the decision boundary than usual here ({value:.3g} input units)",
)
def boundary_distance(margin: Tensor, margin_input_gradient_norm: Tensor) -> Tensor:
    """Distance to the decision boundary in the input, first order. Shape (n,), in input units.

    margin / ‖∇x margin‖, negative when misclassified; the norm is taken as at least 1e-6 of its mean over
    the samples that are computed.
    """
    norm = margin_input_gradient_norm
    return margin / norm.clamp(min=1e-6 * float(norm.nanmean()) + 1e-30)


@factor(
    family="boundary",
    source="distance of a point to a hyperplane; Elsayed et al. 2018, arXiv 1803.05598",
    unit="feature units",
    high="its features lie farther from the last layer's boundary than usual here ({value:.3g})",
    low="its features lie closer to the last layer's boundary than usual here ({value:.3g})",
)
def feature_boundary_distance(logits: Tensor, labels: Tensor, head: Head) -> Tensor:
    """Distance to the decision boundary in feature space. Shape (n,), in feature units.

    min over classes c of (l_y - l_c)/‖w_y - w_c‖: exact for a correctly classified sample, negative otherwise.
    """
    apart = torch.cdist(head.weight, head.weight).clamp(min=1e-12)
    gap = logits.gather(1, labels[:, None]) - logits
    return (gap / apart[labels]).scatter(1, labels[:, None], torch.inf).amin(1)


FACTORS = (boundary_distance, feature_boundary_distance)
