"""Columns of deletion requests: which of them name the sample, and how names are compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from forgetcast.errors import SchemaError, shortened

__all__ = [
    "ID_COLUMNS",
    "INDEX_COLUMNS",
    "distinct_names",
    "free_name",
    "named_column",
    "names_sample",
    "naming_columns",
    "plain_name",
    "refuse_twins",
]

INDEX_COLUMNS = ("index", "sample_index", "sample")
"""Columns that name a sample by its number, 0 to n - 1; upper case, spaces and hyphens do not matter."""
ID_COLUMNS = ("id", "sample_id")
"""Columns that name a sample by its id."""


def naming_columns(columns: Sequence[str], id_column: str | None, source: str) -> tuple[list[str], list[str]]:
    """Which columns name a sample by number, and which by id.

    Raises:
        SchemaError: none does.
    """
    if id_column is not None:
        return [], [named_column(columns, id_column, source)]
    by_number = [name for known in INDEX_COLUMNS for name in columns if plain_name(name) == known]
    by_id = [name for known in ID_COLUMNS for name in columns if plain_name(name) == known]
    if by_number or by_id:
        return by_number, by_id
    wanted = f"expected a column {', '.join(repr(name) for name in INDEX_COLUMNS)} (the number of the sample) or 'id'"
    got = [repr(str(name)[:40]) for name in columns]
    if columns and all(re.fullmatch(r"\s*[-+]?\d*\.?\d*\s*", name) for name in columns):
        raise SchemaError(f"{source}: {wanted}; the first line is {', '.join(got[:4])}: put a header line before it")
    raise SchemaError(
        f"{source}: {wanted}; got {shortened(got, 8) or 'none'}: rename one, or name the column of the ids"
    )


def named_column(columns: Sequence[str], wanted: str, source: str) -> str:
    """The column of this name, or the only one whose name differs in case, blanks and hyphens alone.

    Raises:
        SchemaError: there is none.
    """
    for like in ([wanted], [name for name in columns if plain_name(name) == plain_name(wanted)]):
        if len(like) == 1 and like[0] in columns:
            return like[0]
    raise SchemaError(f"{source}: there is no column {wanted!r}; got {shortened(columns, 8) or 'none'}")


def names_sample(name: object) -> bool:
    """Whether a column of this name names the sample."""
    return plain_name(name) in (*INDEX_COLUMNS, *ID_COLUMNS)


def refuse_twins(names: Iterable[object], id_column: str | None, source: str) -> None:
    """Refuse two columns of one name, where it names the sample: which is meant cannot be known.

    Raises:
        SchemaError: there are two.
    """
    counts = Counter(str(name).strip() for name in names)
    for name, times in counts.items():
        naming = names_sample(name) or (id_column is not None and plain_name(name) == plain_name(id_column))
        if times > 1 and naming:
            raise SchemaError(f"{source}: two columns are named {name!r}: rename or drop one")


def free_name(name: str, taken: Iterable[str]) -> str:
    """``name``, with ``_request`` after it until it is none of those ``taken``."""
    while name in taken:
        name += "_request"
    return name


def plain_name(name: object) -> str:
    """A column's name as it is compared: lower case, without surrounding blanks, words joined by underscores."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def distinct_names(names: Iterable[object]) -> list[str]:
    """Names as text; one that came before gets a number, one without a name its place."""
    found: dict[str, None] = {}
    for place, name in enumerate(names, 1):
        plain = str(name).strip() or f"column_{place}"
        unique, count = plain, 1
        while unique in found:
            count += 1
            unique = f"{plain}_{count}"
        found[unique] = None
    return list(found)
