"""SalUn: random relabelling of the weights that matter for the sample (Fan et al. 2024, arXiv 2310.12508)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.fisher import sample_gradients
from forgetcast.unlearn.algorithms.random_relabelling import RandomRelabelling
from forgetcast.unlearn.base import Samples
from forgetcast.unlearn.stack import Stack, flat

__all__ = ["SalUn"]


@dataclass(frozen=True)
class SalUn(RandomRelabelling):
    """Relabelling under the mask 1[|∇ℓ(x_i, y_i; θ0)| ≥ γ] (the paper's equation 3), γ the median over all weights.

    The mask is laid on the forget step. Retain steps move all weights, so that the control is the same for every
    sample.

    >>> import torch
    >>> SalUn.mask({"w": torch.tensor([[0.1, -3.0], [2.0, 1.0]])}, 0.5)["w"].tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    name: ClassVar[str] = "salun"
    share: float = 0.5
    """Share of the weights that may move."""

    @staticmethod
    def mask(gradients: Stack, share: float) -> Stack:
        """1 where a model's gradient is among its largest, else 0."""
        size = flat(gradients).abs()
        kept = max(1, round(share * size.shape[1]))
        least = size.topk(kept, dim=1).values[:, -1]
        return {n: (g.abs() >= least.reshape(-1, *[1] * (g.ndim - 1))).to(g.dtype) for n, g in gradients.items()}

    def draw(self, target: Target, state: Any, samples: Samples, seed: int) -> dict[str, Tensor]:
        """The wrong label, and the mask (one tensor per parameter)."""
        mask = self.mask(sample_gradients(target, samples.x, samples.y), self.share)
        return {**super().draw(target, state, samples, seed), **{f"mask.{name}": value for name, value in mask.items()}}

    def forget_gradient(
        self, target: Target, params: Stack, samples: Samples, drawn: dict[str, Tensor]
    ) -> Stack | None:
        gradient = super().forget_gradient(target, params, samples, {"wrong": drawn["wrong"]})
        assert gradient is not None
        return {name: value * drawn[f"mask.{name}"] for name, value in gradient.items()}
