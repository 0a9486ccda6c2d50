"""Classifiers of Hugging Face's transformers, for sequences and for images, as targets.

A target takes such a model as it is; what this adds is everything around it: columns become inputs, and decoders that
read the class off their last token get a last layer that can be watched. Attention runs in its plain form: the fused
kernels cannot be differentiated for many samples at once. (torch then falls back to a loop, with a warning per layer.)
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from forgetcast.adapters._library import library
from forgetcast.corpus.zoo.torchvision_import import does_not_import
from forgetcast.errors import DatasetError, InputError, ModelError, NotApplicableError, first_line
from forgetcast.target.dataset_reader import LABEL_NAMES
from forgetcast.target.samples import is_missing
from forgetcast.target.seeding import fork_all_rngs
from forgetcast.target.target import Target, TrainFunction
from forgetcast.target.trajectory import Trajectory

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
    label: str | None = None,
    heldout: Any = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
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
        label: name of the column with class numbers, or with names that ``model.config.label2id`` knows; default:
            ``label`` or ``labels``, whichever is there.
        heldout: rows of the same kind that the model was not trained on.
        collate_fn: makes a batch of rows that are inputs already but of unequal lengths, such as
            ``transformers.DataCollatorWithPadding(tokenizer)``; it gets dicts with the label under ``labels``.
        max_length: tokens kept of a text; default: what tokenizer and model can take, tried on the model itself. How
            many texts are cut stands in the target's ``notes``.
        train: ``train(indices, seed)`` returns a model of the same kind, trained from its starting point on those rows.
        trajectory: checkpoints of the training run, or outputs recorded during it; None: its factors do not apply.
        name: of the target; default: the model's type.
        batch_size: samples per forward pass.
        info: descriptors kept with results; it gets the architecture if it has none.

    Returns:
        A target for ``predict_difficulty`` and everything else.

    Raises:
        NotApplicableError: transformers is not installed, or does not import.
        ModelError: not such a model, or one for regression or several labels at a time.
        DatasetError: a column is missing; a text is missing or no string; a label is missing or no whole number.
        InputError: both a tokenizer and an image processor, a ``collate_fn`` beside either, or a ``max_length`` that
            the model cannot take.
    """
    transformers = library("transformers", extra="transformers")
    try:
        kind = transformers.PreTrainedModel
    except Exception as error:  # transformers imports its parts when they are asked for
        raise NotApplicableError(does_not_import("transformers", error)) from error
    if not isinstance(model, kind):
        raise ModelError(f"expected a transformers.PreTrainedModel; got {type(model).__name__}: for others use Target")
    config: Any = model.config
    if getattr(config, "problem_type", None) in ("regression", "multi_label_classification"):
        raise ModelError(
            f"the model is for {config.problem_type.replace('_', ' ')}: forecasts are for one class out of several"
        )
    if tokenizer is not None and image_processor is not None:
        raise InputError("expected a tokenizer or an image processor; got both")
    if collate_fn is not None and (tokenizer is not None or image_processor is not None):
        raise InputError(
            "collate_fn is for rows that are inputs already: give it without tokenizer and image processor"
        )
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1):
        raise InputError(f"max_length: expected a positive integer; got {max_length!r}")
    reader = _Reader(model, tokenizer, image_processor, text, image, label, max_length, collate_fn is not None)
    data, held, notes = reader.read(dataset, heldout)
    settings: dict[str, Any] = {
        "heldout": held,
        "collate_fn": collate_fn,
        "trajectory": trajectory,
        "name": name or str(config.model_type),
        "batch_size": batch_size,
        "info": {"architecture": str(config.model_type), **(info or {})},
    }
    plain = Target(_plain(model), data, train=None if train is None else _Trained(train, _plain), **settings)
    plain.notes += notes
    if plain.head is not None or not _reads_last_token(model):
        return plain
    read_off = Target(
        _last_token(model), data, train=None if train is None else _Trained(train, _last_token), **settings
    )
    read_off.notes += notes
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
    label: str | None
    max_length: int | None
    collated: bool

    def read(self, dataset: Any, heldout: Any) -> tuple[Any, Any, list[str]]:
        """Training and held-out data as ``Target`` takes them, and what is to be noted.

        Texts of both are padded to one length.
        """
        roles = {"dataset": dataset, **({} if heldout is None else {"held-out dataset": heldout})}
        if self.tokenizer is None and self.image_processor is None:
            chosen = [self._chosen(data, role) for role, data in roles.items()]
            return chosen[0], chosen[1] if heldout is not None else None, []
        parts = [
            [(row, f"row {k} of the {role}") for k, row in enumerate(_rows(data, role))] for role, data in roles.items()
        ]
        rows = [row for part in parts for row in part]
        notes: list[str] = []
        x = self._images(rows) if self.tokenizer is None else self._texts(rows, notes)
        x = {name: value for name, value in x.items() if name in self._taken()}
        y = torch.tensor([self._number(*row) for row in rows])
        n = len(parts[0])
        data = {name: value[:n] for name, value in x.items()}, y[:n]
        return data, None if heldout is None else ({name: value[n:] for name, value in x.items()}, y[n:]), notes

    def _taken(self) -> set[str]:
        """What the model's ``forward`` takes."""
        return set(inspect.signature(self.model.forward).parameters) - {"self", "labels"}

    def _texts(self, rows: Sequence[tuple[Any, str]], notes: list[str]) -> dict[str, Tensor]:
        """All texts as tokens, padded to one length; what is cut off is noted."""
        names = (self.text,) if isinstance(self.text, str) else self.text
        columns = [[_text(_value(row, name), name, where) for row, where in rows] for name in names]
        if not rows:
            raise DatasetError("the dataset is empty: expected at least one row")
        lengths = [len(ids) for ids in self.tokenizer(*columns, verbose=False)["input_ids"]]
        if 0 in lengths:
            raise DatasetError(f"{rows[lengths.index(0)][1]}: the tokenizer makes no token of its text: leave it out")
        if len(set(lengths)) > 1 and self.tokenizer.pad_token is None:
            raise InputError(
                "the tokenizer has no padding token, and the texts are of unequal lengths: set tokenizer.pad_token "
                "(such as to tokenizer.eos_token) and model.config.pad_token_id as in training"
            )
        at = lengths.index(max(lengths))
        longest = self._limit([column[at] for column in columns], max(lengths))
        cut = sum(length > longest for length in lengths)
        if cut:
            notes.append(f"{cut} of {len(rows)} texts are longer than {longest} tokens and cut there")
        limit = {"truncation": True, "max_length": longest} if cut else {}
        return dict(self.tokenizer(*columns, padding=len(set(lengths)) > 1, return_tensors="pt", **limit))

    def _limit(self, texts: list[str], length: int) -> int:
        """Tokens that are kept of a text: as asked for, or what tokenizer and model take.

        Args:
            texts: the longest there is, one per column.
            length: its number of tokens.

        Raises:
            InputError: the model cannot take what was asked for.
        """
        stated = int(getattr(self.model.config, "max_position_embeddings", None) or LONGEST)
        if self.max_length is None:
            return self._tried(texts, min(length, stated, int(getattr(self.tokenizer, "model_max_length", LONGEST))))
        wanted = min(self.max_length, stated + 1 if stated < LONGEST else length)  # one more shows a limit
        taken = self._tried([" ".join([text] * (wanted // length + 1)) for text in texts], wanted)
        if taken < wanted:
            raise InputError(f"max_length: the model takes at most {taken} tokens; got {self.max_length}")
        return self.max_length

    def _tried(self, texts: list[str], length: int) -> int:
        """The most tokens of a text, up to ``length``, that the model takes: some of its positions may be reserved."""
        model = _plain(self.model).cpu().eval()

        def takes(tokens: int) -> bool:
            try:
                x = self.tokenizer(*[[text] for text in texts], truncation=True, max_length=tokens, return_tensors="pt")
                model(**{name: value for name, value in x.items() if name in self._taken()})
            except Exception:
                return False
            return True

        with torch.no_grad(), fork_all_rngs():
            if takes(length):
                return length
            low, high = 0, length
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if takes(middle) else (low, middle)
        return low or length  # a model that takes none says why when it is asked

    def _images(self, rows: Sequence[tuple[Any, str]]) -> dict[str, Tensor]:
        images = [_value(row, self.image) for row, _ in rows]
        for image, (_, where) in zip(images, rows, strict=True):
            if is_missing(image):
                raise DatasetError(f"{where}: the image is missing (column {self.image!r} holds {image})")
        return dict(self.image_processor(images, return_tensors="pt"))

    def _number(self, row: Mapping[str, Any], where: str) -> int:
        """The class of a row."""
        there = [name for name in LABEL_NAMES if name in row] if self.label is None else [self.label]
        if len(there) > 1:
            raise DatasetError(f"{where}: expected one column of labels; got {' and '.join(there)}: say which (label=)")
        name = there[0] if there else "label"
        value = _value(row, name)
        if is_missing(value):
            raise DatasetError(f"{where}: the label is missing (column {name!r} holds {value}): leave such rows out")
        if isinstance(value, str):
            known = self.model.config.label2id
            if value not in known:
                raise DatasetError(
                    f"{where}: label {value!r}: expected one of {', '.join(known)} (model.config.label2id)"
                )
            return int(known[value])
        number = value.item() if isinstance(value, (Tensor, np.generic, np.ndarray)) and np.ndim(value) == 0 else value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number // 1:
            raise DatasetError(f"{where}: expected a whole class number in column {name!r}; got {repr(value)[:80]}")
        return int(number)

    def _chosen(self, data: Any, role: str) -> Any:
        """Rows with the columns that the model takes; anything else as it is."""
        if isinstance(data, (tuple, DataLoader)) or (isinstance(data, list) and data and isinstance(data[0], tuple)):
            return data
        rows = _rows(data, role)
        return data if len(rows) == 0 or not isinstance(rows[0], Mapping) else _Chosen(rows, self, self._taken(), role)


@dataclass(frozen=True)
class _Chosen:
    """Rows as (inputs, label), made when they are read; as dicts where a collate function is to join them."""

    rows: Any
    reader: _Reader
    taken: set[str]
    role: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        row, where = self.rows[index], f"row {index} of the {self.role}"
        inputs = {}
        for name in (name for name in row if name in self.taken):
            try:
                inputs[name] = torch.as_tensor(row[name])
            except (TypeError, ValueError, RuntimeError) as error:
                raise DatasetError(f"{where}: column {name!r} holds no numbers ({first_line(error)})") from error
        if not inputs:
            raise DatasetError(
                f"no column of {', '.join(map(str, row))} is an input of the model, which takes "
                f"{', '.join(sorted(self.taken))}: give a tokenizer or an image processor"
            )
        number = self.reader._number(row, where)
        return {**inputs, "labels": number} if self.reader.collated else (inputs, number)


def _text(value: Any, name: str, where: str) -> str:
    """The text itself.

    Raises:
        DatasetError: it is missing, or no string.
    """
    if isinstance(value, str):
        return value
    if is_missing(value):
        what = f"is missing ({value}): leave such rows out"
    elif isinstance(value, (list, tuple, np.ndarray)):
        what = f"is a {type(value).__name__}, not a string: join its words as in training, such as ' '.join(words)"
    else:
        what = f"is a {type(value).__name__}, not a string: make it one as in training"
    raise DatasetError(f"{where}: the text in column {name!r} {what}")


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
        raise DatasetError(
            f"the {role}: expected rows with a length, by number (__len__ and __getitem__); got {type(data).__name__}: "
            "make it a list of dicts"
        )
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
