"""Reads LightGBM's text format without trusting it: LightGBM parses only what was checked and written anew here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import lightgbm as lgb

from forgetcast.errors import FileFormatError

__all__ = ["read_booster"]

_NODE_FIELDS = ("split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child",
                "internal_value", "internal_weight", "internal_count")  # fmt: skip
_INTEGERS = {"split_feature", "decision_type", "left_child", "right_child", "leaf_count", "internal_count"}
_LEAF_FIELDS = ("leaf_value", "leaf_weight", "leaf_count")
_OBJECTIVES = ("binary sigmoid:1", "regression")
_DEEPEST = 500
"""Splits on the way to a leaf: LightGBM walks its trees by recursion."""
_INTEGER = re.compile(r"-?\d{1,10}", re.ASCII)
_NUMBER = re.compile(r"-?(\d+(\.\d*)?(e[-+]?\d+)?|inf|nan)", re.ASCII)
_INTEGERS_LINE, _NUMBERS_LINE = (
    re.compile(rf"(?:{one.pattern})(?: (?:{one.pattern}))*", re.ASCII) for one in (_INTEGER, _NUMBER)
)
_INFO = re.compile(r"none|\[[-+.e\d]+:[-+.e\d]+\]", re.ASCII)


def read_booster(text: str, features: Sequence[str], source: str) -> lgb.Booster:
    """The booster that ``text`` describes, after its structure was checked.

    LightGBM follows the child and feature numbers of a model file without checking their range, so a damaged
    file could read outside its arrays or walk in circles; a damaged line of parameters ends the process. Here every
    tree must have fields of the right length, features below the number of features, and no categorical splits or
    linear leaves. Children must come after their parent, and no way to a leaf may have over 500 splits. Numbers must be
    spelt so that Python and C read the same. LightGBM is given the header and the trees in these very spellings, and
    nothing else of the text: parameters, importances and unknown lines do not reach it.

    Args:
        text: the model in LightGBM's text format, version 4.
        features: names of the feature columns, in the order the model must have them.
        source: what messages call the text, such as its file name.

    Raises:
        FileFormatError: the text is truncated, malformed, or of a model over other features.
    """
    try:
        checked = _checked(text, list(features))
    except (KeyError, ValueError, IndexError) as error:
        reason = f"{error.args[0]!s} is missing" if isinstance(error, KeyError) else str(error)
        raise FileFormatError(
            f"{source}: expected a LightGBM model in text format over {len(features)} features; {reason}. "
            "The file is corrupt or truncated: copy it again or retrain the predictor."
        ) from error
    try:
        return lgb.Booster(model_str=checked)
    except (lgb.basic.LightGBMError, ValueError, TypeError) as error:
        raise FileFormatError(f"{source}: LightGBM cannot read this model: {error}") from error


def _fields(block: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        name, found, value = line.partition("=")
        if found and name in fields:
            raise ValueError(f"{name[:40]!r} comes twice")
        fields[name] = value
    return fields


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text) or not -(2**31) <= (value := int(text)) < 2**31:
        raise ValueError(f"{text[:40]!r} is no whole number of 32 bits")
    return value


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no number")
    return float(text)


def _integers(line: str) -> list[int]:
    """Whole numbers of 32 bits with one space between them; as :func:`_integer`, a line at a time."""
    if _INTEGERS_LINE.fullmatch(line):
        values = [int(value) for value in line.split(" ")]
        if min(values) >= -(2**31) and max(values) < 2**31:
            return values
    return [_integer(value) for value in line.split(" ")]


def _numbers(line: str) -> list[float]:
    """Numbers with one space between them; as :func:`_number`, a line at a time."""
    if _NUMBERS_LINE.fullmatch(line):
        return [float(value) for value in line.split(" ")]
    return [_number(value) for value in line.split(" ")]


def _checked(text: str, features: list[str]) -> str:
    """The header and the trees alone, spelt as they came.

    Raises:
        KeyError, ValueError, IndexError: something is wrong with them.
    """
    head, found, rest = text.partition("\n\nTree=0\n")
    if not head.startswith("tree\nversion=v4\n") or not found:
        raise ValueError("it does not begin with a version 4 header and a first tree")
    header = _fields(head)
    if header["num_class"] != "1" or header["num_tree_per_iteration"] != "1" or header["label_index"] != "0":
        raise ValueError("it is not a regression or binary model")
    if header["objective"] not in _OBJECTIVES:
        raise ValueError(f"expected an objective among {_OBJECTIVES}")
    if header["feature_names"].split(" ") != features or header["max_feature_idx"] != str(len(features) - 1):
        raise ValueError("its feature names are not those of the manifest")
    infos = header["feature_infos"].split(" ")
    if len(infos) != len(features) or not all(map(_INFO.fullmatch, infos)):
        raise ValueError("feature_infos has the wrong length or form")
    body = "Tree=0\n" + rest
    sizes = _integers(header["tree_sizes"])
    start, trees = 0, []
    for number, size in enumerate(sizes):
        block = body[start : start + size]
        if size <= 0 or not block.startswith(f"Tree={number}\n"):
            raise ValueError(f"tree {number} is not where the header says")
        trees.append(_checked_tree(_fields(block), number, len(features)))
        start += size
    tail = body[start:]
    if not tail.startswith("end of trees\n") or "\nend of parameters\n" not in tail or "Tree=" in tail:
        raise ValueError("its end is missing")
    names = ("num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective", "feature_names")
    lines = ["tree", "version=v4", *(f"{name}={header[name]}" for name in (*names, "feature_infos"))]
    lines.append(f"tree_sizes={' '.join(str(len(tree.encode())) for tree in trees)}")
    return "\n".join([*lines, "", "".join(trees)]) + "end of trees\n"


def _checked_tree(tree: dict[str, str], number: int, features: int) -> str:
    leaves = _integer(tree["num_leaves"])
    if leaves < 1 or tree["num_cat"] != "0" or tree.get("is_linear", "0") != "0":
        raise ValueError(f"tree {number} has no leaves, categorical splits or linear leaves")
    names = _NODE_FIELDS + _LEAF_FIELDS if leaves > 1 else ("leaf_value",)
    values: dict[str, list[Any]] = {name: (_integers if name in _INTEGERS else _numbers)(tree[name]) for name in names}
    for name, numbers in values.items():
        expected = leaves if name in _LEAF_FIELDS else leaves - 1
        if len(numbers) != expected:
            raise ValueError(f"tree {number} has {len(numbers)} values of {name} instead of {expected}")
    if not all(map(math.isfinite, values["leaf_value"])):
        raise ValueError(f"tree {number} has a leaf that is not finite")
    shrinkage = _number(tree["shrinkage"])
    if not math.isfinite(shrinkage):
        raise ValueError(f"tree {number} has a shrinkage that is not finite")
    if leaves > 1:
        _check_splits(values, leaves, number, features)
    lines = [f"Tree={number}", f"num_leaves={leaves}", "num_cat=0", *(f"{name}={tree[name]}" for name in names)]
    return "\n".join([*lines, "is_linear=0", f"shrinkage={tree['shrinkage']}", "", "", ""])


def _check_splits(values: dict[str, list[Any]], leaves: int, number: int, features: int) -> None:
    if not 0 <= min(values["split_feature"]) <= max(values["split_feature"]) < features:
        raise ValueError(f"tree {number} splits on a feature that does not exist")
    if not set(values["decision_type"]) <= {0, 2, 4, 6, 8, 10}:
        raise ValueError(f"tree {number} has a decision of an unknown type")
    children = [*enumerate(values["left_child"]), *enumerate(values["right_child"])]
    if any(not (parent < child if child >= 0 else -leaves <= child) for parent, child in children):
        raise ValueError(f"tree {number} has a child before its parent or outside the tree")
    if sorted(child for _, child in children) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise ValueError(f"tree {number} does not reach every node exactly once")
    depth = [1] * (leaves - 1)
    for parent, child in sorted(children):
        if child > 0:
            depth[child] = depth[parent] + 1
    if max(depth) > _DEEPEST:
        raise ValueError(f"tree {number} is deeper than {_DEEPEST} splits")
