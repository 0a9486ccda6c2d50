"""Documents hold what they promise: commands exist, examples run, links lead somewhere, sentences are short."""

from __future__ import annotations

import ast
import json
import re
import shlex
import struct
from importlib import import_module
from pathlib import Path

import click
import pytest

from forgetcast.cli import main
from forgetcast.registry import load_factors, load_unlearners
from links import broken_links
from places import ROOT
from prose import docstring_sentences, docstrings, sentences, words

pytestmark = pytest.mark.slow

PAGES = ("README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md"))))
"""What people read to use forgetcast and to work on it."""
NOTEBOOKS = tuple(str(p.relative_to(ROOT)) for p in sorted((ROOT / "notebooks").glob("*.ipynb")))
FOLDERS = ("benchmarks", "examples", "models", "training_data")
LINKED = (
    *PAGES,
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    *(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))),
)
SHELL = (*PAGES, "ARCHITECTURE.md", "CHANGELOG.md")
ENTRY_POINT_GROUPS = ("forgetcast.factors", "forgetcast.unlearners", "forgetcast.report_sections")
LONGEST = 29
"""Words of a sentence."""
ROUNDABOUT = re.compile(r"\b(mend(s|ed|ing)?|work(s|ed|ing)? (it |them )?out)\b")
"""For fix and compute."""


def every_command(group: click.Group = main, before: str = "") -> dict[str, click.Command]:
    """All commands by the words that call them; those of a group beside the group itself."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[f"{before}{name}"] = command
        if isinstance(command, click.Group):
            found |= every_command(command, f"{before}{name} ")
    return found


COMMANDS = every_command()


def text(name: str) -> str:
    """A document of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced code blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(name), flags=re.MULTILINE | re.DOTALL)


def shell_lines(name: str) -> list[list[str]]:
    """The words of every line of shell in a document, those that go on after a backslash as one; comments left out."""
    indented = re.findall(r"^    ((?:forgetcast|make|pip|pytest|python) .*)$", text(name), flags=re.MULTILINE)
    fenced = "".join(blocks(name, "sh")).replace("\\\n", " ").splitlines()
    return [found for line in (*indented, *fenced) if (found := shlex.split(line, comments=True))]


def code_spans(name: str) -> list[str]:
    """What stands between backticks within the lines of a document."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text(name), flags=re.MULTILINE | re.DOTALL))


def help_of(name: str) -> str:
    """What ``forgetcast NAME --help`` prints."""
    command = COMMANDS[name]
    with click.Context(command, info_name=f"forgetcast {name}", max_content_width=110) as context:
        return command.get_help(context)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_in_the_reference(name: str) -> None:
    """The table of commands has a row for each."""
    assert f"| `forgetcast {name}` |" in text("docs/reference/commands.md")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_parse(name: str) -> None:
    """Each --help has examples of the command, and their options exist."""
    examples = help_of(name).split("EXAMPLES")[1].split("Options:")[0].replace("\\\n", " ")
    lines = [line.split() for line in examples.splitlines() if line.strip().startswith("forgetcast ")]
    assert any(" ".join(line[1:]).startswith(name) for line in lines)
    for line in lines:
        check_options(line)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_explains_itself(name: str) -> None:
    """An option without help has at least a default that shows what it is."""
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option):
            assert option.help or option.show_default, option.name


def check_options(words: list[str]) -> None:
    """The command and every option of a ``forgetcast ...`` line exist."""
    command = COMMANDS.get(" ".join(words[1:3])) or COMMANDS[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}, words


@pytest.mark.parametrize("name", SHELL)
def test_command_lines_in_documents_parse(name: str) -> None:
    """Every line of shell names a command, a make target or a script that exists, with options that exist."""
    targets = re.findall(r"^([a-z]+):", text("Makefile"), flags=re.MULTILINE)
    for line in shell_lines(name):
        if line[0] == "forgetcast":
            check_options(line)
        elif line[0] == "make":
            assert set(line[1:]) <= set(targets), line
        elif line[0] == "python":
            assert (ROOT / line[1]).is_file(), line
        else:
            assert line[0] in ("pip", "pytest"), line


@pytest.mark.parametrize("name", SHELL)
def test_commands_within_sentences_exist(name: str) -> None:
    """So do the commands and scripts that a sentence or a table names, with their options and paths."""
    for span in code_spans(name):
        if re.match(r"forgetcast [a-z]+", span):
            check_options(shlex.split(span.replace("forgetcast COMMAND", "forgetcast predict")))
        elif re.match(r"make [a-z]+$", span):
            assert re.search(rf"^{span.split()[1]}:", text("Makefile"), flags=re.MULTILINE), span
        elif re.match(r"(python|pytest) \S+\.py", span):
            scripts = [word.split("::")[0] for word in span.split()[1:] if ".py" in word and not word.startswith("-")]
            assert all(script == "tests/FILE" or (ROOT / script).is_file() for script in scripts), span


def test_command_lines_are_found() -> None:
    """The checks above have something to run on: lines in fences, indented lines, spans, lines that go on."""
    lines = shell_lines("docs/how_to/screen_a_queue.md")
    assert [line[1] for line in lines] == ["prescreen", "verify", "prescreen", "prescreen"]
    assert "--html" in lines[0]
    assert "forgetcast train --training-run" in code_spans("docs/how_to/forecast.md")
    with pytest.raises(AssertionError):
        check_options(["forgetcast", "predict", "--no-such-option"])


@pytest.mark.parametrize("name", PAGES)
def test_python_in_documents_compiles_and_imports(name: str) -> None:
    """Every block is sound Python, and what it imports is there."""
    for code in blocks(name, "python"):
        for node in ast.walk(ast.parse(code, name)):
            if isinstance(node, ast.Import):
                assert all(import_module(alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found = import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(found, alias.name)] == [], node.module


@pytest.mark.parametrize("name", PAGES)
def test_dotted_names_in_documents_exist(name: str) -> None:
    """Every ``forgetcast.x.y`` in a sentence or a table is a module, or something in one."""
    for span in code_spans(name):
        dotted = re.fullmatch(r"(forgetcast(?:\.\w+)+)(?:\(.*\))?", span)
        if dotted and dotted[1] not in ENTRY_POINT_GROUPS:
            module, _, last = dotted[1].rpartition(".")
            try:
                import_module(dotted[1])
            except ImportError:
                assert hasattr(import_module(module), last), span


def test_readme_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's Python has ten lines, runs as it stands and leaves the report that it says."""
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    assert len([line for line in code.splitlines() if line]) == 10
    exec(compile(code, "README.md", "exec", dont_inherit=True), {})
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert "reasons" in capsys.readouterr().out


def test_tutorial_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tutorial's blocks run one after the other as they stand, and leave the report that it says."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks("docs/start/first_forecast.md", "python"):
        exec(compile(code, "first_forecast.md", "exec", dont_inherit=True), names)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert "reasons" in capsys.readouterr().out


def test_readme_is_short() -> None:
    """At most 900 words, three lines of shell beside the two of make, and a picture of the report below 150 kB."""
    assert len(text("README.md").split()) <= 900
    made, used = (block.splitlines() for block in blocks("README.md", "sh"))
    assert [line.split()[:2] for line in made] == [["make", "demo"], ["make", "test"]]
    assert len(used) == 3
    picture = (ROOT / "docs" / "images" / "report.png").read_bytes()
    assert len(picture) < 150_000
    assert struct.unpack(">II", picture[16:24]) > (800, 600)


def test_readme_says_what_rows_of_one_person_mean() -> None:
    """The limit of screening stands in the README's section on it, and on the page about queues."""
    for name, heading in (
        ("README.md", "## Screening deletion requests\n"),
        ("docs/how_to/screen_a_queue.md", "## Rows of one person\n"),
    ):
        section = text(name).split(heading)[1].split("\n## ")[0]
        assert "**Every forecast is of one row by itself, and rows of one person vouch for each other.**" in section
        assert "--person-column" in section
        assert "cannot be known" in section


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", *PAGES, *NOTEBOOKS])
def test_sentences_are_short_and_plain(name: str) -> None:
    """No sentence of 30 words or more outside tables and code; fix and compute, not mend and work out."""
    cells = json.loads(text(name))["cells"] if name.endswith(".ipynb") else []
    written = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"] if cells else [text(name)]
    found = sentences("\n\n".join(written))
    assert found
    assert [sentence for sentence in found if words(sentence) > LONGEST] == []
    assert [one for one in found if ROUNDABOUT.search(one)] == []


def test_sentences_of_docstrings_are_short_and_plain() -> None:
    """The same of every docstring of the package, and of the strings below its constants and fields."""
    long, roundabout, count = [], [], 0
    for path in sorted((ROOT / "src").rglob("*.py")):
        for docstring in docstrings(path.read_text(encoding="utf-8")):
            found = docstring_sentences(docstring)
            count += len(found)
            long += [(path.name, sentence) for sentence in found if words(sentence) > LONGEST]
            roundabout += [(path.name, sentence) for sentence in found if ROUNDABOUT.search(sentence)]
    assert count > 5000
    assert long == []
    assert roundabout == []


def test_sentences_are_measured() -> None:
    """Long sentences are noticed wherever they stand outside tables and code, and counted."""
    long = " ".join(["word"] * 30)
    noticed = [f"{long}.", f"- {long}\n- another", f"Short. {long}!", f"Half: {long}.", f"**[{long}](there.md)**"]
    passed = [f"| {long} |", f"# {long}", f"```text\n{long}\n```", f"`{long}`", f"{long[:-5]}.\n\n{long[:-5]}"]
    assert all(any(words(one) > LONGEST for one in sentences(given)) for given in noticed)
    assert not any(words(one) > LONGEST for given in passed for one in sentences(given))
    source = f'"""{long}."""\nX = 1\n"""{long}"""\ndef f():\n    """One.\n\n    Args:\n        x: {long}.\n    """\n'
    assert sum(words(one) > LONGEST for text in docstrings(source) for one in docstring_sentences(text)) == 3


def test_extension_examples_register() -> None:
    """The contract, the factor, the unlearner and the report section shown to authors are real ones."""
    import torch

    from forgetcast.registry import DECLARATION
    from forgetcast.testing import CONTRACT_VERSION, check_report_section
    from sample_report import sample_report

    names: dict[str, object] = {"__name__": "examples"}
    for example in blocks("docs/how_to/extend.md", "python"):
        exec(compile(example, "extend.md", "exec", dont_inherit=True), names)
    assert names[DECLARATION] == CONTRACT_VERSION
    check_report_section(names["hardest_classes"], sample_report(12))  # type: ignore[arg-type]
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert names["runner_up"](logits).tolist() == pytest.approx([0.1142, 1 / 3], abs=1e-4)  # type: ignore[operator]
    made = names["MarginDescent"]()  # type: ignore[operator]
    assert made.forget_loss(logits[0], torch.tensor(0), {}).item() == pytest.approx(3 - 4 / 3)


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_somewhere(name: str) -> None:
    """Relative links of a document point to files of the project and to headings that are there."""
    assert broken_links(ROOT / name, ROOT) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A missing file, a heading that is not there, a file outside and plain http are named; what is in code is not."""
    (tmp_path / "there.md").write_text("# One `idea`, *here*\n\n```text\n# no heading\n```\n")
    good = ["there.md", "there.md#one-idea-here", "#mine", "https://example.org", "."]
    bad = ["gone.md", "there.md#no-heading", "#yours", "../outside.md", "http://example.org"]
    text = "# Mine\n" + " ".join(f"[link]({link})" for link in good + bad) + " `[code](gone.py)`\n"
    (tmp_path / "document.md").write_text(text)
    assert broken_links(tmp_path / "document.md", tmp_path) == bad
    pages = '<h1 id="a">A</h1><a href="#a">a</a><a href="#b">b</a><a href="there.md">c</a><img src="gone.png">'
    (tmp_path / "page.html").write_text(pages)
    assert broken_links(tmp_path / "page.html", tmp_path) == ["#b", "gone.png"]


def test_architecture_names_every_module() -> None:
    """Every public module has its place in ARCHITECTURE.md, in its package's table; every module named there exists."""
    named: set[str] = set()
    package = ""
    for line in text("ARCHITECTURE.md").split("## Modules")[1].split("\n## ")[0].splitlines():
        if line.startswith(("| `", "| module", "| package")):
            first = re.findall(r"`([^`]+)`", line.split("|")[1])
            if line.startswith(("| module", "| package")) or first[0].endswith("."):
                package = first[0] if first else ""
            else:
                named |= {f"{package}{name.rstrip('/')}" for name in first}
    source = ROOT / "src" / "forgetcast"
    opened = ("adapters", "cli")  # named as a whole
    modules = set()
    for place in ("", *(path.name for path in source.iterdir() if (path / "__init__.py").is_file())):
        before = f"{place}." if place else ""
        if place in opened:
            modules.add(place)
            continue
        folder = source / place
        modules |= {f"{before}{path.stem}" for path in folder.glob("[a-z]*.py")}
        modules |= {f"{before}{inner.parent.name}" for inner in folder.glob("[a-z]*/__init__.py") if place}
    assert named == modules


def test_registered_plugins_load() -> None:
    """Every factor and unlearner that the package declares can be loaded."""
    assert len(load_factors()) > 20
    assert {"gradient_ascent", "influence", "retraining"} <= set(load_unlearners())
