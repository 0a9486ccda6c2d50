"""The one place that imports torchvision, lazily.

Builds of torchvision that belong to another build of torch come without compiled operators. Their import then stops:
they register fake kernels for ``torchvision::nms`` and ``torchvision::qnms``, whose schemas nobody defined. Defining
the two schemas first makes models, transforms and datasets work; detection operators stay unavailable.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from forgetcast.errors import NotApplicableError, first_line

__all__ = ["does_not_import", "torchvision"]

_schemas: list[Any] = []  # torch.library keeps a definition only as long as its Library object lives


def torchvision() -> ModuleType:
    """Import torchvision, defining the operator schemas that a build without compiled operators lacks.

    Raises:
        NotApplicableError: it is not installed, or does not import.
    """
    try:
        return _imported()
    except ModuleNotFoundError as error:
        if error.name == "torchvision":
            raise NotApplicableError(
                "this needs the package torchvision: pip install 'forgetcast[torchvision]'"
            ) from error
        raise NotApplicableError(does_not_import("torchvision", error)) from error
    except Exception as error:
        raise NotApplicableError(does_not_import("torchvision", error)) from error


def _imported() -> ModuleType:
    try:
        import torchvision as module
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _schemas.append(library)
        import torchvision as module
    return module


def does_not_import(name: str, error: BaseException) -> str:
    """What is said of a package that is installed and does not import; the cause is often torchvision.

    >>> does_not_import("transformers", RuntimeError("operator torchvision::nms does not exist"))
    'transformers does not import (RuntimeError: operator torchvision::nms does not exist): torchvision must be ...'
    """
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    fix = f"try python -c 'import {name}'"
    if "torchvision" in str(cause):
        fix = (
            f"torchvision must be the build that belongs to torch {torch.__version__}, from the same index: install "
            "that, or pip uninstall torchvision"
        )
    return f"{name} does not import ({type(cause).__name__}: {first_line(cause)}): {fix}"
