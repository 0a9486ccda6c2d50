"""Held-out data that the model was trained on is counted, and refused where it is more than a twentieth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from forgetcast import predict_difficulty
from forgetcast.corpus.zoo import datasets
from forgetcast.corpus.zoo.recipes import PUBLISHED
from forgetcast.errors import DatasetError
from forgetcast.target.data import Data
from forgetcast.target.target import Target


def rows(start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Samples of the digits by number."""
    (x, y), _ = datasets.load("digits")
    return x[start:stop].flatten(1), y[start:stop]


def joined(*parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The parts one after the other."""
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def model() -> nn.Module:
    """Untrained, for only the data matters."""
    torch.manual_seed(0)
    return nn.Linear(64, 10)


FORMS: dict[str, Any] = {
    "pair": lambda pair: pair,
    "float64": lambda pair: (pair[0].double(), pair[1]),
    "array": lambda pair: (pair[0].numpy(), pair[1].numpy()),
    "dataset": lambda pair: TensorDataset(*pair),
    "loader": lambda pair: DataLoader(TensorDataset(*pair), shuffle=True),
    "other labels": lambda pair: (pair[0], 9 - pair[1]),
    "reversed": lambda pair: (pair[0].flip(0), pair[1].flip(0)),
}


@pytest.mark.parametrize("cache", [1 << 30, 0], ids=["cached", "never cached"])
@pytest.mark.parametrize("form", FORMS)
def test_shared_samples_are_refused_in_any_form(form: str, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their numbers: another type, order, container or label does not hide them; their number is said."""
    monkeypatch.setattr("forgetcast.target.data.CACHE_BYTES", cache)
    held = joined(rows(94, 100), rows(200, 294))
    with pytest.raises(DatasetError, match="6 of 100 samples of the held-out dataset are training samples") as caught:
        Target(model(), rows(0, 100), heldout=FORMS[form](held))
    assert "\n" not in str(caught.value)
    x, y = held
    trained = Data(rows(0, 100)).content_hashes()
    keep = torch.as_tensor(~np.isin(Data(held).content_hashes(), trained))  # as the message says
    assert Target(model(), rows(0, 100), heldout=FORMS[form]((x[keep], y[keep]))).notes == []


def test_a_twentieth_is_said_and_served() -> None:
    """Up to there the forecast is made, and its provenance names the number."""
    target = Target(model(), rows(0, 100), heldout=joined(rows(95, 100), rows(200, 295)))
    assert target.notes[0].startswith(
        "5 of 100 samples of the held-out dataset are training samples too (the first: 0,"
    )
    assert predict_difficulty(target).provenance["notes"] == target.notes[0]
    assert "notes" not in predict_difficulty(Target(model(), rows(0, 100), heldout=rows(200, 300))).provenance


def test_equal_rows_of_a_fair_split_are_no_leak() -> None:
    """Where a fifth of the training samples have an equal one, so has a fifth of what is drawn from the same source."""
    drawn = np.random.default_rng(0).integers(0, 4000, 2000)
    x = torch.as_tensor(drawn, dtype=torch.float32)[:, None].expand(-1, 64)
    fair = Target(model(), (x[:1000], drawn[:1000] % 10), heldout=(x[1000:], drawn[1000:] % 10))
    shared = int(np.isin(drawn[1000:], drawn[:1000]).sum())
    assert shared > 150
    assert fair.notes[0].startswith(f"{shared} of 1000 samples")
    leaked = torch.cat([x[1000:1800], x[:200]])
    with pytest.raises(DatasetError, match="more than a twentieth"):
        Target(model(), (x[:1000], drawn[:1000] % 10), heldout=(leaked, [0] * 1000))


@pytest.mark.parametrize("name", ["letter-mlp", "letter-wide-mlp", "spam-mlp", "spam-wide-mlp"])
def test_published_targets_are_fair(name: str) -> None:
    """Those of tables with equal rows can be made again, trained or not."""
    recipe = next(recipe for recipe in PUBLISHED if recipe.name == name)
    (x, y), (x_heldout, y_heldout) = datasets.load(recipe.dataset)
    generator = torch.Generator().manual_seed(recipe.seed)
    chosen = torch.randperm(len(y), generator=generator)[: recipe.n]
    kept = torch.randperm(len(y_heldout), generator=generator)[: recipe.heldout]
    classes = int(y.max()) + 1
    target = Target(nn.Linear(x.shape[1], classes), (x[chosen], y[chosen]), heldout=(x_heldout[kept], y_heldout[kept]))
    assert len(target.notes) == 1
