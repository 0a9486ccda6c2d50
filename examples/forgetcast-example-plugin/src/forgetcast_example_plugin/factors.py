"""How widely the model spreads its probability."""

from __future__ import annotations

from torch import Tensor

from forgetcast.factors import factor

__all__ = ["FACTORS"]


@factor(
    family="confidence",
    source="Breiman et al. 1984, Gini index",
    unit="probability",
    high="the model spreads its probability over classes more than usual here (Gini impurity {value:.2f})",
    low="the model spreads its probability over classes less than usual here (Gini impurity {value:.2f})",
)
def gini_impurity(probabilities: Tensor) -> Tensor:
    """Chance that two draws from its predicted probabilities differ. Shape (n,), in [0, 1 - 1/C].

    1 - Σ_c p_c².
    """
    return 1 - probabilities.square().sum(1)


FACTORS = (gini_impurity,)
