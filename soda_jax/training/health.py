"""Signs that training has gone wrong: numbers that are not finite, an encoder that learns nothing."""

from collections.abc import Callable, Sequence

import numpy as np
from absl import logging
from tabulate import tabulate

DEAD_ENCODER_NORM = 1e-8
DEAD_ENCODER_STEPS = 100
NON_FINITE_REMEDY = "Lower config.optim.learning_rate, or use config.model.dtype=float32."


class NonFiniteLossError(RuntimeError):
    """The loss, a gradient or the state stopped being a number; the state is not saved."""


def check_steps(
    first: int, rows: Sequence[dict[str, np.ndarray]], modules: Sequence[str], last_good: Callable[[], str]
) -> None:
    """Looks through the metrics of the steps `first`, `first` + 1, ... for numbers that are not finite.

    Args:
      modules: names of the entries of `grad_norms`.
      last_good: tells, for the message, what is saved.

    Raises:
      NonFiniteLossError: the first such step, with the gradient norms of each module.
    """
    for offset, row in enumerate(rows):
        if np.isfinite(row["loss"]) and np.isfinite(row["grad_norm"]):
            continue
        norms = [(name, f"{norm:.4g}") for name, norm in zip(modules, row["grad_norms"], strict=True)]
        table = tabulate(norms, headers=["module", "norm"])
        raise NonFiniteLossError(
            f"loss {row['loss']} (gradient norm {row['grad_norm']}) at step {first + offset + 1}; nothing of it is "
            f"saved, {last_good()}. Gradient norms by module:\n{table}\n{NON_FINITE_REMEDY}"
        )


class EncoderWatch:
    """Warns once when the encoder has got no gradient for many steps in a row: the classic failure of this model."""

    def __init__(self) -> None:
        self._steps = 0

    def update(self, norms: Sequence[float]) -> None:
        """Takes the encoder's gradient norm of each further step."""
        for norm in norms:
            self._steps = self._steps + 1 if norm < DEAD_ENCODER_NORM else 0
            if self._steps == DEAD_ENCODER_STEPS:
                logging.warning(
                    "the encoder's gradient norm has been below %g for %d steps: the denoiser ignores the latent. "
                    "Check modulation and masking rates, or lower the learning rate.",
                    DEAD_ENCODER_NORM,
                    DEAD_ENCODER_STEPS,
                )
