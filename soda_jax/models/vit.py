"""Vision-transformer encoder with the interface of the ResNet (SODA, Appendix B: "ResNet or ViT")."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from soda_jax.models.layers import Dtype, TransformerBlock, rematerialised
from soda_jax.models.pose import Camera, PoseEncoding, SourceModulation, append_grid
from soda_jax.models.positional import sincos_2d

# name -> (width, depth, heads)
VARIANTS = {
    "micro": (64, 2, 2),
    "mini": (128, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


class ViT(nn.Module):
    """ViT encoder: patches, fixed 2D sine-cosine positions, pre-norm blocks, mean pooling, linear to z.

    Attributes:
      variant: one of `VARIANTS`.
      patch_size: side of a patch in pixels; must divide the image's sides.
      latent_dim: size d of z; None keeps the tokens (no bottleneck).
      drop_path: stochastic-depth rate of the last block; rises linearly from 0.
      pose: how the source's camera enters, as a grid after the patches' embedding, as a vector before the pooling, or
        both; None where it does not.
      remat: what of each block is kept for the gradient; see `layers.rematerialised`.
      attention: what computes attention; see `attention.attention_implementation`.
    """

    variant: str
    patch_size: int
    latent_dim: int | None
    drop_path: float = 0.1
    pose: PoseEncoding | None = None
    remat: str = "none"
    attention: str = "xla"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train_ids: jax.Array | None = None,
        camera: Camera | None = None,
        pose_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Encodes `x` [B, h, w, 3], seen by `camera` where `pose_mask` [B] shows its pose.

        Returns:
          (z, out) with `stem`, `block1`.., `features`, `pooled` and `z`.
        """
        width, depth, heads = VARIANTS[self.variant]
        patch, image_size = (self.patch_size, self.patch_size), x.shape[1:3]
        init = nn.initializers.xavier_uniform()
        x = nn.Conv(
            width,
            patch,
            strides=patch,
            padding="VALID",
            kernel_init=init,
            dtype=self.dtype,
            name="stem",
        )(x)
        x = append_grid(x, self.pose, camera, pose_mask, image_size)
        if x.shape[-1] != width:
            x = nn.Dense(width, kernel_init=init, dtype=self.dtype, name="pose_projection")(x)
        rows, columns = x.shape[1:3]
        x = rearrange(x, "b h w c -> b (h w) c")
        # Our choice: fixed positions, which need no resizing at another resolution.
        x = x + sincos_2d(rows, columns, width).astype(x.dtype)
        out: dict[str, Any] = {"stem": x}
        for index in range(depth):
            # DropPath rises linearly with depth, as in the ResNet (our choice; Table 12 gives 0.1).
            x = out[f"block{index + 1}"] = rematerialised(TransformerBlock, self.remat)(
                heads,
                drop_path=self.drop_path * index / max(depth - 1, 1),
                attention=self.attention,
                dtype=self.dtype,
                name=f"block{index + 1}",
            )(x, train_ids)
        x = nn.LayerNorm(dtype=self.dtype, name="norm_final")(x)
        x = out["features"] = SourceModulation(self.pose, self.dtype, name="pose_modulation")(x, camera, pose_mask)
        # Mean pooling as in the ResNet (Appendix C), and so no class token.
        out["pooled"] = x.mean(axis=1).astype(jnp.float32)
        z = (
            x
            if self.latent_dim is None
            else nn.Dense(self.latent_dim, kernel_init=init, name="projection")(out["pooled"])
        )
        out["z"] = z
        return z, out
