"""Does pre-screening hold on targets that the predictor has not seen?

    python benchmarks/prescreening.py       # about 15 minutes on 2 cores

Eighths of the published targets are left out at a time; everything that a queue of their samples would be given comes
from fits to the others: the named unlearner, its harm with an interval, the chance to be trivial, and so the route by
the default policy. Then it is compared with what was measured. Nothing was chosen by these figures. Writes
``prescreening.md``, ``prescreening_choice.csv`` and ``prescreening_routes.csv``.

1. Following the named unlearner against always using the single best one (the one that did the least harm on the
   targets that were fitted to): measured harm and collateral where the goal is met, which is the same for all.
2. What the routes hold: how many "trivial" samples are, how many "quick" ones stay below the threshold, and how often
   the measured harm lies in its interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from forgetcast import Corpus, DifficultyPredictor, Policy
from forgetcast.evaluation.choice import chosen_unlearners
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.page import table as markdown
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.predictor.columns import from_log_scale, under_each, unlearners_of
from forgetcast.predictor.heads import fit_without
from forgetcast.predictor.intervals import balanced_residuals, conformal_interval, fold_rows
from forgetcast.predictor.unlearner_heads import fit_unlearner_head, unlearner_errors, with_unlearner
from forgetcast.screening.routes import ROUTES, routes

HERE = Path(__file__).parent
MEASURES = {
    "difficulty": "harm",
    "collateral_test": "TV on held-out data",
    "collateral_neighbours": "TV on the sample's neighbours",
}
RESAMPLES = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=HERE.parent / "training_data" / "published")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    corpus = Corpus.read(arguments.corpus)
    table, features = training_table(corpus), feature_columns(corpus)
    params = DifficultyPredictor.published().manifest["params"]
    choice = named_against_single(table, features, params, arguments.jobs)
    choice.to_csv(HERE / "prescreening_choice.csv", index=False)
    print(choice.to_string(), flush=True)
    screened = pd.concat([screen(table, features, o, params, arguments.jobs) for o in ("retrain", "erase")])
    found = held(screened)
    found.to_csv(HERE / "prescreening_routes.csv", index=False)
    print(found.to_string(), flush=True)
    (HERE / "prescreening.md").write_text(page(choice, found, screened, len(table)), encoding="utf-8")


def named_against_single(table: pd.DataFrame, features: list[str], params: dict, jobs: int) -> pd.DataFrame:
    """Measured outcome under the named unlearner and under the single best, mean over targets with an interval."""
    records = []
    for objective in ("retrain", "erase"):
        chosen = chosen_unlearners(table, objective, FitSettings(features, params, n_jobs=jobs))
        assert chosen is not None
        for part, title in MEASURES.items():
            measured = chosen.under(part)
            compared = chosen.compared(measured).rename(columns={"hindsight": "best_in_hindsight"})
            every = compared[["named", "single_best", "any", "best_in_hindsight"]]
            low, high = chosen.interval(measured, RESAMPLES)
            gain = chosen.gain(measured)
            records.append(
                {"objective": objective, "measure": title, **every.groupby(chosen.targets).mean().mean().to_dict()}
                | {"difference": gain.mean(), "low": low, "high": high}
                | {"targets_better": int((gain < 0).sum()), "targets_worse": int((gain > 0).sum())}
                | {"targets": len(gain), "samples": len(every), "differ": float((chosen.named != chosen.single).mean())}
            )
    return pd.DataFrame(records)


def screen(table: pd.DataFrame, features: list[str], objective: str, params: dict, jobs: int) -> pd.DataFrame:
    """Every sample as a queue would show it, by a fit to other eighths of the targets, and what was measured."""
    targets = table["target"].astype(str).to_numpy(dtype=object)
    folds = fold_rows(targets)
    number = np.argmax(np.stack(folds), axis=0)
    p_trivial = fit_without(
        table,
        features,
        objective,
        number,
        heads=("trivial",),
        params=params,
        n_jobs=jobs,
        title=f"trivial, {objective}",
    )["trivial"]
    parts = []
    for own in folds:
        rest, left = table[~own].reset_index(drop=True), table[own]
        names = unlearners_of(rest, objective)
        head = fit_unlearner_head(rest, features, objective, names, params, 0)
        groups = rest["target"].astype(str).to_numpy(dtype=object)
        errors = unlearner_errors(rest, features, objective, names, groups, params=params, n_jobs=jobs)
        raw = head.raw(with_unlearner(left[features].to_numpy(dtype=float), len(names))).reshape(len(left), len(names))
        named = raw.argmin(axis=1)
        scaled = raw.min(axis=1).clip(0, 1)
        lower, upper = np.zeros(len(left)), np.ones(len(left))
        for place in np.unique(named):
            at = named == place
            scores = balanced_residuals(list(errors[names[place]].values()))
            lower[at], upper[at] = conformal_interval(scores, scaled[at], Policy().level)
        measured = under_each(left, objective, names)[np.arange(len(left)), named]
        parts.append(
            pd.DataFrame(
                {
                    "objective": objective,
                    "target": left["target"].to_numpy(),
                    "weight": left["weight"].to_numpy(),
                    "trivial": left[f"trivial_{objective}"].astype(bool).to_numpy(),
                    "p_trivial": p_trivial[own].to_numpy(),
                    "unlearner": np.array(names, dtype=object)[named],
                    "harm": from_log_scale(scaled),
                    "harm_lower": from_log_scale(lower),
                    "harm_upper": from_log_scale(upper),
                    "measured": measured,
                }
            )
        )
        print(f"{objective}: {len(parts)} of {len(folds)} folds", flush=True)
    found = pd.concat(parts, ignore_index=True)
    found["route"] = routes(found, Policy())
    return found


def held(screened: pd.DataFrame) -> pd.DataFrame:
    """By objective and route how many, and what was measured of them: means over targets with 95 % intervals."""
    policy = Policy()
    records = []
    for (objective, route), rows in screened.groupby(["objective", "route"], sort=False):
        needed = rows[~rows["trivial"]].dropna(subset=["measured"])
        share = screened[screened["objective"] == objective].copy()
        records.append(
            {
                "objective": objective,
                "route": route,
                "samples": len(rows),
                "targets": rows["target"].nunique(),
                "share": np.average(share["route"] == route, weights=share["weight"]),
                "trivial": interval(rows, rows["trivial"].astype(float)),
                "not_trivial": len(needed),
                "harm": interval(needed, needed["measured"]),
                "below_quick_to": interval(needed, (needed["measured"] <= policy.quick_to).astype(float)),
                "in_interval": interval(
                    needed, needed["measured"].between(needed["harm_lower"], needed["harm_upper"]).astype(float)
                ),
            }
        )
    frame = pd.DataFrame(records)
    return frame.sort_values(
        ["objective", "route"],
        key=lambda c: (
            c.map({name: k for k, name in enumerate(["retrain", "erase", *ROUTES])})
            if c.name == "objective"
            else c.map({name: k for k, name in enumerate(ROUTES)})
        ),
    )


def interval(rows: pd.DataFrame, values: pd.Series) -> str:
    """Mean over targets of weighted means within them, and its 95 % interval with targets redrawn."""
    if not len(rows):
        return "–"
    means = pd.DataFrame({"v": values * rows["weight"], "w": rows["weight"], "t": rows["target"]}).groupby("t").sum()
    by_target = (means["v"] / means["w"]).to_numpy()
    drawn = np.random.default_rng(0).integers(len(by_target), size=(RESAMPLES, len(by_target)))
    low, high = np.quantile(by_target[drawn].mean(axis=1), [0.025, 0.975])
    return f"{by_target.mean():.3g} [{low:.3g}, {high:.3g}]"


def coverage(screened: pd.DataFrame) -> pd.DataFrame:
    """How often the measured harm lies in its interval: over all, and on the worst target."""
    records = []
    for objective, rows in screened.groupby("objective", sort=False):
        needed = rows[~rows["trivial"]].dropna(subset=["measured"])
        inside = needed["measured"].between(needed["harm_lower"], needed["harm_upper"]).astype(float)
        by_target = inside.groupby(needed["target"]).agg(["mean", "size"])
        large = by_target[by_target["size"] >= 20]
        records.append(
            {
                "objective": objective,
                "samples": len(needed),
                "targets": len(by_target),
                "coverage": interval(needed.assign(weight=1.0), inside),
                "worst": f"{large['mean'].min():.2f} ({large['mean'].idxmin()})",
            }
        )
    return pd.DataFrame(records)


def page(choice: pd.DataFrame, found: pd.DataFrame, screened: pd.DataFrame, samples: int) -> str:
    policy = Policy()
    shown = choice.copy()
    for name in ("named", "single_best", "any", "best_in_hindsight", "difference", "low", "high"):
        shown[name] = [f"{value:.5f}" for value in choice[name]]
    shown["difference"] = [f"{row.difference:.5f} [{row.low:.5f}, {row.high:.5f}]" for row in choice.itertuples()]
    shown["differ"] = [f"{value:.0%}" for value in choice["differ"]]
    shown["targets_better"] = [f"{row.targets_better} / {row.targets_worse}" for row in choice.itertuples()]
    columns = {
        "objective": "objective",
        "measured where the goal is met": "measure",
        "named": "named",
        "single best": "single_best",
        "difference [95 %]": "difference",
        "targets better / worse": "targets_better",
        "another one named": "differ",
        "mean of all": "any",
        "best in hindsight": "best_in_hindsight",
    }
    routes_shown = found.assign(share=[f"{value:.0%}" for value in found["share"]])
    route_columns = {
        "objective": "objective",
        "route": "route",
        "share": "share",
        "samples": "samples",
        "really trivial": "trivial",
        "others": "not_trivial",
        "their measured harm": "harm",
        f"harm ≤ {policy.quick_to:g}": "below_quick_to",
        "harm in its interval": "in_interval",
    }
    covered = coverage(screened)
    return f"""# Pre-screening on targets that the predictor has not seen

{samples:,} samples of {screened["target"].nunique()} targets; eighths of the targets left out at a time
(`python benchmarks/prescreening.py`). Means are over targets, within a target with the inverse sampling probabilities;
intervals are 95 %, targets redrawn {RESAMPLES:,} times.

## The named unlearner against the single best

Samples that are not trivial and were measured under every unlearner ({int(choice["samples"].iloc[0]):,} for `retrain`,
{int(choice["samples"].iloc[-1]):,} for `erase`). Every unlearner is stopped where its goal is met, so forgetting is
matched. The single best is the one that did the least harm on the targets that were fitted to (certified removal in
every fold).

{markdown(shown, columns)}

## What the routes hold

By the default policy (trivial from {policy.trivial_from:g}, quick up to {policy.quick_to:g}, retrain from
{policy.retrain_from:g}); the flag for unfamiliar targets is left aside here.

{markdown(routes_shown, route_columns)}

## Intervals of the harm under the named unlearner

At the level {policy.level:.0%}, so the aim is {policy.level:g}; they cover the choice of the least forecast too, which
errs on the low side. Worst of the targets with at least 20 such samples.

{markdown(covered, {name: name for name in covered})}
"""


if __name__ == "__main__":
    main()
