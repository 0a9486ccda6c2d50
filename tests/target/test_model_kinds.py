"""Every kind of model and input: each family of factors gives finite values or says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from forgetcast.factors import FactorTable, factor_table
from forgetcast.registry import load_factors
from forgetcast.target.inputs import Inputs, map_leaves
from forgetcast.target.target import Target

N, CLASSES = 24, 3


def images(shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    """Noise images; shape (24, *shape)."""
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(0))


def tokens(length: int = 7) -> Tensor:
    """Token ids from 1 to 19, padded with 0 at the end; shape (24, length)."""
    ids = torch.randint(1, 20, (N, length), generator=torch.Generator().manual_seed(0))
    return ids * (torch.arange(length) < 3 + torch.arange(N)[:, None] % (length - 2))


class Mean(nn.Module):
    """A body over sequences (b, t, 8), then the mean over time and a linear layer."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return self.head((out[0] if isinstance(out, tuple) else out).mean(1))


class TimeFirst(nn.Module):
    """A two-way LSTM that takes time as its first dimension; the last state of both ways is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6, padding_idx=0)
        self.body = nn.LSTM(6, 5, num_layers=2, bidirectional=True)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        _, (hidden, _) = self.body(self.words(ids).transpose(0, 1))
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1))


class SelfAttention(nn.Module):
    """Multi-head self-attention with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x, x, x, need_weights=False)[0]


class Bert(nn.Module):
    """As Hugging Face's encoders for sequence classification: keywords in, an object with ``logits`` out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8, padding_idx=0)
        self.places = nn.Embedding(16, 8)
        self.norm = nn.LayerNorm(8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.pooler, self.classifier = nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("position_ids", torch.arange(16)[None], persistent=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Any:
        assert input_ids is not None
        assert attention_mask is not None
        places = self.places(self.position_ids[:, : input_ids.shape[1]])
        x = self.dropout(self.norm(self.words(input_ids) + places))
        scores = self.query(x) @ self.key(x).mT / 8**0.5
        scores = scores.masked_fill(attention_mask[:, None, :] == 0, torch.finfo(x.dtype).min)
        x = x + scores.softmax(-1) @ self.value(x)
        logits = self.classifier(torch.tanh(self.pooler(x[:, 0])))
        return SimpleNamespace(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class ByKeyword(nn.Module):
    """Images under the name that Hugging Face's image classifiers have for them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions(lambda: nn.BatchNorm2d(4))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.body(pixel_values)


class Padded(nn.Module):
    """A stock encoder over padded tokens; its fast path drops the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8, padding_idx=0)
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.words(ids), src_key_padding_mask=ids == 0)[:, 0])


@dataclass(frozen=True)
class Items(Dataset[Any]):
    """A dataset of the items in a list."""

    items: list[Any]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class TwoTowers(nn.Module):
    """A table and an image, given side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.image = nn.Linear(4, 6), nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(6 + 72, CLASSES)

    def forward(self, table: Tensor, image: Tensor) -> Tensor:
        return self.head(torch.relu(torch.cat([self.table(table), self.image(image).flatten(1)], 1)))


@dataclass(frozen=True)
class Kind:
    """A model, its inputs, and what does not apply to it."""

    make: Callable[[], nn.Module]
    x: Inputs
    families: tuple[str, ...] = ()
    """Families of which some factor does not apply, the trajectory (not given here) aside."""


def convolutions(norm: Callable[[], nn.Module]) -> nn.Module:
    """A convolution, a normalisation layer (or none), a linear layer."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm(), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, CLASSES))


TOKENS = ("boundary", "gradients", "neighbours", "stein", "surrogates")
"""Token ids have no gradient and no distance."""

KINDS: dict[str, Kind] = {
    "convolutions": Kind(lambda: convolutions(nn.Identity), images()),
    "batch norm": Kind(lambda: convolutions(lambda: nn.BatchNorm2d(4)), images()),
    "group norm": Kind(lambda: convolutions(lambda: nn.GroupNorm(2, 4)), images()),
    "volumes": Kind(
        lambda: nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, CLASSES)),
        images((1, 6, 6, 6)),
    ),
    "perceptron": Kind(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES)), images((6,))),
    "perceptron in double precision": Kind(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double(), images((6,))
    ),
    "multi-head attention": Kind(lambda: Mean(SelfAttention()), images((5, 8))),
    "transformer layer": Kind(
        lambda: Mean(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)), images((5, 8))
    ),
    "transformer encoder over padded tokens": Kind(Padded, tokens(), TOKENS),
    "LSTM": Kind(lambda: Mean(nn.LSTM(8, 8, batch_first=True)), images((5, 8))),
    "GRU": Kind(lambda: Mean(nn.GRU(8, 8, batch_first=True)), images((5, 8))),
    "two-way LSTM over tokens": Kind(TimeFirst, tokens(), TOKENS),
    "bag of tokens": Kind(
        lambda: nn.Sequential(nn.EmbeddingBag(20, 8, padding_idx=0), nn.ReLU(), nn.Linear(8, CLASSES)), tokens(), TOKENS
    ),
    "keywords as Hugging Face's classifiers take": Kind(
        Bert, {"input_ids": tokens(), "attention_mask": (tokens() > 0).long()}, TOKENS
    ),
    "images by keyword": Kind(ByKeyword, {"pixel_values": images()}),
    "two inputs": Kind(TwoTowers, (images((4,)), images()), TOKENS),
}


def labels() -> Tensor:
    """Classes 0, 1, 2 in turn; shape (24,)."""
    return torch.arange(N) % CLASSES


def another(leaf: Tensor) -> Tensor:
    """Other samples of the same kind: numbers a little larger, tokens one lower, padding and masks as they are."""
    return 1.01 * leaf if leaf.is_floating_point() else leaf - (leaf > 1).to(leaf.dtype)


def target_of(name: str) -> Target:
    """The model after a few steps of training, with its data; a third of it, changed a little, is held out."""
    kind, y = KINDS[name], labels()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.make().train()
        real = next(model.parameters()).dtype
        x = map_leaves(lambda leaf: leaf.to(real) if leaf.is_floating_point() else leaf, kind.x)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(logits(model, x), y).backward()
            optimizer.step()
    return Target(model, (kind.x, y), heldout=(map_leaves(lambda leaf: another(leaf[::3]), kind.x), y[::3]), name=name)


def logits(model: nn.Module, x: Inputs) -> Tensor:
    """What the model says, however it is called."""
    out = model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
    return out if isinstance(out, Tensor) else out.logits


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", KINDS)
def test_every_family_is_finite_or_says_why(name: str) -> None:
    """All factors without one that needs the training run; no row is NaN in silence, no kind is refused."""
    target = target_of(name)
    table = factor_table(target)
    for factor in table.factors:
        values = table.values[factor]
        if factor in table.not_applicable:
            assert values.isna().all()
            assert len(table.not_applicable[factor]) > 20
        else:
            assert np.isfinite(values).all(), factor
    assert families(table) == {"trajectory", *KINDS[name].families}


def families(table: FactorTable) -> set[str]:
    """Families of which some factor does not apply."""
    return {table.factors[name].family for name in table.not_applicable}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_every_parameter_count(name: str) -> None:
    """Gradient norms equal those of one plain backward pass per sample over all parameters of the model."""
    target = target_of(name)
    table = factor_table(target, names=["gradient_norm"])
    assert table.notes == {}
    model = target.module.requires_grad_()
    expected = []
    for row in range(N):
        x, y = target.data.fetch([row])
        loss = F.cross_entropy(logits(model, target.to_device(x)), y)
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        expected.append(sum(float(part.square().sum()) for part in found if part is not None) ** 0.5)
    assert np.allclose(table.values["gradient_norm"], expected, rtol=1e-4)


def test_an_image_by_keyword_is_an_image() -> None:
    """The same table as for the model that takes the tensor itself."""
    plain, keyword = (factor_table(target_of(name)).values for name in ("batch norm", "images by keyword"))
    pd.testing.assert_frame_equal(plain, keyword)


def test_items_as_hugging_face_keeps_them() -> None:
    """Dicts of unequal length with their label inside, padded by the collate function: the table of padded inputs."""
    name = "keywords as Hugging Face's classifiers take"
    padded = target_of(name)
    ids = [row[row > 0] for row in tokens()]
    items = [{"input_ids": row, "labels": int(y)} for row, y in zip(ids, labels(), strict=True)]

    def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = nn.utils.rnn.pad_sequence([item["input_ids"] for item in items], batch_first=True)
        return {
            "input_ids": rows,
            "attention_mask": (rows > 0).long(),
            "labels": torch.tensor([item["labels"] for item in items]),
        }

    held = [{**item, "input_ids": another(item["input_ids"])} for item in items[::3]]
    heldout = DataLoader(Items(held), collate_fn=collate)
    target = Target(padded.module, Items(items), collate_fn=collate, heldout=heldout)
    pd.testing.assert_frame_equal(factor_table(target).values, factor_table(padded).values, rtol=1e-3, atol=1e-4)


def test_all_registered_families_were_asked_for() -> None:
    """The table of a model holds every registered factor."""
    assert set(factor_table(target_of("perceptron")).factors) == set(load_factors())
