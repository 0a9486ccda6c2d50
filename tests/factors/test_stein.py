"""The Stein kernel against automatic differentiation and plain loops, and where its pieces come from."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jacfwd
from torch.nn import functional as F

from forgetcast.errors import NotApplicableError
from forgetcast.factors import factor_table
from forgetcast.factors.probes.probes import Probes
from forgetcast.factors.probes.stein_kernel import SteinRows, bandwidth, stein_rows
from forgetcast.registry import load_factors
from forgetcast.target.target import Target
from small_targets import clouds

N, WIDTH, CLASSES = 30, 5, 3


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def langevin(z: Tensor, w: Tensor, s: Tensor, t: Tensor, sigma: float) -> Tensor:
    """The Langevin Stein kernel of an RBF at z and w with scores s and t, by automatic differentiation."""

    def k(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(a - b).square().sum() / (2 * sigma))

    trace = jacfwd(grad(k, 0), 1)(z, w).trace()
    return (s @ t) * k(z, w) + s @ grad(k, 1)(z, w) + t @ grad(k, 0)(z, w) + trace


def slow_rows(z: Tensor, s: Tensor, entropy: Tensor, reference: Tensor, sigma: float) -> SteinRows:
    """All statistics of the rows from a matrix of kernel values computed one at a time."""
    n = len(z)
    kappa = torch.stack([torch.stack([langevin(z[i], z[j], s[i], s[j], sigma) for j in range(n)]) for i in range(n)])
    size = kappa.diagonal().sqrt()
    columns = []
    for i in range(n):
        others = reference[reference != i]
        row, w = kappa[i, others], entropy[others]
        count = row.abs().sum() ** 2 / row.square().sum() * (n - 1) / len(others)
        columns.append((s[i].norm(), row.mean(), (row / size[i] / size[others]).mean(), (row @ w) / w.sum(), count))
    return SteinRows(*torch.tensor(columns, dtype=torch.float64).unbind(1))


def agree(got: SteinRows, expected: SteinRows, rtol: float = 1e-4) -> None:
    """Assert that two sets of rows say the same."""
    for name, value in vars(expected).items():
        scale = float(value.abs().max())
        assert torch.allclose(getattr(got, name), value, rtol=rtol, atol=rtol * scale), name


def random_points(n: int = N) -> dict[str, Tensor]:
    """Inputs, gradients, labels and probabilities out of nothing."""
    gradients = noise(n, WIDTH, seed=1)
    return {
        "inputs": noise(n, WIDTH).float() + 3,
        "gradients": gradients.float(),
        "gradient_norm": gradients.norm(dim=1),
        "labels": torch.arange(n) % CLASSES,
        "probabilities": noise(n, CLASSES, seed=2).softmax(1),
    }


def whole(points: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """z, s and the entropy of the predictions, float64."""
    z = torch.cat([points["inputs"].double(), F.one_hot(points["labels"], CLASSES).double()], 1)
    p = points["probabilities"]
    return z, torch.cat([points["gradients"].double(), p], 1), -(p * p.log()).sum(1)


def small_target() -> Target:
    """A perceptron on thirty points."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    return Target(model, (noise(N, WIDTH).float(), torch.arange(N) % CLASSES), batch_size=7)


def test_a_pair_has_the_langevin_stein_kernel() -> None:
    """For two samples the row mean is κ of the pair, and it is what automatic differentiation gives for an RBF."""
    for seed in range(5):
        points = {name: value[[seed, 7 + 2 * seed]] for name, value in random_points().items()}
        z, s, _ = whole(points)
        sigma = float((z[0] - z[1]).square().sum())
        kappa = [[langevin(z[i], z[j], s[i], s[j], sigma) for j in (0, 1)] for i in (0, 1)]
        rows = stein_rows(**points, reference=torch.arange(2), width=WIDTH)
        assert rows.mean.tolist() == pytest.approx([float(kappa[0][1])] * 2, rel=1e-4)
        root = float((kappa[0][0] * kappa[1][1]).sqrt())
        assert rows.normalised_mean.tolist() == pytest.approx([float(kappa[0][1]) / root] * 2, rel=1e-4)
        assert float(kappa[0][0]) == pytest.approx(float(s[0].square().sum()) + z.shape[1] / sigma)


@pytest.mark.parametrize("size", [N, 11])
def test_rows_equal_loops_over_pairs(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All statistics, with the whole data or a part as reference, in one chunk or many; no sample meets itself."""
    points = random_points()
    reference = torch.randperm(N, generator=torch.Generator().manual_seed(0))[:size].sort().values
    z, s, entropy = whole(points)
    pairs = [(z[i] - z[j]).square().sum() for i in reference for j in reference if i < j]
    sigma = float(torch.stack(pairs).median())
    expected = slow_rows(z, s, entropy, reference, sigma)
    agree(stein_rows(**points, reference=reference, width=WIDTH), expected)
    monkeypatch.setattr("forgetcast.factors.probes.stein_kernel.CHUNK", 4 * size)
    agree(stein_rows(**points, reference=reference, width=WIDTH), expected)


def test_factors_equal_a_slow_reference_on_a_model() -> None:
    """The score by plain differentiation of log p_y, one sample at a time, and all five factors from it."""
    target = small_target()
    x, y = target.data.fetch(torch.arange(N))
    model = target.module
    scores = []
    for i in range(N):
        leaf = x[i].clone().requires_grad_()
        log_p = model(leaf[None])[0].log_softmax(0)
        scores.append(torch.cat([torch.autograd.grad(log_p[y[i]], leaf)[0], log_p.detach().exp()]))
    s = torch.stack(scores).double()
    z = torch.cat([x, F.one_hot(y, CLASSES)], 1).double()
    p = s[:, WIDTH:]
    expected = slow_rows(z, s, -(p * p.log()).sum(1), torch.arange(N), float(torch.pdist(z).square().median()))
    probes = Probes(target)
    agree(probes.stein, expected)
    for name, value in vars(expected).items():
        found = torch.from_numpy(load_factors()[f"stein_{name}"].compute(probes))
        assert torch.allclose(found, value, rtol=1e-4, atol=1e-4 * float(value.abs().max())), name


def test_the_mean_vanishes_under_the_true_score() -> None:
    """Stein's identity: κ averages to 0 for normal points with the score -x, and not with another score."""
    x = noise(1500, 2)
    none = torch.zeros(1500, 1, dtype=torch.float64)  # one class, no probability: only x is left
    means = []
    for score in (-x, -2 * x):
        rows = stein_rows(
            x.float(), score.float(), score.norm(dim=1), none[:, 0].long(), none, torch.arange(1500), width=1
        )
        means.append(float(rows.mean.mean()))
    assert abs(means[0]) < 0.01
    assert means[1] > 0.1


def test_wide_inputs_share_one_sketch_with_their_gradients() -> None:
    """Of 6,000 columns 4,096 sums are kept of inputs and gradients alike, and the rows stay what they were to 5 %."""
    width = 6000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    y = torch.arange(60) % CLASSES
    x = noise(60, width).float() + 2 * noise(CLASSES, width, seed=5).float()[y]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    probes = Probes(Target(model, (x, y)))
    leaf = x.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(-F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    exact = stein_rows(
        x, gradients, gradients.double().norm(dim=1), y, probes.probabilities, torch.arange(60), width=width
    )
    score = probes._from_gradients("score").narrow
    assert probes._forward.inputs is not None
    assert score.shape == probes._forward.inputs.shape == (60, 4096)
    inner = (score * probes._forward.inputs).sum(1)
    true = (gradients * x).sum(1)
    assert float((inner - true).norm() / (gradients.norm(dim=1) * x.norm(dim=1)).norm()) < 2 / 4096**0.5
    assert torch.allclose(probes.stein.score_norm, exact.score_norm, rtol=1e-4)
    for name in ("mean", "normalised_mean", "entropy_weighted_mean"):
        assert torch.allclose(getattr(probes.stein, name), getattr(exact, name), rtol=0.05), name


def test_the_score_comes_with_the_gradient_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass over the data, forward and backward, with two backward steps a batch; then a few samples once more."""
    target = small_target()
    seen = {"forward": 0, "backward": 0}
    forward, backward = target.forward, torch.autograd.grad
    probes = Probes(target, expected=("gradient_norm", "margin_input_gradient_norm"))
    _ = probes._parameters

    def counted_forward(x: Tensor) -> Tensor:
        seen["forward"] += 1
        return forward(x)

    def counted_backward(*args: Any, **kwargs: Any) -> Any:
        seen["backward"] += 1
        return backward(*args, **kwargs)

    monkeypatch.setattr(target, "forward", counted_forward)
    monkeypatch.setattr("torch.autograd.grad", counted_backward)
    monkeypatch.setattr("forgetcast.factors.probes.gradient_pass._compare", lambda *_: 1.0)
    _ = probes.stein, probes.gradient_norm, probes.margin_input_gradient_norm
    batches = -(-N // 7)
    assert seen == {"forward": batches + 1, "backward": 2 * batches}


def test_a_model_without_measurable_layers_has_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the parameters are too large for a gradient per sample the loss still goes back to the inputs."""
    monkeypatch.setattr("forgetcast.factors.probes.plain_gradients.CHUNK", 1)

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(noise(WIDTH, CLASSES).float())

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x) @ self.weight

    x, y = noise(N, WIDTH).float(), torch.arange(N) % CLASSES
    probes = Probes(Target(Bare(), (x, y)))
    leaf = x.clone().requires_grad_()
    loss = F.cross_entropy(torch.tanh(leaf) @ probes.target.module.weight, y, reduction="sum")
    expected = -torch.autograd.grad(loss, leaf)[0]
    with pytest.raises(NotApplicableError, match="no layer's gradients"):
        _ = probes.gradient_norm
    assert torch.allclose(probes._from_gradients("score").narrow, expected, atol=1e-5)
    assert probes.stein.mean.isfinite().all()


def test_one_sample_has_no_row() -> None:
    """Nothing is left to compare it with."""
    points = random_points(1)
    with pytest.raises(NotApplicableError, match="at least two samples"):
        stein_rows(**points, reference=torch.arange(1), width=WIDTH)


def test_the_bandwidth_is_the_median_and_never_zero() -> None:
    """Data full of copies has a bandwidth from what differs, and data of one point has one all the same."""
    z = noise(9, 4)
    assert bandwidth(z) == pytest.approx(float(torch.pdist(z).square().median()))
    copies = torch.zeros(9, 4)
    copies[0] = 3  # 8 of the 36 pairs are a distance of √36 apart, the others are copies
    assert bandwidth(copies) == pytest.approx(1e-3 * 8)
    assert bandwidth(torch.ones(9, 4)) == 1


def test_steep_models_do_not_overflow() -> None:
    """Gradients of 10¹² in single precision leave every statistic finite and in its range."""
    points = random_points()
    points["gradients"] = 1e12 * points["gradients"]
    points["gradient_norm"] = 1e12 * points["gradient_norm"]
    rows = stein_rows(**points, reference=torch.arange(N), width=WIDTH)
    assert all(value.isfinite().all() for value in vars(rows).values())
    assert (rows.normalised_mean.abs() <= 1).all()
    assert ((rows.expansion >= 1) & (rows.expansion <= N - 1)).all()


def test_the_kernel_can_be_all_that_is_asked_for() -> None:
    """The pass that measures the score records all else that the kernel rests on."""
    alone = [name for name, item in load_factors().items() if item.probes == ("stein",)]
    table = factor_table(clouds(), names=alone)
    assert alone
    assert table.not_applicable == {}
    pd.testing.assert_frame_equal(table.values, factor_table(clouds()).values[list(table.values.columns)])
