"""``forgetcast inspect``: look at measured outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from forgetcast.cli.options import FILE
from forgetcast.cli.output import check_output
from forgetcast.errors import InputError, PluginError, shortened
from forgetcast.files.atomic import whole_file
from forgetcast.wording import count

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["inspect"]


@click.group()
def inspect() -> None:
    """Look at a corpus, or at the path of one sample under every unlearner.

    \b
    EXAMPLES
      forgetcast inspect corpus published
      forgetcast inspect path --recipe digits-mlp --index 17 --plot path.png
    """


@inspect.command()
@click.argument("folder", default="published")
@click.option("--agreement", is_flag=True, help="Also the correlations between every two unlearners.")
def corpus(folder: str, agreement: bool) -> None:
    """Print targets, unlearners, share reached and reliabilities of the corpus in FOLDER.

    FOLDER may be a URL, and the word 'published', the default, stands for the corpus that comes with forgetcast.

    \b
    EXAMPLES
      forgetcast inspect corpus my-corpus
      forgetcast inspect corpus published --agreement
    """
    from forgetcast.cli.options import PUBLISHED
    from forgetcast.corpus import inspection, labels
    from forgetcast.corpus.corpus import Corpus

    found = Corpus.published() if folder == PUBLISHED else Corpus.read(folder)
    present = sorted(found.outcomes["unlearner"].unique())
    averaged = [name for name in labels.CONSENSUS if name in present] or present
    partial = found.manifest.get("partial")
    click.echo(f"{folder}: {count(len(found.instances), 'sample')}, {count(len(found.outcomes), 'outcome')}")
    if partial:
        click.echo(f"Partial: {partial}")
    for what, why in found.manifest.get("left_out", {}).items():
        click.echo(f"Left out: {what}: {why}")
    if own := [str(entry["target"]) for entry in found.manifest["targets"] if entry.get("settings")]:
        click.echo(f"Measured with settings of their own (see manifest.json): {shortened(own)}")
    _section("Targets (nontrivial: share of all samples that are not trivial)", inspection.targets_table(found))
    _section(
        "Unlearners (over samples that are not trivial; rho: agreement with the consensus of the others)",
        inspection.unlearners_table(found),
        "no outcome was measured",
    )
    _section(
        f"Reliability of the label, consensus of {', '.join(averaged)} (a forecast's rho cannot exceed its root)",
        inspection.reliability_table(found, averaged),
        inspection.NO_RELIABILITY,
    )
    if agreement:
        for objective in found.outcomes["objective"].unique():
            table = inspection.agreement_table(found, objective, present, nontrivial=True)
            click.echo(f"\nAgreement between unlearners, {objective}, samples that are not trivial (Spearman)")
            click.echo(table.to_string(float_format="{:.2f}".format))


def _section(title: str, table: pd.DataFrame, without: str = "none") -> None:
    """A table under its title; ``without`` says why where it has no rows."""
    text = without if table.empty else table.to_string(index=False, float_format="{:.3g}".format)
    click.echo(f"\n{title}\n{text}")


@inspect.command()
@click.option("--recipe", "name", metavar="NAME", help="A target of the published corpus, trained afresh.")
@click.option("--target", "spec", metavar="MODULE:FACTORY", help="Makes a forgetcast.Target.")
@click.option("--index", type=int, required=True, help="The sample.")
@click.option("--unlearners", metavar="A,B", help="Names, comma between; default: all but exact retraining.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--plot", type=FILE, help="Draw forgetting and collateral along the paths (.png, .svg or .pdf).")
@click.option("--out", type=FILE, help="Write every point of the paths (.csv).")
def path(
    name: str | None,
    spec: str | None,
    index: int,
    unlearners: str | None,
    seed: int,
    plot: Path | None,
    out: Path | None,
) -> None:
    """Follow one sample along the path of every unlearner: what is forgotten, what is damaged.

    \b
    EXAMPLES
      forgetcast inspect path --recipe digits-mlp --index 17 --plot path.png
      forgetcast inspect path --target mytargets:resnet --index 3 --unlearners gradient_ascent,ssd --out path.csv
    """
    if (name is None) == (spec is None):
        raise InputError("expected either --recipe or --target; got " + ("neither" if name is None else "both"))
    check_output(plot, (".png", ".svg", ".pdf"))
    check_output(out, (".csv",))
    from forgetcast import registry
    from forgetcast.adapters.loading import load_target
    from forgetcast.corpus.zoo.recipes import published
    from forgetcast.report import plots
    from forgetcast.unlearn.trace import trace

    target = published(name).build() if name is not None else load_target(str(spec))
    wanted = (
        [known for known in registry.load_unlearners() if known != "retraining"]
        if unlearners is None
        else [part.strip() for part in unlearners.split(",")]
    )
    points = trace(target, index, [registry.unlearner(known) for known in wanted], seed=seed)
    if out is not None:
        with whole_file(out, "table") as draft:
            points.to_csv(draft, index=False)
        click.echo(f"wrote {out}", err=True)
    if plot is not None:
        with whole_file(plot, "picture") as draft:
            plots.forgetting_paths(points).savefig(draft, dpi=150)
        click.echo(f"wrote {plot}", err=True)
    last = points.sort_values("step").groupby("unlearner").tail(1)
    click.echo(last.to_string(index=False, float_format="{:.3g}".format))
    missing = sorted({*wanted} - {*points["unlearner"]}) if unlearners is not None else []
    if missing:
        raise PluginError(f"no path of {', '.join(missing)}: the plugin failed, see the warning above")
