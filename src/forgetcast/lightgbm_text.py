"""Reads LightGBM's text format without trusting it: every tree is checked before LightGBM parses it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightgbm as lgb

from forgetcast.errors import FileFormatError

__all__ = ["read_booster"]

_NODE_FIELDS = ("split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child",
                "internal_value", "internal_weight", "internal_count")  # fmt: skip
_INTEGERS = {"split_feature", "decision_type", "left_child", "right_child", "leaf_count", "internal_count"}
_LEAF_FIELDS = ("leaf_value", "leaf_weight", "leaf_count")


def read_booster(text: str, features: Sequence[str], source: str) -> lgb.Booster:
    """The booster that ``text`` describes, after its structure was checked.

    LightGBM follows the child and feature numbers of a model file without checking their range, so a damaged
    file could read outside its arrays or walk in circles. Here every tree must have fields of the right
    length, features below the number of features, no categorical splits or linear leaves, and children that
    come after their parent.

    Args:
        text: the model in LightGBM's text format, version 4.
        features: names of the feature columns, in the order the model must have them.
        source: what messages call the text, such as its file name.

    Raises:
        FileFormatError: the text is truncated, malformed, or of a model over other features.
    """
    try:
        _check(text, list(features))
    except (KeyError, ValueError, IndexError) as error:
        reason = f"{error.args[0]!s} is missing" if isinstance(error, KeyError) else str(error)
        raise FileFormatError(
            f"{source}: expected a LightGBM model in text format over {len(features)} features; {reason}. "
            "The file is corrupt or truncated: copy it again or retrain the predictor."
        ) from error
    try:
        return lgb.Booster(model_str=text)
    except (lgb.basic.LightGBMError, ValueError, TypeError) as error:
        raise FileFormatError(f"{source}: LightGBM cannot read this model: {error}") from error


def _fields(block: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        name, found, value = line.partition("=")
        if found and name in fields:
            raise ValueError(f"{name} comes twice")
        fields[name] = value
    return fields


def _check(text: str, features: list[str]) -> None:
    head, found, rest = text.partition("\n\nTree=0\n")
    if not head.startswith("tree\nversion=v4\n") or not found:
        raise ValueError("it does not begin with a version 4 header and a first tree")
    header = _fields(head)
    if header["num_class"] != "1" or header["num_tree_per_iteration"] != "1":
        raise ValueError("it is not a regression or binary model")
    if header["feature_names"].split(" ") != features or int(header["max_feature_idx"]) != len(features) - 1:
        raise ValueError("its feature names are not those of the manifest")
    if len(header["feature_infos"].split(" ")) != len(features):
        raise ValueError("feature_infos has the wrong length")
    body = "Tree=0\n" + rest
    sizes = [int(size) for size in header["tree_sizes"].split(" ")]
    start = 0
    for number, size in enumerate(sizes):
        block = body[start : start + size]
        if size <= 0 or not block.startswith(f"Tree={number}\n"):
            raise ValueError(f"tree {number} is not where the header says")
        _check_tree(_fields(block), number, len(features))
        start += size
    tail = body[start:]
    if not tail.startswith("end of trees\n") or "\nend of parameters\n" not in tail or "Tree=" in tail:
        raise ValueError("its end is missing")


def _check_tree(tree: dict[str, str], number: int, features: int) -> None:
    leaves = int(tree["num_leaves"])
    if leaves < 1 or tree["num_cat"] != "0" or tree.get("is_linear", "0") != "0":
        raise ValueError(f"tree {number} has no leaves, categorical splits or linear leaves")
    values: dict[str, list[Any]] = {
        name: [(int if name in _INTEGERS else float)(value) for value in tree[name].split(" ")]
        for name in (_NODE_FIELDS + _LEAF_FIELDS if leaves > 1 else ("leaf_value",))
    }
    for name, numbers in values.items():
        expected = leaves if name in _LEAF_FIELDS else leaves - 1
        if len(numbers) != expected:
            raise ValueError(f"tree {number} has {len(numbers)} values of {name} instead of {expected}")
    if not all(map(math.isfinite, values["leaf_value"])):
        raise ValueError(f"tree {number} has a leaf that is not finite")
    if leaves == 1:
        return
    if not all(value in range(features) for value in values["split_feature"]):
        raise ValueError(f"tree {number} splits on a feature that does not exist")
    if not all(value in (0, 2, 4, 6, 8, 10) for value in values["decision_type"]):
        raise ValueError(f"tree {number} has a decision of an unknown type")
    children = [*enumerate(values["left_child"]), *enumerate(values["right_child"])]
    if any(not (parent < child if child >= 0 else -leaves <= child) for parent, child in children):
        raise ValueError(f"tree {number} has a child before its parent or outside the tree")
    if sorted(child for _, child in children) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise ValueError(f"tree {number} does not reach every node exactly once")
