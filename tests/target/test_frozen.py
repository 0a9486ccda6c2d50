"""What the user froze stays as it is and does not count: in gradients, rehearsals and unlearning."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from forgetcast import predict_difficulty
from forgetcast.corpus.measuring import measure
from forgetcast.errors import NotApplicableError
from forgetcast.factors import factor_table
from forgetcast.factors.probes.probes import Probes
from forgetcast.registry import load_factors, load_unlearners
from forgetcast.report.movers import movers
from forgetcast.screening.costs import measure_costs
from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.bad_teaching import BadTeaching
from forgetcast.unlearn.base import Samples
from gradient_cases import seeded
from hazard_models import CLASSES, HAZARDS, WIDTH, Shapes, inputs
from small_targets import digits

pytestmark = pytest.mark.slow

UNLEARNERS = load_unlearners()
FROZEN = (
    "low rank, as layers",
    "low rank, as parameters",
    "biases alone",
    "weights alone",
    "frozen body",
    "frozen head",
)
LAST_LAYER = ("gradient_kernel", "leave_one_out_logits", "erase_rehearsal", "ascent_rehearsal", "augmented_features")


def trained(model: nn.Module, x: Tensor, y: Tensor, steps: int = 60) -> nn.Module:
    """The trainable parameters fitted."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


@lru_cache(maxsize=8)
def target(case: str) -> Target:
    """Noise that a small model of that kind has partly by heart, with a way to train it again."""
    x, y = inputs(case, 40), torch.arange(40) % CLASSES

    def retrain(indices: np.ndarray, seed: int) -> nn.Module:
        return trained(seeded(HAZARDS[case], seed), x[indices], y[indices], 5)

    return Target(trained(seeded(HAZARDS[case]), x, y), (x, y), heldout=(inputs(case, 60)[40:], y[:20]), train=retrain)


@pytest.mark.parametrize("case", [*FROZEN, "shapes"])
@pytest.mark.parametrize("name", UNLEARNERS)
def test_every_unlearner_leaves_frozen_weights_as_they_are(name: str, case: str) -> None:
    """Bit for bit, at every point and in the control; all that is trained is there. Retraining alone brings its own."""
    own, before = target(case), copy.deepcopy(target(case).module.state_dict())
    fixed = dict(own.module.named_parameters()).keys() - own.params.keys()
    assert fixed
    unlearner = UNLEARNERS[name]()
    if name == "certified_removal" and case in ("frozen head", "biases alone"):
        with pytest.raises(NotApplicableError, match="is frozen"):
            unlearner.prepare(own)
        return
    state = unlearner.prepare(own)
    walk = unlearner.walk(own, state, Samples.of(own, torch.tensor([3, 8])), 0)
    for _ in range(3):
        if (point := walk.step()) is None:
            break
        for part in point:
            assert own.params.keys() <= part.keys()
            assert name == "retraining" or not part.keys() & fixed
    assert all(torch.equal(value, before[key]) for key, value in own.module.state_dict().items())


@pytest.mark.parametrize("case", ["low rank, as layers", "frozen head", "shapes"])
def test_unlearning_a_partly_frozen_model_is_measured(case: str) -> None:
    """Every unlearner that applies, retraining included, has outcomes with finite shifts."""
    names = [name for name in UNLEARNERS if (name, case) != ("certified_removal", "frozen head")]
    outcomes, _ = measure(target(case), [3, 8], objectives=["erase"], unlearners=names, progress=False)[:2]
    assert set(outcomes["unlearner"]) == set(names)
    assert np.isfinite(outcomes["shift"]).all()


@lru_cache(maxsize=1)
def body_and_head() -> tuple[Target, Target]:
    """A head on a frozen body, and the same head on what the body makes of the data."""
    train, held = digits()
    body = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())).requires_grad_(False)
    model = trained(nn.Sequential(body, seeded(lambda: nn.Linear(32, 10))), *train, 150)
    pairs = [(body(x), y) for x, y in (train, held)]
    return Target(model, train, heldout=held), Target(nn.Sequential(model[1]), pairs[0], heldout=pairs[1])


def test_a_frozen_body_with_a_trained_head_is_the_head_alone() -> None:
    """All factors of gradients, the last layer and rehearsal, and the context, are those of the head alone."""
    families = ("gradients", "confidence", "context", "entanglement", "rehearsal")
    names = [
        factor.name for factor in load_factors().values() if factor.family in families and "retrain" not in factor.name
    ]
    tables = [factor_table(target, names=names) for target in body_and_head()]
    one, other = (table.values for table in tables)
    same = [name for name in one if name in other and "input" not in name]
    assert {"gradient_norm", "self_influence", "last_layer_self_influence", "log_parameters"} <= set(same)
    for name in same:
        np.testing.assert_allclose(one[name], other[name], rtol=2e-3, atol=1e-6, err_msg=name)


def test_a_frozen_body_unlearns_as_the_head_alone() -> None:
    """The same steps, shift and collateral damage under unlearners of every family."""
    names = ["gradient_ascent", "influence", "ssd", "neggrad_plus", "certified_removal", "woodfisher", "bad_teaching"]
    one, other = (
        measure(target, [0, 7, 20, 77], objectives=["erase"], unlearners=names, progress=False)[0]
        for target in body_and_head()
    )
    for column in ("steps", "shift"):
        np.testing.assert_allclose(one[column], other[column], rtol=2e-2, atol=1e-3, err_msg=column)


def test_a_frozen_last_layer_has_nothing_to_rehearse_but_has_features() -> None:
    """Rehearsals, kernel, leave-one-out, movers and certified removal give the reason; features are still there."""
    own = target("frozen head")
    probes = Probes(own)
    for name in LAST_LAYER:
        with pytest.raises(NotApplicableError, match=r"'head' is frozen \(requires_grad=False\)"):
            getattr(probes, name)
    with pytest.raises(NotApplicableError, match="frozen"):
        movers(own, 0)
    with pytest.raises(NotApplicableError, match="frozen"):
        UNLEARNERS["certified_removal"]().prepare(own)
    assert probes.features.shape == (40, 8)
    assert probes.surrogate_confidence.isfinite().all()
    assert predict_difficulty(own).table["percentile"].notna().all()


@pytest.mark.parametrize("change", [lambda m: prune.l1_unstructured(m, "weight", 0.3), parametrizations.weight_norm])
def test_a_computed_last_layer_has_no_weight_of_its_own(change: object) -> None:
    """A mask or a norm stands between the layer's weight and the parameters: the reason is given."""
    model = seeded(lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, CLASSES)))
    change(model[2])  # type: ignore[operator]
    with torch.no_grad():
        model(torch.zeros(2, WIDTH))
    probes = Probes(
        Target(trained(model, inputs("", 30), torch.arange(30) % 3, 0), (inputs("", 30), torch.arange(30) % 3))
    )
    with pytest.raises(NotApplicableError, match="computes it from other parameters"):
        _ = probes.erase_rehearsal
    assert probes.features.shape == (30, 8)


def test_a_frozen_bias_does_not_move_in_rehearsals() -> None:
    """z̃ is the features alone, and the weight's norm is the whole."""
    model = seeded(lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, CLASSES)))
    model[2].bias.requires_grad_(False)
    own = Target(model, (inputs("", 30), torch.arange(30) % 3))
    probes = Probes(own)
    assert probes.augmented_features.shape == (30, 8)
    g = torch.autograd.grad(F.cross_entropy(model(inputs("", 30)[:1]), torch.tensor([0])), model[2].weight)[0]
    table = factor_table(own, names=["last_layer_gradient_norm"])
    assert table.values["last_layer_gradient_norm"][0] == pytest.approx(float(g.norm()), rel=1e-4)
    state = UNLEARNERS["certified_removal"]().prepare(own)
    walk = UNLEARNERS["certified_removal"]().walk(own, state, Samples.of(own, torch.tensor([1])), 0)
    assert "2.bias" not in walk.step()[0]


def test_frozen_parameters_are_told() -> None:
    """What counts is noted; where all are frozen all count, and that is noted too."""
    model, data = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (torch.randn(12, 4), torch.arange(12) % 3)
    note = lambda: factor_table(Target(model, data), names=["gradient_norm"]).notes.get("gradient_norm", "")  # noqa: E731
    assert note() == ""
    model[0].requires_grad_(False)
    assert note() == "counts 41.2% of the parameters; the others are frozen (requires_grad=False)"
    assert Probes(Target(model, data)).parameter_count == 21
    model.requires_grad_(False)
    assert note() == "every parameter is frozen (requires_grad=False), so all count as if they were trained"
    assert Probes(Target(model, data)).parameter_count == 51
    whole = Shapes().requires_grad_(False)
    assert "count" not in Target(whole, (torch.randn(12, WIDTH), data[1])).params


def test_only_what_is_trained_is_fresh_in_the_incompetent_teacher() -> None:
    """On a frozen body it is that body with a new head; where a mask is in the way it is the uniform distribution."""
    one, _ = body_and_head()
    samples = Samples.of(one, torch.arange(4))
    teacher = BadTeaching().draw(one, None, samples, 0)["teacher"]
    known = torch.cat(
        [one.features(), torch.ones(len(one), 1)], 1
    ).double()  # what is linear in it follows from a few samples
    everyone = BadTeaching().draw(one, None, Samples.of(one, torch.arange(len(one))), 0)["teacher"].double()
    assert float((known @ (torch.linalg.pinv(known) @ everyone) - everyone).abs().max()) < 1e-3
    assert not torch.allclose(teacher, samples.logits, atol=0.1)
    assert float(teacher.std()) > 0
    model = seeded(HAZARDS["pruned"])
    with torch.no_grad():
        model(torch.zeros(2, WIDTH))
    for layer in model.modules():  # as after loading: what hooks computed holds no graph
        for name, value in list(vars(layer).items()):
            if isinstance(value, Tensor):
                setattr(layer, name, value.detach())
    masked = Target(model, (inputs("", 20), torch.arange(20) % 3))
    drawn = BadTeaching().draw(masked, None, Samples.of(masked, torch.arange(4)), 0)
    assert torch.equal(drawn["teacher"], torch.zeros(4, CLASSES))


def test_a_training_pass_over_a_frozen_body_is_timed_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head alone is updated, and nothing else is asked for gradients."""
    updated: list[list[tuple[int, ...]]] = []
    sgd = torch.optim.SGD

    def seen(parameters: list[Tensor], **settings: float) -> torch.optim.Optimizer:
        updated.append([tuple(value.shape) for value in parameters])
        return sgd(parameters, **settings)

    monkeypatch.setattr("torch.optim.SGD", seen)
    measure_costs(body_and_head()[0], ["gradient_ascent"], 0)
    assert updated == [[(10, 32), (10,)]]


@pytest.mark.parametrize("case", ["pruned", "older weight norm", "older spectral norm"])
def test_what_hooks_compute_can_still_be_copied(case: str) -> None:
    """After differentiating, unlearning and probing, the target's module is as it was: no graph hangs on it."""
    model = seeded(HAZARDS[case])
    with torch.no_grad():
        model(torch.zeros(2, WIDTH))
    own = Target(model.eval(), (inputs("", 20), torch.arange(20) % 3))
    _ = Probes(own).self_influence
    UNLEARNERS["gradient_ascent"]().walk(own, None, Samples.of(own, torch.tensor([1, 2])), 0).step()
    before = own.logits()
    copied = copy.deepcopy(own.module)
    assert torch.equal(copied(inputs("", 20)), before)
