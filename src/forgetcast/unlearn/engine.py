"""The label protocol in one place: path, control, goal, crossing, outcome (the project's SCIENCE, section 3).

For every sample the path is walked once for all objectives. On the first step that meets an objective's goal the
engine bisects between the last two points, forwarding only the sample, and evaluates utility once, at the crossing,
against the control at the same strength.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.data import map_leaves
from forgetcast.errors import InputError, UnknownNameError
from forgetcast.target import Target
from forgetcast.unlearn.base import Samples, Unlearner
from forgetcast.unlearn.fisher import sample_gradients
from forgetcast.unlearn.stack import Params, Stack, combine, distance, map_models, mix, rows, stackable

__all__ = ["OUTCOME_COLUMNS", "Protocol", "Workbench", "margins", "run_unlearner", "total_variation"]

OBJECTIVES = ("retrain", "erase")

OUTCOME_COLUMNS = (
    "target",
    "index",
    "unlearner",
    "seed",
    "objective",
    "trivial",
    "reached",
    "forgetting",
    "goal",
    "steps",
    "shift",
    "tv_retain",
    "tv_test",
    "tv_neighbours",
    "accuracy_change_retain",
    "accuracy_change_test",
    "p_before",
    "p_after",
    "margin_before",
    "margin_after",
    "mia_before",
    "mia_after",
    "relearn_steps",
)
"""Columns of an outcome row; one row per target, sample, unlearner, seed and objective."""


@dataclass(frozen=True)
class Protocol:
    """Settings of the measurement. The repr is part of every shard's key."""

    slack: float = 0.05
    """``retrain`` is reached when the true-label probability is at most p_out + slack."""
    bisections: int = 8
    utility_samples: int = 400
    """Size of the retain sample and of the held-out sample that utility is measured on."""
    neighbours: int = 20
    memory_bytes: int = 600 << 20
    """Bound on stacked parameters; decides how many samples are walked together."""
    most_together: int = 64
    relearn_lr: float = 1e-4
    """Rate of the gradient steps on the forgotten sample alone that relearning is counted in."""
    relearn_most: int = 100
    """Steps after which relearning is given up; the outcome then holds this number."""


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """True-label logit minus the largest other logit, (m,)."""
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - others


class Workbench:
    """What all unlearners of one target share: utility data, the target's own predictions, neighbours.

    Raises:
        NotApplicableError: the target has no held-out data (through ``require_heldout``).
    """

    def __init__(self, target: Target, protocol: Protocol) -> None:
        from forgetcast.errors import NotApplicableError

        if target.heldout is None:
            raise NotApplicableError(
                f"target {target.name!r} has no held-out data: pass heldout=(x, y) to Target; "
                "collateral damage is measured on it"
            )
        self.target, self.protocol = target, protocol
        self.retain = _fixed_sample(len(target), protocol.utility_samples, 1)
        self.test = _fixed_sample(len(target.heldout), protocol.utility_samples, 2)
        self.retain_x, self.retain_y = target.data.fetch(self.retain)
        self.test_x, self.test_y = target.heldout.fetch(self.test)
        self.features = self._features()
        self.base = self._answers(target.params, {"retain": self.retain_x, "test": self.test_x})
        """The target's own logits on the retain sample and on the held-out sample."""

    def _features(self) -> Tensor:
        """Unit-length penultimate features, or unit-length inputs where the model has no last linear layer."""
        if self.target.head is not None:
            features = self.target.features()
        else:
            features = torch.cat([_flat(x) for _, x, _ in self.target.data.batches()])
        return F.normalize(features.float(), dim=1)

    def neighbours(self, index: Tensor) -> Tensor:
        """The k nearest retained training samples by cosine, (m, k)."""
        similarity = self.features[index] @ self.features.T
        similarity[torch.arange(len(index)), index] = -torch.inf
        return similarity.topk(min(self.protocol.neighbours, len(self.features) - 1), dim=1).indices

    def utility(self, params: Params, neighbours: Tensor) -> dict[str, Tensor]:
        """Logits of one model on the retain sample, the held-out sample and the neighbours, on the CPU."""
        near, _ = self.target.data.fetch(neighbours)
        return self._answers(params, {"retain": self.retain_x, "test": self.test_x, "neighbours": near})

    def base_utility(self, neighbours: Tensor) -> dict[str, Tensor]:
        """The same of the target itself."""
        near, _ = self.target.data.fetch(neighbours)
        return {**self.base, **self._answers(self.target.params, {"neighbours": near})}

    @torch.no_grad()
    def _answers(self, params: Params, parts: dict[str, Any]) -> dict[str, Tensor]:
        return {name: self.target.call(params, self.target.to_device(x)).float().cpu() for name, x in parts.items()}


def _flat(x: Any) -> Tensor:
    from forgetcast.data import leaves

    return torch.cat([leaf.flatten(1).float() for leaf in leaves(x)], 1)


def _fixed_sample(n: int, size: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:size].sort().values


def run_unlearner(
    target: Target,
    unlearner: Unlearner,
    indices: Sequence[int] | np.ndarray | Tensor,
    p_out: np.ndarray,
    *,
    seed: int = 0,
    objectives: Sequence[str] = OBJECTIVES,
    protocol: Protocol | None = None,
    workbench: Workbench | None = None,
    state: Any = None,
    advance: Callable[[int], Any] | None = None,
) -> pd.DataFrame:
    """Unlearn every sample on its own and measure each at its crossing.

    Args:
        target: needs held-out data; never changed.
        unlearner: what to run.
        indices: samples to forget, each alone, (m,).
        p_out: what models trained without the sample say of its label, (m,); used by ``retrain`` only.
        seed: of the unlearner's random choices; retain batches are the same for all samples.
        objectives: some of "retrain" and "erase".
        protocol: settings of the measurement.
        workbench: shared preparation, to save time over several calls.
        state: what ``unlearner.prepare(target)`` returned, if it was called already.
        advance: called with a number of finished samples, for progress bars.

    Returns:
        One row per sample and objective with the columns ``OUTCOME_COLUMNS``.

    Raises:
        IndexRangeError: an index outside the data.
        UnknownNameError: no such objective.
        InputError: ``p_out`` is not one number per sample, or (for ``retrain``) not finite.
        NotApplicableError: held-out data or a ``train`` callable is missing.
    """
    protocol = protocol or Protocol()
    index = target.data.check_indices(indices)
    answers = _checked(p_out, len(index), objectives)
    bench = workbench or Workbench(target, protocol)
    state = unlearner.prepare(target) if state is None else state
    p_out_of = dict(zip(index.tolist(), answers, strict=True))
    bytes_each = 8 * sum(value.nbytes for value in target.params.values())
    together = max(1, min(protocol.most_together, protocol.memory_bytes // bytes_each))
    frames = []
    for part in index.split(together):
        goals = torch.tensor([p_out_of[i] + protocol.slack for i in part.tolist()])
        crossing = _Crossings(target, bench, Samples.of(target, part), goals, objectives, protocol)
        crossing.follow(unlearner, state, seed)
        frames.append(crossing.frame())
        if advance is not None:
            advance(len(part))
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(0, "target", target.name)
    frame["unlearner"], frame["seed"] = unlearner.name, seed
    return frame[list(OUTCOME_COLUMNS)]


def _checked(p_out: np.ndarray, m: int, objectives: Sequence[str]) -> np.ndarray:
    """``p_out`` as floats, (m,); a NaN would pass for a goal that is met."""
    for objective in objectives:
        if objective not in OBJECTIVES:
            raise UnknownNameError.of("objective", objective, OBJECTIVES)
    answers = np.asarray(p_out, dtype=float)
    if answers.shape != (m,):
        raise InputError(f"p_out: expected one probability for each of the {m} samples; got shape {answers.shape}")
    if "retrain" in objectives and not np.isfinite(answers).all():
        first = int(np.flatnonzero(~np.isfinite(answers))[0])
        raise InputError(
            f"p_out: expected finite numbers for the objective 'retrain'; entry {first} is {answers[first]}"
        )
    return answers


class _Best:
    """The most that was forgotten of every sample so far, and where: for paths that never meet the goal."""

    def __init__(self, value: Tensor, start: tuple[Stack, Stack]) -> None:
        self.value = value
        self.step = torch.zeros(len(value), dtype=torch.long)
        self.points: Sequence[Stack] = start
        """Parameters and control."""

    def update(self, position: Tensor, value: Tensor, step: int, points: Sequence[Stack]) -> None:
        pairs = list(zip(self.points, points, strict=True))
        if not self.step.any():  # still the target's own parameters, one memory for all samples
            pairs = [({name: part[name].clone() for name in new}, new) for part, new in pairs]
            self.points = [part for part, _ in pairs]
        for part, new in pairs:
            for name, rows_of in new.items():
                part[name][position] = rows_of
        self.value[position], self.step[position] = value, step


@dataclass(frozen=True)
class _Span:
    """Some samples with the two points of their paths between which the goal is met."""

    position: Tensor
    step: Any
    """Number of the later point, (m,)."""
    params: tuple[Stack, Stack]
    control: tuple[Stack, Stack]

    @classmethod
    def join(cls, spans: Sequence[_Span]) -> _Span:
        def both(pairs: list[tuple[Stack, Stack]]) -> tuple[Stack, Stack]:
            first, second = (
                {name: torch.cat([pair[side][name] for pair in pairs]) for name in pairs[0][side]} for side in (0, 1)
            )
            return first, second

        steps = torch.cat([torch.full((len(span.position),), float(span.step)) for span in spans])
        position = torch.cat([span.position for span in spans])
        return cls(position, steps, both([s.params for s in spans]), both([s.control for s in spans]))


class _Crossings:
    """Follows the paths of some samples and records the crossing of every objective."""

    def __init__(
        self,
        target: Target,
        bench: Workbench,
        samples: Samples,
        goals: Tensor,
        objectives: Sequence[str],
        protocol: Protocol,
    ) -> None:
        self.target, self.bench, self.samples, self.protocol = target, bench, samples, protocol
        self.stacked = stackable(target.module)
        self.objectives = tuple(objectives)
        self.limits = {"retrain": goals, "erase": torch.zeros_like(goals)}
        logits = samples.logits.float().cpu()
        self.before = {o: self._forgotten(o, logits, torch.arange(len(samples))) for o in self.objectives}
        self.neighbours = bench.neighbours(samples.index)
        self.base = [bench.base_utility(near) for near in self.neighbours]
        self.records: list[dict[str, Any]] = []

    def _forgotten(self, objective: str, logits: Tensor, position: Tensor) -> Tensor:
        """What the goal is about: true-label probability (``retrain``) or margin (``erase``), (m,), on the CPU."""
        labels = self.samples.y[position].cpu()
        if objective == "retrain":
            return logits.softmax(1).gather(1, labels[:, None])[:, 0]
        return margins(logits, labels)

    def _sample_logits(self, params: Stack, position: Tensor) -> Tensor:
        """Every model's logits of its own sample, (m, classes), on the CPU."""
        x = map_leaves(lambda leaf: leaf[position], self.samples.x)
        with torch.no_grad():
            logits = map_models(
                lambda p, one: self.target.call(p, map_leaves(lambda leaf: leaf[None], one))[0],
                params,
                x,
                stacked=self.stacked,
            )
        return logits.float().cpu()

    def follow(self, unlearner: Unlearner, state: Any, seed: int) -> None:
        """Walk until every sample has crossed every objective, or the path ends."""
        open_goals = {o: self.before[o] > self.limits[o] for o in self.objectives}
        for objective, still in open_goals.items():
            for k in (~still).nonzero().flatten().tolist():
                self._record_trivial(objective, k)
        active = torch.stack(list(open_goals.values())).any(0).nonzero().flatten()
        if len(active) == 0:
            return
        walk = unlearner.walk(self.target, state, self.samples.take(active), seed)
        previous: tuple[Stack, Stack] | None = None
        best: dict[str, _Best] = {}
        spans: dict[str, list[_Span]] = {o: [] for o in self.objectives}
        t = 0
        while len(active) and (point := walk.step()) is not None:
            t += 1
            if previous is None:
                previous = self._start(len(active), point)
                start = self._start(len(self.samples), point)
                best = {o: _Best(self.before[o].clone(), start) for o in self.objectives}
            logits = self._sample_logits(point[0], active)
            for objective in self.objectives:
                value = self._forgotten(objective, logits, active)
                waiting = open_goals[objective][active]
                crossed = waiting & (value <= self.limits[objective][active])
                if crossed.any():
                    local = crossed.nonzero().flatten()
                    pair = [(rows(start, local), rows(end, local)) for start, end in zip(previous, point, strict=True)]
                    spans[objective].append(_Span(active[local], t, *pair))
                    open_goals[objective][active[crossed]] = False
                better = (waiting & ~crossed & (value < best[objective].value[active])).nonzero().flatten()
                if len(better):
                    best[objective].update(active[better], value[better], t, [rows(part, better) for part in point])
            keep = torch.stack([open_goals[o][active] for o in self.objectives]).any(0)
            previous = point
            if not keep.all():
                kept = keep.nonzero().flatten()
                walk.keep(kept)
                active = active[kept]
                previous = (rows(point[0], kept), rows(point[1], kept))
        for objective in self.objectives:
            if spans[objective]:
                self._cross(objective, _Span.join(spans[objective]), walk.discrete)
            never = open_goals[objective].nonzero().flatten()
            if len(never):
                found = best[objective]
                end, control = (rows(part, never) for part in found.points)
                self._record_all(objective, never, end, control, found.step[never].float(), reached=False)

    def _start(self, m: int, like: tuple[Stack, Stack]) -> tuple[Stack, Stack]:
        """Strength 0: the target itself."""
        state = {**self.target.buffers, **self.target.params}
        start = {name: state[name].expand(m, *state[name].shape) for name in like[0]}
        return start, start

    def _cross(self, objective: str, span: _Span, discrete: bool) -> None:
        """Bisect between the two points around every crossing, all samples together, then record them."""
        high = torch.ones(len(span.position))
        (start, end), (start_control, end_control) = span.params, span.control
        if not discrete:
            low = torch.zeros(len(span.position))
            for _ in range(self.protocol.bisections):
                middle = (low + high) / 2
                logits = self._sample_logits(mix(start, end, middle), span.position)
                met = self._forgotten(objective, logits, span.position) <= self.limits[objective][span.position]
                high, low = torch.where(met, middle, high), torch.where(met, low, middle)
            end, end_control = mix(start, end, high), mix(start_control, end_control, high)
        self._record_all(objective, span.position, end, end_control, span.step - 1 + high, reached=True)

    def _record_all(
        self, objective: str, position: Tensor, params: Stack, control: Stack, steps: Tensor, *, reached: bool
    ) -> None:
        again = self._relearn(params, position)
        for k, where in enumerate(position.tolist()):
            self._record(
                objective,
                where,
                _one(params, k),
                _one(control, k),
                float(steps[k]),
                relearn=int(again[k]),
                reached=reached,
            )

    def _relearn(self, params: Stack, position: Tensor) -> Tensor:
        """Gradient steps on the sample itself until its true-label probability has regained half of its loss, (m,).

        Half-way, for at the crossing of ``erase`` the sample lies on the boundary, and any step recognises it again.
        """
        before = self._forgotten("retrain", self.samples.logits[position].float().cpu(), position)
        counts = torch.zeros(len(position), dtype=torch.long)
        goal: Tensor | None = None
        left = torch.arange(len(position))
        for step in range(self.protocol.relearn_most + 1):
            value = self._forgotten("retrain", self._sample_logits(params, position[left]), position[left])
            goal = (before + value) / 2 if goal is None else goal
            on = (value < goal[left]).nonzero().flatten()
            left, params = left[on], rows(params, on)
            if len(left) == 0 or step == self.protocol.relearn_most:
                break
            counts[left] += 1
            own = self.samples.take(position[left])
            gradient = sample_gradients(self.target, own.x, own.y, params)
            weights = combine({name: params[name] for name in gradient}, gradient, -self.protocol.relearn_lr)
            params = {**params, **weights}
        return counts

    def _record_trivial(self, objective: str, k: int) -> None:
        params = self.target.params
        self._record(objective, k, params, params, 0.0, trivial=True)

    def _record(
        self,
        objective: str,
        k: int,
        params: Params,
        control: Params,
        steps: float,
        *,
        relearn: int = 0,
        reached: bool = True,
        trivial: bool = False,
    ) -> None:
        near, base = self.neighbours[k], self.base[k]
        after = base if trivial else self.bench.utility(params, near)
        same = trivial or all(torch.equal(control[name], value) for name, value in self.target.params.items())
        reference = base if same else self.bench.utility(control, near)
        label = self.samples.y[k : k + 1].cpu()
        before = self.samples.logits[k : k + 1].float().cpu()
        one = {name: value[None] for name, value in params.items()}
        now = before if trivial else self._sample_logits(one, torch.tensor([k]))
        kept = self.bench.retain != self.samples.index[k]
        start, limit = float(self.before[objective][k]), float(self.limits[objective][k])
        value = float(self._forgotten(objective, now, torch.tensor([k])))
        forgetting = 1.0 if reached else float(np.clip((start - value) / max(start - limit, 1e-12), 0, 1))
        stacked_control = {name: control[name][None] for name in params}
        self.records.append(
            {
                "index": int(self.samples.index[k]),
                "objective": objective,
                "trivial": trivial,
                "reached": reached,
                "forgetting": forgetting,
                "goal": limit,
                "steps": steps,
                "shift": float(distance(one, stacked_control, self.target.params)),
                "tv_retain": total_variation(after["retain"][kept], reference["retain"][kept]),
                "tv_test": total_variation(after["test"], reference["test"]),
                "tv_neighbours": total_variation(after["neighbours"], reference["neighbours"]),
                "accuracy_change_retain": _accuracy_change(
                    after["retain"][kept], reference["retain"][kept], self.bench.retain_y[kept]
                ),
                "accuracy_change_test": _accuracy_change(after["test"], reference["test"], self.bench.test_y),
                "p_before": float(before.softmax(1)[0, label]),
                "p_after": float(now.softmax(1)[0, label]),
                "margin_before": float(margins(before, label)),
                "margin_after": float(margins(now, label)),
                "mia_before": self._membership(before, label, base["test"]),
                "mia_after": self._membership(now, label, after["test"]),
                "relearn_steps": relearn,
            }
        )

    def _membership(self, logits: Tensor, label: Tensor, test_logits: Tensor) -> float:
        """Membership evidence: share of held-out samples of the class (all, when fewer than 5) with a higher loss.

        0.5 on average for a sample the model never saw; near 1 for one it memorized (loss attack of Yeom et al. 2018,
        arXiv 1709.01604, per class).
        """
        same = self.bench.test_y == label
        pool = same if int(same.sum()) >= 5 else torch.ones_like(same)
        loss = F.cross_entropy(logits, label)
        losses = F.cross_entropy(test_logits[pool], self.bench.test_y[pool], reduction="none")
        return float((losses > loss).float().mean() + 0.5 * (losses == loss).float().mean())

    def frame(self) -> pd.DataFrame:
        """The records in the order of samples and objectives."""
        frame = pd.DataFrame(self.records)
        order = {index: k for k, index in enumerate(self.samples.index.tolist())}
        keys = frame["index"].map(order) * len(self.objectives) + frame["objective"].map(self.objectives.index)
        return frame.iloc[keys.argsort(kind="stable")].reset_index(drop=True)


def _one(stack: Stack, k: int) -> Params:
    return {name: value[k].clone() for name, value in stack.items()}


def total_variation(a: Tensor, b: Tensor) -> float:
    """Mean total-variation distance between two models' predictions, in [0, 1]."""
    return float((a.softmax(1) - b.softmax(1)).abs().sum(1).mean() / 2)


def _accuracy_change(a: Tensor, b: Tensor, labels: Tensor) -> float:
    return float((a.argmax(1) == labels).float().mean() - (b.argmax(1) == labels).float().mean())
