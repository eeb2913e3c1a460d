"""`--mode=plan`: what a config needs on N devices, by compiling its training step for them without data or weights.

The devices are simulated CPUs, or, where libtpu is installed, TPU chips that need not be here: its compiler then says
what those chips would hold. Where the state is split (`config.train.fsdp`), an evaluation in training holds the EMA and
the probe whole on every device beside it. That counts as well, though not the activations of the evaluation itself.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tabulate import tabulate

from soda_jax import build, inputs
from soda_jax import config as config_lib
from soda_jax.data.datasets import Labels
from soda_jax.parallel import sharding
from soda_jax.performance import hlo
from soda_jax.performance.describe import counted_model, train_flops

GIB = 2**30
# Machine code for a CPU would take longer to optimise than all else, and says nothing about memory.
_QUICK_CODE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
CHIPS_GIB = (16, 32, 80)
NEGLIGIBLE_SHARE = 0.02  # of a step's memory: a smaller difference between two microbatches says nothing
USABLE = 0.9  # of a chip's memory; the rest is the runtime's, and the compiler's margin
# The dataset is not opened, so the online probe's labels are these; they make a thousandth of the model.
PROBE_LABELS = {
    "label": Labels((1000,), ("label",)),
    "attributes": Labels((2,) * 40, tuple(f"attribute {i}" for i in range(40))),
    "factors": Labels((10,) * 6, tuple(f"factor {i}" for i in range(6))),
}


@dataclasses.dataclass(frozen=True)
class Footprint:
    """One device's share of a training step, and of the evaluations between steps.

    Attributes:
      devices: of the whole run.
      microbatch: examples that a device holds at once.
      state: bytes of parameters, optimiser state, EMA and probe.
      total: bytes at the peak of a step.
      evaluation: bytes of the state and of the whole EMA and probe, which an evaluation in training gathers beside it;
        0 where the state is not split, so that nothing is gathered.
      sent: bytes of collectives that it sends in a step, around rings; None where the compiler refused the step
        because it exceeds its chip's memory.
      collectives: them by kind.
      seconds: that compiling took.
    """

    devices: int
    microbatch: int
    state: int
    total: int
    evaluation: int
    sent: float | None
    collectives: tuple[hlo.Collective, ...]
    seconds: float

    @property
    def peak(self) -> int:
        """Bytes that the device must hold at once."""
        return max(self.total, self.evaluation)


def plan(
    config: ConfigDict, device_counts: Sequence[int], topologies: Sequence[str] = (), path: str | None = None
) -> dict[str, Any]:
    """Prints what a step of `config` takes on so many devices, and the batch that fits on chips of 16, 32 and 80 GiB.

    Args:
      config: the run's; its dataset is not opened.
      device_counts: simulated CPU devices; as many as the largest must be there (`--plan_devices` sees to it).
      topologies: TPU slices instead, as "v5e:8x8"; needs libtpu (pip install 'soda-jax[tpu]').
      path: of a JSON file with the same figures; None writes none.

    Returns:
      The figures: `steps` (a `Footprint` for each number of devices), `fixed_bytes` and `bytes_per_example` (the line
      through the memory of steps; where `is_bound`, 0 and an upper bound), `fits` ({devices: {GiB: {microbatch,
      grad_accum_steps}}}, as many at least where `is_bound`), `flops_per_example`.

    Raises:
      ConfigError: a config that cannot run on some of the devices.
      ValueError: devices or a topology that are not there.
    """
    sets = _device_sets(device_counts, topologies)
    meshes = [sharding.make_mesh(devices, config.train.fsdp) for devices in sets]
    for mesh in meshes:
        config_lib.validate(config, mesh.size)
    footprints = []
    for mesh in meshes:
        print(f"compiling for {mesh.size} devices ...", flush=True)
        found = measure(config, mesh)
        print(
            f"  {found.seconds:.0f} s: {found.peak / GIB:.2f} GiB a device at {found.microbatch} examples", flush=True
        )
        footprints.append(found)
    samples = list(footprints)
    if len({sample.microbatch for sample in samples}) == 1:
        # One more point, at half or twice the microbatch, tells what an example costs.
        half = config.copy_and_resolve_references()
        with half.unlocked():
            factor = (1, 2) if samples[0].microbatch % 2 == 0 else (2, 1)
            half.train.batch_size = config.train.batch_size * factor[0] // factor[1]
        samples.append(measure(half, meshes[0]))
    figures = _figures(config, footprints, samples)
    print(report(config, figures))
    if path is not None:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(json.dumps(figures, indent=1) + "\n")
        print(f"written to {path}")
    return figures


def _device_sets(counts: Sequence[int], topologies: Sequence[str]) -> list[list[Any]]:
    if not topologies:
        here = jax.devices("cpu")
        missing = [count for count in counts if not 1 <= count <= len(here)]
        if missing or not counts:
            raise ValueError(f"--plan_devices={list(counts)}: must lie in 1..{len(here)}, the simulated devices")
        return [here[:count] for count in counts]
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu would look for a TPU around this process
    from jax.experimental import topologies as aot

    try:
        return [list(aot.get_topology_desc(platform="tpu", topology_name=name).devices) for name in topologies]
    except Exception as error:  # of many types
        raise ValueError(
            f"--plan_topology={','.join(topologies)}: {str(error).splitlines()[0]}; needs libtpu "
            "(pip install 'soda-jax[tpu]') and names such as v5e:4x8, v5p:2x2x2 or v6e:8x8"
        ) from error


def probe_labels(config: ConfigDict) -> dict[str, Labels]:
    """The labels that the planned probe predicts."""
    kind = "label" if config.probe.kind == "auto" else config.probe.kind
    return {kind: PROBE_LABELS[kind]} if kind != "none" else {}


def abstract_batch(config: ConfigDict, mesh: Mesh, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and the placement of a training batch of `size` examples."""
    data, place = config.data, sharding.batch_sharding(mesh)
    views = {"source": (data.num_sources,), "target": ()}
    sides = {"source": data.source_resolution, "target": data.resolution}
    shapes = {view: ((*lead, sides[view], sides[view], 3), jnp.uint8) for view, lead in views.items()}
    shapes |= {"source_mask": ((data.num_sources,), jnp.bool_), "id": ((), jnp.int32)}
    for kind, labels in probe_labels(config).items():
        shapes[kind] = ((), jnp.int32) if kind == "label" else ((len(labels.sizes),), jnp.int32)
    fields = {"pose": (4, 4), "intrinsics": (4,), "window": (4,)}
    for key in inputs.pose_keys(build.pose_encoding(config)):
        view, _, field = key.partition("_")
        shapes[key] = ((*views[view], *fields[field]), jnp.float32)
    return {key: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=place) for key, (shape, dtype) in shapes.items()}


def measure(config: ConfigDict, mesh: Mesh) -> Footprint:
    """Compiles the training step of `config` for `mesh` and reads off what a device needs."""
    train_step = build.train_step(config, probe_labels(config), mesh)
    batch = abstract_batch(config, mesh, config.train.batch_size)
    example = {key: jax.ShapeDtypeStruct((1, *value.shape[1:]), value.dtype) for key, value in batch.items()}
    state = sharding.abstract_state(jax.eval_shape(train_step.init, example), mesh)
    begin = time.perf_counter()
    # As `train_step.jit_step`, without the options that suit the devices of this machine.
    placement = jax.tree.map(lambda leaf: leaf.sharding, state), sharding.replicated(mesh)
    lowered = jax.jit(train_step.step, donate_argnums=0, out_shardings=placement).lower(state, batch)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    held = sum(_bytes_on_a_device(leaf) for leaf in jax.tree.leaves(state))
    # As training's `evaluate` gathers it.
    gathered = (
        jax.tree.leaves((state.ema_params, state.ema_batch_stats, state.probe)) if train_step.mesh is not None else []
    )
    compiled, exchanged = None, ()
    try:
        compiled = lowered.compile(compiler_options=_QUICK_CODE if on_cpu else None)
    except jax.errors.JaxRuntimeError as error:
        total = _used_in(str(error))
        if total is None:
            raise
    else:
        memory = compiled.memory_analysis()
        total = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        total += memory.temp_size_in_bytes
        exchanged = tuple(hlo.collectives(compiled.as_text(), mesh.size))
    return Footprint(
        devices=mesh.size,
        microbatch=config.train.batch_size // (mesh.size * config.train.grad_accum_steps),
        state=held,
        total=total,
        evaluation=held + sum(_bytes_of(leaf.shape, leaf.dtype) for leaf in gathered) if gathered else 0,
        sent=sum(collective.sent for collective in exchanged) if compiled is not None else None,
        collectives=exchanged,
        seconds=time.perf_counter() - begin,
    )


def _bytes_on_a_device(leaf: jax.ShapeDtypeStruct) -> int:
    return _bytes_of(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)


def _bytes_of(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * dtype.itemsize


def _used_in(message: str) -> int | None:
    """The bytes that a compiler says it would need when a step exceeds its chip's memory."""
    match = re.search(r"[Uu]sed (\d+(?:\.\d+)?)([KMG]) of", message)
    return None if match is None else int(float(match[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[match[2]])


def _figures(config: ConfigDict, footprints: list[Footprint], samples: list[Footprint]) -> dict[str, Any]:
    fixed, slope, is_bound = _line(samples)
    model, variables = counted_model(config)
    return {
        "steps": [dataclasses.asdict(footprint) for footprint in footprints],
        "fixed_bytes": fixed,
        "bytes_per_example": slope,
        "is_bound": is_bound,
        "fits": {
            str(footprint.devices): {
                str(chip): _fitting(config, footprint.devices, _room(footprint, USABLE * chip * GIB, fixed, slope))
                for chip in CHIPS_GIB
            }
            for footprint in footprints
        },
        "flops_per_example": train_flops(model, variables, config.data),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
    }


def _line(samples: list[Footprint]) -> tuple[float, float, bool]:
    """(bytes of a step without examples, bytes of an example, whether the latter is only an upper bound).

    Of a small model an example takes so little that the compiler's choices for one microbatch or another weigh more,
    and the line through two of them may even fall. Then all that a step takes counts as its examples': more of them
    cannot take more each.
    """
    low, high = min(samples, key=lambda s: s.microbatch), max(samples, key=lambda s: s.microbatch)
    slope = (high.total - low.total) / max(high.microbatch - low.microbatch, 1)
    fixed = low.total - slope * low.microbatch
    if high.total - low.total < NEGLIGIBLE_SHARE * high.total or fixed < 0:
        return 0.0, high.total / high.microbatch, True
    return fixed, slope, False


def _room(footprint: Footprint, memory: float, fixed: float, slope: float) -> float:
    """The microbatch at which a step fills `memory` bytes; 0 where an evaluation needs more, whatever steps need."""
    return 0.0 if footprint.evaluation > memory else (memory - fixed) / slope


def _fitting(config: ConfigDict, devices: int, microbatch: float) -> dict[str, int | None]:
    """The largest microbatch of a device, and the fewest accumulation steps that keep the config's batch within it."""
    share = config.train.batch_size // devices
    steps = [count for count in range(1, share + 1) if share % count == 0 and share // count <= microbatch]
    return {"microbatch": max(int(microbatch), 0), "grad_accum_steps": min(steps, default=None)}


def report(config: ConfigDict, figures: dict[str, Any]) -> str:
    """The figures of `plan` as tables."""
    batch, steps = config.train.batch_size, config.train.grad_accum_steps
    rows = [
        [
            step["devices"],
            step["microbatch"],
            f"{step['state'] / GIB:.2f}",
            f"{max(step['total'], step['evaluation']) / GIB:.2f}",
            f"{figures['flops_per_example'] * batch / step['devices'] / 1e12:,.1f}",
            "unknown" if step["sent"] is None else f"{step['sent'] / 1e9:.2f}",
            f"{step['seconds']:.0f}",
        ]
        for step in figures["steps"]
    ]
    headers = ["devices", "microbatch", "state GiB", "peak GiB", "TFLOPs a step", "GB sent a step", "compiled in s"]
    lines = [
        f"One device's part of a step: batch {batch} in {steps} microbatches, {config.model.dtype}, "
        f"fsdp={config.train.fsdp}, {figures['parameters'] / 1e6:.1f}M parameters",
        tabulate(rows, headers, disable_numparse=True, stralign="right"),
    ]
    evaluations = [
        f"{step['evaluation'] / GIB:.2f} GiB on {step['devices']}" for step in figures["steps"] if step["evaluation"]
    ]
    if evaluations:
        lines.append(
            "An evaluation in training holds the whole EMA and probe on every device beside its part of the state: "
            f"{', '.join(evaluations)} devices, without its activations; the peak is the step's or this, if larger."
        )
    exchanged = [
        [
            step["devices"],
            collective["kind"],
            collective["group"],
            collective["count"],
            f"{collective['size'] / 1e6:,.1f}",
        ]
        for step in figures["steps"]
        for collective in step["collectives"]
    ]
    if exchanged:
        headers = ["devices", "collective", "group", "times a step", "MB a step"]
        lines += ["Collectives:", tabulate(exchanged, headers, disable_numparse=True, stralign="right")]
    bound = figures["is_bound"]
    chips = [
        [devices, *(_fit_text(fits[str(chip)], bound) for chip in CHIPS_GIB)]
        for devices, fits in figures["fits"].items()
    ]
    per_example = figures["bytes_per_example"] / 2**20
    peak = f"A step's peak = {figures['fixed_bytes'] / GIB:.2f} GiB + {per_example:.1f} MiB an example."
    if bound:
        peak = (
            f"A step's peak is at most {per_example:.1f} MiB an example: a microbatch of another size takes nearly the "
            "same, so that what an example takes cannot be told, and more may fit than is said here."
        )
    lines += [
        f"{peak} In {USABLE:.0%} of a chip's memory fit, as a device's microbatch, and as the fewest microbatches of "
        f"{batch}:",
        tabulate(chips, ["devices", *(f"{chip} GiB" for chip in CHIPS_GIB)], disable_numparse=True, stralign="right"),
    ]
    return "\n".join(lines)


def _fit_text(fit: dict[str, int | None], is_bound: bool) -> str:
    if fit["grad_accum_steps"] is None:
        return "may not fit" if is_bound else "does not fit"
    return f"{'at least ' * is_bound}{fit['microbatch']}, {fit['grad_accum_steps']} steps"
