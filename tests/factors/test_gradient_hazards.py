"""Gradients are the model's, whatever computes, shares, moves or freezes its parameters, in any order of samples."""

from __future__ import annotations

import copy
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from forgetcast.errors import NotApplicableError
from forgetcast.factors.probes.passes import DAMPING
from forgetcast.factors.probes.probes import Probes
from forgetcast.target.logits import cross_entropy
from forgetcast.target.target import Target
from gradient_cases import relative_error, seeded
from hazard_models import CLASSES, HAZARDS, inputs

pytestmark = pytest.mark.slow

N = 45


@lru_cache(maxsize=1)
def fitted(case: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A model that has some samples by heart, its data and the gradient (n, p) of every sample alone, in float64."""
    model, x = seeded(HAZARDS[case]), inputs(case, N)
    y = torch.arange(N) % CLASSES
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.3) if "sparse" in case else torch.optim.Adam(trained, 0.03)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        model.eval()(x)  # what hooks compute can be copied again
    return model, x, y, written_out(model, x, y)


def written_out(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """By plain autograd, one sample at a time, with the loss that does not cancel."""
    model = copy.deepcopy(model).double()
    x = x.double() if x.is_floating_point() else x
    parameters, rows = [p for p in model.parameters() if p.requires_grad], []
    for row in range(len(y)):
        loss = cross_entropy(model(x[row : row + 1]), y[row : row + 1])[0]
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([gradient.to_dense().flatten() for gradient in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("order", ["surest first", "surest last", "shuffled"])
@pytest.mark.parametrize("case", HAZARDS)
def test_gradients_are_the_models(case: str, order: str) -> None:
    """Norms and self-influence of every sample, in batches of several sizes, without leaving anything out."""
    model, x, y, g = fitted(case)
    ranks = g.norm(dim=1).argsort(descending=order == "surest last")
    if order == "shuffled":
        ranks = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    g = g[ranks]
    norms, fisher = g.norm(dim=1), g.square().mean(0)
    influence = (g.square() / (fisher + DAMPING * fisher.mean())).sum(1)
    for batch_size in (16, 64):
        probes = Probes(Target(model, (x[ranks], y[ranks]), batch_size=batch_size))
        assert float(((probes.gradient_norm - norms).abs() / norms.clamp(min=1e-30)).max()) < 1e-3
        assert relative_error(probes.self_influence, influence) < 2e-3
        assert not any("leaves out" in note for note in probes.notes.values())


def test_the_surest_samples_keep_their_digits() -> None:
    """Norms of 1e-30 are told apart, though their squares are 0 in single precision, in gradients, score and Fisher."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[2].weight *= 400
        y = model(x).argmax(1)
    norms = written_out(model, x, y).norm(dim=1)
    assert float(norms.min()) < 1e-30
    probes = Probes(Target(model, (x, y)))
    assert float(((probes.gradient_norm - norms).abs() / norms).max()) < 1e-3
    leaf = x.double().requires_grad_()
    (score,) = torch.autograd.grad(cross_entropy(copy.deepcopy(model).double()(leaf), y).sum(), leaf)
    lengths = score.norm(dim=1)
    assert float(((probes._from_gradients("score").norm - lengths).abs() / lengths).max()) < 1e-3


def test_plain_gradients_are_those_of_a_plain_loop() -> None:
    """Where layers explain nothing, norms are autograd's in the model's precision, but where that has cancelled."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    prune.l1_unstructured(model[0], "weight", 0.5)
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[2].weight *= 60
        y = model(x).argmax(1)
    exact, loop = written_out(model, x, y).norm(dim=1), []
    for row in range(len(y)):
        loss = F.cross_entropy(model(x[row : row + 1]), y[row : row + 1])
        loop.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).norm())
    norms = Probes(Target(model, (x, y))).gradient_norm
    off = torch.stack(loop).double() / exact - 1
    cancelled = off.abs() > 0.1
    kept = off.abs() < 0.03
    assert int((kept & (off.abs() > 1e-3)).sum()) > 3
    assert int(cancelled.sum()) > 3
    assert float((norms / torch.stack(loop).double() - 1)[kept].abs().max()) < 1e-3
    assert float((norms / exact - 1)[cancelled].abs().max()) < 1e-3


def test_what_turns_up_late_is_measured_again() -> None:
    """An expert that no sample of the first look chose sees other rows than samples later on."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.usual, self.rare, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            far = x[:, 0] > 50
            order = far.long().argsort(stable=True, descending=True)
            h = self.usual(x[order])[order.argsort()]
            out = torch.zeros_like(h)
            out[far] = self.rare(x[far]) / 50
            return self.head(torch.tanh(torch.where(far[:, None], out, h)))

    model, n = seeded(Late), 400
    x, y = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3
    x[[101, 203, 371], 0] = 60
    assert (
        relative_error(Probes(Target(model, (x, y), batch_size=32)).gradient_norm, written_out(model, x, y).norm(dim=1))
        < 1e-3
    )


def test_ordinary_layers_are_not_differentiated_plainly() -> None:
    """The quick way passes its own check, also while the first pass records what factors share."""
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    probes = Probes(Target(model, (x, torch.arange(60) % 3)), expected=("gradient_norm", "loss"))
    _ = probes.gradient_norm, probes.loss
    assert [layer.name for layer in probes._parameters.layers] == ["0", "1", "3"]
    assert not probes._parameters.plain


@pytest.mark.parametrize(
    "case", ["rows sorted by expert", "rows chosen by mask", "rows sent to slots", "tokens: packed"]
)
def test_hidden_layers_that_see_other_rows_are_no_representation(case: str) -> None:
    """Early and middle layer are, row by row, what the layer makes of the sample alone, in any order of samples."""
    model, x, y, _ = fitted(case)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    one = Probes(Target(model, (x, y), batch_size=16))
    other = Probes(Target(model, (x[order], y[order]), batch_size=9))
    for name in ("early", "middle"):
        try:
            expected = getattr(one, name)[order]
        except NotApplicableError:
            with pytest.raises(NotApplicableError):
                getattr(other, name)
            continue
        assert torch.allclose(getattr(other, name), expected, atol=1e-3)


@pytest.mark.parametrize("room", [36, 1 << 24])
def test_a_note_says_what_no_way_measures(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a layer does not explain its weight, which is too large for a gradient per sample, it is left out."""
    monkeypatch.setattr("forgetcast.factors.probes.plain_gradients.CHUNK", room)
    model, x, y, g = fitted("weight used again")
    probes = Probes(Target(model, (x, y)))
    norms = probes.gradient_norm
    if room > 36:
        assert not probes.notes
    else:
        assert probes.notes["gradient_norm"].endswith("of the parameters: inner.weight")
        assert bool((norms <= g.norm(dim=1) * (1 + 1e-6)).all())
