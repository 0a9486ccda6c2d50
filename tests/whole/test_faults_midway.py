"""Data and models that turn bad in the middle of a run: the item is named, what is finished stays, the rest follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgetcast.corpus.generate import generate_corpus
from forgetcast.errors import DatasetError, ModelError
from forgetcast.target.target import Target
from small_targets import clouds

SETTINGS: dict[str, Any] = {
    "instances": 6,
    "unlearners": ["gradient_ascent", "neggrad_plus", "influence"],
    "seeds": 1,
    "objectives": ["erase"],
    "progress": False,
}
BAD = 7
"""The sample that turns bad."""

Contents = dict[str, bytes]


class Items(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The clouds item by item; from a certain reading of the bad one on, it comes out otherwise."""

    def __init__(self, x: Tensor, y: Tensor, fault: str | None, sound: int) -> None:
        self.x, self.y, self.fault, self.sound, self.reads = x, y, fault, sound, 0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = self.x[index], int(self.y[index])
        if index != BAD:
            return x, y
        self.reads += 1
        if self.fault is None or self.reads <= self.sound:
            return x, y
        if self.fault == "raises":
            raise OSError("the disk is gone")
        if self.fault == "nan":
            return torch.full_like(x, torch.nan), y
        if self.fault == "shape":
            return torch.zeros(len(x) + 1), y
        return x, 99


class Model(nn.Module):
    """The perceptron of the clouds; from a certain call with the bad sample on it fails."""

    def __init__(self, inner: nn.Module, bad: Tensor, fault: str | None, sound: int) -> None:
        super().__init__()
        self.inner, self.bad, self.fault, self.sound, self.calls = inner, bad, fault, sound, 0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        if torch._C._functorch.is_batchedtensor(x):  # inside vmap nothing can be looked at
            return logits
        met = torch.isclose(x.detach(), self.bad).all(-1)
        self.calls += bool(met.any())
        if not met.any() or self.calls <= self.sound or self.fault is None:
            return logits
        if self.fault == "raises":
            raise RuntimeError("out of memory, says the model")
        return torch.where(met[:, None], torch.inf, logits)


def made(fault: str | None = None, sound: int = 0, *, of: str = "data") -> Target:
    target = clouds()
    assert target.heldout is not None
    x, y = target.data.fetch(range(len(target)))
    held = target.heldout.fetch(range(len(target.heldout)))
    model = Model(target.module, x[BAD], fault, sound) if of == "model" else target.module
    items = Items(x, y, fault if of == "data" else None, sound)
    return Target(model, items, heldout=held, name="clouds", info=target.info)


def contents(folder: Path) -> Contents:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def nothing_is_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with data beyond a gigabyte: every pass reads it again. Nor is anything left of the test before."""
    monkeypatch.setattr("forgetcast.target.data.CACHE_BYTES", 0)
    monkeypatch.setattr("forgetcast.corpus.tasks.Prepared.latest", ())


@pytest.fixture
def whole(tmp_path: Path) -> Contents:
    """The corpus of an undisturbed run."""
    generate_corpus([made()], tmp_path / "whole", **SETTINGS)
    return contents(tmp_path / "whole")


@pytest.mark.parametrize("fault", ["raises", "nan", "shape", "label"])
@pytest.mark.parametrize("sound", [9, 19])
def test_an_item_that_turns_bad_is_named(tmp_path: Path, whole: Contents, fault: str, sound: int) -> None:
    """Shards that were finished stay, and once the data is fixed the same call ends with the undisturbed corpus."""
    folder = tmp_path / "corpus"
    with pytest.raises(DatasetError, match=rf"target 1 of 1, 'clouds': .*\b{BAD}\b.*[Ww]hat is finished stays in"):
        generate_corpus([made(fault, sound)], folder, **SETTINGS)
    kept = contents(folder)
    generate_corpus([made()], folder, **SETTINGS)
    after = contents(folder)
    assert after == whole
    assert {name: after[name] for name in kept} == kept


@pytest.mark.parametrize(
    ("fault", "sound", "message"),
    [
        ("raises", 45, r"RuntimeError while neggrad_plus unlearned samples .*: out of memory, says the model"),
        (
            "inf",
            20,
            r"NaN or infinite logits while neggrad_plus unlearned samples .*: nothing can be measured",
        ),
    ],
)
def test_a_model_that_fails_midway_is_told_with_the_samples(
    tmp_path: Path, fault: str, sound: int, message: str
) -> None:
    """Likewise, where the model is to blame, also deep inside an unlearner's step."""
    folder = tmp_path / "corpus"
    with pytest.raises(ModelError, match=message) as caught:
        generate_corpus([made(fault, sound, of="model")], folder, **SETTINGS)
    assert "What is finished stays in" in str(caught.value)
    generate_corpus([made(of="model")], tmp_path / "whole", **SETTINGS)
    generate_corpus([made(of="model")], folder, **SETTINGS)
    assert contents(folder) == contents(tmp_path / "whole")


def test_what_fails_outside_the_model_is_no_fault_of_the_model() -> None:
    """The error of a built-in unlearner stays what it is."""
    target = made()
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    assert not target.raised(caught.value)
    with pytest.raises(RuntimeError) as inside:
        target.forward(torch.zeros(2, 9))
    assert target.raised(inside.value)
