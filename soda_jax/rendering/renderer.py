"""Draws a model with pyrender, without a window: EGL takes a GPU, or Mesa's software renderer."""

import ctypes
import os

import cv2
import numpy as np

from soda_jax.data import cameras
from soda_jax.rendering.errors import INSTALL, RendererError
from soda_jax.rendering.meshes import Part

# Fixed in the world, so that all views of an object show it in the same light: (azimuth, altitude)
# in degrees of where it shines from, and the radiance that a matt white surface facing it returns.
LIGHTS = (((-35, 55), 0.50), ((60, 25), 0.25), ((180, 30), 0.25), ((0, 89), 0.15))
AMBIENT = 0.38
_CTYPES_ARGUMENT = f"{type(ctypes.byref(ctypes.c_int())).__module__}.CArgObject"


def import_pyrender():
    """pyrender, drawing by EGL.

    Raises:
        RendererError: pyrender or the OpenGL libraries are missing.
    """
    os.environ["PYOPENGL_PLATFORM"] = "egl"
    # pyrender 0.1.45 uses this name, which NumPy 2 dropped.
    if not hasattr(np, "infty"):
        np.infty = np.inf
    try:
        from OpenGL.plugins import FormatHandler

        # pyrender wants PyOpenGL 3.1.0, which knows the arguments that ctypes makes by a name that
        # they lost in Python 3.12.
        known = FormatHandler.by_name("ctypesparameter").check
        if _CTYPES_ARGUMENT not in known:
            known.append(_CTYPES_ARGUMENT)
        import pyrender
    except Exception as error:
        raise RendererError(f"cannot load pyrender ({type(error).__name__}: {error}); {INSTALL}.") from error
    return pyrender


class Renderer:
    """Draws square images of one model at a time, on white.

    A pixel is the mean of supersample**2 samples, on top of the driver's own multi-sampling.

    Args:
        resolution: side of the images.
        supersample: samples per pixel and axis.

    Raises:
        RendererError: no OpenGL context can be made.
    """

    def __init__(self, resolution: int, *, supersample: int = 2):
        self._pyrender = import_pyrender()
        self._resolution, self._supersample = resolution, supersample
        side = resolution * supersample
        try:
            self._context = self._pyrender.OffscreenRenderer(side, side)
        except Exception as error:
            raise RendererError(
                f"cannot open an OpenGL context ({type(error).__name__}: {error}); {INSTALL}, or choose another "
                "graphics device with EGL_DEVICE_ID=1, 2, ..."
            ) from error
        self._scene = None  # Of the model; `load` makes it.

    def load(self, parts: list[Part]) -> None:
        """Takes up the model that `render` shows from now on."""
        pyrender = self._pyrender
        self._transparent = [(part, self._material(part)) for part in parts if part.transparent]
        self._transparent_node = None
        scene = pyrender.Scene(bg_color=(1.0, 1.0, 1.0, 1.0), ambient_light=np.full(3, AMBIENT))
        solid = [part for part in parts if not part.transparent]
        primitives = [
            self._primitive(part, self._material(part), flipped) for part in solid for flipped in (False, True)
        ]
        if primitives:
            scene.add(pyrender.Mesh(primitives))
        for (azimuth, altitude), radiance in LIGHTS:
            light = pyrender.DirectionalLight(color=np.ones(3), intensity=np.pi * radiance)
            scene.add(light, pose=cameras.orbit(np.deg2rad(azimuth), np.deg2rad(altitude), 1.0))
        self._extent = max(float(np.linalg.norm(part.positions, axis=-1).max()) for part in parts)
        self._scene = scene

    def render(self, pose: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """The model seen by a camera.

        Args:
            pose: camera-to-world [4, 4].
            intrinsics: (fx, fy, cx, cy) in pixels of the image.

        Returns:
            uint8 [resolution, resolution, 3].
        """
        pyrender, scene = self._pyrender, self._scene
        pose = np.asarray(pose, np.float64)
        distance = float(np.linalg.norm(pose[:3, 3]))
        fx, fy, cx, cy = np.asarray(intrinsics, np.float64) * self._supersample
        near = max(distance - 1.01 * self._extent, 0.01 * self._extent)
        camera = pyrender.IntrinsicsCamera(fx, fy, cx, cy, znear=near, zfar=distance + 1.01 * self._extent)
        camera_node = scene.add(camera, pose=pose)
        self._draw_far_to_near(pose[:3, 3])
        try:
            image, _ = self._context.render(scene, pyrender.RenderFlags.NONE)
        finally:
            scene.remove_node(camera_node)
        if self._supersample == 1:
            return np.ascontiguousarray(image)
        return cv2.resize(image, (self._resolution, self._resolution), interpolation=cv2.INTER_AREA)

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._context.delete()

    def _draw_far_to_near(self, eye: np.ndarray) -> None:
        """Puts the transparent triangles into the scene in the order in which they must be blended.

        The half of a part that is seen from behind goes apart from the half seen from the front:
        a bottle's far wall, what it holds, its near wall.
        """
        if self._transparent_node is not None:
            self._scene.remove_node(self._transparent_node)
            self._transparent_node = None
        halves = []
        for part, material in self._transparent:
            sight = part.positions.mean(1) - eye
            edges = part.positions[:, 1:] - part.positions[:, :1]
            behind = np.einsum("ij,ij->i", np.cross(edges[:, 0], edges[:, 1]), sight) > 0
            depth = np.linalg.norm(sight, axis=-1)
            for flipped in (False, True):
                members = np.flatnonzero(behind == flipped)
                if len(members):
                    order = members[np.argsort(-depth[members])]
                    halves.append((depth[members].mean(), part, material, flipped, order))
        if halves:
            # In one mesh: pyrender keeps the order within a mesh, not between meshes.
            primitives = [self._primitive(*half) for _, *half in sorted(halves, key=lambda half: -half[0])]
            self._transparent_node = self._scene.add(self._pyrender.Mesh(primitives))

    def _material(self, part: Part):
        texture = None
        if part.texture is not None:
            # Four channels: rows of three would have to be padded to whole words.
            pixels = np.asarray(part.texture.convert("RGBA"))
            texture = self._pyrender.Texture(source=pixels, source_channels="RGBA")
        return self._pyrender.MetallicRoughnessMaterial(
            alphaMode="BLEND" if part.transparent else "OPAQUE",
            baseColorFactor=part.colour,
            baseColorTexture=texture,
            metallicFactor=part.metallic,
            roughnessFactor=part.roughness,
        )

    def _primitive(self, part: Part, material, flipped: bool, order: np.ndarray | slice = slice(None)):
        """One side of the part's triangles; their backs have normals of their own.

        Lighting follows the normal, not the side that is seen, and the files' triangles face either
        way: each is drawn as two, of which culling keeps one.
        """
        turned = [0, 2, 1] if flipped else [0, 1, 2]

        def corners(values):
            return None if values is None else values[order][:, turned].reshape(-1, values.shape[-1])

        normals = corners(part.normals)
        return self._pyrender.Primitive(
            positions=corners(part.positions),
            normals=-normals if flipped else normals,
            texcoord_0=corners(part.uv),
            color_0=corners(part.colours),
            material=material,
        )
