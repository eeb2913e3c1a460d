"""What devices exchange in a program that each runs on its own part of a batch (`jax.shard_map`).

Everything else there stays on the device: the exchanges of a step are those that stand here, its metrics' mean, and the
batch statistics of norms (`models.layers.batch_axes`).
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from soda_jax.parallel import sharding


def on_each_device(function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` as every device of `mesh` runs it, on its parts of the arguments, which the specs lay out.

    What goes in or out whole must be the same on every device. JAX does not check that here (`check_vma`): its check
    would also all-reduce the gradient of what is whole wherever it is taken, in every microbatch.
    """
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def gather(parts: Any, specs: Any) -> Any:
    """The whole arrays, on every device, of parts that `specs` (`sharding.state_specs`) lay out."""

    def whole(part: jax.Array, spec: PartitionSpec) -> jax.Array:
        axis = _split_axis(spec)
        return part if axis is None else jax.lax.all_gather(part, sharding.FSDP_AXIS, axis=axis, tiled=True)

    return jax.tree.map(whole, parts, specs)


def mean(tree: Any, specs: Any, mesh: Mesh) -> Any:
    """The mean over the devices of whole arrays, of which each device keeps the part that `specs` give it."""

    def total(value: jax.Array, spec: PartitionSpec) -> jax.Array:
        axis = _split_axis(spec)
        if axis is None:
            return jax.lax.psum(value, mesh.axis_names)
        # The part first: what is left to sum over the groups is then so much smaller.
        part = jax.lax.psum_scatter(value, sharding.FSDP_AXIS, scatter_dimension=axis, tiled=True)
        return jax.lax.psum(part, sharding.DATA_AXIS)

    return jax.tree.map(lambda value, spec: total(value, spec) / mesh.size, tree, specs)


def _split_axis(spec: PartitionSpec) -> int | None:
    """Of an array of the training state, the axis that is split over `FSDP_AXIS`; None where it is whole."""
    return next((axis for axis, name in enumerate(spec) if name == sharding.FSDP_AXIS), None)
