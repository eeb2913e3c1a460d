"""Metrics: pure functions on arrays, without models of ours, data or configs.

`registry`: the image metrics that an evaluation may name. `image`: PSNR, SSIM and colours of image pairs. `lpips`: the
perceptual distance LPIPS and its networks' features. `inception`, `frechet`: the features and the distance of FID.
`knn`, `classification`: nearest neighbours; top-k accuracy and F1. `disentanglement`: DCI, MIG, SAP and the FactorVAE
score, imported by its own name. `bootstrap`: confidence intervals.
`latent_use`: what the latent is worth to a denoiser, and whether it is used at all.
"""

from soda_jax.metrics.frechet import FeatureStatistics, frechet_distance
from soda_jax.metrics.image import mean_color_error, mse, psnr, psnr_pooled, saturation_error, ssim, ssim_gaussian
from soda_jax.metrics.inception import load_inception
from soda_jax.metrics.knn import knn_predict
from soda_jax.metrics.lpips import load_backbone, load_lpips

__all__ = [
    "FeatureStatistics",
    "frechet_distance",
    "knn_predict",
    "load_backbone",
    "load_inception",
    "load_lpips",
    "mean_color_error",
    "mse",
    "psnr",
    "psnr_pooled",
    "saturation_error",
    "ssim",
    "ssim_gaussian",
]
