"""What encoding and sampling ask of chips that need not be here: the part of `--mode=plan` beside the training step."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tabulate import tabulate

from soda_jax import config as config_lib
from soda_jax import inputs
from soda_jax.diffusion.sampler import Masks
from soda_jax.inference.engine import Inference
from soda_jax.inference.sampling import Condition
from soda_jax.models.capabilities import GUIDANCE, LATENT, NOISE, can
from soda_jax.parallel import sharding
from soda_jax.performance import traffic
from soda_jax.performance.describe import counted_model, model_flops
from soda_jax.performance.plan import GIB, abstract_batch, compiler_options, device_sets, roofline, write
from soda_jax.performance.traffic import Share


@dataclasses.dataclass(frozen=True)
class Call:
    """One device's part of encoding a batch, or of sampling one.

    Attributes:
      name: what it does.
      place: the topology's name.
      chip: `jax.Device.device_kind`.
      images: of the device, all of whose source views are encoded or of which each is sampled.
      arguments: bytes of the variables and of what comes with a call.
      temporaries: bytes beside arguments and results.
      total: bytes at the peak.
      flops: the device's arithmetic.
      traffic: kernels and bytes by source.
      seconds: that compiling took.
    """

    name: str
    place: str
    chip: str
    images: int
    arguments: int
    temporaries: int
    total: int
    flops: float
    traffic: tuple[Share, ...]
    seconds: float


def plan_inference(
    config: ConfigDict,
    device_counts: Sequence[int],
    names: Sequence[str] = (),
    path: str | None = None,
    *,
    quickly: bool = False,
) -> list[Call]:
    """Prints what encoding `config.eval.batch_size` and sampling `config.sampling.batch_size` images takes.

    Arguments and errors are those of `plan.plan`.
    """
    config_lib.validate(config, reads_data=False)  # training's batch need not fit the devices here
    meshes = {place: sharding.make_mesh(devices) for place, devices in device_sets(device_counts, names).items()}
    calls = measure(config, meshes, quickly)
    print(report(calls))
    write(path, [dataclasses.asdict(call) for call in calls])
    return calls


def measure(config: ConfigDict, meshes: Mapping[str, Mesh], quickly: bool = False) -> list[Call]:
    """Compiles for each mesh, by its name, what a model can do of both."""
    model, variables = counted_model(config)
    flops = model_flops(model, variables, config.data)
    return [
        _measured(name, place, mesh, lowered, images, cost, quickly)
        for place, mesh in meshes.items()
        for name, lowered, images, cost in _calls(Inference(config, mesh), flops)
    ]


def _calls(inference: Inference, flops: Mapping[str, float]) -> list[tuple[str, Any, int, float]]:
    """(name, the lowered call, its images, the FLOPs of one of them) of all that the model can do."""
    config, found = inference.config, []
    if can(inference.model, LATENT):
        size = inference.eval_batch_size
        lowered = inference.lower_encoder(_sources(inference, size))
        found.append(("encode", lowered, size, flops["encode"] * config.data.num_sources))
    if can(inference.model, NOISE):
        size, scale = inference.sample_batch_size, config.sampling.guidance_scale
        guided = can(inference.model, GUIDANCE) and scale != 1.0
        walk = inference.sampler(guided=guided).lower(*_walk_arguments(inference, size))
        calls = config.sampling.num_steps * (2 if guided else 1)
        name = f"sample, {config.sampling.num_steps} steps{', guided' * guided}"
        found.append((name, walk, size, flops["generate"] * calls))
    return found


def _sources(inference: Inference, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    batch = abstract_batch(inference.config, inference.mesh, size)
    return {key: value for key, value in batch.items() if key.startswith("source")}


def _walk_arguments(inference: Inference, size: int) -> tuple[Any, ...]:
    """The shapes of what the sampler takes for `size` images, split over the devices."""
    model, pose = inference.model, inference.model.pose

    def arguments() -> tuple[Any, ...]:
        z = jnp.zeros((size, *inference.guide_shape))
        sections = jnp.ones((size, model.num_sections))
        return jnp.arange(size), z, sections, jnp.ones(size)

    indices, z, sections, shown = jax.eval_shape(arguments)
    condition, masks = z, sections
    if pose is not None:
        fields = abstract_batch(inference.config, inference.mesh, size)
        condition = Condition(z, jax.eval_shape(lambda fields: inputs.target_camera(fields, pose), fields))
        masks = Masks(sections, shown)
    split, whole = sharding.batch_sharding(inference.mesh), sharding.replicated(inference.mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (
        inference.abstract_variables(),
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole),
        *jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split), (indices, condition, masks)
        ),
        jax.ShapeDtypeStruct((), jnp.float32, sharding=whole),
    )


def _measured(name: str, place: str, mesh: Mesh, lowered: Any, images: int, flops: float, quickly: bool) -> Call:
    begin, device = time.perf_counter(), mesh.devices.flat[0]
    print(f"compiling for {place}: {name} ...", flush=True)
    compiled = lowered.compile(compiler_options=compiler_options(device.platform, quickly))
    memory, text = compiled.memory_analysis(), compiled.as_text()
    arguments = memory.argument_size_in_bytes
    return Call(
        name=name,
        place=place,
        chip=device.device_kind,
        images=images // mesh.size,
        arguments=arguments,
        temporaries=memory.temp_size_in_bytes,
        total=arguments + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        flops=flops * images / mesh.size,
        traffic=traffic.shares(traffic.kernels(text)) if device.platform != "cpu" else (),
        seconds=time.perf_counter() - begin,
    )


def report(calls: Sequence[Call]) -> str:
    """The calls as a table."""
    headers = ["topology", "what", "images", "arguments GiB", "temporaries GiB", "peak GiB", "TFLOPs", "kernels"]
    headers += ["GB moved", "at least, ms", "in turn, ms", "images/s"]
    return "One device's part of encoding and sampling:\n" + tabulate(
        [_row(call) for call in calls], headers, disable_numparse=True, stralign="right"
    )


def _row(call: Call) -> list[Any]:
    row = [call.place, call.name, call.images]
    row += [f"{size / GIB:.2f}" for size in (call.arguments, call.temporaries, call.total)]
    row.append(f"{call.flops / 1e12:,.2f}")
    found = roofline(call.chip, call.traffic, call.flops)
    if found is None:
        return [*row, *[""] * 5]
    moved, kernels = (sum(getattr(share, key) for share in call.traffic) for key in ("moved", "kernels"))
    rates = (call.images / found[bound] for bound in ("in_turn", "at_least"))
    return [
        *row,
        f"{kernels:,}",
        f"{moved / 1e9:,.2f}",
        *(f"{found[bound] * 1e3:,.1f}" for bound in ("at_least", "in_turn")),
        " to ".join(f"{rate:,.0f}" for rate in rates),
    ]
