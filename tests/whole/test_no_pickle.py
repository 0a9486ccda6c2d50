"""No file that is read can run code: nothing in the source unpickles or evaluates, and pickles that try do not run."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import forgetcast
from forgetcast.adapters.loading import load_dataset
from forgetcast.errors import FileFormatError, ForgetcastError
from forgetcast.files.parquet import parquet_table
from forgetcast.screening.requests import checked_requests
from forgetcast.target.weights import read_weights
from hostile_mutations import Canary

SOURCE = Path(forgetcast.__file__).parent
MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
WRITES_ONLY = {"parallel.py": ("cloudpickle", "cloudpickle.Pickler(_NullStream()).dump(value)")}
"""A module that asks whether a task can be sent, by pickling it into nothing; the one line that it may."""
METHODS = {"read_pickle", "to_pickle", "unpickle", "literal_eval", "fromfile_pickle", "unsafe_load", "full_load"}


def offences(tree: ast.AST) -> Iterator[str]:
    """What a module does that could run code from a file, with its line."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
            if node.module in ("joblib", "torch", "numpy") and {alias.name for alias in node.names} & {"load"}:
                yield f"line {line}: load of {node.module} under a name of its own"
        else:
            names = []
        yield from (f"line {line}: imports {name}" for name in names if name in MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in CALLS or called.rsplit(".", 1)[-1] in METHODS:
            yield f"line {line}: calls {called}"
        if called == "torch.load" and keywords.get("weights_only") != "True":
            yield f"line {line}: torch.load without weights_only=True"
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            yield f"line {line}: np.load without allow_pickle=False"
        if called in ("joblib.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"):
            yield f"line {line}: calls {called}"
        if keywords.get("allow_pickle", "False") != "False" or keywords.get("trust_remote_code", "False") != "False":
            yield f"line {line}: allows code"
        if keywords.get("shell", "False") != "False" or called in ("os.system", "os.popen"):
            yield f"line {line}: runs a shell"


def test_nothing_in_the_source_unpickles_or_evaluates() -> None:
    """In all modules, those of unlearners and plots too."""
    modules = sorted(SOURCE.rglob("*.py"))
    assert len(modules) > 100
    found = [
        f"{path.relative_to(SOURCE)}, {what}"
        for path in modules
        for what in offences(ast.parse(path.read_text("utf-8")))
    ]
    allowed = [f"{name}, line" for name in WRITES_ONLY]
    assert [what for what in found if not what.startswith(tuple(allowed))] == []
    assert len(found) == len(WRITES_ONLY)
    for name, (module, line) in WRITES_ONLY.items():
        text = (SOURCE / name).read_text("utf-8")
        assert text.count(module) == 2
        assert line in text


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import dill as d",
        "from joblib import load",
        "joblib.load(path)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "import yaml",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    """Each of them alone."""
    assert list(offences(ast.parse(code)))


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """An object whose pickle writes a file; at the end there must be none."""
    trap = Canary(tmp_path / "canary")
    yield trap
    assert not trap.path.exists(), "code ran"
    pickle.loads(pickle.dumps(trap))  # noqa: S301  # the trap itself works
    assert trap.path.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.ckpt", "w.safetensors"])
def test_a_pickle_for_weights_runs_nothing(tmp_path: Path, canary: Canary, name: str, protocol: int) -> None:
    """Alone in the file, in every protocol."""
    (tmp_path / name).write_bytes(pickle.dumps({"0.weight": canary}, protocol=protocol))
    with pytest.raises(FileFormatError):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_with_a_trap_in_it_runs_nothing(tmp_path: Path, canary: Canary, zipped: bool) -> None:
    """Beside real tensors, in both formats of torch.save."""
    state = {"0.weight": torch.ones(5, 4), "more": canary}
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(FileFormatError, match="holds more than weights"):
        read_weights(tmp_path / "w.pt")


def test_arrays_of_objects_run_nothing(tmp_path: Path, canary: Canary) -> None:
    """As inputs and as labels, and a pickle under the name of an archive."""
    trap = np.array([canary] * 3, dtype=object)
    np.savez(tmp_path / "x.npz", x=trap, y=np.arange(3))
    np.savez(tmp_path / "y.npz", x=np.zeros((3, 4)), y=trap)
    (tmp_path / "p.npz").write_bytes(pickle.dumps(canary))
    for name in ("x.npz", "y.npz", "p.npz"):
        with pytest.raises(FileFormatError):
            load_dataset(str(tmp_path / name))


def test_pickles_in_parquet_run_nothing(tmp_path: Path, canary: Canary) -> None:
    """As values, and as the metadata of an extension type, which pyarrow before 14.0.1 unpickled (CVE-2023-47248)."""
    content = pickle.dumps(canary, protocol=0)
    table = pa.table({"index": [0, 1], "label": [0, 1], "a": pa.array([content] * 2)})
    pq.write_table(table, tmp_path / "t.parquet")
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": content}
    fields = [*list(table.schema)[:2], table.schema.field("a").with_metadata(metadata)]
    pq.write_table(pa.Table.from_arrays(table.columns, schema=pa.schema(fields)), tmp_path / "e.parquet")
    pd.DataFrame({"index": [0, 1], "a": [b"x", b"y"]}).to_pickle(tmp_path / "p.parquet")
    for name in ("t", "e", "p"):
        path = tmp_path / f"{name}.parquet"
        for read in (
            lambda place: parquet_table(place.read_bytes(), place),
            lambda place: checked_requests(place, 9),
            lambda place: load_dataset(str(place)),
        ):
            with suppress(ForgetcastError):
                read(path)
