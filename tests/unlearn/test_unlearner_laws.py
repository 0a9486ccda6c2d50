"""Every registered unlearner keeps the laws of an unlearner, and an unlearner that breaks one is caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, hessian
from torch.nn import functional as F

from forgetcast.errors import NotApplicableError
from forgetcast.registry import load_unlearners
from forgetcast.target.target import Target
from forgetcast.testing import check_unlearner
from forgetcast.unlearn.algorithms.fisher import sample_gradients
from forgetcast.unlearn.algorithms.gradient_ascent import GradientAscent
from forgetcast.unlearn.base import GridUnlearner, IterativeUnlearner, Samples, Unlearner, Walk, path_of_walk
from forgetcast.unlearn.stack import Params, Stack, rows
from small_targets import shared_cnn, shared_mlp

pytestmark = pytest.mark.slow

UNLEARNERS = load_unlearners()
APPROXIMATE = [name for name, made in UNLEARNERS.items() if made.approximates_retraining]


def shorter(unlearner: Unlearner, steps: int) -> Unlearner:
    """The same unlearner with a path of so many gradient steps, if it takes steps."""
    return replace(unlearner, steps=steps) if isinstance(unlearner, IterativeUnlearner) else unlearner


@pytest.mark.parametrize("name", UNLEARNERS)
def test_every_unlearner_keeps_the_laws_on_a_perceptron(name: str) -> None:
    """Its path moves and forgets, is repeatable, and neither the target nor the control hang on it."""
    check_unlearner(shorter(UNLEARNERS[name](), 32))


@pytest.mark.parametrize("name", UNLEARNERS)
def test_every_unlearner_keeps_the_laws_on_a_convolutional_network(name: str) -> None:
    """The same on images, with batch normalisation and dropout."""
    check_unlearner(shorter(UNLEARNERS[name](), 18), shared_cnn(), seed=3)


@pytest.mark.parametrize("name", UNLEARNERS)
def test_the_registered_name_is_the_name_in_the_outcomes(name: str) -> None:
    """Outcome rows carry the class's name, shards and labels go by the registered one."""
    assert UNLEARNERS[name].name == name
    assert UNLEARNERS[name]() == UNLEARNERS[name]()
    assert UNLEARNERS[name].__doc__


# -- an unlearner that breaks a law is caught -----------------------------------------------------------------------


@dataclass(frozen=True)
class Plain(Unlearner):
    """Gradient ascent as a third party would write it: a generator of points for one sample."""

    name: ClassVar[str] = "plain"
    stochastic: ClassVar[bool] = False
    steps: int = 12

    def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
        def loss(params: Params) -> Tensor:
            return F.cross_entropy(target.call(params, samples.x), samples.y)

        params = dict(target.params)
        for t in range(1, self.steps + 1):
            slope = grad(loss)(params)
            length = torch.stack([g.square().sum() for g in slope.values()]).sum().sqrt()
            params = {name: value + self.sign() * 0.02 * t / length * slope[name] for name, value in params.items()}
            yield self.point(params, t), self.control(target, samples, t)

    def sign(self) -> float:
        return 1.0

    def point(self, params: Params, t: int) -> Params:
        return params

    def control(self, target: Target, samples: Samples, t: int) -> Params:
        return target.params


def test_a_generator_of_points_is_all_that_a_third_party_needs() -> None:
    """The unlearner that the broken ones below derive from keeps the laws."""
    check_unlearner(Plain())
    check_unlearner(Plain(), shared_mlp(), seed=1)


def test_an_unlearner_that_changes_the_target_is_caught() -> None:
    """Steps on the target's own tensors would change all results that come later."""

    @dataclass(frozen=True)
    class InPlace(Plain):
        def control(self, target: Target, samples: Samples, t: int) -> Params:
            target.params["4.bias"].mul_(1.001)
            return {name: value.clone() for name, value in target.params.items()}

    target = fresh()
    with pytest.raises(AssertionError, match="'plain' breaks the law that the target does not change: the state of"):
        check_unlearner(InPlace(), target)


def fresh() -> Target:
    """A target to be spoiled."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=generator), torch.arange(40) % 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    return Target(model, (x, y))


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("the training mode", lambda target: target.module.train()),
        ("requires_grad", lambda target: target.module[0].weight.requires_grad_()),
        ("a gradient", lambda target: setattr(target.module[0].weight, "grad", torch.zeros(8, 5))),
        ("a hook", lambda target: target.module.register_forward_hook(lambda *_: None)),
    ],
)
def test_an_unlearner_that_leaves_traces_on_the_model_is_caught(what: str, spoil: Any) -> None:
    """Mode, gradients and hooks belong to the target as much as its weights."""

    @dataclass(frozen=True)
    class Careless(Plain):
        def prepare(self, target: Target) -> None:
            spoil(target)

    with pytest.raises(AssertionError, match=f"the target does not change: {what} of the model differs"):
        check_unlearner(Careless(), fresh())


def test_global_random_numbers_are_caught() -> None:
    """Drawing from torch's global generator changes the caller's random numbers."""

    @dataclass(frozen=True)
    class Noisy(Plain):
        def point(self, params: Params, t: int) -> Params:
            torch.rand(1)
            return params

    with pytest.raises(AssertionError, match="global random state alone"):
        check_unlearner(Noisy())


def test_an_unlearner_that_moves_nothing_is_caught() -> None:
    """An optimizer that holds the wrong model unlearns nothing."""

    @dataclass(frozen=True)
    class Idle(Plain):
        def sign(self) -> float:
            return 0.0

    with pytest.raises(AssertionError, match=r"parameters change along the path: for sample \d+ they stay"):
        check_unlearner(Idle())


def test_an_unlearner_that_learns_instead_is_caught() -> None:
    """A wrong sign makes the sample better known."""

    @dataclass(frozen=True)
    class Learner(Plain):
        def sign(self) -> float:
            return -1.0

    with pytest.raises(AssertionError, match="it forgets: the loss rises above that under the control for 0 of 3"):
        check_unlearner(Learner())


def test_a_path_that_begins_far_from_the_target_is_caught() -> None:
    """Bisection between the target and the first point needs a first point that is near."""

    @dataclass(frozen=True)
    class Jumping(Plain):
        def point(self, params: Params, t: int) -> Params:
            return {name: value + 1 / t for name, value in params.items()}

    with pytest.raises(AssertionError, match="begins near the target and leads away from it"):
        check_unlearner(Jumping())


def test_an_unlearner_that_is_not_repeatable_is_caught() -> None:
    """The same seed must give the same path on every call."""
    calls = count()

    @dataclass(frozen=True)
    class Restless(Plain):
        stochastic: ClassVar[bool] = True

        def point(self, params: Params, t: int) -> Params:
            shift = 1e-6 * next(calls)
            return {name: value + shift for name, value in params.items()}

    with pytest.raises(AssertionError, match="the same seed gives the same path: 12 of 12 points differ"):
        check_unlearner(Restless())


def test_an_unlearner_whose_seed_matters_unsaid_is_caught() -> None:
    """Where ``stochastic`` is False only one seed is ever run."""

    @dataclass(frozen=True)
    class Seeded(Plain):
        def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
            for params, control in super().path(target, state, samples, seed):
                yield {name: value * (1 + 1e-5 * seed) for name, value in params.items()}, control

    with pytest.raises(AssertionError, match="the seed does not matter where stochastic is False"):
        check_unlearner(Seeded())


def test_a_control_that_depends_on_the_sample_is_caught() -> None:
    """Damage is counted against the control, so the control may not know what is forgotten."""

    @dataclass(frozen=True)
    class Knowing(Plain):
        def control(self, target: Target, samples: Samples, t: int) -> Params:
            return {name: value + 1e-3 * t * int(samples.index[0]) for name, value in target.params.items()}

    with pytest.raises(AssertionError, match=r"the control ignores the sample: at step 1 that of sample \d+ is not"):
        check_unlearner(Knowing())


def test_a_control_that_leaves_the_sample_out_of_its_batches_is_caught() -> None:
    """The unlearned path does not count the sample as retained; the control counts all."""

    @dataclass(frozen=True)
    class Sparing(Plain):
        def control(self, target: Target, samples: Samples, t: int) -> Params:
            x, y = target.data.fetch(torch.arange(len(target)))
            weight = (torch.arange(len(target)) != samples.index).float()

            def loss(params: Params) -> Tensor:
                return (F.cross_entropy(target.call(params, x), y, reduction="none") * weight).mean()

            slope = grad(loss)(target.params)
            return {name: value - 0.01 * t * slope[name] for name, value in target.params.items()}

    with pytest.raises(AssertionError, match="the control ignores the sample"):
        check_unlearner(Sparing())


@dataclass(frozen=True)
class Walking(Unlearner):
    """Gradient ascent whose walk is spoiled in some way."""

    name: ClassVar[str] = "walking"
    stochastic: ClassVar[bool] = False

    def walk(self, target: Target, state: Any, samples: Samples, seed: int) -> Walk:
        return SpoiledWalk(self, GradientAscent(steps=20).walk(target, state, samples, seed))

    def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
        return path_of_walk(GradientAscent(steps=20).walk(target, state, samples, seed))

    def step(self, point: tuple[Stack, Stack]) -> tuple[Stack, Stack]:
        return point

    def kept(self, chosen: Tensor) -> Tensor:
        return chosen


class SpoiledWalk(Walk):
    """A walk that passes through the unlearner's hands."""

    def __init__(self, unlearner: Walking, inner: Walk) -> None:
        self.unlearner, self.inner = unlearner, inner

    def step(self) -> tuple[Stack, Stack] | None:
        point = self.inner.step()
        return None if point is None else self.unlearner.step(point)

    def keep(self, chosen: Tensor) -> None:
        self.inner.keep(self.unlearner.kept(chosen))


def test_samples_that_get_mixed_up_in_a_walk_are_caught() -> None:
    """A stack whose rows change places gives a sample the path of another."""

    @dataclass(frozen=True)
    class Shuffled(Walking):
        def step(self, point: tuple[Stack, Stack]) -> tuple[Stack, Stack]:
            return rows(point[0], torch.tensor([1, 0, 2])), point[1]

    check_unlearner(Walking())
    with pytest.raises(AssertionError, match=r"(it forgets|a sample does not notice|samples walked together)"):
        check_unlearner(Shuffled())


def test_samples_that_move_each_other_in_a_walk_are_caught() -> None:
    """A batch in which one sample's step leaks into another's is not unlearning them one at a time."""

    @dataclass(frozen=True)
    class Leaking(Walking):
        def step(self, point: tuple[Stack, Stack]) -> tuple[Stack, Stack]:
            return {name: value + 0.05 * (value.mean(0) - value) for name, value in point[0].items()}, point[1]

    with pytest.raises(AssertionError, match=r"(a sample does not notice|samples walked together)"):
        check_unlearner(Leaking())


def test_a_walk_that_keeps_the_wrong_samples_is_caught() -> None:
    """Samples that have reached their goal leave, and the others must stay who they are."""

    @dataclass(frozen=True)
    class Confused(Walking):
        def kept(self, chosen: Tensor) -> Tensor:
            return chosen.flip(0)

    with pytest.raises(AssertionError, match="a sample does not notice that others stop"):
        check_unlearner(Confused())


def test_a_point_altered_in_place_is_caught() -> None:
    """The engine bisects between the last two points, so the earlier one must last."""

    @dataclass(frozen=True)
    class Reusing(Walking):
        def step(self, point: tuple[Stack, Stack]) -> tuple[Stack, Stack]:
            for name, value in point[0].items():
                kept = BUFFERS.setdefault((name, value.shape), torch.empty_like(value))
                kept.copy_(value)
            return {name: BUFFERS[name, value.shape] for name, value in point[0].items()}, point[1]

    with pytest.raises(AssertionError, match="a point stays as it is when the walk goes on: point 1 was altered"):
        check_unlearner(Reusing())


BUFFERS: dict[Any, Tensor] = {}


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"point 1 lacks \['0.bias'\]", lambda params, t: {n: v for n, v in params.items() if n != "0.bias"}),
        (r"and adds \['extra'\]", lambda params, t: {**params, "extra": params["0.bias"]}),
        ("torch.float64\\) instead of", lambda params, t: {n: v.double() for n, v in params.items()}),
        (r"has shape and type \(\(1, 8\)", lambda params, t: {**params, "2.bias": params["2.bias"][None]}),
        (
            "finite until the sample is forgotten: point 2",
            lambda params, t: {n: v / (0 if t == 2 else 1) for n, v in params.items()},
        ),
    ],
)
def test_points_that_are_no_models_are_caught(message: str, change: Any) -> None:
    """Names, shapes and types are the target's, and numbers are finite."""

    @dataclass(frozen=True)
    class Misshapen(Plain):
        def point(self, params: Params, t: int) -> Params:
            return change(params, t)

    with pytest.raises(AssertionError, match=message):
        check_unlearner(Misshapen())


def test_numbers_may_overflow_once_the_sample_is_forgotten() -> None:
    """No protocol follows a path beyond that; but the same NaN must come again."""

    @dataclass(frozen=True)
    class Overflowing(Plain):
        def point(self, params: Params, t: int) -> Params:
            return {n: v / (0 if t == self.steps else 1) for n, v in params.items()}

    check_unlearner(Overflowing())


def test_an_endless_path_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A goal that is never reached must not keep the engine for ever."""
    monkeypatch.setattr("forgetcast.unlearn.laws.MOST_POINTS", 50)
    with pytest.raises(AssertionError, match="its path ends: it has more than 50 points"):
        check_unlearner(Plain(steps=10**9), fresh())


def test_an_empty_path_is_caught() -> None:
    """No point at all is no path."""
    with pytest.raises(AssertionError, match="it has a path"):
        check_unlearner(Plain(steps=0))


def test_settings_that_cannot_be_a_key_are_caught() -> None:
    """Results are kept under the repr, so it must be frozen, named and without addresses."""

    class Bare(Plain):
        name = ""

    @dataclass
    class Fluid(Unlearner):
        name: ClassVar[str] = "fluid"

        def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
            raise AssertionError("must not be asked")

    @dataclass(frozen=True)
    class Holding(Plain):
        held: object = object()

    for unlearner, message in (
        (Bare(), "it has a name"),
        (Fluid(), "it is a frozen dataclass of its settings: Fluid is not"),
        (Holding(), "its repr names its settings: .* holds an address"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_unlearner(unlearner)


def test_a_target_that_cannot_retrain_is_said_so() -> None:
    """Retraining on a target without a train callable is not a broken law."""
    with pytest.raises(NotApplicableError, match="no train callable"):
        check_unlearner(UNLEARNERS["retraining"](), fresh())


# -- strength -------------------------------------------------------------------------------------------------------


def test_gradient_steps_have_the_planned_length() -> None:
    """Whatever the gradient's own length, step t is first_step * growth**(t-1) long, in lengths of the parameters."""
    target = shared_mlp()
    unlearner = GradientAscent(first_step=0.01, growth=1.5, steps=6)
    points = [target.params]
    points += [params for params, _ in unlearner.path(target, None, Samples.of(target, torch.tensor([3])), 0)]
    whole = float(flat(target.params).norm())
    lengths = [float((flat(b) - flat(a)).norm()) for a, b in pairwise(points)]
    np.testing.assert_allclose(lengths, [0.01 * 1.5**t * whole for t in range(6)], rtol=1e-4)


@pytest.mark.parametrize("name", [n for n, made in UNLEARNERS.items() if issubclass(made, GridUnlearner)])
def test_grids_lie_on_a_line_at_the_planned_distances(name: str) -> None:
    """One-shot methods move along one direction, from the target on."""
    target = shared_mlp()
    unlearner = replace(UNLEARNERS[name](), first_step=0.01, growth=1.5, steps=5)
    path = unlearner.path(target, unlearner.prepare(target), Samples.of(target, torch.tensor([3])), 0)
    moved = torch.stack([flat(params) - flat(target.params) for params, _ in path])
    whole = float(flat(target.params).norm())
    np.testing.assert_allclose(moved.norm(dim=1), [0.01 * 1.5**t * whole for t in range(5)], rtol=1e-3)
    directions = moved / moved.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(directions @ directions[-1], 1, rtol=1e-3)


# -- exact retraining as the measure --------------------------------------------------------------------------------

DECAY = 1e-2


def converged(x: Tensor, y: Tensor, indices: np.ndarray) -> nn.Module:
    """Logistic regression with weight decay, at its one optimum."""
    x, y = x[torch.as_tensor(indices)], y[torch.as_tensor(indices)]
    model = nn.Linear(x.shape[1], 3).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=300, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = DECAY / 2 * torch.stack([p.square().sum() for p in model.parameters()]).sum()
        loss = F.cross_entropy(model(x), y) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    closure()
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-7
    return model


@pytest.fixture(scope="module")
def convex() -> Target:
    """Three overlapping clouds, logistic regression in double precision."""
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(90) % 3
    x = torch.randn(90, 4, generator=generator) + 1.5 * torch.randn(3, 4, generator=generator)[y]
    x = x.double()
    every = np.arange(len(y))
    return Target(converged(x, y, every), (x, y), train=lambda indices, seed: converged(x, y, indices), name="convex")


def test_some_unlearner_claims_to_approximate_retraining() -> None:
    """Else the comparison with retraining would run over nothing."""
    assert len(APPROXIMATE) >= 3


@pytest.mark.parametrize("name", APPROXIMATE)
@pytest.mark.parametrize("rank", [0, 5, 30])
def test_unlearners_that_claim_so_come_near_exact_retraining(convex: Target, name: str, rank: int) -> None:
    """On a convex model the path leads towards the retrained model and at its best strength lies nearer to it."""
    loss = F.cross_entropy(convex.logits(), convex.labels, reduction="none")
    index = int(loss.argsort(descending=True)[rank])
    kept = np.delete(np.arange(len(convex)), index)
    retrained = dict(convex.train(kept, 0).named_parameters())
    wanted = flat({key: retrained[key] - value for key, value in convex.params.items()})
    unlearner = UNLEARNERS[name]()
    samples = Samples.of(convex, torch.tensor([index]))
    path = list(unlearner.path(convex, unlearner.prepare(convex), samples, 0))
    first = flat({key: path[0][0][key] - value for key, value in convex.params.items()})
    cosine = float(first @ wanted / (first.norm() * wanted.norm()))
    assert cosine > 0.3, f"cosine of the first step with (retrained - target) is {cosine}"
    left = [float(flat({k: v - retrained[k] for k, v in params.items()}).norm()) for params, _ in path]
    assert min(left) < 0.95 * float(wanted.norm())
    x, _ = convex.data.fetch(torch.arange(len(convex)))
    truth = convex.call(retrained, x).softmax(1)
    apart = [float((convex.call(params, x).softmax(1) - truth).abs().sum()) for params, _ in path]
    assert min(apart) < 0.8 * float((convex.forward(x).softmax(1) - truth).abs().sum())


def test_certified_removal_takes_the_newton_step(convex: Target) -> None:
    """Conjugate gradients on products give what a dense Hessian of the retained samples' loss gives."""
    unlearner = UNLEARNERS["certified_removal"]()
    state = unlearner.prepare(convex)
    chosen = torch.tensor([0, 7, 52])
    steps = unlearner.displacement(convex, state, Samples.of(convex, chosen), 0)
    for k, index in enumerate(chosen.tolist()):
        x, y = convex.data.fetch(torch.tensor([j for j in range(len(convex)) if j != index]))
        own_x, own_y = convex.data.fetch(torch.tensor([index]))

        def logits(vector: Tensor, x: Tensor) -> Tensor:
            return x @ vector[:12].reshape(3, 4).T + vector[12:]

        start = torch.cat([convex.params["weight"].flatten(), convex.params["bias"]])
        curvature = hessian(lambda v, x=x, y=y: F.cross_entropy(logits(v, x), y, reduction="sum"))(start)
        slope = grad(lambda v, x=own_x, y=own_y: F.cross_entropy(logits(v, x), y))(start)
        newton = torch.linalg.solve(curvature + state[-1] * torch.eye(15), slope)
        torch.testing.assert_close(flat({n: v[k] for n, v in steps.items()}), newton, rtol=1e-4, atol=1e-6)


def test_certified_removal_of_a_sample_outside_the_hessian(convex: Target) -> None:
    """A sample that the Hessian's draw missed is not taken out of it: the curvature stays positive."""
    unlearner = UNLEARNERS["certified_removal"](most_samples=20)
    state = unlearner.prepare(convex)
    outside = next(i for i in range(len(convex)) if i not in state[0].tolist())
    samples = Samples.of(convex, torch.tensor([outside, int(state[0][0])]))
    steps = unlearner.displacement(convex, state, samples, 0)
    gradient = sample_gradients(convex, samples.x, samples.y)
    for k in range(2):
        along = flat({n: v[k] for n, v in steps.items()}) @ flat({n: v[k] for n, v in gradient.items()})
        assert along > 0


def flat(params: Params) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([value.detach().flatten() for value in params.values()])


# -- wrong labels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, made in UNLEARNERS.items() if issubclass(made, IterativeUnlearner)])
def test_relabelling_never_draws_the_true_label(name: str) -> None:
    """Whatever class an unlearner draws for a sample, over many seeds and samples it is another than its own."""
    target = shared_mlp()
    unlearner = UNLEARNERS[name]()
    state = unlearner.prepare(target)
    samples = Samples.of(target, torch.arange(60))
    drawn = [unlearner.draw(target, state, samples, seed) for seed in range(3)]
    found = [key for key, value in drawn[0].items() if value.shape == (60,) and not value.is_floating_point()]
    for key in found:
        for seed in range(3, 30) if unlearner.stochastic else ():
            once = unlearner.draw(target, state, samples, seed)
            drawn += [unlearner.redraw(target, once, samples, seed, t) for t in (1, 2)]
        labels = torch.stack([one[key] for one in drawn])
        assert bool((labels != samples.y).all())
        assert int(labels.min()) >= 0
        assert int(labels.max()) < target.num_classes
        if unlearner.stochastic:
            counts = torch.bincount(((labels - samples.y) % 10).flatten(), minlength=10)[1:]
            assert bool((counts > 0.7 * counts.float().mean()).all()), "every other class is drawn about as often"
    if name in ("amnesiac", "boundary_shrink", "random_relabelling", "salun"):
        assert found


# -- unusual models -------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """Words and weights come as a dict; a single number, without a dimension, scales the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.head = nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, words: Tensor, weights: Tensor) -> Tensor:
        return self.scale * self.head((self.embed(words) * weights[..., None]).mean(1))


@pytest.mark.parametrize("name", UNLEARNERS)
def test_every_unlearner_takes_tokens_in_a_dict_and_parameters_without_dimension(name: str) -> None:
    """Inputs need be neither a tensor nor numbers, and parameters need have no dimension."""
    generator = torch.Generator().manual_seed(0)
    x = {"words": torch.randint(12, (30, 5), generator=generator), "weights": torch.rand(30, 5, generator=generator)}

    def train(indices: np.ndarray, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Tokens()

    target = Target(train(np.arange(30), 0), (x, torch.arange(30) % 3), train=train)
    unlearner = UNLEARNERS[name]()
    if name == "certified_removal":
        with pytest.raises(NotApplicableError, match="no linear layer's output is the model's output"):
            unlearner.prepare(target)
        return
    walk = unlearner.walk(target, unlearner.prepare(target), Samples.of(target, torch.tensor([1, 8])), 0)
    for _ in range(1 if walk.discrete else 2):
        params, control = walk.step()
        assert params["scale"].shape == (2,)
        assert control["scale"].shape == ()
        assert all(bool(torch.isfinite(value).all()) for value in params.values())
    assert (params["scale"] != target.params["scale"]).any() or walk.discrete or name == "ssd"
