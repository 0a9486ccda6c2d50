"""Notebooks run from top to bottom in a fresh kernel; the one that states findings is stored with its outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from places import ROOT

pytestmark = pytest.mark.slow

WITH_OUTPUTS = {"the_papers_question"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    """Every cell runs; the kernel starts in an empty folder, so nothing is written into the checkout."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    errors = [out for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == "error"]
    assert not errors
    pictures = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.endswith(".figure")]
    assert all(any("image/png" in out.get("data", {}) for out in cell.outputs) for cell in pictures)
    assert path.stem != "quickstart" or list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs_unless_it_states_findings(path: Path) -> None:
    """Outputs age, so a reader makes them with the version at hand; findings stand beside what they were read from."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    stored = [bool(cell.outputs) or cell.execution_count is not None for cell in cells]
    assert all(stored) if path.stem in WITH_OUTPUTS else not any(stored)


def test_there_are_notebooks() -> None:
    """The parametrised tests above have something to run on."""
    assert "quickstart" in [path.stem for path in NOTEBOOKS]
