"""Laws of a factor: what ``forgetcast.testing.check_factor`` asserts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from forgetcast.errors import NotApplicableError, PluginError
from forgetcast.factors.factor import Factor
from forgetcast.factors.probes.probes import Probes
from forgetcast.target.data import Data
from forgetcast.target.example import example_target, module_state, same_state
from forgetcast.target.inputs import map_leaves
from forgetcast.target.target import Target

__all__ = ["check_factor"]


def check_factor(
    factor: Factor, target: Target | None = None, *, seed: int = 0, rtol: float = 1e-3, atol: float = 1e-4
) -> None:
    """Assert the laws of a factor on ``target`` (default: a small trained perceptron with held-out data).

    1. It gives one finite value per sample (with ``per_target`` one number), or says why it does not apply.
    2. It leaves its probes, the model, its mode, gradients and hooks, and torch's random state as they were.
    3. The same seed gives the same values.
    4. The batch size does not matter.
    5. Permuting the samples permutes the values. Above 1000 samples the rehearsals measure damage on a drawn
       reference sample, and the law holds up to that draw: check on fewer.

    Values are compared up to ``rtol`` and ``atol`` times their standard deviation over the samples; at most 1 in 50
    may differ by more, for two neighbours at almost the same distance may change places with rounding.

    Args:
        factor: as :func:`forgetcast.factors.factor` makes it.
        target: the model and data that it is checked on; stays as it is.
        seed: of the probes and of the permutation.
        rtol: how far values may differ, relative to the value.
        atol: how far they may differ beside that, in standard deviations of the factor.

    Raises:
        AssertionError: a law is broken; the message names the factor, the law and the first sample.

    >>> from forgetcast.factors.confidence import margin
    >>> check_factor(margin)
    """
    target = target or example_target()
    before = module_state(target.module)
    random = torch.random.get_rng_state()
    probes = Probes(target, seed=seed)
    shown = {name: _probe(probes, name) for name in factor.probes}
    kept = {name: [tensor.clone() for tensor in tensors] for name, tensors in shown.items()}
    values = _values(factor, probes)
    for name, tensors in shown.items():
        for tensor, copy in zip(tensors, kept[name], strict=True):
            assert torch.equal(tensor, copy), (
                f"factor {factor.name!r} breaks the law that it changes nothing: it altered the probe {name!r} in place"
            )
    _same(factor, _values(factor, probes), values, "computing it twice from the same probes", rtol, atol)
    after = module_state(target.module)
    for what, value in before.items():
        assert same_state(value, after[what]), (
            f"factor {factor.name!r} breaks the law that it changes nothing: {what} of the model differs afterwards"
        )
    assert torch.equal(random, torch.random.get_rng_state()), (
        f"factor {factor.name!r} breaks the law that it changes nothing: it drew from torch's global random numbers; "
        "use a torch.Generator of its own"
    )
    _same(factor, _values(factor, Probes(target, seed=seed)), values, "the same seed, the same values", rtol, atol)
    n = len(target)
    identity = torch.arange(n)
    for size in (max(1, n // 3), n + 1):
        other = _rebuilt(target, identity, batch_size=size)
        _same(factor, _values(factor, Probes(other, seed=seed)), values, "the batch size does not matter", rtol, atol)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    permuted = _values(factor, Probes(_rebuilt(target, order, batch_size=target.batch_size), seed=seed))
    expected = None if values is None else values[order.numpy()]
    _same(factor, permuted, expected, "permuting the samples permutes the values", rtol, atol)


def _values(factor: Factor, probes: Probes) -> np.ndarray | None:
    """The factor's values, checked to be finite; None where it does not apply."""
    try:
        values = factor.compute(probes)
    except NotApplicableError as reason:
        if not str(reason).strip():
            raise AssertionError(f"factor {factor.name!r} says that it does not apply, but not why") from reason
        return None
    except PluginError as error:
        raise AssertionError(f"factor {factor.name!r} breaks the law of one value per sample: {error}") from error
    bad = np.flatnonzero(~np.isfinite(values))
    assert not len(bad), (
        f"factor {factor.name!r} breaks the law of one finite value per sample: sample {bad[0]} (and {len(bad) - 1} "
        f"more) has {values[bad[0]]}; raise NotApplicableError(reason) where it does not apply"
    )
    return values


def _same(
    factor: Factor, got: np.ndarray | None, expected: np.ndarray | None, law: str, rtol: float, atol: float
) -> None:
    if got is None or expected is None:
        assert got is expected, (
            f"factor {factor.name!r} breaks the law: {law}: it applies in one case and not in the other"
        )
        return
    scale = float(expected.std()) + 1e-9
    unlike = np.flatnonzero(~np.isclose(got, expected, rtol=rtol, atol=atol * scale))
    if len(unlike) > len(expected) // 50:
        first = unlike[0]
        raise AssertionError(
            f"factor {factor.name!r} breaks the law: {law}: {len(unlike)} of {len(expected)} values differ, for sample "
            f"{first} {got[first]!r} instead of {expected[first]!r}"
        )


def _probe(probes: Probes, name: str) -> list[Tensor]:
    """Every tensor that a probe holds; none when it does not apply."""
    try:
        return _tensors(getattr(probes, name))
    except NotApplicableError:
        return []


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor that a probe holds."""
    if isinstance(value, Tensor):
        return [value]
    fields = vars(value).values() if hasattr(value, "__dict__") else ()
    return [tensor for field in fields for tensor in _tensors(field)]


def _rebuilt(target: Target, order: Tensor, *, batch_size: int) -> Target:
    """The same model and data with the samples in another order."""
    x, y = target.data.fetch(order)
    held = target.heldout
    return Target(
        target.module,
        (map_leaves(torch.clone, x), y),
        heldout=None if held is None else _pair(held),
        trajectory=None if target.trajectory is None else target.trajectory.take(order),
        batch_size=batch_size,
    )


def _pair(data: Data) -> tuple[Any, Tensor]:
    return data.fetch(torch.arange(len(data)))
