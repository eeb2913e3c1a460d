"""Similarity of image pairs (SODA, Sections 4.2.1 and 4.2.2): PSNR and SSIM, one value an image."""

import jax
import jax.numpy as jnp

# Wang et al. (2004) and scikit-image: the stabilisers of SSIM, for a data range of 1.
_C1 = 0.01**2
_C2 = 0.03**2

_WINDOW = 7


@jax.jit
def psnr(images: jax.Array, references: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio, -10 log10(MSE), with a peak of 1.

    Args:
      images: float [..., H, W, C] in [0, 1].
      references: the same.

    Returns:
      float32 [...], in dB; higher is better, and infinite for equal images.

    Raises:
      ValueError: if the shapes differ, or for integer images.
    """
    images, references = _checked(images, references)
    error = jnp.mean(jnp.square(images - references), axis=(-3, -2, -1))
    return -10 * jnp.log10(error)


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
    images, references = _checked(images, references)
    if min(images.shape[-3:-1]) < _WINDOW:
        raise ValueError(
            f"images are {images.shape[-3]} x {images.shape[-2]}: SSIM's window needs at least "
            f"{_WINDOW} x {_WINDOW} pixels"
        )
    mean_x, mean_y, var_x, var_y, cov = _window_moments(images, references)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * cov + _C2) / (var_x + var_y + _C2)
    return jnp.mean(luminance * structure, axis=(-3, -2, -1))


def _window_moments(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
    """Means, unbiased variances and covariance of x and y in each window, [..., H-6, W-6, C].

    One image axis at a time, by the law of total covariance: the covariance in a window is the mean
    of its columns' covariances plus the covariance of its columns' means. The shorter
    E[xy] - E[x] E[y] loses its digits to cancellation in float32 where an image is bright and flat.
    """
    mean_x, mean_y = x, y
    var_x = var_y = cov = jnp.zeros_like(x)
    for axis in (-3, -2):
        xs, ys = _shifts(mean_x, axis), _shifts(mean_y, axis)
        mean_x, mean_y = sum(xs) / _WINDOW, sum(ys) / _WINDOW
        dx, dy = [v - mean_x for v in xs], [v - mean_y for v in ys]

        def pooled(within, da, db, axis=axis):
            between = sum(a * b for a, b in zip(da, db, strict=True))
            return (sum(_shifts(within, axis)) + between) / _WINDOW

        var_x, var_y, cov = pooled(var_x, dx, dx), pooled(var_y, dy, dy), pooled(cov, dx, dy)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    return mean_x, mean_y, unbiased * var_x, unbiased * var_y, unbiased * cov


def _shifts(x: jax.Array, axis: int) -> list[jax.Array]:
    """The 7 views of x whose entry i is x[i], ..., x[i + 6] along an axis."""
    size = x.shape[axis] - _WINDOW + 1
    return [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(_WINDOW)]


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
