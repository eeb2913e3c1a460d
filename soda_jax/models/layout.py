"""Which residual blocks a UNet has, and which section of the latent drives each (SODA 3.2.1, Figure 2).

The networks of `unet.py` walk this list, and `soda_jax.tools.describe` prints it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One residual block of the UNet.

    Attributes:
      name: module name, e.g. `down_64_1`.
      path: "down", "middle" or "up".
      resample: "down", "up" or None (BigGAN resampling happens inside the block).
      resolution: side of the block's output in pixels.
      channels: output channels.
      attention: whether self-attention (and cross-attention, for that variant) follows.
      section: latent section that modulates it; 0 is the innermost.
      skip: index of the skip connection that it produces (down) or consumes (up); None otherwise.
    """

    name: str
    path: str
    resample: str | None
    resolution: int
    channels: int
    attention: bool
    section: int
    skip: int | None


def num_skips(multipliers: tuple[int, ...], num_res_blocks: int) -> int:
    """Skip connections of the UNet: the input layer's, each residual block's, each down-sampling block's."""
    levels = len(multipliers)
    return 1 + levels * num_res_blocks + (levels - 1)


def num_sections(multipliers: tuple[int, ...], num_res_blocks: int) -> int:
    """Sections of the latent: one for each skip connection, and one for the middle."""
    return num_skips(multipliers, num_res_blocks) + 1


def unet_layout(
    resolution: int,
    channels: int,
    multipliers: tuple[int, ...],
    num_res_blocks: int,
    attention_resolutions: tuple[int, ...],
    resample_section: str = "leave",
) -> list[BlockSpec]:
    """The UNet's residual blocks in order of execution.

    A block belongs to the section of the skip connection that it produces or consumes: skip k of K has section K - k,
    the middle has section 0. Resampling blocks go with the level that they leave (`resample_section="leave"`) or
    enter (`"enter"`).
    """
    # The paper gives m + 1 sections, each for a pair of layers (Section 3.2.1); which layers is reconstructed from its
    # Figure 2: z_1 innermost, z_{m+1} outermost. Skip k ties the pair (down, up) together, so both get section K - k.
    total, last_level = num_skips(multipliers, num_res_blocks), len(multipliers) - 1
    leave = resample_section == "leave"
    blocks: list[BlockSpec] = []
    skip, size = 0, resolution  # skip 0 is the input layer's
    for level, multiplier in enumerate(multipliers):
        width, attend = channels * multiplier, size in attention_resolutions
        for index in range(num_res_blocks):
            skip += 1
            blocks.append(BlockSpec(f"down_{size}_{index}", "down", None, size, width, attend, total - skip, skip))
        if level < last_level:
            # Our choice where Figure 2 leaves it open: the section of the level's last skip ("leave") or of its own.
            section = total - (skip if leave else skip + 1)
            skip, size = skip + 1, size // 2
            blocks.append(BlockSpec(f"down_{size}_resample", "down", "down", size, width, False, section, skip))
    width = channels * multipliers[-1]
    # The middle has no skip and is the innermost: z_1. Attention between its two blocks, as in Ho et al. 2020.
    for index, attend in enumerate((True, False)):
        blocks.append(BlockSpec(f"middle_{index}", "middle", None, size, width, attend, 0, None))
    for level in range(last_level, -1, -1):
        width, attend = channels * multipliers[level], size in attention_resolutions
        # One block more than on the way down, for the skip that the level starts from.
        for index in range(num_res_blocks + 1):
            blocks.append(BlockSpec(f"up_{size}_{index}", "up", None, size, width, attend, total - skip, skip))
            skip -= 1
        if level > 0:
            section = total - (skip + 1 if leave else skip)
            size *= 2
            blocks.append(BlockSpec(f"up_{size}_resample", "up", "up", size, width, False, section, None))
    return blocks
