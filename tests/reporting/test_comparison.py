"""When a figure may stand beside the paper's, which one, and what is said where it may not."""

import pytest

from soda_jax.reporting import paper, recipes
from soda_jax.reporting.comparison import Comparer, millions
from soda_jax.reporting.metric_names import describe

WHOLE = {"eval.train_examples": 0, "eval.test_examples": 0, "eval.reconstruction_examples": 0}
WHOLE |= {"eval.novel_view_examples": 0, "eval.probe_views": "epoch"}


def compare(name, metric, step=None, settings=None, **changes):
    dataset = paper.DATASETS[name]
    recipe = recipes.load(*dataset.recipe)
    config = recipe | {field.replace("__", "."): value for field, value in changes.items()}
    steps = recipe["train.num_steps"] if step is None else step
    return Comparer(config, steps, dataset, WHOLE | (settings or {})).compare(describe(metric))


def shorts(comparison):
    return [reason.short for reason in comparison.reasons]


def said(comparison):
    return " ".join(reason.text for reason in comparison.reasons)


@pytest.mark.parametrize(
    ("name", "metric", "value"),
    [
        ("imagenet2012", "linear_probe/label", 72.24),
        ("imagenet2012", "linear_probe/label_top5", 90.5),
        ("celeba_hq", "linear_probe/mean_f1", 72.65),
        ("celeba_hq", "reconstruction/ssim", 0.859),
        ("shapes3d", "disentanglement/c", 84.76),
        ("mpi3d/real", "reconstruction/fid", 0.61),
        ("nmr", "novel_view1/psnr", 28.71),
    ],
)
def test_the_papers_settings_are_comparable(name, metric, value):
    comparison = compare(name, metric)
    assert comparison.figure.value == value and comparison.comparable, said(comparison)


@pytest.mark.parametrize(
    ("change", "short", "text"),
    [
        ({"data__resolution": 32, "data__source_resolution": 64}, "resolution", "resolution 32 (paper 128)"),
        ({"model__encoder__name": "resnet18"}, "encoder", "encoder.name resnet18 (paper resnet50x2)"),
        ({"model__family": "encdec"}, "model", "family encdec (paper soda)"),
        ({"model__latent_dim": 128}, "encoder", "latent dim 128 (paper 2048)"),
        ({"model__denoiser__channels": 16}, "denoiser", "denoiser.channels 16 (paper 64)"),
        ({"diffusion__schedule": "linear"}, "diffusion", "schedule linear (paper inverted)"),
        ({"data__source_noise": 0.5}, "views", "source noise 0.5 (paper 0.1)"),
        ({"train__batch_size": 64}, "training", "batch 64 (paper 4,096)"),
        ({"step": 1000}, "training", "1,000 steps x batch = 4.1 million images"),
        ({"settings": {"eval.test_examples": 500}}, "subset", "at most 500 test examples"),
        ({"settings": {"eval.feature": "pooled"}}, "feature", "'pooled'"),
        ({"settings": {"eval.probe_views": "none"}}, "probe", "crops and flips"),
    ],
)
def test_what_differs_is_named(change, short, text):
    comparison = compare("imagenet2012", "linear_probe/label", **change)
    assert comparison.figure.variant == paper.SODA
    assert shorts(comparison) == [short] and text in said(comparison)


def test_samples_settings_count_for_pictures_alone():
    settings = {"sampling.num_steps": 20, "sampling.guidance_scale": 4.0, "sampling.method": "ddim"}
    pictures = compare("celeba_hq", "reconstruction/psnr", settings=settings)
    assert shorts(pictures) == ["sampling"]
    assert "ddim" in said(pictures) and "20 steps (paper 75-250)" in said(pictures) and "guidance 4.0" in said(pictures)
    assert compare("celeba_hq", "linear_probe/mean_f1", settings=settings).comparable
    few = compare("celeba_hq", "reconstruction/psnr", settings={"eval.reconstruction_examples": 64})
    assert shorts(few) == ["subset"]


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"model__modulation__kind": "broadcast"}, 56.7),
        ({"model__modulation__kind": "full"}, 68.10),
        ({"model__bottleneck": False, "model__modulation__kind": "cross_attention"}, 34.2),
        ({"data__view_policy": "same"}, 55.1),
        ({"data__randaugment_rate": 0.0}, 69.1),
        ({"diffusion__schedule": "cosine"}, 62.0),
    ],
)
def test_an_ablation_stands_beside_the_papers_ablation(change, value):
    comparison = compare("imagenet2012", "linear_probe/label", **change)
    assert comparison.figure.value == value and comparison.comparable, said(comparison)


def test_two_ablations_at_once_are_none_of_the_papers():
    both = {"model__modulation__kind": "full", "diffusion__schedule": "cosine"}
    comparison = compare("imagenet2012", "linear_probe/label", **both)
    assert comparison.figure.variant == paper.SODA and shorts(comparison) == ["denoiser", "diffusion"]


def test_an_ablation_that_the_paper_measured_otherwise():
    comparison = compare("imagenet2012", "linear_probe/label_top5", model__modulation__kind="full")
    assert comparison.figure.variant == paper.SODA and shorts(comparison) == ["denoiser"]


def test_the_smaller_encoder_has_its_own_row():
    comparison = compare("celeba_hq", "linear_probe/mean_f1", model__encoder__name="resnet50")
    assert comparison.figure.value == 71.63 and comparison.comparable
    ablation = compare(
        "celeba_hq", "linear_probe/mean_f1", model__encoder__name="resnet50", diffusion__layer_mask_rate=0.0
    )
    assert ablation.figure.value == 70.36 and ablation.comparable
    wide = compare("celeba_hq", "linear_probe/mean_f1", diffusion__layer_mask_rate=0.0)
    assert wide.figure.value == 70.36 and shorts(wide) == ["encoder"]


def test_reconstructions_are_of_models_trained_to_reconstruct():
    assert shorts(compare("imagenet2012", "reconstruction/psnr")) == ["task"]
    trained = compare("imagenet2012", "reconstruction/psnr", data__view_policy="same")
    assert trained.figure.value == 23.63 and trained.comparable, said(trained)


def test_aggregations_of_several_sources():
    assert compare("gso", "novel_view5/fid").figure.value == 0.797
    assert compare("gso", "novel_view5/fid", model__aggregation__name="mean").figure.value == 2.060
    assert shorts(compare("gso", "novel_view5/fid")) == ["images"]  # the renderings are not the paper's


def test_lpips_of_another_network():
    assert compare("celeba_hq", "reconstruction/lpips_vgg16").comparable
    assert shorts(compare("celeba_hq", "reconstruction/lpips_alexnet")) == ["network"]


def test_what_the_paper_leaves_open():
    assert compare("nmr", "novel_view1/psnr", model__encoder__name="resnet50x2").comparable
    assert compare("shapes3d", "disentanglement/c", model__latent_dim=128).comparable
    assert not compare("shapes3d", "disentanglement/c", model__latent_dim=64).comparable


def test_fewer_codes_than_the_paper_measured():
    comparison = compare("shapes3d", "disentanglement/c", settings={"eval.dci_train": 1000})
    assert shorts(comparison) == ["codes"] and "dci_train 1,000, 10,000 in disentanglement_lib" in said(comparison)


def test_nothing_to_compare_with():
    assert compare("imagenet2012", "knn20/label") is None
    assert compare("imagenet2012", "linear_probe/mean_f1") is None
    config = recipes.load("imagenet")
    assert Comparer(config, 1, None).compare(describe("linear_probe/label")) is None


def test_without_the_configs_nothing_is_called_comparable(monkeypatch):
    monkeypatch.setattr(recipes, "load", lambda *arguments: None)
    comparison = Comparer({}, 1, paper.DATASETS["imagenet2012"]).compare(describe("linear_probe/label"))
    assert comparison.figure.value == 72.24 and shorts(comparison) == ["recipe"]


def test_numbers_of_images():
    assert [millions(n) for n in (41_234, 1.234e6, 41e6, 1.6384e9)] == [
        "41,234",
        "1.23 million",
        "41 million",
        "1,638 million",
    ]
