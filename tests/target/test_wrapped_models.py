"""Wrapped models, and calls from anywhere: the forecast of the plain model, or one line; torch afterwards as before."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune, weight_norm
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.utils.data import Dataset

from forgetcast import Target, Trajectory, predict_difficulty
from forgetcast.corpus.measuring import measure
from forgetcast.errors import ModelError
from forgetcast.factors import FactorTable, factor_table
from forgetcast.report.movers import movers
from forgetcast.screening.costs import measure_costs

pytestmark = pytest.mark.slow

N, CLASSES = 40, 4
Y = torch.arange(N) % CLASSES
X = torch.randn(N, 8, generator=torch.Generator().manual_seed(0)) + Y[:, None] / 2
HELD = torch.randn(20, 8, generator=torch.Generator().manual_seed(1)) + Y[:20, None] / 2


class Net(nn.Module):
    """Three layers; ``run`` says how the middle one is called."""

    def __init__(self, run: Callable[..., Tensor] = lambda block, x: block(x)) -> None:
        super().__init__()
        self.first = nn.Linear(8, 12)
        self.block = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
        self.head = nn.Linear(12, CLASSES)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self.block, torch.relu(self.first(x))))


class Compiled(Net):
    """A forward that is compiled in its class."""

    forward = torch.compile(Net.forward, backend="eager")


@functools.lru_cache(maxsize=1)
def weights() -> dict[str, Tensor]:
    """Weights that know their samples."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X), Y).backward()
            optimizer.step()
    return net.state_dict()


def net(kind: Callable[..., Net] = Net, *arguments: Any) -> Net:
    model = kind(*arguments)
    model.load_state_dict(weights())
    return model.eval()


class Outer(nn.Module):
    """A wrapped part inside a module of the user's own."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        plain = net()
        self.first, self.block, self.head = plain.first, wrap(plain.block), plain.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(torch.relu(self.first(x))))


def used(model: nn.Module) -> nn.Module:
    model(X[:4])
    return model


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_forward(model: nn.Module) -> nn.Module:
    model.forward = compiled(model.forward)  # type: ignore[assignment, arg-type]
    return model


def inferring() -> nn.Module:
    with torch.inference_mode():
        return net()


def averaged() -> nn.Module:
    return AveragedModel(net()).eval()


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one, for DistributedDataParallel."""
    file: Path = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: compiled(net()),
    "compiled and used": lambda: used(compiled(net())),
    "compiled in place": lambda: used(compiled_in_place(net())),
    "compiled part": lambda: used(Outer(compiled)),
    "compiled class": lambda: used(net(Compiled)),
    "compiled forward": lambda: used(compiled_forward(net())),
    "data parallel": lambda: nn.DataParallel(net()),
    "data parallel part": lambda: Outer(nn.DataParallel),
    "distributed": lambda: DistributedDataParallel(net()),
    "distributed part": lambda: Outer(DistributedDataParallel),
    "distributed, compiled, distributed": lambda: DistributedDataParallel(compiled(DistributedDataParallel(net()))),
    "checkpointed": lambda: net(Net, lambda block, x: checkpoint(block, x, use_reentrant=False)),
    "checkpointed, reentrant": lambda: net(Net, lambda block, x: checkpoint(block, x, use_reentrant=True)),
    "checkpointed sequence": lambda: net(Net, lambda block, x: checkpoint_sequential(block, 2, x, use_reentrant=True)),
    "averaged": averaged,
    "traced by fx": lambda: torch.fx.symbolic_trace(net()),
    "made under inference mode": inferring,
}


def table(model: Any, **settings: Any) -> FactorTable:
    return factor_table(Target(model, (X, Y), heldout=(HELD, Y[:20]), **settings))


def outcomes(target: Target) -> pd.DataFrame:
    unlearners = ["gradient_ascent", "influence", "bad_teaching"]
    found, _ = measure(target, [0, 5], unlearners=unlearners, seeds=1, objectives=["erase"], progress=False)
    return found.select_dtypes("number")


ROWS = 12
"""Two samples under two unlearners, and four times under a third."""


@functools.lru_cache(maxsize=1)
def plain() -> tuple[FactorTable, pd.DataFrame]:
    """What the plain model gives."""
    return table(net()), outcomes(Target(net(), (X, Y), heldout=(HELD, Y[:20])))


def same(one: FactorTable, other: FactorTable) -> None:
    assert one.not_applicable == other.not_applicable
    pd.testing.assert_frame_equal(one.values, other.values, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_model_is_what_is_inside(name: str) -> None:
    """The same weights by name, factors, outcomes and costs; the user's model answers as before, wrapper and all."""
    model = WRAPPED[name]()
    with torch.no_grad():
        before = model(X)
    target = Target(model, (X, Y), heldout=(HELD, Y[:20]))
    if name != "averaged":
        assert set(target.params) == set(weights())
    factors, labels = plain()
    same(table(model), factors)
    pd.testing.assert_frame_equal(outcomes(target), labels, rtol=1e-4, atol=1e-5)
    assert len(measure_costs(target, ["gradient_ascent"], 0).unlearners) == 1
    with torch.no_grad():
        assert torch.equal(model(X), before)


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, DistributedDataParallel])
def test_checkpoints_saved_through_a_wrapper_fit(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Their names carry the wrapper's; TracIn is that of the plain names."""
    states = [{key: value * share for key, value in weights().items()} for share in (0.5, 1.0)]
    model = wrap(net())
    named = [dict(zip(model.state_dict(), state.values(), strict=True)) for state in states]
    assert set(named[0]) != set(states[0])
    through, straight = (
        table(made, trajectory=Trajectory.from_checkpoints(points))
        for made, points in ((model, named), (net(), states))
    )
    same(through, straight)


def script(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, X)


def exported(model: nn.Module) -> nn.Module:
    return torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("how", "named"), [(script, "TorchScript"), (exported, "torch.export")])
def test_what_has_no_layers_left_is_refused_with_the_way_out(how: Callable[[nn.Module], nn.Module], named: str) -> None:
    """At any depth."""
    for model in (how(net()), nn.Sequential(nn.Identity(), how(net()))):
        with pytest.raises(ModelError, match=rf"{named}.*hand over the eager module") as caught:
            Target(model, (X, Y))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_forward_that_runs_another_modules_weights_is_refused(frozen: bool) -> None:
    """A closure over the original: its copy would unlearn weights that nobody runs."""
    model = net()
    if frozen:
        model.requires_grad_(False)
    original = model.forward
    model.forward = lambda x: original(x)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="still runs the weights of the original"):
        Target(model, (X, Y))


def parametrized(how: str) -> nn.Module:
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight_norm(model.block[0]) if how == "weight norm" else prune.l1_unstructured(model.block[0], "weight", 0.3)
    model.train()(X).sum().backward()
    return model.eval()


@pytest.mark.parametrize("how", ["weight norm", "pruned", "last activation"])
def test_tensors_with_a_history_do_not_keep_a_model_from_being_copied(how: str) -> None:
    """Left behind by a forward pass; logits are the model's, and unlearning and timing copy it again."""
    if how == "last activation":
        model = net()
        model.last = {"of": [model(X)]}
    else:
        model = parametrized(how)
    target = Target(model, (X, Y), heldout=(HELD, Y[:20]))
    assert torch.allclose(target.logits(), model(X), atol=1e-6)
    assert len(outcomes(target)) == ROWS
    assert len(measure_costs(target, ["bad_teaching"], 0).unlearners) == 1


class Listed(Dataset[Any]):
    """The training data item by item."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], int(Y[index])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


CALLED_UNDER: dict[str, Callable[[], Any]] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "half": lambda: default_dtype(torch.float16),
    "default device": lambda: default_device("meta"),
    "device": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "cuDNN as it comes": lambda: torch.backends.cudnn.flags(deterministic=False, allow_tf32=True),
}


def settings() -> tuple[Any, ...]:
    """Whatever of torch is common to a process or thread and touched."""
    flags = torch.backends.cudnn
    return (
        *(torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()),
        *(torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.get_num_threads()),
        *(flags.enabled, flags.deterministic, flags.allow_tf32, torch.backends.mha.get_fastpath_enabled()),
        *(torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist()),
        *(torch.utils.checkpoint.CheckpointFunction, torch.utils.checkpoint._checkpoint_without_reentrant_generator),
        torch.overrides._get_current_function_mode_stack(),
    )


@pytest.mark.parametrize("name", CALLED_UNDER)
def test_a_forecast_hangs_on_no_setting_of_the_caller(name: str) -> None:
    """The very same factors, forecast, movers and outcomes, and the settings are still the caller's."""
    model = net()
    forecast = predict_difficulty(model, (X, Y), heldout=(HELD, Y[:20])).table
    moved = movers(Target(model, (X, Y)), 0)
    with CALLED_UNDER[name]():
        before = settings()
        target = Target(model, (X, Y), heldout=(HELD, Y[:20]))
        assert torch.equal(target.logits(), model(X))
        found = predict_difficulty(model, Listed(), heldout=(HELD, Y[:20]))
        labels, others = outcomes(target), movers(target, 0)
        measure_costs(target, ["gradient_ascent"], 0)
        assert settings() == before
    pd.testing.assert_frame_equal(found.table, forecast)
    pd.testing.assert_frame_equal(labels, plain()[1])
    pd.testing.assert_frame_equal(others, moved)


class Made(Net):
    """A model that makes a tensor of the default type as it runs."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.full((8,), 1.003))


def test_a_model_runs_under_the_defaults_it_was_handed_over_in() -> None:
    """What it makes has the caller's type, also in training, while forgetcast's own numbers do not."""

    def train(indices: np.ndarray, seed: int) -> nn.Module:
        assert torch.get_default_dtype() == torch.bfloat16
        return model

    model = net(Made)
    usual = model(X)
    with default_dtype(torch.bfloat16):
        target = Target(model, (X, Y), heldout=(HELD, Y[:20]), train=train)
        own = model(X)
        assert not torch.allclose(own, usual, atol=1e-3)
        assert torch.equal(target.logits(), own)
    for logits in (target.logits(), target.logits(module=target.train(range(N), 0))):
        assert torch.equal(logits, own)
    assert factor_table(target).not_applicable == plain()[0].not_applicable


def test_autocast_is_part_of_the_model() -> None:
    """Logits are those under autocast, gradients too, and the arithmetic on them stays exact."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        target = Target(net(), (X, Y), heldout=(HELD, Y[:20]))
        with torch.no_grad():
            own = net()(X)
        assert own.dtype == torch.bfloat16
        found = factor_table(target)
    assert torch.equal(target.logits(), own.float())
    assert found.not_applicable == plain()[0].not_applicable
    assert np.allclose(found.values["gradient_norm"], plain()[0].values["gradient_norm"], rtol=0.2, atol=0.02)
    assert len(outcomes(target)) == ROWS


def test_torch_is_as_before_after_an_error() -> None:
    """A model that fails in the middle of a forecast."""

    def fail(block: nn.Module, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise ValueError("no more than four")
        return block(x)

    model = net(Net, fail)
    with ExitStack() as stack:
        for name in ("bfloat16", "device", "inference mode"):
            stack.enter_context(CALLED_UNDER[name]())
        before = settings()
        with pytest.raises(ModelError, match="no more than four"):
            predict_difficulty(model, (X, Y))
        assert settings() == before


def test_training_with_checkpoints_goes_on_as_usual_beside_a_forecast() -> None:
    """Only forgetcast's own calls run checkpointed blocks once; a train callable's recompute them."""
    calls = []

    def run(block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(lambda x: calls.append(1) or block(x), x, use_reentrant=False)

    def train(indices: np.ndarray, seed: int) -> nn.Module:
        calls.clear()
        net(Net, run)(X).sum().backward()
        assert len(calls) == 2
        return net()

    target = Target(net(Net, run), (X, Y), train=train)
    target.train(range(N), 0)
    calls.clear()
    copy.deepcopy(net(Net, run))(X).sum().backward()
    assert len(calls) == 2
