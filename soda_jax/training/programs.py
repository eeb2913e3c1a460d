"""The programs of a training step, one for each number of sources that a step may show.

A program's shapes are fixed. One for all numbers would encode as many views in every step, and throw most of them away.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from soda_jax.objectives.objective import Batch
from soda_jax.objectives.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def step_of_any(step: Any, counts: Sequence[int], say: Callable[[str], None]) -> Step:
    """A step for batches of any number of sources in `counts`; `say` is told before several programs are compiled.

    Args:
      step: `TrainStep.jit_step`, itself what comes out where there is one number only.
    """
    return step if len(counts) == 1 else _StepPrograms(step, counts, say)


class _StepPrograms:
    """Compiles every program at the first call, before it takes a step: nothing compiles in the middle of a run."""

    def __init__(self, step: Any, counts: Sequence[int], say: Callable[[str], None]):
        self._step, self._counts, self._say = step, counts, say
        self._programs: dict[int, Step] = {}

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        if not self._programs:
            self._compile(state, batch)
        return self._programs[batch["source"].shape[1]](state, batch)

    def _compile(self, state: TrainState, batch: Batch) -> None:
        low, high = min(self._counts), max(self._counts)
        self._say(f"compiling the step for {low} to {high} sources: {len(self._counts)} programs")
        for count in self._counts:
            self._programs[count] = self._step.lower(state, with_sources(batch, count)).compile()


def with_sources(batch: Batch, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and the placement of a batch like `batch` (arrays or shapes) with `count` sources of each example."""

    def shape(key: str, value: Any) -> tuple[int, ...]:
        # Whatever belongs to sources has them as its second axis.
        return (value.shape[0], count, *value.shape[2:]) if key.partition("_")[0] == "source" else value.shape

    return {
        key: jax.ShapeDtypeStruct(shape(key, value), value.dtype, sharding=value.sharding)
        for key, value in batch.items()
    }
