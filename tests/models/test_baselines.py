"""The encoder-decoder: what drives each block, what it leaves out of the UNet, and how large the paper's is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from configs import common
from soda_jax import build
from soda_jax.models import capabilities
from soda_jax.models.baselines import Decoder
from soda_jax.models.unet import UNet

SETTINGS = {
    "resolution": 8, "channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,),
    "head_dim": 8, "dropout": 0.0, "norm_groups": 4,
}  # fmt: skip
DECODER = Decoder(**SETTINGS)
Z = np.random.default_rng(0).standard_normal((3, 14)).astype(np.float32)
ALL = np.ones((3, DECODER.num_sections), np.float32)


@pytest.fixture(scope="module")
def decode():
    return jax.jit(
        lambda variables, z, mask: DECODER.apply(variables, z, mask),
        compiler_options={"xla_backend_optimization_level": 0},
    )


def test_it_is_the_unet_without_its_way_down():
    """The same blocks, order and sections; neither skips nor a timestep, and a constant to begin with."""
    whole = UNet(**SETTINGS, time_dim=16)
    assert DECODER.layout() == [spec for spec in whole.layout() if spec.path != "down"]
    assert DECODER.num_sections == whole.num_sections
    shapes = jax.eval_shape(lambda key: DECODER.init(key, Z, ALL), jax.random.key(0))["params"]
    assert shapes["constant"].shape == (4, 4, 16)
    names = set(traverse_util.flatten_dict(shapes, sep="/"))
    assert not [name for name in names if "time" in name or name.startswith(("down", "conv_in"))]
    for spec in DECODER.layout():  # without skip connections a block reads what the block before it made
        assert f"{spec.name}/modulation/latent/kernel" in names


def test_each_section_drives_its_blocks_alone(random_variables, decode):
    """A block's output depends on the sections of the blocks up to it, and on no other."""
    variables = random_variables(DECODER, Z, ALL)
    sizes = np.full(DECODER.num_sections, Z.shape[1] // DECODER.num_sections)
    sizes[: Z.shape[1] % DECODER.num_sections] += 1
    ends = np.cumsum(sizes)
    _, before = decode(variables, Z, ALL)
    for section in range(DECODER.num_sections):
        moved = Z.copy()
        moved[:, ends[section] - sizes[section] : ends[section]] += 1.0
        _, after = decode(variables, moved, ALL)
        reached = False
        for spec in DECODER.layout():
            reached |= spec.section == section
            changed = np.abs(after[spec.name] - before[spec.name]).max() > 1e-4
            assert changed == reached, (section, spec.name)


def test_a_dropped_section_is_zeros(random_variables, decode):
    variables = random_variables(DECODER, Z, ALL)
    mask, zeroed = ALL.copy(), Z.copy()
    mask[:, 0], zeroed[:, :3] = 0, 0  # 14 dimensions in 5 sections: the first has 3
    np.testing.assert_array_equal(decode(variables, Z, mask)[0], decode(variables, zeroed, ALL)[0])


def test_parameters_of_the_papers_size():
    """116.6M in all with the ImageNet encoder, where the paper prints 118M."""
    config = common.get_config()
    config.model.family = "encdec"
    config.model.encoder.name = "resnet50x2"
    model = build.model(config)
    source, target = jnp.zeros((1, 1, 224, 224, 3)), jnp.zeros((1, 128, 128, 3))
    params = jax.eval_shape(lambda key: model.init(key, source, jnp.ones((1, 1), bool), target), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params["params"]))
    assert round(count / 1e6, 1) == 116.6


def test_a_missing_capability_is_named_with_what_there_is():
    model = build.model(_tiny_encoder_decoder())
    with pytest.raises(ValueError, match="guidance needs a model with sampling from noise.*EncDec, offers latents of"):
        capabilities.require(model, capabilities.NOISE, "guidance")
    capabilities.require(model, capabilities.DECODE, "an image")


def _tiny_encoder_decoder():
    config = common.get_config()
    config.model.family = "encdec"
    return config
