"""The loss by latent: what each of the three is, against the equation written out, and whose latent is another's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax import inputs, rngs
from soda_jax.metrics.latent_use import level_edges
from soda_jax.models.families import FAMILIES
from soda_jax.objectives.latent_use import has_latent_use, losses_by_latent, partners
from tests import tiny

COUNT = 6
PLAIN = {"probe__kind": "none", "model__encoder__norm": "group"}


def measured(config, batch, change=lambda params: params):
    """(losses [4, 3, B], which count, the objective, the variables, the draws)."""
    train_step = tiny.train_step(config)
    variables = tiny.initial(train_step).ema_variables
    variables = variables | {"params": change(variables["params"])}
    draw = rngs.Draws(train_step.root, 0, batch["index"], prefix="eval_")
    found = jax.jit(lambda variables: losses_by_latent(train_step.objective, variables, batch, draw))(variables)
    return *jax.device_get(found), train_step.objective, variables, draw


def evaluated(batch, real=COUNT):
    return batch | {"index": 10 + batch["id"], "mask": np.arange(COUNT) < real}


@pytest.mark.parametrize("posed", [False, True])
def test_each_loss_is_the_equation_with_its_latent(posed):
    """|| eps - D(x_t, t, z) ||^2 with z of the image, of the one three further on, and zeros; cameras stay."""
    batch = evaluated(tiny.posed_batch(COUNT) if posed else tiny.batch(COUNT))
    config = (tiny.posed_config if posed else tiny.get_config)(**PLAIN)
    found, counts, objective, variables, draw = measured(config, batch)
    assert found.shape == (4, 3, COUNT) and counts.all()
    model = objective.model
    source = inputs.normalise_source(batch["source"])
    conditions = inputs.source_conditions(batch, model.pose)
    z, _ = model.apply(variables, source, batch["source_mask"], **conditions, method="encode")
    eps = np.asarray(draw("noise", lambda key: jax.random.normal(key, (8, 8, 3))))
    place = np.asarray(draw("place_in_level", jax.random.uniform))
    edges = level_edges(100)
    for level in (0, 3):
        t = edges[level] + 1 + np.floor(25 * place).astype(np.int32)
        assert t.min() >= edges[level] + 1 and t.max() <= edges[level + 1]
        x_t = objective.diffusion.q_sample(batch["target"] / 127.5 - 1, t, eps).astype(jnp.float32)
        for number, latent in enumerate((z, np.roll(z, -COUNT // 2, axis=0), np.zeros_like(z))):
            told = inputs.target_conditions(batch, model.pose)
            whole = np.ones((COUNT, model.num_sections))
            predicted, _ = model.apply(variables, x_t, t, latent, whole, **told, method="denoise")
            expected = np.square(predicted - eps).mean((1, 2, 3))
            np.testing.assert_allclose(found[level, number], expected, rtol=1e-4, err_msg=f"{level}, {number}")


def test_a_denoiser_that_ignores_the_latent_has_one_loss():
    def without_latent(params):
        def cut(path, leaf):
            return np.zeros_like(leaf) if any(getattr(key, "key", "") == "latent" for key in path) else leaf

        return jax.tree_util.tree_map_with_path(cut, params)

    batch = evaluated(tiny.batch(COUNT))
    cut, *_ = measured(tiny.get_config(**PLAIN), batch, without_latent)
    whole, *_ = measured(tiny.get_config(**PLAIN), batch)
    np.testing.assert_array_equal(cut[:, 0], cut[:, 1])
    np.testing.assert_array_equal(cut[:, 0], cut[:, 2])
    assert np.abs(whole[:, 0] - whole[:, 1]).min() > 1e-5 and np.abs(whole[:, 0] - whole[:, 2]).min() > 1e-5


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([1, 1, 1, 1], [2, 3, 0, 1]),
        ([1, 1, 1, 0, 0], [1, 2, 0, None, None]),  # padding is nobody's partner
        ([1, 0, 1, 1], [2, None, 3, 0]),  # nor is an image that could not be read
        ([1, 0], [None, None]),
        ([0, 0], [None, None]),
    ],
)
def test_partners(mask, expected):
    found, counts = map(np.asarray, partners(jnp.array(mask, bool)))
    assert [int(i) if real else None for i, real in zip(found, counts, strict=True)] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_a_latent_guides(family):
    config = tiny.get_config(model__family=family, **({"model__frozen__path": "x"} if family == "frozen" else {}))
    assert has_latent_use(tiny.train_step(config, probe=None).objective) == (family in ("soda", "frozen"))
