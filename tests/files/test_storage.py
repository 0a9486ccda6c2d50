"""Corpora in stores: the same bytes as on disk, resumed alike, and nothing torn is taken for whole."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from forgetcast.cli import main
from forgetcast.corpus import tasks
from forgetcast.corpus.corpus import Corpus
from forgetcast.corpus.generate import generate_corpus
from forgetcast.errors import FileFormatError, PathError
from forgetcast.files import atomic as whole_files
from forgetcast.files.stores import Place, place, read_if_there, remove_stale_drafts, write_atomically
from forgetcast.unlearn import Protocol
from small_targets import clouds
from synthetic import corpus

QUICK: dict[str, Any] = {
    "instances": 6,
    "unlearners": ["neggrad_plus"],
    "seeds": 2,
    "oracle_groups": 6,
    "oracle_seeds": 2,
    "progress": False,
}
"""Six shards: four of the oracle, two of outcomes."""
SHARDS = 6


@pytest.fixture(autouse=True)
def empty_store() -> Iterator[None]:
    """Nothing is in memory before and after a test."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture(scope="module", autouse=True)
def hardly_any_relearning() -> Iterator[None]:
    """Counting relearning to its end would take most of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "Protocol", partial(Protocol, relearn_most=1))
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a shard is computed."""
    counted: Counter[str] = Counter()
    for name in ("leave_groups_out", "outcome_block"):
        inner = getattr(tasks, name)

        def counting(*arguments: Any, inner: Any = inner) -> Any:
            counted["shard"] += 1
            return inner(*arguments)

        monkeypatch.setattr(tasks, name, counting)
    return counted


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a corpus on disk."""
    folder = tmp_path_factory.mktemp("disk") / "corpus"
    generate_corpus([clouds()], folder, **QUICK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_store(url: str) -> dict[str, bytes]:
    """Every object below a URL."""
    files, root = fsspec.url_to_fs(url)
    return {name.removeprefix(f"{root}/"): files.cat_file(name) for name in files.find(root)}


# -- places -----------------------------------------------------------------------------------------------------------


def test_only_urls_of_stores_are_more_than_paths(tmp_path: Path) -> None:
    """A path stays the path it was, and so does one with file:// in front."""
    for name in ("corpus", "/deep/corpus", "odd:name"):
        assert place(name) == place(Path(name)) == Path(name)
    for scheme in ("file", "local"):
        assert place(f"{scheme}://{tmp_path}/corpus") == tmp_path / "corpus"
    there = place("memory://bucket/corpus")
    assert not isinstance(there, Path)
    assert str(there / "a.parquet") == "memory://bucket/corpus/a.parquet"
    assert place(there) is there


def test_a_scheme_that_cannot_serve_is_refused_with_the_reason() -> None:
    """Unknown, or its package is not installed."""
    fsspec.register_implementation("absent", "no_such_package.Files", errtxt="Install no_such_package", clobber=True)
    for url, reason in (("nowhere://corpus", "nowhere"), ("absent://corpus", "Install no_such_package")):
        for use in (Corpus.read, partial(generate_corpus, [clouds()])):
            with pytest.raises(PathError, match=rf"^{url} cannot be reached \(.*{reason}.*with its package installed"):
                use(url)


def test_a_store_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused access becomes one line with the address, before any work."""

    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError("Access Denied\nmore of it")

    monkeypatch.setattr(MemoryFileSystem, "info", refused)
    for use in (Corpus.read, partial(generate_corpus, [clouds()])):
        with pytest.raises(PathError, match=r"^memory://corpus cannot be reached \(PermissionError: Access Denied\)"):
            use("memory://corpus")


def test_a_store_that_takes_nothing_is_refused_before_any_work(
    calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing bucket, or keys that may only read: not after the first hour, and in one line."""

    def refused(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("The specified bucket does not exist")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refused)
    with pytest.raises(
        PathError, match=r"cannot be reached \(FileNotFoundError: The specified bucket does not exist\)"
    ):
        generate_corpus([clouds()], "memory://corpus", **QUICK)
    assert calls["shard"] == 0


# -- corpora ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_corpus_in_a_store_has_the_bytes_of_one_on_disk(
    tmp_path: Path, on_disk: dict[str, bytes], calls: Counter[str], scheme: str
) -> None:
    """Tables, manifest, shards and their checksums; a second run repeats nothing; it is read back."""
    url = f"{scheme}://{tmp_path}/corpus"
    written = generate_corpus([clouds()], url, **QUICK)
    assert calls["shard"] == SHARDS
    assert in_store(url) == on_disk
    generate_corpus([clouds()], url, **QUICK)
    assert calls["shard"] == SHARDS
    assert in_store(url) == on_disk
    assert Corpus.read(url).digest == written.digest


def test_corpora_move_between_disk_and_store(tmp_path: Path) -> None:
    """Written from one into the other and back they stay what they are, and the command line reads both."""
    made = corpus(targets=2, rows=8)
    local = made.write(tmp_path / "corpus")
    Corpus.read(local).write("memory://copy")
    Corpus.read("memory://copy").write(tmp_path / "back")
    assert in_store("memory://copy") == in_store(f"file://{local}") == in_store(f"file://{tmp_path}/back")
    printed = [CliRunner().invoke(main, ["inspect", "corpus", name]).stdout for name in ("memory://copy", str(local))]
    assert printed[0].replace("memory://copy", str(local)) == printed[1] != ""


def test_the_command_line_generates_into_a_store() -> None:
    """--out and --corpus take URLs."""
    arguments = [
        "--target",
        "small_targets:clouds",
        "--out",
        "memory://mine",
        "--instances",
        "4",
        "--objective",
        "erase",
    ]
    result = CliRunner().invoke(main, ["generate", *arguments, "--unlearners", "neggrad_plus", "--seeds", "1", "-q"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("memory://mine: 1 target, 4 samples, ")
    assert Corpus.read("memory://mine").targets["target"].tolist() == ["clouds"]
    refused = CliRunner().invoke(main, ["train", "--corpus", "memory://other", "--out", "unused"])
    assert refused.exit_code == 2
    assert "memory://other does not exist" in refused.stderr


def test_a_place_without_a_corpus_is_refused() -> None:
    """Nothing there, something else there, or a file where a folder is expected; damage is found by its checksum."""
    store = fsspec.filesystem("memory")
    with pytest.raises(PathError, match="memory://nothing does not exist"):
        Corpus.read("memory://nothing")
    store.pipe_file("/other/file", b"mine")
    with pytest.raises(PathError, match=r"corpus with manifest.json in memory://other; there is none"):
        Corpus.read("memory://other")
    with pytest.raises(PathError, match="memory://other/file is a file"):
        Corpus.read("memory://other/file")
    with pytest.raises(PathError, match="expected a folder for the corpus at memory://other/file"):
        generate_corpus([clouds()], "memory://other/file", **QUICK)
    assert store.cat_file("/other/file") == b"mine"
    corpus(targets=2, rows=8).write("memory://torn")
    corpus(targets=2, rows=8, seed=1).write("memory://later")
    store.copy("/later/outcomes.parquet", "/torn/outcomes.parquet")
    with pytest.raises(FileFormatError, match=r"memory://torn/outcomes.parquet is not the file its manifest names"):
        Corpus.read("memory://torn")


# -- what fails while it is written -----------------------------------------------------------------------------------


def fails_midway(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The store breaks off the (after + 1)-th upload and keeps its first half, as none should."""
    inner, done = MemoryFileSystem.pipe_file, Counter[str]()

    def breaking(self: Any, path: str, value: bytes, **options: Any) -> None:
        done["upload"] += not path.endswith(".trial")
        if done["upload"] == after + 1:
            inner(self, path, value[: len(value) // 2], **options)
            raise ConnectionResetError("gone")
        inner(self, path, value, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", breaking)


@pytest.mark.parametrize("after", [2, 3, 10])
def test_an_upload_that_breaks_off_costs_only_its_shard(
    on_disk: dict[str, bytes], calls: Counter[str], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Broken off in a shard, in its checksum, or in a later shard: what came before is kept, the rest is done."""
    with monkeypatch.context() as patch:
        fails_midway(patch, after)
        with pytest.raises(PathError, match=r"^memory://corpus/.* cannot be reached \(ConnectionResetError: gone\)"):
            generate_corpus([clouds()], "memory://corpus", **QUICK)
    assert calls["shard"] == after // 2 + 1
    generate_corpus([clouds()], "memory://corpus", **QUICK)
    assert calls["shard"] == SHARDS + 1
    assert in_store("memory://corpus") == on_disk


@pytest.mark.parametrize("break_off", ["write", "replace"])
def test_a_disk_that_fails_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, break_off: str
) -> None:
    """Full in the middle of a draft, or no longer willing to move it: the older file stays, and no draft."""
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"older")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    def stuck(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        if break_off == "write":
            patch.setattr(Path, "write_bytes", full)
        else:
            patch.setattr(os, "replace", stuck)
        with pytest.raises(OSError, match=r"No space|Input/output"):
            write_atomically(path, b"newer and longer")
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"older"
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"


def cut(content: bytes) -> bytes:
    """Its first half."""
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """One bit of it changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("suffix", [".parquet", ".sha256"])
def test_a_torn_shard_is_made_again(
    on_disk: dict[str, bytes], calls: Counter[str], damage: Callable[[bytes], bytes], suffix: str
) -> None:
    """Whatever a store did to it, or to its checksum, that one is computed anew and no other."""
    store = fsspec.filesystem("memory")
    for name, content in on_disk.items():
        store.pipe_file(f"/corpus/{name}", content)
    torn = next(name for name in sorted(on_disk) if name.startswith("shards") and name.endswith(suffix))
    store.pipe_file(f"/corpus/{torn}", damage(on_disk[torn]))
    generate_corpus([clouds()], "memory://corpus", **QUICK)
    assert calls["shard"] == 1
    assert in_store("memory://corpus") == on_disk


def test_workers_that_write_elsewhere_are_found_out() -> None:
    """Memory is no place that other processes reach; the run says so instead of failing on a missing file."""
    settings = {**QUICK, "objectives": ["erase"]}
    with pytest.raises(
        PathError, match=r"2 shards that were written into memory://corpus/.* are not there.*all workers"
    ):
        generate_corpus([clouds()], "memory://corpus", n_jobs=2, **settings)


def test_drafts_of_other_machines_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared disk a process number means nothing elsewhere."""
    here = tmp_path / f".forgetcast.{whole_files.MACHINE}.4194305.0.parquet"
    there, unknown = tmp_path / ".forgetcast.elsewhere.4194305.0.parquet", tmp_path / ".part"
    for draft in (here, there, unknown):
        draft.write_bytes(b"half")
    remove_stale_drafts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([there, unknown])
    seen: list[str] = []
    monkeypatch.setattr(os, "replace", lambda draft, path: seen.append(Path(draft).name) or shutil.move(draft, path))
    write_atomically(tmp_path / "a.parquet", b"x")
    assert seen[0].startswith(f".forgetcast.{whole_files.MACHINE}.{os.getpid()}.")


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    """A file, or nothing: on disk and in a store."""
    roots: list[Place] = [tmp_path, place("memory://bucket")]
    for root in roots:
        assert read_if_there(root / "deep" / "file") is None
        write_atomically(root / "deep" / "file", b"x")
        assert read_if_there(root / "deep" / "file") == b"x"
        assert read_if_there(root / "deep") is None
