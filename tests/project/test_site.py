"""The site is built from the documents and the code without a warning, and every link in it leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from forgetcast._public_api import PUBLIC
from forgetcast.cli import main
from forgetcast.registry import load_factors
from links import anchors_of, broken_links
from places import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``make docs`` builds it, but for the notebooks, which are shown as they are stored."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", ROOT / "docs"]
    environment = {**os.environ, "FORGETCAST_NOTEBOOKS": "off"}
    done = subprocess.run(
        [*command, "-d", folder / "doctrees", ROOT, folder / "html"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "html"


def test_every_document_is_a_page(site: Path) -> None:
    """Documents and notebooks are there, reached from the start page, to which the folder's own index leads."""
    documents = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb"), *ROOT.glob("*.md")]
    assert len(documents) > 25
    for path in documents:
        assert (site / path.relative_to(ROOT)).with_suffix(".html").is_file(), path
    assert "docs/index.html" in (site / "index.html").read_text(encoding="utf-8")


def test_every_public_name_has_its_entry(site: Path) -> None:
    """Each public module is on one page of the reference, and each of its names has an anchor there."""
    found = [anchors_of(page) for page in sorted((site / "docs" / "reference" / "python").glob("*.html"))]
    for module, names in PUBLIC.items():
        (anchors,) = (one for one in found if f"module-{module}" in one)
        assert [name for name in names if f"{module}.{name}" not in anchors] == [], module


def test_factors_and_commands_are_listed(site: Path) -> None:
    """Each factor has a row, and each command its help."""
    factors = (site / "docs" / "how_it_works" / "factors.html").read_text(encoding="utf-8")
    assert [name for name in load_factors() if f">{name}</span>" not in factors] == []
    commands = (site / "docs" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert [name for name in main.commands if f"Usage: forgetcast {name} " not in commands] == []


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    """Every link and anchor of every page exists."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    assert {page.name: broken for page in pages if (broken := broken_links(page, site))} == {}


def test_a_name_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    """A docstring's reference is followed into the code, public or not; what is not there is a warning."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); from site_from_code import exists; "
        "print([exists(name, 'forgetcast') for name in ('Target', 'forgetcast.corpus.labels.difficulty', "
        "'numpy.ndarray', 'pandas.DataFrame.loc', 'str', 'forgetcast.corpus.labels.gone', 'gone')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[True, True, True, True, True, False, False]\n"
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text("# A page\n\n```{eval-rst}\n:func:`forgetcast.corpus.labels.gone`\n```\n")
    path = f"import sys\nsys.path.insert(0, {str(ROOT / 'docs')!r})\n"
    (source / "conf.py").write_text(f"{path}extensions = ['myst_parser', 'site_from_code']\nnitpicky = True\n")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", source, tmp_path / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert re.search(r"reference target not found: forgetcast\.corpus\.labels\.gone", done.stderr)
