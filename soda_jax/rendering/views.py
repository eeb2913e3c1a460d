"""The protocol of the renders, and an object's views as a folder in the NeRF/Blender convention."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil

import cv2
import numpy as np

from soda_jax.data import cameras
from soda_jax.rendering.blender import BlenderRenderer
from soda_jax.rendering.catalogue import Model
from soda_jax.rendering.errors import MeshError
from soda_jax.rendering.meshes import load_model
from soda_jax.rendering.renderer import Renderer

TRANSFORMS = "transforms.json"
RENDERERS = ("pyrender", "blender")
_PARTIAL = ".partial-"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How every object is seen.

    The paper's protocol for ShapeNet and GSO (appendix D.1): cameras at random on the upper
    hemisphere, by azimuth, altitude and radius. Its ranges are not in the text that we have; these
    keep the whole object in the picture.

    Attributes:
        num_views: cameras per object.
        resolution: side of the images, in pixels.
        radii: range of the cameras' distance from the object's centre, in world units.
        altitudes: range of their height above the horizon, in degrees.
        field_of_view: of the cameras, in degrees.
        size: radius of the sphere around the origin that the object is fitted into.
        supersample: samples per pixel and axis.
        up: axis that points up in the files, see `load_model`.
        seed: of the cameras; each object's follow from it and its name.
        renderer: "pyrender" (OpenGL) or "blender" (path tracing, as the paper; much slower).
    """

    num_views: int = 120
    resolution: int = 256
    radii: tuple[float, float] = (3.0, 4.0)
    altitudes: tuple[float, float] = (0.0, 89.0)
    field_of_view: float = 40.0
    size: float = 1.0
    supersample: int = 2
    up: str = "auto"
    seed: int = 0
    renderer: str = "pyrender"

    def __post_init__(self):
        for field in ("num_views", "resolution", "supersample"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.renderer not in RENDERERS:
            raise ValueError(f"renderer={self.renderer!r} is unknown; choose one of {', '.join(RENDERERS)}.")
        if not 0 < self.field_of_view < 170:
            raise ValueError(f"field_of_view={self.field_of_view} must lie between 0 and 170 degrees.")
        low, high = self.altitudes
        if not -89.9 <= low <= high <= 89.9:
            raise ValueError(f"altitudes={self.altitudes} must be (low, high) within -89.9..89.9 degrees.")
        if not 0 < self.size < self.radii[0] <= self.radii[1]:
            raise ValueError(
                f"radii={self.radii} must be (low, high), beyond the object's radius size={self.size} > 0."
            )

    @property
    def cuts_objects(self) -> bool:
        """Whether the nearest cameras may fail to see all of an object."""
        return self.radii[0] * np.sin(np.deg2rad(self.field_of_view) / 2) < self.size

    def make_renderer(self) -> Renderer | BlenderRenderer:
        """RendererError if it cannot draw here."""
        kind = BlenderRenderer if self.renderer == "blender" else Renderer
        return kind(self.resolution, supersample=self.supersample)

    def intrinsics(self) -> np.ndarray:
        """(fx, fy, cx, cy) of all views, in pixels."""
        return cameras.centred_intrinsics(self.resolution, np.deg2rad(self.field_of_view)).astype(np.float64)

    def poses(self, name: str) -> np.ndarray:
        """Camera-to-world float64 [num_views, 4, 4] of an object; fewer views are the first of more."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))
        draws = rng.random((self.num_views, 3))
        return cameras.hemisphere(draws, tuple(np.deg2rad(self.altitudes)), self.radii)


def is_complete(out: pathlib.Path, name: str) -> bool:
    """Whether an object's views lie in `out`."""
    return (out / name / TRANSFORMS).exists()


def remove_partial(out: pathlib.Path) -> None:
    """Deletes what an interrupted run left."""
    for folder in out.glob(f"{_PARTIAL}*"):
        shutil.rmtree(folder, ignore_errors=True)


def render_object(
    meshes: pathlib.Path, model: Model, out: pathlib.Path, protocol: Protocol, renderer: Renderer | BlenderRenderer
) -> None:
    """Renders one object into `out`/`model.name`, which afterwards is complete or absent.

    Raises:
        MeshError: the model is broken, or nothing of it can be seen.
    """
    renderer.load(load_model(meshes / model.path, up=protocol.up, radius=protocol.size))
    intrinsics, poses = protocol.intrinsics(), protocol.poses(model.name)
    images = [renderer.render(pose, intrinsics) for pose in poses]
    if all(image.min() == 255 for image in images):
        raise MeshError("renders blank: nothing of it is visible")
    partial = out / f"{_PARTIAL}{model.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    frames = []
    for number, (image, pose) in enumerate(zip(images, poses, strict=True)):
        file = f"{number:03d}.png"
        if not cv2.imwrite(str(partial / file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise OSError(f"cannot write {partial / file}")
        frames.append({"file_path": file, "transform_matrix": pose.tolist()})
    description = _transforms(model, protocol, intrinsics, frames)
    (partial / TRANSFORMS).write_text(json.dumps(description, indent=1), encoding="utf-8")
    os.replace(partial, out / model.name)


def _transforms(model: Model, protocol: Protocol, intrinsics: np.ndarray, frames: list[dict]) -> dict:
    fx, fy, cx, cy = intrinsics.tolist()
    described = {"title": model.title, "creator": model.creator, "library": model.library, "mesh": model.path}
    return {
        "camera_angle_x": float(np.deg2rad(protocol.field_of_view)),
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
        "w": protocol.resolution,
        "h": protocol.resolution,
        **({"category": model.category} if model.category else {}),
        **{key: value for key, value in described.items() if value},
        "frames": frames,
    }
