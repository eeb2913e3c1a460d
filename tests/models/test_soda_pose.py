"""The model with cameras, and with a random source: what its outputs depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from soda_jax import inputs
from soda_jax.models.aggregation import MeanAggregator, StochasticAggregator, TransformerAggregator
from soda_jax.models.pose import PoseEncoding
from soda_jax.models.resnet import ResNet
from soda_jax.models.soda import SODA
from soda_jax.models.unet import UNet
from soda_jax.models.vit import ViT
from tests import tiny

BATCH = tiny.posed_batch(3, views=2)
SOURCE = inputs.normalise_source(BATCH["source"])
PRESENT = BATCH["source_mask"]
X_T = np.random.default_rng(1).standard_normal((3, 8, 8, 3)).astype(np.float32)
STEPS = np.array([40, 400, 900])
ALL = np.ones((3, 3), np.float32)
INPUTS = (SOURCE, PRESENT, X_T)
RAYS = PoseEncoding(encoding_dim=24, scale=0.5)
VECTOR = PoseEncoding(grid="none", vector="absolute", encoding_dim=24, scale=0.5)
HYBRID = PoseEncoding(vector="relative", relative=True, encoding_dim=24, scale=0.5)


def denoiser(pose=None, **options):
    settings = {"multipliers": (1,), "num_res_blocks": 1, "attention_resolutions": (), "head_dim": 8, "time_dim": 16}
    return UNet(resolution=8, channels=8, dropout=0.0, pose=pose, **(settings | options))


def resnet(pose=None):
    return ResNet(6, 12, base_features=8, small_stem=True, norm="group", drop_path=0.0, pose=pose)


def vit(pose=None):
    return ViT("micro", 4, latent_dim=12, drop_path=0.0, pose=pose)


def soda(pose, encoder=resnet, aggregator=None, **options):
    return SODA(
        encoder=encoder(pose),
        denoiser=denoiser(pose, **options),
        aggregator=aggregator or MeanAggregator(),
        latent_dropout=0.0,
    )


def encode(model, variables, source, mask, camera, shown):
    source_conditions = {"source_camera": camera, "source_pose_mask": shown}
    return model.apply(variables, source, mask, **source_conditions, method="encode")[0]


def denoise(model, variables, z, camera, shown):
    target_conditions = {"target_camera": camera, "pose_mask": shown}
    return model.apply(variables, X_T, STEPS, z, ALL, **target_conditions, method="denoise")[0]


@functools.cache
def compiled(function, model):
    """Once for all poses and masks: done eagerly, each of a hundred operations would compile by itself."""
    options = {"compiler_options": {"xla_backend_optimization_level": 0}}
    return jax.jit(functools.partial(function, model), **options)


def encoded(model, variables, batch=BATCH, shown=True, with_camera=True):
    mask, camera = batch["source_mask"], inputs.source_camera(batch, model.pose) if with_camera else None
    shown = np.broadcast_to(shown, mask.shape) if with_camera else None
    source = inputs.normalise_source(batch["source"])
    return np.asarray(compiled(encode, model)(variables, source, mask, camera, shown))


def denoised(model, variables, z, batch=BATCH, shown=True, source_shown=True, with_camera=True):
    camera, shown = inputs.target_camera(batch, model.pose), np.broadcast_to(shown, 3)
    if model.pose.needs_reference:
        camera = camera._replace(reference_mask=np.broadcast_to(source_shown, 3))
    target_conditions = (camera, shown) if with_camera else (None, None)
    return np.asarray(compiled(denoise, model)(variables, z, *target_conditions))


def flat_shapes(variables):
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items()}


@pytest.mark.parametrize("encoder", [resnet, vit])
def test_only_a_model_with_poses_has_their_parameters(random_variables, encoder):
    plain = flat_shapes(random_variables(soda(None, encoder), *INPUTS))
    assert not [path for path in plain if "pose" in path]
    vector = flat_shapes(random_variables(soda(VECTOR, encoder), *INPUTS))
    added = {path for path in vector if "pose" in path}
    assert {path: shape for path, shape in vector.items() if path not in added} == plain
    assert {path.split("/")[0] for path in added} == {"encoder", "denoiser"}
    assert not [path for path in added if path.endswith("bias")]
    # A grid widens what reads the first layer's output by the width of the encoding, and nothing else.
    rays = flat_shapes(random_variables(soda(RAYS, encoder), *INPUTS))
    widened = {path: (plain[path], rays[path]) for path in plain if plain[path] != rays[path]}
    assert {after[-2] - before[-2] for before, after in widened.values() if len(before) > 1} == {24}
    readers = ("down_8_0/", "up_8_1/") + (() if encoder is vit else ("stage1_unit1/",))
    assert all(path.partition("/")[2].startswith(readers) for path in widened)


@pytest.mark.parametrize("encoder", [resnet, vit])
@pytest.mark.parametrize("pose", [RAYS, VECTOR, HYBRID], ids=["rays", "vector", "hybrid"])
def test_a_hidden_pose_is_no_pose_and_a_shown_one_counts(random_variables, encoder, pose):
    model = soda(pose, encoder)
    variables = random_variables(model, *INPUTS)
    see = functools.partial(encoded, model, variables)
    mask = np.array([[0, 0], [1, 0], [1, 1]], bool)
    z, unknown, mixed = see(), see(with_camera=False), see(shown=mask)
    np.testing.assert_allclose(mixed[0], unknown[0], atol=1e-6)
    np.testing.assert_allclose(mixed[2], z[2], atol=1e-6)
    for known in (z, unknown):
        assert np.abs(mixed[1] - known[1]).max() > 1e-3
    show = functools.partial(denoised, model, variables, z)
    # The source's half of an absolute vector is hidden by itself.
    eps, blind = show(), show(with_camera=False)
    half = show(shown=np.array([False, True, False]), source_shown=False)
    np.testing.assert_allclose(half[[0, 2]], blind[[0, 2]], atol=1e-6)
    assert np.abs(half[1] - blind[1]).max() > 1e-3 and np.abs(eps - blind).max() > 1e-3


def test_a_hidden_vector_leaves_the_model_without_poses(random_variables, quick_jit):
    """Its modulations are the identity, with any weights."""
    model, plain = soda(VECTOR), soda(None)
    variables = random_variables(model, *INPUTS)
    kept = {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items()
        if "pose" not in path
    }
    without = {"params": traverse_util.unflatten_dict(kept, sep="/")}
    by_model, by_plain = (
        quick_jit(lambda v, m=module: m.apply(v, *INPUTS))(v) for module, v in ((model, variables), (plain, without))
    )
    np.testing.assert_allclose(by_model, by_plain, atol=1e-6)


@pytest.mark.parametrize("pose", [RAYS, VECTOR, HYBRID], ids=["rays", "vector", "hybrid"])
def test_swapping_source_and_target_cameras_changes_the_output(random_variables, pose):
    model = soda(pose)
    variables = random_variables(model, *INPUTS)
    swapped = dict(BATCH)
    for field in ("pose", "intrinsics"):
        swapped[f"target_{field}"] = BATCH[f"source_{field}"][:, 0]
        swapped[f"source_{field}"] = BATCH[f"source_{field}"].copy()
        swapped[f"source_{field}"][:, 0] = BATCH[f"target_{field}"]
    z = encoded(model, variables)
    assert np.abs(denoised(model, variables, z) - denoised(model, variables, z, swapped)).max() > 1e-3
    assert np.abs(z - encoded(model, variables, swapped)).max() > 1e-3


def test_absent_sources_do_not_count_nor_do_their_cameras(random_variables):
    """Of two sources the first is absent: the second alone is encoded, and relative poses refer to it."""
    model = soda(HYBRID)
    variables = random_variables(model, *INPUTS)
    absent = BATCH | {"source_mask": np.array([[0, 1]] * 3, bool)}
    alone = {key: value[:, 1:] if key.startswith("source") else value for key, value in BATCH.items()}
    z = encoded(model, variables, absent)
    np.testing.assert_allclose(z, encoded(model, variables, alone), atol=1e-5)
    eps = denoised(model, variables, z, absent)
    np.testing.assert_allclose(eps, denoised(model, variables, z, alone), atol=1e-6)
    assert np.abs(eps - denoised(model, variables, z)).max() > 1e-3


@pytest.mark.parametrize("encoder", [resnet, vit])
def test_the_denoising_loss_reaches_every_layer_of_encoder_and_poses(random_variables, quick_jit, encoder):
    model = soda(PoseEncoding(vector="absolute", encoding_dim=24, scale=0.5), encoder)
    variables = random_variables(model, *INPUTS)
    source_camera, target_camera = inputs.source_camera(BATCH, model.pose), inputs.target_camera(BATCH, model.pose)

    def loss(params):
        z = encode(model, {"params": params}, SOURCE, PRESENT, source_camera, None)
        return jnp.mean(jnp.square(denoise(model, {"params": params}, z, target_camera, None) - 1.0))

    gradients = quick_jit(jax.grad(loss))(variables["params"])
    norms = {}
    for path, leaf in traverse_util.flatten_dict(gradients, sep="/").items():
        layer = path.rpartition("/")[0]
        norms[layer] = max(norms.get(layer, 0.0), float(np.abs(leaf).max()))
    assert min(norms.values()) > 1e-7, norms
    pose_layers = [layer for layer in norms if "pose" in layer]
    # The encoder's modulation (and the ViT's map), the denoiser's MLP and each of its five blocks.
    assert len(pose_layers) == (1 if encoder is resnet else 2) + 2 + 5


def test_cameras_are_refused_by_a_model_without_poses(random_variables):
    model = soda(None)
    variables = random_variables(model, *INPUTS)
    camera = inputs.target_camera(BATCH, RAYS)
    with pytest.raises(ValueError, match="target_camera is given, but this model takes no poses"):
        model.apply(variables, X_T, STEPS, np.zeros((3, 12)), ALL, target_camera=camera, method="denoise")
    camera = inputs.source_camera(BATCH, RAYS)
    with pytest.raises(ValueError, match="source_camera is given, but this model takes no poses"):
        model.apply(variables, SOURCE, PRESENT, source_camera=camera, method="encode")


@pytest.mark.parametrize(
    "aggregator", [MeanAggregator(), TransformerAggregator(num_heads=2)], ids=["mean", "attention"]
)
def test_any_number_of_posed_sources_in_any_order(random_variables, aggregator):
    """With an absolute pose no source is special."""
    model = soda(RAYS, vit, aggregator)
    variables = random_variables(model, *INPUTS)
    nine = tiny.posed_batch(3, views=9) | {"source_mask": np.arange(9) < np.array([[1], [5], [9]])}
    z = np.asarray(encoded(model, variables, nine))
    order = np.random.default_rng(0).permutation(9)
    shuffled = {key: value[:, order] if key.startswith("source") else value for key, value in nine.items()}
    np.testing.assert_allclose(encoded(model, variables, shuffled), z, atol=1e-5)
    five = {key: value[:, :5] if key.startswith("source") else value for key, value in nine.items()}
    np.testing.assert_allclose(encoded(model, variables, five)[:2], z[:2], atol=1e-5)


def test_stochastic_training_sees_one_present_source_at_a_time(random_variables, quick_jit):
    """The latent is always that of one present source with its own camera, each of them in turn."""
    model = soda(RAYS, vit, StochasticAggregator())
    variables = random_variables(model, *INPUTS)
    batch = tiny.posed_batch(4, views=3) | {"source_mask": np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 1]], bool)}
    each = np.asarray(encoded(model, variables, batch))
    assert each.shape == (4, 3, 12)
    assert ((each == 0).all(-1) == ~batch["source_mask"]).all()
    source, camera = inputs.normalise_source(batch["source"]), inputs.source_camera(batch, RAYS)

    @quick_jit
    def train(key):
        ids, options = jnp.arange(4), {"source_camera": camera, "method": "encode", "rngs": {"dropout": key}}
        return model.apply(variables, source, batch["source_mask"], ids, **options)

    counts = np.zeros((4, 3), int)
    for seed in range(60):
        z, out = train(jax.random.key(seed))
        np.testing.assert_array_equal(z, out["latent"])
        distances = np.abs(np.asarray(z)[:, None] - each).max(-1)
        np.testing.assert_allclose(distances.min(1), 0, atol=1e-5)
        counts[np.arange(4), distances.argmin(1)] += 1
    expected = 60 * batch["source_mask"] / batch["source_mask"].sum(1, keepdims=True)
    assert (counts[~batch["source_mask"]] == 0).all()
    assert np.abs(counts - expected).max() < 4 * np.sqrt(60 * 0.25)
    # The features of evaluation are the mean over the present.
    options = {"source_camera": camera, "method": "encode"}
    _, out = quick_jit(lambda v: model.apply(v, source, batch["source_mask"], **options))(variables)
    np.testing.assert_allclose(out["latent"], MeanAggregator().apply({}, each, batch["source_mask"]), atol=1e-6)
