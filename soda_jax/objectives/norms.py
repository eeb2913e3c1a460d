"""Norms of gradients, by few kernels, and the layout in which optimisers meet them.

A model has hundreds of arrays, most of them a bias or a scale of some hundred numbers. On an accelerator a kernel for
each of them takes the time of its launch, whatever it does: what can be done to many at once is done so here.
"""

import collections
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from soda_jax.parallel.sharding import MIN_SPLIT_SIZE


def in_rows(grads: Any) -> Any:
    """Gradients of convolutions, whole arrays, laid out as their parameters are: the last axis runs fastest.

    XLA for NVIDIA's chips leaves them as their convolution makes them, and then reads parameters, moments and averages
    in that order and puts the new ones back: seven copies of each array in place of this one.
    """

    def placed(leaf: jax.Array) -> jax.Array:
        # What is one row cannot lie otherwise, and the barrier keeps it one.
        return jax.lax.optimization_barrier(leaf.reshape(-1)).reshape(leaf.shape)

    def chosen(leaf: jax.Array) -> jax.Array:
        return jax.lax.platform_dependent(leaf, cuda=placed, default=lambda leaf: leaf) if leaf.ndim > 2 else leaf

    return jax.tree.map(chosen, grads)


def square_sums(tree: Any) -> jax.Array:
    """The sum of squares of each array of `tree`, float32 [arrays], in the order of its leaves.

    Small arrays of one size are summed together, and so are the sums of the rows of large ones, of which XLA for GPUs
    makes two kernels each by itself.
    """
    vectors = [_squares(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(tree)]
    by_size: dict[int, list[int]] = collections.defaultdict(list)
    for place, vector in enumerate(vectors):
        by_size[vector.size].append(place)
    sums = [jnp.sum(jnp.stack([vectors[place] for place in places]), axis=1) for places in by_size.values()]
    return jnp.concatenate(sums)[np.argsort(list(itertools.chain.from_iterable(by_size.values())))]


def _squares(leaf: jax.Array) -> jax.Array:
    """A vector of the squares of an array, or, of one that devices may split between them, of their sums over rows."""
    squares = jnp.square(leaf)
    return (squares if leaf.size < MIN_SPLIT_SIZE else jnp.sum(squares, axis=-1)).reshape(-1)


def gradient_norms(grads: Any) -> dict[str, jax.Array]:
    """Norms for the log: `grad_norm` of all, `grad_norm/PART` of each of the model's parts, and `grad_norms`, a vector,
    of the modules of `module_names`."""
    paths = [[entry.key for entry in path] for path, _ in jax.tree_util.tree_leaves_with_path(grads)]
    modules = module_names(grads)
    within = [lambda path: True]
    within += [lambda path, part=part: path[0] == part for part in grads]
    within += [lambda path, module=module: "/".join(path[:2]) == module for module in modules]
    members = np.array([[holds(path) for path in paths] for holds in within])
    # Chosen, not multiplied by 0: an infinite gradient in one module says nothing of the others.
    norms = jnp.sqrt(jnp.sum(jnp.where(members, square_sums(grads), 0.0), axis=1))
    found = {"grad_norm": norms[0], "grad_norms": norms[1 + len(grads) :]}
    return found | {f"grad_norm/{part}": norms[1 + place] for place, part in enumerate(grads)}


def module_names(params: Any) -> list[str]:
    """The modules whose norms are logged: the model's parts and their direct children, e.g. `encoder/stem`."""
    return [f"{part}/{child}" for part, children in params.items() for child in children]


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, whose state it has, by `square_sums`."""

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        del params
        norm = jnp.sqrt(jnp.sum(square_sums(updates)))
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
