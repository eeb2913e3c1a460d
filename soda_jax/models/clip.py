"""CLIP's image tower (Radford et al. 2021, arXiv 2103.00020), with the interface of the other encoders.

`clip_weights.py` puts published weights into its parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from soda_jax.models.layers import Dtype, TransformerBlock


class Variant(NamedTuple):
    """Sizes of a tower: sides of a patch and of an image in pixels, width and number of blocks, width of its vector."""

    patch_size: int
    width: int
    depth: int
    vector_dim: int
    image_size: int = 224


VARIANTS = {
    "vit_b32": Variant(32, 768, 12, 512),
    "vit_b16": Variant(16, 768, 12, 512),
    "vit_l14": Variant(14, 1024, 24, 768),
}
HEAD_DIM = 64
# Of CLIP's own training images, RGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), OpenAI's approximation of GELU."""
    return x * nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), exactly: PyTorch's default, where JAX's is the approximation by tanh."""
    return nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"quick_gelu": quick_gelu, "gelu": gelu}


def preprocess(images: jax.Array, size: int) -> jax.Array:
    """What CLIP does to an image before its tower: bicubic resizing, the centre crop, normalisation.

    Args:
      images: [B, h, w, 3] RGB in [0, 1].
      size: side of what comes out; the short side is resized to it.

    Returns:
      float32 [B, size, size, 3].
    """
    short = min(images.shape[1:3])
    height, width = (size * side // short for side in images.shape[1:3])
    if (height, width) != images.shape[1:3]:
        # With antialiasing, and a = -0.5, as Pillow's.
        images = jax.image.resize(images, (images.shape[0], height, width, 3), "cubic")
    top, left = round((height - size) / 2), round((width - size) / 2)
    images = images[:, top : top + size, left : left + size]
    # Pillow's results are bytes; what a cubic overshoots is cut off there.
    images = jnp.round(255.0 * jnp.clip(images, 0.0, 1.0)) / 255.0
    return (images - jnp.asarray(MEAN)) / jnp.asarray(STD)


class ClipTower(nn.Module):
    """A vision transformer with class token, learned positions and pre-norm blocks; its vector is the projected token.

    Attributes:
      variant: one of `VARIANTS`.
      activation: one of `ACTIVATIONS`: "quick_gelu" for OpenAI's weights, "gelu" for most of OpenCLIP's.
      source_mean, source_std: by which the images that come in were normalised, RGB in [0, 1].
      attention: what computes attention; see `attention.attention_implementation`.
    """

    variant: str
    activation: str
    source_mean: tuple[float, ...]
    source_std: tuple[float, ...]
    attention: str = "xla"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train_ids: jax.Array | None = None) -> tuple[jax.Array, dict[str, Any]]:
        """Encodes `x` [B, h, w, 3] of any size; training and evaluation see the same.

        Returns:
          (z, out): z float32 [B, vector_dim], the tower's projected vector; `out` with `stem`, `block1`..,
          `features` (tokens), `pooled` (the class token before the projection) and `z`.
        """
        patch_size, width, depth, vector_dim, image_size = VARIANTS[self.variant]
        x = preprocess(x * jnp.asarray(self.source_std) + jnp.asarray(self.source_mean), image_size)
        patch = (patch_size, patch_size)
        x = nn.Conv(width, patch, strides=patch, padding="VALID", use_bias=False, dtype=self.dtype, name="stem")(x)
        x = rearrange(x, "b h w c -> b (h w) c")
        init = nn.initializers.normal(width**-0.5)
        token = repeat(self.param("class_token", init, (width,)).astype(self.dtype), "c -> b 1 c", b=x.shape[0])
        x = jnp.concatenate([token, x], axis=1)
        x = x + self.param("positions", init, (x.shape[1], width)).astype(self.dtype)
        x = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm_pre")(x)
        out: dict[str, Any] = {"stem": x}
        for index in range(depth):
            x = out[f"block{index + 1}"] = TransformerBlock(
                width // HEAD_DIM,
                attention=self.attention,
                activation=ACTIVATIONS[self.activation],
                epsilon=1e-5,
                dtype=self.dtype,
                name=f"block{index + 1}",
            )(x)
        x = out["features"] = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm_post")(x)
        out["pooled"] = x[:, 0].astype(jnp.float32)
        z = out["z"] = nn.Dense(vector_dim, use_bias=False, name="projection")(out["pooled"])
        return z, out
