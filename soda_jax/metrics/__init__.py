"""Metrics: pure functions on arrays, without models of ours, data or configs.

`image`: PSNR and SSIM of image pairs. `lpips`: the perceptual distance LPIPS and its networks' features.
`classification`: top-k accuracy, k-NN, F1. `bootstrap`: confidence intervals.
"""

from soda_jax.metrics.image import mse, psnr, psnr_pooled, ssim, ssim_gaussian
from soda_jax.metrics.lpips import load_backbone, load_lpips

__all__ = ["load_backbone", "load_lpips", "mse", "psnr", "psnr_pooled", "ssim", "ssim_gaussian"]
