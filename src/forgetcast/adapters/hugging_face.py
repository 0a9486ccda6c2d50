"""Classifiers of Hugging Face's transformers, for sequences and for images, as targets.

A target takes such a model as it is; what this adds is everything around it: columns become inputs, decoders that read
the class off their last token get a last layer that can be watched, and attention runs in its plain form, for the fused
kernels cannot be differentiated for many samples at once (torch then falls back to a loop, with a warning per layer).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from forgetcast.adapters._library import library
from forgetcast.errors import DatasetError, InputError, ModelError
from forgetcast.target import Target, TrainFunction
from forgetcast.trajectory import Trajectory

__all__ = ["from_transformers"]

LONGEST = 1 << 20
"""Tokenizers that know no limit give a number beyond this."""


def from_transformers(
    model: nn.Module,
    dataset: Any,
    *,
    tokenizer: Any = None,
    image_processor: Any = None,
    text: str | tuple[str, str] = "text",
    image: str = "image",
    label: str = "label",
    heldout: Any = None,
    max_length: int | None = None,
    train: TrainFunction | None = None,
    trajectory: Trajectory | None = None,
    name: str = "",
    batch_size: int = 64,
    info: Mapping[str, Any] | None = None,
) -> Target:
    """A Hugging Face classifier with its training data as a target.

    Args:
        model: a ``PreTrainedModel`` that gives logits of one class out of several, such as those of
            ``AutoModelForSequenceClassification`` and ``AutoModelForImageClassification``; it stays as it is.
        dataset: rows as dicts: a ``datasets.Dataset``, a list, a mapping of columns, a DataFrame. Without tokenizer
            and image processor also whatever ``Target`` takes; of rows the columns that the model's ``forward`` takes
            are used.
        tokenizer: turns the column ``text`` into inputs, all padded to one length.
        image_processor: turns the column ``image`` into inputs. Either way all inputs are kept in memory; for more data
            than fits, give rows that are made when they are read (``with_transform``) and no processor.
        text: name of the column, or of both for pairs of sentences.
        image: name of the column.
        label: name of the column with class numbers, or with names that ``model.config.label2id`` knows.
        heldout: rows of the same kind that the model was not trained on.
        max_length: tokens kept of a text; default: what tokenizer and model can take.
        train: ``train(indices, seed)`` returns a model of the same kind, trained from its starting point on those rows.
        trajectory, batch_size, info: as for ``Target``; ``info`` gets the architecture if it has none.
        name: of the target; default: the model's type.

    Returns:
        A target for ``predict_difficulty`` and everything else.

    Raises:
        NotApplicableError: transformers is not installed.
        ModelError: not such a model, or one for regression or several labels at a time.
        DatasetError: a column is missing, or a label has no number.
        InputError: both a tokenizer and an image processor.
    """
    transformers = library("transformers", extra="transformers")
    if not isinstance(model, transformers.PreTrainedModel):
        raise ModelError(f"expected a transformers.PreTrainedModel; got {type(model).__name__}: for others use Target")
    config: Any = model.config
    if getattr(config, "problem_type", None) in ("regression", "multi_label_classification"):
        raise ModelError(
            f"the model is for {config.problem_type.replace('_', ' ')}: forecasts are for one class out of several"
        )
    if tokenizer is not None and image_processor is not None:
        raise InputError("expected a tokenizer or an image processor; got both")
    reader = _Reader(model, tokenizer, image_processor, text, image, label, max_length)
    data, held = reader.read(dataset, heldout)
    settings: dict[str, Any] = {
        "heldout": held,
        "trajectory": trajectory,
        "name": name or str(config.model_type),
        "batch_size": batch_size,
        "info": {"architecture": str(config.model_type), **(info or {})},
    }
    plain = Target(_plain(model), data, train=None if train is None else _Trained(train, _plain), **settings)
    if plain.head is not None or not _reads_last_token(model):
        return plain
    read_off = Target(
        _last_token(model), data, train=None if train is None else _Trained(train, _last_token), **settings
    )
    few = torch.arange(min(8, len(plain)))
    with torch.no_grad():
        x = plain.to_device(plain.data.fetch(few)[0])
        same = torch.allclose(plain.forward(x), read_off.forward(x), rtol=1e-4, atol=1e-4)
    return read_off if same else plain


# -- models -------------------------------------------------------------------------------------------------


def _plain(model: nn.Module) -> nn.Module:
    """A copy whose attention runs in its plain form and keeps no cache."""
    copied: Any = copy.deepcopy(model)
    if getattr(copied.config, "use_cache", None):
        copied.config.use_cache = False
    try:
        copied.set_attn_implementation("eager")
    except (AttributeError, ValueError):  # it has one form only
        return copied
    return copied


def _reads_last_token(model: Any) -> bool:
    """Whether it looks like a decoder that applies its last layer to every token and takes the last."""
    return isinstance(getattr(model, "score", None), nn.Linear) and model.base_model is not model


def _last_token(model: nn.Module) -> nn.Module:
    return _LastToken(_plain(model))


class _LastToken(nn.Module):
    """The same decoder with the last token taken before the last layer: the same logits, and parameters of one name."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.prefix = model.base_model_prefix
        setattr(self, self.prefix, model.base_model)
        self.score = model.score
        self.pad = getattr(model.config, "pad_token_id", None)

    def forward(self, input_ids: Tensor, **more: Any) -> Tensor:
        hidden = getattr(self, self.prefix)(input_ids, **more)[0]
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        read = places if self.pad is None else places * (input_ids != self.pad)
        last = read.expand(len(input_ids), -1).argmax(1)
        return self.score(torch.take_along_dim(hidden, last[:, None, None], 1)[:, 0])


@dataclass(frozen=True)
class _Trained:
    """A ``train`` callable whose models are made into what the target holds; it can go to other processes."""

    train: TrainFunction
    made: Any

    def __call__(self, indices: Any, seed: int) -> nn.Module:
        return self.made(self.train(indices, seed))


# -- data ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """Rows to inputs and labels."""

    model: Any
    tokenizer: Any
    image_processor: Any
    text: str | tuple[str, str]
    image: str
    label: str
    max_length: int | None

    def read(self, dataset: Any, heldout: Any) -> tuple[Any, Any]:
        """Training and held-out data as ``Target`` takes them; texts of both are padded to one length."""
        if self.tokenizer is None and self.image_processor is None:
            return self._chosen(dataset), None if heldout is None else self._chosen(heldout)
        parts = [_rows(dataset, "dataset")] + ([] if heldout is None else [_rows(heldout, "held-out dataset")])
        rows = [row for part in parts for row in part]
        x = self._images(rows) if self.tokenizer is None else self._texts(rows)
        x = {name: value for name, value in x.items() if name in self._taken()}
        y = torch.tensor([self._number(row) for row in rows])
        n = len(parts[0])
        data = {name: value[:n] for name, value in x.items()}, y[:n]
        return data, None if heldout is None else ({name: value[n:] for name, value in x.items()}, y[n:])

    def _taken(self) -> set[str]:
        """What the model's ``forward`` takes."""
        return set(inspect.signature(self.model.forward).parameters) - {"self", "labels"}

    def _texts(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        names = (self.text,) if isinstance(self.text, str) else self.text
        longest = self.max_length or min(
            int(getattr(self.tokenizer, "model_max_length", LONGEST)),
            int(getattr(self.model.config, "max_position_embeddings", None) or LONGEST),
        )
        columns = [[str(_value(row, name)) for row in rows] for name in names]
        limit = {"truncation": True, "max_length": longest} if longest < LONGEST else {}
        return dict(self.tokenizer(*columns, padding=True, return_tensors="pt", **limit))

    def _images(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return dict(self.image_processor([_value(row, self.image) for row in rows], return_tensors="pt"))

    def _number(self, row: Mapping[str, Any]) -> int:
        name = next((known for known in (self.label, "labels", "label") if known in row), self.label)
        value = _value(row, name)
        if isinstance(value, str):
            known = self.model.config.label2id
            if value not in known:
                raise DatasetError(f"label {value!r}: expected one of {', '.join(known)} (model.config.label2id)")
            return int(known[value])
        return int(value)

    def _chosen(self, data: Any) -> Any:
        """Rows with the columns that the model takes; anything else as it is."""
        if isinstance(data, (tuple, DataLoader)) or (isinstance(data, list) and data and isinstance(data[0], tuple)):
            return data
        rows = _rows(data, "dataset")
        return data if len(rows) == 0 or not isinstance(rows[0], Mapping) else _Chosen(rows, self, self._taken())


@dataclass(frozen=True)
class _Chosen:
    """Rows as (inputs, label), made when they are read."""

    rows: Any
    reader: _Reader
    taken: set[str]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        row = self.rows[index]
        inputs = {name: torch.as_tensor(value) for name, value in row.items() if name in self.taken}
        if not inputs:
            raise DatasetError(
                f"no column of {', '.join(map(str, row))} is an input of the model, which takes "
                f"{', '.join(sorted(self.taken))}: give a tokenizer or an image processor"
            )
        return inputs, self.reader._number(row)


def _rows(data: Any, role: str) -> Any:
    """Rows by number, from a table, from columns, or as they are."""
    if isinstance(data, pd.DataFrame):
        return data.to_dict("records")
    if isinstance(data, Mapping):
        lengths = {name: len(column) for name, column in data.items()}
        if len(set(lengths.values())) != 1:
            raise DatasetError(f"the {role}: expected columns of one length; got {lengths}")
        return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise DatasetError(f"the {role}: expected rows with a length, by number; got {type(data).__name__}")
    return data if isinstance(data, list) else _ByNumber(data)


@dataclass(frozen=True)
class _ByNumber:
    """Rows of a map-style dataset, which need not be iterable."""

    data: Any

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self.data):
            raise IndexError(index)
        return self.data[int(index)]


def _value(row: Mapping[str, Any], name: str) -> Any:
    if not isinstance(row, Mapping) or name not in row:
        there = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise DatasetError(f"expected rows with a column {name!r}; got {there}: name yours (text=, image=, label=)")
    return row[name]
