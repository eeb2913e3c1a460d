"""Checks of a config's values and of how they fit together, by the part of the program that reads them."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from soda_jax.config.checks import evaluation, model, training

# Overrides check the type of a tuple, not that of its items.
_NUMBERS = (
    "model.denoiser.multipliers",
    "model.denoiser.attention_resolutions",
    "data.crop_scale",
)


def problems(config: ConfigDict, num_devices: int) -> Iterator[str]:
    """A line for every impossible value of `config` on `num_devices` devices: field, value, remedy."""
    wrong = list(_not_numbers(config))
    yield from wrong
    if wrong:  # the other checks calculate with them
        return
    yield from training.check(config, num_devices)
    yield from model.check(config)
    yield from evaluation.check(config)


def _not_numbers(config: ConfigDict) -> Iterator[str]:
    for field in _NUMBERS:
        section = config
        *path, name = field.split(".")
        for part in path:
            section = section[part]
        if not all(isinstance(item, (int, float)) for item in section[name]):
            yield f"config.{field}={section[name]!r}: must hold nothing but numbers"
