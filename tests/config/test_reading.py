"""Impossible configs are named with field, value and remedy; configs survive JSON."""

import json

import pytest

from soda_jax import config as config_lib
from soda_jax.config import ConfigError, parse_encoder_name, validate
from soda_jax.configs import common, quickstart
from soda_jax.inference.engine import Inference
from tests import tiny

SCENES = {"data__name": "scenes"}
POSED = {"model__pose__grid": "rays", "data__view_policy": "camera"}
IMPOSSIBLE = [
    ("model.denoiser.head_dim", 7, "must divide the channels of every attention layer"),
    ("model.denoiser.head_dim", 0, "must be at least 1"),
    ("model.denoiser.head_dim", 16, "does not divide [8]"),
    ("model.denoiser.channels", 0, "must be at least 1"),
    ("model.denoiser.norm_groups", 0, "must be at least 1"),
    ("model.denoiser.num_res_blocks", 0, "must be at least 1"),
    ("model.denoiser.multipliers", (), "needs at least one level"),
    ("model.denoiser.time_dim", 7, "must be even"),
    ("model.denoiser.dropout", 1.0, "between 0 and 0.99"),
    ("data.resolution", 0, "must be at least 1"),
    ("data.source_resolution", 4, "must be at least 8"),
    ("data.source_noise", -0.1, "must be at least 0"),
    ("data.source_noise", float("inf"), "finite"),
    ("data.source_noise", float("nan"), "finite"),
    ("data.num_sources", 0, "must be at least 1"),
    ("data.crop_rate", 1.5, "between 0 and 1"),
    ("data.crop_scale", (0.5, 0.2), "0 < low <= high <= 1"),
    ("data.crop_scale", (0.5,), "0 < low <= high <= 1"),
    ("data.view_policy", "twist", "augment, same, camera, class"),
    ("data.min_sources", 2, "between 0 and 1"),
    ("data.randaugment_rate", 1.5, "between 0 and 1"),
    ("data.randaugment_ops", 0, "at least 1"),
    ("data.randaugment_magnitude", 11.0, "between 0 and 10"),
    ("data.randaugment_std", -1.0, "at least 0"),
    ("data.max_bad_share", 2.0, "between 0 and 1"),
    ("data.name", "", "set a dataset"),
    ("data.num_workers", -1, "must be at least 0"),
    ("model.latent_dim", 2, "is smaller than the denoiser's 3 sections; use at least 3"),
    ("model.dtype", "float16", "float32, bfloat16"),
    ("model.encoder.name", "resnet49", "resnet{18,"),
    ("model.encoder.name", "vit_huge", "vit_{"),
    ("model.encoder.name", "resnet50x0", "use resnet"),
    ("model.encoder.norm", "layer", "batch, group"),
    ("model.encoder.drop_path", -0.1, "between 0 and 0.99"),
    ("model.encoder.lr_multiplier", 0.0, "at least 1e-06"),
    ("model.encoder.patch_size", 0, "must be at least 1"),
    ("model.latent_dropout", 1.0, "between 0 and 0.99"),
    ("model.modulation.kind", "film", "layer, full, sum, concat, cross_attention, broadcast"),
    ("model.modulation.num_tokens", 0, "must be at least 1"),
    ("model.modulation.resample_section", "both", "leave, enter"),
    ("model.aggregation.name", "max", "mean, transformer, stochastic"),
    ("model.aggregation.num_heads", 0, "must be at least 1"),
    ("model.bottleneck", False, "cross_attention"),
    ("model.pose.grid", "cube", "none, rays, xy"),
    ("model.pose.grid", "rays", "needs cameras: use config.data.view_policy='camera'"),
    ("model.pose.rays", "cone", "sphere, plane, normalized, concat"),
    ("model.pose.coordinates", "hyperbolic", "polar, cartesian"),
    ("model.pose.relative", True, "use config.model.pose.grid='rays', or False"),
    ("model.pose.vector", "both", "none, absolute, relative"),
    ("model.pose.vector", "relative", "needs cameras: use config.data.view_policy='camera'"),
    ("model.pose.scale", 0.0, "must be at least"),
    ("model.pose.scale_form", "s", "2pi/s, 1/(2pi s)"),
    ("model.encoder.remat", "all", "none, products, blocks"),
    ("model.denoiser.remat", "True", "none, products, blocks"),
    ("model.attention", "flash", "auto, xla, cudnn"),
    ("model.pose.sphere_radius", -1.0, "must be at least"),
    ("diffusion.pose_mask_rate", 1.5, "between 0 and 1"),
    ("sampling.turntable_views", -1, "must be at least 0"),
    ("sampling.pictures", ("grid", "film"), "names film; known are grid, turntable"),
    ("sampling.pictures", (), "name at least one of grid, turntable"),
    ("sampling.pictures", ("turntable",), "turntable needs a model that takes cameras (config.model.pose.grid='rays')"),
    ("sampling.turntable_altitude", 90.0, "between -85 and 85"),
    ("eval.evaluators", ("knn", "fvd"), "names fvd; known are knn, linear_probe, few_shot, disentanglement, "),
    ("eval.image_metrics", ("lpips",), "names lpips; known are psnr, psnr_pooled, ssim, ssim_gaussian, color"),
    ("eval.image_metrics", (), "name at least one of psnr"),
    ("eval.knn_k", (20, 0), "must be numbers of neighbours, each at least 1"),
    ("eval.probe_learning_rates", (), "must be learning rates above 0"),
    ("eval.probe_views", "all", "none, cached, epoch"),
    ("eval.probe_crop_rate", 1.5, "between 0 and 1"),
    ("eval.probe_cached_views", 0, "must be at least 1"),
    ("eval.feature_memory_gib", 0.0, "must be at least 0.001"),
    ("eval.few_shot_shares", (0.1, 1.1), "must be shares of the labels, above 0 and up to 1"),
    ("eval.few_shot_seeds", 0, "must be at least 1"),
    ("eval.diversity_seeds", 1, "must be at least 2"),
    ("eval.dci_train", 1, "must be at least 2"),
    ("eval.dci_method", "quick", "fast, exact"),
    ("eval.dci_repeats", 1, "must be 0, or at least 2"),
    ("eval.evaluators", ("novel_view",), "novel_view needs config.data.view_policy='camera'"),
    ("eval.novel_view_sources", (), "must be numbers of sources, each at least 1"),
    ("eval.novel_view_sources", (1, 0), "must be numbers of sources, each at least 1"),
    ("eval.novel_view_targets", 0, "must be at least 1"),
    ("eval.novel_view_examples", -1, "must be at least 0"),
    ("sampling.guidance_on", "image", "latent, pose, both"),
    ("sampling.guidance_on", "both", "this model has no poses to drop; use 'latent'"),
    ("diffusion.schedule", "quadratic", "inverted"),
    ("diffusion.num_timesteps", 1, "must be at least 2"),
    ("diffusion.latent_mask_rate", 1.1, "between 0 and 1"),
    ("diffusion.layer_mask_rate", -0.1, "between 0 and 1"),
    ("sampling.method", "euler", "ddpm, ddim"),
    ("sampling.num_steps", 101, "between 1 and 100"),
    ("sampling.num_steps", 0, "between 1 and 100"),
    ("train.patience", 5, "name the metric in config.train.monitor, as eval/loss; or use 0"),
    ("train.patience", -1, "must be at least 0"),
    ("train.monitor", "accuracy", "must be eval/loss, probe/mean, probe/NAME of a label, or empty"),
    ("train.monitor", "probe_pixels/mean", "config.probe.raw_pixels=False trains none on pixels; watch probe/mean"),
    ("train.batch_size", 0, "must be at least 1"),
    ("train.batch_size", 12, "must be a multiple of devices x grad_accum_steps = 8 x 1 = 8"),
    ("train.grad_accum_steps", 0, "must be at least 1"),
    ("train.grad_accum_steps", 3, ""),
    ("train.log_every", 0, "must be at least 1"),
    ("train.num_steps", -5, "must be at least 1"),
    ("train.ema_decay", 1.01, "between 0 and 1"),
    ("optim.learning_rate", -1.0, "must be at least 0"),
    ("optim.schedule", "linear", "constant, cosine"),
    ("optim.b2", 1.0, "between 0 and 1"),
    ("optim.clip_norm", 0.0, "at least 1e-12"),
    ("probe.kind", "boxes", "auto, label, attributes, factors, none"),
    ("probe.label_smoothing", 1.0, "between 0 and 0.99"),
    ("eval.batch_size", 0, "must be at least 1"),
]


@pytest.mark.parametrize(("field", "value", "remedy"), IMPOSSIBLE)
def test_impossible_value_is_named(field, value, remedy):
    config = tiny.get_config(**(SCENES | {field.replace(".", "__"): value}))
    with pytest.raises(ConfigError) as error:
        validate(config, num_devices=8)
    named = "train.batch_size" if field == "train.grad_accum_steps" and value == 3 else field
    shown = 16 if named != field else value
    line = next(line for line in str(error.value).splitlines() if line.startswith(f"  config.{named}={shown!r}: "))
    assert remedy in str(error.value)
    assert len(line) > len(f"  config.{named}={shown!r}: ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"data__resolution": 30, "model__denoiser__multipliers": (1, 1, 2)},
            "config.data.resolution=30: must be a multiple of the denoiser's down-sampling, patch_size * "
            "2^(levels - 1) = 4",
        ),
        (
            {"model__denoiser__patch_size": 3},
            "config.data.resolution=8: must be a multiple of the denoiser's down-sampling, patch_size * "
            "2^(levels - 1) = 3",
        ),
        (
            {"model__encoder__name": "vit_micro", "model__encoder__patch_size": 3},
            "config.model.encoder.patch_size=3: must divide config.data.source_resolution=8",
        ),
        (
            {"model__aggregation__name": "transformer", "model__aggregation__num_heads": 3},
            "config.model.aggregation.num_heads=3: must divide config.model.latent_dim=16",
        ),
        (
            {"model__modulation__kind": "cross_attention", "model__modulation__num_tokens": 5},
            "config.model.modulation.num_tokens=5: must divide config.model.latent_dim=16",
        ),
        (
            {"model__modulation__kind": "cross_attention", "model__bottleneck": False, "data__num_sources": 2},
            "config.data.num_sources=2: must be 1 with config.model.bottleneck=False",
        ),
        (
            POSED | {"model__pose__encoding_dim": 5},
            "config.model.pose.encoding_dim=5: is too narrow for 3 coordinates; use at least 6",
        ),
        (
            POSED | {"model__pose__encoding_dim": 13, "model__pose__vector": "absolute"},
            "config.model.pose.encoding_dim=13: is too narrow for 7 coordinates; use at least 14",
        ),
        (POSED | {"model__pose__grid": "xy"}, "config.model.pose.grid='xy': is of crops"),
        (
            POSED | {"sampling__guidance_on": "pose", "diffusion__pose_mask_rate": 0.0},
            "config.sampling.guidance_on='pose': needs training with hidden poses",
        ),
        (
            {
                "model__aggregation__name": "stochastic",
                "model__bottleneck": False,
                "model__modulation__kind": "cross_attention",
            },
            "config.model.aggregation.name='stochastic': needs latents to choose from",
        ),
        ({"data__name": "folder"}, "config.data.root='': set the folder"),
        ({"data__eval_crop": 0.0}, "config.data.eval_crop=0.0"),
        ({"data__eval_crop": 1.2}, "config.data.eval_crop=1.2"),
        ({"data__name": "multiview"}, "config.data.root='': set the folder"),
        (
            {"train__grad_accum_steps": 4},
            "config.train.batch_size=16: must be a multiple of devices x grad_accum_steps",
        ),
    ],
)
def test_values_that_do_not_fit_each_other(changes, expected):
    with pytest.raises(ConfigError) as error:
        validate(tiny.get_config(**(SCENES | changes)), num_devices=8)
    assert expected in str(error.value)


def test_where_no_data_are_read_their_place_may_be_open():
    config = tiny.get_config(**(SCENES | {"data__name": "multiview"}))
    validate(config, reads_data=False)
    with pytest.raises(ConfigError, match=r"config\.data\.root=''"):
        validate(config)


def test_several_problems_are_reported_at_once():
    config = tiny.get_config(
        **SCENES, data__source_noise=-1.0, model__denoiser__head_dim=7, model__latent_dim=2, train__batch_size=9
    )
    with pytest.raises(ConfigError) as error:
        validate(config, num_devices=8)
    assert str(error.value).count("\n  config.") == 4


def test_a_value_of_the_wrong_type_is_named():
    config = tiny.get_config(**SCENES)
    with config.unlocked(), config.ignore_type():
        config.optim.learning_rate = "1e-3"
    with pytest.raises(ConfigError, match="config.optim.learning_rate='1e-3': must be a finite number"):
        validate(config)


def test_good_configs_pass():
    validate(tiny.get_config(**SCENES), 8)
    validate(tiny.get_config(**SCENES, train__grad_accum_steps=2), 8)
    validate(tiny.posed_config(), 8)
    validate(tiny.get_config(**SCENES, model__pose__grid="xy", sampling__guidance_on="both"), 8)
    validate(tiny.posed_config(model__pose__grid="none", model__pose__vector="relative"), 8)
    validate(tiny.get_config(**SCENES, sampling__turntable_altitude=0.0, eval__few_shot_shares=(1,)), 8)
    validate(tiny.get_config(**SCENES, sampling__pictures=("grid",)), 8)
    validate(tiny.posed_config(sampling__pictures=("turntable",)), 8)
    validate(quickstart.get_config(), 2)
    validate(common.get_config(), 8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("resnet", 18, 1)),
        ("resnet50", ("resnet", 50, 1)),
        ("resnet50x2", ("resnet", 50, 2)),
        ("vit_base", ("vit", "base", 1)),
    ],
)
def test_encoder_names(name, expected):
    assert parse_encoder_name(name) == expected


@pytest.mark.parametrize("get_config", [common.get_config, quickstart.get_config, tiny.get_config])
def test_json_round_trip(get_config):
    config = get_config()
    again = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    assert again.is_locked
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.model.denoiser.multipliers, tuple)
    assert config_lib.to_json(again) == config_lib.to_json(config)
    assert config_lib.differences(again, config) == []


def test_how_a_model_is_computed_does_not_set_it_apart():
    config = tiny.get_config()
    other = tiny.get_config(
        model__attention="xla", model__encoder__remat="blocks", model__denoiser__remat="products", model__latent_dim=32
    )
    assert config_lib.differences(config, other) == ["config.model.latent_dim: 16 -> 32"]
    assert config_lib.differences(config, other, ("model.attention",)) == ["config.model.attention: 'auto' -> 'xla'"]


def test_differences_name_missing_fields():
    config = tiny.get_config()
    old = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    with old.unlocked():
        del old.model.bottleneck
    assert config_lib.differences(old, config) == ["config.model.bottleneck: None -> True"]


def test_configs_of_earlier_releases_describe_models_without_poses():
    """Their checkpoints hold no pose fields: they load, and as the model that they are."""
    config = tiny.get_config()
    tree = json.loads(config_lib.to_json(config))
    del tree["model"]["pose"], tree["diffusion"]["pose_mask_rate"], tree["sampling"]["guidance_on"]
    del tree["model"]["denoiser"]["norm_groups"]
    del (
        tree["sampling"]["pictures"],
        tree["sampling"]["turntable_altitude"],
        tree["eval"]["image_metrics"],
        tree["eval"]["dci_method"],
    )
    old = config_lib.from_dict(tree)
    assert old.model.denoiser.norm_groups == 32
    with old.unlocked():
        old.model.denoiser.norm_groups = config.model.denoiser.norm_groups
    assert old.to_dict() == config.to_dict()
    posed = tiny.posed_config()
    found = config_lib.differences(old, posed)
    assert "config.model.pose.grid: 'none' -> 'rays'" in found
    assert config_lib.from_dict(json.loads(config_lib.to_json(posed))).to_dict() == posed.to_dict()


def test_configs_of_earlier_releases_describe_models_that_embed_no_sections():
    config = tiny.get_config()
    assert config.model.modulation.embed_sections
    tree = json.loads(config_lib.to_json(config))
    del tree["model"]["modulation"]["embed_sections"]
    old = config_lib.from_dict(tree)
    assert config_lib.differences(old, config) == ["config.model.modulation.embed_sections: False -> True"]
    ours, theirs = (Inference(each).abstract_variables()["params"]["denoiser"] for each in (config, old))
    assert "latent_embedding" in ours and "latent_embedding" not in theirs
    width = config.model.latent_dim // 2  # of one of the three sections: 6, 5, 5
    assert theirs["middle_0"]["modulation"]["latent"]["kernel"].shape[0] < width
    assert ours["middle_0"]["modulation"]["latent"]["kernel"].shape[0] == config.model.denoiser.time_dim


def test_the_turntables_altitude_is_a_number_or_the_datasets():
    """Checkpoints of earlier releases hold 0.0 for the dataset's, which a number may now be too."""
    config = tiny.get_config()
    assert config.sampling.turntable_altitude is None
    tree = json.loads(config_lib.to_json(config))
    assert config_lib.from_dict(tree).sampling.turntable_altitude is None
    tree["sampling"]["turntable_altitude"] = 0.0
    assert config_lib.from_dict(tree).sampling.turntable_altitude == 0.0
    with config.unlocked():
        config.sampling.turntable_altitude = 20.0
        with pytest.raises(TypeError):
            config.sampling.turntable_altitude = "median"
