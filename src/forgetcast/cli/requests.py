"""Options of the commands that take deletion requests, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from forgetcast.cli.options import FILE, forecast_inputs
from forgetcast.errors import FileFormatError, InputError, PathError
from forgetcast.wording import count, duration

if TYPE_CHECKING:
    from forgetcast.screening.triage import Triage

__all__ = ["request_options", "route_colour", "screened", "shown_id", "summary"]

Command = TypeVar("Command", bound=Callable[..., Any])

TIER_COLOURS = {"trivial": "green", "easy": "cyan", "medium": "yellow", "hard": "red"}


def route_colour(route: str) -> str:
    """The colour of a route's tier in a terminal."""
    from forgetcast.screening.routes import ROUTE

    return TIER_COLOURS[ROUTE[route].tier]


_REQUESTS = (
    click.option(
        "--requests",
        type=FILE,
        help="A .csv, .parquet or .jsonl file with a column index (sample number) or id; others are kept.",
    ),
    click.option("--ids", type=FILE, help="The id of every training sample in order, one a line, for requests by id."),
    click.option("--id-column", metavar="NAME", help="The column of the ids; default: id or sample_id."),
    click.option(
        "--person-column",
        metavar="NAME",
        help="The column that says whose row it is; a person with more than one is careful at least.",
    ),
    click.option("--policy", type=FILE, help="A JSON file of thresholds; what it leaves out has its default."),
)


def request_options(command: Command) -> Command:
    """Add the options that :func:`screened` reads beside those of a forecast."""
    for option in reversed(_REQUESTS):
        command = option(command)
    return command


def screened(
    *,
    requests: Path | None,
    ids: Path | None,
    id_column: str | None,
    person_column: str | None,
    policy: Path | None,
    objective: Any,
    timed: bool = True,
    **inputs: Any,
) -> tuple[Triage, dict[str, Any]]:
    """The queue that the options name, pre-screened, and the inputs that were loaded for it.

    Raises:
        InputError: no requests, or none that can be served.
        ForgetcastError: anything else that is wrong with a file or a value.
    """
    from forgetcast.screening.policy import Policy
    from forgetcast.screening.triage import triage

    if requests is None:
        raise InputError("expected --requests FILE with the samples to be deleted")
    if not requests.is_file():
        raise PathError(f"--requests: {requests} is {'a folder' if requests.is_dir() else 'not there'}")
    rules = Policy() if policy is None else Policy.load(policy)
    names = None if ids is None else _lines(ids)
    loaded = forecast_inputs(**inputs)
    subject = loaded.pop("model")
    settings: dict[str, Any] = {"ids": names, "id_column": id_column, "person_column": person_column}
    found = triage(subject, **loaded, requests=requests, objective=objective, policy=rules, timed=timed, **settings)
    if found.table.empty:
        first = found.problems.iloc[0]
        raise InputError(
            f"none of the {count(len(found.problems), 'request')} can be served; the first: row {first['row']}: "
            f"{first['problem']}"
        )
    for row in found.problems.to_dict("records"):
        click.echo(f"row {row['row']}: {row['problem']}", err=True)
    return found, loaded | {"model": subject}


def summary(found: Triage) -> list[str]:
    """The queue as a whole, in lines; with colours, which ``click.echo`` takes away where they are not supported."""
    batch = found.batch
    counts = ", ".join(
        click.style(f"{many} {route}", fg=route_colour(route), bold=True) for route, many in batch["routes"].items()
    )
    lines = [f"{batch['served']} of {count(batch['requests'], 'request')} served: {counts}"]
    if batch["retraining_seconds"] is not None and batch["unlearning_seconds"] is not None:
        share = batch["share_of_retraining"]
        even = batch["break_even"]
        lines.append(
            f"unlearning one after another takes about {duration(batch['unlearning_seconds'])}, one retraining about "
            f"{duration(batch['retraining_seconds'])} ({share:.0%})"
            + (f"; break-even at {even:,.{0 if even >= 10 else 1}f} requests" if even is not None else "")
        )
    if batch["groups"]:
        lines.append(
            f"{count(batch['groups'], 'group')} of interacting requests, the largest has {batch['largest_group']}"
        )
    lines += [f"note: {note}" for note in batch["notes"]]
    if batch["retraining_seconds"] is not None:
        lines.append(f"one retraining: {duration(batch['retraining_seconds'])}, {batch['retraining_basis']}")
    lines.append(click.style(f"advice: {batch['advice']}", bold=True))
    return lines


def shown_id(name: str, most: int = 40) -> str:
    """An id as a terminal can show it, whoever wrote it: on one line, without control characters, not too long.

    >>> shown_id("user\\x1b[2J 7")
    'user?[2J 7'
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _lines(path: Path) -> Sequence[str]:
    """Lines of a text file, without the empty ones at its end."""
    from forgetcast.files.foreign import read_bytes

    try:
        return read_bytes(path, "--ids").decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"--ids: expected a text file with one id a line; {path} is no text") from error
