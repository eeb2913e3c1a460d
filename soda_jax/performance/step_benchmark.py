"""How fast the device trains, encodes and samples, on arrays made here: no dataset is opened."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from soda_jax import build, inputs
from soda_jax.inference.engine import Inference
from soda_jax.models.capabilities import GUIDANCE, LATENT, can, require
from soda_jax.objectives.state import TrainState
from soda_jax.objectives.step import TrainStep
from soda_jax.parallel import sharding
from soda_jax.performance import chips, describe
from soda_jax.performance.plan import abstract_batch, probe_labels
from soda_jax.performance.timing import Timing, in_turn, ratio, repeated, share, warm_up


@dataclasses.dataclass(frozen=True)
class Row:
    """One program's speed.

    Attributes:
      name: what was measured.
      batch: examples, or images, of a call.
      timing: of a call.
      compile_seconds: that its programs took to compile.
      flops: of the model for one example or image, 0 where it is not counted.
      devices: that share the work.
      peak: bfloat16 FLOP/s of one of them, None where unknown.
      memory: bytes at the peak on one device, None where the platform does not tell.
    """

    name: str
    batch: int
    timing: Timing
    compile_seconds: float
    flops: float
    devices: int
    peak: float | None
    memory: int | None

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.batch / self.timing.median

    @property
    def flops_per_second(self) -> float:
        return self.flops * self.rate

    @property
    def utilisation(self) -> float | None:
        """Of the devices' bfloat16 peak, by the model's own FLOPs: what is computed again counts as no work."""
        return None if self.peak is None else self.flops_per_second / (self.peak * self.devices)

    def as_data(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        derived = {"rate": self.rate, "flops_per_second": self.flops_per_second, "utilisation": self.utilisation}
        return fields | {"timing": list(self.timing.values)} | derived


class Bench:
    """A config's model on this machine's devices, and how to measure it.

    Args:
      config: whose dataset need not be here.
      repeats: runs of each measurement.
      seconds: that each run lasts at least.
    """

    def __init__(self, config: ConfigDict, repeats: int, seconds: float):
        self.config, self.repeats, self.seconds = config, repeats, seconds
        self.mesh = sharding.make_mesh(fsdp=config.train.fsdp)
        self.inference = Inference(config, sharding.make_mesh())
        self.flops = _model_flops(config)
        self._peak = 0

    def new_peak(self) -> int | None:
        """Bytes at the peak on a device, if they rose above what was asked for before; None where it is not known.

        The platform keeps one peak for the whole process (and CPUs none), so that what needs less leaves no trace.
        """
        peak = (self.mesh.devices.flat[0].memory_stats() or {}).get("peak_bytes_in_use")
        if peak is None or peak <= self._peak:
            return None
        self._peak = peak
        return peak

    def row(
        self, name: str, batch: int, timing: Timing, compile_seconds: float, flops: float, memory: int | None
    ) -> Row:
        peak = chips.peak_flops(self.mesh.devices.flat[0].device_kind)
        return Row(name, batch, timing, compile_seconds, flops, self.mesh.size, peak, memory)

    def in_turn(self, programs: dict[str, Callable[[], Any]]) -> dict[str, Timing]:
        timed = {name: repeated(program) for name, program in programs.items()}
        return in_turn(timed, self.repeats, self.seconds)


def train(bench: Bench, batch_size: int, extras: bool = True) -> dict[str, Any]:
    """Training steps on one batch that stays on the device.

    Returns:
      `row`, and, if asked for, `extras`, the share of the step that EMA, online probe and gradient norms take.
    """
    config = bench.config.copy_and_resolve_references()
    with config.unlocked():
        config.train.batch_size = batch_size
    train_step = build.train_step(config, probe_labels(config), bench.mesh)
    batch = sharding.put_whole_batch(synthetic_batch(config, bench.mesh, batch_size), bench.mesh)
    whole = stepper(train_step, bench.mesh, batch)
    seconds, memory = warm_up(whole), bench.new_peak()
    programs = {"whole": whole}
    if extras:
        programs["bare"] = stepper(train_step, bench.mesh, batch, bare=True)
        warm_up(programs["bare"])
    timings = bench.in_turn(programs)
    row = bench.row(f"train, {config.model.dtype}", batch_size, timings["whole"], seconds, bench.flops["train"], memory)
    return {"row": row} | ({"extras": share(timings["bare"], timings["whole"])} if extras else {})


def stepper(
    train_step: TrainStep,
    mesh: Mesh,
    batch: dict[str, jax.Array],
    *,
    bare: bool = False,
) -> Callable[[], Any]:
    """A function without arguments that takes one training step on `batch` and keeps the state.

    Args:
      bare: without EMA, online probe and gradient norms.
    """

    def bare_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Any]:
        grads, batch_stats, _, metrics = train_step.gradients(state, batch)
        return train_step.apply(state, grads).replace(batch_stats=batch_stats), metrics

    if bare:
        train_step = dataclasses.replace(train_step, probe=None)
    state = initial_state(train_step, mesh, batch)
    if bare:
        state = state.replace(ema_params=train_step.frozen(state), ema_batch_stats=None)
    step = jax.jit(
        bare_step if bare else train_step.step,
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), sharding.replicated(mesh)),
    )

    def program() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"]

    return program


def initial_state(train_step: TrainStep, mesh: Mesh, batch: dict[str, Any]) -> TrainState:
    """A new training state, laid out over the mesh."""
    example = {key: np.zeros((1, *value.shape[1:]), value.dtype) for key, value in batch.items()}
    placement = sharding.state_sharding(jax.eval_shape(train_step.init, example), mesh)
    return sharding.run_once(train_step.init, placement, example)


def encode(bench: Bench) -> Row:
    """Latents of batches that come from the host, as evaluation and `soda_jax.load` make them.

    Raises:
      ValueError: the model has none.
    """
    require(bench.inference.model, LATENT, "--only=encode")
    inference, size = bench.inference, bench.inference.eval_batch_size
    variables = inference.untrained_variables()
    batch = synthetic_batch(bench.config, inference.mesh, size)

    def program() -> Any:
        return list(inference.encode_batches(variables, [batch]))

    seconds = warm_up(program)
    timing = bench.in_turn({"encode": program})["encode"]
    flops = bench.flops["encode"] * bench.config.data.num_sources
    return bench.row(f"encode, {bench.config.model.dtype}", size, timing, seconds, flops, bench.new_peak())


def sample(bench: Bench, num_steps: int) -> dict[str, Any]:
    """Whole walks of `num_steps` steps, and single calls of the denoiser on as many images as a step shows it.

    Returns:
      `row`, `denoiser` (the Row of a call of the bare denoiser) and `over_denoiser`, what a step of the walk takes
      over that call.
    """
    inference, config = bench.inference, bench.config
    size = inference.sample_batch_size
    scale = config.sampling.guidance_scale if can(inference.model, GUIDANCE) else 1.0
    variables = inference.untrained_variables()
    z = np.random.default_rng(0).standard_normal((size, *inference.guide_shape)).astype(np.float32)
    pose = inference.model.pose
    camera = None
    if pose is not None:
        camera = inputs.target_camera(synthetic_batch(config, inference.mesh, size), pose)

    def walk() -> Any:
        return inference.sample(variables, z, target_camera=camera, num_steps=num_steps)["images"]

    calls = 1 if scale == 1.0 else 2  # guided, a step shows the denoiser every image twice
    bare = _bare_denoiser(bench, variables, *(_twice(x, calls) for x in (z, camera)))
    seconds, memory = warm_up(walk), bench.new_peak()
    bare_seconds = warm_up(bare)
    timings = bench.in_turn({"walk": walk, "denoiser": bare})
    a_step = Timing(tuple(value / num_steps for value in timings["walk"].values))
    guided = "guided" if calls == 2 else "unguided"
    flops = bench.flops["generate"]
    name = f"sample, {num_steps} steps, {guided}"
    return {
        "row": bench.row(name, size, timings["walk"], seconds, flops * calls * num_steps, memory),
        "denoiser": bench.row("bare denoiser, one call", size * calls, timings["denoiser"], bare_seconds, flops, None),
        "over_denoiser": ratio(a_step, timings["denoiser"]) - 1,
    }


def _twice(tree: Any, calls: int) -> Any:
    return jax.tree.map(lambda x: np.repeat(np.asarray(x), calls, axis=0), tree)


def _bare_denoiser(bench: Bench, variables: Any, z: np.ndarray, camera: Any) -> Callable[[], Any]:
    model, side, count = bench.inference.model, bench.config.data.resolution, len(z)
    if model.keeps_sources:
        z = z[:, 0]  # a step's random source

    @jax.jit
    def denoise(variables: Any, x: jax.Array, t: jax.Array, z: jax.Array, camera: Any) -> jax.Array:
        target_conditions = {} if camera is None else {"target_camera": camera}
        sections = jnp.ones((count, model.num_sections))
        return model.apply(variables, x, t, z, sections, **target_conditions, method="denoise")[0]

    place = sharding.batch_sharding(bench.inference.mesh)
    x = np.random.default_rng(1).standard_normal((count, side, side, 3)).astype(np.float32)
    x, t, z, camera = jax.device_put((x, np.full(count, 500, np.int32), z, camera), place)

    def program() -> Any:
        nonlocal x
        x = denoise(variables, x, t, z, camera)
        return x

    return program


def synthetic_batch(config: ConfigDict, mesh: Mesh, size: int) -> dict[str, np.ndarray]:
    """A whole training batch of noise, every source present, every target 0, every camera the same."""
    rng = np.random.default_rng(0)
    batch = {}
    for key, leaf in abstract_batch(config, mesh, size).items():
        if leaf.dtype == np.uint8:
            batch[key] = rng.integers(0, 256, leaf.shape, np.uint8)
        else:
            batch[key] = np.zeros(leaf.shape, leaf.dtype)
    side = float(config.data.resolution)
    given = {"pose": np.eye(4), "intrinsics": (side, side, side / 2, side / 2), "window": (-1.0, -1.0, 1.0, 1.0)}
    given["pose"][:3, 3] = (1.0, 2.0, 3.0)
    for key in batch:
        if (field := key.partition("_")[2]) in given:
            batch[key] += np.asarray(given[field], np.float32)
    return batch | {"source_mask": np.ones_like(batch["source_mask"]), "id": np.arange(size, dtype=np.int32)}


def _model_flops(config: ConfigDict) -> dict[str, float]:
    """Of one example: what the model needs, whatever of it is computed again or by one fused program."""
    return describe.model_flops(*describe.counted_model(config), config.data)
