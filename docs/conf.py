"""Settings of the site: README, docs/, the measured figures and the notebooks, from where they lie in the checkout.

``make docs`` builds it into ``build/site``. The source folder is the root of the checkout, so that one relative link
serves the site and the checkout alike.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs")]  # this checkout's forgetcast, and the extension beside this file


def source_hash() -> str:
    """Of the package: outputs of notebooks are made anew when it changes."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


project = "forgetcast"
version = release = installed_version("forgetcast")
extensions = ["myst_nb", "site_from_code"]
nitpicky = True

root_doc = "docs/index"
include_patterns = [
    "*.md",
    *(f"{folder}/**.md" for folder in ("docs", "benchmarks", "models", "training_data", "examples")),
    "notebooks/*.ipynb",
]
exclude_patterns = [".*", "build", "dist", "src", "tests", "**/.*", "**/shards"]

html_theme = "furo"
html_title = "forgetcast"
html_extra_path = ["redirect"]
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # pages written by benchmarks begin with a heading of the second level

autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

nb_execution_mode = os.environ.get("FORGETCAST_NOTEBOOKS", "off")  # "cache" in `make docs`
nb_execution_cache_path = str(ROOT / "build" / "notebooks" / source_hash())
nb_execution_excludepatterns = ["the_papers_question.ipynb"]  # stored with its outputs, which it states findings of
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
