"""What must hold before samples are measured: failing at once, not after hours of work."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from forgetcast import registry
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.corpus.tasks import RETRAINING, MeasurementSettings
from forgetcast.errors import (
    InputError,
    NotApplicableError,
    PluginError,
    PluginWarning,
    UnknownNameError,
)
from forgetcast.objectives import OBJECTIVES
from forgetcast.target.target import Target
from forgetcast.unlearn import Unlearner
from forgetcast.unlearn.workbench import required_heldout

__all__ = ["asks_for_all", "check_numbers", "check_target", "checked_names", "named_failures"]


def asks_for_all(unlearners: Sequence[str] | None) -> bool:
    """Whether ("all",) was given in place of names."""
    return unlearners is not None and tuple(unlearners) == ("all",)


def checked_names(unlearners: Sequence[str] | None, objectives: Sequence[str]) -> tuple[str, ...]:
    """The unlearners that are meant, each of which can be used; None means those that the label averages.

    Raises:
        UnknownNameError: unknown unlearner or objective.
        PluginError: an unlearner comes from a plugin that cannot be used.
        InputError: no unlearner or no objective.
    """
    everything = asks_for_all(unlearners)
    names = _usable() if everything else CONSENSUS if unlearners is None else tuple(unlearners)
    for name in names:
        _check_usable(name)
    for objective in objectives:
        if objective not in OBJECTIVES:
            raise UnknownNameError.of("objective", objective, OBJECTIVES)
    for what, given in (("unlearner", names), ("objective", objectives)):
        if not given:
            raise InputError(f"expected at least one {what}; got none")
    return names


def check_target(target: Target, names: Sequence[str], objectives: Sequence[str]) -> None:
    """Check that a target has what unlearners and objectives need.

    Raises:
        NotApplicableError: held-out data or the ``train`` callable is missing.
    """
    required_heldout(target)
    if not target.can_train and ("retrain" in objectives or RETRAINING in names):
        raise NotApplicableError(
            f"target {target.name!r} has no train callable, which the objective 'retrain' and the unlearner "
            "'retraining' need: pass train=function(indices, seed) -> trained model to Target, or leave both out"
        )


def check_numbers(settings: MeasurementSettings) -> None:
    """Check that there are enough runs and models.

    Raises:
        InputError: there are too few.
    """
    for what, value, least in (
        ("seeds", settings.seeds, 1),
        ("oracle_groups", settings.oracle_groups, 2),
        ("oracle_seeds", settings.oracle_seeds, 1),
    ):
        if value < least:
            raise InputError(f"{what}: expected at least {least}; got {value}")


def named_failures(failed: Mapping[str, str]) -> str:
    """Which unlearners of plugins failed, and over what."""
    return "; ".join(
        f"{registry.third_party(registry.UNLEARNER_GROUP, name)} raised {reason}" for name, reason in failed.items()
    )


def _check_usable(name: str) -> None:
    """Make an unlearner, to see that it can be.

    Raises:
        UnknownNameError: unknown name.
        PluginError: it comes from a plugin that cannot be used.
    """
    made = registry.unlearner(name)
    if not isinstance(made, Unlearner):
        raise PluginError(
            f"unlearner {name!r}: expected a class derived from forgetcast.unlearn.base.Unlearner; got "
            f"{type(made).__name__}"
        )


def _usable() -> tuple[str, ...]:
    """Every registered unlearner; a plugin's that cannot be made is left out."""
    names = []
    for name in registry.load_unlearners():
        try:
            _check_usable(name)
        except PluginError as error:
            if registry.third_party(registry.UNLEARNER_GROUP, name) is None:
                raise
            warnings.warn(f"{error}; it is left out", PluginWarning, stacklevel=4)
        else:
            names.append(name)
    return tuple(names)
