"""The passes over a target's data that probes rest on: which are made, and what each measures."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from forgetcast.errors import NotApplicableError
from forgetcast.factors.probes.gradient_pass import (
    Parameters,
    UnexplainedError,
    gradient_batch,
    gradient_pass,
    measured_parameters,
)
from forgetcast.factors.probes.probe import probe
from forgetcast.factors.probes.recorder import Forward, Recorder, hidden_layers, narrow, widest
from forgetcast.factors.probes.reference import reference_size
from forgetcast.target.content_order import content_order
from forgetcast.target.data import Data
from forgetcast.target.inputs import Inputs
from forgetcast.target.layers import Layout, layout, reproducible
from forgetcast.target.seeding import sample_positions
from forgetcast.target.target import Target

__all__ = ["Passes"]

FISHER = 5000
"""Samples that the Fisher diagonal is estimated on, at most."""

DAMPING = 1e-3
"""What is added to every entry of the Fisher diagonal, in units of its mean."""

FROM_GRADIENTS = {
    "gradient_norm": "squares",
    "self_influence": "influence",
    "margin_input_gradient_norm": "margin",
    "stein": "score",
}
"""Probes that rest on gradients of single samples, with the quantity of ``gradient_pass`` they need."""


class Passes:
    """Forward and backward passes over the data of a target, as few as the expected probes need.

    The training data is read in order, in batches, and only as often as this: once for everything that
    comes out of a forward pass (logits, features, early and middle layer, inputs) and for all expected probes that rest
    on gradients, together; a second time where ``rows`` are given (those rows alone), where a probe that rests on
    gradients was not expected, or where the model cannot be differentiated; up to 5000 samples once more, before, for
    ``self_influence``; and for every checkpoint of a trajectory once, and once more if its gradients are asked for.
    Held-out data is read once. A few tiny passes over copies of the first sample and over twelve samples find the
    layers and check them; one sample of some batches is looked at once more. No batch is kept: memory holds the rows of
    features, early and middle layer and inputs (4 bytes a number; at most 512 numbers a row, or 4 million in all), what
    follows from them, and one batch. The target stays as it is.

    The arguments are those of ``forgetcast.factors.probes.probes.Probes``.
    """

    def __init__(
        self,
        target: Target,
        seed: int = 0,
        progress: bool = False,
        expected: Collection[str] = (),
        rows: Tensor | None = None,
    ) -> None:
        self.target = target
        self.rows = rows
        self.seed = seed
        self.progress = progress
        self.expected = frozenset(expected)
        self.notes: dict[str, str] = {}
        """What a probe had to leave out, by probe."""
        self._kept: dict[str, Any] = {}
        self._gradients: dict[str, Any] = {}

    def _measured(self) -> None:
        """Called after a pass, for what is to be computed while all that it measured is there."""

    @probe
    def _forward(self) -> Forward:
        if self.rows is None and self._expected_from_gradients:
            self._measure(self._expected_from_gradients)
            self._measured()
        return self._kept.get("_forward") or self._run(self.target.data, "forward", hidden=True)

    @torch.no_grad()
    def _run(self, data: Data, what: str, *, hidden: bool) -> Forward:
        """One forward pass over ``data``; with ``hidden`` also keeps hidden layers and inputs."""
        target = self.target
        recorder = self._recorder(data, hidden)
        with reproducible(target, self.seed), recorder:
            for index, x, _y in recorder.watched(self._batches(data, target.batch_size, what)):
                with target.running(data, index):
                    target.forward(target.to_device(x))
        found = recorder.result()
        with reproducible(target, self.seed):
            target.check_steady(data, found.logits)
        return found

    def _from_gradients(self, name: str) -> Any:
        """The quantity of ``FROM_GRADIENTS`` called ``name``, measured along with all others that are expected."""
        if name not in self._gradients:
            self._measure({name} | self._expected_from_gradients)
            if name != "score":  # which is asked for by what computes with it
                self._measured()
        value = self._gradients[name]
        if isinstance(value, NotApplicableError):
            raise NotApplicableError(str(value))
        return value

    @property
    def _expected_from_gradients(self) -> set[str]:
        return {quantity for probe, quantity in FROM_GRADIENTS.items() if probe in self.expected}

    def _measure(self, wanted: set[str]) -> None:
        """Measure quantities that rest on gradients, again where a layer turns out not to be what it was taken for."""
        try:
            self._measure_once(wanted)
        except UnexplainedError as found_out:
            self._kept["_parameters"] = self._parameters.without(self.target, found_out.parts)
            self._kept["_layout"] = self._layout.without(found_out.parts)
            for name in ("squares", "influence"):
                self._gradients.pop(name, None)
            for name in ("_fisher_weights", "gradient_norm", "self_influence"):
                self._kept.pop(name, None)
            self._measure(wanted)

    def _measure_once(self, wanted: set[str]) -> None:
        """The first pass over all data also gives what ``_forward`` does."""
        wanted = wanted - self._gradients.keys()
        _ = self._parameters  # first, while no hook of our own is on the model
        weights = None
        if "influence" in wanted:
            try:
                weights = self._fisher_weights
            except NotApplicableError as reason:
                self._gradients["influence"] = reason
                wanted.remove("influence")
        measure = partial(self._differentiate, wanted, weights=weights)
        if self.rows is not None or "_forward" in self._kept:
            self._gradients |= measure(rows=self._gradient_rows)
            return
        if self.expected and self.expected <= FROM_GRADIENTS.keys() and "score" not in wanted:
            self._gradients |= measure()  # nothing else is asked for, so nothing is recorded
            return
        recorder = self._recorder(self.target.data, hidden=True)
        with recorder:
            self._gradients |= measure(recorder=recorder)
        if recorder.complete:
            self._kept["_forward"] = recorder.result()
            with reproducible(self.target, self.seed):
                self.target.check_steady(self.target.data, self._kept["_forward"].logits)

    def _differentiate(
        self,
        wanted: set[str],
        *,
        weights: dict[str, Tensor] | None = None,
        rows: Tensor | None = None,
        recorder: Recorder | None = None,
    ) -> dict[str, Any]:
        """One forward and backward pass over the training data, or over some rows of it."""
        target = self.target
        size = gradient_batch(target, self._layout.activations)
        with reproducible(target, self.seed):
            batches, n = self._batches(target.data, size, "gradients", rows), len(target if rows is None else rows)
            if recorder is not None:
                batches = recorder.watched(batches)
            sketch = partial(narrow, seed=self.seed + 1, most=widest(len(target)))
            return gradient_pass(target, self._parameters, batches, n, wanted, weights=weights, narrow=sketch)

    @probe
    def _layout(self) -> Layout:
        with reproducible(self.target, self.seed):
            return layout(self.target)

    @probe
    def _parameters(self) -> Parameters:
        with reproducible(self.target, self.seed):
            return measured_parameters(self.target, self._layout)

    @probe
    def _fisher_weights(self) -> dict[str, Tensor]:
        """1/F by group of parameters, and by "" for the parameters that no sample moved."""
        fisher = self._differentiate({"fisher"}, rows=self._drawn(self.target.data, FISHER))["fisher"]
        if isinstance(fisher, NotApplicableError):
            raise fisher
        size = sum(self.target.params[name].numel() for name in self._parameters.names())
        floor = max(DAMPING * sum(float(part.sum()) for part in fisher.values()) / size, 1e-30)
        return {"": torch.tensor(1 / floor), **{name: 1 / (part + floor) for name, part in fisher.items()}}

    @probe
    def _gradient_rows(self) -> Tensor:
        """Numbers of the samples whose gradients are measured, sorted: those asked for and the reference sample."""
        n = len(self.target)
        return torch.arange(n) if self.rows is None else torch.cat([self.rows, self.reference]).unique()

    def _note_left_out(self, name: str) -> None:
        """Note what a probe that rests on gradients leaves out."""
        left_out = self._parameters.left_out
        notes = [_left_out(self.target.params, left_out)] if left_out else []
        if counted := _frozen_share(self.target):
            notes.append(counted)
        if notes:
            self.notes[name] = "; ".join(notes)

    def _batches(
        self, data: Data, size: int, what: str, rows: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        total = -(-(len(data) if rows is None else len(rows)) // size)
        batches = data.batches(size) if rows is None else ((part, *data.fetch(part)) for part in rows.split(size))
        return iter(tqdm(batches, total=total, desc=what, unit="batch", disable=not self.progress, leave=False))

    def _recorder(self, data: Data, hidden: bool) -> Recorder:
        layers = hidden_layers(self._layout, self.target.head) if hidden else {}
        return Recorder(self.target, data, layers, inputs=hidden, seed=self.seed, width=widest(len(self.target)))

    @property
    def _device(self) -> torch.device | str:
        """Where large matrix products are taken."""
        return self.target.device if self.target.device.type == "cuda" else "cpu"

    # -- the rows asked for -----------------------------------------------------------------------------------

    def _chosen(self, values: Tensor) -> Tensor:
        """Those of n rows of values that are asked for."""
        return values if self.rows is None else values[self.rows]

    def _placed(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Values of some rows (default: those asked for) among n, NaN elsewhere."""
        if self.rows is None:
            return values
        rows = self.rows if rows is None else rows
        return values.new_full((len(self.target), *values.shape[1:]), torch.nan).index_copy_(0, rows, values)

    # -- samples that stand for all ---------------------------------------------------------------------------

    @probe
    def _by_content(self) -> tuple[Tensor, Tensor]:
        """Samples in the order of their content, and every sample's class numbered likewise, both of shape (n,)."""
        order, rank = content_order(self.target.data, self.target.num_classes)
        return order, rank[self.target.labels]

    @probe
    def reference(self) -> Tensor:
        """Numbers of the training samples that collateral is measured on, sorted, shape (m,), m <= n."""
        return self._drawn(self.target.data, self._references)

    @property
    def _references(self) -> int:
        """Samples that stand for all."""
        return reference_size(len(self.target), self.target.num_classes)

    def _drawn(self, data: Data, most: int) -> Tensor:
        """Numbers of at most so many samples, sorted; drawn by content, so that they move with the samples."""
        order = self._by_content[0] if data is self.target.data else torch.from_numpy(np.argsort(data.content_hashes()))
        return order[sample_positions(len(data), most, self.seed)].sort().values


def _frozen_share(target: Target) -> str:
    """What the user may not have meant where some or all parameters are frozen."""
    frozen, whole = target.frozen, sum(p.numel() for p in target.module.parameters())
    if frozen == 0:
        return ""
    if frozen == whole:
        return "every parameter is frozen (requires_grad=False), so all count as if they were trained"
    return f"counts {1 - frozen / whole:.1%} of the parameters; the others are frozen (requires_grad=False)"


def _left_out(params: dict[str, Tensor], names: list[str]) -> str:
    sizes = {name: parameter.numel() for name, parameter in params.items()}
    share = sum(sizes[name] for name in names) / max(1, sum(sizes.values()))
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"leaves out {share:.1%} of the parameters: {listed}"
