"""Random streams: keyed by name, step and example, and by nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from soda_jax import rngs

ROOT = jax.random.key(3)


def test_streams_differ_by_name_step_and_root():
    keys = [rngs.stream(ROOT, "noise", 0), rngs.stream(ROOT, "noise", 1), rngs.stream(ROOT, "mask", 0)]
    keys.append(rngs.stream(jax.random.key(4), "noise", 0))
    draws = [float(jax.random.normal(key)) for key in keys]
    assert len(set(draws)) == len(draws)
    assert draws[0] == float(jax.random.normal(rngs.stream(ROOT, "noise", jnp.int32(0))))


def test_names_hash_the_same_in_every_process():
    """Python's own hash() of a string changes from run to run; this value must never change, or a resume would."""
    expected = jax.random.fold_in(jax.random.fold_in(ROOT, 4255749673), 7)
    np.testing.assert_array_equal(jax.random.key_data(rngs.stream(ROOT, "noise", 7)), jax.random.key_data(expected))


def test_an_example_keeps_its_draw_in_any_batch():
    key = rngs.stream(ROOT, "noise", 0)

    def draw(ids):
        return np.asarray(rngs.per_example(key, jnp.asarray(ids), lambda k: jax.random.normal(k, (3,))))

    whole = draw([0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(draw([4, 1]), whole[[4, 1]])
    assert len(np.unique(whole[:, 0])) == 6
