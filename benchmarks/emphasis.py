"""How much more should samples that are not trivial count when the percentile of ``retrain`` is fitted?

    python benchmarks/emphasis.py           # about 4 minutes on 2 cores

For every factor of emphasis each target is forecast by a fit to all others. Chosen by the validation targets of
``publish.py``; the others stand beside them. Writes ``emphasis.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from publish import VALIDATION

from forgetcast import Corpus
from forgetcast.evaluation.page import table as markdown
from forgetcast.evaluation.scores import within_target_rho
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.predictor import columns, heads

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=HERE.parent / "training_data" / "published")
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 2, 3, 5, 10, 30])
    arguments = parser.parse_args()
    corpus = Corpus.read(arguments.corpus)
    rows, features = training_table(corpus), feature_columns(corpus)
    target = rows["target"].to_numpy(dtype=object)
    trivial = rows["trivial_retrain"].to_numpy(dtype=bool)
    measured = rows["percentile_retrain"].to_numpy(dtype=float)
    placed = columns.labels_of(rows, "retrain", "percentile")
    kinds = {"validation": VALIDATION, "others": [name for name in dict.fromkeys(target) if name not in VALIDATION]}
    records = []
    for factor in arguments.factors:
        columns.EMPHASIS["retrain", "percentile"] = factor
        forecast = heads.fit_without(rows, features, "retrain", target, heads=("percentile",))["percentile"].to_numpy()
        error = np.abs(placed - forecast.clip(0, 1))
        for kind, names in kinds.items():
            at = np.isin(target, names)
            record: dict[str, object] = {"emphasis": f"{factor:g}", "targets": kind, "n": len(names)}
            for subset, kept in (("all", at), ("not trivial", at & ~trivial)):
                rho = within_target_rho(forecast[kept, None], measured[kept], target[kept], names)[:, 0]
                record |= {subset: f"{np.nanmean(rho):.3f}", f"worst, {subset}": f"{np.nanmin(rho):.2f}"}
            records.append(record | {"90 % of errors below": f"{np.quantile(error[at], 0.9):.3f}"})
    frame = pd.DataFrame(records)
    text = markdown(frame, {name: name for name in frame})
    (HERE / "emphasis.md").write_text(
        f"# Weight of samples that are not trivial\n\n{__doc__.split(chr(10))[0]}\n"
        f"{len(rows)} samples of {len(set(target))} targets; ρ within unseen targets.\n\n{text}\n"
    )
    print(text)


if __name__ == "__main__":
    main()
