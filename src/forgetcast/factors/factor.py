"""A factor: a pure function of probes with a title, a source and two sentences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from forgetcast.errors import PluginError, UnknownNameError
from forgetcast.factors.probes.probes import PROBES, Probes

__all__ = ["Factor", "factor"]


@dataclass(frozen=True)
class Factor:
    """One number per sample (or per target), measured on the trained model and its data alone.

    Calling a factor calls its function: ``margin(labels=..., logits=...)`` needs no model.
    """

    name: str
    """Name of the function and of the table's column."""
    family: str
    """Group of factors that share an idea, such as "confidence"."""
    title: str
    """First line of the docstring."""
    source: str
    """Paper or equation, or "ours"."""
    unit: str
    """Unit of the value, such as "probability", "nats" or "input units"; empty for a pure number."""
    high: str
    """Plain clause for a value that is high for this model; may use ``{value}``."""
    low: str
    """Plain clause for a value that is low for this model; may use ``{value}``."""
    function: Callable[..., Any]
    """Takes probes by position and settings by keyword."""
    probes: tuple[str, ...]
    """Names of the probes it takes, in order."""
    settings: Mapping[str, Any]
    """Keyword-only arguments with their values."""
    per_target: bool
    """True when one value holds for the whole target; such a factor has no quantile column."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def compute(self, probes: Probes) -> np.ndarray:
        """The factor's value for every sample: float64, shape (n,). A per-target value is repeated n times.

        Raises:
            NotApplicableError: the target lacks something that the factor or one of its probes needs.
            PluginError: the function returned another shape, or something that is not a number.
        """
        raw = self.function(*(getattr(probes, name) for name in self.probes), **self.settings)
        try:
            values = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise PluginError(f"factor {self.name!r}: expected numbers; got {type(raw).__name__}: {error}") from error
        n = len(probes.target)
        if values.shape != (() if self.per_target else (n,)):
            expected = "one number" if self.per_target else f"shape ({n},), one number per sample"
            raise PluginError(
                f"factor {self.name!r}: expected {expected}; got shape {values.shape}. "
                "Fix the function, or its per_target flag."
            )
        return np.full(n, values) if self.per_target else values


def factor(
    *, family: str, source: str, unit: str = "", high: str, low: str, per_target: bool = False
) -> Callable[[Callable[..., Any]], Factor]:
    """Turn a function into a :class:`Factor`.

    Positional arguments name probes (see ``forgetcast.probes.PROBES``), keyword-only arguments are settings and need
    a default. The function returns one finite value per sample, shape (n,), or with ``per_target`` one number; where
    it does not apply it raises ``NotApplicableError`` with the reason. The first line of its docstring is its title.

    Args:
        family: the group that explanations sum over.
        source: where the formula comes from.
        unit: of the value.
        high: clause for a high value, to be read after "sample 17: ", such as "its loss is higher than usual here
            ({value:.2f} nats)".
        low: clause for a low value.
        per_target: the value describes the target, not the sample.

    Raises:
        PluginError: an unknown probe name, a setting without default, no docstring, or a sentence that cannot be
            formatted with ``value``.

    >>> @factor(family="confidence", source="ours", high="its margin is {value:.1f}", low="its margin is {value:.1f}")
    ... def double_margin(margin):
    ...     \"\"\"Twice the margin.\"\"\"
    ...     return 2 * margin
    >>> double_margin.name, double_margin.probes, double_margin(1.5)
    ('double_margin', ('margin',), 3.0)
    """

    def register(function: Callable[..., Any]) -> Factor:
        name = function.__name__
        doc = inspect.getdoc(function)
        if not doc:
            raise PluginError(f"factor {name!r} has no docstring; its first line is the title that a person reads")
        names, settings = _signature(name, function)
        for clause in (high, low):
            try:
                clause.format(value=0.5)
            except (LookupError, ValueError, AttributeError) as error:
                raise PluginError(
                    f"factor {name!r}: the sentence {clause!r} cannot be formatted with value=0.5 "
                    f"({type(error).__name__}: {error}); only {{value}} is filled in"
                ) from error
        return Factor(
            name=name,
            family=family,
            title=doc.splitlines()[0],
            source=source,
            unit=unit,
            high=high,
            low=low,
            function=function,
            probes=names,
            settings=MappingProxyType(settings),
            per_target=per_target,
        )

    return register


def _signature(name: str, function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Probe names and settings of a factor's function."""
    probes: list[str] = []
    settings: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            if parameter.name not in PROBES:
                message = UnknownNameError.of("probe", parameter.name, PROBES)
                raise PluginError(f"factor {name!r} takes an {message}")
            probes.append(parameter.name)
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            settings[parameter.name] = parameter.default
        else:
            raise PluginError(
                f"factor {name!r}: argument {parameter.name!r} must be a probe (positional) or a setting "
                "(keyword-only, with a default)"
            )
    return tuple(probes), settings
