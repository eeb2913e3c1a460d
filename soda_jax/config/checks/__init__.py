"""Checks of a config's values and of how they fit together, by the part of the program that reads them."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from soda_jax.config.checks import evaluation, kinds, model, training


def problems(config: ConfigDict, num_devices: int) -> Iterator[str]:
    """A line for every impossible value of `config` on `num_devices` devices: field, value, remedy."""
    wrong = list(kinds.problems(config))
    yield from wrong
    if wrong:  # the other checks calculate with them
        return
    found = [*training.check(config, num_devices), *model.check(config), *evaluation.check(config)]
    yield from found
    for field, line in kinds.negatives(config):
        if not any(other.startswith(f"config.{field}=") for other in found):
            yield line
