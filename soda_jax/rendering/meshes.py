"""Textured meshes from OBJ, glTF and PLY files, ready to be drawn: triangles, normals, colours, z up."""

import dataclasses
import pathlib

import numpy as np
from PIL import Image

from soda_jax.rendering.errors import INSTALL, MeshError, RendererError

EXTENSIONS = (".glb", ".gltf", ".obj", ".ply")  # by how surely textures and materials come along
UPS = ("auto", "y", "z")
# Faces that meet at a smaller angle are shaded as one smooth surface.
_CREASE_COSINE = np.cos(np.deg2rad(40))
_GREY = (200, 200, 200, 255)
_MAX_TEXTURE = 1024


@dataclasses.dataclass(frozen=True)
class Part:
    """Triangles of one material, corner by corner.

    Attributes:
        positions: float32 [F, 3, 3].
        normals: float32 [F, 3, 3], unit length, on the side that the corners run counter-clockwise.
        colours: float32 [F, 3, 4], linear RGB and alpha, multiplied with the texture; None for `colour`.
        colour: linear RGB and alpha of the whole part, multiplied with the texture.
        uv: float32 [F, 3, 2], v upwards; None without a texture.
        texture: sRGB image, RGB or RGBA; None for one colour.
        roughness: 0 mirror .. 1 matt.
        metallic: 0 or 1, or between.
    """

    positions: np.ndarray
    normals: np.ndarray
    colour: tuple[float, float, float, float]
    colours: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: Image.Image | None = None
    roughness: float = 1.0
    metallic: float = 0.0

    @property
    def transparent(self) -> bool:
        """Whether anything behind the part shows through."""
        if self.colour[3] < 1 or (self.colours is not None and self.colours[..., 3].min() < 1):
            return True
        return self.texture is not None and self.texture.mode == "RGBA"


def load_model(path: pathlib.Path, *, up: str = "auto", radius: float = 1.0) -> list[Part]:
    """Reads a model, turns it upright and fits it into a sphere around the origin.

    The middle of the bounding box comes to the origin, and the farthest vertex to distance `radius`.

    Args:
        up: axis that points up in the file: "y" (what OBJ and glTF files mostly have), "z", or
            "auto": y for OBJ and glTF, z for PLY.

    Raises:
        MeshError: the file cannot be read, or has no surface.
        RendererError: trimesh is missing.
    """
    if up not in UPS:
        raise ValueError(f"up={up!r} is unknown; choose one of {', '.join(UPS)}.")
    try:
        import trimesh
    except ImportError as error:
        raise RendererError(f"cannot read models ({error}); {INSTALL}.") from error
    try:
        # OBJ textures are looked up beside the file by trimesh's default resolver.
        scene = trimesh.load_scene(path, process=False)
        parts = [part for mesh in scene.dump(concatenate=False) for part in _parts(mesh)]
    # trimesh's readers raise nearly anything on damaged files.
    except Exception as error:
        raise MeshError(f"cannot be read ({type(error).__name__}: {error})") from error
    if not parts:
        raise MeshError("has no faces")
    upright = up == "z" or (up == "auto" and path.suffix.lower() == ".ply")
    return _fitted(parts, upright, radius)


def _parts(mesh) -> list[Part]:
    """The drawable triangles of a trimesh geometry; none for points and lines."""
    if getattr(mesh, "faces", None) is None or not len(mesh.faces):
        return []
    triangles = np.asarray(mesh.triangles, np.float64)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    area = np.linalg.norm(normals, axis=-1)
    finite = np.isfinite(triangles).all((1, 2))
    kept = finite & (area > 1e-12 * area[finite].max(initial=0))
    if not kept.any():
        return []
    faces, triangles = np.asarray(mesh.faces)[kept], triangles[kept]
    corner_normals = crease_normals(triangles, _CREASE_COSINE)
    look = _appearance(mesh.visual, faces, kept)
    return [Part(triangles.astype(np.float32), corner_normals.astype(np.float32), **look)]


def crease_normals(triangles: np.ndarray, crease_cosine: float) -> np.ndarray:
    """Unit normals [F, 3, 3] at the corners of triangles [F, 3, 3].

    A corner's normal is the mean, weighted by area, over the faces that share its position and
    whose normals differ from its own face's by less than the crease angle: smooth surfaces come out
    smooth and edges sharp, across seams of the texture too.
    """
    weighted = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    unit = weighted / np.linalg.norm(weighted, axis=-1, keepdims=True)
    _, vertex = np.unique(triangles.reshape(-1, 3).round(7), axis=0, return_inverse=True)
    vertex = vertex.ravel()
    order = np.argsort(vertex, kind="stable")  # Corners grouped by the position that they share.
    counts = np.bincount(vertex)
    first = np.cumsum(counts) - counts
    # All pairs (corner, corner at the same position).
    neighbours = counts[vertex]
    corner = np.repeat(np.arange(len(vertex)), neighbours)
    place = np.arange(len(corner)) - np.repeat(np.cumsum(neighbours) - neighbours, neighbours)
    other = order[first[vertex[corner]] + place] // 3
    smooth = np.einsum("ij,ij->i", unit[corner // 3], unit[other]) > crease_cosine
    smooth |= corner // 3 == other
    corner, other = corner[smooth], other[smooth]
    normals = np.stack([np.bincount(corner, weighted[other, axis], len(vertex)) for axis in range(3)], -1)
    return (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).reshape(-1, 3, 3)


def _appearance(visual, faces: np.ndarray, kept: np.ndarray) -> dict:
    """Colours, texture and finish of the faces that are kept, as fields of `Part`."""
    material = getattr(visual, "material", None)
    if material is None:
        if visual.kind == "vertex":
            return {"colour": (1.0, 1.0, 1.0, 1.0), "colours": _linear(np.asarray(visual.vertex_colors)[faces])}
        if visual.kind == "face":
            colours = _linear(np.asarray(visual.face_colors)[kept])
            return {"colour": (1.0, 1.0, 1.0, 1.0), "colours": np.repeat(colours[:, None], 3, axis=1)}
        return {"colour": tuple(_linear(np.array(_GREY)).tolist())}
    look = _pbr(material) if hasattr(material, "baseColorFactor") else _phong(material)
    if look["texture"] is not None and visual.uv is not None:
        look["uv"] = np.asarray(visual.uv, np.float32)[faces][..., :2]
        if np.isfinite(look["uv"]).all():
            return look
    return look | {"texture": None, "uv": None}


def _phong(material) -> dict:
    """An MTL material. A texture replaces the diffuse colour, as in Blender's importer.

    Many exporters write a meaningless colour beside a texture, which would darken it.
    """
    texture = _texture(getattr(material, "image", None))
    options = material.kwargs
    alpha = _number(options.get("d"), 1.0) * (1 - _number(options.get("tr"), 0.0))
    diffuse = np.array([255, 255, 255, 255]) if texture else np.asarray(material.diffuse)
    shininess, specular = _number(options.get("ns"), 0.0), options.get("ks")
    glossy = specular is not None and np.max(specular) > 0.05
    return {
        "colour": (*_linear(diffuse)[:3].tolist(), float(np.clip(alpha, 0, 1))),
        "texture": texture,
        # Blinn-Phong's exponent as the roughness of a microfacet model of equal width.
        "roughness": float(np.clip((2 / (max(shininess, 0) + 2)) ** 0.25, 0.3, 1)) if glossy else 1.0,
    }


def _pbr(material) -> dict:
    """A glTF material: factors are linear and multiply the texture."""
    factor = material.baseColorFactor
    colour = np.ones(4) if factor is None else np.asarray(factor, np.float64).copy()
    if np.issubdtype(np.asarray(factor).dtype, np.integer):
        colour /= 255  # trimesh keeps the factor, linear by glTF's definition, in eight bits.
    if material.alphaMode in (None, "OPAQUE"):
        colour[3] = 1.0
    texture = _texture(material.baseColorTexture)
    if texture is not None and material.alphaMode in (None, "OPAQUE"):
        texture = texture.convert("RGB")
    # Without a picture of the surroundings to mirror, a metal would be black.
    metallic = 0.0 if material.metallicFactor is None else 0.5 * float(material.metallicFactor)
    roughness = 0.8 if material.roughnessFactor is None else float(material.roughnessFactor)
    return {
        "colour": tuple(colour.tolist()),
        "texture": texture,
        "roughness": float(np.clip(roughness, 0.3, 1)),
        "metallic": metallic,
    }


def _texture(image: Image.Image | None) -> Image.Image | None:
    """The image as RGB, or as RGBA if any pixel is transparent; at most `_MAX_TEXTURE` a side."""
    if image is None:
        return None
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode == "RGBA" and image.getchannel("A").getextrema()[0] == 255:
        image = image.convert("RGB")
    image.thumbnail((_MAX_TEXTURE, _MAX_TEXTURE))
    return image


def _number(value, default: float) -> float:
    """The last number of an MTL entry, which trimesh gives as a float or a list of words."""
    try:
        return float(value[-1] if isinstance(value, list) else value)
    except (TypeError, ValueError):
        return default


def _linear(colour: np.ndarray) -> np.ndarray:
    """float32 linear RGB(A) in 0..1 of sRGB values 0..255; alpha is only scaled."""
    values = np.asarray(colour, np.float32) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear[..., 3:] = values[..., 3:]
    return linear.astype(np.float32)


def _fitted(parts: list[Part], upright: bool, radius: float) -> list[Part]:
    """Turns y to z unless already upright, centres the bounding box and scales to `radius`."""
    turn = np.eye(3) if upright else np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    points = np.concatenate([part.positions.reshape(-1, 3) for part in parts]).astype(np.float64)
    centre = (points.min(0) + points.max(0)) / 2
    extent = np.linalg.norm(points - centre, axis=1).max()
    if not extent > 0:
        raise MeshError("has no extent")
    scale = radius / extent
    return [
        dataclasses.replace(
            part,
            positions=((part.positions - centre) * scale @ turn.T).astype(np.float32),
            normals=(part.normals @ turn.T).astype(np.float32),
        )
        for part in parts
    ]
