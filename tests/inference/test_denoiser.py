"""Features of the denoiser's blocks: what they are, where they come from, and how a block is chosen."""

import jax
import numpy as np
import pytest

from soda_jax import inputs, rngs
from soda_jax.diffusion import schedules
from soda_jax.evaluation.denoiser_choice import Choice, choose
from soda_jax.inference.denoiser import DenoiserFeatures
from soda_jax.inference.engine import Inference
from soda_jax.objectives.probe import ProbeTask
from soda_jax.parallel import sharding
from tests import tiny, tiny_checkpoint

COUNT = 4
MESH = sharding.make_mesh(jax.devices()[:1])
QUICK = {"xla_backend_optimization_level": 0}


def setup(family, **options):
    config = tiny.get_config(model__family=family, model__encoder__norm="group")
    inference = Inference(config, MESH)
    return inference, tiny_checkpoint.random_variables(config), DenoiserFeatures(inference, **options)


def batch(count=COUNT):
    return tiny.batch(count) | {"index": np.arange(count, dtype=np.int32) + 7, "mask": np.ones(count, bool)}


@pytest.mark.parametrize("family", ["uncond", "palette", "soda"])
def test_they_are_the_blocks_means_for_the_noised_image(family):
    """By the model's own `denoise`, of an image that is noised here; SODA's latent is zeros."""
    inference, variables, features = setup(family)
    one = batch()
    found = features(variables, one, 5)
    x_0 = one["source"][:, 0] / np.float32(127.5) - 1
    key = rngs.stream(jax.random.key(inference.config.seed), "denoiser_features", 0)
    eps = rngs.per_example(key, one["index"], lambda key: jax.random.normal(key, x_0.shape[1:]))
    abar = schedules.alphas_cumprod("inverted", 100)[5]
    x_t = (np.sqrt(abar) * x_0 + np.sqrt(1 - abar) * eps).astype(np.float32)
    z = {"uncond": None, "palette": inputs.normalise_source(one["source"][:, 0]), "soda": np.zeros((COUNT, 16))}[family]
    mask = np.zeros((COUNT, inference.num_sections))

    def denoise(variables, x_t, z):
        return inference.model.apply(variables, x_t, np.full(COUNT, 5), z, mask, method="denoise")[1]

    out = jax.jit(denoise, compiler_options=QUICK)(variables, x_t, z)
    assert set(found) == set(features.names) and "up_8_0" in found
    for name, value in found.items():
        np.testing.assert_allclose(value, out[name].mean((1, 2)), atol=2e-4, err_msg=name)


def test_an_images_own_latent_changes_them_and_other_images_do_not():
    inference, variables, features = setup("soda")
    own = DenoiserFeatures(inference, own_latent=True)
    one = batch()
    plain, guided = features(variables, one, 5)["middle_0"], own(variables, one, 5)["middle_0"]
    assert np.abs(plain - guided).max() > 1e-3
    changed = one | {"source": np.concatenate([one["source"][:1], 255 - one["source"][1:]])}
    again = features(variables, changed, 5)["middle_0"]
    np.testing.assert_allclose(again[0], plain[0], atol=1e-5)
    assert np.abs(again[1:] - plain[1:]).max() > 1e-3


def test_blocks_by_name_and_by_path():
    _, _, features = setup("uncond")
    assert features.chosen(("middle",)) == ("middle_0", "middle_1")
    assert features.chosen(("up_8_1", "middle_0")) == ("middle_0", "up_8_1")
    assert features.timestep(0.03) == 3 and features.timestep(0.0) == 1 and features.timestep(1.0) == 100
    with pytest.raises(
        ValueError, match="config.eval.denoiser_blocks=.*names up_4_0; use down, middle, up, or of down_8"
    ):
        features.chosen(("up_4_0",))


def test_models_without_a_denoiser_say_what_there_is():
    with pytest.raises(
        ValueError, match="feature='denoiser' needs a model with features of the denoiser.*EncDec, offers"
    ):
        DenoiserFeatures(Inference(tiny.get_config(model__family="encdec"), MESH))
    with pytest.raises(ValueError, match="own_latent needs a model with latents of images.*Uncond, offers sampling"):
        DenoiserFeatures(Inference(tiny.get_config(model__family="uncond"), MESH), own_latent=True)


class MadeFeatures:
    """Of three blocks at every level, of which one at one level tells the labels."""

    def chosen(self, names):
        return ("middle_0", "up_8_0", "up_8_1")

    def timestep(self, level):
        return round(100 * level)

    def __call__(self, variables, batch, t):
        rng = np.random.default_rng(t)
        found = {name: rng.standard_normal((len(batch["label"]), 4)) for name in self.chosen(())}
        if t == 10:
            found["up_8_0"][:, 0] += 20 * (2 * batch["label"] - 1)
        return found


def test_the_block_and_level_that_tell_the_labels_are_chosen():
    labels = np.arange(200, dtype=np.int32) % 2
    made = [{"label": labels, "mask": np.ones(200, bool)}]
    task = ProbeTask("label", (2,), ("label",))
    found = choose(MadeFeatures(), None, lambda: iter(made), task, blocks=("up",), levels=(0.05, 0.1, 0.2))
    assert (found.block, found.level) == ("up_8_0", 0.1) and found.grid["up_8_0", 0.1] == 1.0
    assert len(found.grid) == 9 and max(v for k, v in found.grid.items() if k != ("up_8_0", 0.1)) < 0.8
    figures = found.figures()
    assert figures["denoiser/up_8_0@0.1"] == 1.0 and figures["denoiser/level"] == 0.1
    assert "1.0000 *" in found.table("Uncond") and "t = 0.05 T" in found.table("Uncond")
    with pytest.raises(ValueError, match="config.eval.denoiser_examples"):
        few = [{"label": labels[:1], "mask": np.ones(1, bool)}]
        choose(MadeFeatures(), None, lambda: iter(few), task, blocks=("up",), levels=(0.1,))


def test_a_table_of_one_cell():
    assert "0.5000 *" in Choice("middle_0", 0.1, {("middle_0", 0.1): 0.5}).table("SODA")
