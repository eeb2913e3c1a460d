"""SODA: diffusion models for representation learning with a bottleneck encoder, in JAX."""
