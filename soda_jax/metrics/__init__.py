"""Metrics: pure functions on arrays, without models, data or disks.

`image`: PSNR and SSIM of image pairs. `classification`: top-k accuracy, k-NN, F1.
"""
