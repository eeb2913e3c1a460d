import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from soda_jax.models.aggregation import MeanAggregator
from soda_jax.models.resnet import ResNet
from soda_jax.models.soda import SODA
from soda_jax.models.unet import UNet
from soda_jax.models.vit import ViT

DENOISER = UNet(
    resolution=4,
    channels=8,
    multipliers=(1,),
    num_res_blocks=1,
    attention_resolutions=(4,),
    head_dim=8,
    time_dim=16,
    num_tokens=3,
    dropout=0.0,
)
WIDTH = 15
RNG = np.random.default_rng(0)
SOURCE = RNG.standard_normal((2, 1, 8, 8, 3)).astype(np.float32)
PRESENT = np.ones((2, 1), bool)
X_T = RNG.standard_normal((2, 4, 4, 3)).astype(np.float32)
EPS = RNG.standard_normal((2, 4, 4, 3)).astype(np.float32)
STEPS = np.array([40, 700])
ALL = np.ones((2, 3), np.float32)
INPUTS = (SOURCE, PRESENT, X_T)


class TinyEncoder(nn.Module):
    """Convolution, pooling and projection, or the grid's tokens, with the interface of the encoders."""

    bottleneck: bool = True

    @nn.compact
    def __call__(self, x, train_ids=None):
        grid = nn.relu(nn.Conv(6, (3, 3), strides=2, name="stem")(x))
        pooled = grid.mean(axis=(1, 2))
        z = nn.Dense(WIDTH, name="projection")(pooled) if self.bottleneck else grid.reshape(len(x), -1, 6)
        return z, {"pooled": pooled, "z": z}


def soda(encoder=None, **options):
    denoiser = options.pop("denoiser", DENOISER)
    return SODA(encoder=encoder or TinyEncoder(), denoiser=denoiser, aggregator=MeanAggregator(), **options)


VARIANTS = {
    "layer": {"modulation": "layer"},
    "full": {"modulation": "full"},
    "sum": {"modulation": "sum"},
    "sum of the whole z": {"modulation": "sum", "modulate_by_section": False},
    "concat": {"modulation": "concat"},
    "bias only": {"modulation": "layer", "use_scale": False},
    "cross_attention": {"modulation": "cross_attention"},
    "broadcast": {"modulation": "broadcast"},
    "no bottleneck": {"modulation": "cross_attention"},
    "embedded sections": {"modulation": "layer", "embed_sections": True},
    "no bottleneck, embedded": {"modulation": "cross_attention", "embed_sections": True},
}


def layer_norms(gradients):
    """Largest absolute gradient of each layer: a layer's bias may have none, as an attention key's."""
    norms = {}
    for path, leaf in traverse_util.flatten_dict(gradients, sep="/").items():
        layer = path.rpartition("/")[0]
        norms[layer] = max(norms.get(layer, 0.0), float(np.abs(leaf).max()))
    return norms


@pytest.mark.parametrize("name", VARIANTS)
def test_the_denoising_loss_of_each_variant_reaches_the_encoder(random_variables, quick_jit, name):
    encoder = TinyEncoder(bottleneck=not name.startswith("no bottleneck"))
    model = soda(encoder, denoiser=DENOISER.clone(**VARIANTS[name]), latent_dropout=0.0)
    variables = random_variables(model, *INPUTS)  # its last convolution is not zero
    ids = jnp.arange(2)

    def loss(encoder_params, denoiser_params):
        state = {"params": {"encoder": encoder_params, "denoiser": denoiser_params}}
        z, _ = model.apply(state, SOURCE, PRESENT, ids, method="encode")
        eps, _ = model.apply(state, X_T, STEPS, z, ALL, ids, method="denoise")
        return jnp.mean(jnp.square(eps - EPS))

    params = variables["params"]
    norms = layer_norms(quick_jit(jax.grad(loss))(params["encoder"], params["denoiser"]))
    assert set(norms) == ({"stem", "projection"} if encoder.bottleneck else {"stem"})
    assert min(norms.values()) > 1e-5, norms


def test_the_gradient_reaches_every_embedded_section(random_variables, quick_jit):
    denoiser = DENOISER.clone(embed_sections=True)
    z = RNG.standard_normal((2, WIDTH)).astype(np.float32)
    variables = random_variables(denoiser, X_T, STEPS, z, ALL)

    def loss(variables, z):
        return jnp.mean(jnp.square(denoiser.apply(variables, X_T, STEPS, z, ALL)[0] - EPS))

    of_weights, of_z = quick_jit(jax.grad(loss, argnums=(0, 1)))(variables, z)
    norms = layer_norms(of_weights["params"]["latent_embedding"])
    assert set(norms) == {"part_0", "part_1", "part_2"}
    assert min(norms.values()) > 1e-5, norms
    assert np.abs(of_z).min() > 1e-7


@pytest.mark.parametrize(
    ("encoder", "layers"),
    [
        (ResNet(18, WIDTH, base_features=4, small_stem=True), 1 + 8 * 4 + 3 + 1 + 1),
        (ViT("micro", 4, latent_dim=WIDTH), 1 + 2 * 8 + 1 + 1),
        (ViT("micro", 4, latent_dim=None), 1 + 2 * 8 + 1),
    ],
    ids=["resnet", "vit", "vit without bottleneck"],
)
def test_the_gradient_of_z_reaches_every_layer_of_the_encoder(random_variables, quick_jit, encoder, layers):
    model = soda(encoder.clone(drop_path=0.0), latent_dropout=0.0, encoder_lr_multiplier=2.0)
    variables = random_variables(model, SOURCE, PRESENT, method="encode")

    def loss(params):
        state, ids = {**variables, "params": params}, jnp.arange(2)
        (z, _), _ = model.apply(state, SOURCE, PRESENT, ids, method="encode", mutable=["batch_stats"])
        return jnp.sum(z * jnp.cos(jnp.arange(z.size).reshape(z.shape)))

    norms = layer_norms(quick_jit(jax.grad(loss))(variables["params"]))
    assert len(norms) == layers
    assert min(norms.values()) > 1e-6, norms


def test_equalisation_stores_halved_weights_of_the_same_function(quick_jit):
    plain, equalised = soda(), soda(encoder_lr_multiplier=2.0)

    def build(model):
        return quick_jit(lambda key: model.init(key, SOURCE, PRESENT, method="encode"))(jax.random.key(1))

    one, two = build(plain), build(equalised)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-6), one, two)
    z = plain.apply(one, SOURCE, PRESENT, method="encode")[0]
    np.testing.assert_allclose(equalised.apply(two, SOURCE, PRESENT, method="encode")[0], z, atol=1e-6)


def test_equalisation_leaves_denoiser_and_batch_statistics_alone(random_variables, quick_jit):
    encoder = ResNet(18, WIDTH, base_features=4, small_stem=True, drop_path=0.0)
    plain, equalised = soda(encoder, latent_dropout=0.0), soda(encoder, latent_dropout=0.0, encoder_lr_multiplier=2.0)
    variables = random_variables(plain, *INPUTS)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, random_variables(equalised, *INPUTS))
    halved = {**variables, "params": dict(variables["params"])}
    halved["params"]["encoder"] = jax.tree.map(lambda p: p / 2, variables["params"]["encoder"])

    def train_encode(model, variables):
        encode = quick_jit(
            lambda v: model.apply(v, SOURCE, PRESENT, jnp.arange(2), method="encode", mutable=["batch_stats"])
        )
        (z, _), updated = encode(variables)
        return z, updated

    by_plain, by_equalised = train_encode(plain, variables), train_encode(equalised, halved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), by_plain, by_equalised)


def test_equalisation_multiplies_the_sgd_step_by_its_square(random_variables):
    """w = m p gives dL/dp = m dL/dw, so one SGD step on p moves w by m^2 times the plain step."""
    multiplier, rate = 3.0, 1e-2
    plain, equalised = soda(latent_dropout=0.0), soda(latent_dropout=0.0, encoder_lr_multiplier=multiplier)
    weights = random_variables(plain, SOURCE, PRESENT, method="encode")["params"]

    def step(model, params):
        def loss(params):
            return jnp.square(model.apply({"params": params}, SOURCE, PRESENT, method="encode")[0] - 1).mean()

        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params))

    moved = step(plain, weights)
    moved_equalised = step(equalised, jax.tree.map(lambda w: w / multiplier, weights))

    def compare(start, by_plain, stored):
        np.testing.assert_allclose(multiplier * stored - start, multiplier**2 * (by_plain - start), atol=2e-6)
        assert np.abs(by_plain - start).max() > 1e-5

    jax.tree.map(compare, weights, moved, moved_equalised)


def test_several_sources_are_encoded_alike_and_averaged(random_variables):
    model = soda()
    source = RNG.standard_normal((2, 3, 8, 8, 3)).astype(np.float32)
    present = np.array([[1, 1, 1], [0, 1, 0]], bool)
    variables = random_variables(model, source, present, method="encode")
    z, out = model.apply(variables, source, present, method="encode")
    codes = np.stack([model.apply(variables, source[:, [i]], PRESENT, method="encode")[0] for i in range(3)], axis=1)
    np.testing.assert_allclose(z, [codes[0].mean(0), codes[1, 1]], atol=1e-5)
    np.testing.assert_array_equal(out["latent"], z)
    assert out["pooled"].shape == (2, 6) and out["z"].shape == (6, WIDTH)


def test_bottleneck_dropout_acts_on_z_in_training_only(random_variables):
    model = soda(latent_dropout=0.5)
    variables = random_variables(model, SOURCE, PRESENT, method="encode")
    z, out = model.apply(variables, SOURCE, PRESENT, method="encode")
    np.testing.assert_array_equal(z, out["latent"])
    dropped, out = model.apply(
        variables, SOURCE, PRESENT, jnp.arange(2), method="encode", rngs={"dropout": jax.random.key(0)}
    )
    kept = np.asarray(dropped) != 0
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(dropped[kept], 2 * out["latent"][kept], rtol=1e-6)


def test_without_bottleneck_the_grid_is_kept_for_one_source():
    model = soda(ViT("micro", 4, latent_dim=None), denoiser=DENOISER.clone(modulation="cross_attention"))

    def encode(views):
        source, present = jnp.zeros((2, views, 8, 8, 3)), jnp.ones((2, views), bool)
        return jax.eval_shape(
            lambda key: model.init_with_output(key, source, present, method="encode")[0], jax.random.key(0)
        )

    z, out = encode(1)
    assert z.shape == (2, 4, 64)
    assert out["latent"].shape == out["pooled"].shape == (2, 64)
    with pytest.raises(ValueError, match="grid of one source is kept; got 3 sources"):
        encode(3)
