"""How the latent and the timestep steer the denoiser (SODA sections 3.1, 3.2.1, 3.3 and Appendix G.1).

The latent z [B, d] is cut into m + 1 sections; section 0 (the paper's z_1) drives the innermost layers. Every variant
of the paper goes through one seam: `block_latents` says what blocks see of z, `AdaptiveGroupNorm` applies it.

  kind             what a residual block sees             how it acts
  layer            its section                            z_s * (t_s * GN(h) + t_b) + z_b      (default)
  full             the whole z                            the same
  sum              its section (or the whole z)           (s, b) = Linear(t) + Linear(z), one modulation
  concat           its section (or the whole z)           (s, b) = Linear([t, z]), one modulation
  cross_attention  nothing; z is a set of tokens          t modulates; attention layers attend to the tokens
  broadcast        nothing; z is tiled over the image     t modulates; z is concatenated to the linearly mapped RGB

With `LatentEmbedding`, what a block sees is first mapped to the width of the timestep's embedding.

`use_scale=False` is the bias-only form ("w/o scale modulation"). Latent projections carry no bias, so a zeroed z (or
section) is exactly the identity modulation, which is what guidance extrapolates from. A pose given as a vector adds a
last (scale, bias) of its own to every kind, likewise without biases.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce

from soda_jax.latents.sections import section_of_dim, section_sizes
from soda_jax.models.attention import Attention
from soda_jax.models.epilogue import Activation, identity
from soda_jax.models.layers import Dtype, truncated_normal_init
from soda_jax.models.masks import Drop
from soda_jax.models.norm import GroupNorm

KINDS = ("layer", "full", "sum", "concat", "cross_attention", "broadcast")


def split_sections(z: jax.Array, num_sections: int) -> list[jax.Array]:
    """Cuts z [B, d] into its sections, innermost first."""
    return jnp.split(z, np.cumsum(section_sizes(z.shape[-1], num_sections))[:-1], axis=-1)


def mask_latent(z: jax.Array, section_mask: jax.Array) -> jax.Array:
    """Zeroes the sections of z that `section_mask` [B, num_sections] (bool or 0/1) drops.

    A token latent [B, K, C] (no bottleneck) has no sections: it is dropped where every section is.
    """
    # Training zeroes some of z_1 .. z_{m+1} at random (layer masking, Section 3.2.1) or all of them (guidance): one
    # mask says both. Zeros mean "no condition", as no projection of z has a bias.
    mask = section_mask.astype(z.dtype)
    if z.ndim == 3:
        return z * reduce(mask, "b sections -> b 1 1", "max")
    return z * mask[:, section_of_dim(z.shape[-1], section_mask.shape[-1])]


def mix_sections(latents: jax.Array, choice: jax.Array) -> jax.Array:
    """Style mixing (section 3.2.1): builds latents whose sections come from different images.

    Args:
      latents: [K, d] latents to choose from.
      choice: int [B, num_sections]; section s of output b comes from `latents[choice[b, s]]`.

    Returns:
      [B, d] mixed latents.
    """
    # z_b = [z_1 of one image, ..., z_{m+1} of another]: inner sections carry structure, outer ones colour and texture.
    dims = section_of_dim(latents.shape[-1], choice.shape[-1])
    return latents[choice[:, dims], np.arange(latents.shape[-1])]


def is_sectioned(kind: str, by_section: bool) -> bool:
    """Whether each block sees a section of z rather than all of it or none."""
    return kind == "layer" or (kind in ("sum", "concat") and by_section)


def block_latents(kind: str, z: jax.Array | None, num_sections: int, by_section: bool) -> Sequence[jax.Array | None]:
    """The part of the (masked) latent that blocks of each section are modulated by; None where they are not.

    Call it once for all blocks: the parts' gradients then meet where z is cut, by one concatenation.
    """
    # Layer modulation (Section 3.2.1): z_i drives a pair of layers, one on the way down and its mirror on the way up.
    # `unet_layout` gives both of them one section.
    if z is None or kind in ("cross_attention", "broadcast"):
        return [None] * num_sections
    return split_sections(z, num_sections) if is_sectioned(kind, by_section) else [z] * num_sections


class LatentEmbedding(nn.Module):
    """Maps each part of z to the width of the timestep's embedding, which the blocks' own projections then start from.

    The paper does not state this step; its parameter counts do (REPRODUCTION.md "Parameters"). There are no biases: a
    zeroed part stays zeros, and so the identity.

    Attributes:
      width: of the timestep's embedding.
      num_parts: sections or sub-vectors of z, each with a map of its own that all its blocks share; 1 for a z that
        every block sees whole.
    """

    width: int
    num_parts: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Maps z [B, d] to [B, num_parts * width], its parts in their order, or a grid of tokens [B, K, C] by one map.

        `split_sections` into `num_parts` gives the mapped parts back.
        """

        def linear(name: str) -> nn.Dense:
            return nn.Dense(self.width, use_bias=False, kernel_init=truncated_normal_init, dtype=self.dtype, name=name)

        if z.ndim == 3:  # places of a feature grid are alike, as those of an image are
            return linear("tokens")(z)
        parts = split_sections(z, self.num_parts)
        return jnp.concatenate([linear(f"part_{index}")(part) for index, part in enumerate(parts)], axis=-1)


class Affine(NamedTuple):
    """The map h -> scale * h + shift of each example's channels, float32 [B, C] each."""

    scale: jax.Array
    shift: jax.Array

    def then(self, modulation: jax.Array, use_scale: bool) -> "Affine":
        """This map and, behind it, h -> (1 + s) h + b for (s, b) [B, 2C], or h + b for b [B, C] without scales."""
        # In float32: 16 bits would round scales below 1/256 away beside the 1.
        modulation = modulation.astype(jnp.float32)
        if not use_scale:
            return Affine(self.scale, self.shift + modulation)
        # 1 + s is our choice: where z is zero, so are s and b, and the activations pass unchanged.
        scale, bias = jnp.split(modulation, 2, axis=-1)
        return Affine((1.0 + scale) * self.scale, (1.0 + scale) * self.shift + bias)


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm followed by the modulation of timestep and latent (section 3.1 and Appendix B), and an activation.

    Scales are parametrised as 1 + linear(.). All modulations of a channel are one affine map, put together before
    any pixel is seen.

    Attributes:
      kind: see the module's table.
      use_scale: False keeps the biases only.
      norm_groups: groups of the GroupNorm.
      activation: what follows the modulations.
    """

    kind: str
    use_scale: bool = True
    norm_groups: int = 32
    activation: Activation = identity
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: jax.Array,
        t_emb: jax.Array | None,
        z: jax.Array | None,
        pose: jax.Array | None = None,
        drop: Drop | None = None,
    ) -> jax.Array:
        """Modulates h [B, H, W, C] by t_emb [B, T], z [B, k] and last by pose [B, p]; what is None does nothing.

        Behind the activation `drop` takes its share.
        """
        # Section 3.1 and Appendix B: h <- z_s (t_s GN(h) + t_b) + z_b, with (t_s, t_b) and (z_s, z_b) linear in the
        # timestep's embedding and in z. The affine part of the norm would duplicate the timestep's modulation.
        affine = self._affine(h, t_emb, z, pose)
        norm = GroupNorm(self.norm_groups, False, self.activation, self.dtype, name="group_norm")
        return norm(h, *affine, drop)

    def _affine(self, h: jax.Array, t_emb: jax.Array | None, z: jax.Array | None, pose: jax.Array | None) -> Affine:
        """All modulations of the normalised h."""
        batch, channels = h.shape[0], h.shape[-1]
        width = channels * (2 if self.use_scale else 1)

        def linear(name: str, use_bias: bool) -> nn.Dense:
            return nn.Dense(
                width,
                use_bias=use_bias,
                kernel_init=truncated_normal_init,
                dtype=self.dtype,
                name=name,
            )

        if t_emb is None:
            modulations = [] if z is None else [linear("latent", False)(z)]
        elif z is None:
            modulations = [linear("time", True)(t_emb)]
        elif self.kind == "sum":
            # "sum mod." (Appendix G.1): one pair (s, b) = Linear(t) + Linear(z).
            modulations = [linear("time", True)(t_emb) + linear("latent", False)(z)]
        elif self.kind == "concat":
            # "concat mod." (Appendix G.1): one pair (s, b) = Linear([t, z]).
            modulations = [linear("joint", True)(jnp.concatenate([t_emb, z.astype(t_emb.dtype)], axis=-1))]
        else:
            # Two stages, the timestep's and then the latent's: both merged into one pair did worse (Appendix G.1).
            modulations = [linear("time", True)(t_emb), linear("latent", False)(z)]
        if pose is not None:
            modulations.append(linear("pose", False)(pose))
        affine = Affine(jnp.ones((batch, channels)), jnp.zeros((batch, channels)))
        for modulation in modulations:
            affine = affine.then(modulation, self.use_scale)
        return affine


class LatentCrossAttention(nn.Module):
    """Residual cross-attention from the activations to the latent's tokens (section 3.3 "Cross Attention").

    Biases are left out of keys, values and output, so that zeroed tokens add nothing.
    """

    head_dim: int
    norm_groups: int = 32
    attention: str = "xla"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: jax.Array, tokens: jax.Array) -> jax.Array:
        """Maps h [B, H, W, C] and tokens [B, K, D] to [B, H, W, C]."""
        x = rearrange(GroupNorm(self.norm_groups, dtype=self.dtype, name="norm")(h), "b h w c -> b (h w) c")
        # Queries come from the pixels, keys and values from sub-vectors of z: z acts on places, not only on channels.
        # The sum is not divided by sqrt(2) (our choice), so that zeroed tokens leave h as it is.
        attend = Attention(
            self.head_dim, context_bias=False, implementation=self.attention, dtype=self.dtype, name="attention"
        )
        return h + rearrange(attend(x, tokens.astype(x.dtype)), "b (h w) c -> b h w c", h=h.shape[1])
