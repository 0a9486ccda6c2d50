"""Which samples to measure on a new target, and how to adapt a forecast to them.

    python benchmarks/calibration.py                    # about 2 minutes on one core; writes calibration.md
    python benchmarks/calibration.py --retrain FOLDER   # about an hour; writes calibration_answers.parquet: what models
                                                        # trained without parts of a target's data say of its samples

Every target of the published corpus is forecast by heads fitted to all other datasets. 40 of 120 of its measured
samples play the measured ones, whose percentiles are ranks among those 40, and the other 60 are scored. Every choice
was made on four validation targets; the other targets only report.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from forgetcast import Corpus, DifficultyPredictor
from forgetcast.calibration import choose
from forgetcast.corpus.oracle import deal_groups, leave_groups_out
from forgetcast.corpus.zoo.recipes import PUBLISHED
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.predictor.adaptation import Prior, adapt
from forgetcast.predictor.agreement import rank_correlation
from forgetcast.predictor.columns import from_log_scale, labels_of, log_scale, training_weights
from forgetcast.predictor.heads import fit_head, fit_without
from forgetcast.predictor.intervals import balanced_residuals, conformal_interval
from forgetcast.predictor.retrained import RETRAINED, met_before, retraining_values
from forgetcast.ranks import weighted_percentile

ROOT = Path(__file__).resolve().parents[1]
ANSWERS = ROOT / "benchmarks" / "calibration_answers.parquet"
VALIDATION = ("digits-cnn", "digits-wide-mlp", "fashion-deep-mlp", "satellite-mlp")
MEASURED, SCORED = 40, 60
GAP = [name for key in RETRAINED for name in (key, f"{key}_quantile")]

Choice = Callable[["Case", np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Positions among the rows of a case, and inverse sampling probabilities."""


class Case:
    """One target under one objective: rows to choose from, with the forecast of a fit to all other datasets."""

    def __init__(self, rows: pd.DataFrame, features: list[str], objective: str, size: int = MEASURED) -> None:
        self.rows, self.objective, self.size = rows.reset_index(drop=True), objective, size
        self.features = features + ([name for name in GAP if name in rows] if objective == "retrain" else [])
        self.shipped = self.rows[f"shipped_percentile_{objective}"].to_numpy()

    def part(self, places: np.ndarray) -> Case:
        """The case with some of its rows."""
        made = Case(self.rows.iloc[places], [], self.objective, self.size)
        made.features = self.features
        return made

    def labels(self, weights: np.ndarray) -> np.ndarray:
        """Percentiles among these rows alone, as they would be measured, (m,)."""
        label = f"percentile_{self.objective}"
        rows = self.rows.assign(weight=weights)
        return labels_of(
            rows.assign(**{label: weighted_percentile(rows[label].to_numpy(), weights)}), self.objective, "percentile"
        )

    @property
    def quantiles(self) -> np.ndarray:
        """Factors as quantiles about their middle, (n, F)."""
        names = [name for name in self.features if name.endswith("_quantile") and name not in GAP]
        return self.rows[names].fillna(0.5).to_numpy(dtype=float) - 0.5


# -- which samples ------------------------------------------------------------------------------------------


def at_random(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.choice(len(case.rows), case.size, replace=False), np.ones(case.size)


def spread(case: Case, rng: np.random.Generator, trivial: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """As ``forgetcast.calibration``: spread over the forecast, mostly not trivial where that is known."""
    order, set_apart = case.shipped.copy(), np.zeros(len(case.rows), dtype=bool)
    if case.objective == "retrain" and trivial and "retraining_gap" in case.rows:
        order = order + case.rows["retraining_gap_quantile"].to_numpy()
        set_apart = not_needed(case) >= 0.5
    return choose(order, set_apart, case.size, int(rng.integers(2**31)))


def spread_as_for_retrain(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The choice for ``retrain``, for a case of ``erase``."""
    return spread(Case(case.rows, case.features, "retrain", case.size), rng)


def by_clusters(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The sample nearest to the middle of each of 40 clusters in factor space."""
    space = np.column_stack([case.quantiles, 3 * (case.shipped - 0.5)])
    found = KMeans(case.size, n_init=1, random_state=int(rng.integers(2**31))).fit(space)
    distance = found.transform(space)
    places = [int(np.where(found.labels_ == k, distance[:, k], np.inf).argmin()) for k in range(case.size)]
    return np.array(places), np.bincount(found.labels_, minlength=case.size).astype(float)


def d_optimal(case: Case, rng: np.random.Generator, noise: float = 0.12) -> tuple[np.ndarray, np.ndarray]:
    """One after another the sample that the ridge is least sure of (greedy D-optimal design)."""
    factors = case.quantiles
    space = np.column_stack(
        [np.full(len(factors), 0.1), case.shipped - 0.5, 0.15 * factors * np.sqrt(12 / factors.shape[1])]
    )
    left = space @ space.T
    places: list[int] = []
    for _ in range(case.size):
        unsure = np.diag(left) + 1e-9 * rng.random(len(left))
        unsure[places] = -1
        places.append(int(unsure.argmax()))
        column = left[:, places[-1]]
        left = left - np.outer(column, column) / (column[places[-1]] + noise**2)
    return np.array(places), np.ones(case.size)


# -- how to adapt -------------------------------------------------------------------------------------------

Method = Callable[[Case, Case, np.ndarray, np.ndarray], np.ndarray]
"""Scored case, measured case, measured percentiles, weights -> score of every row of the former."""


def unadapted(case: Case, measured: Case, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return case.shipped


def ridge(case: Case, measured: Case, y: np.ndarray, weights: np.ndarray, prior: Prior | None = None) -> np.ndarray:
    """What forgetcast does."""
    scaled = log_scale(measured.rows[f"difficulty_{case.objective}"].to_numpy())
    adapted, _ = adapt(measured.shipped, measured.rows[measured.features], y, scaled, weights, prior)
    return adapted.percentile(case.shipped, case.rows[case.features])


def without_retraining(case: Case, measured: Case, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The ridge without what retrained models said."""
    plain = [name for name in case.features if name not in GAP]
    scaled = log_scale(measured.rows[f"difficulty_{case.objective}"].to_numpy())
    adapted, _ = adapt(measured.shipped, measured.rows[plain], y, scaled, weights)
    return adapted.percentile(case.shipped, case.rows[plain])


def retraining_alone(case: Case, measured: Case, y: np.ndarray, weights: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Mean of shipped percentile and quantile of the retraining gap; nothing is unlearned."""
    return (1 - share) * case.shipped + share * case.rows["retraining_gap_quantile"].to_numpy()


def gaussian_process(case: Case, measured: Case, y: np.ndarray, weights: np.ndarray, scale: float = 0.1) -> np.ndarray:
    """The ridge's kernel with a radial one beside it."""

    def kernel(a: Case, b: Case) -> np.ndarray:
        one, other = a.quantiles, b.quantiles
        linear = 0.01 + 12 * 0.3**2 * np.outer(a.shipped - 0.5, b.shipped - 0.5)
        linear += 12 * 0.15**2 * one @ other.T / one.shape[1]
        return linear + scale**2 * np.exp(-6 * ((one[:, None] - other[None]) ** 2).mean(axis=-1))

    inside = kernel(measured, measured) + 0.12**2 * np.eye(len(y))
    return case.shipped + kernel(case, measured) @ np.linalg.solve(inside, y - measured.shipped)


def isotonic(case: Case, measured: Case, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return IsotonicRegression(out_of_bounds="clip").fit(measured.shipped, y).predict(case.shipped)


def single_factors(case: Case, measured: Case, y: np.ndarray, weights: np.ndarray, most: int = 5) -> np.ndarray:
    """Half the forecast, half the five factors that fit the measured samples best, weighted by their squared rho."""
    rho = np.nan_to_num(rank_correlation(measured.quantiles.T, y[None]))
    best = np.argsort(-np.abs(rho))[:most]
    mixture = case.quantiles[:, best] @ (np.sign(rho[best]) * rho[best] ** 2) / (rho[best] ** 2).sum()
    return (_ranks(case.shipped) + _ranks(mixture)) / 2


class Trees:
    """Ways to adapt that need the trees, or the corpus itself."""

    def __init__(self, table: pd.DataFrame, features: list[str], params: dict[str, Any]) -> None:
        self.table, self.features, self.params = table, features, params

    @cache  # noqa: B019
    def head(self, dataset: str, objective: str) -> Any:
        rows = self.table[self.table["dataset"] != dataset]
        return self._fitted(rows, labels_of(rows, objective, "percentile"), training_weights(rows))

    def _fitted(self, rows: pd.DataFrame, y: np.ndarray, weight: np.ndarray) -> Any:
        return fit_head(rows[self.features].to_numpy(float), y, weight, self.features, "percentile", self.params, 0)

    def refitted(
        self, case: Case, measured: Case, y: np.ndarray, weights: np.ndarray, emphasis: float = 5.0
    ) -> np.ndarray:
        """LightGBM fitted again to the corpus and the measured rows, which count five times."""
        rows = self.table[self.table["dataset"] != case.rows["dataset"][0]]
        joined = pd.concat([rows, measured.rows])
        labels = np.r_[labels_of(rows, case.objective, "percentile"), y]
        fitted = self._fitted(joined, labels, np.r_[training_weights(rows), np.full(len(y), emphasis)])
        return fitted.raw(case.rows[self.features].to_numpy(float))

    def new_leaves(self, case: Case, measured: Case, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The shipped trees with leaf values moved towards the measured samples (LightGBM's refit)."""
        trees = self.head(case.rows["dataset"][0], case.objective).booster
        moved = trees.refit(
            measured.rows[self.features].to_numpy(float), y, decay_rate=0.7, min_data_in_leaf=1, verbose=-1
        )
        return moved.predict(case.rows[self.features].to_numpy(float))

    def shap_ridge(self, case: Case, measured: Case, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """A ridge on the trees' SHAP values and the factors' quantiles."""
        head = self.head(case.rows["dataset"][0], case.objective)

        def space(of: Case) -> np.ndarray:
            shap, _ = head.contributions(of.rows[self.features].to_numpy(float))
            factors = of.quantiles * 0.15 * np.sqrt(12 / of.quantiles.shape[1])
            return np.column_stack([np.full(len(shap), 0.1), of.shipped - 0.5, shap, factors])

        own = space(measured)
        inside = own @ own.T + 0.12**2 * np.eye(len(y))
        return case.shipped + space(case) @ own.T @ np.linalg.solve(inside, y - measured.shipped)


# -- data ---------------------------------------------------------------------------------------------------


def forecast_table(corpus: Corpus, params: dict[str, Any]) -> pd.DataFrame:
    """The training table with forecasts of every row by heads fitted to all other datasets."""
    table, features = training_table(corpus), feature_columns(corpus)
    for objective in ("retrain", "erase"):
        heads = fit_without(
            table, features, objective, table["dataset"].to_numpy(dtype=object), params=params, n_jobs=1
        )
        table[[f"shipped_{head}_{objective}" for head in heads]] = heads.to_numpy()
    before = corpus.outcomes.groupby(["target", "index"])["p_before"].first().reset_index()
    return table.merge(before, on=["target", "index"], validate="one_to_one")


def with_answers(table: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Rows of the targets that were retrained, with the factors of retraining; quantiles by sampling weight."""
    answers = pd.read_parquet(ANSWERS)
    answers = answers[answers["seed"] < seeds].groupby(["target", "index"])["p"].mean().rename("p_cross").reset_index()
    parts = []
    for _, rows in table.merge(answers, on=["target", "index"]).groupby("target", sort=False):
        for name, values in retraining_values(rows["p_before"].to_numpy(), rows["p_cross"].to_numpy()).items():
            rows = rows.assign(**{name: values})
            rows[f"{name}_quantile"] = weighted_percentile(values, rows["weight"].to_numpy(float))
        parts.append(rows)
    return pd.concat(parts)


def retrain(folder: Path, seeds: int) -> None:
    """Cross-fitted answers about the corpus' instances, by targets trained anew; kept in ``folder``."""
    torch.set_num_threads(1)
    corpus = Corpus.read(ROOT / "training_data" / "published")
    frames = []
    for name, instances in corpus.instances.groupby("target", sort=False):
        for seed in range(seeds):
            path = folder / f"{name}-20-{seed}.parquet"
            if not path.is_file():
                target = next(recipe for recipe in PUBLISHED if recipe.name == name).build()
                everyone = np.arange(len(target))
                group = deal_groups(target.labels.numpy(), 20, 777 + seed)
                answers = leave_groups_out(target, everyone, group, range(20), [5000 + seed] * 20)
                folder.mkdir(parents=True, exist_ok=True)
                answers.loc[~answers["seen"], ["index", "p"]].to_parquet(path)
            found = pd.read_parquet(path)
            frames.append(found[found["index"].isin(instances["index"])].assign(target=name, seed=seed))
    joined = pd.concat(frames, ignore_index=True)[["target", "index", "seed", "p"]]
    joined.assign(p=joined["p"].round(4)).to_parquet(ANSWERS, index=False)


# -- scoring ------------------------------------------------------------------------------------------------


def trials(
    table: pd.DataFrame, features: list[str], objective: str, draws: int, size: int = MEASURED
) -> list[tuple[Case, Case, np.random.Generator]]:
    """For every target and draw: rows to choose from, rows to score."""
    found = []
    for name, rows in table.groupby("target", sort=False):
        case = Case(rows, features, objective, size)
        for draw in range(draws):
            rng = np.random.default_rng([draw, len(str(name))])
            order = rng.permutation(len(rows))
            found.append((case.part(np.sort(order[SCORED:])), case.part(np.sort(order[:SCORED])), rng))
    return found


def compared(
    cases: Sequence[tuple[Case, Case, np.random.Generator]], choice: Choice, methods: dict[str, Method]
) -> pd.DataFrame:
    """One row per target, draw and method: rho on all scored rows and on those that are not trivial."""
    records = []
    for number, (pool, scored, rng) in enumerate(cases):
        places, sampling = choice(pool, rng)
        measured = pool.part(places)
        weights = measured.rows["weight"].to_numpy(float) * sampling
        y = measured.labels(weights)
        truth = scored.rows[f"percentile_{pool.objective}"].to_numpy()
        hard = ~scored.rows[f"trivial_{pool.objective}"].to_numpy(dtype=bool)
        for name, method in methods.items():
            score = method(scored, measured, y, weights)
            records.append(
                {
                    "method": name,
                    "target": pool.rows["target"][0],
                    "draw": number,
                    "all": rank_correlation(score, truth),
                }
                | {"not trivial": rank_correlation(score[hard], truth[hard]) if hard.sum() >= 8 else np.nan}
            )
    return pd.DataFrame(records)


def _by_target(results: pd.DataFrame, method: str, subset: str, validation: bool) -> list[np.ndarray]:
    chosen = results[(results["method"] == method) & (results["target"].isin(VALIDATION) == validation)]
    return [part[subset].to_numpy() for _, part in chosen.groupby("target", sort=False)]


def summary(results: pd.DataFrame, reference: str = "unadapted") -> pd.DataFrame:
    """Mean over targets with 95 % interval (targets and draws redrawn), worst target, gain over the reference."""
    rng = np.random.default_rng(0)
    records = []
    for method in dict.fromkeys(results["method"]):
        record: dict[str, Any] = {"method": method}
        for kind in ("validation", "other"):
            for subset in ("all", "not trivial"):
                own, base = (_by_target(results, m, subset, kind == "validation") for m in (method, reference))
                means = np.array([np.nanmean(part) for part in own])
                record[f"{kind}, {subset}"] = f"{means.mean():.3f} (worst {means.min():.2f})"
                if method != reference and kind == "other":
                    gains = []
                    for _ in range(1000):
                        targets = rng.integers(len(own), size=len(own))
                        picks = [rng.integers(len(own[t]), size=len(own[t])) for t in targets]
                        gains.append(
                            np.mean([np.nanmean(own[t][p] - base[t][p]) for t, p in zip(targets, picks, strict=True)])
                        )
                    low, high = np.quantile(gains, [0.025, 0.975])
                    gain = means.mean() - np.mean([np.nanmean(part) for part in base])
                    record[f"gain, {subset}"] = f"{gain:+.3f} ({low:+.3f} to {high:+.3f})"
        records.append(record)
    return pd.DataFrame(records).fillna("")


def on_validation(results: pd.DataFrame) -> pd.DataFrame:
    """Mean over the validation targets alone, worst in brackets."""
    means = results.groupby(["method", "target"], sort=False)[["all", "not trivial"]].mean()
    found = means.groupby(level="method", sort=False).agg(["mean", "min"]).swaplevel(axis=1)
    text = {subset: _mean_and_worst(found, subset) for subset in ("all", "not trivial")}
    return pd.DataFrame(text, index=found.index).reset_index(names="prior standard deviations")


def not_needed(case: Case) -> np.ndarray:
    """Probability of being trivial by forecast and retraining, (n,)."""
    return met_before(case.rows["retraining_gap"].to_numpy(), case.rows["shipped_trivial_retrain"].to_numpy())


def coverage(table: pd.DataFrame, features: list[str], objective: str, draws: int) -> pd.DataFrame:
    """Coverage and width of 90 % intervals on scored rows, per target: as shipped, and adapted."""
    errors = {
        (name, head): (labels_of(rows, objective, head) - rows[f"shipped_{head}_{objective}"].clip(0, 1)).to_numpy()
        for name, rows in table.groupby("target")
        for head in ("percentile", "difficulty")
    }
    datasets = table.groupby("target")["dataset"].first()
    records = []
    for pool, scored, rng in trials(table, features, objective, draws):
        target, dataset = pool.rows["target"][0], pool.rows["dataset"][0]
        places, sampling = spread(pool, rng)
        measured = pool.part(places)
        weights = measured.rows["weight"].to_numpy(float) * sampling
        scaled = log_scale(measured.rows[f"difficulty_{objective}"].to_numpy())
        adapted, _ = adapt(
            measured.shipped, measured.rows[measured.features], measured.labels(weights), scaled, weights
        )
        value = np.clip(adapted.percentile(scored.shipped, scored.rows[scored.features]), 0, 1)
        values = {"percentile": value, "difficulty": adapted.difficulty(value)}
        record: dict[str, Any] = {"target": target}
        for head in ("percentile", "difficulty"):
            others = {name: errors[name, head] for name in datasets.index if datasets[name] != dataset}
            truth = labels_of(scored.rows, objective, head)
            shipped = scored.rows[f"shipped_{head}_{objective}"].clip(0, 1).to_numpy()
            low, high = conformal_interval(balanced_residuals(list(others.values())), shipped, 0.9)
            half = adapted.half_width(head, others, 0.9)
            record[f"{head}: shipped"] = ((low <= truth) & (truth <= high)).mean()
            record[f"{head}: adapted"] = (np.abs(truth - values[head]) <= half).mean()
            record[f"{head}: shipped width"] = (high - low).mean()
            record[f"{head}: width"] = (np.clip(values[head] + half, 0, 1) - np.clip(values[head] - half, 0, 1)).mean()
        for name, guess in (
            ("shipped", scored.rows[f"shipped_difficulty_{objective}"].to_numpy()),
            ("adapted", values["difficulty"]),
        ):
            error = np.abs(from_log_scale(guess) - scored.rows[f"difficulty_{objective}"])
            record[f"difficulty: mean error, {name}"] = error.mean()
        records.append(record)
    return pd.DataFrame(records).groupby("target", sort=False).mean()


def coverage_summary(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    records = []
    for objective, per_target in found.items():
        for kind in ("validation", "other"):
            rows = per_target[per_target.index.isin(VALIDATION) == (kind == "validation")]
            records.append(
                {"objective": objective, "targets": kind}
                | {
                    name: f"{rows[name].mean():.3f} ({rows[name].min():.2f} to {rows[name].max():.2f})"
                    for name in rows.columns
                }
            )
    wide = pd.DataFrame(records).set_index(["objective", "targets"]).T
    wide.columns = [f"{objective}, {kind} targets" for objective, kind in wide.columns]
    return wide.reset_index(names="mean (range over targets)")


def trivial_table(table: pd.DataFrame) -> pd.DataFrame:
    """AUC of trivial against not, by what is known of a target."""
    records = []
    for seeds in (1, 2, 4):
        rows = with_answers(table, seeds)
        for name, part in rows.groupby("target", sort=False):
            case, truth = Case(part, [], "retrain"), part["trivial_retrain"].to_numpy(dtype=bool)
            scores = {
                "forecast alone": case.rows["shipped_trivial_retrain"],
                f"with {20 * seeds} retrained models": not_needed(case),
            }
            records += [{"by": by, "target": name, "auc": roc_auc_score(truth, score)} for by, score in scores.items()]
    frame = pd.DataFrame(records).drop_duplicates(["by", "target"])
    frame["kind"] = np.where(frame["target"].isin(VALIDATION), "validation", "other")
    wide = frame.groupby(["by", "kind"], sort=False)["auc"].agg(["mean", "min"]).unstack()
    text = {f"{kind} targets": _mean_and_worst(wide, kind) for kind in ("validation", "other")}
    return pd.DataFrame(text, index=wide.index).reset_index(names="AUC of trivial")


def _mean_and_worst(table: pd.DataFrame, name: str) -> list[str]:
    pairs = zip(table["mean", name], table["min", name], strict=True)
    return [f"{mean:.3f} (worst {worst:.2f})" for mean, worst in pairs]


def per_target(results: dict[str, pd.DataFrame]) -> pd.DataFrame:
    wide = {
        f"{title}, {method}": part.groupby("target", sort=False)[subset].mean().round(3)
        for title, (frame, subset) in {
            k: (v, "not trivial" if "not" in k else "all") for k, v in results.items()
        }.items()
        for method, part in frame.groupby("method", sort=False)
        if method in ("unadapted", "ridge")
    }
    return pd.DataFrame(wide).reset_index(names="target")


def markdown(frame: pd.DataFrame) -> str:
    lines = [
        [str(name) for name in frame.columns],
        ["---"] * frame.shape[1],
        *frame.fillna("").to_numpy(object).tolist(),
    ]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _ranks(values: np.ndarray) -> np.ndarray:
    return (pd.Series(values).rank().to_numpy() - 0.5) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retrain", type=Path, metavar="FOLDER", help="make calibration_answers.parquet; resumable")
    parser.add_argument("--seeds", type=int, default=4, help="with --retrain: models that leave each sample out")
    parser.add_argument("--draws", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.retrain is not None:
        retrain(arguments.retrain, arguments.seeds)
        return
    began = time.perf_counter()
    corpus, draws = Corpus.read(ROOT / "training_data" / "published"), arguments.draws
    params = DifficultyPredictor.published().manifest["params"]
    table, features = forecast_table(corpus, params), feature_columns(corpus)
    trees = Trees(table, features, params)
    answered = with_answers(table, 4)
    of_erase, of_retrain = (
        partial(trials, rows, features, objective, draws)
        for objective, rows in (("erase", table), ("retrain", answered))
    )
    both: dict[str, Method] = {"unadapted": unadapted, "ridge": ridge}
    for_erase: dict[str, Method] = {
        **both,
        "isotonic": isotonic,
        "five best single factors": single_factors,
        "leaf values refitted": trees.new_leaves,
        "LightGBM fitted again": trees.refitted,
        "ridge + radial kernel": gaussian_process,
        "ridge on factors and SHAP values": trees.shap_ridge,
    }
    for_retrain: dict[str, Method] = {
        **both,
        "ridge without retraining": without_retraining,
        "80 retrained models, nothing unlearned": retraining_alone,
        "their gap alone": partial(retraining_alone, share=1.0),
    }
    erase, retrained = compared(of_erase(), spread, for_erase), compared(of_retrain(), spread, for_retrain)
    choices = {
        "at random": at_random,
        "spread over the forecast": spread,
        "k-means": by_clusters,
        "D-optimal": d_optimal,
    }
    chosen = [compared(of_erase(), choice, {name: ridge}) for name, choice in choices.items()]
    sizes = [compared(of_erase(size), spread, {f"{size} samples": ridge}) for size in (10, 20, 40, 80)]
    models = [
        compared(
            trials(with_answers(table, seeds), features, "retrain", draws), spread, {f"{20 * seeds} models": ridge}
        )
        for seeds in (1, 2, 4)
    ]
    shipped = {
        name: frame[frame["method"] == "unadapted"] for name, frame in (("erase", erase), ("retrain", retrained))
    }
    sections = {
        "`erase`: how to adapt to 40 samples spread over the forecast": summary(erase),
        "`erase`: which 40 samples": summary(pd.concat([shipped["erase"], *chosen])),
        "`erase`: how many samples": summary(pd.concat([shipped["erase"], *sizes])),
        "`erase`, measured on the samples chosen for `retrain` (objective both)": summary(
            compared(trials(answered, features, "erase", draws), spread_as_for_retrain, both)
        ),
        "`retrain`: how to adapt to 40 samples, four fifths of them not trivial": summary(retrained),
        "`retrain`: the 40 samples spread over the forecast instead": summary(
            compared(of_retrain(), partial(spread, trivial=False), both)
        ),
        "`retrain`: how many models are trained": summary(pd.concat([shipped["retrain"], *models])),
        "`retrain`: trivial or not": trivial_table(table),
        "90 % intervals on samples that were not measured": coverage_summary(
            {
                "erase": coverage(table, features, "erase", draws),
                "retrain": coverage(answered, features, "retrain", draws),
            }
        ),
        "Every target": per_target({"erase": erase, "retrain": retrained, "retrain not trivial": retrained}),
    }
    tried: dict[str, Method] = {
        f"factors {factors}, forecast {forecast}, noise {noise}": partial(
            ridge, prior=Prior(factors=factors, forecast=forecast, noise=noise)
        )
        for factors, forecast, noise in product((0.05, 0.1, 0.2), (0.15, 0.3), (0.12, 0.15))
    }
    for objective, rows in (("erase", table), ("retrain", answered)):
        cases = trials(rows[rows["target"].isin(VALIDATION)], features, objective, draws)
        sections[f"`{objective}`: priors tried on the validation targets"] = on_validation(
            compared(cases, spread, tried)
        )

    lines = [
        "# Adapting a forecast to 40 measured samples of a new target",
        "",
        f"Made by `python benchmarks/calibration.py --draws {draws}`. Every target "
        + " ".join((__doc__ or "").split("Every target")[1].split()),
        "ρ is Spearman's correlation within a target, mean over targets; the gain is that over the unadapted forecast",
        "on the other targets, with its 95 % interval when targets and draws are redrawn. "
        f"{answered['target'].nunique()} targets were retrained.",
    ]
    for title, frame in sections.items():
        lines += ["", f"## {title}", "", markdown(frame)]
    (ROOT / "benchmarks" / "calibration.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"{time.perf_counter() - began:.0f} s", sep="\n\n")


if __name__ == "__main__":
    main()
