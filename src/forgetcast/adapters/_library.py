"""A library that an adapter is for, imported when it is needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from forgetcast.corpus.zoo.torchvision_import import does_not_import
from forgetcast.errors import NotApplicableError

__all__ = ["library"]


def library(*names: str, extra: str) -> ModuleType:
    """The first of these modules that is installed.

    Raises:
        NotApplicableError: none is, and the message names the extra that brings it; or it does not import.
    """
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != name.partition(".")[0]:
                raise NotApplicableError(does_not_import(name, error)) from error
        except Exception as error:
            raise NotApplicableError(does_not_import(name, error)) from error
    raise NotApplicableError(f"this needs the package {names[0]}: pip install 'forgetcast[{extra}]'")
