"""For an environment whose torchvision belongs to another build of torch, so that ``import torchvision`` fails there.

That is so where pip finds torch for the CPU in one place and torchvision for CUDA in another. transformers and
Lightning look for torchvision and fail with it. Run as a script, this file puts itself beside torchvision if that does
not import; from then on the operators that torchvision describes are declared just before it is imported. They cannot
be run.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

declared: list[Any] = []  # torch keeps a declaration only as long as its library object lives


class Declared:
    """Sees that torchvision is about to be imported."""

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            declared.append(library)


def install() -> None:
    """Called at the start of every Python of the environment, where some read its ``.pth`` files twice."""
    if not any(isinstance(finder, Declared) for finder in sys.meta_path):
        sys.meta_path.insert(0, Declared())  # type: ignore[arg-type]


if __name__ == "__main__":
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        folder = Path(sysconfig.get_path("purelib"))
        shutil.copy(__file__, folder / "torchvision_operators.py")
        (folder / "torchvision_operators.pth").write_text(
            "import torchvision_operators; torchvision_operators.install()\n"
        )
        print("torchvision belongs to another build of torch; its operators are declared in this environment")
