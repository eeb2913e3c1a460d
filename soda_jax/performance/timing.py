"""Wall-clock times of programs: several runs in turn, so that all see the same machine, and compilation apart."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from jax import monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call, measured several times."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{_seconds(self.median)} ({_seconds(min(self.values))}-{_seconds(max(self.values))})"


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def share(part: Timing, whole: Timing) -> float:
    """How much more `whole` takes than `part`, as a share of `whole`: the median over pairs measured side by side."""
    return statistics.median(1 - p / w for p, w in zip(part.values, whole.values, strict=True))


def ratio(program: Timing, base: Timing) -> float:
    """`program` over `base`, the median over pairs measured side by side."""
    return statistics.median(p / b for p, b in zip(program.values, base.values, strict=True))


@contextmanager
def compile_clock() -> Iterator[list[float]]:
    """The list fills with the seconds of each compilation inside the block."""
    found: list[float] = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == _COMPILED:
            found.append(seconds)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(listen)


def warm_up(program: Callable[[], Any]) -> float:
    """Calls `program` for the first time; the seconds that it compiled."""
    with compile_clock() as compiled:
        jax.block_until_ready(program())
    return sum(compiled)


def in_turn(programs: Mapping[str, Callable[[int], float]], repeats: int, min_seconds: float) -> dict[str, Timing]:
    """Seconds of one call of each program, every one measured `repeats` times, in turn.

    Args:
      programs: by name; program(n) takes the seconds that n calls of it took (`repeated`). They have been warmed up.
      min_seconds: of a run; it has at least so many calls that it lasts as long, and at least one.
    """
    counts = {name: max(1, round(min_seconds / max(program(1), 1e-9))) for name, program in programs.items()}
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            found[name].append(program(counts[name]) / counts[name])
    return {name: Timing(tuple(values)) for name, values in found.items()}


def repeated(program: Callable[[], Any]) -> Callable[[int], float]:
    """For `in_turn`: calls of `program` queued one after another, until the last one's arrays are there."""

    def run(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            result = program()
        jax.block_until_ready(result)
        return time.perf_counter() - begin

    return run
