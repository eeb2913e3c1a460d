"""Where arrays live: one mesh axis `data`, batches split over it, everything else replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over `devices` (all by default)."""
    devices = jax.devices() if devices is None else devices
    # JAX's default axis type is Explicit, under which plain indexing fails.
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


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
    sharding = replicated(mesh)

    def put(value: Any) -> jax.Array:
        # Through the host: donating an aliased copy could delete the caller's array.
        value = np.asarray(jax.device_get(value))
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(put, tree)


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that holds `batch_size`."""
    return -(-batch_size // mesh.size) * mesh.size


def run_once_options() -> dict[str, int] | None:
    """Compiler options for a program that runs once, as initialisers: on CPU, optimising takes longer than running."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
