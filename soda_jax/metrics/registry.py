"""The image metrics that an evaluation may name: the one table that loading, config checks, reports and docs read."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from soda_jax.metrics.image import mean_color_error, mse, psnr, saturation_error, ssim, ssim_gaussian
from soda_jax.metrics.inception import load_inception
from soda_jax.metrics.lpips import load_backbone, load_lpips

# Equal images have no finite PSNR, and one of them would make the mean infinite. 8-bit rounding alone gives 59 dB.
HIGHEST_PSNR = 120.0

Pairwise = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Weights(NamedTuple):
    """Where the networks' weights are: LPIPS's folder, Inception's file; "" looks for an installed package's."""

    lpips: str = ""
    inception: str = ""


@dataclasses.dataclass(frozen=True)
class ImageMetric:
    """How an image metric is computed and what its figures mean.

    It compares either pairs of images or, by a network's features, two sets of images (a Frechet distance).

    Attributes:
      label: its wording in reports.
      unit: "dB" or "".
      digits: behind the point, in reports.
      direction: "up" or "down" is better.
      pairs: loads the function from images and references, float32 [B, H, W, 3] in [-1, 1], to a value of each pair,
        [B]; None for sets.
      pool: from the values of all pairs, [..., N], to the figure [...]; None for their mean.
      network: loads the network from images to features [B, D]; None for pairs.
    """

    label: str
    unit: str
    digits: int
    direction: str
    pairs: Callable[[Weights], Pairwise] | None = None
    pool: Callable[[np.ndarray], np.ndarray] | None = None
    network: Callable[[Weights], Callable[[jax.Array], jax.Array]] | None = None


def _psnr(images: np.ndarray, references: np.ndarray) -> np.ndarray:
    return np.minimum(psnr(images, references), HIGHEST_PSNR)


def _psnr_of_mean(errors: np.ndarray) -> np.ndarray:
    return np.minimum(-10 * np.log10(np.maximum(errors.mean(axis=-1), 1e-30)), HIGHEST_PSNR)


def _on_unit_range(metric: Callable[..., Any]) -> Callable[[Weights], Pairwise]:
    return lambda weights: lambda images, references: np.asarray(metric((images + 1) / 2, (references + 1) / 2))


def _lpips(network: str) -> Callable[[Weights], Pairwise]:
    def load(weights: Weights) -> Pairwise:
        metric = load_lpips(network, weights.lpips)
        return lambda images, references: np.asarray(metric(images, references))

    return load


IMAGE_METRICS: dict[str, ImageMetric] = {
    "psnr": ImageMetric("PSNR", "dB", 2, "up", pairs=_on_unit_range(_psnr)),
    "psnr_pooled": ImageMetric(
        "PSNR of the pooled error", "dB", 2, "up", pairs=_on_unit_range(mse), pool=_psnr_of_mean
    ),
    "ssim": ImageMetric("SSIM, uniform 7x7 kernel", "", 3, "up", pairs=_on_unit_range(ssim)),
    "ssim_gaussian": ImageMetric("SSIM, Gaussian kernel", "", 3, "up", pairs=_on_unit_range(ssim_gaussian)),
    "color": ImageMetric("Error of the mean colour", "", 3, "down", pairs=_on_unit_range(mean_color_error)),
    "saturation": ImageMetric("Error of the mean saturation", "", 3, "down", pairs=_on_unit_range(saturation_error)),
    "lpips_alexnet": ImageMetric("LPIPS, AlexNet", "", 3, "down", pairs=_lpips("alexnet")),
    "lpips_vgg16": ImageMetric("LPIPS, VGG16", "", 3, "down", pairs=_lpips("vgg16")),
    "fid": ImageMetric("FID", "", 2, "down", network=lambda weights: load_inception(weights.inception)),
    "frechet_alexnet": ImageMetric(
        "Frechet distance of alexnet features",
        "",
        3,
        "down",
        network=lambda weights: load_backbone("alexnet", weights.lpips),
    ),
}
