"""The one place that imports torchvision, lazily.

Some builds of torchvision come without compiled operators, and their import then stops because fake kernels are
registered for ``torchvision::nms`` and ``torchvision::qnms``, whose schemas nobody defined. Defining the two schemas
first makes models, transforms and datasets work; detection operators stay unavailable.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

__all__ = ["torchvision"]

_schemas: list[Any] = []  # torch.library keeps a definition only as long as its Library object lives


def torchvision() -> ModuleType:
    """Import torchvision, defining the operator schemas that a build without compiled operators lacks."""
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
