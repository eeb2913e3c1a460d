"""DDIM inversion (Song et al. 2021, Section 4.3): from an image back to the noise x_T that deterministic DDIM turns
into it.

Diffusion autoencoders (Preechakul et al. 2022) edit images that way: x_T keeps what the latent does not tell.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from soda_jax.diffusion.batches import check_leading, run_in_batches
from soda_jax.diffusion.gaussian import Diffusion, gather
from soda_jax.diffusion.sampler import Denoise, Predictor, check_inputs, drop_all

ITERATIONS = 5

# Of the squared length of the differences that Anderson's weights are fitted to: well above float32's rounding.
_RIDGE = 1e-6
# No shorter difference is divided by its length.
_SHORTEST = 1e-12


def make_inverter(
    denoise: Denoise,
    diffusion: Diffusion,
    *,
    num_steps: int,
    iterations: int = ITERATIONS,
    guided: bool = False,
    unconditional: Callable[[Any], Any] = drop_all,
    prepare: Callable[[Any, Any], Any] | None = None,
) -> Callable[..., jax.Array]:
    """Builds the jitted inversion.

    `make_sampler` with method "ddim", eta 0, `clip_x0=False` and the same number of steps comes back from x_T to the
    image. Its step is x_{s-1} = g_s(x_s) = sqrt(abar_{s-1}) x_0(x_s) + sqrt(1 - abar_{s-1}) eps(x_s). The usual
    inversion puts x_{s-1} into the prediction for x_s, which is exact for infinitely many steps only. Here every step
    solves g_s(x_s) = x_{s-1} for x_s, by fixed-point iterations with Anderson acceleration (Pan et al. 2023, AIDI;
    Garibi et al. 2024, ReNoise), which start from the usual one.

    An image comes back the nearer, the more steps and iterations there are. What the denoiser takes away altogether at
    a step cannot be found again, so an image unlike all that it was trained on comes back only nearly; and a step in
    which it decides between images far apart may be too steep to be solved, of few long steps above all.

    Args:
      denoise, diffusion, num_steps, unconditional, prepare: as of `make_sampler`.
      iterations: calls of denoise for each step, 1 or more.
      guided: solve the steps of guided sampling, at twice the cost. Guidance bends the steps: more `iterations` help.

    Returns:
      fn(variables, images, z, section_mask, guidance_scale=1.0) -> x_T, float32 [B, H, W, C].
      images: float [B, H, W, C] in [-1, 1]. The others are as in the sampler's function. An image's x_T does not
      depend on the others in the batch, the batch's size or the devices.

    Raises:
      ValueError: for arguments outside the ranges above (and fn, for shapes that do not agree).
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}: solving a step takes at least 1")
    chain = diffusion.respace(num_steps)
    climb = _Climb(chain, Predictor(denoise, chain, guided, unconditional), iterations, prepare)
    return jax.jit(climb.invert)


def invert_in_batches(
    inverter: Callable[..., jax.Array],
    variables: Any,
    images: np.ndarray,
    z: Any,
    section_mask: Any,
    *,
    batch_size: int,
    guidance_scale: float = 1.0,
    sharding: jax.sharding.Sharding | None = None,
) -> np.ndarray:
    """x_T of any number of images, float32 [num_images, H, W, C], as `sample_in_batches` serves a request.

    Args:
      inverter: from `make_inverter`.
      images: float [num_images, H, W, C] in [-1, 1]; z and masks have as many rows.

    Raises:
      ValueError: there is no image, a leading axis is not num_images, or batch_size does not divide among the devices.
    """
    count, scale = len(images), np.float32(guidance_scale)
    if count < 1:
        raise ValueError("there are no images to invert: give one or more")
    conditions = jax.tree.map(np.asarray, (z, section_mask))
    check_leading(conditions, count, "the number of images")

    def invert(batch):
        return inverter(variables, *batch, scale)

    rows = (np.asarray(images, np.float32), *conditions)
    return np.concatenate(run_in_batches(invert, rows, count, batch_size, sharding))[:count]


@dataclasses.dataclass(frozen=True, eq=False)
class _Climb:
    """The settings of `make_inverter`, and the walk from image to noise under them."""

    chain: Diffusion
    predict: Predictor
    iterations: int
    prepare: Callable[[Any, Any], Any] | None

    def invert(self, variables, images, z, section_mask, guidance_scale=1.0):
        """The function that `make_inverter` describes, not yet jitted."""
        if jnp.ndim(images) != 4:
            raise ValueError(f"images has shape {jnp.shape(images)}: give [B, H, W, C]")
        check_inputs(len(images), z, section_mask, guidance_scale)
        images = jnp.asarray(images, jnp.float32)
        z = z if self.prepare is None else self.prepare(variables, z)

        def body(step, carry):
            before, x_0, eps = carry
            steps = jnp.full((len(images),), step, jnp.int32)

            def predicted(x_t):
                x_0 = self.predict(variables, x_t, steps, z, section_mask, guidance_scale)
                return x_0, self.chain.predict_eps(x_t, steps, x_0)

            # The guess of plain DDIM inversion: what was predicted a step before, noised as much as this step is.
            return self._solve(predicted, before, steps, self.chain.q_sample(x_0, steps, eps), (x_0, eps))

        carry = images, images, jnp.zeros_like(images)  # without any noise the image is its own prediction
        return jax.lax.fori_loop(1, self.chain.num_steps + 1, body, carry)[0]

    def _solve(self, predicted, before, steps, guess, prediction) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x_s whose step leads to `before`, and the x_0 and eps of the last prediction."""
        slope = gather(self._slopes(), steps, before)

        def refine(i, carry):
            x_t, moved, gaps, _ = carry
            x_0, eps = predicted(x_t)
            # The step as the sampler takes it; step 0 is the image, which has no noise.
            gap = (before - self.chain.q_sample(x_0, steps - 1, eps)) / slope
            moved, gaps = moved.at[i].set(x_t + gap), gaps.at[i].set(gap)
            return _anderson(moved, gaps, i), moved, gaps, (x_0, eps)

        history = jnp.zeros((self.iterations, *before.shape), jnp.float32)
        x_t, _, _, (x_0, eps) = jax.lax.fori_loop(0, self.iterations, refine, (guess, history, history, prediction))
        return x_t, x_0, eps

    def _slopes(self) -> np.ndarray:
        """float64 [S + 1], by how much x_{s-1} is taken to change with x_s; never near 0, so that all stays finite.

        With x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps and v of `Diffusion`, a step is a turn by the angle between
        the two steps, x_{s-1} = cos x_s - sin v: at constant v, which is what whitened images have, its slope is the
        cosine. At constant eps, as for the widest of the images' directions, it is the ratio of the signals. An
        iteration diverges where the true slope exceeds twice the one taken.
        """
        signal, noise = np.sqrt(self.chain.abar), np.sqrt(1 - self.chain.abar)
        turn = signal[1:] * signal[:-1] + noise[1:] * noise[:-1]
        return np.concatenate([[1.0], np.maximum(turn, signal[:-1] / signal[1:] / 2)])


def _anderson(moved: jax.Array, gaps: jax.Array, newest: jax.Array) -> jax.Array:
    """The next guess from all before it (Walker & Ni 2011, Anderson acceleration): [B, ...].

    Where the gaps are linear in the guess, the guesses' weighted sum has the weighted sum of the gaps, so the weights
    are those of the smallest such sum, for each image.

    Args:
      moved: [m, B, ...], each guess moved by its own gap.
      gaps: [m, B, ...], how far each guess was off.
      newest: the last one that is filled.
    """
    shape = moved.shape[1:]
    moved, gaps = (rearrange(x, "m b ... -> b m (...)") for x in (moved, gaps))
    latest_moved, latest_gap = moved[:, newest], gaps[:, newest]
    earlier = (jnp.arange(gaps.shape[1]) < newest)[:, None]
    by_gap, by_move = (earlier * (x[:, newest, None] - x) for x in (gaps, moved))
    length = jnp.maximum(jnp.linalg.norm(by_gap, axis=-1, keepdims=True), _SHORTEST)
    by_gap, by_move = by_gap / length, by_move / length
    exact = {"precision": jax.lax.Precision.HIGHEST}  # accelerators multiply in fewer bits than the ridge needs
    gram = jnp.einsum("bid,bjd->bij", by_gap, by_gap, **exact) + _RIDGE * jnp.eye(gaps.shape[1])
    fit = jnp.einsum("bid,bd->bi", by_gap, latest_gap, **exact)
    weights = jnp.linalg.solve(gram, fit[..., None])[..., 0]
    return (latest_moved - jnp.einsum("bi,bid->bd", weights, by_move, **exact)).reshape(shape)
