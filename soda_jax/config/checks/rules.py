"""What every check of a config is made of: a field's value, and the line that names it with its remedy."""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict


def value(config: ConfigDict, field: str) -> Any:
    """The value of "section.field"."""
    node: Any = config
    for part in field.split("."):
        node = node[part]
    return node


def problem(config: ConfigDict, field: str, remedy: str) -> str:
    """The line that reports a field."""
    return f"config.{field}={value(config, field)!r}: {remedy}"


def does_not_divide(whole: int, part: int) -> bool:
    return part > 0 and whole % part != 0  # a part below 1 is reported by its range


def check_ranges(config: ConfigDict, ranges: dict[str, tuple[float, float]]) -> Iterator[str]:
    """Reports fields that are not finite numbers within (low, high), both ends included."""
    for field, (low, high) in ranges.items():
        found = value(config, field)
        if not isinstance(found, (int, float)) or not math.isfinite(found):
            yield problem(config, field, "must be a finite number")
        elif not low <= found <= high:
            bound = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
            yield problem(config, field, f"must be {bound}")


def check_choices(config: ConfigDict, choices: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Reports fields whose value is none of those allowed."""
    for field, allowed in choices.items():
        if value(config, field) not in allowed:
            yield problem(config, field, f"must be one of {', '.join(allowed)}")
