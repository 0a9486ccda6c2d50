"""torchvision is imported in one place, only when it is needed, also where its build lacks compiled operators."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forgetcast._torchvision import torchvision


def run(code: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_predicting_never_imports_torchvision() -> None:
    """Neither the public functions, a target, its factors nor the command line do; asking for it does."""
    code = """
import sys
import forgetcast, forgetcast.cli
forgetcast.predict_difficulty, forgetcast.DifficultyPredictor, forgetcast.generate_corpus
import torch
from torch import nn
from forgetcast.factors import factor_table
target = forgetcast.Target(nn.Sequential(nn.Linear(4, 3)), (torch.randn(40, 4), torch.arange(40) % 3))
target.features(), target.model_hash
factor_table(target, names=["margin"])
import forgetcast.datasets, forgetcast.recipes, forgetcast.report
before = "torchvision" in sys.modules
from forgetcast._torchvision import torchvision
torchvision()
print(before, "torchvision" in sys.modules)
"""
    assert run(code) == "False True"


def test_models_and_datasets_of_torchvision_can_be_used() -> None:
    """What comes back is torchvision, with its models and datasets."""
    module = torchvision()
    assert module.__name__ == "torchvision"
    assert callable(module.models.resnet18)
    assert module.datasets.FashionMNIST.__name__ == "FashionMNIST"
    assert torchvision() is module


@pytest.mark.parametrize("error", [RuntimeError("no memory"), ImportError("not installed")])
def test_any_other_failure_of_its_import_is_passed_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the missing operator schemas are mended."""
    whole = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torchvision":
            raise error
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(type(error), match=str(error)):
        torchvision()


STUB = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets.new_empty(0)

@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold):
    return dets.new_empty(0)
"""


def test_a_build_without_compiled_operators_is_mended(tmp_path: Path) -> None:
    """Where the import stops at operators that nobody defined, their schemas are defined and the import goes on."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(STUB)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
try:
    import torchvision
except RuntimeError as error:
    print(error)
from forgetcast._torchvision import torchvision
module = torchvision()
print(module.__file__ == {str(tmp_path / "torchvision" / "__init__.py")!r}, torchvision() is module)
"""
    assert run(code).splitlines() == ["operator torchvision::nms does not exist", "True True"]
