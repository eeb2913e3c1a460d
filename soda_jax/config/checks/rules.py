"""What every check of a config is made of: a field's value, and the line that names it with its remedy."""

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class EachItem(NamedTuple):
    """What a tuple must hold: at least one number of `kind`, each in [low, high]; `described` in a message's words."""

    kind: type
    low: float
    high: float
    described: str


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


def check_names(config: ConfigDict, field: str, known: Collection[str]) -> Iterator[str]:
    """Reports a tuple of names of which some are not `known`."""
    unknown = [str(name) for name in value(config, field) if name not in known]
    if unknown:
        yield problem(config, field, f"names {', '.join(unknown)}; known are {', '.join(known)}")


def check_items(config: ConfigDict, items: dict[str, EachItem]) -> Iterator[str]:
    """Reports tuples that do not hold what they must; whole numbers count as floats."""

    def fits(item: Any, rule: EachItem) -> bool:
        whole = isinstance(item, int) and not isinstance(item, bool)
        return (whole or (rule.kind is float and isinstance(item, float))) and rule.low <= item <= rule.high

    for field, rule in items.items():
        found = value(config, field)
        if not found or not all(fits(item, rule) for item in found):
            yield problem(config, field, f"must be {rule.described}")
