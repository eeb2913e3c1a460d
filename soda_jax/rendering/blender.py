"""Draws a model with Blender's path tracer: shadows and inter-reflections, at a hundredth of OpenGL's speed."""

import contextlib
import os
import pathlib
import tempfile

import cv2
import numpy as np

from soda_jax.data import cameras
from soda_jax.rendering.errors import RendererError
from soda_jax.rendering.meshes import Part
from soda_jax.rendering.renderer import AMBIENT, LIGHTS

_PATHS_PER_SAMPLE = 16
_SENSOR = 36.0


class BlenderRenderer:
    """As `Renderer`, with Cycles on the CPU by the `bpy` package; the lights are the same, and cast shadows.

    Blender has one scene per process, and so there can be one of these.

    Args:
        resolution: side of the images.
        supersample: a pixel is the mean of 16 * supersample**2 paths.

    Raises:
        RendererError: `bpy` is missing.
    """

    def __init__(self, resolution: int, *, supersample: int = 2):
        try:
            import bpy
        except ImportError as error:
            raise RendererError(
                f"cannot load Blender ({error}); `pip install 'bpy>=4.2,<4.6'`, which needs Python 3.11."
            ) from error
        self._bpy = bpy
        self._resolution = resolution
        self._samples = _PATHS_PER_SAMPLE * supersample**2
        self._folder = tempfile.TemporaryDirectory()
        self._camera = None

    def load(self, parts: list[Part]) -> None:
        """Takes up the model that `render` shows from now on."""
        bpy = self._bpy
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self._set_up(bpy.context.scene)
        for part in parts:
            bpy.context.collection.objects.link(bpy.data.objects.new("part", self._mesh(part)))
        for (azimuth, altitude), radiance in LIGHTS:
            light = bpy.data.lights.new("light", "SUN")
            light.energy = np.pi * radiance
            self._link(light, cameras.orbit(np.deg2rad(azimuth), np.deg2rad(altitude), 10.0))
        self._camera = self._link(bpy.data.cameras.new("camera"), np.eye(4))
        bpy.context.scene.camera = self._camera

    def render(self, pose: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """The model seen by a camera; arguments and result as of `Renderer.render`.

        Raises:
            ValueError: the pixels are not square, fx != fy.
        """
        fx, fy, cx, cy = np.asarray(intrinsics, np.float64)
        if not np.isclose(fx, fy, rtol=1e-6):
            raise ValueError(f"fx={fx}, fy={fy}: Blender's cameras have square pixels.")
        side, lens = self._resolution, self._camera.data
        lens.sensor_fit, lens.sensor_width, lens.lens = "HORIZONTAL", _SENSOR, fx * _SENSOR / side
        lens.shift_x, lens.shift_y = 0.5 - cx / side, cy / side - 0.5
        distance = float(np.linalg.norm(np.asarray(pose)[:3, 3]))
        lens.clip_start, lens.clip_end = 1e-3 * distance, 1e3 * distance
        self._camera.matrix_world = np.asarray(pose, np.float64).T.tolist()  # Blender reads it by columns.
        file = pathlib.Path(self._folder.name) / "image.png"
        self._bpy.context.scene.render.filepath = str(file)
        with _silenced():
            self._bpy.ops.render.render(write_still=True)
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        alpha = image[..., 3:] / 255.0
        return np.rint(image[..., 2::-1] * alpha + 255 * (1 - alpha)).astype(np.uint8)

    def close(self) -> None:
        """Deletes the temporary folder."""
        self._folder.cleanup()

    def _set_up(self, scene) -> None:
        scene.render.engine = "CYCLES"
        scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", self._samples, False
        scene.render.resolution_x = scene.render.resolution_y = self._resolution
        scene.render.resolution_percentage = 100
        scene.render.film_transparent = True
        scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
        scene.view_settings.view_transform = "Standard"
        scene.world = self._bpy.data.worlds.new("world")
        scene.world.use_nodes = True
        background = scene.world.node_tree.nodes["Background"]
        background.inputs["Color"].default_value = (1.0, 1.0, 1.0, 1.0)
        background.inputs["Strength"].default_value = AMBIENT

    def _link(self, thing, pose: np.ndarray):
        placed = self._bpy.data.objects.new(thing.name, thing)
        placed.matrix_world = pose.T.tolist()
        self._bpy.context.collection.objects.link(placed)
        return placed

    def _mesh(self, part: Part):
        count = len(part.positions)
        mesh = self._bpy.data.meshes.new("mesh")
        mesh.from_pydata(part.positions.reshape(-1, 3).tolist(), [], np.arange(3 * count).reshape(-1, 3).tolist())
        mesh.polygons.foreach_set("use_smooth", [True] * count)
        mesh.normals_split_custom_set(part.normals.reshape(-1, 3).tolist())
        if part.uv is not None:
            mesh.uv_layers.new().data.foreach_set("uv", part.uv.ravel())
        if part.colours is not None:
            colours = mesh.color_attributes.new("colour", "FLOAT_COLOR", "CORNER")
            colours.data.foreach_set("color", part.colours.ravel())
        mesh.materials.append(self._material(part))
        return mesh

    def _material(self, part: Part):
        """A Principled material; the part's colour, texture and vertex colours are multiplied."""
        material = self._bpy.data.materials.new("material")
        material.use_nodes = True
        nodes, links = material.node_tree.nodes, material.node_tree.links
        surface = nodes["Principled BSDF"]
        surface.inputs["Roughness"].default_value = part.roughness
        surface.inputs["Metallic"].default_value = part.metallic
        colour, alpha = nodes.new("ShaderNodeRGB").outputs[0], nodes.new("ShaderNodeValue").outputs[0]
        colour.default_value, alpha.default_value = (*part.colour[:3], 1.0), part.colour[3]
        factors = []
        if part.texture is not None:
            texture = nodes.new("ShaderNodeTexImage")
            texture.image = self._image(part)
            factors.append(texture)
        if part.colours is not None:
            attribute = nodes.new("ShaderNodeVertexColor")
            attribute.layer_name = "colour"
            factors.append(attribute)
        for factor in factors:
            product = nodes.new("ShaderNodeVectorMath")
            product.operation = "MULTIPLY"
            links.new(colour, product.inputs[0])
            links.new(factor.outputs["Color"], product.inputs[1])
            opacity = nodes.new("ShaderNodeMath")
            opacity.operation = "MULTIPLY"
            links.new(alpha, opacity.inputs[0])
            links.new(factor.outputs["Alpha"], opacity.inputs[1])
            colour, alpha = product.outputs[0], opacity.outputs[0]
        links.new(colour, surface.inputs["Base Color"])
        links.new(alpha, surface.inputs["Alpha"])
        return material

    def _image(self, part: Part):
        pixels = np.asarray(part.texture.convert("RGBA"), np.float32)[::-1] / 255  # Blender counts rows upwards.
        image = self._bpy.data.images.new("texture", pixels.shape[1], pixels.shape[0], alpha=True)
        image.pixels.foreach_set(pixels.ravel())
        return image


@contextlib.contextmanager
def _silenced():
    """Hides what C code prints: Blender announces every image."""
    keep = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(keep, 1)
        os.close(keep)
