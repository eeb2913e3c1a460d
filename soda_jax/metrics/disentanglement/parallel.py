"""How many processes a measurement is worth."""

import os

SMALL = 2e8  # operations that are over before processes have started


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(jobs: int | None, tasks: int, work: float) -> int:
    """`jobs` processes, or with None one a core where the work (a number of operations) is worth it, for `tasks` tasks.

    Raises:
      ValueError: if jobs is below 1.
    """
    if jobs is None:
        return min(cores(), tasks) if work > SMALL else 1
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: give at least 1, or None for one a core")
    return min(jobs, tasks)
