"""Cameras that stay the same over many calls of a denoiser, as over a walk: what depends on them alone, computed once.

The first residual block reads the grid behind the first layer's output, and the last one does so again, as the first
skip connection. Their first norms are plain ones, which neither timestep nor latent modulates; so of the groups with
the grid alone the camera says all, up to the first convolution and through the shortcut.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from soda_jax.models.fixed_input import Channels, FixedInput, split_at_group
from soda_jax.models.pose import Camera, EncodedCamera, PoseEncoding


class Reader(Protocol):
    """A residual block that reads the grid."""

    name: str
    norm_groups: int

    def fixed_input(self, params: Mapping[str, Any], x: jax.Array, channels: Channels) -> FixedInput:
        """What the block's first layers make of fixed `channels` x."""


def fix_camera(camera: EncodedCamera, params: Mapping[str, Any], readers: Sequence[Reader]) -> EncodedCamera:
    """`camera` with what the readers make of it; as it is where no group of their norms holds the grid alone.

    Args:
      params: of the denoiser, by the blocks' names.
    """
    if camera.grid is None:
        return camera
    dim, kept, fixed = camera.grid.shape[-1], 0, {}
    for block in readers:
        total = params[block.name]["conv1"]["kernel"].shape[2]
        read, rest = split_at_group(total, dim, block.norm_groups)
        in_grid = read.stop - (total - dim)  # channels of the grid that share a group with the image's
        kept = max(kept, in_grid)
        if in_grid < dim:
            fixed[block.name] = block.fixed_input(params[block.name], camera.grid[..., in_grid:], rest)
    return camera._replace(grid=camera.grid[..., :kept], fixed=fixed) if fixed else camera


def without_fixed(
    h: jax.Array,
    block: str,
    norm_groups: int,
    pose: PoseEncoding | None,
    camera: Camera | EncodedCamera | None,
    mask: jax.Array | None,
) -> tuple[jax.Array, dict[str, Any]]:
    """(what `block` has yet to read of its input h [B, H, W, C], the fixed rest as its arguments `fixed` and `read`).

    Args:
      h: ends, in a block that has something fixed, with the camera's grid as `fix_camera` left it.
      mask: [B], False where an image's pose is hidden; None hides none.
    """
    if not isinstance(camera, EncodedCamera) or camera.fixed is None or block not in camera.fixed:
        return h, {}
    total = h.shape[-1] - camera.grid.shape[-1] + pose.encoding_dim
    read, _ = split_at_group(total, pose.encoding_dim, norm_groups)
    return h[..., : read.stop], {"fixed": camera.fixed[block].shown(mask), "read": read}
