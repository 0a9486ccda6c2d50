"""What holds for the target as a whole."""

from __future__ import annotations

import math

from torch import Tensor

from forgetcast.factors.factor import factor
from forgetcast.factors.probes.recorder import HeldOut

__all__ = ["FACTORS"]


@factor(
    family="context",
    source="ours",
    unit="samples",
    high="the model was trained on {value:,.0f} samples",
    low="the model was trained on {value:,.0f} samples",
    per_target=True,
)
def training_samples(labels: Tensor) -> float:
    """Number of training samples. One value per target."""
    return float(len(labels))


@factor(
    family="context",
    source="ours",
    unit="classes",
    high="the model distinguishes {value:.0f} classes",
    low="the model distinguishes {value:.0f} classes",
    per_target=True,
)
def classes(logits: Tensor) -> float:
    """Number of classes. One value per target."""
    return float(logits.shape[1])


@factor(
    family="context",
    source="ours",
    unit="log10 parameters",
    high="the model is large (10^{value:.1f} parameters)",
    low="the model is small (10^{value:.1f} parameters)",
    per_target=True,
)
def log_parameters(parameter_count: int) -> float:
    """Decimal logarithm of the number of parameters. One value per target. Frozen parameters do not count."""
    return math.log10(parameter_count)


@factor(
    family="context",
    source="ours",
    unit="log10 parameters per sample",
    high="the model has many parameters per training sample (10^{value:.1f})",
    low="the model has few parameters per training sample (10^{value:.1f})",
    per_target=True,
)
def log_parameters_per_sample(parameter_count: int, labels: Tensor) -> float:
    """Decimal logarithm of parameters per training sample. One value per target. Frozen parameters do not count."""
    return math.log10(parameter_count / len(labels))


@factor(
    family="context",
    source="ours",
    unit="share",
    high="the model classifies {value:.1%} of its training data correctly",
    low="the model classifies {value:.1%} of its training data correctly",
    per_target=True,
)
def train_accuracy(margin: Tensor) -> float:
    """Accuracy on the training data. One value per target, in [0, 1]."""
    return float((margin > 0).double().mean())


@factor(
    family="context",
    source="ours",
    unit="share",
    high="the model classifies {value:.1%} of unseen data correctly",
    low="the model classifies {value:.1%} of unseen data correctly",
    per_target=True,
)
def heldout_accuracy(heldout: HeldOut) -> float:
    """Accuracy on the held-out data. One value per target, in [0, 1]."""
    return float((heldout.logits.argmax(1) == heldout.labels).double().mean())


@factor(
    family="context",
    source="ours; generalisation gap",
    unit="share",
    high="the model is {value:.1%} more often right on its training data than on unseen data",
    low="the model is {value:.1%} more often right on its training data than on unseen data",
    per_target=True,
)
def accuracy_gap(margin: Tensor, heldout: HeldOut) -> float:
    """Training accuracy minus held-out accuracy. One value per target, in [-1, 1]."""
    seen = float((margin > 0).double().mean())
    return seen - float((heldout.logits.argmax(1) == heldout.labels).double().mean())


@factor(
    family="context",
    source="ours",
    unit="nats",
    high="the model's mean training loss is {value:.3g} nats",
    low="the model's mean training loss is {value:.3g} nats",
    per_target=True,
)
def mean_train_loss(loss: Tensor) -> float:
    """Mean loss on the training data. One value per target, in nats."""
    return float(loss.mean())


@factor(
    family="context",
    source="ours",
    unit="probability",
    high="on average the model gives the right label {value:.1%}",
    low="on average the model gives the right label {value:.1%}",
    per_target=True,
)
def mean_train_confidence(true_probability: Tensor) -> float:
    """Mean probability of the label on the training data. One value per target, in [0, 1]."""
    return float(true_probability.mean())


@factor(
    family="context",
    source="normalised Shannon entropy of the class shares",
    high="the classes are of about equal size (balance {value:.2f})",
    low="the classes are of unequal size (balance {value:.2f})",
    per_target=True,
)
def class_balance(class_counts: Tensor) -> float:
    """Evenness of the class sizes. One value per target, in [0, 1], 1 for equal sizes."""
    share = class_counts.double() / class_counts.sum()
    return float(-(share * share.clamp(min=1e-300).log()).sum() / math.log(len(share)))


@factor(
    family="context",
    source="ours",
    unit="share",
    high="its class is among the larger ones ({value:.1%} of the data)",
    low="its class is among the smaller ones ({value:.1%} of the data)",
)
def class_share(labels: Tensor, class_counts: Tensor) -> Tensor:
    """Share of the training data that has its label. Shape (n,), in (0, 1]."""
    return class_counts.double()[labels] / len(labels)


FACTORS = (
    training_samples,
    classes,
    log_parameters,
    log_parameters_per_sample,
    train_accuracy,
    heldout_accuracy,
    accuracy_gap,
    mean_train_loss,
    mean_train_confidence,
    class_balance,
    class_share,
)
