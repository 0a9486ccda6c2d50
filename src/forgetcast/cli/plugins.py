"""``forgetcast plugins``: what is registered, where it comes from, and whether it works."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from forgetcast.cli.options import quiet_option

if TYPE_CHECKING:
    from forgetcast.registry import Plugin

__all__ = ["plugins"]

BROKEN = 1
COLUMNS = ("kind", "name", "package", "version", "from", "contract", "status")


@click.command()
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True, help="What to print."
)
@click.option(
    "--check", is_flag=True, help="Hold those of other packages to the laws of their kind; some seconds each."
)
@quiet_option
@click.pass_context
def plugins(context: click.Context, form: str, check: bool, quiet: bool) -> None:
    """List factors, unlearners and report sections, and the packages they come from.

    One that cannot be used is listed with the reason; everything else goes on without it. With --check the
    exit code is 1 if one cannot be used or breaks a law.

    \b
    EXAMPLES
      forgetcast plugins
      forgetcast plugins --format json
      forgetcast plugins --check
    """
    from forgetcast import registry
    from forgetcast.errors import PluginWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # the list says it
        there = registry.plugins()
    broken = _broken_laws(there, progress=not quiet) if check else {}
    rows = [_row(plugin, name, broken) for plugin in there for name in plugin.provides or (plugin.name,)]
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
    else:
        _table(rows)
        for plugin in there:
            if plugin.reason:
                click.echo(f"\n{plugin} is left out: {plugin.reason}")
        for name, why in broken.items():
            click.echo(f"\n{name}: {why}")
    if check and (broken or any(plugin.reason for plugin in there)):
        context.exit(BROKEN)


def _row(plugin: Plugin, name: str, broken: dict[str, str]) -> dict[str, Any]:
    law = broken.get(f"{plugin.kind} {name}", "")
    known = asdict(plugin)
    return {
        "kind": plugin.kind,
        "name": name,
        "package": plugin.package or None,
        "version": plugin.version or None,
        "from": plugin.value,
        "contract": plugin.contract,
        "status": "broken" if known["reason"] or law else "ok",
        "reason": known["reason"] or law or None,
        "built_in": plugin.built_in,
    }


def _table(rows: list[dict[str, Any]]) -> None:
    """Aligned columns."""
    cells = [COLUMNS, *(tuple(str(row[name] or "-") for name in COLUMNS) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    for line in cells:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _broken_laws(there: tuple[Plugin, ...], *, progress: bool) -> dict[str, str]:
    """What breaks the laws, among that from other packages: "factor name" and the law."""
    from tqdm import tqdm

    from forgetcast import registry, testing
    from forgetcast.errors import NotApplicableError

    checks = {
        registry.FACTOR_GROUP: testing.check_factor,
        registry.UNLEARNER_GROUP: lambda kind: testing.check_unlearner(kind()),
        registry.SECTION_GROUP: testing.check_report_section,
    }
    work = [(plugin, name) for plugin in there if not (plugin.built_in or plugin.reason) for name in plugin.provides]
    broken = {}
    with tqdm(work, desc="laws", unit="plugin", disable=not progress, leave=False) as bar:
        for plugin, name in bar:
            bar.set_postfix_str(name)
            try:
                checks[plugin.group](registry.found(plugin.group).objects[name])  # type: ignore[operator]
            except AssertionError as law:
                broken[f"{plugin.kind} {name}"] = str(law)
            except NotApplicableError:
                continue  # the example lacks what it needs: no law is broken
            except Exception as error:
                broken[f"{plugin.kind} {name}"] = f"{plugin} raised {registry.raised(error)}"
    return broken
