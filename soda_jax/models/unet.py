"""The denoiser D: a UNet whose every residual block is modulated by timestep and latent (SODA Appendix B, C).

`unet_layout` in `layout.py` lists the blocks with the latent section that drives each; the modules here walk that list.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from soda_jax.latents.sections import section_of_dim
from soda_jax.models.attention import Attention
from soda_jax.models.epilogue import gelu
from soda_jax.models.fixed_camera import fix_camera, without_fixed
from soda_jax.models.fixed_input import Channels, FixedInput
from soda_jax.models.layers import Conv, Dropout, Dtype, rematerialised, truncated_normal_init
from soda_jax.models.layout import BlockSpec, num_sections, unet_layout
from soda_jax.models.modulation import (
    AdaptiveGroupNorm,
    LatentCrossAttention,
    LatentEmbedding,
    block_latents,
    is_sectioned,
    mask_latent,
)
from soda_jax.models.norm import GroupNorm
from soda_jax.models.pose import Camera, EncodedCamera, PoseEncoding, append_grid
from soda_jax.models.positional import timestep_embedding
from soda_jax.models.resampling import from_patches, resample, to_patches

# Appendix C, "rescaling of residual connections": the sum of two terms of variance 1, over sqrt(2), has variance 1.
# The two terms are divided one by one, a layer's in its weights, so that the sum's gradient reaches both as it is.
HALF_VARIANCE = float(1 / np.sqrt(2))


class ResidualBlock(nn.Module):
    """BigGAN residual block with adaptive group normalisation; the sum is divided by sqrt(2).

    Attributes:
      read: which of the input's channels x holds, where others are fixed and given as a `FixedInput`; None: all.
    """

    channels: int
    resample: str | None
    modulation: str
    use_scale: bool
    dropout: float
    norm_groups: int = 32
    dtype: Dtype = jnp.float32
    read: Channels | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t_emb: jax.Array | None,
        z: jax.Array | None,
        train_ids: jax.Array | None,
        pose: jax.Array | None = None,
        fixed: FixedInput | None = None,
    ) -> jax.Array:
        norm1, conv1, shortcut = self._first_layers(self.read)
        h = norm1(x)
        # BigGAN's order (Appendix C): resampling stands between activation and convolution, and on the shortcut.
        h, x = resample(h, self.resample), resample(x, self.resample)
        h = conv1(h) if fixed is None else conv1(h) + fixed.conv1
        # The second norm is the adaptive one, so t and z act between the convolutions (Dhariwal & Nichol 2021).
        modulate = AdaptiveGroupNorm(
            self.modulation, self.use_scale, self.norm_groups, gelu, self.dtype, name="modulation"
        )
        h = modulate(h, t_emb, z, pose, Dropout(self.dropout, name="dropout").drawn(train_ids))
        h = Conv(self.channels, 3, HALF_VARIANCE, dtype=self.dtype, name="conv2")(h)
        if fixed is not None:
            return shortcut(x) + fixed.shortcut + h
        if x.shape[-1] != self.channels:
            return shortcut(x) + h
        return x * HALF_VARIANCE + h

    @nn.nowrap
    def _first_layers(self, read: Channels | None) -> tuple[GroupNorm, Conv, Conv]:
        """The layers that see the input: norm1, conv1 and, where there is one, the shortcut."""

        def conv(name: str, size: int, gain: float = 1.0) -> Conv:
            return Conv(self.channels, size, gain, self.dtype, read, name=name)

        norm1 = GroupNorm(self.norm_groups, activation=gelu, dtype=self.dtype, channels=read, name="norm1")
        return norm1, conv("conv1", 3), conv("shortcut", 1, HALF_VARIANCE)

    @nn.nowrap
    def fixed_input(self, params: Mapping[str, Any], x: jax.Array, channels: Channels) -> FixedInput:
        """What the first layers of a block without resampling make of fixed `channels` x [B, H, W, c].

        Args:
          params: of this block.
        """

        def run(layer: nn.Module, y: jax.Array) -> jax.Array:
            return layer.apply({"params": params[layer.name]}, y)

        norm1, conv1, shortcut = self._first_layers(channels)
        return FixedInput.of(x, lambda y: run(conv1, run(norm1, y)), lambda y: run(shortcut, y))


class SelfAttention(nn.Module):
    """Residual self-attention over the pixels; the sum is divided by sqrt(2)."""

    head_dim: int
    norm_groups: int = 32
    attention: str = "xla"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = rearrange(GroupNorm(self.norm_groups, dtype=self.dtype, name="norm")(x), "b h w c -> b (h w) c")
        attend = Attention(
            self.head_dim, implementation=self.attention, gain=HALF_VARIANCE, dtype=self.dtype, name="attention"
        )
        return x * HALF_VARIANCE + rearrange(attend(h), "b (h w) c -> b h w c", h=x.shape[1])


class ModulatedBlocks(nn.Module):
    """Residual blocks in the order of `unet_layout`, each modulated by its part of the latent.

    Attributes:
      resolution: side of the images, divisible by patch_size * 2 ** (len(multipliers) - 1).
      channels: base width; multipliers: its factor at each level; num_res_blocks: residual blocks a level.
      attention_resolutions: sides at which self-attention follows each block (the middle always has it).
      head_dim: width of an attention head.
      norm_groups: groups of every GroupNorm but the last, or their greatest common divisor with the channels. Groups of
        one channel, as of 32 groups in a denoiser of 16 channels, erase each feature map's mean. The sums past the
        blocks carry it on, so that it reaches the last norm.
      norm_out_groups: groups of the last GroupNorm. If these are of one channel, nothing carries the mean past them,
        and images come out tinted.
      modulation, use_scale, modulate_by_section: see `soda_jax.models.modulation`.
      resample_section: see `unet_layout`.
      patch_size: side of the squares of pixels that are one place of the largest feature maps (the paper: 1).
      remat: what of each block is kept for the gradient; see `layers.rematerialised`.
      attention: what computes attention; see `attention.attention_implementation`.
    """

    resolution: int
    channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (8, 16, 32)
    head_dim: int = 64
    dropout: float = 0.1
    norm_groups: int = 32
    norm_out_groups: int = 32
    modulation: str = "layer"
    use_scale: bool = True
    modulate_by_section: bool = True
    resample_section: str = "leave"
    remat: str = "none"
    attention: str = "xla"
    dtype: Dtype = jnp.float32
    patch_size: int = 1

    @property
    def num_sections(self) -> int:
        return num_sections(self.multipliers, self.num_res_blocks)

    def layout(self) -> list[BlockSpec]:
        """The blocks that this network has, in order of execution."""
        return unet_layout(
            self.resolution // self.patch_size,
            self.channels,
            self.multipliers,
            self.num_res_blocks,
            self.attention_resolutions,
            self.resample_section,
        )

    @property
    def sectioned(self) -> bool:
        """Whether each block sees a section of z rather than all of it or none."""
        return is_sectioned(self.modulation, self.modulate_by_section)

    def latent_projection(self, params: Mapping[str, Any], latent_dim: int) -> np.ndarray:
        """The linear map from z to the modulations of all blocks, float64 [latent_dim, M]; a block's columns are 0 at
        the dimensions that it does not see.

        Args:
          params: of this network.

        Raises:
          ValueError: z does not act by linear projections of the blocks' own.
        """
        if self.modulation in ("cross_attention", "broadcast"):
            raise ValueError(
                f"directions from weights need blocks that z modulates, and modulation.kind={self.modulation!r} has "
                "none; find directions by pca or labels instead"
            )
        section = section_of_dim(latent_dim, self.num_sections) if self.sectioned else np.zeros(latent_dim, int)
        embedding = params.get("latent_embedding")
        columns = []
        for spec in self.layout():
            part = spec.section if self.sectioned else 0
            seen = section == part
            # What the block is given of z: its part itself, or that part mapped to the timestep's width.
            given = np.eye(seen.sum()) if embedding is None else np.asarray(embedding[f"part_{part}"]["kernel"])
            layers = params[spec.name]["modulation"]
            kernel = np.asarray(layers["joint"]["kernel"] if "joint" in layers else layers["latent"]["kernel"])
            column = np.zeros((latent_dim, kernel.shape[1]))
            # Of "concat", the rows of the timestep's embedding come first.
            column[seen] = given @ kernel[-given.shape[1] :]
            columns.append(column)
        return np.concatenate(columns, axis=1)

    @nn.nowrap
    def latent_parts(self, z: jax.Array | None) -> Sequence[jax.Array | None]:
        """What blocks see of the masked latent z [B, d] or None, by their sections."""
        return block_latents(self.modulation, z, self.num_sections, self.modulate_by_section)

    def block(
        self,
        spec: BlockSpec,
        h: jax.Array,
        z_parts: Sequence[jax.Array | None],
        train_ids: jax.Array | None,
        *,
        t_emb: jax.Array | None = None,
        pose: jax.Array | None = None,
        tokens: jax.Array | None = None,
        fixed: FixedInput | None = None,
        read: Channels | None = None,
    ) -> jax.Array:
        """The residual block of `spec`, with the attention that follows it; call it from a compact `__call__`.

        Args:
          h: [B, H, W, C] activations; z_parts: what blocks see of the masked latent, by `latent_parts`.
          t_emb: [B, T] embedded timesteps; None in a network that denoises nothing.
          pose: [B, p] embedded poses; tokens: [B, K, C] of the latent, for cross-attention.
          fixed, read: see `ResidualBlock`.
        """
        residual = self._residual(spec, rematerialised(ResidualBlock, self.remat), read)
        h = residual(h, t_emb, z_parts[spec.section], train_ids, pose, fixed)
        if spec.attention:
            heads = (self.head_dim, self.norm_groups, self.attention, self.dtype)
            h = rematerialised(SelfAttention, self.remat)(*heads, name=f"{spec.name}_attention")(h)
            # Section 3.3, "Cross Attention": where pixels attend to each other, they attend to z's sub-vectors too.
            if tokens is not None:
                cross = rematerialised(LatentCrossAttention, self.remat)(*heads, name=f"{spec.name}_cross")
                h = cross(h, tokens)
        return h

    @nn.nowrap
    def _residual(
        self, spec: BlockSpec, kind: type[ResidualBlock] = ResidualBlock, read: Channels | None = None
    ) -> ResidualBlock:
        """The residual block of `spec`, without its attention."""
        return kind(
            spec.channels,
            spec.resample,
            self.modulation,
            self.use_scale,
            self.dropout,
            self.norm_groups,
            self.dtype,
            read,
            name=spec.name,
        )

    def image(self, h: jax.Array, channels: int) -> jax.Array:
        """The last layer: [B, H, W, channels] float32."""
        norm = GroupNorm(self.norm_out_groups, activation=gelu, dtype=self.dtype, name="norm_out")
        width = channels * self.patch_size**2
        # Our choice, as in Ho et al. 2020: zeros at first, so the loss starts at E eps^2 = 1 at any depth.
        conv = Conv(width, 3, kernel_init=nn.initializers.zeros, dtype=self.dtype, wide=True, name="conv_out")
        return from_patches(conv(norm(h)), self.patch_size)


class UNet(ModulatedBlocks):
    """Predicts the noise eps in x_t, guided by the latent.

    Attributes:
      time_dim: width of the timestep's embedding.
      num_timesteps: T, the timesteps being 1..T.
      num_tokens: number of sub-vectors of z for `cross_attention`.
      embed_sections: whether each section, or whatever else blocks see of z, is first mapped to `time_dim`.
      pose: how the target's camera enters, as a grid after the first layer, as a vector at every residual block, or
        both; None where it does not.
    """

    time_dim: int = 512
    num_timesteps: int = 1000
    num_tokens: int = 16
    embed_sections: bool = False
    pose: PoseEncoding | None = None

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        z: jax.Array | None,
        section_mask: jax.Array | None,
        train_ids: jax.Array | None = None,
        camera: Camera | EncodedCamera | None = None,
        pose_mask: jax.Array | None = None,
        source: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Predicts the noise.

        Args:
          x_t: [B, H, W, 3] noised target.
          t: int [B] timesteps in 1..num_timesteps.
          z: [B, d] latent, or [B, K, C] tokens (no bottleneck; `cross_attention` only); None for a denoiser without
            a latent, of modulation `layer`, whose blocks are then modulated by the timestep alone.
          section_mask: [B, num_sections] 0/1; dropped sections are zeroed.
          train_ids: [B] ids in training, None in evaluation.
          camera: of the targets, also encoded already; None where no target's pose is known.
          pose_mask: [B] bool, False where the target's pose is hidden; None hides none.
          source: [B, H, W, 3] image that is concatenated to x_t; None for none.

        Returns:
          (eps [B, H, W, 3] float32, out): `out` names every block's output, and `middle`.
        """
        # Masked once, before anything reads z: no variant can see a dropped section.
        z = None if z is None else self._embed_latent(mask_latent(z, section_mask))
        t_emb = self._embed_time(t)
        tokens = self._tokens(z) if self.modulation == "cross_attention" else None
        x = x_t if source is None else jnp.concatenate([x_t, source], axis=-1)
        h = nn.Conv(
            self.channels,
            (3, 3),
            kernel_init=truncated_normal_init,
            dtype=self.dtype,
            name="conv_in",
        )(to_patches(x, self.patch_size).astype(self.dtype))
        if self.modulation == "broadcast":
            # "w/o modulation" (Appendix G.1, spatial broadcasting): every pixel gets the whole z as further channels.
            z_everywhere = rearrange(z.astype(h.dtype), "b d -> b 1 1 d")
            tiled = jnp.broadcast_to(z_everywhere, (*h.shape[:3], z.shape[-1]))
            h = jnp.concatenate([h, tiled], axis=-1)
        # "concatenated to linearly-mapped RGB channels ... after the first layer" (Appendix C, "Pose Conditioning").
        h = append_grid(h, self.pose, camera, pose_mask, x_t.shape[1:3])
        pose = self._embed_pose(camera, pose_mask, x_t.shape[0])
        z_parts = self.latent_parts(z)
        out: dict[str, Any] = {}
        skips = [h]
        for spec in self.layout():
            if spec.path == "up" and spec.skip is not None:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h, fixed = without_fixed(h, spec.name, self.norm_groups, self.pose, camera, pose_mask)
            h = self.block(spec, h, z_parts, train_ids, t_emb=t_emb, pose=pose, tokens=tokens, **fixed)
            if spec.path == "down":
                skips.append(h)
            out[spec.name] = h
        out["middle"] = out["middle_1"]
        return self.image(h, x_t.shape[-1]), out

    @nn.nowrap
    def fix_camera(self, params: Mapping[str, Any], camera: EncodedCamera) -> EncodedCamera:
        """`camera` for many calls with the same `params` (of this network); see `fixed_camera`."""
        layout = self.layout()
        return fix_camera(camera, params, [self._residual(spec) for spec in (layout[0], layout[-1])])

    def _embed_time(self, t: jax.Array) -> jax.Array:
        """Sinusoid of t at its natural scale 0..1000 and a two-layer MLP; [B, time_dim]."""
        # Not t / T in [0, 1]: all sinusoids would be nearly linear in it, an embedding of rank one.
        natural = t.astype(jnp.float32) * (1000.0 / self.num_timesteps)
        x = timestep_embedding(natural, self.time_dim)
        x = nn.Dense(self.time_dim, kernel_init=truncated_normal_init, dtype=self.dtype, name="time_mlp1")(x)
        x = nn.Dense(self.time_dim, kernel_init=truncated_normal_init, dtype=self.dtype, name="time_mlp2")(gelu(x))
        return gelu(x)

    def _embed_latent(self, z: jax.Array) -> jax.Array:
        """Each part of z that modulates a block, or that pixels attend to, at the width of the timestep's embedding."""
        if not self.embed_sections or self.modulation == "broadcast":  # there z itself is what pixels are given
            return z
        if self.modulation == "cross_attention":
            num_parts = self.num_tokens
        else:
            num_parts = self.num_sections if self.sectioned else 1
        return LatentEmbedding(self.time_dim, num_parts, self.dtype, name="latent_embedding")(z)

    def _embed_pose(
        self, camera: Camera | EncodedCamera | None, pose_mask: jax.Array | None, batch_size: int
    ) -> jax.Array | None:
        """A two-layer MLP of the vector pose, [B, time_dim]; without biases, so that a hidden pose stays zeros."""
        if self.pose is None or self.pose.vector == "none":
            return None
        x = self.pose.target_vector(camera, pose_mask, batch_size)
        for name in ("pose_mlp1", "pose_mlp2"):
            dense = nn.Dense(
                self.time_dim, use_bias=False, kernel_init=truncated_normal_init, dtype=self.dtype, name=name
            )
            x = gelu(dense(x))
        return x

    def _tokens(self, z: jax.Array) -> jax.Array:
        return z if z.ndim == 3 else rearrange(z, "b (k c) -> b k c", k=self.num_tokens)
