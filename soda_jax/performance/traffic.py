"""The kernels of a compiled program and the bytes that each moves between a chip and its memory, by what they do.

A kernel reads its operands and writes its results once: that is what the text of the optimised program says. What a
cache saves, or what a kernel reads twice or keeps as scratch (the workspaces of cuDNN), it does not say.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from soda_jax.performance import hlo
from soda_jax.performance.hlo import Instruction

_NO_KERNEL = {
    "AllocateBuffer",
    "add-dependency",
    "after-all",
    "async-start",  # its computation's instructions count
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
}
_PROGRAM_CALLS = re.compile(
    r" (while|call|conditional|async-start)\("
)  # others call a fusion's or a reduction's inside
_SLICES = ("slice", "dynamic-slice", "gather")
_EXCHANGES = tuple(f"{kind}{start}" for kind in hlo.KINDS for start in ("", "-start"))
_ARRAY = re.compile(rf"{hlo.SHAPE.pattern}(?:\{{([\d,]*)(?::([^}}]*))?\}})?")
_CONVOLUTION = "conv_general_dilated"  # what JAX calls one, in the names that programs keep
# By the names of JAX's operations and of our modules and scopes; the first that fits counts. "state." begins the name
# of what training carries, which only copies bear.
_SOURCES = (
    ("optimiser, EMA", r"optimizer\b|\bema\b|\bgradient_norms\b|^state\."),
    ("dropout", r"dropout|drop_path"),
    ("draws", r"\bdraw_"),
    ("attention", r"attention"),
    ("norms", r"norm(?!al)"),
    ("modulation", r"modulation"),
    ("activations", r"gelu|tanh|relu|silu|logistic"),
    ("concatenation", r"concatenate"),
    ("gradient sums", r"add_any"),
    ("probe", r"\bprobe\b"),
    ("around convolutions", r"conv|shortcut|\bstem\b"),  # bias, padding, and every cast: convert_element_type
    ("encoder, other", r"encode"),
)
FORWARD, BACKWARD, EXCHANGES, OTHER = "convolutions, forward", "convolutions, backward", "exchanges", "other"
SOURCES = (FORWARD, BACKWARD, *(label for label, _ in _SOURCES), EXCHANGES, OTHER)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel of a program; on a TPU, one operation of it.

    Attributes:
      kind: "fusion:Loop", the target of a custom call, or the operation.
      name: of the operation that it comes from, as JAX wrote it, with the modules around it.
      source: one of `SOURCES`.
      runs: how often a run of the program starts it.
      read, written: bytes of the chip's memory, each time.
      padding: of these, bytes that only fill the tiles of a TPU's layout.
    """

    kind: str
    name: str
    source: str
    runs: int
    read: int
    written: int
    padding: int


@dataclasses.dataclass(frozen=True)
class Share:
    """What one source has of a program: kernels started, bytes read and written, of them a TPU's padding."""

    source: str
    kernels: int
    moved: int
    padding: int


def kernels(text: str) -> list[Kernel]:
    """The kernels that one run of a compiled program starts, in its order.

    Args:
      text: `compiled.as_text()` of one for a GPU or a TPU. Loops of a known length count in full, others one round.
    """
    parts, entry = hlo.computations(text)
    program = _Program({name: tuple(filter(None, map(hlo.instruction, lines))) for name, lines in parts.items()}, text)
    times = hlo.runs(parts, entry, lambda line: _PROGRAM_CALLS.search(line) is not None)
    return [kernel for name, count in times.items() for kernel in program.kernels(name, count)]


def shares(found: Iterable[Kernel]) -> tuple[Share, ...]:
    """The kernels summed by source, in the order of `SOURCES`."""
    totals: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    for kernel in found:
        total = totals[kernel.source]
        for index, value in enumerate((1, kernel.read + kernel.written, kernel.padding)):
            total[index] += kernel.runs * value
    return tuple(Share(source, *totals[source]) for source in SOURCES if source in totals)


class _Program:
    def __init__(self, parts: Mapping[str, Sequence[Instruction]], text: str) -> None:
        self._parts = parts
        # Only a TPU's layouts have tiles, and only there is space 1 a memory of the chip's own; a GPU's is its HBM.
        self._of_tpu = re.search(r"\{[\d,]*:T\(", text) is not None

    def kernels(self, computation: str, runs: int) -> Iterable[Kernel]:
        """Those of one computation, which runs so often."""
        there = {instruction.name: instruction for instruction in self._parts[computation]}
        for one in self._parts[computation]:
            if _kind(one) in _NO_KERNEL or one.operation.endswith(("-done", "-update")):
                continue
            inside = self._inside(one)
            read, written = self._read(one, there, inside), self._written(one, there, inside)
            name = _name(one, there, inside)
            yield Kernel(
                kind=_kind(one),
                name=name,
                source=_source(one, name, self._convolution(one)),
                runs=runs,
                read=read[0],
                written=written[0],
                padding=read[1] + written[1],
            )

    def _inside(self, fusion: Instruction) -> Sequence[Instruction]:
        """The instructions of a fusion; none of anything else."""
        called = re.search(r"\bcalls=%?([\w.\-]+)", fusion.rest) if fusion.operation == "fusion" else None
        return self._parts.get(called[1], ()) if called else ()

    def _convolution(self, one: Instruction) -> str | None:
        """The name of the convolution that a kernel computes, whatever else is fused to it; None without one."""
        if one.operation in ("convolution", "dot") or re.search(r'target="__cu(blas|dnn)', one.rest):
            name = _own_name(one)
            return name if _CONVOLUTION in name else None
        return next(filter(None, map(self._convolution, self._inside(one))), None)

    def _read(
        self, one: Instruction, there: Mapping[str, Instruction], inside: Sequence[Instruction]
    ) -> tuple[int, int]:
        """(bytes, padding) of its operands; of one that is only sliced, of the slices."""
        taken, sizes = _parameters(inside), []
        for index, name in enumerate(one.operands):
            if name not in there or name in one.operands[:index]:
                continue
            whole = self._size(there[name].result)
            sliced = self._slices(taken[index], inside) if index in taken else None
            if not inside and index == 0:
                sliced = self._slices(name, [dataclasses.replace(one, operation=one.operation.removesuffix("-start"))])
            sizes.append(whole if sliced is None else min(whole, self._anywhere(sliced)))
        return _added(sizes)

    def _written(
        self, one: Instruction, there: Mapping[str, Instruction], inside: Sequence[Instruction]
    ) -> tuple[int, int]:
        """(bytes, padding) of its results; of one that changes a part of an array in place, of the part."""
        result = _result(one)
        within = {inner.name: inner for inner in inside} or there
        roots = [inside[-1] if inside else one]
        if inside and roots[0].operation == "tuple":
            roots = [within[name] for name in roots[0].operands if name in within]
        results = _elements(result) if result.startswith("(") else [result]
        if len(roots) != len(results):
            return self._size(result)
        sizes = []
        for root, written in zip(roots, results, strict=True):
            while root.operation == "bitcast" and root.operands[0] in within:
                root = within[root.operands[0]]
            whole, part = self._size(written), None
            if root.operation == "dynamic-update-slice":
                part = within.get(root.operands[1])
            sizes.append(whole if part is None else min(whole, self._anywhere([part.result])))
        return _added(sizes)

    def _slices(self, name: str, inside: Sequence[Instruction]) -> list[str] | None:
        """Types of all that instructions take of their parameter `name`; None where one takes it whole."""
        users = [one for one in inside if name in one.operands]
        found = []
        for user in users:
            first_only = user.operands[0] == name and name not in user.operands[1:]
            if user.operation in _SLICES and first_only:
                found.append(user.result)
            elif user.operation == "dynamic-update-slice" and first_only:
                continue  # what is changed in place need not be read
            elif user.operation == "bitcast" and (below := self._slices(user.name, inside)) is not None:
                found += below
            elif user.operation == "fusion" and (within := self._inside(user)):
                taken = _parameters(within).get(user.operands.index(name), "")
                if not taken or (below := self._slices(taken, within)) is None:
                    return None
                found += below
            else:
                return None
        return found if users else None

    def _size(self, result: str) -> tuple[int, int]:
        return _size(result, self._of_tpu, main_memory=True)

    def _anywhere(self, results: Sequence[str]) -> tuple[int, int]:
        """Of types within a kernel, which say nothing of where the array lies that they are a part of."""
        return _added(_size(result, self._of_tpu, main_memory=False) for result in results)


def _parameters(inside: Sequence[Instruction]) -> dict[int, str]:
    """A fusion's operands by their number: the names that they have inside."""
    found = {}
    for one in inside:
        if one.operation == "parameter" and (number := re.match(r"\((\d+)\)", one.rest)):
            found[int(number[1])] = one.name
    return found


def _result(one: Instruction) -> str:
    """The type of what a kernel writes: without a library's scratch, and what stands beside it in one that starts."""
    if one.operation == "custom-call" and one.result.startswith("(") and re.search(r'target="__cu(blas|dnn)', one.rest):
        parts = _elements(one.result)
        return ", ".join(parts[:-1] if re.match(r"[su]8\[\d*\]", parts[-1]) else parts)
    if not one.operation.endswith("-start") or not one.result.startswith("("):
        return one.result
    parts = _elements(one.result)
    if one.operation == "copy-start":
        return parts[0]
    return parts[1] if len(parts) > 1 and one.operation != "all-reduce-start" else one.result


def _elements(result: str) -> list[str]:
    """The types of which a tuple's type is made."""
    parts, depth, current = [], 0, ""
    for letter in re.sub(r"/\*.*?\*/", "", result)[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += letter
    return [*parts, current.strip()]


@functools.cache
def _size(result: str, of_tpu: bool, main_memory: bool) -> tuple[int, int]:
    """(bytes of an array's or tuple's type, of them padding); with `main_memory`, of what lies in the chip's own."""
    total = padding = 0
    for element, lengths, order, layout in _ARRAY.findall(result):
        sides = [int(side) for side in lengths.split(",") if side]
        width = hlo.BYTES.get(element, 0)
        if of_tpu and main_memory and re.search(r"S\([1-9]", layout):
            continue  # VMEM, a scalar's memory, or the host
        plain = math.ceil(math.prod(sides) * width)
        tiled = plain
        if (tile := re.match(r"T\(([\d,]+)\)", layout)) and sides:
            tiled = math.ceil(math.prod(_filled(sides, order, tile[1])) * width)
        total += tiled
        padding += tiled - plain
    return total, padding


def _filled(sides: Sequence[int], order: str, tile: str) -> list[int]:
    """The sides of an array, rounded up to its layout's tile along the axes that vary fastest."""
    filled = list(sides)
    edges = [int(edge) for edge in tile.split(",")]
    for axis, edge in zip((int(axis) for axis in order.split(",")), reversed(edges), strict=False):
        filled[axis] = -(-filled[axis] // edge) * edge
    return filled


def _added(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Sums of the first and of the second numbers."""
    pairs = list(sizes)
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


def _kind(one: Instruction) -> str:
    if one.operation == "custom-call" and (target := re.search(r'custom_call_target="([^"]+)"', one.rest)):
        return target[1]
    if one.operation == "fusion" and (kind := re.search(r"\bkind=k(\w+)", one.rest)):
        return f"fusion:{kind[1]}"
    return one.operation


def _own_name(one: Instruction) -> str:
    found = re.search(r'op_name="([^"]*)"', one.rest)
    return found[1] if found else ""


def _name(one: Instruction, there: Mapping[str, Instruction], inside: Sequence[Instruction]) -> str:
    """The name of an instruction, or of what it is made of, or of where its first operand comes from."""
    if name := _own_name(one):
        return name
    named = [name for inner in inside if inner.operation != "parameter" and (name := _own_name(inner))]
    if named:
        return named[-1]
    above = one
    for _ in range(10):  # copies and parts of tuples follow each other in short rows
        if not above.operands or above.operands[0] not in there:
            break
        above = there[above.operands[0]]
        if name := _own_name(above):
            return name
    return ""


def _source(one: Instruction, name: str, convolution: str | None) -> str:
    if convolution is not None:
        return BACKWARD if "transpose(" in convolution else FORWARD
    if one.operation in _EXCHANGES:
        return EXCHANGES
    return next((label for label, pattern in _SOURCES if re.search(pattern, name)), OTHER)
