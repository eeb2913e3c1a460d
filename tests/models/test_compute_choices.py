"""What is kept for the gradient, and which program computes attention: choices that change no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax import build
from soda_jax.models import attention, layers
from tests import tiny


def program(remat):
    """(the loss's value, gradient and new batch statistics, its variables) of a tiny model with every random part."""
    choice = {"model__denoiser__remat": remat, "model__encoder__remat": remat, "model__encoder__lr_multiplier": 2.0}
    model = build.model(tiny.get_config(**choice))
    batch = {key: jnp.asarray(value) for key, value in tiny.batch(2).items()}
    source, target = batch["source"] / 255.0, batch["target"] / 255.0
    sections, t = jnp.ones((2, model.denoiser.num_sections)), jnp.array([20, 60])

    def loss(params, batch_stats):
        variables, rngs = {"params": params, "batch_stats": batch_stats}, {"dropout": jax.random.key(1)}
        (z, _), updated = model.apply(
            variables, source, batch["source_mask"], batch["id"], method="encode", mutable=["batch_stats"], rngs=rngs
        )
        eps, _ = model.apply(variables, target, t, z, sections, batch["id"], method="denoise", rngs=rngs)
        return jnp.square(eps - target).sum(), updated

    def init(key):
        return model.init(key, source[:1], batch["source_mask"][:1], target[:1])

    return loss, jax.eval_shape(init, jax.random.key(0))


def random_like(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32) + 0.1, shapes)


def run(remat):
    loss, shapes = program(remat)
    variables = random_like(shapes)
    options = {"xla_backend_optimization_level": 0}
    both = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=options)
    return jax.device_get(both(variables["params"], variables["batch_stats"]))


@pytest.fixture(scope="module")
def kept_whole():
    return run("none")


@pytest.mark.parametrize("remat", ["products", "blocks"])
def test_rematerialisation_changes_no_number(kept_whole, remat):
    tiny.assert_close(run(remat), kept_whole, atol=2e-5, rtol=2e-4)


def test_rematerialisation_keeps_less():
    kept = {}
    for remat in layers.REMAT:
        loss, shapes = program(remat)
        read = jax.eval_shape(
            lambda p, s, loss=loss: jax.vjp(loss, p, s, has_aux=True)[1], shapes["params"], shapes["batch_stats"]
        )
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(read))
    assert kept["blocks"] < kept["products"] < kept["none"]


@pytest.mark.parametrize("choice", ["xla", "cudnn"])
def test_a_chosen_attention_is_taken(choice):
    assert attention.attention_implementation(choice, jnp.float32, 7) == choice


class Chip:
    def __init__(self, capability):
        self.compute_capability = capability


@pytest.mark.parametrize(
    ("backend", "capability", "dtype", "head_dim", "works", "expected"),
    [
        ("gpu", "9.0", jnp.bfloat16, 64, True, "cudnn"),
        ("gpu", "8.0", jnp.float16, 128, True, "cudnn"),
        ("gpu", "9.0", jnp.bfloat16, 64, False, "xla"),
        ("gpu", "9.0", jnp.float32, 64, True, "xla"),
        ("gpu", "9.0", jnp.bfloat16, 60, True, "xla"),
        ("gpu", "9.0", jnp.bfloat16, 256, True, "xla"),
        ("gpu", "7.5", jnp.bfloat16, 64, True, "xla"),
        ("gpu", "gfx90a", jnp.bfloat16, 64, True, "xla"),
        ("tpu", None, jnp.bfloat16, 64, True, "xla"),
        ("cpu", None, jnp.bfloat16, 64, False, "xla"),
        ("cpu", None, jnp.bfloat16, 64, True, attention.BY_PLATFORM),
        ("cpu", None, jnp.float32, 64, True, "xla"),
    ],
)
def test_fused_attention_where_it_works(monkeypatch, backend, capability, dtype, head_dim, works, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [Chip(capability)])
    monkeypatch.setattr(attention, "_cudnn_works", lambda *_: works)
    monkeypatch.setattr(attention, "_cudnn_is_installed", lambda: works)
    assert attention.attention_implementation("auto", dtype, head_dim) == expected


def test_the_platform_that_is_compiled_for_chooses(monkeypatch):
    """Lowered for a CPU, the program has no word of cuDNN, whose attention this machine could not even trace."""
    monkeypatch.setattr(attention, "attention_implementation", lambda *_: attention.BY_PLATFORM)
    ours = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *args, implementation, **options: (
            2 * ours(*args, implementation="xla", **options)
            if implementation == "cudnn"
            else ours(*args, implementation=implementation, **options)
        ),
    )
    x = jax.random.normal(jax.random.key(0), (1, 4, 2, 3))
    found = jax.jit(lambda x: attention.attend(x, x, x, None, "auto"))(x)
    np.testing.assert_allclose(found, ours(x, x, x), rtol=1e-6)


def test_without_cudnn_its_trial_says_no():
    assert not attention._cudnn_works("bfloat16", 64)
