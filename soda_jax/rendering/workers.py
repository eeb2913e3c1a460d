"""Rendering in several processes, none of which can take the others down."""

import collections
import dataclasses
import multiprocessing
import pathlib
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

from soda_jax.rendering.blender import BlenderRenderer
from soda_jax.rendering.catalogue import Model
from soda_jax.rendering.errors import MeshError, RendererError
from soda_jax.rendering.renderer import Renderer
from soda_jax.rendering.views import Protocol, is_complete, render_object

CRASHED = "the process that rendered it died (out of memory, or a crash of OpenGL)"
# A worker process keeps its renderer from object to object.
_renderer: Renderer | BlenderRenderer | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """What all objects have in common.

    Attributes:
        meshes: folder of the models.
        out: folder of the renders.
        protocol: how objects are seen.
    """

    meshes: pathlib.Path
    out: pathlib.Path
    protocol: Protocol


def render_in_worker(job: Job, model: Model) -> str | None:
    """Renders one object in a worker process, unless its views exist; the reason if that is impossible."""
    global _renderer
    if is_complete(job.out, model.name):
        return None
    if _renderer is None:
        _renderer = job.protocol.make_renderer()
    try:
        render_object(job.meshes, model, job.out, job.protocol, _renderer)
    except MeshError as error:
        return str(error)
    except (OSError, RendererError):
        raise  # Not the model's fault: the others would fail too.
    except Exception as error:
        _renderer = None  # The context may be in any state.
        return f"cannot be drawn ({type(error).__name__}: {error})"
    return None


def render_objects(
    job: Job,
    models: list[Model],
    workers: int,
    render: Callable[[Job, Model], str | None] = render_in_worker,
) -> Iterator[tuple[Model, str | None]]:
    """Renders the models in `workers` processes.

    Args:
        render: what a process does with one model.

    Yields:
        Each model when it is done, with None, or with the reason why it could not be rendered.

    Raises:
        RendererError: no process can draw at all.
        OSError: `job.out` cannot be written.
    """
    waiting, suspects = collections.deque(models), collections.deque()
    while waiting or suspects:
        # When a process dies its pool ends. What was in flight is then tried again one by one.
        alone = bool(suspects)
        queue, width = (suspects, 1) if alone else (waiting, workers)
        in_flight: dict[futures.Future, Model] = {}
        with futures.ProcessPoolExecutor(width, multiprocessing.get_context("spawn")) as pool:
            try:
                while queue or in_flight:
                    while queue and len(in_flight) < width:
                        model = queue.popleft()
                        in_flight[pool.submit(render, job, model)] = model
                    finished, _ = futures.wait(in_flight, return_when=futures.FIRST_COMPLETED)
                    for future in finished:
                        reason = future.result()
                        yield in_flight.pop(future), reason
            except BrokenProcessPool:
                if alone:
                    yield from ((model, CRASHED) for model in in_flight.values())
                else:
                    suspects.extend(in_flight.values())
