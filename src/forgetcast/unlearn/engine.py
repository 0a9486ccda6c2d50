"""The label protocol in one place: path, control, goal, crossing, outcome (``docs/how_it_works/label.md``).

The engine walks every sample's path once for all objectives. On the first step that meets an objective's goal it
bisects between the last two points, forwarding only the sample. It evaluates utility once, at the crossing, against the
control at the same strength.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from forgetcast.errors import InputError, ModelError, UnknownNameError, shortened
from forgetcast.objectives import OBJECTIVES
from forgetcast.target.logits import single
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target
from forgetcast.unlearn.base import Samples, Unlearner
from forgetcast.unlearn.control import ControlPath
from forgetcast.unlearn.crossing import first_met
from forgetcast.unlearn.inference import own_logits
from forgetcast.unlearn.outcome import Crossed, Measure, goal_values
from forgetcast.unlearn.protocol import OUTCOME_COLUMNS, Protocol
from forgetcast.unlearn.stack import Stack, mix, rows
from forgetcast.unlearn.workbench import Workbench

__all__ = ["OUTCOME_COLUMNS", "Protocol", "run_unlearner"]

STACKS = 12
"""Stacks of parameters that are held at once at most: present and last point, gradient, and for either objective the
two points around the crossing and the best one."""


@own_settings()
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
        target: needs held-out data; never changed. Half-precision weights are held as float32
            (``Target.full_precision``).
        unlearner: what to run.
        indices: samples to forget, each alone, (m,).
        p_out: what models trained without the sample say of its label, (m,); used by ``retrain`` only.
        seed: of the unlearner's random choices; retain batches are the same for all samples.
        objectives: some of "retrain" and "erase".
        protocol: settings of the measurement.
        workbench: shared preparation, to save time over several calls; its settings hold where none are given.
        state: what ``unlearner.prepare(target.full_precision)`` returned, if it was called already.
        advance: called with a number of finished samples, for progress bars.

    Returns:
        One row per sample and objective with the columns ``OUTCOME_COLUMNS``.

    Raises:
        IndexRangeError: an index outside the data.
        UnknownNameError: no such objective.
        InputError: ``p_out`` is not one number per sample, or (for ``retrain``) not finite.
        NotApplicableError: held-out data or a ``train`` callable is missing.
        ModelError: logits under which nothing can be measured.
    """
    target = target.full_precision
    protocol = protocol or (Protocol() if workbench is None else workbench.protocol)
    index = target.data.check_indices(indices)
    answers = _checked(p_out, len(index), objectives)
    bench = workbench or Workbench(target, protocol)
    state = unlearner.prepare(target) if state is None else state
    p_out_of = dict(zip(index.tolist(), answers, strict=True))
    bytes_each = STACKS * sum(value.nbytes for value in target.params.values())
    together = max(1, min(protocol.most_together, protocol.memory_bytes // bytes_each))
    frames = []
    for part in index.split(together):
        goals = torch.tensor([p_out_of[i] + protocol.slack for i in part.tolist()])
        crossings = _Crossings(target, bench, Samples.of(target, part), goals, objectives, protocol)
        frames.append(crossings.outcomes(unlearner, state, seed))
        if advance is not None:
            advance(len(part))
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(0, "target", target.name)
    frame["unlearner"], frame["seed"] = unlearner.name, seed
    measured = frame.drop(columns="relearn_steps").select_dtypes("number")
    if wrong := frame.loc[~np.isfinite(measured.to_numpy(float)).all(axis=1), "index"].unique().tolist():
        raise ModelError(
            f"the model returned NaN or infinite logits while {unlearner.name} unlearned samples "
            f"{shortened([str(index) for index in wrong])}: nothing can be measured there; its logits must be finite "
            "for parameters nearby too"
        )
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

    def __init__(self, value: Tensor, start: Stack) -> None:
        self.value = value
        self.step = torch.zeros(len(value), dtype=torch.long)
        self.params = start

    def update(self, position: Tensor, value: Tensor, step: int, params: Stack) -> None:
        if not self.step.any():  # still the target's own parameters, one memory for all samples
            self.params = {name: self.params[name].clone() for name in params}
        for name, new in params.items():
            self.params[name][position] = new
        self.value[position], self.step[position] = value, step


@dataclass(frozen=True)
class _Span:
    """Some samples with the two points of their paths between which the goal of one objective is met."""

    position: Tensor
    objective: int
    step: int
    """Number of the later point."""
    start: Stack
    end: Stack
    values: Tensor
    """What the goal is about, at both points, (2, r)."""


class _Crossings:
    """Follows the paths of some samples and finds the crossing of every objective."""

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
        self.objectives = tuple(objectives)
        limits = {"retrain": goals, "erase": torch.zeros_like(goals)}
        self.limits = torch.stack([limits[o] for o in self.objectives])
        """What every objective's goal asks for, (objectives, m)."""
        self.before = goal_values(self.objectives, single(samples.logits).cpu(), samples.y.cpu())
        """The same of the target, (objectives, m)."""
        self.open = self.before > self.limits
        self.control = ControlPath(target, bench)

    def _values(self, params: Stack, position: Tensor) -> Tensor:
        """What the goals are about, for every model and its own sample, (objectives, r)."""
        own = self.samples.take(position)
        return goal_values(self.objectives, own_logits(self.target, params, own.x), own.y.cpu())

    def outcomes(self, unlearner: Unlearner, state: Any, seed: int) -> pd.DataFrame:
        """Walk until every sample has crossed every objective or the path ends, and measure there."""
        spans, best, discrete = self._follow(unlearner, state, seed)
        crossed = [self._bisect(spans, discrete)] if spans else []
        for objective, found in enumerate(best):
            never = self.open[objective].nonzero().flatten()
            if len(never):
                step = found.step[never]
                end = rows(found.params, never)
                whole = torch.ones(len(never))
                crossed.append(Crossed(never, torch.full_like(never, objective), step, whole, end, reached=False))
        measure = Measure(
            self.target,
            self.bench,
            self.samples,
            self.objectives,
            self.limits,
            self.before,
            self.control,
            self.protocol,
        )
        return measure.frame(crossed)

    def _follow(self, unlearner: Unlearner, state: Any, seed: int) -> tuple[list[_Span], list[_Best], bool]:
        spans: list[_Span] = []
        best: list[_Best] = []
        active = self.open.any(0).nonzero().flatten()
        if len(active) == 0:
            return spans, best, False
        walk = unlearner.walk(self.target, state, self.samples.take(active), seed)
        previous: Stack | None = None
        last = self.before[:, active]
        t = 0
        while len(active) and (point := walk.step()) is not None:
            t += 1
            params, control = point
            if previous is None:
                previous = self._start(len(active), params)
                start = self._start(len(self.samples), params)
                best = [_Best(before.clone(), start) for before in self.before]
            self.control.add(t, control)
            values = self._values(params, active)
            for objective, value in enumerate(values):
                waiting = self.open[objective, active]
                crossed = waiting & (value <= self.limits[objective, active])
                if crossed.any():
                    local = crossed.nonzero().flatten()
                    points = rows(previous, local), rows(params, local)
                    around = torch.stack([last[objective, local], value[local]])
                    spans.append(_Span(active[local], objective, t, *points, around))
                    self.open[objective, active[local]] = False
                better = (waiting & ~crossed & (value < best[objective].value[active])).nonzero().flatten()
                if len(better):
                    best[objective].update(active[better], value[better], t, rows(params, better))
            kept = self.open[:, active].any(0).nonzero().flatten()
            previous, last = params, values[:, kept]
            if len(kept) < len(active):
                walk.keep(kept)
                active = active[kept]
                previous = rows(params, kept)
            used = {step for span in spans for step in (span.step - 1, span.step)}
            used |= {t, *(step for k, found in enumerate(best) for step in found.step[self.open[k]].tolist())}
            self.control.keep(used)
        return spans, best, walk.discrete

    def _start(self, m: int, like: Stack) -> Stack:
        """Strength 0: the target itself."""
        state = {**dict(self.target.module.named_parameters()), **self.target.buffers}
        return {name: state[name].expand(m, *state[name].shape) for name in like}

    def _bisect(self, spans: list[_Span], discrete: bool) -> Crossed:
        """Bisect between the two points around every crossing, all samples and objectives together."""
        position = torch.cat([span.position for span in spans])
        objective = torch.cat([torch.full_like(span.position, span.objective) for span in spans])
        later = torch.cat([torch.full_like(span.position, span.step) for span in spans])
        end = {name: torch.cat([span.end[name] for span in spans]) for name in spans[0].end}
        fraction = torch.ones(len(position))
        if not discrete:
            start = {name: torch.cat([span.start[name] for span in spans]) for name in end}
            probability = torch.tensor([name == "retrain" for name in self.objectives])[objective]

            def straight(values: Tensor, chosen: Tensor) -> Tensor:
                """Log-odds for probabilities: along a step they are nearly linear, as margins are."""
                values = values.double()
                return torch.where(probability[chosen], values.logit(1e-12), values)

            def value(chosen: Tensor, fraction: Tensor) -> Tensor:
                whole = len(chosen) == len(position)
                a, b = (start, end) if whole else (rows(start, chosen), rows(end, chosen))
                values = self._values(mix(a, b, fraction), position[chosen])
                return straight(values.gather(0, objective[chosen][None])[0], chosen)

            every = torch.arange(len(position))
            before, after = (straight(values, every) for values in torch.cat([span.values for span in spans], 1))
            spans.clear()
            limit = straight(self.limits[objective, position], every)
            fraction = first_met(value, limit, before, after, self.protocol.bisections).float()
            end = mix(start, end, fraction)
        return Crossed(position, objective, later, fraction, end, reached=True)
