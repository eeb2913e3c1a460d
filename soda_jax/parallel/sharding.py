"""Where arrays live: the mesh of devices, and the rules that lay batches and the training state over it.

The mesh has one axis, `data`, or two, `data` and `fsdp`. A batch is split over all of its devices. What training
carries (parameters, the optimiser's moments, EMA, probes) is replicated, or split over `fsdp` by `split_axis`: each
device then holds 1/fsdp of every large array, a step gathers the parameters for its own length, and the numbers stay.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from soda_jax.parallel.processes import check_platform

DATA_AXIS = "data"
FSDP_AXIS = "fsdp"
MIN_SPLIT_SIZE = 2**14  # elements; smaller arrays would cost more messages than memory
_UNOPTIMISED = {"xla_backend_optimization_level": 0}  # for XLA's compiler for CPUs


def make_mesh(devices: list[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over `devices` (all by default); with `fsdp` > 1 each group of that many neighbours splits the state.

    Raises:
      ValueError: there are no devices, or `fsdp` does not divide the number of devices.
    """
    check_platform()
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"config.train.fsdp={fsdp}: must divide the number of devices, {len(devices)}")
    # In the order of the processes, so that a global batch is the processes' parts one after the other; JAX's own
    # order follows the wiring of a TPU. Neighbours then share a host, and its fast links.
    ordered = np.array(sorted(devices, key=lambda device: (device.process_index, device.id)))
    names = (DATA_AXIS,) if fsdp == 1 else (DATA_AXIS, FSDP_AXIS)
    shape = (len(devices),) if fsdp == 1 else (-1, fsdp)
    # JAX's default axis type is Explicit, under which plain indexing fails.
    return Mesh(ordered.reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))


def fsdp_size(mesh: Mesh) -> int:
    """How many devices share one copy of the training state."""
    return dict(mesh.shape).get(FSDP_AXIS, 1)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def split_axis(shape: tuple[int, ...], fsdp: int) -> int | None:
    """The axis along which an array of the training state is split in `fsdp` parts: the longest that divides.

    None where the array stays whole, being smaller than `MIN_SPLIT_SIZE` or indivisible.
    """
    if fsdp == 1 or int(np.prod(shape)) < MIN_SPLIT_SIZE:
        return None
    dividing = [axis for axis, length in enumerate(shape) if length % fsdp == 0]
    return max(dividing, key=lambda axis: shape[axis], default=None)


def state_sharding(tree: Any, mesh: Mesh) -> Any:
    """The placement of each array of a training state, a part of one, or gradients; `tree` may hold shapes only."""

    def place(leaf: Any) -> NamedSharding:
        axis = split_axis(leaf.shape, fsdp_size(mesh))
        return NamedSharding(mesh, PartitionSpec(*([None] * axis), FSDP_AXIS) if axis is not None else PartitionSpec())

    return jax.tree.map(place, tree)


def state_specs(tree: Any, mesh: Mesh) -> Any:
    """`state_sharding` without the mesh, as `jax.shard_map` wants it."""
    return jax.tree.map(lambda place: place.spec, state_sharding(tree, mesh))


def abstract_state(tree: Any, mesh: Mesh) -> Any:
    """The shapes of `tree` with their placement, as a restore or a compilation wants them."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        state_sharding(tree, mesh),
    )


def gather(tree: Any, mesh: Mesh) -> Any:
    """Inside jit: the arrays whole on every device. The gradient of what it returns is whole as well."""
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def scatter(tree: Any, mesh: Mesh) -> Any:
    """Inside jit: the arrays split by `state_sharding`."""
    return jax.lax.with_sharding_constraint(tree, state_sharding(tree, mesh))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of this process's part of a batch."""
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def put_whole_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of a batch that every process holds whole."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_callback(value.shape, sharding, lambda index, value=value: value[index])
        for key, value in batch.items()
    }


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Replicates host arrays over the mesh; every process passes the same values."""
    return _put(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def put_state(tree: Any, mesh: Mesh) -> Any:
    """Lays a training state of host arrays out by `state_sharding`; every process passes the same values."""
    return _put(tree, state_sharding(tree, mesh))


def _put(tree: Any, placement: Any) -> Any:
    def put(value: Any, sharding: NamedSharding) -> jax.Array:
        # Through the host: donating an aliased copy could delete the caller's array.
        value = np.asarray(jax.device_get(value))
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(put, tree, placement)


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that holds `batch_size`."""
    return -(-batch_size // mesh.size) * mesh.size


def host_device() -> jax.Device | None:
    """The first device of this host's CPU; None where JAX_PLATFORMS leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def run_once(function: Callable[..., Any], placement: Any, *arguments: Any) -> Any:
    """Runs a program that runs once, as an initialiser, and lays its result out by `placement`.

    The host runs it. On a CPU, optimising such a program takes longer than running it; for a GPU or a TPU, so does
    compiling the draws of some hundred parameters, each a kernel of its own: minutes on a machine with an H100.

    Args:
      function: of arrays, to a tree of arrays; every process gets the same.
      placement: a sharding for each leaf of the result, or one for all.
    """
    if jax.default_backend() == "cpu":
        return jax.jit(function, out_shardings=placement, compiler_options=_UNOPTIMISED)(*arguments)
    host = host_device()
    if host is None:
        return jax.jit(function, out_shardings=placement)(*arguments)
    return on_device(host, function, placement, *arguments)


def on_device(device: jax.Device, function: Callable[..., Any], placement: Any, *arguments: Any) -> Any:
    """`run_once` on `device`, which need not be one of those of `placement`."""
    with jax.default_device(device):
        found = jax.jit(function, compiler_options=_UNOPTIMISED)(*jax.device_put(arguments, device))
    if isinstance(placement, NamedSharding):
        placement = jax.tree.map(lambda _: placement, found)
    return _put(found, placement)
