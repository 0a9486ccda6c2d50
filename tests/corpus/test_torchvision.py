"""torchvision is imported in one place, only when it is needed, also where its build lacks compiled operators."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forgetcast.corpus.zoo import datasets
from forgetcast.corpus.zoo.torchvision_import import torchvision
from forgetcast.errors import NotApplicableError
from places import HELPERS

pytestmark = pytest.mark.slow


def run(code: str) -> str:
    """Output of a fresh interpreter."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
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
import forgetcast.corpus.zoo.datasets, forgetcast.corpus.zoo.recipes, forgetcast.report.page
before = "torchvision" in sys.modules
from forgetcast.corpus.zoo.torchvision_import import torchvision
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


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("no memory"), r"torchvision does not import \(RuntimeError: no memory\)"),
        (
            ImportError("torchvision/_C.so: undefined symbol"),
            r"build that belongs to torch .*pip uninstall torchvision",
        ),
        (ModuleNotFoundError("No module", name="torchvision"), r"pip install 'forgetcast\[torchvision\]'"),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL"), "does not import .*PIL"),
    ],
)
def test_any_other_failure_of_its_import_says_how_to_mend_it(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, with the cause."""
    whole = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torchvision":
            raise error
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NotApplicableError, match=message) as caught:
        torchvision()
    assert "\n" not in str(caught.value)
    with pytest.raises(NotApplicableError, match=message):
        datasets.load("fashion-mnist")


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
sys.meta_path[:] = [one for one in sys.meta_path if type(one).__name__ != "Declared"]
sys.path.insert(0, {str(tmp_path)!r})
try:
    import torchvision
except RuntimeError as error:
    print(error)
from forgetcast.corpus.zoo.torchvision_import import torchvision
module = torchvision()
print(module.__file__ == {str(tmp_path / "torchvision" / "__init__.py")!r}, torchvision() is module)
"""
    assert run(code).splitlines() == ["operator torchvision::nms does not exist", "True True"]


@pytest.mark.parametrize(
    "line",
    ["from transformers import BertForSequenceClassification", "import pytorch_lightning", "import torchvision"],
)
def test_what_looks_for_torchvision_imports_in_a_fresh_process(line: str) -> None:
    """In the environment that ``make test`` makes, whatever build of torchvision there is, and before anything else."""
    assert run(f"{line}; print('there')").splitlines()[-1] == "there"


def test_a_broken_torchvision_is_declared_as_it_is_imported(tmp_path: Path) -> None:
    """What ``make test`` puts into such an environment, tried on a stub: without it the import fails."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(STUB)
    code = f"""
import sys
sys.meta_path[:] = [one for one in sys.meta_path if type(one).__name__ != "Declared"]
sys.path[:0] = [{str(tmp_path)!r}, {str(HELPERS)!r}]
import torchvision_operators
torchvision_operators.install()
import json, torch
assert not torchvision_operators.declared
import torchvision
print(torchvision.__file__, len(torchvision_operators.declared))
"""
    assert run(code) == f"{tmp_path / 'torchvision' / '__init__.py'} 1"


@pytest.mark.parametrize(
    ("adapter", "package"), [("from_transformers", "transformers"), ("from_lightning", "pytorch_lightning")]
)
def test_a_library_that_torchvision_breaks_is_named_with_the_cause(adapter: str, package: str, tmp_path: Path) -> None:
    """One line that says which package is of another build, and what to do."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(STUB)
    code = f"""
import sys
sys.meta_path[:] = [one for one in sys.meta_path if type(one).__name__ != "Declared"]
sys.path.insert(0, {str(tmp_path)!r})
from torch import nn
from forgetcast import adapters
from forgetcast.errors import NotApplicableError
try:
    adapters.{adapter}(nn.Linear(2, 2), [])
except NotApplicableError as error:
    print(error)
"""
    said = run(code)
    assert said.startswith(f"{package} does not import (RuntimeError: operator torchvision::nms does not exist)")
    assert "pip uninstall torchvision" in said
