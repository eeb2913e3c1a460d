"""Features of a denoiser's blocks: what they make of a lightly noised image, mean-pooled (F.1; DDAE)."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from soda_jax import build, inputs, rngs
from soda_jax.inference.engine import Inference, Variables
from soda_jax.models.capabilities import DENOISER, LATENT, SOURCE, can, require
from soda_jax.parallel import sharding

_KEYS = ("source", "source_mask", "index")


class DenoiserFeatures:
    """The denoiser's activations for images, as an evaluation shows them to an encoder, at a noise level.

    The image is the first source at the target's size. Its noise comes of its place in the split, so it stays.
    A model that sees a source beside the noised image is given the image itself.

    Args:
      inference: the model, on its devices.
      own_latent: guide a model with latents by the image's own; else by none, zeros in its place (DDAE).

    Attributes:
      names: of the blocks, in order of execution.

    Raises:
      ValueError: the model has no denoiser, or no latent where its own is asked for.
    """

    def __init__(self, inference: Inference, own_latent: bool = False):
        require(inference.model, DENOISER, "config.eval.feature='denoiser'")
        if own_latent:
            require(inference.model, LATENT, "own_latent")
        self._inference, self._own_latent = inference, own_latent
        self._diffusion = build.diffusion(inference.config)
        self.names = tuple(spec.name for spec in inference.model.generator.layout())
        self._features = jax.jit(self._compute, out_shardings=sharding.replicated(inference.mesh))

    def chosen(self, names: Sequence[str]) -> tuple[str, ...]:
        """The blocks that `names` means, in order: single ones, or "down", "middle" and "up" for those of a path.

        Raises:
          ValueError: there are no such blocks.
        """
        paths = {spec.name: spec.path for spec in self._inference.model.generator.layout()}
        unknown = [name for name in names if name not in paths and name not in paths.values()]
        if unknown or not names:
            raise ValueError(
                f"config.eval.denoiser_blocks={tuple(names)!r}: names {', '.join(unknown) or 'nothing'}; use down, "
                f"middle, up, or of {', '.join(paths)}"
            )
        return tuple(name for name, path in paths.items() if name in names or path in names)

    def timestep(self, level: float) -> int:
        """The timestep, 1..T, of a noise level given as a share of T."""
        return max(1, round(level * self._diffusion.num_steps))

    def __call__(self, variables: Variables, batch: Mapping[str, np.ndarray], t: int) -> dict[str, np.ndarray]:
        """float32 [B, C] of every block, of the global batch, on every host.

        Args:
          batch: of `eval_batches`; this process's part.
          t: timestep in 1..T.
        """
        placed = sharding.put_batch({key: np.asarray(batch[key]) for key in _KEYS}, self._inference.mesh)
        return {name: np.asarray(value) for name, value in self._features(variables, placed, np.int32(t)).items()}

    def _compute(self, variables: Variables, batch: dict[str, jax.Array], t: jax.Array) -> dict[str, jax.Array]:
        model, config = self._inference.model, self._inference.config
        side, count = config.data.resolution, batch["source"].shape[0]
        x_0 = inputs.normalise_target(batch["source"][:, 0])
        x_0 = jax.image.resize(x_0, (count, side, side, 3), "linear")
        key = rngs.stream(jax.random.key(config.seed), "denoiser_features", 0)
        eps = rngs.per_example(key, batch["index"], lambda key: jax.random.normal(key, x_0.shape[1:]))
        steps = jnp.full((count,), t)
        x_t = self._diffusion.q_sample(x_0, steps, eps)
        z, mask = self._guide(variables, batch)
        _, out = model.apply(variables, x_t, steps, z, mask, method="denoise")
        return {name: out[name].astype(jnp.float32).mean(axis=(1, 2)) for name in self.names}

    def _guide(self, variables: Variables, batch: dict[str, jax.Array]) -> tuple[jax.Array | None, jax.Array | None]:
        """(z, section_mask) as the model's `denoise` takes them."""
        model, count = self._inference.model, batch["source"].shape[0]
        sources = inputs.normalise_source(batch["source"]), batch["source_mask"]
        if not can(model, LATENT):
            return (model.apply(variables, *sources, method="guide") if can(model, SOURCE) else None), None
        if not self._own_latent:
            shape = self._inference.guide_shape
            return jnp.zeros((count, *shape)), jnp.zeros((count, model.num_sections))
        z, _ = model.apply(variables, *sources, method="encode")
        return (z[:, 0] if model.keeps_sources else z), jnp.ones((count, model.num_sections))
