"""What a compiled program sends between devices, read from its HLO text, and the parts of such a text."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "f8e4m3fn": 1, "f8e5m2": 1, "bf16": 2, "c64": 8, "c128": 16} | {
    f"{kind}{bits}": bits / 8 for kind in "suf" for bits in (8, 16, 32, 64)
}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")
_BRACKET = re.compile(r"[()]")
_OPERATION = re.compile(r"\s*([\w\-]+)\(")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange among groups of a size, summed over a program's run.

    Attributes:
      kind: one of `KINDS`.
      group: devices in each group.
      count: how often it runs.
      size: bytes of its whole arrays (as they are before a reduce-scatter and after an all-gather), summed.
    """

    kind: str
    group: int
    count: int
    size: float

    @property
    def sent(self) -> float:
        """Bytes that each device sends when the exchange goes around a ring."""
        if self.kind == "collective-permute":
            return self.size
        return (2 if self.kind == "all-reduce" else 1) * (self.group - 1) / self.group * self.size


def collectives(text: str, num_devices: int) -> list[Collective]:
    """The exchanges in one run of a compiled program, loops of a known length counted in full.

    Args:
      text: `compiled.as_text()`.
      num_devices: that the program runs on.
    """
    parts, entry = computations(text)
    found: dict[tuple[str, int], list[float]] = collections.defaultdict(lambda: [0, 0.0])
    for name, times in runs(parts, entry).items():
        for line in parts[name]:
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            kind, group = match[2], _group_size(line, num_devices)
            total = found[kind, group]
            total[0] += times
            total[1] += times * _whole_size(match[1], kind, group, started=bool(match[3]))
    return [Collective(kind, group, *total) for (kind, group), total in sorted(found.items()) if group > 1]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: of its result.
      result: type of its result, as "bf16[8,4]{1,0}" or a tuple of such.
      operation: as "fusion" or "all-reduce-start".
      operands: names of the results that it takes.
      rest: of the line: what the operation's brackets hold, and its attributes.
    """

    name: str
    result: str
    operation: str
    operands: tuple[str, ...]
    rest: str


def instruction(line: str) -> Instruction | None:
    """The instruction that a line of a computation holds; None where it holds none."""
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    begin = match.end()
    end = _closing(line, begin) if line.startswith("(", begin) else line.find(" ", begin)
    operation = _OPERATION.match(line, end) if end > 0 else None
    if operation is None:
        return None
    opened = operation.end() - 1
    operands = tuple(re.findall(r"%([\w.\-]+)", line[opened : _closing(line, opened)]))
    return Instruction(match[1], line[begin:end], operation[1], operands, line[opened:])


def _closing(line: str, opened: int) -> int:
    """The position behind the bracket that closes the one at `opened`."""
    depth = 0
    for bracket in _BRACKET.finditer(line, opened):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.end()
    return len(line)


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """(lines of each computation of a program's text, the entry's name)."""
    found: dict[str, list[str]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if not line.startswith(" ") and (match := _COMPUTATION.match(line)):
            current = found.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif current is not None:
            current.append(line)
    return found, entry


def runs(parts: Mapping[str, list[str]], entry: str, follows: Callable[[str], bool] = lambda _: True) -> dict[str, int]:
    """How often each computation runs, loops of a known length counted in full and every branch of a choice once.

    Args:
      parts: of `computations`, as is `entry`.
      follows: whether to count what an instruction of this line calls.
    """
    found: dict[str, int] = collections.Counter()

    def visit(name: str, times: int) -> None:
        found[name] += times
        for line in parts[name]:
            for called, repeats in _calls(line, parts) if follows(line) else ():
                if called in parts:
                    visit(called, times * repeats)

    visit(entry, 1)
    return found


def _calls(line: str, parts: Mapping[str, list[str]]) -> Iterator[tuple[str, int]]:
    """Computations that an instruction runs, and how often."""
    if re.search(r"\basync-(update|done)\(", line):
        return  # the same call as its async-start's
    for attribute, name in _CALLED.findall(line):
        yield name, _rounds(line, parts) if attribute == "body" else 1
    for names in _BRANCHES.findall(line):
        for name in names.split(","):
            yield name.strip().lstrip("%"), 1


def _rounds(line: str, parts: Mapping[str, list[str]]) -> int:
    """The rounds of a loop: as GPUs' and CPUs' compilers write them, or as its condition counts to; 1 if unknown.

    A TPU's compiler does not write them. JAX's loops count from 0 by ones up to a constant.
    """
    if trips := _TRIPS.search(line):
        return int(trips[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", line)
    lines = parts.get(condition[1], ()) if condition else ()
    there = {one.name: one for one in map(instruction, lines) if one is not None}
    for root in map(instruction, (line for line in lines if line.lstrip().startswith("ROOT "))):
        if root is not None and root.operation == "compare" and "direction=LT" in root.rest:
            limit = there.get(root.operands[1])
            value = re.match(r"\((\d+)\)", limit.rest) if limit is not None and limit.operation == "constant" else None
            return int(value[1]) if value else 1
    return 1


def _group_size(line: str, num_devices: int) -> int:
    """Devices that take part in an exchange together, from any of the ways HLO writes `replica_groups`."""
    if match := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", match[2]))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    return num_devices


def _whole_size(result: str, kind: str, group: int, started: bool) -> float:
    """Bytes of an exchange's whole arrays, from the type of its result."""
    sizes = [
        BYTES.get(element, 4) * math.prod(int(length) for length in lengths.split(",") if length)
        for element, lengths in SHAPE.findall(result)
    ]
    if started and kind in ("all-gather", "collective-permute", "reduce-scatter"):
        sizes = sizes[len(sizes) // 2 :]  # of (operands, results); permutations add two counters without a shape
    return sum(sizes) * (group if kind == "reduce-scatter" else 1)
