"""New factors for a corpus that is there: a factor is computed in seconds, an outcome in hours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from forgetcast._arguments import checked
from forgetcast.corpus.corpus import Corpus, corpus_folder
from forgetcast.corpus.growth import replace_unchanged
from forgetcast.corpus.tasks import factor_rows
from forgetcast.corpus.zoo.recipes import Recipe, built
from forgetcast.errors import InputError, NotApplicableError
from forgetcast.files.stores import Place
from forgetcast.parallel import run_tasks
from forgetcast.target.target import Target

__all__ = ["refresh_factors"]


@checked()
def refresh_factors(
    folder: str | Path | Place,
    targets: Sequence[Target | Recipe | Callable[[], Target]] = (),
    *,
    trajectory: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Corpus:
    """Work out the factors of a corpus anew, with all that are registered now, and write it back.

    For the author of a factor, or of a new version of one: outcomes stay as they were measured.

    Args:
        folder: the corpus, on disk or in a store.
        targets: its targets; those not given are made again from the recipe in the manifest. Each must be the very
            model and data that were measured.
        trajectory: make targets from recipes with the trajectory of their training run, for the factors that need it.
        seed: of the factors, as in ``generate_corpus``.
        n_jobs: targets worked on at a time, as in joblib; None obeys ``joblib.parallel_config``. The factors are the
            same, to the bit, for any number.
        progress: a bar on stderr.

    Returns:
        The corpus, as written. Nothing is written unless all targets were there. A factor of a plugin that raises has
        no values, and the manifest says why under ``left_out``.

    Raises:
        InputError: a target that the corpus does not hold, or that is not the model or data that were measured, or the
            corpus was changed by another run meanwhile.
        NotApplicableError: a target was not given and has no recipe.
        PathError, SchemaError, FileFormatError: as :meth:`Corpus.read`.

    """
    corpus = Corpus.read(folder)
    known = corpus.targets.set_index("target")
    given = {target.name: target for target in map(built, targets)}
    if unknown := sorted(given.keys() - set(known.index)):
        raise InputError(f"the corpus {folder} has no target {unknown[0]!r}; it has {', '.join(known.index)}")
    samples = corpus.instances.groupby("target")["index"]
    tasks = [
        (name, given.get(name), known.loc[name], samples.get_group(name), trajectory, seed) for name in known.index
    ]
    parts = run_tasks(_rows, tasks, n_jobs=n_jobs, title="factors", progress=progress, in_turn=True)
    before = corpus.manifest.get("left_out", {})
    left_out = {what: why for what, why in before.items() if not what.startswith("factor ")}
    for _, failed in parts:
        left_out |= failed
    manifest = {name: value for name, value in corpus.manifest.items() if name != "left_out"}
    manifest |= {"files": {}} | ({"left_out": left_out} if left_out else {})
    factors = pd.concat([rows for rows, _ in parts], ignore_index=True)
    fresh = replace(corpus, factors=factors, manifest=manifest)
    replace_unchanged(corpus_folder(folder), corpus, fresh)
    return fresh


def _rows(
    name: str, target: Target | None, described: pd.Series, index: pd.Series, trajectory: bool, seed: int
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Factors of one target's samples, if it is the one that was measured, and why those of plugins failed."""
    target = target or _from_recipe(name, described, trajectory)
    for what in ("model_hash", "data_hash"):
        if getattr(target, what) != described[what]:
            raise InputError(
                f"target {name!r} is not the one that was measured (its {what.replace('_', ' ')} differs): factors "
                "of another model say nothing about these outcomes. Training may round otherwise on another machine"
            )
    return factor_rows(target, index, seed)


def _from_recipe(name: str, described: pd.Series, trajectory: bool) -> Target:
    recipe = described.get("recipe")
    if not isinstance(recipe, dict):
        raise NotApplicableError(f"target {name!r} has no recipe in the manifest: give the target itself")
    return Recipe.from_dict(recipe).build(trajectory=trajectory)
