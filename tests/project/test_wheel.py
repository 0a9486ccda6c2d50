"""The wheel as a user meets it: built, installed into its own environment, used outside the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from boundaries import measuring
from places import HELPERS, ROOT

pytestmark = pytest.mark.slow

CONSUMER = HELPERS / "typed_consumer.py"

PROGRAM = """
import sys, pathlib
import numpy as np, torch
import forgetcast
from forgetcast import DifficultyPredictor, predict_difficulty
from sklearn.datasets import load_digits

assert pathlib.Path(forgetcast.__file__).is_relative_to(sys.prefix), forgetcast.__file__
assert not any("{root}" in part for part in sys.path if "site-packages" not in part), sys.path
x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
heldout, (x, y) = (x[1200:], y[1200:]), (x[:1200], y[:1200])
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(60):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
report = predict_difficulty(model, (x, y), heldout=heldout, objective="both")
assert len(report.table) == 2 * len(y) and np.isfinite(report.table["percentile"]).all()
assert report.table.groupby("objective")["percentile"].std().min() > 0.02
beyond = tuple(f"{{name}}." for name in {beyond})
assert not [name for name in sys.modules if (name + ".").startswith(beyond)]
print(report.to_html("report.html"), len(DifficultyPredictor.published().features))
print(len(forgetcast.Corpus.published().targets))
"""

# Each command in one process: what is installed once is imported once.
COMMANDS = """
import sys
import numpy as np, torch
from forgetcast.cli import main
from forgetcast.corpus.zoo.datasets import load

open("mymodels.py", "w").write('''
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
''')
sys.path.insert(0, "")
from mymodels import mlp
(x, y), (held_x, held_y) = load("digits")
x, held_x = x.reshape(len(x), -1)[:300], held_x.reshape(len(held_x), -1)[:100]
y, held_y = y[:300], held_y[:100]
torch.manual_seed(0)
model = mlp()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(60):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
torch.save(model.state_dict(), "mlp.pt")
np.savez("train.npz", x=x, y=y)
np.savez("test.npz", x=held_x, y=held_y)
open("requests.csv", "w").write("index\\n3\\n17\\n999\\n")
about = "--model mymodels:mlp --weights mlp.pt --dataset train.npz --heldout test.npz --factors factors -q"

def run(line):
    try:
        main(line.split())
    except SystemExit as end:
        assert end.code == 0, (line, end.code)

run(f"predict {about} --indices 0-9 --out difficulty.csv --html report.html")
run(f"explain {about} --index 3 --plot waterfall.png")
run(f"prescreen {about} --requests requests.csv --out queue.csv --html queue.html --record decisions.jsonl")
run("prescreen --check-record decisions.jsonl")
print("PLUGINS")
run("plugins --format json")
"""

STRICT = """
[mypy]
strict = true
ignore_missing_imports = true

[mypy-{others}]
follow_imports = skip
"""
OTHERS = (
    "cloudpickle crepes click distributed faiss fsspec jinja2 joblib lightgbm markupsafe matplotlib numpy optuna "
    "pandas PIL pyarrow pytorch_lightning ray rdata safetensors scipy shap skorch sklearn torch torchvision tqdm "
    "transformers upath"
)
"""Packages that forgetcast imports, whose types are not read."""


def clean() -> dict[str, str]:
    """The variables of this process without those that lead to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, seen from an empty folder outside the checkout."""

    python: Path
    folder: Path

    def run(self, *command: str | Path) -> str:
        """What a command prints; it has to succeed."""
        done = subprocess.run(command, cwd=self.folder, env=clean(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built in an isolated environment that holds the build backend alone."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment whose only copy of forgetcast is the wheel.

    The environment borrows the dependencies of this one through a path file, so that they need not be installed
    twice; path files in a borrowed folder are not read, so the editable install there stays out of reach.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    installing = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(installing, check=True)
    asking = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    own = Path(subprocess.run(asking, capture_output=True, text=True, check=True).stdout.strip())
    (own / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


@pytest.fixture
def installed(environment: Path, tmp_path: Path) -> Installed:
    """The environment, with a folder of the test's own."""
    return Installed(environment, tmp_path)


def test_wheel_holds_package_predictor_and_template(wheel: Path) -> None:
    """The wheel carries code, typing marker, report template, published predictor and corpus, and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "py.typed",
        "report/templates/report.html.j2",
        "published_model/manifest.json",
        "cli/__init__.py",
        "published_corpus/manifest.json",
    ):
        assert f"forgetcast/{name}" in names
    assert {name.split("/")[0] for name in names} == {"forgetcast", "forgetcast-0.1.0.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_wheel_forecasts_outside_the_checkout(installed: Installed) -> None:
    """Import, forecast and report work in an environment whose only copy of forgetcast is the wheel."""
    installed.run(installed.python, "-c", PROGRAM.format(root=ROOT, beyond=(*measuring(), "torchvision")))
    assert (installed.folder / "report.html").stat().st_size > 10_000
    assert installed.run(installed.python.with_name("forgetcast"), "--version") == "forgetcast 0.1.0\n"


def test_commands_of_the_installed_wheel(installed: Installed) -> None:
    """Forecast, explanation, screened queue with its record, plugins and both pages, by the command line's own code."""
    printed = installed.run(installed.python, "-c", COMMANDS)
    folder = installed.folder
    assert len(pd.read_csv(folder / "difficulty.csv")) == 10
    assert set(pd.read_csv(folder / "queue.csv")["index"]) >= {3, 17}
    assert len((folder / "decisions.jsonl").read_text().splitlines()) == 3
    for page in ("report.html", "queue.html"):
        assert "<html" in (folder / page).read_text(encoding="utf-8")
        assert (folder / page).stat().st_size > 10_000
    assert (folder / "waterfall.png").read_bytes().startswith(b"\x89PNG")
    plugins = json.loads(printed[printed.index("PLUGINS") + len("PLUGINS") :])
    assert len([plugin for plugin in plugins if plugin["kind"] == "unlearner"]) == 16


def test_strict_user_is_served_the_types(installed: Installed) -> None:
    """mypy --strict accepts a user's program against the wheel, and refuses the lines that are wrong in it.

    The types of other packages are left out, which makes it quick and changes nothing about those of forgetcast.
    """
    others = ",".join(f"{name}.*" for name in OTHERS.split())
    (installed.folder / "mypy.ini").write_text(STRICT.format(others=others))
    shutil.copy(CONSUMER, installed.folder)
    command = [sys.executable, "-m", "mypy", "--python-executable", str(installed.python), "--cache-dir", os.devnull]
    done = subprocess.run([*command, CONSUMER.name], cwd=installed.folder, env=clean(), capture_output=True, text=True)
    errors = re.findall(r"^typed_consumer\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, flags=re.MULTILINE)
    lines = CONSUMER.read_text(encoding="utf-8").splitlines()
    wrong = [(str(at), line.split("# WRONG ")[1]) for at, line in enumerate(lines, 1) if "# WRONG " in line]
    assert wrong
    assert errors == wrong, done.stdout + done.stderr
