"""The sentences of a Markdown document, and of docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

from links import without_blocks


def sentences(text: str) -> list[str]:
    """Sentences outside headings, tables, code blocks and pictures, in their order, with links as their words.

    Code within a line counts as one word. A sentence ends with a full stop, a question or an exclamation mark before a
    blank, and with its paragraph or the item of its list; a colon or a semicolon ends none.

    >>> sentences("# No sentence\\n\\nOne [link](there.md), `a b c`. Two: with\\nits end.\\n- An item\\n- Another\\n")
    ['One link, code.', 'Two: with its end.', 'An item', 'Another']
    """
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", without_blocks(text)):
        lines = [line for line in paragraph.splitlines() if not re.match(r"#{1,6} |\s*\||!\[", line)]
        plain = " ".join(re.sub(r"^\s*(?:[-*]|\d+\.) ", "", line).strip() for line in lines)
        plain = re.sub(r"`[^`]*`", "code", plain)
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain).replace("*", "")
        found += [sentence for sentence in re.split(r"(?<=[.?!])[\"')]*\s+", plain) if sentence.strip()]
    return found


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, and the strings below constants and fields."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for line in node.body:
                match line:
                    case ast.Expr(ast.Constant(str(text))):
                        yield inspect.cleandoc(text)


def docstring_sentences(text: str) -> list[str]:
    """Sentences of a docstring, in their order, without its examples and blocks that are printed as they stand.

    As in :func:`sentences`; besides, a colon or a semicolon ends one, for here they separate the parts of a list.

    >>> docstring_sentences("One, `a b`.\\n\\nArgs:\\n    x: inputs; (n,).\\n\\n>>> f(1)\\n2\\n\\n\\b\\nprinted")
    ['One, code.', 'Args:', 'x:', 'inputs;', '(n,).']
    """
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*- )|\n(?=\s+[\w*, ]+: )", text):
        if not paragraph.startswith((">>> ", "\b")):
            plain = re.sub(r"``[^`]*``|`[^`]*`", "code", " ".join(paragraph.split()))
            found += [sentence for sentence in re.split(r"(?<=[.?!:;])[\"')]*\s+", plain) if sentence.strip()]
    return found


def words(sentence: str) -> int:
    """How many words a sentence has; numbers count, lone marks do not.

    >>> words("It is 0.94 - or `0.97`.")
    5
    """
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())
