"""The linear map from z to the blocks' modulations is what the network itself computes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.models.unet import UNet

WIDTH, TIME = 10, 6
RNG = np.random.default_rng(0)


def network(kind, **changes):
    settings = {"resolution": 4, "channels": 4, "multipliers": (1, 1), "num_res_blocks": 1, "head_dim": 4}
    return UNet(**settings, attention_resolutions=(), time_dim=TIME, modulation=kind, norm_groups=1, **changes)


def arguments(unet, z):
    count = len(z)
    return jnp.zeros((count, 4, 4, 3)), jnp.ones((count,), int), z, jnp.ones((count, unet.num_sections))


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("kind", ["layer", "full", "sum", "concat"])
def test_the_map_is_the_networks(kind, embed):
    unet = network(kind, embed_sections=embed)
    z = RNG.standard_normal((3, WIDTH)).astype(np.float32)
    variables = unet.init(jax.random.key(0), *arguments(unet, z))
    named = "joint" if kind == "concat" else "latent"

    def modulations(z):
        """What the blocks' projections of z give, in the layout's order."""
        wanted = lambda module, _: isinstance(module, nn.Dense) and module.name == named  # noqa: E731
        _, seen = unet.apply(variables, *arguments(unet, z), capture_intermediates=wanted, mutable=["intermediates"])
        found = [seen["intermediates"][spec.name]["modulation"][named]["__call__"][0] for spec in unet.layout()]
        return np.concatenate(found, axis=1)

    # "concat" adds what the timestep gives, which is the same for every z.
    expected = modulations(z) - modulations(np.zeros_like(z))
    np.testing.assert_allclose(z @ unet.latent_projection(variables["params"], WIDTH), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["cross_attention", "broadcast"])
def test_there_is_none_where_z_acts_otherwise(kind):
    with pytest.raises(ValueError, match=f"modulation.kind='{kind}' has none; find directions by pca or labels"):
        network(kind).latent_projection({}, WIDTH)
