"""The model that is measured is the model that is run: the same types in, the same logits out, or a refusal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from forgetcast import Target
from forgetcast.corpus.measuring import measure
from forgetcast.errors import DatasetError, InputError, ModelError
from forgetcast.factors import factor_table
from forgetcast.registry import load_unlearners, unlearner
from forgetcast.target.inputs import Inputs, map_leaves
from forgetcast.unlearn.base import Samples
from forgetcast.unlearn.engine import run_unlearner
from forgetcast.unlearn.trace import trace

pytestmark = pytest.mark.slow

N, CLASSES = 40, 4
Y = torch.arange(N) % CLASSES


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Noise whose mean tells the class, float32, shape (40, *shape)."""
    x = torch.randn(N, *shape, generator=torch.Generator().manual_seed(seed))
    return x + Y.reshape(-1, *[1] * len(shape)) / 2


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """A model with fixed random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make().eval()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, CLASSES))


class Steps(nn.Module):
    """An MLP with a step before it, a function of the module and its inputs."""

    def __init__(self, step: Callable[..., Tensor], of: Callable[[], nn.Module] = mlp) -> None:
        super().__init__()
        self.net, self.step = of(), step
        self.register_buffer("mean", torch.full((6,), 1000.0))

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        return self.net(self.step(self, *inputs, **named)).float()


class Behind(Steps):
    """Float32 normalisation in front of weights of another type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(lambda m, x: (x - m.mean).to(m.net[0].weight.dtype))
        self.net.to(dtype)


class Words(nn.Module):
    """Token numbers and a mask of real numbers, by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        assert ids.dtype == torch.int64
        return self.head(torch.einsum("btd,bt->bd", self.words(ids), mask))


class Complex(nn.Module):
    """Complex weights in front of a real layer."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Linear(6, 6).to(torch.complex64)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.turn(x).abs())


class Image(nn.Module):
    """Bytes that the model itself scales to [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8
        return self.body(x / 255)


IDS = torch.randint(0, 9, (N, 5), generator=torch.Generator().manual_seed(1))
PIXELS = torch.randint(0, 256, (N, 3, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
bf16, f16, f32, f64 = torch.bfloat16, torch.float16, torch.float32, torch.float64

TAKEN: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "float32": (mlp, drawn(6)),
    "float64": (lambda: mlp().double(), drawn(6).double()),
    "bfloat16": (lambda: mlp().bfloat16(), drawn(6).bfloat16()),
    "half": (lambda: mlp().half(), drawn(6).half()),
    "bfloat16 behind float32": (lambda: Behind(bf16), drawn(6) + 1000),
    "half behind float32": (lambda: Behind(f16), drawn(6) + 1000),
    "float64 through float32 buffers": (lambda: Behind(bf16), drawn(6).double() + 1000),
    "float64 behind float32": (lambda: Behind(f64), drawn(6) + 1000),
    "casts float64 itself": (lambda: Steps(lambda m, x: (x - 1e9).float()), drawn(6).double() + 1e9),
    "casts float64 up from nothing": (lambda: Steps(lambda m, x: x.double().sub(1).float()), drawn(6).half()),
    "truth values": (lambda: Steps(lambda m, x: x.float()), drawn(6) > 0),
    "int32": (lambda: Steps(lambda m, x: x.float() / 3), (drawn(6) * 9).int()),
    "bytes": (Image, PIXELS),
    "token numbers and a mask": (Words, {"ids": IDS, "mask": (IDS > 2).float()}),
    "two inputs": (lambda: Steps(lambda m, x, shift: x + shift.float()), (drawn(6), drawn(6, seed=2).double())),
    "complex": (Complex, torch.complex(drawn(6), drawn(6, seed=2))),
    "half image in float32 model": (lambda: Steps(lambda m, x: x.float()), drawn(6).half()),
}
"""Model and inputs that it takes as they are."""

REFUSED: dict[str, tuple[Callable[[], nn.Module], Inputs, Any]] = {
    "float64 to float32": (mlp, drawn(6).double(), f32),
    "half to float32": (mlp, drawn(6).half(), f32),
    "float32 to float64": (lambda: mlp().double(), drawn(6), f64),
    "float32 to bfloat16": (lambda: mlp().bfloat16(), drawn(6), bf16),
    "float32 first, then bfloat16": (
        lambda: nn.Sequential(nn.Linear(6, 6), Steps(lambda m, x: x.bfloat16(), lambda: mlp().bfloat16())),
        drawn(6).double(),
        f32,
    ),
    "bfloat16 first, then float32": (
        lambda: nn.Sequential(nn.Linear(6, 6).bfloat16(), Steps(lambda m, x: x.float())),
        drawn(6),
        bf16,
    ),
    "complex128 to complex64": (
        Complex,
        torch.complex(drawn(6), drawn(6, seed=2)).to(torch.complex128),
        torch.complex64,
    ),
    "a mask in float64": (Words, {"ids": IDS, "mask": (IDS > 2).double()}, {"ids": torch.int64, "mask": f32}),
    "one of two inputs": (
        lambda: Steps(lambda m, x, shift: x + (shift - 1e9).float()),
        (drawn(6).double(), drawn(6, seed=2).double() + 1e9),
        (f32, f64),
    ),
}
"""Model, inputs whose type it refuses, and the type (of each) that it takes."""


def call(model: nn.Module, x: Inputs) -> Tensor:
    """As a user calls a model."""
    with torch.no_grad():
        return model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)


def cast(x: Inputs, types: Any) -> Inputs:
    if isinstance(x, dict):
        return {name: part.to(types[name]) for name, part in x.items()}
    return tuple(part.to(t) for part, t in zip(x, types, strict=True)) if isinstance(x, tuple) else x.to(types)


@pytest.mark.parametrize("name", TAKEN)
def test_logits_are_those_of_the_model_on_its_own_inputs(name: str) -> None:
    """No cast where the model takes the type, so nothing is rounded behind anyone's back."""
    make, x = TAKEN[name]
    model = made(make)
    own = call(model, x)
    got = Target(model, (x, Y)).logits()
    assert got.dtype == torch.promote_types(own.dtype, f32)
    assert torch.allclose(got, own.to(got.dtype), rtol=4 * torch.finfo(own.dtype).eps, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_a_type_that_the_model_refuses_is_cast_to_the_one_it_takes(name: str) -> None:
    """And only that input; held-out data of another type than the training data likewise."""
    make, x, types = REFUSED[name]
    model = made(make)
    with pytest.raises(RuntimeError):
        call(model, x)
    taken = cast(x, types)
    half = N // 2
    seen, held = (map_leaves(itemgetter(part), value) for part, value in ((slice(half), x), (slice(half, None), taken)))
    target = Target(model, (seen, Y[:half]), heldout=(held, Y[half:]))
    tolerance = 4 * torch.finfo(call(model, taken).dtype).eps
    own = call(model, taken).to(target.logits().dtype)
    assert torch.allclose(target.logits(), own[:half], rtol=tolerance, atol=1e-6)
    assert torch.allclose(target.logits(target.heldout), own[half:], rtol=tolerance, atol=1e-6)


def test_whole_numbers_are_never_made_real() -> None:
    """Bytes to a model that takes real numbers: the user's own call fails, and so does the target, in one line."""
    with pytest.raises(DatasetError, match=r"inputs: a batch of shape \(4, 6\) of torch.uint8 raised") as caught:
        Target(mlp(), (PIXELS[:, 0, 0], Y))
    assert "\n" not in str(caught.value)


def test_another_shape_is_told_by_its_shape() -> None:
    """Also where the type would have to be cast first."""
    with pytest.raises(DatasetError, match="shapes cannot be multiplied"):
        Target(mlp(), (drawn(5).double(), Y))


@pytest.mark.parametrize(
    "step", [lambda m, x: x.sub_(0.5), lambda m, x: x.clamp_(0), lambda m, x: x.resize_(4, 6).add_(1)]
)
def test_a_model_that_changes_its_input_in_place_is_refused(step: Callable[..., Tensor]) -> None:
    """The message says so, and the data stays."""
    x = drawn(6)
    before = x.clone()
    with pytest.raises(ModelError, match="changes its input in place") as caught:
        Target(Steps(step), (x, Y))
    assert "\n" not in str(caught.value)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [bf16, f16])
def test_half_precision_models_are_not_taken_for_restless(dtype: torch.dtype) -> None:
    """Another batch size rounds half precision otherwise; no factor is lost by it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [layer for _ in range(12) for layer in (nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU())]
        model = nn.Sequential(*layers, nn.Linear(64, CLASSES)).eval()
    x = drawn(64)
    held = drawn(64, seed=5), Y
    plain = factor_table(Target(model, (x, Y), heldout=held, batch_size=7))
    half = factor_table(Target(copy.deepcopy(model).to(dtype), (x, Y), heldout=held, batch_size=7))
    assert half.not_applicable == plain.not_applicable


@pytest.fixture(scope="module")
def fitted() -> nn.Module:
    """A perceptron that knows its samples well enough to forget them."""
    model = made(mlp)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(drawn(6)), Y).backward()
        optimizer.step()
    return model


def outcomes(model: nn.Module, name: str, *types: torch.dtype) -> pd.DataFrame:
    """What an unlearner does to a model whose weights are cast to these types, one after the other."""

    def rounded(module: nn.Module) -> nn.Module:
        for dtype in types:
            module.to(dtype)
        return module

    target = Target(
        rounded(copy.deepcopy(model)),
        (drawn(6), Y),
        heldout=(drawn(6, seed=5), Y),
        train=lambda indices, seed: rounded(made(mlp)),
    )
    return run_unlearner(target, unlearner(name), [0, 3, 9], np.full(3, 0.3))


NUMBERS = ["forgetting", "steps", "shift", "tv_retain", "tv_test", "tv_neighbours", "p_after", "margin_after"]


@pytest.mark.parametrize("name", sorted(load_unlearners()))
def test_every_unlearner_works_in_double_precision(name: str, fitted: nn.Module) -> None:
    """And measures what single precision measures."""
    single, double = (outcomes(fitted, name, dtype)[NUMBERS].to_numpy() for dtype in (f32, f64))
    if name == "bad_teaching":  # its teacher is drawn, and torch draws other weights in another type
        assert np.isfinite(double).all()
    else:
        assert np.allclose(single, double, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("dtype", [bf16, f16])
def test_half_precision_is_unlearned_from_as_single_precision(dtype: torch.dtype, fitted: nn.Module) -> None:
    """The same numbers as for the rounded weights held as float32: in half precision its steps would move nothing."""
    for name in ("gradient_ascent", "ssd", "influence", "retraining"):
        half, single = outcomes(fitted, name, dtype), outcomes(fitted, name, dtype, f32)
        pd.testing.assert_frame_equal(half, single)


@pytest.mark.parametrize("dtype", [f64, bf16, f16])
def test_measuring_and_tracing_take_every_precision(dtype: torch.dtype, fitted: nn.Module) -> None:
    """The crossings of single precision, to the rounding of the weights."""
    found = []
    for kind in (f32, dtype):
        target = Target(copy.deepcopy(fitted).to(kind), (drawn(6), Y), heldout=(drawn(6, seed=5), Y))
        table, _ = measure(target, [0, 3], unlearners=["gradient_ascent"], objectives=["erase"], progress=False)
        path = trace(target, 0, [unlearner("gradient_ascent")], most_steps=5)
        found.append((table["steps"].to_numpy(float), path["shift"].to_numpy(float)))
    for single, other, rounding in zip(*found, (0.2, 0.05), strict=True):
        assert np.allclose(single, other, rtol=rounding)


def test_a_model_that_is_another_one_in_single_precision_is_not_unlearned_from() -> None:
    """It is forecast as it is run, and measuring says what to do."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp().half()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.half())

    target = Target(made(Fixed), (drawn(6), Y), heldout=(drawn(6, seed=5), Y))
    assert target.logits().shape == (N, CLASSES)
    with pytest.raises(ModelError, match=r"float32.*hand over model\.float") as caught:
        measure(target, [0], unlearners=["gradient_ascent"], objectives=["erase"], progress=False)
    assert "\n" not in str(caught.value)


def test_the_forecast_hangs_on_no_storage_type() -> None:
    """Inputs in double precision to a model that takes single: the factors of the same numbers in single precision."""
    model, x = made(mlp), drawn(6)
    one, other = (factor_table(Target(model, (part, Y))) for part in (x, x.double()))
    assert one.not_applicable == other.not_applicable
    assert np.array_equal(one.values, other.values, equal_nan=True)


def test_a_path_takes_one_sample() -> None:
    """Several are refused by every unlearner, in one line, rather than only the first forgotten."""
    target = Target(made(mlp), (drawn(6), Y), heldout=(drawn(6, seed=5), Y), train=lambda indices, seed: made(mlp))
    for name in load_unlearners():
        for index in ([], [3, 5]):
            samples = Samples.of(target, torch.tensor([3, 5])).take(torch.arange(len(index)))
            with pytest.raises(InputError, match="path: expected exactly one sample to forget; got") as caught:
                unlearner(name).path(target, None, samples, 0)
            assert "\n" not in str(caught.value)


def test_a_forecast_in_double_precision_is_that_in_single(fitted: nn.Module) -> None:
    """Weights and inputs in float64: the same factors but for rounding, and none is lost."""
    one, other = (
        factor_table(
            Target(copy.deepcopy(fitted).to(kind), (drawn(6).to(kind), Y), heldout=(drawn(6, seed=5).to(kind), Y))
        )
        for kind in (f32, f64)
    )
    assert one.not_applicable == other.not_applicable
    same = [name for name in one.values if np.allclose(one.values[name], other.values[name], rtol=1e-2, equal_nan=True)]
    assert len(same) > 0.7 * len(one.values.columns)  # folds hang on stored bytes
