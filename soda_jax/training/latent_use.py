"""How much the denoiser uses the latent, measured in training's evaluations on a few of the held-out images."""

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from soda_jax import rngs
from soda_jax.data.datasets.base import Example
from soda_jax.metrics.latent_use import GROUP, IGNORED, YOUNG, figures, in_words, verdict
from soda_jax.objectives.latent_use import losses_by_latent
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding

EXAMPLES = 256  # at most; each is noised at every level, and seen by the denoiser with each latent


class LatentUse:
    """The figures of `metrics.latent_use` for the averaged weights.

    The images, their noise and whose latent they take instead of their own are the same at every evaluation.

    Args:
      train_step: the run's constants, of an objective that `has_latent_use`.
      mesh: the devices that share a batch.
    """

    def __init__(self, train_step: TrainStep, mesh: Mesh):
        self._mesh = mesh

        def losses(state: TrainState, batch: Example) -> tuple[jax.Array, jax.Array]:
            draw = rngs.Draws(train_step.root, 0, batch["index"], prefix="eval_")
            return losses_by_latent(train_step.objective, state.ema_variables, batch, draw)

        self._losses = jax.jit(losses, out_shardings=sharding.replicated(mesh))

    def run(
        self, state: TrainState, batches: Iterator[Example], between: Callable[[], None] | None
    ) -> dict[str, float]:
        """The figures on all examples of `batches`; {} where fewer than two of a batch are real.

        Args:
          state: with weights that are whole on every device.
          between: called before every batch, on all processes alike.
        """
        found = []
        for batch in batches:
            if between is not None:
                between()
            losses, counts = jax.tree.map(np.asarray, self._losses(state, sharding.put_batch(batch, self._mesh)))
            found.append(losses[..., counts])
        return figures(np.concatenate(found, axis=-1))


def remark(metrics: Mapping[str, float], step: int, settled: int, latent_mask_rate: float) -> str:
    """The part of an evaluation's line that tells what the latent saves; "" where the metrics do not say.

    Warns where the denoiser ignores the latent.

    Args:
      settled: the step from which on a run is judged, by `metrics.latent_use.settled_at`.
      latent_mask_rate: config.diffusion.latent_mask_rate.
    """
    if f"{GROUP}/saved" not in metrics:
        return ""
    judged = verdict(metrics, step, settled)
    if judged == IGNORED:
        logging.warning("step %d: %s", step, in_words(judged, metrics, settled, latent_mask_rate))
    young = " (the run is young)" if judged == YOUNG else ""
    return f", own latents save {metrics[f'{GROUP}/saved']:.1%} of the loss with others'{young}"
