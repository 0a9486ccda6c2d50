"""Tables that commands write: text of strangers is no formula in a spreadsheet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from forgetcast.cli.output import write_table


def test_text_that_begins_like_a_formula_gets_an_apostrophe_in_csv(tmp_path: Path) -> None:
    """Cells and names of columns; numbers, also as text, stay, and Parquet has the text as it came."""
    cells = ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "-17", "+3.5", "plain", None]
    frame = pd.DataFrame({"id": cells, "=HYPERLINK(1)": 1, "harm": [-0.5] * len(cells)})
    write_table(frame, tmp_path / "t.csv", {})
    read = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    assert read["id"].tolist() == ["'=1+1", "'@SUM(A1)", "'+cmd|' /C calc'!A0", "'-2+3", "'\t=1", *cells[5:8], ""]
    assert list(read) == ["id", "'=HYPERLINK(1)", "harm"]
    assert read["harm"].tolist() == ["-0.5"] * len(cells)
    write_table(frame, tmp_path / "t.parquet", {})
    assert pd.read_parquet(tmp_path / "t.parquet")["id"].tolist()[:8] == cells[:8]
