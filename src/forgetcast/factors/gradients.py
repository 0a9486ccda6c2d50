"""How strongly a sample pulls at the parameters."""

from __future__ import annotations

from torch import Tensor

from forgetcast.factors.factor import factor

__all__ = ["FACTORS"]


@factor(
    family="gradients",
    source="Paul et al. 2021, arXiv 2107.07075, GraNd at the trained model; layer by layer after Goodfellow 2015",
    high="it pulls at the model's parameters harder than usual here (gradient norm {value:.3g})",
    low="it pulls at the model's parameters less than usual here (gradient norm {value:.3g})",
)
def gradient_norm(gradient_norm: Tensor) -> Tensor:
    """Norm of its loss gradient in all parameters. Shape (n,), at least 0.

    Its square is TracIn's self-influence at this one checkpoint (Pruthi et al. 2020, arXiv 2002.08484) with rate 1.
    Frozen parameters do not count. Those that only plain differentiation yields, and that are too large for a gradient
    per sample, are left out and named in the table's notes.
    """
    return gradient_norm


@factor(
    family="gradients",
    source="Koh & Liang 2017, arXiv 1703.04730, with a diagonal empirical Fisher matrix of all parameters",
    high="the whole model leans on it more than usual here (self-influence {value:.3g})",
    low="the whole model leans on it less than usual here (self-influence {value:.3g})",
)
def self_influence(self_influence: Tensor) -> Tensor:
    """Influence of the sample on its own loss through all parameters, gᵀF⁻¹g. Shape (n,), at least 0.

    F is the mean of g² over all samples, plus a thousandth of its mean over the parameters; so the mean over the
    samples is at most the number of parameters. Parameters left out of the gradient norm are left out here too.
    """
    return self_influence


@factor(
    family="gradients",
    source="Moosavi-Dezfooli et al. 2016, arXiv 1511.04599, eq. 7 (the gradient of the margin)",
    unit="logits per input unit",
    high="small changes of its input move its margin more than usual here ({value:.3g} logits per unit)",
    low="small changes of its input move its margin less than usual here ({value:.3g} logits per unit)",
)
def margin_input_gradient_norm(margin_input_gradient_norm: Tensor) -> Tensor:
    """Norm of its margin's gradient in the input. Shape (n,), in logits per input unit."""
    return margin_input_gradient_norm


@factor(
    family="gradients",
    source="closed form ‖p - onehot‖·‖z̃‖ of softmax regression",
    high="it pulls at the last layer harder than usual here (gradient norm {value:.3g})",
    low="it pulls at the last layer less than usual here (gradient norm {value:.3g})",
)
def last_layer_gradient_norm(residuals: Tensor, augmented_features: Tensor) -> Tensor:
    """Norm of its loss gradient in the last layer. Shape (n,), at least 0."""
    return residuals.norm(dim=1) * augmented_features.norm(dim=1)


@factor(
    family="gradients",
    source="ours; gradient alignment",
    high="its pull agrees with that of the remaining data more than usual here (cosine {value:.2f})",
    low="its pull goes against that of the remaining data more than usual here (cosine {value:.2f})",
)
def last_layer_gradient_cosine(residuals: Tensor, augmented_features: Tensor) -> Tensor:
    """Cosine of its last-layer gradient with the mean one of all other samples. Shape (n,), in [-1, 1].

    With G = Σ_j r_j z̃_jᵀ and g_i = r_i z̃_iᵀ the mean over the others is (G - g_i)/(n - 1). 0 for a single sample.
    """
    total = residuals.T @ augmented_features
    square = residuals.square().sum(1) * augmented_features.square().sum(1)
    product = ((residuals @ total) * augmented_features).sum(1)
    rest = (total.square().sum() - 2 * product + square).clamp(min=0)
    scale = (square * rest).sqrt()
    return ((product - square) / scale.clamp(min=1e-300)).clamp(-1, 1)


@factor(
    family="gradients",
    source="Koh & Liang 2017, arXiv 1703.04730, with a diagonal Fisher matrix of the last layer",
    high="it holds up its own prediction more than usual here (self-influence {value:.3g})",
    low="it holds up its own prediction less than usual here (self-influence {value:.3g})",
)
def last_layer_self_influence(residuals: Tensor, augmented_features: Tensor, *, damping: float = 1e-3) -> Tensor:
    """Influence of the sample on its own loss through the last layer, gᵀF⁻¹g. Shape (n,), at least 0.

    F_ck = mean_j r_jc² z̃_jk² is the diagonal of the empirical Fisher matrix, plus ``damping`` times its mean.
    """
    r2, z2 = residuals.square(), augmented_features.square()
    fisher = r2.T @ z2 / len(r2)
    fisher = fisher + damping * fisher.mean() + 1e-300
    return ((r2 @ (1 / fisher)) * z2).sum(1)


@factor(
    family="gradients",
    source="ours; ‖z‖",
    high="its features are stronger than usual here (length {value:.3g})",
    low="its features are weaker than usual here (length {value:.3g})",
)
def feature_norm(features: Tensor) -> Tensor:
    """Length of its feature vector before the last layer. Shape (n,), at least 0."""
    return features.norm(dim=1)


FACTORS = (
    gradient_norm,
    self_influence,
    margin_input_gradient_norm,
    last_layer_gradient_norm,
    last_layer_gradient_cosine,
    last_layer_self_influence,
    feature_norm,
)
