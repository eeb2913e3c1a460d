"""WORKDIR/best.json: which checkpoint had the best value of the metric that training watched (`config.train.monitor`).

Checkpoints say so as well, in their meta data: the newest one's is what holds where a run was killed before it could
write this file.
"""

import json
import os
import pathlib
from typing import Any

from soda_jax.parallel.processes import decided_by_first
from soda_jax.paths import expanded
from soda_jax.workdir.checkpoint import directory, latest_step, saved_steps
from soda_jax.workdir.meta import DamagedCheckpointError, parse_meta

FILE = "best.json"
BEST = "best"


def write(workdir: str, step: int, metric: str, value: float) -> None:
    """Writes {"step", "metric", "value"}; the checkpoint of `step` must be on disk."""
    path = pathlib.Path(workdir) / FILE
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"step": step, "metric": metric, "value": value}) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def clear(workdir: str) -> None:
    """Removes the file of a run that has not found anything yet."""
    (pathlib.Path(workdir) / FILE).unlink(missing_ok=True)


def read(workdir: str) -> dict[str, Any] | None:
    """What the file holds; None where there is none, or it cannot be read."""
    try:
        found = json.loads((pathlib.Path(expanded(workdir, "workdir")) / FILE).read_text(encoding="utf-8"))
        whole = type(found["step"]) is int and isinstance(found["metric"], str) and isinstance(found["value"], float)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if whole else None


def checkpoint_step(workdir: str, step: int | str | None) -> int | None:
    """`step`, and for "best" the step of the best checkpoint. With several processes, all must call this.

    Raises:
      FileNotFoundError: there is no best checkpoint.
      ValueError: `step` is something else.
    """
    if step is None or type(step) is int:
        return step
    if step != BEST:
        raise ValueError(f"step={step!r}: give a checkpoint's step, or 'best'; leave it out for the newest")
    found = decided_by_first(lambda: _best_step(workdir))
    if found is None:
        raise FileNotFoundError(
            f"step='best': {workdir} holds no best checkpoint, as it was trained without config.train.monitor or not "
            "evaluated yet; leave step out for the newest one"
        )
    return found


def best_or_newest(workdir: str) -> int | None:
    """The step of the best checkpoint; None, for the newest, where none was watched for. With several processes, all
    must call this."""
    return decided_by_first(lambda: _best_step(workdir))


def _best_step(workdir: str) -> int | None:
    """The later of the two that the file and the newest checkpoint name: a best one only gives way to a later one."""
    newest, named = latest_step(workdir), []
    if (file := read(workdir)) is not None:
        named.append(file["step"])
    if newest is not None:
        try:
            state = parse_meta(directory(workdir) / str(newest)).get("monitor")
        except DamagedCheckpointError:
            state = None
        named.append(state.get("best_step") if isinstance(state, dict) else None)
    there = set(saved_steps(workdir))
    return max((step for step in named if step in there), default=None)
