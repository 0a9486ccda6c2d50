"""What cheap learners that never saw a sample say of it: estimates of p_out without retraining the model."""

from __future__ import annotations

from torch import Tensor

from forgetcast.factors.factor import factor

__all__ = ["FACTORS"]

VOTE = "ours; leave-one-out k-nearest-neighbour vote, Cover & Hart 1967"
LOGISTIC = "ours; cross-fitted kernel logistic regression, Stone 1974 (cross-validatory choice and assessment)"


@factor(
    family="surrogates",
    source=VOTE,
    unit="probability",
    high="the samples that look most like it vote for its label ({value:.0%}) more than usual here",
    low="the samples that look most like it vote for its label ({value:.0%}) less than usual here",
)
def surrogate_input_vote(input_vote: Tensor) -> Tensor:
    """Vote of its nearest neighbours in inputs for its label. Shape (n,), in [0, 1]."""
    return input_vote


@factor(
    family="surrogates",
    source=VOTE,
    unit="probability",
    high="its nearest neighbours halfway through the model vote for its label ({value:.0%}) more than usual here",
    low="its nearest neighbours halfway through the model vote for its label ({value:.0%}) less than usual here",
)
def surrogate_middle_vote(middle_vote: Tensor) -> Tensor:
    """Vote of its nearest neighbours in the middle layer for its label. Shape (n,), in [0, 1]."""
    return middle_vote


@factor(
    family="surrogates",
    source=VOTE,
    unit="probability",
    high="its nearest neighbours in the model's features vote for its label ({value:.0%}) more than usual here",
    low="its nearest neighbours in the model's features vote for its label ({value:.0%}) less than usual here",
)
def surrogate_feature_vote(feature_vote: Tensor) -> Tensor:
    """Vote of its nearest neighbours in features for its label. Shape (n,), in [0, 1]."""
    return feature_vote


@factor(
    family="surrogates",
    source=LOGISTIC,
    unit="probability",
    high="simple models of the raw inputs that never saw it expect its label ({value:.0%}) more than usual here",
    low="simple models of the raw inputs that never saw it expect its label ({value:.0%}) less than usual here",
)
def surrogate_input_logistic(input_logistic: Tensor) -> Tensor:
    """Probability of its label by simple models of the inputs, out of fold. Shape (n,), in [0, 1]."""
    return input_logistic


@factor(
    family="surrogates",
    source=LOGISTIC,
    unit="probability",
    high="simple models of an early layer that never saw it expect its label ({value:.0%}) more than usual here",
    low="simple models of an early layer that never saw it expect its label ({value:.0%}) less than usual here",
)
def surrogate_early_logistic(early_logistic: Tensor) -> Tensor:
    """Probability of its label by simple models of the early layer, out of fold. Shape (n,), in [0, 1]."""
    return early_logistic


@factor(
    family="surrogates",
    source=LOGISTIC,
    unit="probability",
    high="simple models of the middle layer that never saw it expect its label ({value:.0%}) more than usual here",
    low="simple models of the middle layer that never saw it expect its label ({value:.0%}) less than usual here",
)
def surrogate_middle_logistic(middle_logistic: Tensor) -> Tensor:
    """Probability of its label by simple models of the middle layer, out of fold. Shape (n,), in [0, 1]."""
    return middle_logistic


@factor(
    family="surrogates",
    source="ours; mean over the kinds of surrogates that apply",
    unit="probability",
    high="simple models that never saw it expect its label ({value:.0%}) more than usual here",
    low="simple models that never saw it expect its label ({value:.0%}) less than usual here",
)
def surrogate_confidence(surrogate_confidence: Tensor) -> Tensor:
    """Probability of its label by simple models fitted without it, on average. Shape (n,), in [0, 1]."""
    return surrogate_confidence


@factor(
    family="surrogates",
    source="ours; estimate of memorization, Feldman & Zhang 2020, arXiv 2008.03703",
    unit="probability",
    high="the model is surer of its label than simple models that never saw it ({value:+.0%}), more than usual here",
    low="the model is hardly surer of its label than simple models that never saw it ({value:+.0%})",
)
def surrogate_drop(true_probability: Tensor, surrogate_confidence: Tensor) -> Tensor:
    """Probability of its label by the model minus that by the surrogates. Shape (n,), in [-1, 1]."""
    return true_probability - surrogate_confidence


@factor(
    family="surrogates",
    source="ours; estimate of memorization, Feldman & Zhang 2020, arXiv 2008.03703",
    unit="probability",
    high="the model is surer of its label than a simple model of its own middle layer that never saw it "
    "({value:+.0%}), more than usual here",
    low="the model is hardly surer of its label than a simple model of its own middle layer that never saw it "
    "({value:+.0%})",
)
def surrogate_middle_drop(true_probability: Tensor, middle_logistic: Tensor) -> Tensor:
    """Probability of its label by the model minus that by the middle-layer surrogate. Shape (n,), in [-1, 1]."""
    return true_probability - middle_logistic


FACTORS = (
    surrogate_input_vote,
    surrogate_middle_vote,
    surrogate_feature_vote,
    surrogate_input_logistic,
    surrogate_early_logistic,
    surrogate_middle_logistic,
    surrogate_confidence,
    surrogate_drop,
    surrogate_middle_drop,
)
