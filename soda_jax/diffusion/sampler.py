"""Sampling (SODA, Sections 3.2.1 and 3.4, Appendix B): DDPM and DDIM with classifier-free guidance.

The whole walk from noise to image is one compiled program: one `lax.fori_loop` over the steps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from soda_jax.diffusion.batches import check_leading, run_in_batches
from soda_jax.diffusion.gaussian import Diffusion, gather

Denoise = Callable[[Any, jax.Array, jax.Array, Any, Any], jax.Array]
"""denoise(variables, x_t [B,H,W,C], t int32 [B] in 1..T, z, section_mask [B,m] or Masks) -> eps, or v, like x_t."""

# The noise of step s is keyed by s in 1..S, so 0 is free for the noise that the walk starts from.
_START = 0
# Beyond any step: the key that the steps' choices of a condition are folded from.
_CHOICE = 2**31 - 1


class Masks(NamedTuple):
    """What of its condition the denoiser sees, where there is more than a latent.

    Attributes:
      sections: [B, m], 1 where a section of the latent is given.
      pose: [B], 1 where the target's pose is given.
    """

    sections: jax.Array
    pose: jax.Array


def drop_all(masks: Any) -> Any:
    """The masks of a prediction without any condition."""
    # Training masks with zeros (Sections 3.2.1 and 3.3: the whole z, single sections, the pose), so sampling does too.
    return jax.tree.map(jnp.zeros_like, masks)


def make_sampler(
    denoise: Denoise,
    diffusion: Diffusion,
    *,
    image_shape: Sequence[int],
    method: str = "ddpm",
    num_steps: int,
    eta: float = 0.0,
    clip_x0: bool = True,
    guided: bool = True,
    num_frames: int = 0,
    unconditional: Callable[[Any], Any] = drop_all,
    prepare: Callable[[Any, Any], Any] | None = None,
    choose: Callable[[jax.Array, Any], Any] | None = None,
) -> Callable[..., dict[str, jax.Array]]:
    """Builds the jitted sampling function.

    Each step predicts eps (or v, as the chain's `prediction` says), from it x_0 (clipped to
    [-1, 1]), and steps back by the chain's posterior ("ddpm": Ho et al. 2020, with the posterior's
    variance) or by Song et al. 2021, Equation 12 ("ddim"), whose eps is derived again from the
    clipped x_0. The last step returns the x_0 prediction itself.

    Args:
      denoise: predicts eps or v; see `Denoise`. t comes on the training scale.
      diffusion: the training chain. The walk takes `diffusion.respace(num_steps)`.
      image_shape: (H, W, C) of the images to make.
      method: "ddpm" or "ddim".
      num_steps: S, steps of the walk, 1..T (the paper: 75 to 250 of 1000).
      eta: DDIM's noise level, 0 (deterministic) to 1 (as much noise as DDPM).
      clip_x0: clip each step's x_0 prediction to [-1, 1]. The images returned are always clipped.
      guided: guide the predictions, at twice the cost: one call of denoise with 2B examples. If
        False, one call with B examples, and the guidance scale has no effect.
      num_frames: how many x_0 predictions to return, at evenly spaced steps, the last step's last.
      unconditional: from the masks of eps(z) those of eps(0), which guidance leads away from.
      prepare: prepare(variables, z) -> what takes z's place, computed once for all steps.
      choose: choose(key, z of one image) -> what denoise gets of it, at each step anew (stochastic conditioning).
        Both predictions of a guided step get the same.

    Returns:
      fn(variables, key, indices, z, section_mask, guidance_scale, start=None) -> dict with
        images: float32 [B, H, W, C] in [-1, 1];
        frames: float32 [num_frames, B, H, W, C] in [-1, 1], from noise to image, if num_frames > 0.
      variables: whatever denoise takes. key: a PRNG key. indices: int [B], the images' numbers.
      z: any pytree of arrays [B, ...] (None for an unconditional model). section_mask: [B, m], 1
      where a section of z is given to the denoiser, 0 where it is dropped; or `Masks` of arrays
      [B, ...]. guidance_scale: float s in eps(0) + s (eps(z) - eps(0)), where eps(0) has everything
      dropped that `unconditional` drops; traced, so other values reuse the compiled program. start: float32
      [B, H, W, C], the noise x_T that the walk starts from (`make_inverter` finds an image's); None: drawn.

      An image depends on its z, mask, key, index and start alone, not on the others in the batch, the
      batch's size or the devices: its noise is drawn from fold_in(fold_in(key, index), step).

    Raises:
      ValueError: for arguments outside the ranges above (and fn, for shapes that do not agree).
    """
    image_shape = tuple(image_shape)
    _check_settings(image_shape, method, num_steps, eta, num_frames)
    chain = diffusion.respace(num_steps)
    walk = _Walk(
        chain=chain,
        predict=Predictor(denoise, chain, guided, unconditional),
        image_shape=image_shape,
        method=method,
        eta=eta,
        clip_x0=clip_x0,
        num_frames=num_frames,
        prepare=prepare,
        choose=choose,
    )
    return jax.jit(walk.sample)


def sample_in_batches(
    sampler: Callable[..., dict[str, jax.Array]],
    variables: Any,
    key: jax.Array,
    z: Any,
    section_mask: Any,
    *,
    num_images: int,
    batch_size: int,
    first_index: int = 0,
    indices: np.ndarray | None = None,
    guidance_scale: float,
    start: np.ndarray | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> dict[str, np.ndarray]:
    """Serves a request of any size in batches of one size, so that one program is compiled.

    Args:
      sampler: from `make_sampler`.
      variables: whatever the sampler's denoiser takes.
      key: a PRNG key.
      z: pytree of arrays [num_images, ...].
      section_mask: [num_images, m], or `Masks`.
      num_images: how many images to make. Image i has the index first_index + i, or indices[i].
      batch_size: images a call; the last batch is padded to it with copies of the last example.
      first_index: index of the first image. Two requests with other indices give other noise.
      indices: int [num_images] in place of `first_index`; images of one index share their noise.
      guidance_scale: s; see `make_sampler`.
      start: [num_images, H, W, C], the noise that the images start from; by default it is drawn by key and index.
      sharding: how to lay a batch's leading axis over devices (a NamedSharding over the data axis).
        With several processes every process passes the same request and gets every image.

    Returns:
      As the sampler, on the host: images [num_images, H, W, C], and frames [F, num_images, H, W, C] if it makes any.

    Raises:
      ValueError: if counts are not positive, a leading axis is not num_images, batch_size does not
        divide among the devices, `indices` are not integers or come with a `first_index`, or `start` is no finite
        noise of the images' shape.
    """
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}: it must be at least 1")
    inputs = jax.tree.map(np.asarray, (z, section_mask))
    check_leading(inputs, num_images, "num_images")
    rows = (_checked_indices(indices, first_index, num_images), *inputs)
    scale, begin = np.float32(guidance_scale), () if start is None else (_checked_start(start, num_images),)

    def sample(batch):
        return sampler(variables, key, *batch[:3], scale, *batch[3:])

    outputs = run_in_batches(sample, rows + begin, num_images, batch_size, sharding)
    whole = {"images": np.concatenate([output["images"] for output in outputs])[:num_images]}
    if "frames" in outputs[0]:
        whole["frames"] = np.concatenate([output["frames"] for output in outputs], axis=1)[:, :num_images]
    return whole


def _checked_indices(indices: np.ndarray | None, first_index: int, num_images: int) -> np.ndarray:
    """The index of each image, int32 [num_images]."""
    if indices is None:
        return (first_index + np.arange(num_images)).astype(np.int32)
    indices = np.asarray(indices)
    if first_index:
        raise ValueError(f"first_index={first_index} and indices are given; give one of them")
    if indices.shape != (num_images,) or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"indices are {indices.dtype} of shape {indices.shape}; give {num_images} integers")
    return indices.astype(np.int32)


def _checked_start(start: np.ndarray, num_images: int) -> np.ndarray:
    """The noise to start from, float32 [num_images, H, W, C]."""
    start = np.asarray(start)
    if not jnp.issubdtype(start.dtype, jnp.floating) or start.ndim != 4 or len(start) != num_images:
        raise ValueError(f"start is {start.dtype} of shape {start.shape}: give float noise x_T [{num_images}, H, W, C]")
    start = start.astype(np.float32)
    if not np.isfinite(start).all():
        raise ValueError("start has values that are not finite: give the noise x_T that the images start from")
    return start


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """The image that a denoiser sees in x_t, guided or not and not clipped.

    Attributes:
      denoise, guided, unconditional: as of `make_sampler`.
      chain: the steps of the walk.
    """

    denoise: Denoise
    chain: Diffusion
    guided: bool
    unconditional: Callable[[Any], Any]

    def __call__(self, variables, x_t, steps, z, section_mask, guidance_scale) -> jax.Array:
        """x_0 at the chain's steps [B]; see `make_sampler` for the rest."""
        output = self._guided(variables, x_t, steps, z, section_mask, guidance_scale)
        return self.chain.predict_x0(x_t, steps, output)

    def _guided(self, variables, x_t, steps, z, section_mask, guidance_scale) -> jax.Array:
        """The prediction; if guided, eps(0) + s (eps(z) - eps(0)), both from one call.

        The same combination of v gives the same x_0: v is affine in eps at a given x_t. The two of
        an example lie side by side in the batch, not in two halves, so that a batch that is split
        over devices needs no exchange between them.
        """
        # The walk counts S steps; the denoiser learned t on the training scale, 1..T.
        timestep = jnp.asarray(self.chain.timesteps)[steps]
        scale = jnp.asarray(guidance_scale, jnp.float32)
        section_mask = jax.tree.map(jnp.asarray, section_mask)
        if not self.guided:
            return self._checked(variables, x_t, timestep, z, section_mask)
        masks = jax.tree.map(
            lambda given, dropped: rearrange(jnp.stack([given, dropped], axis=1), "b pair ... -> (b pair) ..."),
            section_mask,
            self.unconditional(section_mask),
        )
        # jnp.repeat is one broadcast along the batch; einops' `repeat` becomes a tile of every axis.
        x_twice, timestep, z = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), (x_t, timestep, z))
        output = self._checked(variables, x_twice, timestep, z, masks)
        output = rearrange(output, "(b pair) h w c -> b pair h w c", pair=2)
        conditional, unconditional = output[:, 0], output[:, 1]
        # Section 3.2.1: eps = eps(x_t, 0) + s (eps(x_t, z) - eps(x_t, 0)), with s of 2 to 3 (Table 12).
        return unconditional + scale * (conditional - unconditional)

    def _checked(self, variables, x_t, timestep, z, section_mask) -> jax.Array:
        """Calls denoise; a wrong shape would otherwise broadcast silently."""
        output = self.denoise(variables, x_t, timestep, z, section_mask)
        if output.shape != x_t.shape:
            raise ValueError(f"denoise returned shape {output.shape} for x_t of shape {x_t.shape}")
        # The walk is float32 whatever the network computes in.
        return output.astype(jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class _Walk:
    """The settings of `make_sampler`, and the walk from noise to image under them."""

    chain: Diffusion
    predict: Predictor
    image_shape: tuple[int, ...]
    method: str
    eta: float
    clip_x0: bool
    num_frames: int
    prepare: Callable[[Any, Any], Any] | None
    choose: Callable[[jax.Array, Any], Any] | None

    def sample(self, variables, key, indices, z, section_mask, guidance_scale=1.0, start=None):
        """The function that `make_sampler` describes, not yet jitted."""
        if jnp.ndim(indices) != 1:
            raise ValueError(f"indices has shape {jnp.shape(indices)}: give one number an image, [B]")
        check_inputs(indices.shape[0], z, section_mask, guidance_scale)
        if start is not None and jnp.shape(start) != (indices.shape[0], *self.image_shape):
            raise ValueError(f"start has shape {jnp.shape(start)}: give {(indices.shape[0], *self.image_shape)}")
        batch, num_steps = indices.shape[0], self.chain.num_steps
        # One key for each image, not for the batch: an image does not depend on what is sampled beside it.
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
        variance, slots = self._noise_variance(), self._frame_slots()
        z = z if self.prepare is None else self.prepare(variables, z)

        def noise(step):
            def draw(image_key):
                return jax.random.normal(jax.random.fold_in(image_key, step), self.image_shape, jnp.float32)

            return jax.vmap(draw)(keys)

        def chosen(step):
            if self.choose is None:
                return z

            # 3DiM's stochastic conditioning (Table 5): a random source at each step, so that all guide the walk.
            def choose(image_key, condition):
                return self.choose(jax.random.fold_in(jax.random.fold_in(image_key, _CHOICE), step), condition)

            return jax.vmap(choose)(keys, z)

        def body(i, carry):
            x_t, frames = carry
            step = num_steps - i  # t = S .. 1
            steps = jnp.full((batch,), step, jnp.int32)
            x_0 = self.predict(variables, x_t, steps, chosen(step), section_mask, guidance_scale)
            # Our choice: images lie in [-1, 1], and at high noise the division by sqrt(abar_t) enlarges eps's errors.
            if self.clip_x0:
                x_0 = jnp.clip(x_0, -1, 1)
            if self.num_frames:
                # A slot is written until its own step has come, and keeps what was written last.
                frames = jax.lax.dynamic_update_index_in_dim(frames, x_0, jnp.asarray(slots)[i], 0)
            # x_{t-1} = mean(x_t, x_0) + sigma_t noise. At t = 1 the posterior's mean is x_0 and sigma_1 is 0: the last
            # step returns the clean prediction itself.
            x_t = self._mean(x_t, x_0, steps)
            if variance.any():  # DDIM with eta = 0 draws none
                x_t += jnp.sqrt(jnp.asarray(variance, jnp.float32)[step]) * noise(step)
            return x_t, frames

        x_t = noise(_START) if start is None else jnp.asarray(start, jnp.float32)
        frames = jnp.zeros((self.num_frames, batch, *self.image_shape), jnp.float32)
        images, frames = jax.lax.fori_loop(0, num_steps, body, (x_t, frames))
        out = {"images": jnp.clip(images, -1, 1)}
        if self.num_frames:
            out["frames"] = jnp.clip(frames, -1, 1)
        return out

    def _mean(self, x_t, x_0, steps) -> jax.Array:
        """The mean of x_{t-1} given x_t and the x_0 prediction."""
        if self.method == "ddpm":
            return self.chain.posterior(x_0, x_t, steps)[0]  # Section 3.4: "we use DDPM for sampling"
        # Song et al. 2021, Equation 12: sqrt(abar_{t-1}) x_0 + sqrt(1 - abar_{t-1} - sigma^2) eps.
        abar_before = np.concatenate([[1.0], self.chain.abar[:-1]])
        # Negative by rounding only: with eta <= 1 the variance is at most 1 - abar_{t-1}.
        direction = np.sqrt(np.maximum(1 - abar_before - self._noise_variance(), 0))
        # From the clipped x_0, so that both terms belong to the same image.
        eps = self.chain.predict_eps(x_t, steps, x_0)
        return gather(np.sqrt(abar_before), steps, x_0) * x_0 + gather(direction, steps, x_0) * eps

    def _noise_variance(self) -> np.ndarray:
        """float64 [S + 1], variance of the noise that each step adds.

        Song et al. 2021, Equation 16: DDIM's sigma^2 is eta^2 times the posterior's variance.
        """
        factor = 1.0 if self.method == "ddpm" else self.eta**2
        return factor * self.chain.posterior_variance

    def _frame_slots(self) -> np.ndarray:
        """int32 [S], for the i-th step of the walk the first frame whose step is i or later."""
        num_steps, num_frames = self.chain.num_steps, self.num_frames
        frame_steps = np.rint(np.arange(1, num_frames + 1) * num_steps / max(num_frames, 1)) - 1
        return np.searchsorted(frame_steps, np.arange(num_steps)).astype(np.int32)


def _check_settings(image_shape, method, num_steps, eta, num_frames) -> None:
    if len(image_shape) != 3 or any(size < 1 for size in image_shape):
        raise ValueError(f"image_shape is {image_shape}: give (height, width, channels)")
    if method not in ("ddpm", "ddim"):
        raise ValueError(f"unknown sampling method {method!r}: choose ddpm or ddim")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: DDIM's noise level lies between 0 and 1")
    if method == "ddpm" and eta:
        raise ValueError(f"eta is {eta}, but only DDIM has a noise level: use method='ddim'")
    if not 0 <= num_frames <= num_steps:
        raise ValueError(f"num_frames is {num_frames}: a walk of {num_steps} steps has 0 to {num_steps} frames")


def check_inputs(size: int, z: Any, section_mask: Any, guidance_scale: Any) -> None:
    """Raises ValueError unless z and masks are those of a batch of `size` images, and the scale is one number."""
    sections = section_mask.sections if isinstance(section_mask, Masks) else section_mask
    if jnp.ndim(sections) != 2:
        raise ValueError(f"section_mask has shape {jnp.shape(sections)}: give [B, sections]")
    if jnp.ndim(guidance_scale) != 0:
        raise ValueError(f"guidance_scale has shape {jnp.shape(guidance_scale)}: give one number")
    check_leading((z, section_mask), size, "the number of images")
