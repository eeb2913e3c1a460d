"""Renders textured models (OBJ, GLB, glTF, PLY) into the multi-view folder that configs/multiview.py trains on.

    python -m soda_jax.tools.render_objects --meshes=DIR --out=DIR --views=120 --resolution=256

Needs `pip install 'soda-jax[render]'` and OpenGL by EGL, which takes neither a screen nor a GPU (Debian and Ubuntu:
`apt-get install libegl1 libgl1-mesa-dri`; EGL_DEVICE_ID picks one of several GPUs). A run that is interrupted goes on
where it stopped. --out gets, for every object, a folder with the views as PNG on white and `transforms.json` (exact
cameras, NeRF/Blender convention; the class as "category"), and beside them:

    splits.json        train, validation, test (80/10/10 by a hash of the object's name)
    CREDITS.md         who made each model, under which licence; credits.json is the same for programs
    licences/          the licence files found nearest to the models
    skipped.txt        models that could not be rendered, and why
    contact_sheet.png  four views of up to 60 objects
    protocol.json      the settings of the run

Objects are turned upright (z up), centred at the middle of their bounding box and scaled to fit a sphere of radius
--size. The lights stay fixed to the object: four directional ones and an ambient one, without shadows. The paper
renders with Blender, and so does --renderer=blender (path tracing, with shadows; several seconds an image; needs
`pip install 'bpy>=4.2,<4.6'` on Python 3.11). A `manifest.json` in --meshes, a list of {"path", "name", "category",
"creator", "library", "licence"}, says which models to use; otherwise all are.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time

from absl import app, flags
from tqdm import tqdm

from soda_jax.cli import parse_flags
from soda_jax.rendering.catalogue import find_models
from soda_jax.rendering.errors import RendererError
from soda_jax.rendering.meshes import UPS
from soda_jax.rendering.summary import write_summary
from soda_jax.rendering.views import RENDERERS, Protocol, is_complete, remove_partial
from soda_jax.rendering.workers import Job, render_objects

PROTOCOL = "protocol.json"


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        rendered: number of objects rendered now.
        present: number of objects that were there before.
        skipped: why, by name of the models that could not be rendered.
        seconds: that it took.
    """

    rendered: int
    present: int
    skipped: dict[str, str]
    seconds: float


def render_folder(
    meshes: str | os.PathLike,
    out: str | os.PathLike,
    protocol: Protocol,
    *,
    workers: int = 1,
    limit: int = 0,
    folder_categories: bool = False,
) -> Report:
    """Renders the models of a folder, see the module's docstring.

    Args:
        workers: processes.
        limit: at most this many models, spread evenly over all; 0 is all.
        folder_categories: without a manifest, the first folder below `meshes` is a model's class.

    Raises:
        ValueError: no models, or `out` holds renders with other settings.
        RendererError: OpenGL or its Python packages are missing.
    """
    if workers < 1 or limit < 0:
        raise ValueError(f"workers={workers} must be at least 1 and limit={limit} at least 0.")
    meshes, out = pathlib.Path(meshes).expanduser(), pathlib.Path(out).expanduser()
    every = find_models(meshes, folder_categories=folder_categories)
    models = [every[i * len(every) // limit] for i in range(limit)] if 0 < limit < len(every) else every
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, protocol)
    remove_partial(out)
    missing = [model for model in models if not is_complete(out, model.name)]
    skipped, start = {}, time.monotonic()
    for model, reason in tqdm(
        render_objects(Job(meshes, out, protocol), missing, workers), total=len(missing), unit="object"
    ):
        if reason is not None:
            skipped[model.name] = reason
    write_summary(meshes, out, every, skipped)
    rendered = len(missing) - len(skipped)
    return Report(rendered, len(models) - len(missing), skipped, time.monotonic() - start)


def _claim(out: pathlib.Path, protocol: Protocol) -> None:
    """Notes the settings in `out`, or makes sure that they are those noted there."""
    settings = json.loads(json.dumps(dataclasses.asdict(protocol)))
    file = out / PROTOCOL
    if file.exists():
        # A setting that came later had its default before.
        noted = dataclasses.asdict(Protocol()) | json.loads(file.read_text(encoding="utf-8"))
        changed = [f"{key}={noted[key]!r}" for key in settings if noted[key] != settings[key]]
        if changed:
            raise ValueError(
                f"out={str(out)!r} holds renders with {', '.join(changed)}; use the same settings, or another folder."
            )
    file.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _define_flags() -> None:
    flags.DEFINE_string("meshes", None, "Folder of the models.", required=True)
    flags.DEFINE_string("out", None, "Folder of the renders.", required=True)
    flags.DEFINE_integer("views", 120, "Views per object.", lower_bound=1)
    flags.DEFINE_integer("resolution", 256, "Side of the images, in pixels.", lower_bound=8)
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the cameras.")
    flags.DEFINE_integer("supersample", 2, "Samples per pixel and axis, on top of multi-sampling.", lower_bound=1)
    flags.DEFINE_list("radius", ["3", "4"], "Nearest and farthest camera, in world units.")
    flags.DEFINE_list("altitude", ["0", "89"], "Lowest and highest camera, in degrees above the horizon.")
    flags.DEFINE_float("field_of_view", 40.0, "Of the cameras, in degrees.")
    flags.DEFINE_float("size", 1.0, "Radius of the sphere that an object is fitted into.")
    flags.DEFINE_enum("up", "auto", UPS, "Axis that points up in the files; auto: y for OBJ and glTF, z for PLY.")
    flags.DEFINE_enum("renderer", "pyrender", RENDERERS, "OpenGL, or Blender's path tracer (bpy), much slower.")
    flags.DEFINE_integer("limit", 0, "Render at most so many models, spread over all; 0 is all.", lower_bound=0)
    flags.DEFINE_boolean("folder_categories", False, "Without a manifest, the first folder is a model's class.")


def _pair(name: str, values: list[str]) -> tuple[float, float]:
    try:
        low, high = map(float, values)
    except ValueError:
        raise ValueError(f"--{name}={','.join(values)} must be two numbers, LOW,HIGH.") from None
    return low, high


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    try:
        protocol = Protocol(
            num_views=given.views,
            resolution=given.resolution,
            radii=_pair("radius", given.radius),
            altitudes=_pair("altitude", given.altitude),
            field_of_view=given.field_of_view,
            size=given.size,
            supersample=given.supersample,
            up=given.up,
            seed=given.seed,
            renderer=given.renderer,
        )
        if protocol.cuts_objects:
            print("warning: the nearest cameras do not see all of an object; raise --radius or --field_of_view")
        report = render_folder(
            given.meshes,
            given.out,
            protocol,
            workers=given.workers,
            limit=given.limit,
            folder_categories=given.folder_categories,
        )
    except (ValueError, OSError, RendererError) as error:
        if os.environ.get("SODA_JAX_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
    views = report.rendered * given.views
    print(
        f"rendered {report.rendered} objects, {views} views, in {report.seconds:.0f} s "
        f"({views / max(report.seconds, 1e-9):.1f} views/s); {report.present} were there before"
    )
    if report.skipped:
        print(f"skipped {len(report.skipped)} models, see {os.path.join(given.out, 'skipped.txt')}")


if __name__ == "__main__":
    _define_flags()
    app.run(main, flags_parser=parse_flags)
