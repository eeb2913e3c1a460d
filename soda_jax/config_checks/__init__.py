"""Checks of a config's values and of how they fit together, by the part of the program that reads them."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from soda_jax.config_checks import evaluation, model, training


def problems(config: ConfigDict, num_devices: int) -> Iterator[str]:
    """A line for every impossible value of `config` on `num_devices` devices: field, value, remedy."""
    yield from training.check(config, num_devices)
    yield from model.check(config)
    yield from evaluation.check(config)
