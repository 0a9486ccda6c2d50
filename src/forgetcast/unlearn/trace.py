"""One sample followed along whole paths, for pictures: labels come from the engine, which looks at crossings only."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pandas as pd
import torch

from forgetcast.errors import PluginError, PluginWarning
from forgetcast.registry import UNLEARNER_GROUP, raised, third_party
from forgetcast.target.logits import margin, single, true_probability
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target
from forgetcast.unlearn.base import Samples, Unlearner
from forgetcast.unlearn.outcome import total_variation
from forgetcast.unlearn.protocol import Protocol
from forgetcast.unlearn.stack import Params, distance
from forgetcast.unlearn.workbench import Workbench

__all__ = ["trace"]


@own_settings()
def trace(
    target: Target,
    index: int,
    unlearners: Sequence[Unlearner],
    *,
    seed: int = 0,
    most_steps: int = 40,
    protocol: Protocol | None = None,
) -> pd.DataFrame:
    """Forgetting and collateral damage at every step of one sample's path under several unlearners.

    Unlike a measurement it evaluates utility at every step, so it is slow and meant for looking.

    Args:
        target: with held-out data; never changed.
        index: the sample.
        unlearners: which paths.
        seed: of the paths.
        most_steps: where a path is cut.
        protocol: sizes of the retain and held-out samples and of the neighbourhood.

    Returns:
        unlearner, step (0 is the target itself), p (true-label probability), margin, shift (‖θ - θc‖), and mean total
        variation to the control: tv_retain, tv_test, tv_neighbours. A path ends once the margin is below -2.

    Raises:
        IndexRangeError: no such sample.
        NotApplicableError: no held-out data.
        PluginError: all unlearners come from plugins that failed; one that fails beside others is left out and warned
            of.
    """
    target = target.full_precision
    position = target.data.check_indices([index])
    bench = Workbench(target, protocol or Protocol())
    samples = Samples.of(target, position)
    near = bench.neighbours(position)
    kept = (bench.retain != index).float()
    sizes = [len(bench.retain), len(bench.test)]
    records: list[dict[str, object]] = []

    def record(name: str, step: int, params: Params, control: Params) -> float:
        with torch.no_grad():
            logits = single(target.call(params, samples.x)).cpu()
        after, reference = (
            (*bench.utility(part).split(sizes), bench.neighbour_logits_of_one(part, near)) for part in (params, control)
        )
        labels = samples.y.cpu()
        lead = float(margin(logits, labels))
        one, other = ({n: value[None] for n, value in part.items()} for part in (params, control))
        records.append(
            {
                "unlearner": name,
                "step": step,
                "p": float(true_probability(logits, labels)),
                "margin": lead,
                "shift": float(distance(one, other, target.params)),
                "tv_retain": float(total_variation(after[0], reference[0], kept)),
                "tv_test": float(total_variation(after[1], reference[1])),
                "tv_neighbours": float(total_variation(after[2], reference[2])),
            }
        )
        return lead

    failed = ""
    for unlearner in unlearners:
        before = len(records)
        try:
            record(unlearner.name, 0, target.params, target.params)
            path = unlearner.path(target, unlearner.prepare(target), samples, seed)
            for step, (params, control) in enumerate(path, 1):
                if record(unlearner.name, step, params, control) < -2 or step >= most_steps:
                    break
        except Exception as error:
            plugin = third_party(UNLEARNER_GROUP, unlearner.name)
            if plugin is None:
                raise
            del records[before:]
            failed = f"{plugin} raised {raised(error)}"
            warnings.warn(f"{failed}; it is left out", PluginWarning, stacklevel=2)
    if failed and not records:
        raise PluginError(f"{failed}: no path is left to show")
    return pd.DataFrame(records)
