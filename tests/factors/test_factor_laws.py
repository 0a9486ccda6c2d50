"""Every registered factor keeps the laws of a factor, and a factor that breaks one is caught."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from forgetcast.errors import ModelError, NotApplicableError
from forgetcast.factors import Factor, factor
from forgetcast.registry import load_factors
from forgetcast.target.target import Target
from forgetcast.testing import check_factor

pytestmark = pytest.mark.slow

FACTORS = load_factors()


@lru_cache(maxsize=1)
def small_cnn() -> Target:
    """A convolutional network with batch norm on 40 noise images, no held-out data."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(40) % 4
    x = torch.randn(40, 2, 8, 8, generator=generator)
    x[torch.arange(40), 0, y, y] += 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4),
        )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return Target(model, (x, y))


def broken(function: Callable[..., object]) -> Factor:
    """A factor around ``function``."""
    function.__doc__ = "A factor that breaks a law."
    return factor(family="broken", source="a test", high="{value}", low="{value}")(function)


@pytest.mark.parametrize("name", FACTORS)
def test_every_factor_keeps_the_laws_on_a_perceptron(name: str) -> None:
    """One finite value per sample, nothing changed, and neither seed, batch size nor order matter."""
    check_factor(FACTORS[name])


@pytest.mark.parametrize("name", FACTORS)
def test_every_factor_keeps_the_laws_on_a_convolutional_network(name: str) -> None:
    """The same on images, with batch normalisation and without held-out data."""
    check_factor(FACTORS[name], small_cnn())


def test_a_value_that_is_not_finite_is_caught() -> None:
    """NaN for one sample breaks the first law."""

    def lost(margin: Tensor) -> Tensor:
        return torch.where(torch.arange(len(margin)) == 3, torch.nan, margin)

    with pytest.raises(AssertionError, match="one finite value per sample: sample 3"):
        check_factor(broken(lost))


def test_a_wrong_number_of_values_is_caught() -> None:
    """One value too few breaks the first law."""

    def short(margin: Tensor) -> Tensor:
        return margin[1:]

    with pytest.raises(AssertionError, match=r"one value per sample: .*expected shape \(60,\).*got shape \(59,\)"):
        check_factor(broken(short))


def test_not_applying_without_a_reason_is_caught() -> None:
    """An empty NotApplicableError says nothing to a reader."""

    def silent(margin: Tensor) -> Tensor:
        raise NotApplicableError("")

    with pytest.raises(AssertionError, match="but not why"):
        check_factor(broken(silent))


def test_a_changed_probe_is_caught() -> None:
    """Writing into a probe would change it for all factors that come later."""

    def greedy(margin: Tensor) -> Tensor:
        return margin.clamp_(max=0.0).clone()

    with pytest.raises(AssertionError, match=r"altered the probe 'margin' in place"):
        check_factor(broken(greedy))


def test_a_changed_model_is_caught() -> None:
    """A factor that trains the model, even a little, is refused."""
    target = small_cnn()
    weight = target.module[0].weight

    def trainer(margin: Tensor) -> Tensor:
        weight.data.add_(1e-7)
        return margin

    kept = weight.data.clone()
    with pytest.raises(AssertionError, match="the state of the model differs afterwards"):
        check_factor(broken(trainer), target)
    weight.data.copy_(kept)


def test_a_changed_mode_is_caught() -> None:
    """A factor that leaves the model in training mode is refused."""
    target = small_cnn()

    def waker(margin: Tensor) -> Tensor:
        target.module.train()
        return margin

    with pytest.raises(AssertionError, match="the training mode of the model differs"):
        check_factor(broken(waker), target)
    target.module.eval()


def test_a_hook_left_behind_is_caught() -> None:
    """A factor that leaves a hook on the model is refused."""
    target = small_cnn()
    handles = []

    def listener(margin: Tensor) -> Tensor:
        handles.append(target.module.register_forward_hook(lambda *_: None))
        return margin

    with pytest.raises(AssertionError, match="a hook of the model differs"):
        check_factor(broken(listener), target)
    for handle in handles:
        handle.remove()


def test_global_random_numbers_are_caught() -> None:
    """Drawing from torch's global generator changes the caller's random numbers."""

    def noisy(margin: Tensor) -> Tensor:
        return margin + 0 * torch.rand(1)

    with pytest.raises(AssertionError, match="global random numbers"):
        check_factor(broken(noisy))


def test_values_that_depend_on_chance_are_caught() -> None:
    """A generator without a seed gives other values each time."""
    generator = torch.Generator().manual_seed(0)

    def chancy(margin: Tensor) -> Tensor:
        return margin + torch.randn(len(margin), generator=generator)

    with pytest.raises(AssertionError, match="breaks the law: computing it twice"):
        check_factor(broken(chancy))


def test_values_that_depend_on_the_run_are_caught() -> None:
    """The same seed must give the same values for probes computed anew."""
    seen: list[int] = []

    def counting(margin: Tensor) -> Tensor:
        if id(margin) not in seen:
            seen.append(id(margin))
            kept.append(margin)
        return margin + len(seen)

    kept: list[Tensor] = []
    with pytest.raises(AssertionError, match="the same seed, the same values"):
        check_factor(broken(counting))


def test_a_model_that_mixes_the_samples_of_a_batch_is_refused() -> None:
    """Its values would hang on the batch size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 2))
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="logits of a sample depend on the other samples of its batch"):
        Target(model, (x, torch.arange(30) % 2))


def test_values_that_depend_on_the_order_are_caught() -> None:
    """A running sum depends on who came before."""

    def running(margin: Tensor) -> Tensor:
        return margin.cumsum(0)

    with pytest.raises(AssertionError, match="permuting the samples permutes the values"):
        check_factor(broken(running))
