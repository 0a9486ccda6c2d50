"""``forgetcast prescreen``: what to do about each deletion request, in which order, and at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forgetcast.cli.interrupted import kept
from forgetcast.cli.options import FILE, queue_options
from forgetcast.cli.output import (
    TABLE_SUFFIXES,
    check_distinct,
    check_output,
    first_reason,
    put_page,
    put_table,
    table_json,
    without_formulas,
    write_each,
)
from forgetcast.cli.requests import request_options, route_colour, screened, shown_id, summary
from forgetcast.errors import InputError
from forgetcast.wording import count, duration

if TYPE_CHECKING:
    from forgetcast.screening.triage import Triage

__all__ = ["prescreen"]

SHOWN = 40


@click.command()
@request_options
@queue_options
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--out", type=FILE, help="A .csv, .parquet or .json file to write instead of printing.")
@click.option("--html", type=FILE, help="Also write the queue as one self-contained HTML file.")
@click.option("--record", type=FILE, help="Append every decision to this file, JSON lines that chain by hash.")
@click.option("--no-times", is_flag=True, help="Leave out wall times, train nothing: always the same answer.")
@click.option(
    "--check-record",
    "--verify-record",
    "check_record",
    type=FILE,
    help="Only check a record; any edit of it is named by its line.",
)
@click.option("--expected", metavar="HASH", help="With --check-record: the last hash, to notice a cut end.")
def prescreen(
    form: str,
    out: Path | None,
    html: Path | None,
    record: Path | None,
    no_times: bool,
    check_record: Path | None,
    expected: str | None,
    **inputs: Any,
) -> None:
    """Pre-screen deletion requests: trivial, quick, careful or retrain.

    Nothing is unlearned. For each request: the route, the unlearner with its predicted steps, the predicted harm with
    an interval, collateral, cost and reasons. For all together: which ones interact, the order to process them in, and
    whether one retraining would be cheaper. Rows that cannot be served are named on stderr; the others are served.

    Every forecast is of one row by itself, and rows of one person vouch for each other: together they may not be what
    each is alone. Name the column that says whose row it is (--person-column), and whoever has more than one in the
    queue is careful at least; rows of theirs that are not in the queue cannot be known.

    One retraining is timed with a --target whose factory passes train= to forgetcast.Target: on few samples, then on
    more, on all if that takes seconds, else extrapolated. Without it the policy's epochs are assumed, and it is said.

    \b
    EXAMPLES
      forgetcast prescreen --requests requests.csv --model mymodels:mlp --weights mlp.pt --dataset train.npz
      forgetcast prescreen --requests requests.csv --ids ids.txt --policy policy.json --factors factors \\
          --model mymodels:mlp --weights mlp.pt --dataset train.npz --heldout test.npz --objective erase \\
          --person-column customer --out queue.csv --html queue.html --record decisions.jsonl
      forgetcast prescreen --check-record decisions.jsonl
    """
    if check_record is not None:
        from forgetcast.screening.record import check

        found = check(check_record, expected=expected)
        click.echo(f"{check_record}: {count(found.entries, 'entry')}, none edited; last hash {found.last}")
        return
    if expected is not None:
        raise InputError("--expected goes with --check-record")
    check_output(out, TABLE_SUFFIXES)
    check_output(html, (".html", ".htm"))
    check_output(record, (".jsonl", ".ndjson", ".json"))
    read = {f"--{name}": inputs[name] for name in ("requests", "ids", "policy")}
    check_distinct({"--out": out, "--html": html, "--record": record}, read)
    if record is not None:
        from forgetcast.screening.record import append

        append(record, [])  # one that was edited is refused before the work
    queue, _ = screened(**inputs, timed=not no_times)
    if queue.batch["unfamiliar"]:
        click.echo(f"warning: {queue.batch['unfamiliar']}; forecasts and intervals may not hold", err=True)

    write_each(
        lambda: put_page(queue.to_html, html),
        lambda: put_table(queue.table, out, queue.provenance),
    )
    if record is not None:  # after the files: where one cannot be written, the same command again records once
        from forgetcast.screening.decisions import decisions

        last = append(record, decisions(queue))
        click.echo(f"recorded {count(queue.batch['requests'], 'decision')} in {record}; last hash {last}", err=True)
    done = "" if record is None else f"the decisions are in {record} already, so leave --record out"
    with kept(done):
        if form == "table":
            click.echo("\n".join([*(readable(queue) if out is None else []), *summary(queue)]))
        elif out is None and form == "json":
            from forgetcast.files.canonical_json import json_value

            lists = {name: json_value(getattr(queue, name).to_dict("records")) for name in ("problems", "interactions")}
            policy = queue.policy.to_dict()
            click.echo(table_json(queue.table, queue.provenance | {"batch": queue.batch, "rules": policy, **lists}))
        elif out is None:
            click.echo(without_formulas(queue.table).to_csv(index=False), nl=False)


def readable(queue: Triage) -> list[str]:
    """The first requests in the order of processing, a line each, and why."""
    rows = queue.table.sort_values("order")
    wide = max(2, *(len(shown_id(name)) for name in rows["id"].head(SHOWN)))
    lines = [
        f"order  {'id':<{wide}}  route    unlearner          steps  harm                      collateral  "
        "time      of retraining  group  why"
    ]
    for row in rows.head(SHOWN).to_dict("records"):
        route = click.style(f"{row['route']:<7}", fg=route_colour(row["route"]))
        harm = f"{row['harm']:.4f} [{row['harm_lower']:.4f}, {row['harm_upper']:.4f}]"
        steps = "-" if row["steps"] != row["steps"] else f"{row['steps']:.1f}"
        cost = "-" if row["seconds"] != row["seconds"] else duration(row["seconds"])
        share = "-" if row["share_of_retraining"] != row["share_of_retraining"] else f"{row['share_of_retraining']:.1%}"
        reason = first_reason(row["reasons"])
        collateral = "-" if row["collateral_test"] != row["collateral_test"] else f"{row['collateral_test']:.3f}"
        lines.append(
            f"{row['order']:>5}  {shown_id(row['id']):<{wide}}  {route}  {row['unlearner'] or '-':<17}  {steps:>5}  "
            f"{harm:<24}  {collateral:>10}  {cost:<8}  {share:>13}  {row['group'] or '-':>5}  {row['why']}; {reason}"
        )
    if len(rows) > SHOWN:
        lines.append(f"{len(rows) - SHOWN} more; --out FILE or --format csv gives all")
    return [*lines, ""]
