"""Pose conditioning: cameras as encoded grids and vectors (SODA sections 3.3 and Appendix C, G.3).

A pose enters the networks in two ways, alone or together. As a *grid*, every cell of the first layer's output gets its
encoded ray (or its encoded place in the uncropped image) as further channels. As a *vector*, the encoded viewpoint
modulates the denoiser's blocks by a further (scale, bias) after the latent's, and the encoder's features before they
are pooled. Whatever is masked or not given is zeros after the encoding, and then changes nothing in the networks.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from soda_jax.models import rays
from soda_jax.models.fixed_input import FixedInput
from soda_jax.models.layers import Dtype
from soda_jax.models.positional import coordinate_encoding, top_frequency

GRIDS = ("none", "rays", "xy")
VECTORS = ("none", "absolute", "relative")


class Camera(NamedTuple):
    """Where views were taken from. Leading axes [B], or [B, n] for n sources; what a model does not use may be None.

    Attributes:
      pose: float32 [..., 4, 4] camera-to-world (x right, y up, looking along -z; world z up).
      intrinsics: float32 [..., 4] (fx, fy, cx, cy) in pixels of the image as given.
      window: float32 [..., 4] the crop's (x_left, y_top, x_right, y_bottom) in the uncropped image, [-1, 1]^2.
      reference: float32 [..., 4, 4] pose of the example's first present source: the frame of relative poses, and the
        source's half of an absolute vector.
      reference_mask: bool [...] False hides the reference from an absolute vector, as the source's own pose is hidden.
        It still defines the frame of relative poses. None shows it.
    """

    pose: jax.Array | None = None
    intrinsics: jax.Array | None = None
    window: jax.Array | None = None
    reference: jax.Array | None = None
    reference_mask: jax.Array | None = None


class EncodedCamera(NamedTuple):
    """Target cameras as `PoseEncoding.encoded` makes them, in a `Camera`'s place for many calls of a denoiser.

    Attributes:
      grid: [B, H, W, encoding_dim], or None where the model has none; no image's pose is hidden in it. Of fixed cameras
        (`UNet.fix_camera`) only the first channels, which blocks read together with the image's.
      vector: as `PoseEncoding.target_vector`, with only the references hidden; None where the model has none.
      fixed: of fixed cameras, by a block's name what it makes of the grid's other channels; else None.
    """

    grid: jax.Array | None
    vector: jax.Array | None
    fixed: Mapping[str, FixedInput] | None = None


@dataclasses.dataclass(frozen=True)
class PoseEncoding:
    """How a camera becomes numbers for the networks.

    Attributes:
      grid: "rays", "xy" (the place in the uncropped image) or "none".
      rays: form of a ray; see `soda_jax.models.rays`.
      coordinates: "polar" or "cartesian", for rays and vectors.
      relative: express the rays in the first source camera's upright frame instead of the world. The sphere stays
        around the world's origin, where the object is, so a rigid motion of all cameras changes nothing for the
        other forms, and a rotation around the origin nothing for any.
      vector: "absolute" (the viewpoints of first source and target, in the world), "relative" (the target's in the
        first source's frame) or "none".
      encoding_dim: width of the encoding of a grid cell, and of a viewpoint.
      scale, scale_form: see `positional.top_frequency`.
      sphere_radius: in world units; positions are divided by it.
    """

    grid: str = "rays"
    rays: str = "sphere"
    coordinates: str = "polar"
    relative: bool = False
    vector: str = "none"
    encoding_dim: int = 512
    scale: float = 1e-4
    scale_form: str = "2pi/s"
    sphere_radius: float = 1.0

    @property
    def needs_cameras(self) -> bool:
        return self.grid == "rays" or self.vector != "none"

    @property
    def needs_windows(self) -> bool:
        return self.grid == "xy"

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a `Camera` that each view must have."""
        return (("pose", "intrinsics") if self.needs_cameras else ()) + (("window",) if self.needs_windows else ())

    @property
    def needs_reference(self) -> bool:
        return (self.grid == "rays" and self.relative) or self.vector != "none"

    @property
    def num_coordinates(self) -> int:
        """Coordinates that share `encoding_dim`: the larger of a grid cell's and a viewpoint's."""
        # Rays: a point (3), or o and r; a polar r has no radius, so 3 + 2. Viewpoint: position, forward and up.
        cell = {"none": 0, "xy": 2, "rays": 3}[self.grid]
        if self.grid == "rays" and self.rays == "concat":
            cell = 5 if self.coordinates == "polar" else 6
        viewpoint = 0 if self.vector == "none" else 7 if self.coordinates == "polar" else 9
        return max(cell, viewpoint)

    def encoded(
        self, camera: Camera, size: tuple[int, int], patch_size: int = 1, dtype: Dtype = jnp.float32
    ) -> EncodedCamera:
        """Target cameras [B] encoded once for all sampling steps.

        Args:
          size: (H, W) of the images.
          patch_size: pixels along a side of a cell of the denoiser's grid.
          dtype: of the grid, the denoiser's own.
        """
        batch_size = next(len(field) for field in camera if field is not None)
        grid = None
        if self.grid != "none":
            cells = (size[0] // patch_size, size[1] // patch_size)
            grid = self.encoded_grid(camera, None, batch_size, cells, size).astype(dtype)
        return EncodedCamera(grid, None if self.vector == "none" else self.target_vector(camera, None, batch_size))

    def encoded_grid(
        self,
        camera: Camera | EncodedCamera | None,
        mask: jax.Array | None,
        batch_size: int,
        size: tuple[int, int],
        image_size: tuple[int, int],
    ) -> jax.Array:
        """Encoded coordinates of a feature map's cells.

        Args:
          camera: of the images; None where nothing is known of any.
          mask: [B], False where an image's pose is hidden; None hides none.
          size: (h, w) of the feature map; image_size: (H, W) of the image that it covers.

        Returns:
          float32 [B, h, w, encoding_dim], zeros where the pose is hidden.
        """
        if camera is None:
            return jnp.zeros((batch_size, *size, self.encoding_dim))
        if isinstance(camera, EncodedCamera):
            return _masked(camera.grid, mask)
        if self.grid == "xy":
            coordinates = rays.xy_grid(_given(camera, "window"), size)
        else:
            # One ray for each cell, on coarser maps too: the encoder's grid has the size of its first layer's output.
            coordinates = self._ray_coordinates(camera, size, image_size)
        return _masked(self._encode(coordinates), mask)

    def _ray_coordinates(self, camera: Camera, size: tuple[int, int], image_size: tuple[int, int]) -> jax.Array:
        origin, direction = rays.camera_rays(_given(camera, "pose"), _given(camera, "intrinsics"), size, image_size)
        points, directions = rays.ray_vectors(origin, direction, self.rays, self.sphere_radius)
        if self.relative:
            reference = _given(camera, "reference")
            points = rays.into_frame(reference, points)
            directions = rays.rotate(rays.frame_rotation(reference), directions)
        # To about [-1, 1], the range to which Appendix C normalises coordinates.
        points = points / self.sphere_radius
        if self.coordinates == "polar":
            points = rays.polar(points)
            directions = rays.polar(directions)[..., 1:]  # their radius is always 1
        return jnp.concatenate([points, directions], axis=-1) if self.rays == "concat" else points

    def source_vector(self, camera: Camera | None, mask: jax.Array | None, batch_size: int) -> jax.Array:
        """Encoded viewpoint of a source camera, [B, encoding_dim]; zeros where it is hidden."""
        if camera is None:
            return jnp.zeros((batch_size, self.encoding_dim))
        reference = _given(camera, "reference") if self.vector == "relative" else None
        return _masked(self._viewpoint(_given(camera, "pose"), reference), mask)

    def target_vector(
        self, camera: Camera | EncodedCamera | None, mask: jax.Array | None, batch_size: int
    ) -> jax.Array:
        """What modulates the denoiser, zeros where it is hidden.

        Returns:
          For "relative" the target's viewpoint seen from the first source, [B, encoding_dim]; for "absolute" the first
          source's and the target's, [B, 2 * encoding_dim], each hidden by its own mask.
        """
        if camera is None:
            return jnp.zeros((batch_size, (1 if self.vector == "relative" else 2) * self.encoding_dim))
        if isinstance(camera, EncodedCamera):
            source, target = jnp.split(camera.vector, [camera.vector.shape[-1] - self.encoding_dim], axis=-1)
            return jnp.concatenate([source, _masked(target, mask)], axis=-1)
        # Table 8's vectors: the relative transformation from source to target, or [source, target] (Appendix G.3).
        pose, reference = _given(camera, "pose"), _given(camera, "reference")
        if self.vector == "relative":
            return _masked(self._viewpoint(pose, reference), mask)
        source = _masked(self._viewpoint(reference, None), camera.reference_mask)
        return jnp.concatenate([source, _masked(self._viewpoint(pose, None), mask)], axis=-1)

    def _viewpoint(self, pose: jax.Array, reference: jax.Array | None) -> jax.Array:
        """Encoded position, viewing direction and upward direction of cameras [B, 4, 4], [B, encoding_dim].

        The paper names position and direction; without the upward one a camera's roll would be lost, and relative
        poses roll even where all cameras are upright.
        """
        # A camera looks along its -z, and its y points up.
        position, directions = pose[:, :3, 3], jnp.stack([-pose[:, :3, 2], pose[:, :3, 1]], axis=1)
        if reference is not None:
            position = rays.into_frame(reference, position[:, None])[:, 0]
            directions = rays.rotate(rays.frame_rotation(reference), directions)
        position = position / self.sphere_radius
        if self.coordinates == "polar":
            position, directions = rays.polar(position), rays.polar(directions)[..., 1:]
        return self._encode(jnp.concatenate([position, rearrange(directions, "b k a -> b (k a)")], axis=-1))

    def _encode(self, coordinates: jax.Array) -> jax.Array:
        return coordinate_encoding(coordinates, self.encoding_dim, top_frequency(self.scale, self.scale_form))


class SourceModulation(nn.Module):
    """Modulates the encoder's features by the source's vector pose, where the model has one.

    Not its first layer's output by a shift: normalisation over an image's own pixels would remove that again.
    """

    pose: PoseEncoding | None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: jax.Array, camera: Camera | None, mask: jax.Array | None) -> jax.Array:
        """(1 + scale) h + bias, linear in the pose's encoding, of h [B, ..., C]; a hidden pose leaves h as it is."""
        if self.pose is None or self.pose.vector == "none":
            return h
        vector = self.pose.source_vector(camera, mask, h.shape[0])
        # No bias and 1 + scale: a hidden pose is zeros, and zeros are the identity, as for z in the denoiser.
        modulation = nn.Dense(2 * h.shape[-1], use_bias=False, dtype=self.dtype, name="vector")(vector)
        scale, bias = jnp.split(jnp.expand_dims(modulation, tuple(range(1, h.ndim - 1))), 2, axis=-1)
        return (1.0 + scale) * h + bias


def append_grid(
    x: jax.Array,
    pose: PoseEncoding | None,
    camera: Camera | EncodedCamera | None,
    mask: jax.Array | None,
    image_size: tuple[int, int],
) -> jax.Array:
    """Appends the encoded grid to the channels of x [B, h, w, C], where the model has one."""
    if pose is None or pose.grid == "none":
        return x
    # x is the linearly mapped image: the encoding joins its channels (Section 3.3, "Perspective").
    grid = pose.encoded_grid(camera, mask, x.shape[0], x.shape[1:3], image_size)
    return jnp.concatenate([x, grid.astype(x.dtype)], axis=-1)


def first_present(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Of values [B, n, ...] those of each example's first source that `mask` [B, n] marks; NumPy arrays stay such."""
    return values[np.arange(len(mask)), mask.argmax(axis=1)]


def _given(camera: Camera, field: str) -> jax.Array:
    value = getattr(camera, field)
    if value is None:
        raise ValueError(f"camera.{field} is None, but this model's pose encoding needs it: give it, or no camera")
    return value.astype(jnp.float32)


def _masked(encoded: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Zeros where `mask` [B] is False. A choice, not a product: a hidden pose may hold anything, even NaN."""
    if mask is None:
        return encoded
    return jnp.where(jnp.expand_dims(mask.astype(bool), tuple(range(1, encoded.ndim))), encoded, 0.0)
