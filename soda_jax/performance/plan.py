"""`--mode=plan`: what a config needs on N devices, by compiling its training step for them without data or weights.

The devices are simulated CPUs, or GPUs or TPUs that need not be here (`topologies.py`): their own compilers then say
what those chips would hold, run and move. Where the state is split (`config.train.fsdp`), an evaluation in training
holds the EMA and the probe whole on every device beside it. That counts as well, though not the activations of the
evaluation itself. Where steps show different numbers of sources, what is compiled is the largest, that of all sources.
"""

import dataclasses
import json
import math
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax import build, inputs
from soda_jax import config as config_lib
from soda_jax.data.datasets import Labels
from soda_jax.parallel import sharding
from soda_jax.performance import chips, hlo, quiet, topologies, traffic
from soda_jax.performance.describe import counted_model, mean_train_flops, train_flops
from soda_jax.performance.plan_report import CHIPS_GIB, GIB, USABLE, report
from soda_jax.performance.traffic import Share

# Machine code for a CPU would take longer to optimise than all else, and says nothing about memory.
_QUICK_CODE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# What a TPU's compiler spends most of its time on: orders and layouts that save some time and memory of a step.
_LITTLE_EFFORT = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
NEGLIGIBLE_SHARE = 0.02  # of a step's memory: a smaller difference between two microbatches says nothing
CPU = "cpu"
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
      place: the topology's name; that of simulated devices is their number.
      chip: `jax.Device.device_kind`; "cpu" where they are simulated.
      temporaries: bytes of a step beside its arguments and results; None where the compiler refused it.
      traffic: kernels and bytes of a step by source; nothing of a simulated device or a refused step.
    """

    devices: int
    microbatch: int
    state: int
    total: int
    evaluation: int
    sent: float | None
    collectives: tuple[hlo.Collective, ...]
    seconds: float
    place: str = ""
    chip: str = CPU
    temporaries: int | None = None
    traffic: tuple[Share, ...] = ()

    @property
    def peak(self) -> int:
        """Bytes that the device must hold at once."""
        return max(self.total, self.evaluation)


def plan(
    config: ConfigDict,
    device_counts: Sequence[int],
    names: Sequence[str] = (),
    path: str | None = None,
    *,
    quickly: bool = False,
) -> dict[str, Any]:
    """Prints what a step of `config` takes on so many devices, and the batch that fits.

    Args:
      config: the run's; its dataset is not opened.
      device_counts: simulated CPU devices; as many as the largest must be there (`--plan_devices` sees to it).
      names: topologies of real chips instead, as "h100:8" or "v5e:8x8" (`topologies.devices`).
      path: of a JSON file with the same figures; None writes none.
      quickly: has TPUs' programs compiled with little effort, which takes a small part of the time and says a little
        too much of memory, kernels and traffic. Other compilers know no such thing.

    Returns:
      The figures: `steps` (a `Footprint` for each number of devices or topology), `lines` ({chip: {`fixed_bytes`,
      `bytes_per_example`, `is_bound`}}, the line through the memory of steps; where `is_bound`, 0 and an upper bound),
      `fits` ({number of devices or topology: {GiB: {`microbatch`, `grad_accum_steps`}}}, with the chip's own memory, or
      `CHIPS_GIB` where devices are simulated; a microbatch is at most a device's part of the batch), `rooflines`
      ({topology: `roofline`}), `flops_per_example` (of a step with all sources), `mean_flops_per_example` (over all
      steps), `parameters`.

    Raises:
      ConfigError: a config that cannot run on some of the devices.
      ValueError: devices, a topology or a compiler that are not there.
    """
    meshes = {
        place: sharding.make_mesh(devices, config.train.fsdp)
        for place, devices in device_sets(device_counts, names).items()
    }
    for mesh in meshes.values():
        config_lib.validate(config, mesh.size, reads_data=False)
    footprints = []
    for place, mesh in meshes.items():
        print(f"compiling for {place if names else f'{mesh.size} devices'} ...", flush=True)
        found = dataclasses.replace(measure(config, mesh, quickly), place=place)
        print(
            f"  {found.seconds:.0f} s: {found.peak / GIB:.2f} GiB a device at {found.microbatch} examples", flush=True
        )
        footprints.append(found)
    figures = _figures(config, footprints, footprints + _further(config, footprints, meshes, quickly))
    print(report(config, figures))
    write(path, figures)
    return figures


def write(path: str | None, figures: Any) -> None:
    """Writes a plan's figures as JSON, and says so; None writes none."""
    if path is not None:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(json.dumps(figures, indent=1) + "\n")
        print(f"written to {path}")


def _further(
    config: ConfigDict, footprints: Sequence[Footprint], meshes: dict[str, Mesh], quickly: bool
) -> list[Footprint]:
    """One more point, at half or twice the microbatch, for each chip of which no two points tell an example's cost."""
    found = []
    for chip in dict.fromkeys(footprint.chip for footprint in footprints):
        samples = [footprint for footprint in footprints if footprint.chip == chip]
        if len({sample.microbatch for sample in samples}) > 1:
            continue
        other = config.copy_and_resolve_references()
        with other.unlocked():
            factor = (1, 2) if samples[0].microbatch % 2 == 0 else (2, 1)
            other.train.batch_size = config.train.batch_size * factor[0] // factor[1]
        found.append(measure(other, meshes[samples[0].place], quickly))
    return found


def device_sets(counts: Sequence[int], names: Sequence[str]) -> dict[str, list[Any]]:
    """The devices of each topology, or of each number of simulated ones, by its name; errors as of `plan`."""
    found = {name: topologies.devices(name) for name in names}
    with quiet.loading():  # finds the plugins that are installed, whether they are asked for or not
        here = jax.devices("cpu")
    if found:
        return found
    missing = [count for count in counts if not 1 <= count <= len(here)]
    if missing or not counts:
        raise ValueError(f"--plan_devices={list(counts)}: must lie in 1..{len(here)}, the simulated devices")
    return {str(count): here[:count] for count in counts}


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


def measure(config: ConfigDict, mesh: Mesh, quickly: bool = False) -> Footprint:
    """Compiles the training step of `config` for `mesh` and reads off what a device needs; `quickly` as in `plan`."""
    train_step = build.train_step(config, probe_labels(config), mesh)
    batch = abstract_batch(config, mesh, config.train.batch_size)
    example = {key: jax.ShapeDtypeStruct((1, *value.shape[1:]), value.dtype) for key, value in batch.items()}
    state = sharding.abstract_state(jax.eval_shape(train_step.init, example), mesh)
    begin = time.perf_counter()
    # As `train_step.jit_step`, without the options that suit the devices of this machine.
    placement = jax.tree.map(lambda leaf: leaf.sharding, state), sharding.replicated(mesh)
    lowered = jax.jit(train_step.step, donate_argnums=0, out_shardings=placement).lower(state, batch)
    device = mesh.devices.flat[0]
    held = sum(_bytes_on_a_device(leaf) for leaf in jax.tree.leaves(state))
    # As training's `evaluate` gathers it.
    gathered = (
        jax.tree.leaves((state.ema_params, state.ema_batch_stats, state.probe))
        if train_step.state_mesh is not None
        else []
    )
    temporaries, exchanged, moved = None, (), ()
    try:
        compiled = lowered.compile(compiler_options=compiler_options(device.platform, quickly))
    except jax.errors.JaxRuntimeError as error:
        total = _used_in(str(error))
        if total is None:
            raise
        sent = None
    else:
        memory, text = compiled.memory_analysis(), compiled.as_text()
        temporaries = memory.temp_size_in_bytes
        total = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        total += temporaries
        exchanged = tuple(hlo.collectives(text, mesh.size))
        sent = sum(collective.sent for collective in exchanged)
        moved = traffic.shares(traffic.kernels(text)) if device.platform != CPU else ()
    return Footprint(
        devices=mesh.size,
        microbatch=config.train.batch_size // (mesh.size * config.train.grad_accum_steps),
        state=held,
        total=total,
        evaluation=held + sum(_bytes_of(leaf.shape, leaf.dtype) for leaf in gathered) if gathered else 0,
        sent=sent,
        collectives=exchanged,
        seconds=time.perf_counter() - begin,
        chip=CPU if device.platform == CPU else device.device_kind,
        temporaries=temporaries,
        traffic=moved,
    )


def compiler_options(platform: str, quickly: bool) -> dict[str, Any] | None:
    """What a compiler is told when only its program is wanted; `quickly` as in `plan`."""
    if platform == CPU:
        return _QUICK_CODE
    return _LITTLE_EFFORT if quickly and platform == "tpu" else None


def _bytes_on_a_device(leaf: jax.ShapeDtypeStruct) -> int:
    return _bytes_of(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)


def _bytes_of(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * dtype.itemsize


def _used_in(message: str) -> int | None:
    """The bytes that a compiler says it would need when a step exceeds its chip's memory."""
    match = re.search(r"[Uu]sed (\d+(?:\.\d+)?)([KMG]) of", message)
    return None if match is None else int(float(match[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[match[2]])


def _figures(config: ConfigDict, footprints: list[Footprint], samples: list[Footprint]) -> dict[str, Any]:
    lines = {
        chip: dict(zip(("fixed_bytes", "bytes_per_example", "is_bound"), _line(of_chip), strict=True))
        for chip in dict.fromkeys(footprint.chip for footprint in footprints)
        if (of_chip := [sample for sample in samples if sample.chip == chip])
    }
    model, variables = counted_model(config)
    flops = train_flops(model, variables, config.data)
    return {
        "steps": [dataclasses.asdict(footprint) for footprint in footprints],
        "lines": lines,
        "fits": {
            footprint.place or str(footprint.devices): {
                str(memory): _fitting(config, footprint.devices, _room(footprint, USABLE * memory * GIB, line))
                for memory in memories
            }
            for footprint in footprints
            for line, memories in [(lines[footprint.chip], _memories(footprint.chip))]
        },
        "rooflines": {
            footprint.place: found
            for footprint in footprints
            if (
                found := roofline(
                    footprint.chip, footprint.traffic, flops * config.train.batch_size / footprint.devices
                )
            )
        },
        "flops_per_example": flops,
        "mean_flops_per_example": mean_train_flops(model, variables, config.data, flops),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
    }


def _memories(chip: str) -> tuple[int, ...]:
    """The sizes of memory, in GiB, to say what fits for: the chip's own where it is known."""
    known = chips.find(chip)
    return CHIPS_GIB if known is None else (known.memory_gib,)


def roofline(device_kind: str, moved: Sequence[Share], flops: float) -> dict[str, float] | None:
    """What a step takes at a chip's peaks, in seconds: of `traffic`, of `arithmetic`, `at_least` and `in_turn`.

    At least the longer of the two passes, were all of one hidden behind the other; in turn, their sum. Neither knows
    of kernels' launches, of what cuDNN's choice of algorithms costs, of exchanges between chips, or of the host.

    Args:
      device_kind: the chip.
      moved: one chip's traffic in the step.
      flops: one chip's arithmetic in it.

    Returns:
      None where the chip's figures are not known, or the step was refused.
    """
    chip = chips.find(device_kind)
    if chip is None or not moved:
        return None
    moving = sum(share.moved for share in moved) / chip.bandwidth
    computing = flops / chip.flops
    parts = {"traffic": moving, "arithmetic": computing}
    return parts | {"at_least": max(moving, computing), "in_turn": moving + computing}


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


def _room(footprint: Footprint, memory: float, line: dict[str, Any]) -> float:
    """The microbatch at which a step fills `memory` bytes; 0 where an evaluation needs more, whatever steps need."""
    return 0.0 if footprint.evaluation > memory else (memory - line["fixed_bytes"]) / line["bytes_per_example"]


def _fitting(config: ConfigDict, devices: int, room: float) -> dict[str, int | None]:
    """The largest microbatch of a device, and the fewest accumulation steps that keep the config's batch within it.

    It is at most the device's part of the batch: far beyond what was compiled, the line through two points says little.
    """
    share = config.train.batch_size // devices
    steps = [count for count in range(1, share + 1) if share % count == 0 and share // count <= room]
    return {"microbatch": min(max(int(room), 0), share), "grad_accum_steps": min(steps, default=None)}
