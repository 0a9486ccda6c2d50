"""Known holes in the dependencies, from a folder of advisories: those installed here, and the oldest that are allowed.

    python docs/audit.py --advisories FOLDER

FOLDER holds advisories in the OSV format as YAML, for instance the folder ``vulns`` of the PyPA advisory database
(``pip-audit`` asks a server and cannot read a folder). Looked at are forgetcast's dependencies and theirs, with all
extras that are installed, at their installed versions; and the lower bounds that forgetcast itself sets. Exit code 1
where an installed version is affected. Needs PyYAML, which optuna brings.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

Advisories = dict[str, list[dict[str, Any]]]
"""Advisories that stand, by the canonical name (PEP 503) of the package they affect."""


def read_advisories(folder: Path) -> Advisories:
    """All that were not withdrawn."""
    found: Advisories = {}
    for path in sorted(folder.rglob("*.yaml")):
        advisory = yaml.safe_load(path.read_text(encoding="utf-8"))
        if advisory.get("withdrawn"):
            continue
        for name in {affected["package"]["name"] for affected in advisory["affected"]}:
            found.setdefault(canonicalize_name(name), []).append(advisory)
    return found


def affects(advisory: dict[str, Any], name: str, version: str) -> bool:
    """Is the version of the package listed, or within a range, as the OSV schema defines it?"""
    asked = Version(version)
    for affected in advisory["affected"]:
        if canonicalize_name(affected["package"]["name"]) != canonicalize_name(name):
            continue
        if any(_is(listed, asked) for listed in affected.get("versions", ())):
            return True
        if any(_within(part["events"], asked) for part in affected.get("ranges", ()) if part["type"] == "ECOSYSTEM"):
            return True
    return False


def _is(listed: str, asked: Version) -> bool:
    try:
        return Version(str(listed)) == asked
    except InvalidVersion:
        return False


def _within(events: list[dict[str, Any]], asked: Version) -> bool:
    """Events in the order of their versions: the last one that is not past the version decides."""
    moments = []
    for event in events:
        for kind, at in event.items():
            moments.append((Version(str(at)), kind))
    affected = False
    for at, kind in sorted(moments):
        if kind == "introduced" and asked >= at:
            affected = True
        if (kind == "fixed" and asked >= at) or (kind == "last_affected" and asked > at):
            affected = False
    return affected


def installed(root: str = "forgetcast") -> dict[str, str]:
    """Versions of everything that ``root`` needs here, extras included as far as they are installed, by name."""
    found: dict[str, str] = {}
    waiting = [(root, frozenset(distribution(root).metadata.get_all("Provides-Extra") or ()))]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = package.version
        for line in package.requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    del found[root]
    return dict(sorted(found.items()))


def lower_bounds(root: str = "forgetcast") -> dict[str, str]:
    """The oldest version of each direct dependency that ``root`` allows, by name."""
    found = {}
    for line in distribution(root).requires or ():
        needed = Requirement(line)
        for bound in needed.specifier:
            if bound.operator == ">=":
                found[canonicalize_name(needed.name)] = bound.version
    return dict(sorted(found.items()))


def hits(advisories: Advisories, versions: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """(package, version, advisory with its other names, first line of what it says)."""
    for name, version in versions.items():
        for advisory in advisories.get(name, ()):
            if affects(advisory, name, version):
                names = ", ".join([advisory["id"], *advisory.get("aliases", ())])
                said = str(advisory.get("summary") or advisory.get("details", "")).strip().splitlines()
                yield name, version, names, said[0][:100] if said else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--advisories", type=Path, required=True, help="folder of OSV files, read with its subfolders")
    folder = parser.parse_args().advisories
    advisories = read_advisories(folder)
    if not advisories:
        parser.error(f"{folder} holds no .yaml file: give the folder with the advisories")
    here, oldest = installed(), lower_bounds()
    found = list(hits(advisories, here))
    bounds = list(hits(advisories, oldest))
    count = len({advisory["id"] for of_one in advisories.values() for advisory in of_one})
    print(f"{count} advisories, {len(advisories)} packages; {len(here)} installed dependencies, {len(oldest)} bounds")
    print(f"{sum(name in advisories for name in here)} of the installed ones have advisories of any version")
    for title, rows in (("installed", found), ("lower bounds", bounds)):
        print(f"\n{title}: {len(rows)} known holes")
        for row in rows:
            print("  " + " | ".join(row))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
