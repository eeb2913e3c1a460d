"""The commands that train a config again, and measure the model that came of it: our nearest config, and the fields
in which it differs."""

import shlex
from typing import Any

from soda_jax.cli import config_values
from soda_jax.data.datasets import PREPARED, entry_of
from soda_jax.reporting import recipes

# Sections that say how a model is measured, and those that say how it was trained.
_MEASURING, _TRAINING = ("eval.", "sampling."), ("train.", "optim.")
_PLACES = ("data.root", "model.frozen.path", "eval.lpips_weights", "eval.inception_weights")  # of a machine


def training(config: dict[str, Any]) -> str:
    """Trains `config`; "" where there are no configs of ours beside the package to start from."""
    return _command(config, "--workdir=RUN", _MEASURING)


def evaluation(config: dict[str, Any]) -> str:
    """Measures an export of `config`, by its own settings; "" as for `training`."""
    return _command(config, "--mode=evaluate --model=FOLDER --workdir=OUT", _TRAINING)


def _command(config: dict[str, Any], what: str, unsaid: tuple[str, ...]) -> str:
    flat = {name: value for name, value in recipes.flatten(config).items() if name not in _PLACES}
    found = _nearest(flat)
    if found is None:
        return ""
    value, differing = found
    entry = entry_of(flat["data.name"])
    root = ["--config.data.root=DIR"] if entry.needs_root or entry is PREPARED else []
    fields = [_flag(name, differing[name]) for name in differing if not name.startswith(unsaid)]
    return " ".join([f"python -m soda_jax.main --config={value} {what}", *root, *fields])


def _nearest(flat: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """(--config, the fields that `flat` has otherwise), with the fewest of these; of the same dataset if any is."""
    candidates = []
    for value in config_values():
        name, _, argument = value.partition(":")
        ours = recipes.load(name, argument or None) or {}
        differing = {field: chosen for field, chosen in flat.items() if field in ours and ours[field] != chosen}
        candidates.append((value, differing))
    if not candidates:
        return None
    return min(candidates, key=lambda found: ("data.name" in found[1], len(found[1])))


def _flag(name: str, value: Any) -> str:
    return shlex.quote(f"--config.{name}={value}")
