"""SODA: Bottleneck Diffusion Models for Representation Learning (Hudson et al. 2023) in JAX and Flax."""

from soda_jax.version import __version__

__all__ = ["Cameras", "__version__", "load", "pretrained"]


def __getattr__(name: str):
    # Loaded when asked for: data workers import this package and need neither jax nor orbax.
    if name == "load":
        from soda_jax.api import load

        return load
    if name == "pretrained":
        from soda_jax.sharing.shipped import pretrained

        return pretrained
    if name == "Cameras":
        from soda_jax.inference.cameras import Cameras

        return Cameras
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
