"""The contract between forgetcast and plugins has a version; a plugin may say which one it was written for.

What the contract is stands in CONTRIBUTING.md. A plugin declares it in its package, or in the module that an entry
point names, with one line::

    FORGETCAST_CONTRACT = "1.0"
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from itertools import accumulate
from typing import Any

from forgetcast.errors import PluginError

__all__ = ["CONTRACT_VERSION", "DECLARATION", "check_contract", "declared_contracts", "newer_minor"]

CONTRACT_VERSION = "1.0"
"""Major and minor number: a new major one asks plugins to change, a new minor one only offers more."""
DECLARATION = "FORGETCAST_CONTRACT"
"""Name that a plugin's package or module declares its contract under."""


def declared_contracts(module: str) -> Iterator[str]:
    """The contracts that a module was written for: those of the packages around it, then its own, which counts.

    Packages are imported from the outside inwards and refused at once, so that one written for another contract says
    so before its modules fail over what they do not find.

    Raises:
        PluginError: one is another major version, or no version at all.
    """
    for name in accumulate(module.split("."), "{}.{}".format):
        declared = getattr(import_module(name), DECLARATION, None)
        if declared is not None:
            check_contract(declared)
            yield declared


def check_contract(declared: Any) -> None:
    """Refuse a plugin of another contract.

    Raises:
        PluginError: another major version, or no version at all.

    >>> check_contract("1.7")
    >>> check_contract("2.0")
    Traceback (most recent call last):
    forgetcast.errors.PluginError: written for plugin contract 2.0, and this forgetcast offers 1.0: upgrade forgetcast
    """
    if not isinstance(declared, str) or not re.fullmatch(r"\d+\.\d+", declared):
        raise PluginError(f'{DECLARATION}: expected a version such as "{CONTRACT_VERSION}"; got {declared!r}')
    theirs, ours = _numbers(declared)[0], _numbers(CONTRACT_VERSION)[0]
    if theirs != ours:
        mend = "upgrade forgetcast" if theirs > ours else "upgrade the plugin"
        raise PluginError(
            f"written for plugin contract {declared}, and this forgetcast offers {CONTRACT_VERSION}: {mend}"
        )


def newer_minor(declared: str | None) -> bool:
    """Whether a plugin that may be used was written for more than is offered here.

    >>> newer_minor("1.1"), newer_minor("1.0"), newer_minor(None)
    (True, False, False)
    """
    return declared is not None and _numbers(declared) > _numbers(CONTRACT_VERSION)


def _numbers(contract: str) -> tuple[int, ...]:
    return tuple(int(part) for part in contract.split("."))
