"""Weights: named tensors from a file, and whether they fit a model."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from forgetcast.errors import FileFormatError, ModelError, first_line, shortened
from forgetcast.files.foreign import check_archive, regular_file

__all__ = ["fit_weights", "read_weights"]


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The named tensors of a weights file, on the CPU.

    Args:
        path: a ``.safetensors`` file, or a state dict saved by ``torch.save`` (any other suffix; read with
            ``weights_only=True``, so it can run no code).

    Raises:
        FileFormatError: corrupt, truncated, or something else than named tensors.
    """
    regular_file(path, "weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # a damaged file can raise nearly anything
            raise FileFormatError(f"{path} is not a readable safetensors file: {first_line(error)}") from error
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_archive(archive, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages of another version of torch
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise FileFormatError(
            f"{path} is not a readable state dict: it is damaged, or holds more than weights (reading the "
            "rest could run code). Save model.state_dict() alone, or use safetensors"
        ) from error
    if isinstance(state, Mapping):
        for key in ("state_dict", "model_state_dict"):
            if isinstance(state.get(key), Mapping):
                state = state[key]
    tensors = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not tensors or not state:
        raise FileFormatError(
            f"{path}: expected a state dict, as torch.save(model.state_dict(), path) writes it; "
            f"got {type(state).__name__}"
        )
    if strange := [name for name, value in state.items() if value.layout != torch.strided or value.is_quantized]:
        raise FileFormatError(
            f"{path}: expected plain tensors, whose sizes are checked as they are read; got sparse or quantized ones "
            f"({shortened(strange)}): save them dense"
        )
    return state


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load ``state`` into ``model``; messages call it ``what``.

    Raises:
        ModelError: names or shapes differ.
    """
    own = model.state_dict()
    wrong = []
    if missing := [name for name in own if name not in state]:
        wrong.append(f"missing: {shortened(missing)}")
    if unexpected := [name for name in state if name not in own]:
        wrong.append(f"unexpected: {shortened(unexpected)}")
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if shapes:
        wrong.append(f"of another shape: {shortened(shapes)}")
    if wrong:
        raise ModelError(f"{what} does not fit the model; {'; '.join(wrong)}")
    try:
        model.load_state_dict(state)
    except Exception as error:  # tensors without values, or of a kind that cannot be copied
        raise ModelError(f"{what} cannot be loaded into the model: {first_line(error)}") from error
