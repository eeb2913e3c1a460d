"""Diffusion (SODA, Sections 3.1 and 3.4): noise schedules, the Gaussian chain and the sampler.

Nothing here knows of networks, configs or disks: a denoiser enters as a function.
"""

from soda_jax.diffusion.gaussian import Diffusion
from soda_jax.diffusion.inversion import invert_in_batches, make_inverter
from soda_jax.diffusion.sampler import make_sampler, sample_in_batches
from soda_jax.diffusion.schedules import SCHEDULES, alphas_cumprod

__all__ = [
    "SCHEDULES",
    "Diffusion",
    "alphas_cumprod",
    "invert_in_batches",
    "make_inverter",
    "make_sampler",
    "sample_in_batches",
]
