"""Similarity of image pairs, one value an image: PSNR and SSIM (SODA, Sections 4.2.1 and 4.2.2), and their colours."""

import math

import jax
import jax.numpy as jnp
from einops import reduce

# Wang et al. (2004) and scikit-image: the stabilisers of SSIM, for a data range of 1.
_C1 = 0.01**2
_C2 = 0.03**2

_UNIFORM = (1 / 7,) * 7


def _gaussian(sigma: float, radius: int) -> tuple[float, ...]:
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    return tuple(w / sum(weights) for w in weights)


# Wang et al. (2004): an 11 x 11 circular-symmetric Gaussian with a standard deviation of 1.5 pixels.
_GAUSSIAN = _gaussian(1.5, 5)


@jax.jit
def mse(images: jax.Array, references: jax.Array) -> jax.Array:
    """Mean squared error of each image.

    Args:
      images: float [..., H, W, C] in [0, 1].
      references: the same.

    Returns:
      float32 [...].

    Raises:
      ValueError: if the shapes differ, or for integer images.
    """
    images, references = _checked(images, references)
    return reduce(jnp.square(images - references), "... h w c -> ...", "mean")


@jax.jit
def psnr(images: jax.Array, references: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio of each image, -10 log10(MSE), with a peak of 1.

    Args:
      images: float [..., H, W, C] in [0, 1].
      references: the same.

    Returns:
      float32 [...], in dB; higher is better, and infinite for equal images.

    Raises:
      ValueError: if the shapes differ, or for integer images.
    """
    return -10 * jnp.log10(mse(images, references))


@jax.jit
def psnr_pooled(images: jax.Array, references: jax.Array) -> jax.Array:
    """PSNR of the error pooled over all images, -10 log10(mean MSE): at most the mean of their `psnr`.

    For images in batches, average their `mse` and take -10 log10 of it at the end.

    Args:
      images: float [..., H, W, C] in [0, 1], at least one image.
      references: the same.

    Returns:
      float32 [], in dB; infinite if all are equal.

    Raises:
      ValueError: if the shapes differ, for integer images, or for no images.
    """
    errors = mse(images, references)
    if errors.size == 0:
        raise ValueError(f"images have shape {images.shape}: there is no error to pool over none")
    return -10 * jnp.log10(jnp.mean(errors))


@jax.jit
def ssim(images: jax.Array, references: jax.Array) -> jax.Array:
    """Structural similarity (Wang et al. 2004) with a uniform 7 x 7 window.

    Equal to scikit-image's `structural_similarity(..., win_size=7, channel_axis=-1, data_range=1)`:
    unbiased variances, and the mean over channels and over the windows that lie inside the image.

    Args:
      images: float [..., H, W, C] in [0, 1], at least 7 x 7 pixels.
      references: the same.

    Returns:
      float32 [...] in [-1, 1]; 1 for equal images.

    Raises:
      ValueError: if the shapes differ, for integer images, or for images smaller than the window.
    """
    return _ssim(images, references, _UNIFORM, unbiased=True)


@jax.jit
def ssim_gaussian(images: jax.Array, references: jax.Array) -> jax.Array:
    """Structural similarity as Wang et al. (2004) define it: an 11 x 11 Gaussian window, sigma 1.5.

    Equal to scikit-image's `structural_similarity(..., gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, channel_axis=-1, data_range=1)`: weighted variances, and the mean
    over channels and over the windows that lie inside the image.

    Args:
      images: float [..., H, W, C] in [0, 1], at least 11 x 11 pixels.
      references: the same.

    Returns:
      float32 [...] in [-1, 1]; 1 for equal images.

    Raises:
      ValueError: if the shapes differ, for integer images, or for images smaller than the window.
    """
    return _ssim(images, references, _GAUSSIAN, unbiased=False)


@jax.jit
def mean_color_error(images: jax.Array, references: jax.Array) -> jax.Array:
    """How far the mean colour of each image is from its reference's: the channels' mean absolute difference.

    A tint that lies over whole images shows here, and hardly in SSIM.

    Args:
      images: float [..., H, W, C] in [0, 1].
      references: the same.

    Returns:
      float32 [...] in [0, 1]; lower is better.

    Raises:
      ValueError: if the shapes differ, or for integer images.
    """
    images, references = _checked(images, references)
    means = reduce(images - references, "... h w c -> ... c", "mean")
    return reduce(jnp.abs(means), "... c -> ...", "mean")


@jax.jit
def saturation_error(images: jax.Array, references: jax.Array) -> jax.Array:
    """How far the mean saturation of each image is from its reference's; saturation is HSV's, 0 for black and grey.

    Args:
      images: float [..., H, W, 3] in [0, 1].
      references: the same.

    Returns:
      float32 [...] in [0, 1]; lower is better.

    Raises:
      ValueError: if the shapes differ, or for integer images.
    """
    images, references = _checked(images, references)
    return jnp.abs(_mean_saturation(images) - _mean_saturation(references))


def _mean_saturation(images: jax.Array) -> jax.Array:
    images = jnp.clip(images, 0, 1)  # samples may leave the range, where the ratio means nothing
    value = jnp.max(images, axis=-1)
    saturation = (value - jnp.min(images, axis=-1)) / jnp.where(value > 0, value, 1)
    return reduce(saturation, "... h w -> ...", "mean")


def _ssim(images: jax.Array, references: jax.Array, window: tuple[float, ...], *, unbiased: bool) -> jax.Array:
    """SSIM under the separable window window x window, whose weights add up to 1."""
    images, references = _checked(images, references)
    size = len(window)
    if min(images.shape[-3:-1]) < size:
        raise ValueError(
            f"images are {images.shape[-3]} x {images.shape[-2]}: SSIM's window needs at least {size} x {size} pixels"
        )
    mean_x, mean_y, var_x, var_y, cov = _window_moments(images, references, window)
    if unbiased:
        var_x, var_y, cov = (value * (size**2 / (size**2 - 1)) for value in (var_x, var_y, cov))
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * cov + _C2) / (var_x + var_y + _C2)
    return reduce(luminance * structure, "... h w c -> ...", "mean")


def _window_moments(x: jax.Array, y: jax.Array, window: tuple[float, ...]) -> tuple[jax.Array, ...]:
    """Weighted means, variances and covariance of x and y in each window of n x n, [..., H-n+1, W-n+1, C].

    One image axis at a time, by the law of total covariance: the covariance in a window is the mean
    of its columns' covariances plus the covariance of its columns' means. The shorter
    E[xy] - E[x] E[y] loses its digits to cancellation in float32 where an image is bright and flat.
    """
    mean_x, mean_y = x, y
    var_x = var_y = cov = jnp.zeros_like(x)
    for axis in (-3, -2):
        xs, ys = _shifts(mean_x, axis, len(window)), _shifts(mean_y, axis, len(window))
        mean_x, mean_y = _weighted(xs, window), _weighted(ys, window)
        dx, dy = [v - mean_x for v in xs], [v - mean_y for v in ys]

        def pooled(within, da, db, axis=axis):
            within = _shifts(within, axis, len(window))
            return _weighted([w + a * b for w, a, b in zip(within, da, db, strict=True)], window)

        var_x, var_y, cov = pooled(var_x, dx, dx), pooled(var_y, dy, dy), pooled(cov, dx, dy)
    return mean_x, mean_y, var_x, var_y, cov


def _shifts(x: jax.Array, axis: int, count: int) -> list[jax.Array]:
    """The views of x whose entry i is x[i], ..., x[i + count - 1] along an axis."""
    size = x.shape[axis] - count + 1
    return [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(count)]


def _weighted(values: list[jax.Array], weights: tuple[float, ...]) -> jax.Array:
    return sum(w * v for w, v in zip(weights, values, strict=True))


def _checked(images: jax.Array, references: jax.Array) -> tuple[jax.Array, jax.Array]:
    if images.shape != references.shape or images.ndim < 3:
        raise ValueError(
            f"images have shape {images.shape} and references {references.shape}: both must be "
            "[..., H, W, C] and the same"
        )
    for name, value in (("images", images), ("references", references)):
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"{name} are {value.dtype}: convert them to float in [0, 1] first")
    # Metrics are float32 also for bfloat16 images.
    return images.astype(jnp.float32), references.astype(jnp.float32)
