"""Weights: named tensors from a file, and whether they fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from forgetcast.errors import FileFormatError, ModelError, first_line, shortened

__all__ = ["fit_weights", "read_weights"]


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The named tensors of a weights file, on the CPU.

    Args:
        path: a ``.safetensors`` file, or a state dict saved by ``torch.save`` (any other suffix; read with
            ``weights_only=True``, so it can run no code).

    Raises:
        FileFormatError: corrupt, truncated, or something else than named tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # a damaged file can raise nearly anything
            raise FileFormatError(f"{path} is not a readable safetensors file: {first_line(error)}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise FileFormatError(
            f"{path} is not a readable state dict: it is damaged, or holds more than weights (reading the "
            "rest could run code). Save model.state_dict() alone, or use safetensors"
        ) from error
    if isinstance(state, Mapping):
        for key in ("state_dict", "model_state_dict"):
            if isinstance(state.get(key), Mapping):
                state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise FileFormatError(
            f"{path}: expected a state dict, as torch.save(model.state_dict(), path) writes it; "
            f"got {type(state).__name__}"
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
    model.load_state_dict(state)
