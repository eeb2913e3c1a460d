"""Names of figures in words."""

import pytest

from soda_jax.reporting.metric_names import describe


@pytest.mark.parametrize(
    ("name", "group", "label", "paper"),
    [
        ("knn20/label", "k-nearest neighbours", "k = 20: accuracy", ""),
        ("knn200/label_top5", "k-nearest neighbours", "k = 200: top-5 accuracy", ""),
        ("linear_probe/label", "Linear probe", "accuracy", "probe/top1"),
        ("linear_probe/label_top5", "Linear probe", "top-5 accuracy", "probe/top5"),
        ("linear_probe/mean_f1", "Linear probe", "F1, mean of the labels", "probe/f1"),
        ("linear_probe/mean_ap", "Linear probe", "average precision, mean of the labels", ""),
        ("linear_probe/Wavy_Hair_f1", "Linear probe", "F1, Wavy Hair", ""),
        ("linear_probe/mean", "Linear probe", "accuracy, mean of the labels", ""),
        ("linear_probe/learning_rate", "Linear probe", "learning rate chosen", ""),
        ("few_shot_1pct/label", "Few-shot probe", "1 % of the labels: accuracy", ""),
        ("few_shot_0.5pct/examples", "Few-shot probe", "0.5 % of the labels: labelled examples", ""),
        ("reconstruction/psnr", "Reconstruction", "PSNR", "reconstruction/psnr"),
        ("reconstruction/psnr_pooled", "Reconstruction", "PSNR of the pooled error", ""),
        ("reconstruction/lpips_vgg16", "Reconstruction", "LPIPS, VGG16", "reconstruction/lpips"),
        ("reconstruction/frechet_alexnet", "Reconstruction", "Frechet distance of alexnet features", ""),
        ("novel_view1/ssim", "Novel views", "1 source: SSIM, uniform 7x7 kernel", "novel_view1/ssim"),
        ("novel_view9/fid", "Novel views", "9 sources: FID", "novel_view9/fid"),
        ("disentanglement/c", "Disentanglement", "completeness (C)", "dci/c"),
        ("disentanglement/dci", "Disentanglement", "mean of D, C and I", "dci/dci"),
        ("disentanglement/i/wall_hue", "Disentanglement", "informativeness (I), wall hue", ""),
        ("disentanglement/section_3/c", "Disentanglement", "section 3: completeness (C)", ""),
        ("diversity/lpips_vgg16", "Diversity", "LPIPS, VGG16, between samples", ""),
        ("diversity/std", "Diversity", "standard deviation of pixels in [0, 1]", ""),
        ("latent_use/other_t0", "Use of the latent", "other t0", ""),
        ("something_new/some_score", "Something new", "some score", ""),
        ("bare", "Bare", "", ""),
    ],
)
def test_meaning(name, group, label, paper):
    metric = describe(name)
    assert (metric.group, metric.label, metric.paper) == (group, label, paper)


def test_numbers_in_the_metrics_unit():
    assert describe("linear_probe/label").number(0.72241) == "72.24"
    assert describe("reconstruction/psnr").number(23.6) == "23.60"
    assert describe("linear_probe/learning_rate").number(0.003000000026) == "0.003"
    assert describe("something_new/score").number(1234.5) == "1.23e+03"


def test_a_frechet_distance_of_another_network_is_not_called_fid():
    assert "FID" not in describe("reconstruction/frechet_alexnet").label
