"""Documents hold what they promise: commands are documented, examples run, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from forgetcast.cli import main
from forgetcast.registry import load_factors, load_unlearners
from links import broken_links
from places import ROOT

DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
FOLDERS = ("docs", "benchmarks", "examples", "models", "training_data")
LINKED = (
    *DOCUMENTS,
    *(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))),
)


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


def help_of(name: str) -> str:
    """What ``forgetcast NAME --help`` prints."""
    command = COMMANDS[name]
    with click.Context(command, info_name=f"forgetcast {name}", max_content_width=110) as context:
        return command.get_help(context)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_in_the_readme(name: str) -> None:
    """The README's table has a row for each command."""
    assert f"| `forgetcast {name}` |" in text("README.md")


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


@pytest.mark.parametrize("name", DOCUMENTS)
def test_command_lines_in_documents_parse(name: str) -> None:
    """Every indented ``forgetcast ...`` line names an existing command with existing options."""
    for line in text(name).splitlines():
        if line.startswith("    forgetcast "):
            check_options(shlex.split(line, comments=True))


def test_readme_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's first Python runs as it stands and leaves the report that it says; the others are sound."""
    monkeypatch.chdir(tmp_path)
    code, *others = blocks("README.md", "python")
    for other in others:
        compile(other, "README.md", "exec", dont_inherit=True)
    exec(compile(code, "README.md", "exec", dont_inherit=True), {})
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert "reasons" in capsys.readouterr().out


def test_contributing_examples_register() -> None:
    """The contract, the factor, the unlearner and the report section shown to contributors are real ones."""
    import torch

    from forgetcast.registry import DECLARATION
    from forgetcast.testing import CONTRACT_VERSION, check_report_section
    from sample_report import sample_report

    names: dict[str, object] = {"__name__": "examples"}
    for example in blocks("CONTRIBUTING.md", "python"):
        exec(compile(example, "CONTRIBUTING.md", "exec", dont_inherit=True), names)
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
    """Every public module has its line in ARCHITECTURE.md, and every module named there exists."""
    source = ROOT / "src" / "forgetcast"
    rows = [line.split("|")[1] for line in text("ARCHITECTURE.md").splitlines() if line.startswith("| `")]
    named = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    modules = {path.stem for path in source.glob("[a-z]*.py")}
    modules |= {path.name for path in source.glob("[a-z]*") if (path / "__init__.py").is_file()}
    assert named == modules


def test_registered_plugins_load() -> None:
    """Every factor and unlearner that the package declares can be loaded."""
    assert len(load_factors()) > 20
    assert {"gradient_ascent", "influence", "retraining"} <= set(load_unlearners())
