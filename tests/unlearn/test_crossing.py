"""Where a goal is first met within a step: the cell that bisection finds, with fewer probes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forgetcast.unlearn.crossing import first_met

Curve = Callable[[Tensor], Tensor]


def bisected(curve: Curve, limit: Tensor, halvings: int) -> Tensor:
    """The plain way: halve as often as told."""
    low, high = torch.zeros_like(limit), torch.ones_like(limit)
    for _ in range(halvings):
        middle = (low + high) / 2
        met = curve(middle) <= limit
        high, low = torch.where(met, middle, high), torch.where(met, low, middle)
    return high


def searched(curve: Curve, limit: Tensor, halvings: int) -> tuple[Tensor, float]:
    """What ``first_met`` finds, and how many probes it took per row."""
    probes = 0

    def value(chosen: Tensor, fraction: Tensor) -> Tensor:
        nonlocal probes
        probes += len(chosen)
        everywhere = torch.zeros_like(limit)
        everywhere[chosen] = fraction
        return curve(everywhere)[chosen]

    ends = curve(torch.zeros_like(limit)), curve(torch.ones_like(limit))
    return first_met(value, limit, *ends, halvings), probes / len(limit)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(0, 12), st.sampled_from(["straight", "bent", "sudden", "stairs"]))
def test_it_is_the_cell_that_bisection_finds(seed: int, halvings: int, kind: str) -> None:
    """For every kind of falling curve, also where a straight line through the ends says nothing."""
    generator = torch.Generator().manual_seed(seed)
    place, bend = torch.rand(2, 40, generator=generator, dtype=torch.float64)
    curves: dict[str, Curve] = {
        "straight": lambda f: place - f,
        "bent": lambda f: place - f - (2 * bend - 1) * f * (1 - f),
        "sudden": lambda f: torch.sigmoid((place - f) * 1000 * bend),
        "stairs": lambda f: ((place - f) * 5).ceil(),
    }
    curve = curves[kind]
    start, end = curve(torch.zeros_like(place)), curve(torch.ones_like(place))
    limit = torch.where(end < start, end + (start - end) * 0.37, end)
    keep = (start > limit) & (end <= limit)
    place, bend, limit = place[keep], bend[keep], limit[keep]
    if len(limit):
        assert torch.equal(searched(curve, limit, halvings)[0], bisected(curve, limit, halvings))


@pytest.mark.parametrize("bend", [0.0, 0.1, -0.1])
def test_few_probes_are_needed_where_values_are_nearly_straight(bend: float) -> None:
    """At most half of bisection's eight."""
    place = torch.linspace(0.01, 0.99, 99)
    _, probes = searched(lambda f: place - f - bend * f * (1 - f), torch.zeros(99), 8)
    assert probes <= 4


def test_values_that_are_no_numbers_end_the_search_too() -> None:
    """NaN meets no goal, so the end of the step is what remains."""
    limit = torch.zeros(3)
    found = first_met(lambda chosen, _: torch.full((len(chosen),), torch.nan), limit, limit + 1, limit - 1, 8)
    assert found.tolist() == [1.0, 1.0, 1.0]
