"""Deletion requests in JSON lines: one object a line."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from forgetcast.errors import FileFormatError
from forgetcast.files.exact_values import LIMIT
from forgetcast.files.foreign import each_once
from forgetcast.screening.request_rows import RequestRows
from forgetcast.screening.request_text import decoded, not_text, quoted, refuse_binary

__all__ = ["json_rows"]


def json_rows(content: bytes, path: Path, id_column: str | None) -> RequestRows:
    refuse_binary(content, path)
    text = decoded(content)
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            whole = None
        if isinstance(whole, list) and (text.strip().count("\n") or any(isinstance(item, dict) for item in whole)):
            raise FileFormatError(f"requests {path}: expected one JSON object a line; the file is one array of them")
    rows = RequestRows.of_records(
        (number, *_json_object(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip()
    )
    if rows.row and all(rows.problem):
        raise FileFormatError(f"requests {path}: no line is a JSON object; line {rows.line[0]} is {rows.problem[0]}")
    return rows


def _json_object(line: str) -> tuple[Any, str]:
    """The value of one line and what is wrong with it, or ""."""
    if not line.isascii() and (problem := not_text(line)):
        return None, problem
    repeated: list[str] = []
    try:
        value = json.loads(line, object_pairs_hook=each_once(lambda name, _: repeated.append(name)))
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        return None, "not readable: nested too deeply"
    except ValueError:
        return None, "not readable: a number of too many digits"
    if isinstance(value, dict) and any(isinstance(part, float) and part.is_integer() for part in value.values()):
        for name, written in json.loads(line, parse_float=str).items():
            number = value[name]
            if (
                isinstance(number, float)
                and number.is_integer()
                and (abs(number) >= LIMIT or Decimal(written) != number)
            ):
                value[name] = written
    if repeated:
        return value, f"the name {quoted(repeated[0])} is given twice"
    if "\\u" in line and (problem := not_text(json.dumps(value, ensure_ascii=False))):
        return None, problem
    return value, ""
