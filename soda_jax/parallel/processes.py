"""What the processes of one run must agree on."""

import os
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

_NONE, _FAILED = -1, -2


def check_platform() -> None:
    """Raises ValueError where JAX has none of the devices that JAX_PLATFORMS asks for.

    JAX's own end may be an AssertionError without a word.
    """
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError):  # of devices that are there, or of another process
            raise
        asked = jax.config.jax_platforms or os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({' '.join(str(error).split())})" if str(error) else ""
        raise ValueError(
            f"JAX_PLATFORMS={asked}: JAX finds no such devices here{reason}; install the JAX that drives them, as "
            "pip install 'soda-jax[cuda]' or 'soda-jax[tpu]', or unset JAX_PLATFORMS"
        ) from error


def decided_by_first(choose: Callable[[], int | None]) -> int | None:
    """What `choose` returns on process 0 (a number from 0 on, or None), on every process.

    Where it fails there, every process fails, so that none waits for the others.

    Raises:
      ValueError: there are no devices (`check_platform`).
      RuntimeError: on the other processes; process 0 raises its own error.
    """
    check_platform()
    if jax.process_count() == 1:
        return choose()
    error, found = None, _FAILED
    if jax.process_index() == 0:
        try:
            chosen = choose()
            found = _NONE if chosen is None else chosen
        except Exception as caught:
            error = caught
    found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
    if error is not None:
        raise error
    if found == _FAILED:
        raise RuntimeError("the first process could not start; its message says why")
    return None if found == _NONE else found


def number_of_first(value: float) -> float:
    """Process 0's `value`, in single precision, on every process, so that all decide alike; all must call this."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))
