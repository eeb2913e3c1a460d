import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soda_jax.config import ConfigError
from soda_jax.configs import common, quickstart
from soda_jax.inference.engine import Inference
from soda_jax.models.families import FAMILIES
from soda_jax.models.resnet import ResNet
from soda_jax.models.soda import SODA
from soda_jax.models.unet import UNet
from soda_jax.performance import describe
from soda_jax.tools import describe as describe_tool

Shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
IMAGENET_UNET = UNet(resolution=128, channels=64, multipliers=(1, 1, 2, 3, 4))


def tiny_config(kind="layer"):
    config = quickstart.get_config()
    config.model.encoder.name = "vit_micro"
    config.model.encoder.patch_size = 16
    config.model.denoiser.multipliers = (1, 2)
    config.model.denoiser.attention_resolutions = (16,)
    config.model.modulation.kind = kind
    return config


def test_convolution_flops_in_closed_form():
    conv = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    lowered = describe.lower(conv, Shape((1, 10, 7, 3)), Shape((3, 3, 3, 16)))
    # Taps on the padding are not counted: of 3 x 3 at 10 x 7 places, (3 * 10 - 2) (3 * 7 - 2) fall on the image.
    assert describe.flops_of(lowered) == 2 * 3 * 16 * (3 * 10 - 2) * (3 * 7 - 2)


def test_resnet50_flops_are_the_known_ones():
    net, image = ResNet(50, latent_dim=None), Shape((1, 224, 224, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    flops = describe.flops_of(describe.lower(lambda v, x: net.apply(v, x)[0], variables, image))
    # 4.09 G multiply-adds, as commonly given (with the stride in the 3x3 convolution and without the classifier); XLA
    # leaves out those with padding.
    np.testing.assert_allclose(flops, 2 * 4.09e9, rtol=0.04)


def random_tree(layers):
    return {name: {"kernel": Shape(shape)} for name, shape in layers.items()}


def test_parameters_fall_into_their_parts():
    params = {
        "encoder": random_tree({"stem": (2, 3), "projection": (5,)}),
        "denoiser": {
            "conv_in": {"kernel": Shape((7,))},
            "up_8_0": random_tree({"conv1": (11,)})
            | {"modulation": random_tree({"time": (13,), "latent": (17,)})}
            | {"dense": {"kernel": Shape((1,))}},
            "up_8_0_cross": {"attention": random_tree({"query": (19,)})},
            "up_4_0": {"modulation": {"joint": {"kernel": Shape((4 + 3, 10)), "bias": Shape((10,))}}},
        },
        "aggregator": random_tree({"block1": (23,)}),
    }
    assert describe.count_parameters(params, time_dim=4) == {
        "encoder trunk": 6,
        "projection": 5,
        "denoiser without modulation": 7 + 11 + 1,
        "modulation by time": 13 + (4 + 1) * 10,
        "modulation by latent": 17 + 19 + 3 * 10,
        "aggregator": 23,
    }


def test_modulation_of_the_imagenet_model_in_closed_form():
    config = common.get_config()
    model = SODA(encoder=ResNet(18, 2048), denoiser=IMAGENET_UNET, aggregator=None)
    z, mask = Shape((1, 2048)), Shape((1, 16))
    variables = jax.eval_shape(
        functools.partial(model.init, method="denoise"),
        jax.random.key(0),
        Shape((1, 128, 128, 3)),
        Shape((1,), dtype=jnp.int32),
        z,
        mask,
    )
    counts = describe.count_parameters(variables["params"], config.model.denoiser.time_dim)
    channels = sum(spec.channels for spec in IMAGENET_UNET.layout())
    assert counts["modulation by time"] == (512 + 1) * 2 * channels
    assert counts["modulation by latent"] == 128 * 2 * channels
    total = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert sum(counts.values()) == total


@pytest.mark.parametrize(
    ("options", "latent", "ours", "papers"),
    [
        ({"modulation": "layer"}, (1, 2048), 35_679_555, 36),
        ({"modulation": "broadcast"}, (1, 2048), 32_021_891, 32),
        ({"modulation": "cross_attention"}, (1, 49, 4096), 36_024_835, 35),  # w/o bottleneck
        ({"modulation": "full"}, (1, 2048), 35_679_555, None),
        ({"modulation": "sum"}, (1, 2048), 35_679_555, None),
        ({"modulation": "concat"}, (1, 2048), 35_679_555, None),
        ({"modulation": "cross_attention"}, (1, 2048), 34_976_259, None),
    ],
)
def test_the_embedding_of_the_sections_gives_the_papers_counts(options, latent, ours, papers):
    denoiser = IMAGENET_UNET.clone(embed_sections=True, **options)
    inputs = (Shape((1, 128, 128, 3)), Shape((1,), dtype=jnp.int32), Shape(latent), Shape((1, 16)))
    params = jax.eval_shape(denoiser.init, jax.random.key(0), *inputs)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == ours
    assert papers is None or abs(ours / 1e6 / papers - 1) < 0.03
    counts = describe.count_parameters({"denoiser": params}, denoiser.time_dim)
    channels = sum(spec.channels for spec in denoiser.layout())
    if options["modulation"] in ("layer", "full", "sum", "concat"):  # 16 maps of 128 x 512, or one of 2048 x 512
        assert counts["modulation by latent"] == 2048 * 512 + 512 * 2 * channels


def test_sections_of_the_imagenet_latent():
    sections = describe.latent_sections(IMAGENET_UNET, 2048)
    assert [(s.start, s.stop) for s in sections] == [(128 * k, 128 * (k + 1)) for k in range(16)]
    assert sections[0].blocks == ("middle_0", "middle_1")
    assert sections[4].blocks == ("down_16_1", "down_8_resample", "up_16_0")
    assert sections[4].resolutions == (8, 16)
    assert sections[15].blocks == ("up_128_2",)
    names = [name for section in sections for name in section.blocks]
    assert sorted(names) == sorted(spec.name for spec in IMAGENET_UNET.layout())
    table = describe.section_table(IMAGENET_UNET, 2048).splitlines()
    assert len(table) == 2 + 16
    assert table[2].split() == ["0", "0-127", "128", "8", "middle_0,", "middle_1"]


@pytest.mark.parametrize(
    ("kind", "says"), [("full", "sees all"), ("cross_attention", "tokens"), ("broadcast", "tiled")]
)
def test_variants_without_sections_say_so(kind, says):
    assert says in describe.section_table(IMAGENET_UNET.clone(modulation=kind), 2048)


def test_parameter_table_shows_the_papers_figures_for_imagenet_only():
    counts = dict.fromkeys(describe.PARTS, 1_000_000)
    table = describe.parameter_table(counts, FAMILIES["soda"].paper_millions)
    rows = {line[:30].strip(): line[30:].split() for line in table.splitlines()}
    assert rows["encoder trunk"] == ["1,000,000", "1.0M", "94M"]
    assert rows["denoiser, modulation included"] == ["3,000,000", "3.0M", "36M"]
    assert rows["total"] == ["6,000,000", "6.0M"]
    assert "paper" not in describe.parameter_table(counts, {})


def test_a_guided_step_is_two_calls():
    config = common.get_config()
    config.sampling.num_steps = 10
    flops = {"encode": 1e9, "train": 6e9, "generate": 2e9}
    guided = describe.flops_table(flops, config).splitlines()
    assert [row.split()[-1] for row in guided[2:]] == ["1.00", "6.00", "4.00", "40.00"]
    assert "two denoiser evaluations" in guided[4]
    config.sampling.guidance_scale = 1.0
    unguided = describe.flops_table(flops, config).splitlines()
    assert unguided[4].split()[-1] == "2.00"


def test_report_of_a_config(capsys):
    config = tiny_config("concat")
    config.model.aggregation.name = "transformer"
    config.data.num_sources = 2
    width = config.model.latent_dim
    # Two blocks: four projections, an MLP of four times the width, two norms; and the last norm.
    aggregator = 2 * (4 * (width + 1) * width + 8 * width * width + 5 * width + 4 * width) + 2 * width
    describe_tool.main(config)
    report = capsys.readouterr().out

    def last_number(start):
        return float(next(line for line in report.splitlines() if line.startswith(start)).split()[-1].replace(",", ""))

    assert last_number("encode one source view, 32 px") > 0
    assert "blocks it drives" in report
    assert next(line for line in report.splitlines() if line.startswith("aggregator")).split()[1] == f"{aggregator:,}"
    train = last_number("train on one example, 2 source view(s)")
    step = last_number("one sampling step")
    # Forward and backward is about three forwards; a guided step is two forwards of the denoiser.
    assert 1.4 < train / step < 2.0


def test_poses_and_random_sources_are_counted():
    """Both forms of pose: a row of its own for the vector's modulation, wider first layers for the grid."""
    config = tiny_config("full")
    plain = describe.describe(config)
    config.data.view_policy = "camera"
    config.data.num_sources = 2
    config.model.aggregation.name = "stochastic"
    config.model.pose.vector = "absolute"
    config.model.pose.encoding_dim = 32
    vector = describe.describe(config)
    config.model.pose.grid = "rays"
    grid = describe.describe(config)

    def row(report, start):
        line = next(line for line in report.splitlines() if line.startswith(start))
        return int(line[len(start) :].split()[0].replace(",", ""))

    time_dim, model = config.model.denoiser.time_dim, Inference(config).model.denoiser
    modulations = sum(2 * spec.channels for spec in model.layout())
    assert "modulation by pose" not in plain
    assert row(vector, "modulation by pose") == time_dim * (2 * 32 + time_dim + modulations)
    without = "denoiser without modulation"
    assert row(vector, without) == row(plain, without)
    # Two blocks read the first layer's output: by a 3x3 convolution of the normalised, and by a shortcut where the
    # width changes; the first block's is new.
    channels = config.model.denoiser.channels
    extra = 2 * (9 * 32 * channels + 2 * 32) + channels * (channels + 32 + 1) + 32 * channels
    assert row(grid, without) == row(plain, without) + extra
    assert row(grid, "total") > row(vector, "total") > row(plain, "total")


def test_the_average_is_over_all_numbers_of_sources():
    config = tiny_config("concat")
    config.model.aggregation.name = "transformer"
    config.data.num_sources, config.data.min_sources = 3, 1
    model, variables = describe.counted_model(config)
    found = describe.model_flops(model, variables, config.data)
    one, two = (describe.train_flops(model, variables, config.data, count) for count in (1, 2))
    assert found["train"] > 1.1 * one
    assert found["train_mean"] == pytest.approx((one + two + found["train"]) / 3, rel=1e-3)
    assert "on average over steps, 1 to 3 source views" in describe.flops_table(found, config)


@pytest.mark.slow
def test_recomputing_changes_no_flops():
    """Nor does the way that attention is computed; the model as it trains would count more."""
    config = tiny_config()
    plain = describe.describe(config)
    config.model.encoder.remat = config.model.denoiser.remat = "blocks"
    config.model.attention = "auto"
    assert describe.describe(config) == plain
    model, variables = describe.counted_model(config)
    recomputing = Inference(config).model
    trained, counted = (describe.train_flops(one, variables, config.data) for one in (recomputing, model))
    assert trained > 1.1 * counted
    assert (config.model.encoder.remat, config.model.attention) == ("blocks", "auto")


def test_an_impossible_config_ends_with_one_line():
    config = tiny_config()
    config.model.latent_dim = 2
    with pytest.raises(ConfigError, match="latent_dim"):
        describe.describe(config)
    with pytest.raises(SystemExit, match="error: this config cannot run"):
        describe_tool.main(config)
