"""Many models on the same inputs, the control between two steps, gradients of stacks: fast ways against plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from forgetcast.corpus.zoo.architectures import build
from forgetcast.registry import unlearner as registered
from forgetcast.target.target import Target
from forgetcast.unlearn import Protocol
from forgetcast.unlearn.algorithms.divergence import divergence
from forgetcast.unlearn.base import Samples
from forgetcast.unlearn.control import ControlPath
from forgetcast.unlearn.inference import Inference, own_logits
from forgetcast.unlearn.stack import Params, gradients, repeat
from forgetcast.unlearn.workbench import Workbench
from small_targets import shared_cnn, shared_mlp

PROTOCOL = Protocol(utility_samples=40, neighbours=5)


def images(architecture: str, n: int = 90) -> Target:
    """An untrained network on random images."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 1, 12, 12, generator=generator), torch.arange(n) % 4
    return Target(build(architecture, (1, 12, 12), 4, seed=1), (x, y), heldout=(x[:30] + 1, y[:30]))


def shaken(params: Params, seed: int, scale: float = 0.05) -> Params:
    """Other parameters of the same shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: value + scale * torch.randn(value.shape, generator=generator) for name, value in params.items()}


@pytest.mark.parametrize(
    ("architecture", "blocked"),
    [("cnn", True), ("resnet", False), ("attention", False), ("mlp", False), ("logistic", False)],
)
def test_inference_equals_a_plain_forward_pass(architecture: str, blocked: bool) -> None:
    """In pieces, and in oneDNN's layout where every layer takes it; for any parameters."""
    target = images(architecture)
    x, _ = target.data.fetch(torch.arange(90))
    inference = Inference(target, x)
    assert inference.blocked == blocked
    for seed in range(3):
        params = shaken(target.params, seed)
        with torch.no_grad():
            plain = functional_call(target.module, {**target.buffers, **params}, (x,))
        torch.testing.assert_close(inference(params), plain, rtol=1e-4, atol=1e-5)


def test_pieces_join_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small cache makes many pieces; the rows come back as they were."""
    target = images("cnn")
    x, _ = target.data.fetch(torch.arange(90))
    whole = Inference(target, x)(target.params)
    monkeypatch.setattr("forgetcast.unlearn.inference.CACHED", 1)
    pieces = Inference(target, x)
    assert [len(piece) for piece in pieces.pieces] == [16] * 5 + [10]
    torch.testing.assert_close(pieces(target.params), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [shared_mlp, shared_cnn])
def test_every_model_answers_its_own_sample(make: Any) -> None:
    """A stack of models on as many samples, one each."""
    target = make()
    samples = Samples.of(target, torch.tensor([4, 2, 9]))
    models = [shaken(target.params, seed) for seed in range(3)]
    stack = {name: torch.stack([model[name] for model in models]) for name in target.params}
    found = own_logits(target, stack, samples.x)
    for k, model in enumerate(models):
        with torch.no_grad():
            plain = target.call(model, samples.take(torch.tensor([k])).x)[0]
        torch.testing.assert_close(found[k], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["neggrad_plus", "scrub", "finetuning"])
def test_the_controls_logits_between_two_steps_are_those_of_the_model_between_them(name: str) -> None:
    """Interpolated logits against a control that is really forwarded: what damage is counted against."""
    target = shared_mlp()
    bench = Workbench(target, PROTOCOL)
    method = registered(name)
    walk = method.walk(target, method.prepare(target), Samples.of(target, torch.tensor([3])), 0)
    control = ControlPath(target, bench)
    points = [target.params]
    for step in range(1, 13):
        point = walk.step()
        assert point is not None
        control.add(step, point[1])
        points.append(point[1])
    later, fraction = torch.tensor([12, 1, 5, 12, 0]), torch.tensor([0.4, 0.5, 1.0, 0.9, 1.0])
    near = bench.neighbours(torch.tensor([3, 4, 5, 6, 7]))
    utility, neighbours = control.utility(later, fraction), control.neighbours(later, fraction, near)
    params = control.params(later, fraction)
    for row, (end, share) in enumerate(zip(later.tolist(), fraction.tolist(), strict=True)):
        first = points[max(0, end - 1)]
        between = {n: v if end == 0 else first[n] + share * (v - first[n]) for n, v in points[end].items()}
        for n, value in between.items():
            torch.testing.assert_close(params[n][row], value)
        moved = (bench.utility(between).softmax(1) - bench.base.softmax(1)).abs().max()
        wrong = (utility[row].softmax(1) - bench.utility(between).softmax(1)).abs().max()
        assert wrong <= 3e-3 * moved + 1e-6
        exact = bench.neighbour_logits_of_one(between, near[row])
        torch.testing.assert_close(neighbours[row], exact, rtol=1e-3, atol=1e-3)


def test_a_control_that_stands_still_is_the_target() -> None:
    """Methods without retain steps are compared with the target itself, and points nobody needs are dropped."""
    target = shared_mlp()
    bench = Workbench(target, PROTOCOL)
    control = ControlPath(target, bench)
    for step in range(1, 5):
        control.add(step, target.params)
    control.keep({3, 4})
    assert sorted(control.points) == [0, 3, 4]
    assert torch.equal(control.utility(torch.tensor([2, 4]), torch.tensor([0.5, 1.0]))[0], bench.base)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("make", [shared_mlp, shared_cnn])
def test_gradients_of_a_stack_are_those_of_every_model(make: Any, stacked: bool) -> None:
    """Summed and differentiated at once, or one after the other: plain differentiation of every model alone."""
    target = make()
    models = [shaken(target.params, seed) for seed in range(3)]
    stack = {name: torch.stack([model[name] for model in models]) for name in target.params}
    x, y = target.data.fetch(torch.tensor([0, 1, 2]))

    def loss(params: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = target.call(params, x[None])
        return F.cross_entropy(logits, y[None]), logits[0]

    found, logits = gradients(loss, stack, x, y, stacked=stacked)
    for k, model in enumerate(models):
        leaves = {name: value.clone().requires_grad_() for name, value in model.items()}
        value, own = loss(leaves, x[k], y[k])
        for name, plain in zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True):
            torch.testing.assert_close(found[name][k], plain, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(logits[k], own.detach(), rtol=1e-4, atol=1e-5)
    assert not any(value.requires_grad for value in (*found.values(), logits))


@pytest.mark.parametrize("stacked", [True, False])
def test_unused_parameters_have_no_gradient(stacked: bool) -> None:
    """A loss that ignores a parameter leaves it where it is; the caller's tensors are not touched."""
    stack = repeat({"used": torch.ones(2), "unused": torch.ones(3)}, 2)
    found, kept = gradients(lambda p, s: (s * p["used"].sum(), ()), stack, torch.tensor([2.0, 3.0]), stacked=stacked)
    assert found["used"].tolist() == [[2, 2], [3, 3]]
    assert not found["unused"].any()
    assert kept == ()
    assert not any(value.requires_grad for value in stack.values())


def test_divergence_is_torchs() -> None:
    """Against the library's, which cannot be vectorised."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    plain = nn.KLDivLoss(reduction="none", log_target=True)(student.log_softmax(1), teacher.log_softmax(1)).sum(1)
    torch.testing.assert_close(divergence(teacher, student), plain)
