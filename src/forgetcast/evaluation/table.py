"""What predictors are fitted and graded on: the samples of a corpus with their factors and labels."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from forgetcast._arguments import checked
from forgetcast.corpus import labels
from forgetcast.corpus.corpus import Corpus
from forgetcast.factors import quantile_column
from forgetcast.objectives import PARTS
from forgetcast.predictor.columns import UNLEARNER_HEADS, under_column
from forgetcast.registry import load_factors

__all__ = ["feature_columns", "training_table"]


def feature_columns(corpus: Corpus, *, training_run: bool = False) -> list[str]:
    """Names of the factor columns, in the order of the table; without those that apply to no target of the corpus.

    Args:
        corpus: whose columns.
        training_run: also those that need the target's trajectory. A predictor fitted to them is meant for models that
            come with one, so they have to be asked for.
    """
    known = corpus.factors.drop(columns=["target", "index"]).notna().any()
    names = known.index[known].tolist()
    if training_run:
        return names
    of_the_run = [name for name, factor in load_factors().items() if factor.family == "trajectory"]
    left_out = {column for name in of_the_run for column in (name, quantile_column(name))}
    return [name for name in names if name not in left_out]


@checked()
def training_table(corpus: Corpus, unlearners: Sequence[str] = labels.CONSENSUS) -> pd.DataFrame:
    """What a predictor is fitted to: the samples of a corpus with their factors and labels.

    Args:
        corpus: whose samples.
        unlearners: whose difficulty is averaged into the labels.

    Returns:
        One row per (target, index): descriptors, weight, memorization, p_out, labels of both objectives, factors. A
        target that was measured for one objective alone has NaN for the other; a sample that lacks the label of an
        objective that its target was measured for has no row.
        Label columns are difficulty_<objective>, percentile_<objective>, trivial_<objective>, those of ``PARTS``
        that were recorded, such as steps_<objective>, under_<unlearner>_<objective>: difficulty under each unlearner
        that served most samples, and with the part before it the parts of ``UNLEARNER_HEADS``, such as
        steps_under_<unlearner>_<objective>.

    Raises:
        UnknownNameError: an unlearner that the corpus has no outcomes of.
    """
    keys = ["target", "index"]
    table = corpus.instances[[*keys, "weight", "memorization", "p_out"]]
    table = table.merge(corpus.targets[["target", "dataset", "architecture"]], on="target", validate="many_to_one")
    complete = table["target"].isin(corpus.outcomes["target"])
    for objective in sorted(corpus.outcomes["objective"].unique()):
        label = labels.consensus(corpus.outcomes, corpus.instances, objective, unlearners)
        columns = {name: f"{name}_{objective}" for name in ("difficulty", "percentile", "trivial")}
        table = table.merge(label[[*keys, *columns]].rename(columns=columns), on=keys, how="left")
        asked = corpus.outcomes.loc[corpus.outcomes["objective"] == objective, "target"]
        complete &= table[columns["percentile"]].notna() | ~table["target"].isin(asked)
        parts = labels.outcome_parts(corpus.outcomes, objective, unlearners).set_index(keys)
        table = table.merge(parts.add_suffix(f"_{objective}").reset_index(), on=keys, how="left")
        served = sorted(corpus.outcomes["unlearner"].unique())
        for part in UNLEARNER_HEADS.values():
            if PARTS.get(part, "forgetting") not in corpus.outcomes:
                continue
            under = labels.per_unlearner(corpus.outcomes, objective, served, part)
            if part == "difficulty":
                served = under.columns[under.notna().mean() > 0.5].tolist()
            names = {name: under_column(name, objective, part) for name in served}
            table = table.merge(under[served].rename(columns=names).reset_index(), on=keys, how="left")
    table = table[complete].reset_index(drop=True)
    return table.merge(corpus.factors, on=keys, how="inner", validate="one_to_one")
