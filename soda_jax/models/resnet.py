"""ResNet-v2 (pre-activation) encoders: 18, 50 and their widened forms (SODA section 3.2, Table 12)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from soda_jax.models.batch_norm import BatchNorm
from soda_jax.models.layers import DropPath, Dtype, batch_axes, rematerialised
from soda_jax.models.norm import GroupNorm
from soda_jax.models.pose import Camera, PoseEncoding, SourceModulation, append_grid
from soda_jax.models.resampling import max_pool

STAGE_SIZES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
xavier_init = nn.initializers.xavier_uniform()


class PreActivationBlock(nn.Module):
    """One residual unit: norm-ReLU-conv, twice (basic) or three times (bottleneck), and a DropPath before the last.

    The shortcut, where the shape changes, is a 1x1 convolution of the pre-activated input (He et al. 2016).
    """

    features: int
    stride: int
    bottleneck: bool
    drop_path: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[..., jax.Array]]

    @nn.compact
    def __call__(self, x: jax.Array, train_ids: jax.Array | None) -> jax.Array:
        out_features = self.features * (4 if self.bottleneck else 1)
        norm = partial(self.norm, activation=nn.relu)
        pre = norm(name="norm1")(x)
        # v2: no norm or ReLU after a unit's sum, so the shortcut is the identity where shapes agree.
        shortcut = x
        if self.stride > 1 or x.shape[-1] != out_features:
            shortcut = self.conv(out_features, (1, 1), strides=self.stride, name="shortcut")(pre)
        # A convolution without a bias gives an example that is dropped before it what one behind it would: zeros. Here
        # the mask is part of a pass over the activations that there is anyway, behind it of a new one each way.
        drop = DropPath(self.drop_path, name="drop_path").drawn(train_ids)
        if self.bottleneck:
            y = self.conv(self.features, (1, 1), name="conv1")(pre)
            y = self.conv(self.features, (3, 3), strides=self.stride, name="conv2")(norm(name="norm2")(y))
            y = norm(name="norm3")(y, drop=drop)
            return shortcut + self.conv(out_features, (1, 1), name="conv3")(y)
        y = self.conv(self.features, (3, 3), strides=self.stride, name="conv1")(pre)
        y = norm(name="norm2")(y, drop=drop)
        return shortcut + self.conv(out_features, (3, 3), name="conv2")(y)


class ResNet(nn.Module):
    """ResNet-v2 encoder E: image -> latent z.

    Attributes:
      depth: 18, 34, 50 or 101.
      width: multiplier of every layer's width ("50x2" is depth 50, width 2).
      latent_dim: size d of z; None keeps the feature grid as tokens instead (SODA "w/o bottleneck", F.1).
      base_features: width of the first stage before the multiplier.
      small_stem: 3x3 stride-1 stem without max-pooling, for images of 64 px and below.
      norm: "batch" (statistics over the global batch) or "group".
      drop_path: stochastic-depth rate of the last block; rises linearly from 0 at the first.
      pose: how the source's camera enters, as a grid after the stem, as a vector before the pooling, or both; None
        where it does not.
      remat: what of each residual unit is kept for the gradient; see `layers.rematerialised`.
    """

    depth: int
    latent_dim: int | None
    width: int = 1
    base_features: int = 64
    small_stem: bool = False
    norm: str = "batch"
    drop_path: float = 0.1
    pose: PoseEncoding | None = None
    remat: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train_ids: jax.Array | None = None,
        camera: Camera | None = None,
        pose_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Encodes `x` [B, h, w, 3] (ImageNet-normalised), seen by `camera` where `pose_mask` [B] shows its pose.

        Returns:
          (z, out): z [B, latent_dim], or tokens [B, N, C] without a bottleneck; `out` names the intermediates
          `stem`, `stage1`..`stage4`, `features` (the normalised grid), `pooled` [B, C] and `z`.
        """
        conv = partial(nn.Conv, use_bias=False, padding="SAME", kernel_init=xavier_init, dtype=self.dtype)
        norm = self._norm_factory(train_ids)
        out: dict[str, Any] = {}
        image_size = x.shape[1:3]
        features = self.base_features * self.width  # "50x2" is twice as wide: 93.9M parameters, 4096 features
        if self.small_stem:
            # Our choice up to 64 pixels: the usual stem divides sides by 4 and would leave the last stage 2 x 2 of 64.
            x = conv(features, (3, 3), name="stem")(x)
        else:
            x = conv(features, (7, 7), strides=2, name="stem")(x)
            x = max_pool(x)
        out["stem"] = x
        x = append_grid(x, self.pose, camera, pose_mask, image_size)  # not before the stem's pooling: no maximum of it
        sizes = STAGE_SIZES[self.depth]
        last_unit, unit_index = max(sum(sizes) - 1, 1), 0
        for stage, size in enumerate(sizes):
            for unit in range(size):
                x = rematerialised(PreActivationBlock, self.remat)(
                    features=features * 2**stage,
                    stride=2 if unit == 0 and stage > 0 else 1,
                    bottleneck=self.depth >= 50,
                    # Huang et al. 2016's linear rule, our choice: Table 12 gives the rate, 0.1, alone.
                    drop_path=self.drop_path * unit_index / last_unit,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage + 1}_unit{unit + 1}",
                )(x, train_ids)
                unit_index += 1
            out[f"stage{stage + 1}"] = x
        # Pre-activation units end on a bare sum, which this norm and ReLU close.
        x = norm(name="norm_final", activation=nn.relu)(x)
        x = out["features"] = SourceModulation(self.pose, self.dtype, name="pose_modulation")(x, camera, pose_mask)
        out["pooled"] = x.mean(axis=(1, 2)).astype(jnp.float32)
        # z = Linear(mean over pixels), the bottleneck (Section 3.2); "w/o bottleneck" (F.1) keeps all N = h w features.
        if self.latent_dim is None:
            z = rearrange(x, "b h w c -> b (h w) c")
        else:
            z = nn.Dense(self.latent_dim, kernel_init=xavier_init, name="projection")(out["pooled"])
        out["z"] = z
        return z, out

    def _norm_factory(self, train_ids: jax.Array | None) -> Callable[..., Any]:
        # BatchNorm's statistics are the global batch's (our choice); GroupNorm makes microbatches equal to one batch.
        if self.norm == "group":
            return partial(GroupNorm, dtype=self.dtype)
        return partial(
            BatchNorm,
            use_running_average=train_ids is None,
            dtype=self.dtype,
            axis_name=batch_axes(),
        )
