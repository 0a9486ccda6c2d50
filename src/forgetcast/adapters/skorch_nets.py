"""Classifiers trained by skorch as targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset

from forgetcast.adapters._library import library
from forgetcast.errors import DatasetError, ModelError
from forgetcast.target.data import Data
from forgetcast.target.seeding import fork_all_rngs, seeded
from forgetcast.target.target import Target

__all__ = ["from_skorch"]


def from_skorch(
    net: Any,
    X: Any,
    y: Any = None,
    *,
    heldout: Any = None,
    can_train: bool = True,
    name: str = "",
    batch_size: int = 256,
    info: Mapping[str, Any] | None = None,
) -> Target:
    """A fitted skorch classifier with its training data as a target.

    The module is used as the net uses it: outputs are probabilities under skorch's default criterion ``NLLLoss``,
    logits under ``CrossEntropyLoss``, and one logit under ``BCEWithLogitsLoss`` (``NeuralNetBinaryClassifier``).

    Args:
        net: a fitted ``NeuralNetClassifier`` or ``NeuralNetBinaryClassifier``; it stays as it is.
        X: what it was trained on: arrays or tensors (n, ...), a dict of them, or a dataset of (x, y). By default skorch
            holds a fifth of what ``fit`` gets back and trains without it; such a net wants the trained part, as
            in ``trained, held = net.get_split_datasets(X, y)`` and ``from_skorch(net, trained, heldout=held)``.
        y: its labels, integers (n,); None where ``X`` is a dataset.
        heldout: a pair (X, y), or a dataset, that it was not trained on.
        can_train: let the target be retrained by a clone of the net with all its settings; where the net held samples
            back, the clone is validated on ``heldout``, or not at all.
        name: of the target; default: the module's class.
        batch_size: samples per forward pass.
        info: descriptors kept with results, such as ``{"dataset": "digits"}``.

    Raises:
        NotApplicableError: skorch is not installed.
        ModelError: no such net, not fitted, or of another criterion.
        DatasetError: see ``Target``; samples that the net held back; labels that are not the class numbers 0 to C - 1.
    """
    classifiers = library("skorch.classifier", extra="skorch")
    if not isinstance(net, (classifiers.NeuralNetClassifier, classifiers.NeuralNetBinaryClassifier)):
        raise ModelError(f"expected a skorch classifier; got {type(net).__name__}")
    if not getattr(net, "initialized_", False):
        raise ModelError("the net is not fitted: call net.fit(X, y) first")
    model = _as_logits(net)
    splits = _splits(net)
    if splits and y is None and isinstance(X, Subset):
        _check_split(net, X)
    elif splits:
        raise DatasetError(
            f"the net held some of these samples back (train_split is a {type(net.train_split).__name__}) and was not "
            "trained on them: give those that it was trained on, trained, held = net.get_split_datasets(X, y) with the "
            "X and y of fit, as from_skorch(net, trained, heldout=held)"
        )
    data = _named_classes(net, _pair(X, y))
    held = _named_classes(net, heldout if not isinstance(heldout, tuple) else _pair(*heldout))
    target = Target(
        model,
        data,
        heldout=held,
        train=_Retrained(net, data, held, splits) if can_train else None,
        name=name or type(net.module_).__name__,
        batch_size=batch_size,
        info={"architecture": type(net.module_).__name__, **(info or {})},
    )
    classes = np.asarray(net.classes_)
    if classes.dtype.kind not in "iu" or not np.array_equal(classes, np.arange(len(classes))):
        raise DatasetError(f"expected classes 0 to C - 1, as skorch's criteria take them; got {classes[:5].tolist()}")
    return target


def _splits(net: Any) -> bool:
    """Whether the net holds some of the samples back that it is fitted to.

    A split that skorch makes of a dataset of its own (``predefined_split``) holds none back.
    """
    split = net.train_split
    predefined = isinstance(split, partial) and split.func.__module__.startswith("skorch.")
    return bool(split) and not predefined


def _check_split(net: Any, trained: Subset) -> None:
    """Refuse a part of a dataset that is not what the net's split of it leaves for training.

    Raises:
        DatasetError: the split is drawn anew each time, or gives other samples.
    """
    parts = []
    with fork_all_rngs():
        for seed in (0, 1):
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            try:
                part, _ = net.get_split_datasets(trained.dataset, getattr(trained.dataset, "y", None))
                parts.append(list(part.indices))
            except Exception:  # a dataset without labels, or a split of another kind: then they are as the caller says
                return
    if parts[0] != parts[1]:
        raise DatasetError(
            "the net's train_split draws other samples each time, so which it was trained on is not known: fit it with "
            "a split that has a random_state"
        )
    if parts[0] != list(trained.indices):
        raise DatasetError(
            f"expected the {len(parts[0])} samples that the net's train_split leaves for training; got "
            f"{len(trained.indices)} others: give the first of net.get_split_datasets(X, y)"
        )


@dataclass(frozen=True)
class _Numbered:
    """A dataset whose labels are floats, as a binary net's may be."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        x, y = self.dataset[index]
        return x, int(y) if float(y).is_integer() else y


def _named_classes(net: Any, data: Any) -> Any:
    """Data of a binary net with class numbers as labels."""
    binary = isinstance(net.criterion_, nn.BCEWithLogitsLoss)
    return _Numbered(data) if binary and isinstance(data, TorchDataset) else data


def _pair(X: Any, y: Any) -> Any:
    """A pair (inputs, class numbers), or the dataset itself."""
    return X if y is None else (X, y if isinstance(y, Tensor) and not y.is_floating_point() else _whole(y))


def _whole(y: Any) -> np.ndarray:
    """Labels of a binary net are often floats."""
    y = np.asarray(y)
    whole = y.dtype.kind == "f" and bool((y == np.round(y)).all())
    return y.astype(np.int64) if whole or y.dtype.kind == "b" else y


def _as_logits(net: Any) -> nn.Module:
    """The net's module, with logits as output.

    Raises:
        ModelError: a criterion whose outputs are of an unknown kind.
    """
    criterion = net.criterion_
    if isinstance(criterion, nn.CrossEntropyLoss):
        return net.module_
    if isinstance(criterion, nn.NLLLoss):
        return _Outputs(net.module_, "probabilities")
    if isinstance(criterion, nn.BCEWithLogitsLoss):
        return _Outputs(net.module_, "one logit")
    raise ModelError(
        f"expected the criterion NLLLoss, CrossEntropyLoss or BCEWithLogitsLoss; got {type(criterion).__name__}: wrap "
        "the module so that it returns logits, and use Target"
    )


class _Outputs(nn.Module):
    """A module whose outputs are not logits yet."""

    def __init__(self, module: nn.Module, kind: str) -> None:
        super().__init__()
        self.module = module
        self.kind = kind

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out = self.module(*args, **kwargs)
        out = out[0] if isinstance(out, tuple) else out
        if self.kind == "probabilities":
            return out.clamp(min=torch.finfo(out.dtype).tiny).log()
        return F.pad(out.reshape(-1, 1), (1, 0))


@dataclass(frozen=True)
class _Retrained:
    """Trains a clone of a net on some of its samples."""

    net: Any
    data: Any
    heldout: Any
    splits: bool

    def __call__(self, indices: np.ndarray, seed: int) -> nn.Module:
        from sklearn.base import clone

        fresh = clone(self.net)
        fresh.set_params(verbose=0)
        x, labels = self._as_fitted(Data(self.data), indices)
        if self.splits:
            fresh.set_params(train_split=self._validation())
        with fork_all_rngs(), seeded(seed):
            np.random.seed(seed % 2**32)
            fresh.fit(x, labels)
        return _as_logits(fresh)

    def _validation(self) -> Any:
        """The held-out data as the clone's validation data."""
        if self.heldout is None:
            return None
        data, skorch = Data(self.heldout), library("skorch.dataset", extra="skorch")
        there = skorch.Dataset(*self._as_fitted(data, range(len(data))))
        return library("skorch.helper", extra="skorch").predefined_split(there)

    def _as_fitted(self, data: Data, indices: Any) -> tuple[Any, np.ndarray]:
        """Some samples as the net takes them: arrays of the module's own type."""
        x, y = data.fetch(torch.as_tensor(indices))
        dtype = next(self.net.module_.parameters()).dtype
        labels = y.to(dtype) if isinstance(self.net.criterion_, nn.BCEWithLogitsLoss) else y
        return _numpy(x, dtype), labels.numpy()


def _numpy(x: Any, dtype: torch.dtype) -> Any:
    """Inputs as skorch takes them, floats in the module's own type."""
    if isinstance(x, dict):
        return {name: _numpy(part, dtype) for name, part in x.items()}
    if isinstance(x, tuple):
        return tuple(_numpy(part, dtype) for part in x)
    return (x.to(dtype) if x.is_floating_point() else x).numpy()
